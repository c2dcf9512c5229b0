"""``dittobus doctor``: why peers do not see each other."""

from __future__ import annotations

from typing import Annotated

import typer

from dittobus.cli import exits
from dittobus.cli.options import AsJson, MeshOptions, command_app, with_options
from dittobus.cli.output import print_json, print_line
from dittobus.cli.running import ended_like_interrupted

app = command_app()


@app.command()
@with_options(MeshOptions)
def doctor(
    options: MeshOptions,
    peer: Annotated[str, typer.Option(metavar="TICKET", help="Go the way to this peer, step by step.")] = "",
    as_json: AsJson = False,
) -> int:
    """Say why peers do not see each other: try what a bus needs, and the way to one.

    What no option says, the environment variables DITTOBUS_... say. No application gets a message; that of
    the peer of --peer sees a peer join and leave.
    """
    from brokerless import NodeConfig
    from dittobus.cli.diagnosis import as_lines, as_object, diagnosed, failures

    config = NodeConfig(**options.arguments())
    with ended_like_interrupted():
        findings = diagnosed(config, peer or None)
    if as_json:
        print_json(as_object(findings))
    else:
        print_line("\n".join(as_lines(findings)))
    failed = failures(findings)
    return exits.complain(f"failed: {', '.join(failed)}") if failed else exits.OK
