"""The dialling half: one DEALER for each link."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from time import monotonic
from typing import TYPE_CHECKING

import zmq

from brokerless.address import Address, parse_endpoint
from brokerless.errors import StartError
from brokerless.transport import options
from brokerless.transport.deadlines import Deadlines
from brokerless.transport.descriptors import is_loopback, require_descriptors
from brokerless.transport.monitor import Monitor
from brokerless.transport.wake import NOBLOCK, TURN_S, Wake

if TYPE_CHECKING:
    import asyncio

    from brokerless.config import Limits
    from brokerless.identity import Identity
    from brokerless.transport.links import LinkTable

PACKETS_PER_TURN = 32
"""Up to 2 MiB, a few milliseconds, before others get their turn; see ``TURN_S``, too."""

DIAL_DESCRIPTORS = 8
"""A DEALER takes 4: one of its own, two for its monitor, and the connection. The rest is for the others."""

RECONNECT_NEVER_MS = 24 * 3600 * 1000
"""A DEALER is closed as soon as its connection ends, so it never gets to reconnect. But told so (-1, or with
IMMEDIATE), libzmq throws away at the cut what was received and not yet read, such as a goodbye."""

EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)

UNREACHABLE = "nobody listens there"
REFUSED = "hung up in the handshake: not the peer we expect, or it lets nobody in"
NO_PEER = "what listens there speaks another language"
LOST = "connection lost"
MALFORMED = "malformed"


class Dialer:
    """Opens links to others, each within the handshake timeout or not at all."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: Identity,
        table: LinkTable,
        limits: Limits,
        packet_bytes_max: int,
    ) -> None:
        self.loop = loop
        self.context = context
        self.table = table
        self._identity = identity
        self._timeout_s = limits.handshake_timeout_s
        self._packet_bytes_max = packet_bytes_max
        self._links: set[DialledLink] = set()
        self._deadlines: Deadlines[DialledLink] = Deadlines(loop, limits.handshake_timeout_s, self._expire)

    def dial(self, endpoint: str, server: Address) -> int:
        """Begin to connect; the link opens or closes later. Raises ``ConfigError``, ``StartError``."""
        parse_endpoint(endpoint)
        require_descriptors(DIAL_DESCRIPTORS)
        link = DialledLink(self, server)
        link.begin(endpoint)
        link.number = self.table.add(link)
        self._links.add(link)
        self._deadlines.set(link)
        return link.number

    def close(self) -> None:
        """Hang up on everybody, and dial no more."""
        self._deadlines.close()
        for link in list(self._links):
            link.cut()

    def reached(self, link: DialledLink) -> None:
        """The link is open: its deadline does not matter any more."""
        self._deadlines.lift(link)

    def ended(self, link: DialledLink) -> None:
        """The link is over."""
        self._deadlines.lift(link)
        self._links.discard(link)

    def make_socket(self, host: str, server: Address) -> zmq.Socket[bytes]:
        """Return a DEALER that speaks to that server only. It has no time limit: the link has."""
        dealer = self.context.socket(zmq.DEALER)
        try:
            options.set_common(dealer, self._identity, packet_bytes_max=self._packet_bytes_max)
            options.set_place(dealer, host)
            dealer.setsockopt(zmq.CURVE_SERVERKEY, server.public_key)
            dealer.setsockopt(zmq.ROUTING_ID, _fresh_routing_id())
            dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_NEVER_MS)
            dealer.setsockopt(zmq.HANDSHAKE_IVL, 0)
        except BaseException:
            dealer.close()
            raise
        return dealer

    def _expire(self, link: DialledLink) -> None:
        link.end(f"no answer within {self._timeout_s:g} s")


class DialledLink:
    """A DEALER with its monitor, from the dial to the end of its only connection."""

    def __init__(self, dialer: Dialer, server: Address) -> None:
        self.number = 0
        self.is_local = False
        self.is_near = False
        self._dialer = dialer
        self._server = server
        self._resolving: asyncio.Task[None] | None = None
        self._places: list[str] = []  # endpoints to be tried after the present one
        self._socket: zmq.Socket[bytes] | None = None
        self._wake: Wake | None = None
        self._monitor: Monitor | None = None
        self._reason = UNREACHABLE  # if the connection ends now
        self._opened = False
        self._busy = False
        self._departed = False

    def begin(self, endpoint: str) -> None:
        """Connect, after finding the addresses of a host that was given by name."""
        scheme, host, port = _parts(endpoint)
        self.is_local = scheme == "ipc"
        if self.is_local or _is_address(host):
            self._connect(endpoint)
        else:
            # libzmq would ask the resolver in its I/O thread, and all links would wait for the answer.
            self._resolving = self._dialer.loop.create_task(self._resolve(host, port))

    async def _resolve(self, host: str, port: str) -> None:
        try:
            found = await self._dialer.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # the latter: a name that cannot be
            self._resolving = None
            self.end(f"{host}: {error}")
            return
        self._resolving = None
        hosts = dict.fromkeys(str(address[0]) for *_, address in found)
        self._places = [f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}" for host in hosts]
        self._try_next(UNREACHABLE)

    def _connect(self, endpoint: str) -> None:
        dialer, host = self._dialer, _parts(endpoint)[1]
        self.is_near = self.is_local or is_loopback(host)
        try:
            self._socket = dialer.make_socket(host, self._server)
            self._monitor = Monitor(
                dialer.loop, dialer.context, self._socket, EVENTS, self._connection_changed
            )
            self._wake = Wake(dialer.loop, self._socket, self._look)
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._close_socket()
            raise StartError(f"cannot dial {endpoint}: {error.strerror}") from error

    def _connection_changed(self, event: int, _value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self._reason = REFUSED
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._reason = NO_PEER
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._open()
        elif self._opened:
            self._departed = True
            if self._wake is not None:
                self._wake.nudge()
        else:
            self._try_next(self._reason)

    def _open(self) -> None:
        self._opened = True
        self._places = []
        self._dialer.reached(self)
        sink = self._dialer.table.sink
        sink.link_opened(self.number, self._server)
        sink.turn_done()
        if self._wake is not None:
            self._wake.nudge()

    # Packets

    def send(self, packet: bytes) -> bool:
        """Hand the packet to ZeroMQ; False if the link has no room for it now."""
        if self._busy or not self._opened or self._socket is None or self._wake is None:
            return False
        self._wake.nudge()
        try:
            self._socket.send(packet, NOBLOCK)
        except zmq.Again:
            self._busy = True
            return False
        return True

    def _look(self) -> bool:
        """Receive a batch, and let the link be tried again if it was busy; True if more may be waiting."""
        if not self._opened:
            if self._socket is not None:
                self._socket.get(zmq.EVENTS)  # takes the signal in: the descriptor must not stay readable
            return False
        received, more = self._receive()
        told = received > 0
        if self._busy and self._socket is not None:
            events = int(self._socket.get(zmq.EVENTS))
            more |= bool(events & zmq.POLLIN)  # asking may have swallowed its signal
            if events & zmq.POLLOUT:
                self._busy = False
                told = True
                self._dialer.table.sink.link_writable(self.number)
        if self._departed and not more:
            self.end(LOST)  # everything received before is delivered
        elif told:
            self._dialer.table.sink.turn_done()
        return more

    def _receive(self) -> tuple[int, bool]:
        """Deliver the packets of a turn; return how many, and whether more may be waiting."""
        deliver = self._dialer.table.sink.link_message
        count, ends_at = 0, monotonic() + TURN_S
        while count < PACKETS_PER_TURN and monotonic() < ends_at:
            if self._socket is None:
                return count, False
            try:
                frame = self._socket.recv(NOBLOCK, False)
            except zmq.Again:
                return count, False
            if frame.more:
                self.end(MALFORMED)
                return count, False
            deliver(self.number, frame.bytes)
            count += 1
        return count, True

    # Ends

    def confirm(self) -> None:
        """Do nothing: who was dialled has proven its key by answering at all."""

    def cut(self) -> None:
        """Break the connection at once."""
        self._dialer.ended(self)
        if self._resolving is not None:
            self._resolving.cancel()
        self._close_socket()

    def end(self, reason: str) -> None:
        """Break the connection, and say so."""
        self.cut()
        if self._dialer.table.lose(self.number, reason):
            self._dialer.table.sink.turn_done()

    def _try_next(self, reason: str) -> None:
        """An attempt failed; go on to the next address of the host, if there is one."""
        self._close_socket()
        while self._places:
            try:
                self._connect(self._places.pop(0))
            except StartError as error:
                reason = str(error)
            else:
                self._reason = UNREACHABLE
                return
        self.end(reason)

    def _close_socket(self) -> None:
        if self._wake is not None:
            self._wake.close()
        if self._monitor is not None:
            self._monitor.close()
        if self._socket is not None:
            self._socket.close()
        self._wake = self._monitor = self._socket = None


def _fresh_routing_id() -> bytes:
    """Random; the first byte is not 0, which libzmq keeps for ids of its own making."""
    return bytes([secrets.randbelow(255) + 1]) + secrets.token_bytes(options.ROUTING_ID_BYTES - 1)


def _parts(endpoint: str) -> tuple[str, str, str]:
    """Scheme, host and port; ipc has neither host nor port."""
    scheme, _, place = endpoint.partition("://")
    if scheme == "ipc":
        return scheme, "", ""
    host, _, port = place.rpartition(":")
    return scheme, host.strip("[]"), port


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
