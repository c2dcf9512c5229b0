"""Where callbacks run: a thread of their own, a queue that the application pumps, a loop, or an executor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from brokerless import ConfigError

_log = logging.getLogger("dittobus")


class Work(Protocol):
    """What a queue is given: something that runs for a while and hands itself in again if more is left."""

    def run(self, until: float | None = None) -> int:
        """Run callbacks until monotonic time ``until``, at least one; return how many ran."""


class DispatchQueue(ABC):
    """A place where callbacks of a bus or of single streams are run, one after the other.

    Make one with ``DispatchQueue.serial`` or ``DispatchQueue.manual`` and pass it as
    ``delegate_event_queue``. One queue may serve several buses and streams. An asyncio loop or a
    ``concurrent.futures.Executor`` can be passed in its place.
    """

    @staticmethod
    def serial(name: str = "") -> SerialDispatchQueue:
        """Make a queue with a thread of its own, which starts with the first callback.

        Call ``close`` when nothing uses the queue any more.
        """
        return SerialDispatchQueue(name)

    @staticmethod
    def manual() -> ManualDispatchQueue:
        """Make a queue that the application pumps: a game calls ``run_pending`` once a frame."""
        return ManualDispatchQueue()

    @abstractmethod
    def _post(self, work: Work) -> None:
        """Have ``work`` run once, from any thread. Raises ``RuntimeError`` when the queue is closed."""

    @abstractmethod
    def _runs_here(self) -> bool:
        """Tell whether the calling thread is the one to run the callbacks, now."""

    @abstractmethod
    def _will_run(self) -> bool:
        """Tell whether callbacks will run without the calling thread's doing."""


class SerialDispatchQueue(DispatchQueue):
    """Callbacks run in a thread of their own, in the order of the events. See ``DispatchQueue.serial``."""

    def __init__(self, name: str = "") -> None:
        if not isinstance(name, str):
            raise TypeError(f"name: expected str, got {type(name).__name__}")
        self._name = name or "dittobus-callbacks"
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        # A queue that is simply dropped takes its thread along.
        weakref.finalize(self, self._work.put, None).atexit = False

    def close(self) -> None:
        """End the thread after the callbacks that are due. Close what uses the queue first.

        Returns when the thread has ended, or at once if it is the caller's. Closing twice is harmless.
        """
        self.end()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def end(self) -> None:
        """Do as ``close``, without waiting for the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._work.put(None)

    def _post(self, work: Work) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError(f"dispatch queue {self._name!r} is closed")
            if self._thread is None:
                # A daemon, since a callback that hangs must not keep the interpreter from exiting.
                thread = threading.Thread(
                    target=_run_serially, args=(self._work,), name=self._name, daemon=True
                )
                thread.start()  # raises RuntimeError if the interpreter exits, from Python 3.12 on
                self._thread = thread
            self._work.put(work)

    def _runs_here(self) -> bool:
        return False

    def _will_run(self) -> bool:
        return not self._closed

    def __repr__(self) -> str:
        return f"<DispatchQueue.serial {self._name!r}>"


def _run_serially(works: SimpleQueue[Work | None]) -> None:
    # No reference to the queue itself: it would never be collected.
    while (work := works.get()) is not None:
        try:
            work.run()
        except BaseException:  # SystemExit out of a callback must not silence all the others
            _log.exception("a callback ended its turn of the dispatch queue")
        del work


class ManualDispatchQueue(DispatchQueue):
    """Callbacks run when the application calls ``run_pending``. See ``DispatchQueue.manual``."""

    def __init__(self) -> None:
        self._works: deque[Work] = deque()
        self._pump: int | None = None  # ident of the thread that pumped last

    def run_pending(self, max_s: float | None = None) -> int:
        """Run the callbacks that are waiting now, and return how many ran.

        With ``max_s``, start none later than that many seconds from now; the rest waits for the next call.
        At least one runs if there is one, so that a slow frame cannot starve the bus.
        """
        if max_s is not None and not max_s >= 0:
            raise ConfigError(f"max_s: expected 0 or more seconds, or None, got {max_s!r}")
        self._pump = threading.get_ident()
        until = float("inf") if max_s is None else time.monotonic() + max_s
        callbacks = 0
        for _ in range(len(self._works)):
            try:
                work = self._works.popleft()
            except IndexError:  # a callback pumped, too
                break
            callbacks += work.run(until)
            if time.monotonic() >= until:
                break
        return callbacks

    def _post(self, work: Work) -> None:
        self._works.append(work)

    def _runs_here(self) -> bool:
        return self._pump == threading.get_ident()

    def _will_run(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<DispatchQueue.manual {len(self._works)} waiting>"


class _LoopQueue(DispatchQueue):
    """An asyncio loop in the role of a queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def _post(self, work: Work) -> None:
        self._loop.call_soon_threadsafe(work.run)

    def _runs_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _will_run(self) -> bool:
        return self._loop.is_running()


class _ExecutorQueue(DispatchQueue):
    """An executor in the role of a queue. Its threads take turns, so callbacks still never overlap."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = executor

    def _post(self, work: Work) -> None:
        self._executor.submit(work.run)

    def _runs_here(self) -> bool:
        return False

    def _will_run(self) -> bool:
        return True


EventQueue: TypeAlias = DispatchQueue | asyncio.AbstractEventLoop | concurrent.futures.Executor
"""What may be passed as ``delegate_event_queue``."""


def as_dispatch_queue(queue: EventQueue) -> DispatchQueue:
    """Return ``queue``, or what makes it one."""
    if isinstance(queue, DispatchQueue):
        return queue
    if isinstance(queue, asyncio.AbstractEventLoop):
        return _LoopQueue(queue)
    processes = sys.modules.get("concurrent.futures.process")  # not imported for a check that seldom matters
    if processes is not None and isinstance(queue, processes.ProcessPoolExecutor):
        raise TypeError("delegate_event_queue: callbacks run in this process, not in those of an executor")
    if isinstance(queue, concurrent.futures.Executor):
        return _ExecutorQueue(queue)
    raise TypeError(
        "delegate_event_queue: expected a DispatchQueue, an asyncio loop or a concurrent.futures.Executor, "
        f"got {type(queue).__name__}"
    )
