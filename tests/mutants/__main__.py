"""Plant the faults one at a time, and see that the tests notice each: ``make mutants``.

In copies of the tree, several at once. First all tests named in the table run without a fault, because a test
that fails anyway notices nothing. Ends with status 1 if a fault survives, or cannot be planted any more.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from tests.mutants.table import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
PARTS = ("brokerless", "dittobus", "tests", "docs", "pyproject.toml", "README.md")
"""What of the tree the tests need."""

TEST_S_MAX = 900
"""After this the tests of one fault are given up: none takes a tenth of it, but the machine may be busy."""

TESTS_FAILED = 1
"""What pytest ends with if it ran, and a test failed; anything else says that it could not run."""


class Outcome(NamedTuple):
    """What became of one fault. ``caught_by``: the test that noticed, None if none did."""

    mutant: Mutant
    caught_by: str | None
    seconds: float
    trouble: str = ""


def copy_tree(target: Path) -> Path:
    """Copy what the tests need."""
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "mutants"))
        else:
            shutil.copy(source, target / name)
    return target


def run_tests(tree: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the tests in that tree, up to the first that fails."""
    options = ["-x", "-q", "--tb=no", f"--timeout={TEST_S_MAX}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-B", "-m", "pytest", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TEST_S_MAX, check=False
    )


def try_mutant(mutant: Mutant, tree: Path) -> Outcome:
    """Plant one fault in that tree, run what should notice, and take it out again."""
    path = tree / mutant.path
    text = changed = path.read_text()
    for old, new in mutant.edits:
        if changed.count(old) != 1:
            return Outcome(mutant, None, 0.0, f"{mutant.path} has changed: write this fault anew")
        changed = changed.replace(old, new)
    started = time.monotonic()
    try:
        path.write_text(changed)
        result = run_tests(tree, mutant.tests)
    except subprocess.TimeoutExpired:
        return Outcome(mutant, None, time.monotonic() - started, f"not done in {TEST_S_MAX} s")
    finally:
        path.write_text(text)
    seconds = time.monotonic() - started
    if result.returncode == TESTS_FAILED:
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", result.stdout, re.MULTILINE)
        return Outcome(mutant, failed[1] if failed else "a test", seconds)
    trouble = "" if result.returncode == 0 else (result.stdout + result.stderr)[-2_000:]
    return Outcome(mutant, None, seconds, trouble)


def try_all(mutants: Sequence[Mutant], jobs: int, is_sound: bool) -> list[Outcome]:
    """Try every fault, telling of each as it ends; first see that the tests pass, unless that is known."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            trees.put(copy_tree(Path(folder) / str(number)))

        def work(mutant: Mutant) -> Outcome:
            tree = trees.get()
            try:
                return try_mutant(mutant, tree)
            finally:
                trees.put(tree)

        if not is_sound:
            print(f"{len(mutants)} faults; first the tests without any", flush=True)
            sound = run_tests(
                Path(folder) / "0", sorted({test for mutant in mutants for test in mutant.tests})
            )
            if sound.returncode:
                sys.exit(f"the tests fail without a fault:\n{sound.stdout[-3_000:]}{sound.stderr[-1_000:]}")
        for outcome in pool.map(work, mutants):
            outcomes.append(outcome)
            verdict = outcome.caught_by or "SURVIVES"
            print(f"{outcome.seconds:6.1f} s  {outcome.mutant.name:58}  {verdict}", flush=True)
            if outcome.trouble:
                print(outcome.trouble, flush=True)
    return outcomes


def main() -> int:
    """Return the status to exit with."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="faults with this in their name")
    parser.add_argument("--sound", action="store_true", help="take it that the tests pass without a fault")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    outcomes = try_all(chosen, options.jobs, options.sound)
    survivors = [outcome.mutant.name for outcome in outcomes if outcome.caught_by is None]
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} faults are noticed")
    for name in survivors:
        print(f"  not noticed: {name}")
    return 1 if survivors or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
