"""Sockets that are listened on, TCP and Unix, and the loop that accepts what comes there."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dittobus.tunnel.places import Kind, Place

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 256
"""Who connects while the loop is busy, and is accepted in its next turn."""

ACCEPTED_IN_ROW = 64
"""After so many the loop gets a turn."""

REST_S = 0.5
"""Between two tries when descriptors have run out. Who connects meanwhile is in the backlog."""


class Listener:
    """Accepts connections. asyncio's own server, out of descriptors, tries and logs thousands of times."""

    def __init__(
        self,
        sock: socket.socket,
        accepted: Callable[[socket.socket], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._sock = sock
        self._accepted = accepted
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more."""
        if self._resting is not None:
            self._resting.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _listen(self) -> None:
        self._resting = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_IN_ROW):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._loop.remove_reader(self._sock)
                self._resting = self._loop.call_later(REST_S, self._listen)
                self._failed(error)
                return
            sock.setblocking(False)
            self._accepted(sock)


async def listening_sockets(place: Place) -> list[socket.socket]:
    """Return sockets that listen there, one for each address of the host. Raises ``OSError``."""
    if place.kind is Kind.UNIX:
        return [_unix_socket(place.path)]
    if place.host == "*":
        two = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if two else socket.AF_INET
        where = ("", place.port)
        return [socket.create_server(where, family=family, backlog=BACKLOG, dualstack_ipv6=two)]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    if place.port == 0:  # each would have a port of its own
        found = found[:1]
    return _tcp_sockets([(family, (str(where[0]), place.port)) for family, _, _, _, where in found])


def _tcp_sockets(places: list[tuple[int, tuple[str, int]]]) -> list[socket.socket]:
    unusable: OSError | None = None
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for family, where in places:
            try:
                sock = socket.create_server(where, family=family, backlog=BACKLOG)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                unusable = error  # as ::1 of localhost, where there is no IPv6
                continue
            sockets.append(stack.enter_context(sock))
        if not sockets and unusable is not None:
            raise unusable
        stack.pop_all()
        return sockets


def _unix_socket(path: str) -> socket.socket:
    """Return a socket that listens there, in place of one that a process has left behind.

    Only this user may connect, as to a directory of theirs.
    """
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        if _is_left_behind(path):
            os.unlink(path)
        before = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        stack.pop_all()
        return sock


def _is_left_behind(path: str) -> bool:
    """Whether there is a socket that nobody listens on; what is no socket is left alone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False
