"""A thread with a loop of its own, on which a node runs undisturbed by the application."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_log = logging.getLogger("dittobus")

T = TypeVar("T")
P = ParamSpec("P")


class IoThread:
    """One background thread running one asyncio loop.

    Posting costs one entry in a deque; the loop is woken once for all that is posted until it looks.
    """

    def __init__(self, name: str) -> None:
        # A selector loop on every platform: Windows' Proactor cannot watch the descriptors of ZeroMQ.
        self.loop: asyncio.AbstractEventLoop = asyncio.SelectorEventLoop()
        self.loop.set_default_executor(_DaemonExecutor(max_workers=1))
        self._calls: deque[Callable[[], object]] = deque()
        self._awake = False  # a wake-up is on its way
        self._stopped = False
        # A daemon, since the interpreter joins all others before it lets us close the bus.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. Follow with ``stop``."""
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """True on the thread itself."""
        return self._thread is threading.current_thread()

    def post(self, call: Callable[[], object]) -> None:
        """Have ``call`` run on the loop, after all that was posted before. It must not raise.

        Once the thread has stopped it runs at once, in the calling thread, so that whoever waits for its
        outcome gets one.
        """
        try:
            self._calls.append(call)
            if self._stopped:
                self._run_calls()
            elif not self._awake:
                self._awake = True
                self._wake()
        except BaseException:  # Ctrl-C, which can come anywhere
            # A wake-up too many does no harm; one too few, noted as under way, would be the last.
            self._wake()
            raise

    def call(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Run ``function`` on the loop, after all that was posted; return or raise what it does."""
        if self.is_current:
            self._run_calls()
            return function(*arguments, **options)
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            try:
                outcome.set_result(function(*arguments, **options))
            except Exception as error:
                outcome.set_exception(error)

        self.post(call)
        return outcome.result()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run ``coroutine`` on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def stop(self, timeout: float | None = None) -> None:
        """End the loop and, unless called on it, wait for the thread. Stopping twice is harmless."""
        try:
            self.loop.call_soon_threadsafe(self.loop.stop)
        except RuntimeError:  # stopped before
            pass
        if not self.is_current:
            self._thread.join(timeout)

    def _wake(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._run_calls)
        except RuntimeError:  # closed in this moment
            self._run_calls()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            self._end_tasks()
        finally:
            self._stopped = True
            self.loop.close()
            self._run_calls()

    def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())

    def _run_calls(self) -> None:
        self._awake = False
        calls = self._calls
        # What is posted meanwhile waits for its own wake-up: sockets and timers get their turn.
        for _ in range(len(calls)):
            try:
                call = calls.popleft()
            except IndexError:  # stopped, and another thread drains it, too
                return
            try:
                call()
            except Exception:  # a defect of ours, which must not take the calls behind it along
                _log.exception("a call on the I/O thread failed")


class _DaemonExecutor(concurrent.futures.ThreadPoolExecutor):
    """A thread for each call.

    The standard pool refuses work once the interpreter has begun to exit, and holds up the exit for work that
    is stuck; a bus closes just then. Calls are rare here: looking up host names, ending a ZeroMQ context.
    """

    def submit(
        self, function: Callable[P, T], /, *arguments: P.args, **options: P.kwargs
    ) -> concurrent.futures.Future[T]:
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            if outcome.set_running_or_notify_cancel():
                try:
                    outcome.set_result(function(*arguments, **options))
                except BaseException as error:
                    outcome.set_exception(error)

        try:
            threading.Thread(target=run, name="dittobus-call", daemon=True).start()
        except RuntimeError:  # from Python 3.12 on, the exit of the interpreter allows no new thread
            run()
        return outcome
