from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from dittobus._io_thread import IoThread
from dittobus._shutdown import Shutdown
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-io")
    thread.start()
    yield thread
    thread.stop()


class Closing:
    """Something that drains for ever, and then takes its time."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []
        self.steps: list[str] = []
        self.begun = threading.Event()

    async def close(self, timeout_s: float | None) -> bool:
        self.timeouts.append(timeout_s)
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.steps.append("let go")
        return True


def test_it_happens_once(io: IoThread) -> None:
    timeouts = []

    async def close(timeout_s: float | None) -> bool:
        timeouts.append(timeout_s)
        return True

    shutdown = Shutdown(io, close)
    for timeout in (5.0, 0, None):
        shutdown.begin(timeout)
    assert shutdown.done.result(WAIT_S)
    shutdown.hurry()
    assert timeouts == [5.0]


@pytest.mark.parametrize("has_begun", [False, True])
def test_who_hurries_does_not_cut_off_the_end(io: IoThread, has_begun: bool) -> None:
    """Neither before it has begun, nor by hurrying twice."""
    closing = Closing()
    shutdown = Shutdown(io, closing.close)
    shutdown.begin(None)
    if has_begun:
        assert closing.begun.wait(WAIT_S)
    shutdown.hurry()
    shutdown.hurry()
    assert shutdown.done.result(WAIT_S) is False
    assert closing.timeouts == [None]
    assert closing.steps == ["let go"]


def test_there_is_nothing_to_hurry_before(io: IoThread) -> None:
    async def close(timeout_s: float | None) -> bool:
        return timeout_s == 1.0

    shutdown = Shutdown(io, close)
    shutdown.hurry()
    shutdown.begin(1.0)
    assert shutdown.done.result(WAIT_S)


def test_a_failure_is_an_end_too(io: IoThread, caplog: pytest.LogCaptureFixture) -> None:
    async def close(timeout_s: float | None) -> bool:
        raise ValueError("faulty")

    shutdown = Shutdown(io, close)
    shutdown.begin(0)
    assert shutdown.done.result(WAIT_S) is False
    assert "did not close as it should" in caplog.text
    assert "faulty" in caplog.text
