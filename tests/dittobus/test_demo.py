"""The demo: run as users run it, killed, and with what it must not let pass."""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dittobus import Limits, PortInUse
from dittobus.cli import main
from dittobus.demo import far_process, sender, stage
from dittobus.demo.far import HEAD, Reader, furthest_ahead
from dittobus.demo.scenario import ahead_bound, require_cumulative
from dittobus.demo.show import is_plain, shown
from dittobus.demo.stage import HOST, TRIES, Stage
from dittobus.demo.steps import State, Step, StepFailed, as_object, failure, require, run_steps
from dittobus.demo.waiting import outcome, take

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = [sys.executable, "-m", "dittobus", "demo"]
RUN_S = 90
"""The demo takes 10 s; a busy machine may need a few times as long."""

STEPS = "start discovery message stream backpressure receipts reconnection close loss".split()


# As users run it


@pytest.mark.timeout(RUN_S + 10)
def test_every_step_holds() -> None:
    done = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=RUN_S, check=False)
    report = json.loads(done.stdout)
    assert [(step["name"], step["ok"]) for step in report["steps"]] == [(name, True) for name in STEPS], (
        report
    )
    assert all(step["detail"] and step["seconds"] >= 0 for step in report["steps"])
    assert report["ok"] is True
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, as the names of Unix sockets must be."""
    path = Path(tempfile.mkdtemp(prefix="db-"))
    yield path
    shutil.rmtree(path)


@contextmanager
def running_demo(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a demo that is running, and a descriptor that becomes readable when its child is gone."""
    environment = {**os.environ, "TMPDIR": str(directory)}
    with subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as demo:
        try:
            assert demo.stdout is not None
            found = next(filter(None, (re.search(r"far is process (\d+)", line) for line in demo.stdout)))
            child = os.pidfd_open(int(found[1]))
            try:
                yield demo, child
            finally:
                os.close(child)
        finally:
            demo.kill()


def is_gone(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 15.0)[0])


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs process descriptors")


@needs_pidfd
@pytest.mark.timeout(RUN_S)
def test_nothing_is_left_when_the_demo_is_killed(directory: Path) -> None:
    with running_demo(directory) as (demo, child):
        demo.kill()
        assert is_gone(child)
        assert not list(directory.iterdir())


@needs_pidfd
@pytest.mark.timeout(RUN_S)
@pytest.mark.usefixtures("heed_hangup")
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_when_the_demo_is_interrupted(directory: Path, signal_number: signal.Signals) -> None:
    with running_demo(directory) as (demo, child):
        demo.send_signal(signal_number)
        _, err = demo.communicate(timeout=RUN_S)
        assert (demo.returncode, err) == (130, "")
        assert is_gone(child)
        assert not list(directory.iterdir())


# When something does not hold


@pytest.fixture
def broken_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that cannot run the second process."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))


@pytest.mark.usefixtures("broken_python")
def test_a_failure_stops_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json"]) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["ok"] is False
    assert report["steps"][0]["detail"] == "the second process ended; its last words: out of order"
    assert [step["name"] for step in report["steps"]] == STEPS
    assert not any(step["ok"] for step in report["steps"])
    assert {step["detail"] for step in report["steps"][1:]} == {"not run"}
    assert err == "dittobus: step 'start' failed: the second process ended; its last words: out of order\n"


@pytest.mark.usefixtures("broken_python")
def test_a_failure_is_shown_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 1
    out, err = capsys.readouterr()
    assert "FAILED  start " in out
    assert "-       loss " in out
    assert "0 of 9 steps held" in out
    assert err.startswith("dittobus: step 'start' failed: ")


def test_a_port_that_somebody_took_is_not_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    free_port = stage.free_port
    with socket.create_server((HOST, 0)) as somebody:
        taken = somebody.getsockname()[1]
        ports = iter([taken, free_port(), taken, free_port()])
        monkeypatch.setattr(stage, "free_port", lambda: next(ports))
        with Stage(Limits()) as peers:
            peers.start()
            assert peers.bus.wait_for_peer("far").result().name == "far"
        assert next(ports, None) is None


def test_not_one_port_to_be_had() -> None:
    tried: list[int] = []

    def start(port: int, endpoint: str) -> None:
        tried.append(port)
        raise PortInUse("taken")

    with Stage(Limits()) as peers, pytest.raises(StepFailed, match="no port"):
        peers._behind_proxy(start)
    assert len(tried) == TRIES


def test_another_error_of_the_second_bus_is_told() -> None:
    with (
        Stage(Limits()) as peers,
        pytest.raises(StepFailed, match=r"ConfigError: .*port"),
    ):
        peers._start_far(-1, "tcp://127.0.0.1:1")


def test_a_report_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_process, "WAIT_S", 0.0)
    with closing_far(tmp_path) as far, pytest.raises(StepFailed, match="did not report 'never'"):
        far.hears("never")


def test_a_process_that_ended_is_told_nothing(tmp_path: Path) -> None:
    with closing_far(tmp_path) as far:
        far.kill()
        with pytest.raises(StepFailed, match="ended"):
            far.hears("start")


@contextmanager
def closing_far(directory: Path) -> Iterator[far_process.FarProcess]:
    far = far_process.FarProcess(directory)
    try:
        yield far
    finally:
        far.kill()


# Steps


def passing() -> str:
    return "seen"


def failing() -> str:
    raise StepFailed("it did\n  not hold")


def breaking() -> str:
    raise LookupError("no such thing")


def make_steps(*checks: Any) -> list[Step]:
    return [Step(f"step {number}", check) for number, check in enumerate(checks, 1)]


def test_all_hold() -> None:
    steps = make_steps(passing, passing)
    seen: list[tuple[str, State]] = []
    assert run_steps(steps, lambda step: seen.append((step.name, step.state)))
    assert seen == [
        ("step 1", State.RUNNING),
        ("step 1", State.HELD),
        ("step 2", State.RUNNING),
        ("step 2", State.HELD),
    ]
    assert failure(steps) is None
    assert as_object(steps)["ok"] is True


@pytest.mark.parametrize(
    ("check", "detail"), [(failing, "it did not hold"), (breaking, "LookupError: no such thing")]
)
def test_one_fails_and_the_rest_is_not_run(check: Any, detail: str) -> None:
    steps = make_steps(passing, check, pytest.fail)
    seen: list[tuple[str, State]] = []
    assert not run_steps(steps, lambda step: seen.append((step.name, step.state)))
    assert seen[-2:] == [("step 2", State.FAILED), ("step 3", State.NOT_RUN)]
    assert failure(steps) is steps[1]
    shown_as = as_object(steps)
    assert shown_as["ok"] is False
    assert [(step["ok"], step["detail"]) for step in shown_as["steps"]] == [
        (True, "seen"),
        (False, detail),
        (False, "not run"),
    ]
    assert shown_as["steps"][2]["seconds"] == 0


def test_an_error_without_words_has_its_name() -> None:
    def nameless() -> str:
        raise TimeoutError

    steps = make_steps(nameless)
    run_steps(steps, lambda step: None)
    assert steps[0].detail == "TimeoutError"


def test_an_interrupt_is_not_a_failure() -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_steps(make_steps(interrupted), lambda step: None)


def test_require() -> None:
    require(True, "fine")
    with pytest.raises(StepFailed, match="not fine"):
        require(False, "not fine")


# The list


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_who_wants_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_plain(terminal)
    assert is_plain(io.StringIO())
    terminal.encoding = "ascii"
    assert is_plain(terminal)
    terminal.encoding = "utf-8"
    monkeypatch.setenv("TERM", "dumb")
    assert is_plain(terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert is_plain(terminal)


def test_plain_lines() -> None:
    output = io.StringIO()
    steps = make_steps(passing, failing, passing)
    with shown(steps, output) as on_change:
        run_steps(steps, on_change)
    title, *lines = output.getvalue().splitlines()
    assert title.startswith("DittoBus demo")
    assert lines[:2] == ["", "ok      step 1     0 ms  seen"]
    assert lines[2].startswith("FAILED  step 2 ")
    assert lines[3] == "-       step 3           not run"
    assert lines[-1].startswith("1 of 3 steps held; the demo stopped after ")


def test_long_times_are_in_seconds() -> None:
    output = io.StringIO()
    step = Step("slow", passing, State.HELD, 2.5, "seen")
    with shown([step], output) as on_change:
        on_change(step)
    assert "ok      slow   2.50 s  seen\n" in output.getvalue()
    assert "All 1 steps held, in " in output.getvalue()


def test_the_live_list_ends_as_it_went(terminal: Terminal) -> None:
    steps = make_steps(passing, failing, passing)
    with shown(steps, terminal) as on_change:
        run_steps(steps, on_change)
    last_picture = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).splitlines()[-5:]
    rows = [line.split() for line in last_picture]
    assert rows[0][:3] == ["✓", "step", "1"]
    assert rows[1][:3] == ["✗", "step", "2"]
    assert rows[1][-4:] == ["it", "did", "not", "hold"]
    assert rows[2] == ["-", "step", "3", "not", "run"]
    assert rows[4][:5] == ["1", "of", "3", "steps", "held;"]


def test_the_live_list_shows_what_runs_and_what_is_to_come(terminal: Terminal) -> None:
    steps = make_steps(passing, passing)
    steps[0].state = State.RUNNING
    with shown(steps, terminal) as on_change:
        on_change(steps[0])
        picture = terminal.getvalue()
        assert "step 1" in picture
        assert "·" in picture


# What must not pass


def test_how_far_the_sender_was_ahead() -> None:
    assert furthest_ahead([], []) == 0
    assert furthest_ahead([1.0, 2.0, 3.0], [1.5, 2.5, 3.5]) == 1
    assert furthest_ahead([1.0, 2.0, 3.0, 9.0], [4.0, 5.0, 6.0, 10.0]) == 3
    assert furthest_ahead([1.0, 2.0, 6.0, 6.0, 6.0], [4.0, 5.0, 7.0, 8.0, 9.0]) == 3


def test_the_bound_is_window_and_queue() -> None:
    limits = Limits(
        stream_window_bytes=10_000, stream_window_initial_bytes=10_000, send_queue_bytes_max=1_000
    )
    assert ahead_bound(limits, 36) == 100 + 10 + 1


@pytest.mark.parametrize("receipts", [[], [5, 9], [5, 10, 10], [5, 4, 10], [5, 11]])
def test_receipts_that_are_not_cumulative(receipts: list[int]) -> None:
    with pytest.raises(StepFailed):
        require_cumulative(receipts, 10)


def test_receipts_that_are() -> None:
    require_cumulative([1, 5, 10], 10)


class FakeStream:
    """Takes messages, or does not; knows what it took."""

    name = "fake"
    delegate: Any = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.takes = True

    def send(self, message: bytes) -> Future[int]:
        self.sent.append(message)
        taken: Future[int] = Future()
        if self.takes:
            taken.set_result(len(self.sent))
        return taken


@pytest.fixture
def stream() -> Any:
    return FakeStream()


def read(messages: list[bytes], expected: int, stream: Any) -> list[dict[str, Any]]:
    """Return what a reader of these messages reports."""
    reports: list[dict[str, Any]] = []

    def tell(event: str, **facts: object) -> None:
        reports.append({"event": event, **facts})

    reader = Reader(tell, expected, None)
    for message in messages:
        reader.stream_did_receive_message(stream, message)
    reader.stream_did_close(stream, None)
    return reports


def send_three(stream: Any) -> sender.Sender:
    sending = sender.Sender(stream, 3, 100)
    for number in (1, 2, 3):
        sending.send(number)
    return sending


def test_what_came_as_it_was_sent_passes(stream: Any) -> None:
    sending = send_three(stream)
    report, closed = read(stream.sent, 3, stream)
    sending.require_complete(report)
    assert report["sha256"] == hashlib.sha256(b"".join(stream.sent)).hexdigest()
    assert (closed["event"], closed["error"]) == ("closed", None)
    sending.require_count(closed["messages"])


def test_swapped_messages_do_not_pass(stream: Any) -> None:
    sending = send_three(stream)
    one, two, three = stream.sent
    with pytest.raises(StepFailed, match="out of order"):
        sending.require_complete(read([one, three, two], 3, stream)[0])


def test_a_doubled_message_does_not_pass(stream: Any) -> None:
    sending = send_three(stream)
    one, two, three = stream.sent
    report, closed = read([one, two, two, three], 3, stream)
    with pytest.raises(StepFailed, match="out of order, or twice"):
        sending.require_complete(report)
    with pytest.raises(StepFailed, match="3 messages were sent, and 4 came"):
        sending.require_count(closed["messages"])


def test_a_lost_message_is_never_reported_as_complete(stream: Any) -> None:
    send_three(stream)
    assert [report["event"] for report in read(stream.sent[:2], 3, stream)] == ["closed"]


def test_changed_bytes_do_not_pass(stream: Any) -> None:
    sending = send_three(stream)
    one, two, three = stream.sent
    changed = three[:-1] + bytes([three[-1] ^ 1])
    with pytest.raises(StepFailed, match="not what was sent"):
        sending.require_complete(read([one, two, changed], 3, stream)[0])


def test_an_error_at_the_close_is_told(stream: Any) -> None:
    sending = sender.Sender(stream, 1, 100)
    sending.stream_did_close(stream, StepFailed("odd"))  # type: ignore[arg-type]  # any error does
    with pytest.raises(StepFailed, match=r"closed at near's end with .*odd"):
        sending.require_clean_close()


def test_a_sender_that_stands_still_is_noticed(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "STILL_S", 0.0)
    sending = sender.Sender(stream, 2, 100)
    stills: list[int] = []

    def release() -> None:
        stills.append(len(stream.sent))
        pending.set_result(1)

    pending: Future[int] = Future()
    monkeypatch.setattr(stream, "send", lambda message: pending)
    sending.send(1, release)
    assert stills == [0]
    monkeypatch.undo()
    sending.send(2, release)
    assert stills == [0]


def test_the_slow_reader_waits_to_be_told(stream: Any) -> None:
    may_read = threading.Event()
    reports: queue.Queue[str] = queue.Queue()
    reader = Reader(lambda event, **facts: reports.put(event), 1, may_read)
    message = HEAD.pack(1, 0.0)
    thread = threading.Thread(target=reader.stream_did_receive_message, args=(stream, message))
    thread.start()
    assert reports.empty()
    may_read.set()
    assert take(reports, "nothing was told") == "read"
    thread.join()


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    never: Future[None] = Future()
    with pytest.raises(StepFailed, match="it did not come within 0 s"):
        outcome(never, "it did not come", 0.0)
    monkeypatch.setattr("dittobus.demo.waiting.WAIT_S", 0.0)
    with pytest.raises(StepFailed, match="it did not come within 0 s"):
        take(queue.Queue(), "it did not come")
