"""Futures that are resolved on the I/O thread, and that do not let it wait for itself."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, TypeVar

from brokerless import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dittobus._io_thread import IoThread

T = TypeVar("T")


class BusFuture(concurrent.futures.Future[T]):
    """The outcome of a command.

    ``result()`` may be called anywhere but where it would wait for itself: on the I/O thread, which runs what
    is given to ``add_done_callback``, it raises ``UsageError`` unless the outcome is known.
    """

    def __init__(self, io: IoThread, on_cancel: Callable[[BusFuture[T]], None] | None = None) -> None:
        super().__init__()
        self._io = io
        self._on_cancel = on_cancel
        if on_cancel is None:
            self.set_running_or_notify_cancel()  # from here on the standard cancel() returns False

    def result(self, timeout: float | None = None) -> T:
        """Return the outcome, or raise the error, waiting at most ``timeout`` seconds for it."""
        self._refuse_deadlock()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error or None, waiting at most ``timeout`` seconds for the outcome."""
        self._refuse_deadlock()
        return super().exception(timeout)

    def cancel(self) -> bool:
        """Give up an open or a wait and return True; a send cannot be taken back: return False."""
        if self._on_cancel is None or self.cancelled():
            return super().cancel()
        if not super().cancel():
            return False
        self._on_cancel(self)
        return True

    def succeed(self, result: T) -> bool:
        """Set the result; return False if the caller has cancelled."""
        if self._is_given_up():
            return False
        self.set_result(result)
        return True

    def fail(self, error: BaseException) -> bool:
        """Set the error; return False if the caller has cancelled."""
        if self._is_given_up():
            return False
        self.set_exception(error)
        return True

    def _is_given_up(self) -> bool:
        if self._on_cancel is None:
            return False
        return self.cancelled() or not self.set_running_or_notify_cancel()

    def _refuse_deadlock(self) -> None:
        if self._io.is_current and not self.done():
            raise UsageError(
                "waiting for a result on the I/O thread, which is to bring it about",
                hint="wait in another thread, or use add_done_callback",
            )
