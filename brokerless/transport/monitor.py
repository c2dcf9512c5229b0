"""What happens to the connections of a ZeroMQ socket."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

import zmq

from brokerless.transport.wake import NOBLOCK, Wake

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

EVENTS_PER_TURN = 256
"""At about 2 µs each, half a millisecond before others get their turn."""

EVENTS_PER_SWEEP = 16_384
"""``sweep`` must end though somebody connects and disconnects as fast as the kernel lets them."""

_EVENT = struct.Struct("=Hi")
_addresses = itertools.count()


class Monitor:
    """Reads the monitor of ``watched`` and calls ``on_event(event, value)`` for every event in ``events``.

    libzmq writes events from its I/O thread with a *blocking* send, holding a lock that closing ``watched``
    needs too: with a full queue, or nobody at its other end, all links stand still, and close never ends. So
    the queue has no limit here (``RCVHWM`` 0), ``events`` is to hold only what is needed, and ``close`` first
    stops the writing, then the reading. To be closed before ``watched``.
    """

    __slots__ = ("_on_event", "_socket", "_wake", "_watched")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        watched: zmq.Socket[bytes],
        events: int,
        on_event: Callable[[int, int], None],
    ) -> None:
        address = f"inproc://monitor-{next(_addresses)}"
        self._on_event = on_event
        self._watched = watched
        self._socket = context.socket(zmq.PAIR)
        try:
            watched.monitor(address, events)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.RCVHWM, 0)
            self._socket.connect(address)
            self._wake = Wake(loop, self._socket, self._look)
        except BaseException:
            watched.monitor(None, 0)
            self._socket.close()
            raise

    def sweep(self) -> None:
        """Hand on all events that happened before this call."""
        self._read(EVENTS_PER_SWEEP)

    def close(self) -> None:
        """Read no more."""
        if not self._watched.closed:
            self._watched.monitor(None, 0)
        self._wake.close()
        self._socket.close()

    def _look(self) -> bool:
        return self._read(EVENTS_PER_TURN)

    def _read(self, count: int) -> bool:
        """Hand on up to ``count`` events; True if there may be more."""
        for _ in range(count):
            if self._socket.closed:
                return False
            try:
                body = self._socket.recv(NOBLOCK)
            except zmq.Again:
                return False
            self._socket.recv(NOBLOCK)  # the endpoint; it names no connection
            self._on_event(*_EVENT.unpack(body))
        return True
