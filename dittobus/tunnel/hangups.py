"""Learns of resets on sockets that nobody reads, as while the other end of a tunnel takes nothing.

A loop watches a socket to read or to write, and learns of a reset on that occasion. One that is not read,
since its end has been or since the stream has no room, is not watched at all.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

AVAILABLE = hasattr(select, "epoll")
"""Where there is none, a reset is noticed as soon as somebody reads or writes."""

EVENTS_MAX = 256
"""Told at once; the rest follows in the next turn of the loop."""


class Hangups:
    """Calls back when a socket was reset. It costs a descriptor, and nothing for what goes on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._poll = select.epoll() if AVAILABLE else None
        if self._poll is not None:
            loop.add_reader(self._poll.fileno(), self._look)

    def watch(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        """Call back once if the socket is reset; its SO_ERROR says how, unless somebody has asked before."""
        if self._poll is not None:
            self._callbacks[sock.fileno()] = callback
            # Asked for nothing, it tells of errors; by edges, or an end of both directions would stay told.
            self._poll.register(sock.fileno(), select.EPOLLET)

    def forget(self, sock: socket.socket) -> None:
        """Watch that socket no more. Before it is closed: another may have its descriptor then."""
        if self._poll is not None and self._callbacks.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock.fileno())

    def close(self) -> None:
        """Watch nothing any more."""
        if self._poll is not None:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None

    def _look(self) -> None:
        assert self._poll is not None
        for descriptor, events in self._poll.poll(0, EVENTS_MAX):
            if events & select.EPOLLERR and descriptor in self._callbacks:
                self._callbacks[descriptor]()
