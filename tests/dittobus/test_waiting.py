from __future__ import annotations

import concurrent.futures
import threading
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from brokerless import UsageError
from dittobus import _waiting
from dittobus._io_thread import IoThread
from dittobus._waiting import Sleeper, deadline_after, result_of
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-io")
    thread.start()
    yield thread
    thread.stop()


def test_a_sleeper_is_woken(io: IoThread) -> None:
    sleeper = Sleeper(io)
    io.post(sleeper.wake)
    assert sleeper.sleep(None)


def test_who_is_woken_before_does_not_sleep(io: IoThread) -> None:
    sleeper = Sleeper(io)
    sleeper.wake()
    sleeper.wake()
    assert sleeper.sleep(deadline_after(WAIT_S))
    assert not sleeper.sleep(monotonic())


@pytest.mark.parametrize("slice_s", [0.001, threading.TIMEOUT_MAX])
def test_a_deadline_ends_the_sleep(io: IoThread, slice_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiting, "SLICE_S", slice_s)
    deadline = deadline_after(0.01)
    assert deadline is not None
    assert not Sleeper(io).sleep(deadline)
    assert monotonic() >= deadline
    assert deadline_after(None) is None


def test_who_sleeps_in_slices_is_woken_too(io: IoThread, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = threading.Semaphore(0)

    class Lock:
        """One that tells of each look at it."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self.release = self._lock.release

        def acquire(self, timeout: float = -1) -> bool:
            looks.release()
            return self._lock.acquire(timeout=timeout)

    monkeypatch.setattr(_waiting, "SLICE_S", 0.001)
    sleeper = Sleeper(io)
    sleeper._lock = Lock()  # type: ignore[assignment]
    sleeper._lock.acquire()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        sleeping = threads.submit(sleeper.sleep, None)
        for _ in range(5):
            assert looks.acquire(timeout=WAIT_S)
        sleeper.wake()
        assert sleeping.result(WAIT_S)


def test_the_i_o_thread_does_not_wait_for_itself(io: IoThread) -> None:
    with pytest.raises(UsageError, match="I/O thread"):
        io.call(Sleeper, io)


def test_waiting_for_a_future(io: IoThread) -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    io.post(lambda: future.set_result(7))
    assert result_of(io, future) == 7
    future = concurrent.futures.Future()
    io.post(lambda: future.set_exception(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        result_of(io, future)
