"""What the guide to testing shows: its program and tests are run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dittobus.testing import Kit

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "testing.md"
FILE = re.compile(r"^```python\n# (?P<name>\S+\.py)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
CHILD = re.compile(r'^CHILD = """$(?P<text>.*?)^"""$', re.MULTILINE | re.DOTALL)
RUN_S = 100
CHILD_S = 45.0
"""How long that process may take on a busy machine."""


@pytest.mark.timeout(RUN_S + 10)
def test_its_tests_pass(tmp_path: Path) -> None:
    files = {found["name"]: found["text"] for found in FILE.finditer(GUIDE.read_text())}
    assert files.keys() == {"team.py", "test_team.py", "test_chaos.py", "test_kit.py"}
    assert GUIDE.read_text().count("```python") == len(files)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    pytest_options = ("-p", "pytest_dittobus", "-p", "no:cacheprovider", "-W", "error", "--strict-markers")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            *pytest_options,
            "-o",
            "asyncio_default_fixture_loop_scope=function",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "5 passed" in run.stdout


def test_every_setting_and_fixture_is_named() -> None:
    import pytest_dittobus
    from dittobus.testing import Disturbance

    text = GUIDE.read_text()
    settings = [*Disturbance.__dataclass_fields__]
    fixtures = [name for name in vars(pytest_dittobus) if name.startswith("dittobus_")]
    assert len(fixtures) == 5
    assert [name for name in settings + fixtures if f"`{name}`" not in text] == []


def test_the_child_of_the_guide_can_be_put_into_the_mesh_of_a_test(tmp_path: Path) -> None:
    found = CHILD.search((ROOT / "docs" / "guide" / "blocking.md").read_text())
    assert found is not None
    program = tmp_path / "child.py"
    program.write_text(found["text"])
    with Kit() as kit:
        parent = kit.bus("parent")
        child = kit.process(program)
        assert parent.receive_message(timeout=CHILD_S).data == b"hello from a child"
        assert child.wait(CHILD_S) == 0
