"""Processes under test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dittobus import UsageError, WaitTimeout
from dittobus.testing import Kit
from tests.dittobus.testing import programs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent.parent
SOON_S = 15.0
"""More than enough for a process to start, on any machine; only a failure waits for it."""


@pytest.fixture
def kit() -> Iterator[Kit]:
    with Kit(liveness_s=3) as kit:
        yield kit


def test_a_function_runs_in_the_mesh_of_the_test(kit: Kit) -> None:
    bus = kit.bus("test")
    process = kit.process(programs.echo, 3, name="the echo")
    peer = bus.wait_for_peer("echo", timeout=SOON_S)
    bus.send(b"ab", peer)
    assert bus.receive_message(SOON_S).data == b"ababab"
    assert str(process) == f"process 'the echo' ({process.pid}, running)"
    assert process.returncode is None
    process.kill()
    assert process.returncode == -signal.SIGKILL
    assert process.wait_for_output("echo is up")
    assert "ended by SIGKILL" in process.report()


def test_a_paused_process_is_silent_until_it_goes_on(kit: Kit) -> None:
    process = kit.process(programs.count)
    process.wait_for_output("^10$", SOON_S)
    process.pause()
    assert "paused" in str(process)
    _, status = os.waitpid(process.pid, os.WUNTRACED)  # it has stopped, so it writes nothing more
    assert os.WIFSTOPPED(status)
    last = int(re.findall(r"^(\d+)\n", process.output, re.MULTILINE)[-1])
    process.resume()
    process.wait_for_output(f"^{last + 100}$", SOON_S)
    process.interrupt()
    assert process.wait(SOON_S) != 0
    assert "KeyboardInterrupt" in process.output
    with pytest.raises(UsageError, match="has ended"):
        process.pause()


def test_a_paused_process_can_be_killed(kit: Kit) -> None:
    process = kit.process(programs.count)
    process.wait_for_output("^1$", SOON_S)
    process.pause()
    process.kill()
    assert process.returncode == -signal.SIGKILL


def test_files_and_modules_run_as_programs(kit: Kit) -> None:
    for target in (Path(programs.__file__), programs.__file__, programs.__name__):
        process = kit.process(target, "a", 1)
        assert process.wait(SOON_S) == 3
        assert process.output == "program ['a', '1'] __main__\n"
        assert "exit code 3" in str(process)


def test_a_method_by_its_class_and_an_empty_stdin(kit: Kit) -> None:
    walking, reading = kit.process(programs.Robot.walk, 5), kit.process(programs.read_stdin)
    assert walking.name == "Robot.walk"
    assert walking.wait(SOON_S) == reading.wait(SOON_S) == 0
    assert walking.output == "walked 5 steps\n"
    assert reading.output == "read '' False\n"


def test_waiting_in_vain_shows_what_was_written(kit: Kit) -> None:
    failing, counting = kit.process(programs.fail), kit.process(programs.count)
    match = r"(?s)'fail'.*exit code 1\) closed its output without writing.*RuntimeError: out of order"
    with pytest.raises(WaitTimeout, match=match):
        failing.wait_for_output("in order", SOON_S)
    assert failing.wait() == 1
    counting.wait_for_output("^5$", SOON_S)
    with pytest.raises(WaitTimeout, match=r"(?s)did not write 'never' within 0.01 s; it wrote:\n.*5"):
        counting.wait_for_output("never", 0.01)
    with pytest.raises(WaitTimeout, match=r"did not end within 0.01 s"):
        counting.wait(0.01)
    counting.terminate()
    assert counting.wait(SOON_S) == -signal.SIGTERM


@pytest.mark.parametrize("target", [lambda: None, print.__call__, 5])
def test_what_no_process_can_run(kit: Kit, target: Any) -> None:
    with pytest.raises(TypeError):
        kit.process(target)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.py"):
        kit.process("nowhere.py")
    with pytest.raises(TypeError, match="no keywords"):
        kit.process("program.py", fast=True)


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


def test_children_of_a_process_end_with_it(fifo: str) -> None:
    with Kit() as kit:
        kit.process(programs.leave_a_child, fifo)
        with open(fifo, "rb") as end:  # waits for the other end
            kit.close()
            assert end.read() == b""  # nobody has the other end any more


ORPHAN = """
import sys
from dittobus.testing import Kit
from tests.dittobus.testing import programs
with Kit() as kit:
    kit.process(programs.hold, sys.argv[1])
    sys.stdin.read()
"""


def test_a_process_does_not_outlive_a_test_run_that_is_killed(fifo: str, tmp_path: Path) -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-c", ORPHAN, fifo],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        ) as run,
        open(fifo, "rb") as end,
    ):
        run.kill()
        assert end.read() == b""
