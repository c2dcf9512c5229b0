"""``dittobus demo``: every promise shown once."""

from __future__ import annotations

import sys

from dittobus.cli import exits
from dittobus.cli.options import AsJson, command_app
from dittobus.cli.output import print_json
from dittobus.cli.running import ended_like_interrupted

app = command_app()


@app.command()
def demo(as_json: AsJson = False) -> int:
    """Show what the bus promises, with two peers in two processes.

    Each step is checked and timed. The demo fails, and says why, when one does not hold. Nothing leaves this
    machine.
    """
    from dittobus.demo.scenario import Scenario
    from dittobus.demo.show import shown
    from dittobus.demo.steps import as_object, failure, run_steps

    with ended_like_interrupted(), Scenario() as scenario:
        steps = scenario.steps
        if as_json:
            run_steps(steps, lambda step: None)
        else:
            with shown(steps, sys.stdout) as on_change:
                run_steps(steps, on_change)
    if as_json:
        print_json(as_object(steps))
    failed = failure(steps)
    return exits.OK if failed is None else exits.complain(f"step {failed.name!r} failed: {failed.detail}")
