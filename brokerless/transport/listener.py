"""The accepting half: one ROUTER, and what the kernel and libzmq know of each connection to it."""

from __future__ import annotations

import errno
import logging
import os
from time import monotonic
from typing import TYPE_CHECKING

import zmq

from brokerless.address import Address
from brokerless.transport import options
from brokerless.transport.descriptors import (
    EXHAUSTED,
    Fingerprint,
    Reserve,
    borrowed,
    descriptors_max,
    fingerprint,
    is_local,
    is_near,
    peer_user,
    shut_down,
)
from brokerless.transport.monitor import Monitor
from brokerless.transport.strangers import Strangers
from brokerless.transport.wake import NOBLOCK, NOBLOCK_MORE, TURN_S, Wake
from brokerless.transport.zap import ZAP_DOMAIN

if TYPE_CHECKING:
    import asyncio

    from brokerless.config import Limits
    from brokerless.identity import Identity
    from brokerless.transport.links import LinkTable

_log = logging.getLogger("dittobus")

PACKETS_PER_TURN = 32
"""Up to 2 MiB, a few milliseconds, before others get their turn; see ``TURN_S``, too."""

PARTS_PER_TURN = 1024
"""Of a message with too many parts, thrown away at half a microsecond each."""

STRANGERS_MAX = 1024
"""Connections that have not said HELLO; beyond it the oldest is hung up on, so that they stay bounded. A
thousand peers that dial a restarted node at once are all accepted before the first has proven its key."""

STRANGERS_SHARE = 4
"""And at most one in so many of the descriptors that this process may have."""

RETRY_S = 0.05
"""How long a busy link waits at most for a wake-up that was swallowed; see ``_retry_busy``."""

WARNING_INTERVAL_S = 60.0
"""Between two warnings of the same cause."""


class _Connection:
    """What is known of an accepted descriptor, from ACCEPTED to DISCONNECTED."""

    __slots__ = ("descriptor", "fingerprint", "link", "refused")

    def __init__(self, descriptor: int, fingerprint: Fingerprint) -> None:
        self.descriptor = descriptor
        self.fingerprint = fingerprint
        self.link: AcceptedLink | None = None
        self.refused = False  # hung up on; what still comes from it is nobody's


class AcceptedLink:
    """A connection that has spoken: its routing id is bound to its CURVE key and to its descriptor."""

    __slots__ = ("_listener", "connection", "number", "routing_id", "user_id")

    def __init__(self, listener: Listener, connection: _Connection, routing_id: bytes, user_id: str) -> None:
        self._listener = listener
        self.connection = connection
        self.routing_id = routing_id
        self.user_id = user_id
        self.number = 0

    @property
    def is_local(self) -> bool:
        """True if it came by ipc."""
        return is_local(self.connection.fingerprint)

    @property
    def is_near(self) -> bool:
        """True if it came by ipc, or from an address on loopback."""
        return is_near(self.connection.fingerprint)

    def send(self, packet: bytes) -> bool:
        """Hand the packet to ZeroMQ; False if the link has no room for it now."""
        return self._listener.send(self, packet)

    def cut(self) -> None:
        """Break the connection at once."""
        self._listener.cut(self)

    def confirm(self) -> None:
        """Lift the stranger's deadline."""
        self._listener.confirm(self)


class Listener:
    """Binds a ROUTER, opens a link for every peer that speaks, and hangs up on those that do not.

    Three sources say what happens to a connection: ACCEPTED and DISCONNECTED with its descriptor, and each
    message with ``SRCFD`` and ``User-Id``. libzmq writes ACCEPTED before the first message can come, and
    messages before DISCONNECTED; so all events are read before a new routing id is believed, and a link is
    closed only when everything received before its end was delivered.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: Identity,
        table: LinkTable,
        limits: Limits,
        packet_bytes_max: int,
    ) -> None:
        self._loop = loop
        self._table = table
        self._sink = table.sink
        self._connections: dict[int, _Connection] = {}
        self._links: dict[bytes, AcceptedLink] = {}
        self._departing: dict[AcceptedLink, int] = {}  # with the packets that may still precede the end
        self._busy: dict[int, AcceptedLink] = {}
        self._retrying = False
        self._retry_timer: asyncio.TimerHandle | None = None
        self._skipping = False  # in the middle of a message with too many parts
        self._warned: dict[str, float] = {}
        self._user = os.geteuid() if hasattr(os, "geteuid") else None
        self._strangers_max = min(STRANGERS_MAX, max(1, descriptors_max() // STRANGERS_SHARE))
        self._strangers = Strangers(loop, limits.handshake_timeout_s, self._expire)
        self._reserve = Reserve()
        self.socket = context.socket(zmq.ROUTER)
        try:
            self._set_options(identity, limits, packet_bytes_max)
            events = zmq.EVENT_ACCEPTED | zmq.EVENT_ACCEPT_FAILED | zmq.EVENT_DISCONNECTED
            self._monitor = Monitor(loop, context, self.socket, events, self._connection_changed)
            try:
                self._wake = Wake(loop, self.socket, self._look)
            except BaseException:
                self._monitor.close()
                raise
        except BaseException:
            self.socket.close()
            self._reserve.release()
            raise

    def _set_options(self, identity: Identity, limits: Limits, packet_bytes_max: int) -> None:
        options.set_common(self.socket, identity, packet_bytes_max=packet_bytes_max)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, max(1, int(limits.handshake_timeout_s * 1000)))
        self.socket.setsockopt(zmq.CURVE_SERVER, 1)
        self.socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)

    def close(self) -> None:
        """Hang up on everybody, and listen no more."""
        self._wake.close()
        self._monitor.close()
        self._strangers.close()
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        self.socket.close()
        self._reserve.release()

    # Sending

    def send(self, link: AcceptedLink, packet: bytes) -> bool:
        """Hand the packet to ZeroMQ; False if the link has no room for it now."""
        if link.number in self._busy:
            return False
        try:
            self.socket.send(link.routing_id, NOBLOCK_MORE)
        except zmq.Again:
            self._busy[link.number] = link
            if not self._retrying:
                self._wake.nudge()
            return False
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._depart(link)  # DISCONNECTED is on its way; what came before it is still to be delivered
            return False
        self.socket.send(packet, NOBLOCK)
        self._wake.nudge()
        return True

    def _retry_busy(self) -> None:
        """Let every busy link be tried again: which of them has room, only a send can tell.

        libzmq wakes us when a pipe that refused a packet has room again, but any call on the socket may
        swallow that signal, which is for all pipes together. So all of them are tried on each look, after
        everything waiting was read (which takes in all signals). A failed try does not ask for another look;
        the sends in here take in signals once a millisecond at most, so what they swallow is little: the
        timer makes up for it.
        """
        self._retrying = True
        try:
            for number in list(self._busy):
                if self._busy.pop(number, None) is not None and number in self._table:
                    self._sink.link_writable(number)
        finally:
            self._retrying = False
        if self._busy and self._retry_timer is None:
            self._retry_timer = self._loop.call_later(RETRY_S, self._retry_late)

    def _retry_late(self) -> None:
        self._retry_timer = None
        if self._busy:
            self._wake.nudge()

    # Receiving

    def _look(self) -> bool:
        """Receive a batch, let the departed go, let the busy try again; True if more may be waiting."""
        living = len(self._table)
        received, more = self._receive()
        told = received > 0
        if self._departing:
            told |= self._bury(received, more)
        if self._busy:
            told = True
            self._retry_busy()
        if told or len(self._table) != living:
            self._sink.turn_done()
        return more

    def _receive(self) -> tuple[int, bool]:
        """Deliver the packets of a turn; return how many, and whether more may be waiting."""
        receive, links, deliver = self.socket.recv, self._links, self._sink.link_message
        count, ends_at = 0, monotonic() + TURN_S
        while count < PACKETS_PER_TURN and monotonic() < ends_at:
            if self._skipping and not self._skip():
                break
            try:
                routing_id = receive(NOBLOCK)
            except zmq.Again:
                return count, False
            count += 1
            frame = receive(NOBLOCK, False)
            link = links.get(routing_id)
            # The key is compared on each packet (0.3 µs): libzmq lets another connection have the routing id
            # as soon as the first is gone, which may be before its end was seen here.
            if link is not None and not frame.more and frame.get("User-Id") == link.user_id:
                deliver(link.number, frame.bytes)
            else:
                self._receive_unusual(routing_id, link, frame)
        return count, True

    def _receive_unusual(self, routing_id: bytes, link: AcceptedLink | None, frame: zmq.Frame) -> None:
        """A packet that is no known link's: of a newcomer, of nobody any more, or against the rules."""
        self._skipping = bool(frame.more)
        self._monitor.sweep()
        user_id, descriptor = str(frame.get("User-Id")), int(frame.get(zmq.SRCFD))
        connection = self._connections.get(descriptor)
        if connection is None or connection.refused:
            return
        if link is not None and connection is not link.connection:
            # After a cut it is what the link had sent before, and the descriptor belongs to another by now.
            if link.user_id:
                self._refuse(connection, "another connection holds its routing id")
        elif link is None and (len(routing_id) != options.ROUTING_ID_BYTES or connection.link is not None):
            # Either a peer that does not keep the rules, or a last message of a connection whose descriptor
            # belongs to another one by now. Which, cannot be told; whoever is honest dials again.
            self._refuse(connection, "not the routing id of this connection")
        elif frame.more:
            self._refuse(connection, "malformed")
        elif link is None:
            self._open(connection, routing_id, user_id, frame.bytes)

    def _skip(self) -> bool:
        """Throw away the rest of a message with too many parts; False if there is more of it."""
        for _ in range(PARTS_PER_TURN):
            if not self.socket.recv(NOBLOCK, False).more:
                self._skipping = False
                return True
        return False

    def _open(self, connection: _Connection, routing_id: bytes, user_id: str, packet: bytes) -> None:
        link = AcceptedLink(self, connection, routing_id, user_id)
        link.number = self._table.add(link)
        connection.link = self._links[routing_id] = link
        self._sink.link_opened(link.number, Address(bytes.fromhex(user_id)))
        if link.number in self._table:
            self._sink.link_message(link.number, packet)

    # Ends

    def confirm(self, link: AcceptedLink) -> None:
        """Lift the stranger's deadline."""
        connection = link.connection
        if self._connections.get(connection.descriptor) is connection:
            self._strangers.lift(connection.descriptor)

    def cut(self, link: AcceptedLink) -> None:
        """Hang up. What it sent before is read and thrown away until libzmq says that it is gone."""
        link.user_id = ""  # no packet's
        self._busy.pop(link.number, None)
        self._hang_up(link.connection)

    def _refuse(self, connection: _Connection, reason: str) -> bool:
        """Hang up on a connection that broke the rules. True if it had a link, which is closed now."""
        _log.debug("hanging up on a connection: %s", reason)
        link = connection.link
        self._hang_up(connection)
        if link is None or not self._table.lose(link.number, reason):
            return False
        self.cut(link)
        return True

    def _expire(self, descriptor: int, why: str) -> None:
        connection = self._connections.get(descriptor)
        if connection is not None and self._refuse(connection, why):
            self._sink.turn_done()

    def _hang_up(self, connection: _Connection) -> None:
        connection.refused = True
        if self._connections.get(connection.descriptor) is connection:
            self._strangers.lift(connection.descriptor)
            shut_down(connection.descriptor, connection.fingerprint)

    def _depart(self, link: AcceptedLink) -> None:
        """The connection is gone; close the link once everything received before is delivered."""
        # ZeroMQ takes turns among its queues, so this many packets on, the last of this one's was among them.
        self._departing.setdefault(link, (options.QUEUE_PACKETS_MAX + 1) * (len(self._links) + 1))
        self._wake.nudge()

    def _bury(self, received: int, more: bool) -> bool:
        """Close the links of departed connections that have nothing left to deliver."""
        told = False
        for link, remaining in list(self._departing.items()):
            if not more or received >= remaining:
                del self._departing[link]
                if self._links.get(link.routing_id) is link:
                    del self._links[link.routing_id]
                self._busy.pop(link.number, None)
                self._hang_up(link.connection)
                told |= self._table.lose(link.number, "connection lost")
            else:
                self._departing[link] = remaining - received
        return told

    # What the monitor says. Nothing here calls the sink: it may come in the middle of a packet

    def _connection_changed(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._accepted(value)
        elif event == zmq.EVENT_DISCONNECTED:
            self._disconnected(value)
        elif event == zmq.EVENT_ACCEPT_FAILED and value in EXHAUSTED:
            self._reserve.release()
            self._warn("file descriptors have run out: whoever connects is refused (raise ulimit -n)")

    def _accepted(self, descriptor: int) -> None:
        self._disconnected(descriptor)  # in case libzmq closed its predecessor without a word
        try:
            with borrowed(descriptor) as peer:
                connection = _Connection(descriptor, fingerprint(peer))
                user = peer_user(peer)
        except OSError:
            return  # gone already; DISCONNECTED follows
        self._connections[descriptor] = connection
        if self._reserve.spent:
            self._hang_up(connection)
        elif user != self._user and user is not None:
            self._warn("another user of this host tried to connect by ipc, and was refused")
            self._hang_up(connection)
        else:
            self._strangers.set(descriptor)
            if len(self._strangers) > self._strangers_max:
                self._hang_up(self._connections[self._strangers.oldest()])

    def _disconnected(self, descriptor: int) -> None:
        connection = self._connections.pop(descriptor, None)
        if connection is not None:
            self._strangers.lift(descriptor)
            if connection.link is not None:
                self._depart(connection.link)
        if self._reserve.spent:
            self._reserve.refill()

    def _warn(self, text: str) -> None:
        now = self._loop.time()
        if now - self._warned.get(text, -WARNING_INTERVAL_S) >= WARNING_INTERVAL_S:
            self._warned[text] = now
            _log.warning(text)
