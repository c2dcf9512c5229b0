"""Run one scenario and show what happens in it: ``python -m brokerless.testing SEED``.

The run is the same each time, and on each machine with the same Python. It ends with a digest of all lines;
if a promise was broken, with what was wrong, and status 1.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import deque
from typing import TYPE_CHECKING

from brokerless.testing.scenario import Scenario, ScenarioFailed
from brokerless.testing.sim_trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenario of the seed that is named; return the status to exit with."""
    parser = argparse.ArgumentParser(prog="python -m brokerless.testing", description=__doc__)
    parser.add_argument("seed", type=int, help="as a failure names it")
    parser.add_argument("--last", type=int, metavar="LINES", help="show only so many lines, the last")
    options = parser.parse_args(arguments)
    kept: deque[str] = deque(maxlen=options.last)
    write: Callable[[str], object] = print if options.last is None else kept.append
    scenario = Scenario(options.seed)
    trace = Trace(scenario.network, write)
    failure: ScenarioFailed | None = None
    try:
        scenario.run()
    except ScenarioFailed as error:
        failure = error
    for line in kept:
        print(line)
    print(f"seed {options.seed}: {trace.lines} lines, digest {trace.digest}")
    if failure is None:
        return 0
    sys.stdout.flush()
    traceback.print_exception(failure)
    return 1


if __name__ == "__main__":
    sys.exit(main())
