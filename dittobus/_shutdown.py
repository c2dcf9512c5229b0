"""The end of a node in a thread of its own: begun from any thread, and hurried by one that loses patience."""

from __future__ import annotations

import concurrent.futures
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from dittobus._io_thread import IoThread

_log = logging.getLogger("dittobus")


class Shutdown:
    """Runs ``close(timeout)`` once on the I/O thread, however often it is begun. Does not stop the thread."""

    def __init__(self, io: IoThread, close: Callable[[float | None], Coroutine[Any, Any, bool]]) -> None:
        self._io = io
        self._close = close
        self._closing: asyncio.Task[bool] | None = None
        self._is_hurried = False
        self.done: concurrent.futures.Future[bool] = concurrent.futures.Future()
        """Tells when nothing is left of the node, and whether everything sent was acknowledged."""

    def begin(self, timeout: float | None) -> None:
        """Begin to close, draining for up to ``timeout`` seconds, unless that has begun."""
        self._io.post(partial(self._begin, timeout))

    def hurry(self) -> None:
        """Drop what is still under way."""
        self._io.post(self._hurry)

    def _begin(self, timeout: float | None) -> None:
        if self._closing is None:
            self._closing = self._io.loop.create_task(self._close(timeout))
            self._closing.add_done_callback(self._tell)

    def _hurry(self) -> None:
        if self._closing is not None and not self._is_hurried:
            self._is_hurried = True
            # Not at once: a task that has not begun would never do so, and leave the node open.
            self._io.loop.call_soon(self._closing.cancel)

    def _tell(self, closing: asyncio.Task[bool]) -> None:
        if closing.cancelled():
            self.done.set_result(False)
        elif (error := closing.exception()) is not None:
            _log.error("the bus did not close as it should", exc_info=error)
            self.done.set_result(False)
        else:
            self.done.set_result(closing.result())
