"""Run simulated worlds for so many minutes, on all cores: ``python -m tests.simulate --minutes 20``.

Prints what was run, and each failing seed with how to see it again; ends with status 1 if there is one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count

from brokerless.model import LossReason
from brokerless.testing.scenario import Scenario, ScenarioFailed

SEEDS_PER_TASK = 25
"""A second or two of work: long beside what it takes to hand it out, short beside a minute."""


def run_some(first: int) -> tuple[Counter[str], list[str]]:
    """Run the worlds of some seeds; return what there was of everything, and what failed."""
    seen: Counter[str] = Counter()
    failures: list[str] = []
    for seed in range(first, first + SEEDS_PER_TASK):
        world = Scenario(seed)
        try:
            world.run()
        except ScenarioFailed as failed:
            failures.append(str(failed))
        seen["worlds"] += 1
        seen["nodes"] += len(world.nodes)
        seen["processes"] += len(world.applications)
        seen["streams"] += len(world.streams)
        seen["single messages"] += len(world.singles)
        losses = [reason for application in world.applications for reason in application.losses]
        seen["peers lost"] += len(losses) - losses.count(LossReason.LEFT)
        seen["virtual seconds"] += round(world.now - world.began_at)
    return seen, failures


def main() -> int:
    """Return the status to exit with."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--first", type=int, default=random.randrange(10**9), help="seed; any by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many worlds at once")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    print(f"worlds from seed {options.first} on, for {options.minutes:g} minutes", flush=True)
    seen: Counter[str] = Counter()
    failures: list[str] = []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        firsts = count(options.first, SEEDS_PER_TASK)
        pending: set[Future[tuple[Counter[str], list[str]]]] = set()
        while pending or time.monotonic() < end:
            while time.monotonic() < end and len(pending) < 2 * options.jobs:
                pending.add(pool.submit(run_some, next(firsts)))
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                more, failed = future.result()
                seen += more
                failures += failed
                for failure in failed:
                    print(f"\n{failure}", flush=True)
    print(", ".join(f"{number:,} {what}" for what, number in seen.items()))
    print(f"{len(failures)} failed")
    return 1 if failures or not seen["worlds"] else 0


if __name__ == "__main__":
    sys.exit(main())
