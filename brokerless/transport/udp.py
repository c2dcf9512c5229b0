"""UDP: datagrams as they come, and as they get lost."""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from brokerless.protocol.paths import UdpPlace
from brokerless.transport.binding import EVERYWHERE, explained, without_covered
from brokerless.transport.busy_poll import BusyPoll

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from brokerless.transport.links import LinkSink

    SocketAddress: TypeAlias = tuple[Any, ...]

DATAGRAMS_PER_TURN = 64
"""One message of the largest kind and a few more, half a millisecond, before others get their turn."""

READ_BYTES_MAX = 2048
"""Datagrams of ours have 1,200 bytes at most. A longer one is cut off here, and still too long."""

RECEIVE_BUFFER_BYTES = 1024 * 1024
"""SO_RCVBUF. A message of 64 KiB comes as 58 datagrams at once, and Linux counts 2.3 KiB for each, with some
drivers 4: this holds eight messages that come while the loop is busy, after the kernel has doubled it, as it
does. Its own choice holds one and a half, and where the administrator allows no more, three."""

SEND_BUFFER_BYTES = 256 * 1024
"""SO_SNDBUF, doubled likewise: three messages of 64 KiB that are sent in one turn. What waits in there is
late, so it is less than may wait at the other end."""

ROUTES_MAX = 4096
"""Places whose route is remembered; finding it anew costs some 20 µs."""

_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM})
"""No room now. macOS and the BSDs say ENOBUFS when the queue of the interface is full."""

_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class _Bound(NamedTuple):
    """One of our sockets, and where it is bound."""

    socket: socket.socket
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address


class UdpSockets:
    """One UDP socket for each address that we listen on; they send, too, so that answers find back.

    Commands: ``open``, ``send``, ``close``. Whatever comes is told to the sink, ``DATAGRAMS_PER_TURN`` at a
    time. ``lost`` counts what the kernel refused to send.
    """

    __slots__ = ("_bound", "_busy_poll", "_loop", "_routes", "_sink", "lost")

    def __init__(self, sink: LinkSink) -> None:
        self._sink = sink
        self._loop: asyncio.AbstractEventLoop | None = None
        self._busy_poll: BusyPoll | None = None
        self._bound: list[_Bound] = []
        self._routes: dict[UdpPlace, tuple[Callable[[bytes, SocketAddress], int], SocketAddress]] = {}
        self.lost = 0

    def open(self, hosts: Sequence[str], port: int, loop: asyncio.AbstractEventLoop) -> tuple[str, ...]:
        """Bind on every host, on one port (0: any); return the places, as ``host:port``.

        Hosts are those of the TCP listener. A wildcard becomes one of each family. On an error nothing stays
        bound. Raises ``PortInUse``, ``StartError``.
        """
        self._loop = loop
        self._busy_poll = BusyPoll(loop)
        try:
            for host in without_covered(hosts):
                if host in (EVERYWHERE, "::"):
                    self._bind_everywhere(port)
                else:
                    self._bind_next(host, port)
            for local, bound in enumerate(self._bound):
                read = functools.partial(self._read, bound.socket, local)
                loop.add_reader(bound.socket.fileno(), read)
        except OSError as error:  # StartError among them
            self.close()
            raise explained(error, f"udp port {port or 'any'} on {', '.join(hosts)}") from error
        except BaseException:
            self.close()
            raise
        return tuple(_written(bound.socket.getsockname()) for bound in self._bound)

    def _bind_everywhere(self, port: int) -> None:
        """A socket of each family, not one for both: so addresses are written the same way everywhere."""
        self._bind("0.0.0.0", port)
        try:
            self._bind_next("::", port)
        except OSError as error:
            if error.errno not in _NO_FAMILY:  # a kernel without IPv6
                raise

    def _bind_next(self, host: str, port: int) -> None:
        """Bind on that port or, if any will do, on the same as the first socket, if that is free here."""
        if port or not self._bound:
            self._bind(host, port)
            return
        try:
            self._bind(host, self._bound[0].socket.getsockname()[1])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            self._bind(host, 0)

    def _bind(self, host: str, port: int) -> None:
        family, address = _resolved(host, port)
        opened = socket.socket(family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # else Windows lets anybody share the port
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for option, size in (
                (socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES),
                (socket.SO_SNDBUF, SEND_BUFFER_BYTES),
            ):
                with contextlib.suppress(OSError):  # more than this system allows: its own choice stands
                    opened.setsockopt(socket.SOL_SOCKET, option, size)
            opened.bind(address)
        except BaseException:
            opened.close()
            raise
        self._bound.append(_Bound(opened, ipaddress.ip_address(host)))

    def close(self) -> None:
        """Read and send no more. Twice does no harm."""
        for bound in self._bound:
            if self._loop is not None:
                self._loop.remove_reader(bound.socket.fileno())
            bound.socket.close()
        if self._busy_poll is not None:
            self._busy_poll.close()
        self._bound.clear()
        self._routes.clear()

    # Sending

    def send(self, place: UdpPlace, data: bytes) -> bool:
        """Give a datagram to the kernel, or drop it; False if the socket has no room for it now.

        What the kernel refuses for good (no way there, a firewall's no, a place that is none) was lost on the
        way like any other: it is counted, and this returns True, since trying again would not help.
        """
        route = self._routes.get(place)
        if route is None:
            route = self._find_route(place)
            if route is None:
                self.lost += 1
                return True
        try:
            route[0](data, route[1])
        except OSError as error:
            if error.errno in _FULL:
                return False
            self._routes.pop(place, None)  # the network may have changed, and another socket be the right one
            self.lost += 1
        else:
            if self._busy_poll is not None:
                self._busy_poll.sent()
        return True

    def _find_route(
        self, place: UdpPlace
    ) -> tuple[Callable[[bytes, SocketAddress], int], SocketAddress] | None:
        """Which socket reaches that place, and its address as the kernel wants it; None if none does."""
        try:
            # Numbers only: a name would be looked up in the middle of a turn.
            family, address = _resolved(place.host, place.port)
            ip = ipaddress.ip_address(place.host)
        except (OSError, ValueError, OverflowError):
            return None
        if ip.is_multicast or ip.is_unspecified:
            return None  # nobody lives there; whoever claims to wants us to shout
        bound = self._choose(place.local, family, address, ip.is_loopback)
        if bound is None:
            return None
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()
        route = self._routes[place] = bound.socket.sendto, address
        return route

    def _choose(
        self, local: int, family: socket.AddressFamily, address: SocketAddress, is_loopback: bool
    ) -> _Bound | None:
        if 0 <= local < len(self._bound) and self._bound[local].socket.family == family:
            return self._bound[local]
        fitting = [
            bound
            for bound in self._bound
            if bound.socket.family == family and (is_loopback or not bound.ip.is_loopback)
        ]
        if len(fitting) < 2:
            return next(iter(fitting), None)
        source = _source(family, address)
        return next((bound for bound in fitting if bound.ip == source), fitting[0])

    # Receiving

    def _read(self, readable: socket.socket, local: int) -> None:
        """Hand on what has come, up to a bound; the rest makes the loop call again."""
        receive, datagram = readable.recvfrom, self._sink.datagram
        if self._busy_poll is not None:
            self._busy_poll.arrived()
        try:
            for _ in range(DATAGRAMS_PER_TURN):
                try:
                    data, address = receive(READ_BYTES_MAX)
                except BlockingIOError:
                    break
                except OSError:
                    # Windows tells here, each time, that a datagram of ours met a closed port, or that one
                    # was longer than we read; the switch for the former is beyond Python's reach. Neither
                    # says anything about the next datagram.
                    if not self._bound:
                        break
                    continue
                datagram(_place(address, local), data)
        finally:
            if self._bound:
                self._sink.turn_done()


def _place(address: SocketAddress, local: int) -> UdpPlace:
    if len(address) == 4 and address[3]:
        return UdpPlace(f"{address[0]}%{address[3]}", address[1], local)  # link-local: means that interface
    return UdpPlace(address[0], address[1], local)


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, SocketAddress]:
    """Family and address of a host in numbers; OSError if it is something else."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)[0]
    except socket.gaierror as error:  # whose numbers are no others'
        raise OSError(errno.ENODEV, "not an IP address") from error
    return family, address


def _source(
    family: socket.AddressFamily, address: SocketAddress
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return our address on the way there, as the kernel's routes have it. Nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect(address)
            return ipaddress.ip_address(asking.getsockname()[0])
    except OSError:
        return None


def _written(address: SocketAddress) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
