"""Look for inputs that break a target: ``python -m tests.fuzz [target…] [--minutes 2] [--jobs 2]``.

What is found, and the corpus as it grows, is kept in ``.fuzz``. ``--replay target file…`` runs inputs again,
without an engine.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.mutation import INTERESTING
from tests.fuzz.targets import CORPUS, TARGETS

ROOT = Path(__file__).parents[2]
MINUTES = 2.0
INPUT_TIMEOUT_S = 25
"""No input may keep a reader busy for so long, whatever else the machine does."""

RSS_MIB_MAX = 1_024
FOUND = 77
"""What libFuzzer exits with when it has found something."""


def fuzz(name: str, directory: Path, seconds: int) -> bool:
    """Run an engine on one target; tell what came of it; return whether nothing was found."""
    grown, found = directory / "corpus" / name, directory / "found" / name
    for each in (grown, found):
        each.mkdir(parents=True, exist_ok=True)
    before = len(list(grown.iterdir()))
    options = (
        f"-max_total_time={seconds}",
        f"-max_len={TARGETS[name].input_bytes_max}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={RSS_MIB_MAX}",
        f"-artifact_prefix={found}/",
        f"-dict={directory / 'tokens.dict'}",
        "-print_final_stats=1",
    )
    command = [sys.executable, "-m", "tests.fuzz.engine", name, *options, str(grown), str(CORPUS / name)]
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT).returncode
    text = log.read_text(errors="replace")
    print(f"{name:10} {summary(text)}, {len(list(grown.iterdir())) - before} inputs kept", flush=True)
    if code == 0:
        return True
    tell(name, found, code, text)
    return False


def summary(text: str) -> str:
    """Return what libFuzzer says of its run: executions, and coverage at the beginning and at the end."""
    executed = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text)
    rate = re.findall(r"stat::average_exec_per_sec:\s*(\d+)", text)
    covered = re.findall(r"cov: (\d+) ft: (\d+)", text)
    if not (executed and rate and covered):
        return "no figures"
    (edges_first, features_first), (edges, features) = covered[0], covered[-1]
    return (
        f"{int(executed[-1]):>10,} executions ({int(rate[-1]):,}/s), edges {edges_first} to {edges}, "
        f"features {features_first} to {features}"
    )


def tell(name: str, found: Path, code: int, text: str) -> None:
    """Say what was found, and how to see it again."""
    why = "found" if code == FOUND else f"the engine ended with code {code}"
    print(f"\n{name}: {why}. The end of its words:\n")
    print("\n".join(line for line in text.splitlines()[-60:] if not line.startswith(("#", "stat::"))))
    for path in sorted(found.iterdir()):
        print(f"\nagain: {sys.executable} -m tests.fuzz --replay {name} {path}", flush=True)


def write_tokens(path: Path) -> None:
    """Write libFuzzer's dictionary: bytes at which readers have their edges."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"' for token in INTERESTING)
    path.write_text("\n".join(lines) + "\n")


def replay(name: str, paths: list[str]) -> None:
    tracemalloc.start()
    for path in paths:
        TARGETS[name].run(Path(path).read_bytes())
        print(f"{path}: nothing wrong")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    parser.add_argument("--directory", type=Path, default=ROOT / ".fuzz", help="where everything is kept")
    parser.add_argument("--replay", action="store_true", help="run files: a target and their paths")
    asked = parser.parse_args()
    if asked.replay:
        replay(asked.names[0], asked.names[1:])
        return 0
    names = asked.names or list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    directory = asked.directory.resolve()
    write_tokens(directory / "tokens.dict")
    seconds = max(1, round(60 * asked.minutes))
    with ThreadPoolExecutor(asked.jobs) as pool:
        results = list(pool.map(lambda name: fuzz(name, directory, seconds), names))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
