"""The connections of one side of a tunnel, each served by a task of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from brokerless import BusError
from dittobus.tunnel.notices import Began, Ended

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from dittobus.aio import Stream
    from dittobus.tunnel.notices import Report, Way

_log = logging.getLogger("dittobus")


class Connection(Protocol):
    """What stands between a socket and a stream."""

    bytes_sent: int
    bytes_received: int

    async def run(self, stream: Stream) -> None:
        """Carry what comes until the end. Raises what ended it before; both sides are reset then."""

    def reset(self) -> None:
        """Let go of the socket at once, if that has not been done."""


class Connections:
    """Tasks that fail each for itself, and are cancelled together."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, serving: Coroutine[Any, Any, None]) -> None:
        """Serve a connection until it is over."""
        task = asyncio.get_running_loop().create_task(serving)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    async def carry(self, connection: Connection, stream: Stream, way: Way) -> None:
        """Let a connection run, and tell of its beginning and its end."""
        self._report(Began(way, stream.peer))
        error: Exception | None = None
        try:
            await connection.run(stream)
        except (BusError, OSError) as failure:
            error = failure
        self._report(Ended(way, error, connection.bytes_sent, connection.bytes_received))

    async def close(self) -> None:
        """Reset all that are left. Once no more are started."""
        try:
            await asyncio.sleep(0)  # a task that is cancelled before it has begun lets go of nothing
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            _log.error("a connection of a tunnel failed", exc_info=defect)
