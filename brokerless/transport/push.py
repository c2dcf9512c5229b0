"""Datagrams where UDP is blocked: PUSH to the peer's PULL, unacknowledged, on connections of their own."""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING

import zmq

from brokerless.address import Address
from brokerless.errors import PortInUse, StartError
from brokerless.protocol.datagram import SEALED_BYTES_MAX
from brokerless.transport import options
from brokerless.transport.binding import bind
from brokerless.transport.descriptors import require_descriptors
from brokerless.transport.doorway import Doorway
from brokerless.transport.wake import NOBLOCK, Wake
from brokerless.transport.zap import PULL_DOMAIN

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from brokerless.config import Limits
    from brokerless.identity import Identity
    from brokerless.transport.links import LinkSink

_log = logging.getLogger("dittobus")

QUEUE_PACKETS_MAX = 128
"""libzmq's high-water mark each way. One message of 64 KiB is 58 packets, and of what has left a queue the
other end hears only when it is half of this: so one such message always fits into an empty queue. What does
not fit is dropped, since it would come too late."""

SEND_BUFFER_BYTES = 64 * 1024
"""SO_SNDBUF: as much again. The kernel's own choice grows to megabytes, and what waits in there is late."""

PACKETS_PER_TURN = 64
"""About half a millisecond before others get their turn."""

PARTS_PER_TURN = 1024
"""Of a message with too many parts, thrown away at half a microsecond each."""

REMOTES_MAX = 4096
"""Addresses remembered by the name that libzmq gives them; reading one anew costs a microsecond."""

CANDIDATES_MAX = 8
"""Places of one peer that are tried at once, each with a socket and a connection, until the first answers."""

CANDIDATE_DESCRIPTORS = 2
"""A PUSH of its own and its connection."""

SPARE_DESCRIPTORS = 4
"""Left for everybody else."""

STALLED_S = 1.0
"""Having taken nothing for so long, a connection is given up, and all places are tried again."""

RACE_S = 10.0
"""And so long after nobody answered: libzmq gives a place up for good where it was told no."""

RECONNECT_MS, RECONNECT_MAX_MS = 100, 1000
"""libzmq tries again after this long, twice as long each time."""

HANDSHAKE_MS = 1000
"""Whoever does not permit us, such as a peer that is just learning of us, says nothing at all, and only this
brings the next attempt; datagrams are to flow within 2 s. An honest handshake takes three round trips."""

CONNECT_TIMEOUT_MS = 2000
"""A lost SYN is sent again after 1 s; without a limit the kernel tries for two minutes, ever more rarely."""

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS, HEARTBEAT_TTL_MS = 1000, 2000, 5000
"""Few packets would take a quarter of an hour to fill the buffers of a connection that died without a word.
So libzmq asks each second and gives up after two; the other end does, hearing nothing for five."""


class Pull:
    """Binds a PULL, and hands on what permitted peers push, with the key they have proven.

    Who is permitted is asked once for each connection, by ZAP in ``PULL_DOMAIN``. Connections outlive the
    permission: what comes is opaque, and whoever cannot open it drops it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: Identity,
        sink: LinkSink,
        limits: Limits,
    ) -> None:
        self._sink = sink
        self._remotes: dict[str, Address] = {}
        self._skipping = False  # in the middle of a message with too many parts
        self._socket = context.socket(zmq.PULL)
        try:
            self._set_options(identity, limits)
            self._doorway = Doorway(loop, context, self._socket, limits.peers_max)
            try:
                self._wake = Wake(loop, self._socket, self._look)
            except BaseException:
                self._doorway.close()
                raise
        except BaseException:
            self._socket.close()
            raise

    def _set_options(self, identity: Identity, limits: Limits) -> None:
        _set_common(self._socket, identity)
        self._socket.setsockopt(zmq.RCVHWM, QUEUE_PACKETS_MAX)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, max(1, int(limits.handshake_timeout_s * 1000)))
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.ZAP_DOMAIN, PULL_DOMAIN)
        self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def bind(self, hosts: Sequence[str], port: int) -> tuple[str, ...]:
        """Listen on every host, on that port (0: any); return the places, as ``host:port``.

        It is a second port beside the one that was asked for, and may be somebody else's: then any will do,
        since peers are told. Raises ``StartError``.
        """
        try:
            endpoints = bind(self._socket, hosts, port, None)
        except PortInUse as error:
            if not port:
                raise
            _log.warning("%s; datagrams over TCP use another port", error)
            endpoints = bind(self._socket, hosts, 0, None)
        return tuple(endpoint.removeprefix("tcp://") for endpoint in endpoints)

    def close(self) -> None:
        """Hang up on everybody, and listen no more."""
        self._wake.close()
        self._doorway.close()
        self._socket.close()

    def _look(self) -> bool:
        """Hand on a batch; True if more may be waiting."""
        received = 0
        try:
            while received < PACKETS_PER_TURN:
                if self._skipping and not self._skip():
                    return True
                try:
                    frame = self._socket.recv(NOBLOCK, False)
                except zmq.Again:
                    return False
                received += 1
                if frame.more:
                    self._skipping = True
                    continue
                user_id = str(frame.get("User-Id"))
                self._sink.push_received(self._remotes.get(user_id) or self._remember(user_id), frame.bytes)
            return True
        finally:
            if received:
                self._sink.turn_done()

    def _skip(self) -> bool:
        """Throw away the rest of a message with too many parts; False if there is more of it."""
        for _ in range(PARTS_PER_TURN):
            if not self._socket.recv(NOBLOCK, False).more:
                self._skipping = False
                return True
        return False

    def _remember(self, user_id: str) -> Address:
        if len(self._remotes) >= REMOTES_MAX:
            self._remotes.clear()
        remote = self._remotes[user_id] = Address(bytes.fromhex(user_id))
        return remote


class Push:
    """A connection to one peer's PULL: to whichever of its places answers first.

    A socket is tried for each place; the first whose peer has proven its key stays, and libzmq connects it
    again when it breaks. Queued is only what a living connection takes (``IMMEDIATE``). When it breaks, what
    it had is gone, and nobody is told, which is what datagrams are about.
    """

    __slots__ = ("_context", "_identity", "_loop", "_racing", "_remote", "_socket", "_stalled_at", "places")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: Identity,
        remote: Address,
        places: Sequence[str],
    ) -> None:
        self._loop = loop
        self._context = context
        self._identity = identity
        self._remote = remote
        self.places = tuple(places)
        self._racing: dict[zmq.Socket[bytes], Wake] = {}
        self._socket: zmq.Socket[bytes] | None = None
        self._stalled_at: float | None = None
        self._race()

    @property
    def is_connected(self) -> bool:
        """True once a place has answered; the connection may have broken since."""
        return self._socket is not None

    def send(self, data: bytes) -> bool:
        """Hand a packet to libzmq, or drop it: False if there is no connection, or no room. Never waits."""
        if self._socket is not None and (_sent(self._socket, data) or _sent_late(self._socket, data)):
            self._stalled_at = None
            return True
        self._stalled()
        return False

    def close(self) -> None:
        """Hang up; what was not sent is dropped."""
        self._end_race()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _stalled(self) -> None:
        now = self._loop.time()
        if self._stalled_at is None:
            self._stalled_at = now
        elif now - self._stalled_at >= (RACE_S if self._racing else STALLED_S):
            self.close()
            self._race()

    def _race(self) -> None:
        """Try all places at once."""
        self._stalled_at = None
        places = [place for place in self.places if _is_numeric(place)][:CANDIDATES_MAX]
        try:
            require_descriptors(CANDIDATE_DESCRIPTORS * len(places) + SPARE_DESCRIPTORS)
        except StartError as error:
            _log.debug("cannot push to %s: %s", self._remote, error)  # tried again when it is sent to
            return
        for place in places:
            try:
                self._connect(place)
            except zmq.ZMQError as error:
                _log.debug("cannot push to %s at %s: %s", self._remote, place, error)

    def _connect(self, place: str) -> None:
        socket = self._context.socket(zmq.PUSH)
        try:
            _set_common(socket, self._identity)
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._remote.public_key)
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.SNDHWM, QUEUE_PACKETS_MAX)
            socket.setsockopt(zmq.SNDBUF, SEND_BUFFER_BYTES)
            socket.setsockopt(zmq.RCVHWM, 1)  # nothing is ever read
            socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
            socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
            socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
            socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TTL_MS)
            socket.setsockopt(zmq.IPV6, int("[" in place))
            socket.connect(f"tcp://{place}")
            self._racing[socket] = Wake(self._loop, socket, lambda: self._look(socket))
        except BaseException:
            socket.close()
            raise

    def _look(self, socket: zmq.Socket[bytes]) -> bool:
        """See whether this one has won: it takes packets only when the other end has proven its key."""
        if int(socket.get(zmq.EVENTS)) & zmq.POLLOUT:
            # Nobody needs to look after it from now on: sending takes in all signals.
            self._racing.pop(socket).close()
            self._end_race()
            self._socket = socket
            self._stalled_at = None
        return False

    def _end_race(self) -> None:
        for socket, wake in self._racing.items():
            wake.close()
            socket.close()
        self._racing.clear()


def _sent(socket: zmq.Socket[bytes], data: bytes) -> bool:
    try:
        socket.send(data, NOBLOCK)
    except zmq.Again:
        return False
    return True


def _sent_late(socket: zmq.Socket[bytes], data: bytes) -> bool:
    """Try again if there is room after all: by itself, a send looks for it once a millisecond at most."""
    return bool(int(socket.get(zmq.EVENTS)) & zmq.POLLOUT) and _sent(socket, data)


def _set_common(socket: zmq.Socket[bytes], identity: Identity) -> None:
    socket.setsockopt(zmq.CURVE_SECRETKEY, identity.secret)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, identity.public)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, SEALED_BYTES_MAX + options.CURVE_OVERHEAD_BYTES)


def _is_numeric(place: str) -> bool:
    """False for a name, which libzmq would look up in its I/O thread while all links wait."""
    try:
        ipaddress.ip_address(place.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True
