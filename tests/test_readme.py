"""What README and guide show: every program runs, and prints what stands beneath it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dittobus.demo.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
COMMANDS = ROOT / "docs" / "commands.md"
GUIDES = sorted((ROOT / "docs" / "guide").glob("*.md"))

RUN_S = 60
"""Each takes a second; a busy machine may need a few times as long."""

PROGRAM = re.compile(r"^```python\n(?P<program>.*?)^```\n(?:\n^```text\n(?P<output>.*?)^```$)?", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:)(?P<file>[^)#]*)(?:#(?P<heading>[^)]*))?\)")


def programs(path: Path) -> list[tuple[str, str | None]]:
    """Return the programs in a document, each with what it is said to print."""
    return [(found["program"], found["output"]) for found in PROGRAM.finditer(path.read_text())]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """A user of whom no other bus on this host has heard."""
    home = tempfile.mkdtemp(prefix="db-")  # short, as the paths of Unix sockets must be
    yield {**os.environ, "HOME": home, "XDG_RUNTIME_DIR": home, "PYTHONPATH": str(ROOT)}
    shutil.rmtree(home)


GUIDE_PROGRAMS = [
    pytest.param(program, output, id=f"{guide.stem}-{number}")
    for guide in GUIDES
    for number, (program, output) in enumerate(programs(guide), 1)
]


@pytest.mark.timeout(RUN_S + 10)
@pytest.mark.parametrize(("program", "output"), GUIDE_PROGRAMS)
def test_programs_of_the_guide(environment: dict[str, str], program: str, output: str | None) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, output), done.stderr
    warned = [line for line in done.stderr.splitlines() if not line.startswith("no secret was given")]
    assert not warned


def test_every_guide_has_programs() -> None:
    assert GUIDES
    assert all(programs(guide) for guide in GUIDES)


@pytest.mark.timeout(RUN_S + 10)
def test_the_two_nodes_of_the_readme(environment: dict[str, str]) -> None:
    """Both are pasted into an interpreter, as the reader is told to."""
    (ann, _), (ben, _) = programs(README)
    assert len((ann + ben).splitlines()) == 12
    with interpreter(environment, ann) as first, interpreter(environment, ben) as second:
        assert first.stdout is not None
        assert first.stdout.readline() == "b'hello, ann'\n"
        for each in (second, first):
            _, err = each.communicate(timeout=RUN_S)
            assert each.returncode == 0
            assert "Traceback" not in err
            assert err.count("no secret was given") == 1


def interpreter(environment: dict[str, str], pasted: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-i", "-q"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    process.stdin.write(pasted)
    process.stdin.flush()
    return process


@pytest.mark.parametrize("document", [README, COMMANDS, *GUIDES], ids=lambda path: path.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.finditer(document.read_text()):
        target = (document.parent / link["file"]).resolve() if link["file"] else document
        assert target.exists(), link[0]
        if link["heading"]:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert link["heading"] in {anchor(heading) for heading in headings}, link[0]


def anchor(heading: str) -> str:
    """Return what a heading is linked by."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_readme_shows_the_steps_of_the_demo() -> None:
    with Scenario() as scenario:
        steps = [step.name for step in scenario.steps]
    assert re.findall(r"^ok +(\w+) ", README.read_text(), re.M) == steps
