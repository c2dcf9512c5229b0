"""UDP through a tunnel: a socket, and the flow of datagrams between it and a stream that may lose them."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from brokerless import BusError, MessageTooLarge, NoPath, SendQueueFull
from dittobus.tunnel.notices import Dropped

if TYPE_CHECKING:
    from collections.abc import Callable

    from dittobus.aio import Stream
    from dittobus.tunnel.notices import Report, Way
    from dittobus.tunnel.places import Place

DATAGRAM_BYTES_MAX = 65_535
"""What a UDP datagram's length can say."""

DATAGRAMS_IN_ROW = 64
"""After so many the loop gets a turn."""

IDLE_S = 120.0
"""Without a datagram for so long a flow ends: what RFC 4787 asks of a NAT, which has to guess the same."""

EARLY_DATAGRAMS_MAX = 16
"""What waits for a flow's stream to open: the questions that a client asks at once, and 1 MiB at most."""


async def connected_socket(target: Place) -> socket.socket:
    """Return a socket that talks with ``target`` only. Raises ``OSError``."""
    return await _socket(target, lambda sock, where: sock.connect(where))


async def bound_socket(place: Place) -> socket.socket:
    """Return a socket that listens there. Raises ``OSError``."""
    return await _socket(place, lambda sock, where: sock.bind(where))


async def _socket(place: Place, attach: Callable[[socket.socket, Any], None]) -> socket.socket:
    loop = asyncio.get_running_loop()
    everywhere = place.host == "*"
    host = ("::" if socket.has_dualstack_ipv6() else "0.0.0.0") if everywhere else place.host
    found = await loop.getaddrinfo(host, place.port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, where = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        if everywhere and family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        attach(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


class Port:
    """A UDP socket in the loop. Nothing waits here: what the system does not take now is dropped.

    asyncio's own transport keeps such datagrams without bound, and drops those that are empty.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    @property
    def number(self) -> int:
        """The number of the port."""
        number: int = self._sock.getsockname()[1]
        return number

    def start(self, receive: Callable[[bytes, Any], None], failed: Callable[[OSError], None]) -> None:
        """Call ``receive`` with each datagram and its sender, ``failed`` with what is said of ours."""
        self._receive, self._failed = receive, failed
        self._loop.add_reader(self._sock, self._read)

    def send(self, datagram: bytes, to: Any = None) -> None:
        """Send a datagram, to whom the socket is connected to unless told. Raises ``OSError``."""
        if to is None:
            self._sock.send(datagram)
        else:
            self._sock.sendto(datagram, to)

    def close(self) -> None:
        """Let go of the socket. Twice is harmless."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _read(self) -> None:
        for _ in range(DATAGRAMS_IN_ROW):
            try:
                datagram, sender = self._sock.recvfrom(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:  # nobody listens there, as an ICMP message has told
                self._failed(error)
                return
            self._receive(datagram, sender)
            if self._sock.fileno() < 0:  # closed by what was received
                return


class Flow:
    """The datagrams between one client and the target, at either end of the tunnel.

    Of what comes before the stream is open, a little waits. Without ``idle_s`` the other side decides when it
    has been silent for long enough.
    """

    def __init__(
        self, port: Port, way: Way, report: Report, *, client: Any = None, idle_s: float | None = None
    ) -> None:
        self._port = port
        self._way = way
        self._report = report
        self._client = client
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._stream: Stream | None = None
        self._early: deque[bytes] = deque(maxlen=EARLY_DATAGRAMS_MAX)
        self._used_at = self._loop.time()
        self._told: set[type] = set()
        self.bytes_sent = 0
        self.bytes_received = 0
        if client is None:  # the port is all ours
            port.start(lambda datagram, _: self.put(datagram), self._drop)

    def put(self, datagram: bytes) -> None:
        """Send a datagram of the socket through the tunnel."""
        self._used_at = self._loop.time()
        if self._stream is None:
            self._early.append(datagram)
            return
        try:
            self._stream.send_nowait(datagram)
            self.bytes_sent += len(datagram)
        except (NoPath, SendQueueFull, MessageTooLarge) as error:
            self._drop(error)
        except BusError:  # the stream has ended, which is told elsewhere
            return

    async def run(self, stream: Stream) -> None:
        """Carry datagrams until the stream ends, or none came for ``idle_s``. Raises what ended it before."""
        self._stream = stream
        while self._early:
            self.put(self._early.popleft())
        receiving = asyncio.create_task(self._receive(stream))
        try:
            while not receiving.done() and (left_s := self._left_s()) != 0:
                await asyncio.wait([receiving], timeout=left_s)
            if receiving.done():
                receiving.result()
            await stream.close()
        except BaseException:
            stream.abort()
            raise
        finally:
            receiving.cancel()
            self.reset()
            await asyncio.gather(receiving, return_exceptions=True)

    def reset(self) -> None:
        """Let go of the socket, unless others use it, too."""
        if self._client is None:
            self._port.close()

    def _left_s(self) -> float | None:
        """Return how long to wait for the next datagram; None: without end."""
        if self._idle_s is None:
            return None
        return max(0.0, self._used_at + self._idle_s - self._loop.time())

    async def _receive(self, stream: Stream) -> None:
        async for datagram in stream:
            self._used_at = self._loop.time()
            try:
                self._port.send(datagram, self._client)
                self.bytes_received += len(datagram)
            except OSError as error:  # no room, too large for that way, nobody there: lost, as UDP has it
                self._drop(error)

    def _drop(self, error: Exception) -> None:
        if type(error) not in self._told:
            self._told.add(type(error))
            self._report(Dropped(self._way, error))
