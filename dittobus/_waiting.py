"""Threads that wait, in such a way that Ctrl-C gets through."""

from __future__ import annotations

import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from brokerless import UsageError

if TYPE_CHECKING:
    import concurrent.futures

    from dittobus._io_thread import IoThread

T = TypeVar("T")

LOOK_S = 0.1
"""How long a thread waits at a time where a signal does not end the wait for a lock, as on Windows and macOS:
what Ctrl-C may take there."""

SLICE_S = threading.TIMEOUT_MAX if sys.thread_info.lock == "semaphore" else LOOK_S


class Sleeper:
    """One thread that waits until another wakes it. To wake it before it sleeps, or twice, is harmless."""

    __slots__ = ("_lock",)

    def __init__(self, io: IoThread) -> None:
        """Raise ``UsageError`` on the I/O thread, since it is the one that wakes."""
        if io.is_current:
            raise UsageError(
                "waiting on the I/O thread, which is to bring about what is waited for",
                hint="wait in another thread",
            )
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        """End the sleep, or the next one."""
        try:
            self._lock.release()
        except RuntimeError:  # it has been woken and has not slept since
            pass

    def sleep(self, deadline: float | None) -> bool:
        """Wait to be woken; return False if monotonic time ``deadline`` came first."""
        while True:
            wait_s = SLICE_S if deadline is None else min(SLICE_S, max(0.0, deadline - monotonic()))
            if self._lock.acquire(timeout=wait_s):
                return True
            if deadline is not None and monotonic() >= deadline:
                return False


def deadline_after(timeout: float | None) -> float | None:
    """Return the monotonic time after which ``timeout`` is over; None means never."""
    return None if timeout is None else monotonic() + timeout


def result_of(io: IoThread, future: concurrent.futures.Future[T]) -> T:
    """Return what ``future`` brings, or raise its error. Ctrl-C ends the wait, and nothing else."""
    sleeper = Sleeper(io)
    future.add_done_callback(lambda _: sleeper.wake())
    sleeper.sleep(None)
    return future.result()
