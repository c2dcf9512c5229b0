"""How many may stand at a listening socket that tells nothing about its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from brokerless.transport.descriptors import (
    EXHAUSTED,
    Fingerprint,
    Reserve,
    borrowed,
    descriptors_max,
    fingerprint,
    shut_down,
)
from brokerless.transport.monitor import Monitor

if TYPE_CHECKING:
    import asyncio

CONNECTIONS_SHARE = 8
"""At most one in so many of the descriptors that this process may have; the links need theirs."""


class Doorway:
    """Hangs up on the oldest connection whenever there are too many, and on the newest when nothing is left.

    The socket's own handshake timeout shuts out those who never prove a key. Whoever is hung up on here and
    honest connects again by itself. To be closed before the socket is.
    """

    __slots__ = ("_connections", "_connections_max", "_monitor", "_reserve")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        watched: zmq.Socket[bytes],
        connections_max: int,
    ) -> None:
        self._connections: dict[int, Fingerprint] = {}  # by descriptor, the oldest first
        self._connections_max = min(connections_max, max(1, descriptors_max() // CONNECTIONS_SHARE))
        self._reserve = Reserve()
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_ACCEPT_FAILED | zmq.EVENT_DISCONNECTED
        try:
            self._monitor = Monitor(loop, context, watched, events, self._changed)
        except BaseException:
            self._reserve.release()
            raise

    def __len__(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        """Watch no more."""
        self._monitor.close()
        self._reserve.release()

    def _changed(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._accepted(value)
        elif event == zmq.EVENT_DISCONNECTED:
            self._connections.pop(value, None)
            if self._reserve.spent:
                self._reserve.refill()
        elif event == zmq.EVENT_ACCEPT_FAILED and value in EXHAUSTED:
            self._reserve.release()

    def _accepted(self, descriptor: int) -> None:
        self._connections.pop(descriptor, None)  # in case libzmq closed its predecessor without a word
        try:
            with borrowed(descriptor) as peer:
                of = fingerprint(peer)
        except OSError:
            return  # gone already
        if self._reserve.spent:
            shut_down(descriptor, of)
            return
        self._connections[descriptor] = of
        if len(self._connections) > self._connections_max:
            oldest = next(iter(self._connections))
            shut_down(oldest, self._connections.pop(oldest))
