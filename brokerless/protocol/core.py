"""What a node does, without I/O: links, handshakes, peers, sessions and the dial plan under one roof.

The shell (``brokerless.node``, or the simulator) moves bytes and keeps the clock::

    inputs    dialled, dial_failed, link_opened, link_message, link_closed, udp_received, push_received,
              learn, admitted, expire, stalled
    commands  send, open_stream, accept, want, announce, tell_places, tell_datagram_places, leave, farewell,
              and the streams' own
    outputs   take_actions, take_sendable + next_message, take_events, next_deadline

After every input or command the shell drains the outputs. ``wake`` is called when a command made some, so
that nobody need ask in vain.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from brokerless.errors import (
    BusClosed,
    PeerLost,
    PeerRefused,
    RemoteProtocolError,
    UnknownPeer,
)
from brokerless.model import DropCause, LossReason, NodeStats, PeerChanged, Reliability, SendDone, Traffic
from brokerless.protocol import wire
from brokerless.protocol.actions import Action, Admit, Confirm, Cut, Dial, Push, Refused, Superseded
from brokerless.protocol.association import Nonce
from brokerless.protocol.budget import Budget
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.datagram_stream import KINDS
from brokerless.protocol.datagrams import SINGLE
from brokerless.protocol.gossip import Gossip
from brokerless.protocol.handshake import Handshake, Refusal, Role, State
from brokerless.protocol.paths import parse_places
from brokerless.protocol.peering import Link, LinkPhase, Peering
from brokerless.protocol.roster import Roster
from brokerless.protocol.session import Session, SessionState
from brokerless.protocol.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.model import Event, Peer
    from brokerless.protocol.incarnation import Incarnation
    from brokerless.protocol.paths import UdpPlace
    from brokerless.protocol.stream import Stream

LAST_WORD_S = 0.25
"""How long a link stays after a refusal or goodbye, so that the word gets out before the cut."""

DEADLINE_LATER_S = 0.25
"""A session's deadline moves with each packet, mostly to later. One that is so much too early is moved, or an
idle node would wake for it; for less it may come for nothing."""

ADMIT_HELD_BYTES_MAX = 512 * 1024
"""What may come on a link before ``admit`` has decided: twice what a fresh session has in flight."""


class NodeCore:
    """The pure half of a node. See the module's text for the order of calls.

    It is the ``PeeringHost`` and the ``GossipHost``.
    """

    def __init__(
        self,
        *,
        address: Address,
        incarnation: Incarnation,
        mesh_key: bytes,
        limits: Limits,
        wake: Callable[[], None],
        name: str = "",
        metadata: bytes = b"",
        asks_admission: bool = False,
        allowed: Container[Address] | None = None,
        versions: Sequence[int] = (wire.VERSION,),
        plane: DatagramPlane | None = None,
        gossips: bool = False,
    ) -> None:
        self.address = address
        self.boot = incarnation.boot
        self.claim = incarnation.claim
        self.name = name
        self.metadata = metadata
        self.tcp_places = ""
        """Where others may dial us, as INFO tells it, for peers to tell each other; see ``tell_places``."""
        self.asks_admission = asks_admission
        self._allowed = allowed
        self.limits = limits
        self.roster = Roster(address, limits)
        self.handshakes_refused = 0
        self.dials_failed = 0
        self._incarnation = incarnation
        self._mesh_key = mesh_key
        self._versions = versions
        self._wake = wake
        self._budget = Budget(limits.memory_bytes_max)
        self._plane = plane if plane is not None else DatagramPlane()
        self._gossip = Gossip(address, self) if gossips else None
        self._peers: dict[Address, Peering] = {}
        self._links: dict[int, Link] = {}
        self._links_with: dict[Address, dict[int, Link]] = {}  # the same, by who is at the other end
        self._timers: Timers[Address | int] = Timers()  # of sessions by address, of links by number
        self._expected: Timers[Address] = Timers()  # who may come back, and how long
        self._touched: dict[Address, None] = {}  # in order, so that a run is repeated exactly
        self._sendable: dict[int, None] = {}  # an ordered set: who asked first goes first
        self._actions: list[Action] = []
        self._cut: set[int] = set()  # links that the actions cut
        self._events: list[Event] = []
        self._epoch = 0
        self._opened = 0  # links, since the start
        self._send_id = 0
        self._liveness_s: float | None = None  # until a session begins or ends: each late turn asks for it
        self._dropped: Counter[DropCause] = Counter()  # in sessions that are over
        self._past_traffic = Traffic()
        self._leaving = False
        self._left = False

    # Queries

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Everybody known and not lost."""
        return tuple(peering.snapshot() for peering in self._peers.values() if peering.loss is None)

    def peer(self, address: Address) -> Peer | None:
        """Return a snapshot of that peer, or None."""
        peering = self._peers.get(address)
        return peering.snapshot() if peering is not None and peering.loss is None else None

    def session(self, address: Address) -> Session | None:
        """Return the present session with that peer, or None."""
        peering = self._peers.get(address)
        return None if peering is None else peering.session

    @property
    def sessions(self) -> list[Session]:
        """All present sessions."""
        return [peering.session for peering in self._peers.values() if peering.session is not None]

    @property
    def liveness_s(self) -> float:
        """The shortest liveness limit in force; by it one may tell if this process stood still for long."""
        if self._liveness_s is None:
            limits = (session.liveness.limit_s for session in self.sessions)
            self._liveness_s = min(limits, default=self.limits.liveness_s)
        return self._liveness_s

    @property
    def is_drained(self) -> bool:
        """True when nothing waits to be sent or acknowledged, and no stream is open."""
        return all(session.is_idle and not session.streams for session in self.sessions)

    @property
    def has_parted(self) -> bool:
        """True when no last word is under way any more: who hears one hangs up."""
        return not any(link.phase is LinkPhase.ENDING for link in self._links.values())

    @property
    def has_output(self) -> bool:
        """True when a link has something to say."""
        return bool(self._sendable)

    @property
    def has_work(self) -> bool:
        """True when there is anything for the shell to do but to tell of events."""
        return bool(self._sendable or self._actions or self._touched)

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, or None."""
        while self._touched:
            address, _ = self._touched.popitem()
            session = self.session(address)
            if session is not None:
                self._timers.set_about(address, session.next_deadline(), DEADLINE_LATER_S)
        gossip_at = None if self._gossip is None else self._gossip.next_deadline()
        timers = (self._timers.next_deadline(), self._expected.next_deadline())
        deadlines = (*timers, self.roster.next_deadline(), gossip_at)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def stats(self) -> NodeStats:
        """Return the counters; those of discovery are the shell's."""
        dropped = self._dropped + Counter(self._plane.dropped)
        for session in self.sessions:
            dropped.update(session.dropped)
        traffic = [session.traffic() for session in self.sessions]
        return NodeStats(
            traffic=Traffic.total((self._past_traffic, self._plane.traffic(), *traffic)),
            peers=sum(peering.joined for peering in self._peers.values()),
            links=len(self._links),
            handshakes_refused=self.handshakes_refused,
            dials_failed=self.dials_failed,
            rejected_records=0 if self._gossip is None else self._gossip.refused,
            hearsay_failed=0 if self._gossip is None else self._gossip.failed,
            dropped=dict(dropped),
        )

    # Inputs: links

    def dialled(self, link: int, remote: Address, endpoint: str, now: float) -> None:
        """The shell dials; ``link_opened`` or ``link_closed`` of that link follows."""
        self._add_link(link, remote, LinkPhase.CONNECTING, Role.DIALLER, endpoint, now)

    def dial_failed(self, remote: Address, endpoint: str, now: float) -> None:
        """The shell could not even try."""
        self.dials_failed += 1
        self.roster.dial_failed(remote, endpoint, now)

    def link_opened(
        self, link: int, remote: Address, now: float, is_local: bool = False, is_near: bool = False
    ) -> None:
        """A dialled link is connected, or ``remote``, by its CURVE key, has made one to us.

        ``is_local``: by ipc. ``is_near``: by ipc or loopback, so from this host.
        """
        present = self._links.get(link)
        if link in self._cut:
            return  # a dialled one that came to be needless; the shell has not cut it yet
        if present is None:
            if remote == self.address:
                self._actions.append(Cut(link, "it is our own"))
            elif self._left:
                self._actions.append(Cut(link, "too late"))
            else:
                self._add_link(link, remote, LinkPhase.HELLO, Role.ACCEPTOR, "", now)
                self._links[link].is_local = is_local
                self._links[link].is_near = is_near or is_local
                self._number(self._links[link])
        elif present.phase is LinkPhase.CONNECTING:
            present.phase = LinkPhase.HELLO
            present.is_near |= is_near
            self._number(present)
            hello = present.handshake.start()
            assert hello is not None  # a dialler speaks first
            self.say(present, hello)

    def _number(self, link: Link) -> None:
        self._opened += 1
        link.opened = self._opened

    def _add_link(
        self, number: int, remote: Address, phase: LinkPhase, role: Role, endpoint: str, now: float
    ) -> None:
        handshake = Handshake(
            role, mesh_key=self._mesh_key, local=self.address, remote=remote, versions=self._versions
        )
        link = self._links[number] = Link(number, remote, phase, handshake, endpoint)
        self._links_with.setdefault(remote, {})[number] = link
        self._timers.set(number, now + self.limits.handshake_timeout_s)

    def link_closed(self, link: int, reason: str, now: float) -> None:
        """A link failed, or the other side cut it."""
        present = self._links.get(link)
        if present is not None:
            self.dials_failed += present.phase is LinkPhase.CONNECTING
            self._forget_link(present, now)

    def _forget_link(self, link: Link, now: float) -> None:
        del self._links[link.id]
        del self._links_with[link.remote][link.id]
        if not self._links_with[link.remote]:
            del self._links_with[link.remote]
        self._timers.remove(link.id)
        self._sendable.pop(link.id, None)
        peering = self._peers.get(link.remote)
        if peering is not None:
            peering.link_gone(link, now)
        if link.endpoint:
            self.roster.dial_failed(link.remote, link.endpoint, now)  # no effect on one that had succeeded
        self._prune(link.remote, now)

    def _prune(self, address: Address, now: float) -> None:
        """Forget who is neither heard of, nor linked, nor waited for: passers-by must not cost memory.

        Who was told of a session may have begun it, though its answer died with the link: it may come back.
        """
        peering = self._peers.get(address)
        if peering is None or peering.links or peering.joined:
            return
        if address in self.roster or self._is_awaited(address):
            return
        if peering.session is None:
            del self._peers[address]
        elif now < peering.expected_until:
            self._expected.set(address, peering.expected_until)
        else:
            del self._peers[address]
            peering.session.datagrams.session_ended()  # it never got so far as to have more to end

    def link_message(self, link: int, data: bytes, now: float) -> None:
        """A ZeroMQ message came."""
        present = self._links.get(link)
        if present is None or present.phase is LinkPhase.CONNECTING:
            return
        if present.phase is LinkPhase.ENDING:
            if _is_goodbye(data):
                self.cut(present, "both have said goodbye", now)
            return
        try:
            if present.phase is LinkPhase.HELLO:
                self._hello(present, data, now)
            elif present.phase is LinkPhase.ADMISSION:
                self._hold(present, data, now)
            else:
                self._packet(present, data, now)
        except RemoteProtocolError as error:
            self._fault(present, error, now)

    def _hello(self, link: Link, data: bytes, now: float) -> None:
        if not link.endpoint:  # who dials us may be turned away; whom we dial we want
            if self._allowed is not None and link.remote not in self._allowed:
                link.handshake.deny(Refusal.NOT_ADMITTED, "this address is not on the list")
            elif link.remote not in self._peers and len(self._peers) >= self.limits.peers_max:
                link.handshake.deny(Refusal.FULL, f"{len(self._peers)} peers are enough")
        replies = link.handshake.receive(data)
        if link.handshake.state is State.REFUSED:
            self.handshakes_refused += 1
            refusal = link.handshake.refusal
            assert refusal is not None
            if replies:
                self.end_link(link, replies[0], now)
            else:
                self._refused(link, refusal, now)
            return
        for reply in replies:
            self.say(link, reply)
        link.phase = LinkPhase.INFO
        self._actions.append(Confirm(link.id))
        peering = self._peering(link.remote)
        peering.links[link.id] = link
        peering.announce(link, now)

    def _refused(self, link: Link, refusal: PeerRefused, now: float) -> None:
        """The peer we dialled will not have us: who waits for it need not wait longer."""
        self._actions.append(Refused(refusal))
        self.cut(link, str(refusal), now)
        peering = self._peers.get(link.remote)
        if peering is not None and peering.session is not None:
            if peering.session.state is SessionState.FRESH:
                peering.end(LossReason.EXPELLED, refusal, now)
        self.roster.rest(link.remote, now)

    def _packet(self, link: Link, data: bytes, now: float) -> None:
        packet = wire.decode_packet(data)
        self._peering(link.remote).packet(link, packet, len(data), now)

    def _hold(self, link: Link, data: bytes, now: float) -> None:
        link.held_bytes += len(data)
        if link.held_bytes > ADMIT_HELD_BYTES_MAX:
            self.cut(link, "too much came before admission", now)
        else:
            link.held.append(data)

    def _fault(self, link: Link, error: RemoteProtocolError, now: float) -> None:
        """The peer broke the rules: its conversation ends with the reason, everybody else's goes on."""
        peering = self._peers.get(link.remote)
        if link.phase is LinkPhase.HELLO or peering is None:
            self.handshakes_refused += 1
            self.cut(link, str(error), now)
            return
        farewell = wire.Goodbye(wire.Farewell.FAULT, str(error)[:200])
        lost = PeerLost(f"expelled: {error}", reason=LossReason.EXPELLED.value, peer=link.remote)
        lost.__cause__ = error
        peering.end(LossReason.EXPELLED, lost, now, farewell)
        self.roster.rest(link.remote, now)

    def admitted(self, link: int, refusal: str | None, now: float) -> None:
        """The application has decided: None lets the peer in, a text says why not."""
        present = self._links.get(link)
        if present is None or present.phase is not LinkPhase.ADMISSION:
            return
        peering = self._peering(present.remote)
        if refusal is not None:
            self.handshakes_refused += 1
            error = PeerRefused(reason=refusal, peer=present.remote)
            peering.end(LossReason.EXPELLED, error, now, wire.Goodbye(wire.Farewell.REFUSED, refusal[:200]))
            self.roster.rest(present.remote, now)
            return
        info, held = present.info, present.held
        present.info, present.held, present.held_bytes = None, [], 0
        assert info is not None
        self._timers.set(present.id, now + self.limits.handshake_timeout_s)
        try:
            peering.associate(present, info, now)
        except RemoteProtocolError as error:
            self._fault(present, error, now)
        for data in held:
            self.link_message(link, data, now)

    # Inputs: datagrams

    def udp_received(self, place: UdpPlace, datagram: bytes, now: float) -> None:
        """A UDP packet came from there."""
        self._plane.udp_received(place, datagram, now)

    def push_received(self, sealed: bytes, now: float) -> None:
        """A datagram came by PUSH."""
        self._plane.received(sealed, None, now)

    def permits_push(self, remote: Address) -> bool:
        """Whether that peer, by its CURVE key, may connect its PUSH: one we have a session with."""
        peering = self._peers.get(remote)
        return peering is not None and peering.joined

    # Inputs: discovery and time

    def learn(
        self,
        address: Address,
        source: str,
        endpoints: Sequence[str],
        boot: int,
        now: float,
        ours: bool | None = None,
    ) -> None:
        """A discovery says where a peer may be; no endpoints: the source has withdrawn it.

        ``ours``: whose turn to dial it is, if that is known (see ``Roster.learn``).
        """
        if address == self.address or (self._allowed is not None and address not in self._allowed):
            return
        known = self.roster.learn(address, source, endpoints, boot, now, ours)
        peering = self._peers.get(address)
        if not known:
            self._prune(address, now)
        elif peering is None:
            peering = self._peering(address)
            peering.is_dialled = self.roster.is_dialling(address)
            self.emit(PeerChanged(peering.snapshot()))

    def expire(self, now: float) -> None:
        """Act on what time has come for."""
        self.next_deadline()  # takes in what was touched since
        for key in self._timers.pop_due(now):
            if isinstance(key, int):
                # One before it may have cut it, or given it the time for a last word.
                if key in self._links and key not in self._timers:
                    self._link_expired(self._links[key], now)
            elif (peering := self._peers.get(key)) is not None:
                peering.expire(now)
                self._prune(key, now)
        for address in self._expected.pop_due(now):
            self._prune(address, now)
        if self._gossip is not None:
            self._gossip.expire(now)
        for address, endpoint in self.roster.plan(now):
            if not self._leaving or self._is_awaited(address):
                self._actions.append(Dial(address, endpoint))
            else:
                self.roster.dial_failed(address, endpoint, now)

    def _is_awaited(self, address: Address) -> bool:
        """True if there is something to say to that peer still."""
        session = self.session(address)
        return session is not None and not (session.is_idle and not session.streams)

    def _link_expired(self, link: Link, now: float) -> None:
        if link.phase is LinkPhase.ADMISSION:
            self.admitted(link.id, "nobody decided in time", now)
        elif link.phase is LinkPhase.ENDING:
            self.cut(link, "done", now)
        else:
            self.dials_failed += link.phase is LinkPhase.CONNECTING
            self.cut(link, f"no {link.phase.value} in time", now)

    def stalled(self, now: float) -> None:
        """This process stood still for long: nobody is lost, nothing older is believed, without asking."""
        for session in self.sessions:
            session.stalled(now)
            self.touch(session.remote)

    # Commands

    def send(
        self,
        data: bytes,
        to: Address,
        reliability: Reliability,
        channel: int,
        deadline: float | None,
        now: float,
    ) -> int:
        """Send a single message; ``SendDone`` with the id follows. Raises ``UsageError``, ``PeerError``."""
        session = self._session_to(to, now)
        self._send_id += 1
        if reliability is Reliability.RELIABLE:
            session.singles.send(channel, data, self._send_id, deadline)
        else:
            drop = session.datagrams.send(KINDS[reliability], SINGLE, channel, data)
            self.emit(SendDone(self._send_id, drop and drop.error))
        return self._send_id

    def transmit(self, data: bytes, to: Address, reliability: Reliability, channel: int, now: float) -> None:
        """Send a single unreliable message, now or not at all; nothing follows.

        Raises ``NoPath``, ``SendQueueFull``, and what ``send`` does.
        """
        drop = self._session_to(to, now).datagrams.send(KINDS[reliability], SINGLE, channel, data)
        if drop is not None:
            raise drop.error

    def open_stream(
        self,
        to: Address,
        reliability: Reliability,
        name: str,
        metadata: bytes,
        deadline: float | None,
        now: float,
    ) -> Stream:
        """Offer a stream; ``StreamOpened`` or ``StreamEnded`` follows. Raises as ``send`` does."""
        return self._session_to(to, now).open_stream(reliability, name, metadata, deadline)

    def accept(self, stream: Stream, metadata: bytes) -> None:
        """Take an offered stream. One that is over by now stays over."""
        session = self.session(stream.peer)
        if session is not None and session.streams.get(stream.id) is stream:
            session.accept(stream, metadata)

    def _session_to(self, to: Address, now: float) -> Session:
        peering = self._peers.get(to)
        if to == self.address:
            raise UnknownPeer(
                f"{to.short} is this node itself",
                peer=to,
                hint="a conversation is between two: make another node for the other end",
            )
        if peering is None:
            raise UnknownPeer(
                f"no peer {to.short} is known: none was heard of, or it has left",
                peer=to,
                hint="wait_for_peer, or give its ticket in peers=",
            )
        if peering.loss is not None:
            raise PeerLost(reason=peering.loss.value, peer=to, hint="wait_for_peer until it is back")
        session = peering.session_for_use(now)
        if not session.links:
            self.roster.set_waiting(to, True)
            self.want(to, now)
        return session

    def want(self, address: Address, now: float) -> None:
        """Dial a known peer, whatever the size of the roster."""
        self.roster.want(address, now)
        peering = self._peers.get(address)
        if peering is not None and not peering.is_dialled and self.roster.is_dialling(address):
            peering.is_dialled = True
            if peering.loss is None:
                self.emit(PeerChanged(peering.snapshot()))
        self._wake()

    def expect_datagrams(self, address: Address) -> None:
        """Find out which path takes datagrams to that peer, as a message would; none is sent."""
        session = self.session(address)
        if session is not None:
            session.datagrams.expect()
            self._wake()

    def announce(self, name: str, metadata: bytes, now: float) -> None:
        """Change what every peer is told of this node."""
        self.name, self.metadata = name, metadata
        self._announce(now)

    def tell_places(self, places: str, now: float) -> None:
        """Say that we may be dialled there (``host:port``, comma separated), for peers to tell others."""
        if places != self.tcp_places:
            self.tcp_places = places
            self._announce(now)

    def tell_datagram_places(self, udp: str, pull: str, now: float) -> None:
        """Say that datagrams are received there, by UDP and by PUSH (``host:port``, comma separated)."""
        if (udp, pull) != (self._plane.udp_places, self._plane.pull_places):
            self._plane.udp_places, self._plane.pull_places = udp, pull
            self._announce(now)

    def _announce(self, now: float) -> None:
        for peering in self._peers.values():
            for link in peering.links.values():  # each has been told once already
                peering.announce(link, now)

    def leave(self, deadline: float | None) -> None:
        """Close every stream, draining until ``deadline``; wait for ``is_drained``, then ``farewell``."""
        self._leaving = True
        for session in self.sessions:
            session.is_leaving = True
            for stream in list(session.streams.values()):
                stream.close(deadline)

    def farewell(self, now: float) -> None:
        """Say goodbye to everybody and end all sessions; wait for ``has_parted``."""
        self._leaving = self._left = True
        for peering in list(self._peers.values()):
            goodbye = wire.Goodbye(wire.Farewell.LEFT, "")
            peering.end(LossReason.LEFT, BusClosed("the bus was closed", peer=peering.address), now, goodbye)
        for link in list(self._links.values()):
            if link.phase is not LinkPhase.ENDING:  # a greeting under way would make a peer join yet
                self.cut(link, "the bus was closed", now)

    # Outputs

    def take_actions(self) -> list[Action]:
        """Return what the shell is to do, in order."""
        actions, self._actions = self._actions, []
        self._cut.clear()
        return actions

    def take_events(self) -> list[Event]:
        """Return what happened, in order."""
        events, self._events = self._events, []
        return events

    def take_sendable(self) -> list[int]:
        """Return the links that have something to send: call ``next_message`` until it gives None."""
        sendable = list(self._sendable)
        self._sendable.clear()
        return sendable

    def next_message(self, link: int, now: float) -> bytes | None:
        """Return the next ZeroMQ message for that link, or None. What is returned counts as sent."""
        present = self._links.get(link)
        if present is None:
            return None
        if present.outbox:
            return present.outbox.popleft()
        session = self.session(present.remote)
        if session is None or present.phase is not LinkPhase.READY:
            return None
        self._touched[present.remote] = None  # something is in flight: the stuck-link deadline
        return session.next_packet(link, now)

    # What peerings ask of their host

    def _peering(self, address: Address) -> Peering:
        peering = self._peers.get(address)
        if peering is None:
            peering = self._peers[address] = Peering(self, address)
        return peering

    def new_session(self, remote: Address, now: float) -> Session:
        """Make a fresh session with a nonce never used before."""
        self._epoch += 1
        self._liveness_s = None
        session = Session(
            local=self.address,
            remote=remote,
            nonce=Nonce(self.boot, self._epoch),
            limits=self.limits,
            budget=Budget(self.limits.peer_memory_bytes_max, self._budget),
            plane=self._plane,
            emit=self.emit,
            wake=self._wake_link,
            touch=lambda: self.touch(remote),
            now=now,
            hear=None if self._gossip is None else partial(self._gossip.heard, remote),
        )
        session.is_leaving = self._leaving
        return session

    def ended(self, session: Session) -> None:
        """The session is over; what it counted is the node's to keep."""
        self._liveness_s = None
        self._dropped.update(session.dropped)
        self._past_traffic = Traffic.total((self._past_traffic, session.traffic())).past()

    def _wake_link(self, link: int) -> None:
        if link not in self._sendable:
            self._sendable[link] = None
            self._wake()

    def touch(self, remote: Address) -> None:
        """The session's next deadline may have come nearer."""
        self._touched[remote] = None
        self._wake()

    def emit(self, event: Event) -> None:
        """Pass an event upward."""
        self._events.append(event)
        self._wake()

    def say(self, link: Link, message: bytes) -> None:
        """Send on a link, before its session's packets."""
        link.outbox.append(message)
        self._wake_link(link.id)

    def cut(self, link: Link, reason: str, now: float) -> None:
        """Cut a link at once."""
        self._actions.append(Cut(link.id, reason))
        self._cut.add(link.id)
        self._forget_link(link, now)

    def end_link(self, link: Link, last_word: bytes, now: float) -> None:
        """Send a last word, and cut the link when it has had time to get out."""
        link.phase = LinkPhase.ENDING
        peering = self._peers.get(link.remote)
        if peering is not None:
            peering.links.pop(link.id, None)
        self._timers.set(link.id, now + LAST_WORD_S)
        self.say(link, last_word)

    def ask_admission(self, link: Link, peer: Peer, now: float) -> None:
        """Ask the application about a peer."""
        self._timers.set(link.id, now + self.limits.admit_timeout_s)
        self._actions.append(Admit(link.id, peer))

    def await_info(self, link: Link, now: float) -> None:
        """The link carries no session any more; the peer has so long to say which is the next."""
        self._timers.set(link.id, now + self.limits.handshake_timeout_s)

    def introduced(self, link: Link, info: wire.Info, now: float) -> None:
        """The peer of a session told about itself."""
        if self._gossip is not None:
            self._gossip.met(link.remote, info.tcp_places, link.is_near, now)

    def parted(self, remote: Address, reason: LossReason, now: float) -> None:
        """The session that the peer was in is over; who left does not want to be looked for."""
        if self._gossip is not None:
            self._gossip.parted(remote, reason is not LossReason.LEFT, now)

    def connected(self, link: Link, now: float) -> None:
        """The link carries a session: others with the same peer may have become needless."""
        self._liveness_s = None  # the session may have just agreed on its limit
        self._timers.remove(link.id)
        if link.endpoint:
            self.roster.dial_succeeded(link.remote, link.endpoint, now)
        self.roster.connected(link.remote, now)
        for other in list(self._links_with[link.remote].values()):
            if other is not link and self._is_needless(other):
                self.cut(other, "another link serves", now)

    def _is_needless(self, link: Link) -> bool:
        """Tell whether a link may go where a newer one is ready.

        One side must decide, or each would cut what the other keeps: the lower one cuts older links, and its
        own dials. The higher one only cuts dials on which it has not told its INFO: on others the lower may
        have agreed to a session by now, and cut what is older to it.
        """
        if self.address > link.remote:
            return bool(link.endpoint) and link.phase in (LinkPhase.CONNECTING, LinkPhase.HELLO)
        return link.phase is LinkPhase.READY or (bool(link.endpoint) and link.phase is not LinkPhase.ENDING)

    def disconnected(self, remote: Address, now: float) -> None:
        """The peer has no ready link any more."""
        session = self.session(remote)
        self.roster.set_waiting(remote, session is not None)
        self.roster.disconnected(remote, now)
        self._prune(remote, now)

    def doubted(self, remote: Address, is_suspect: bool, now: float) -> None:
        """The peer has become suspect: try a second link; or it no longer is."""
        self.roster.doubt(remote, is_suspect, now)

    def push(self, remote: Address, places: str) -> None:
        """Have a PUSH connection to one of these places; none: have none."""
        self._actions.append(Push(remote, tuple(str(place) for place in parse_places(places))))
        self._wake()

    # What gossip asks of its host

    def hint(self, address: Address, source: str, endpoints: tuple[str, ...], now: float) -> None:
        """A peer told of itself, or of another."""
        self.learn(address, source, endpoints, 0, now)

    def may_attempt(self, address: Address) -> bool:
        """Whether to dial a peer of whom nothing better than hearsay is known."""
        return not self._leaving and self.roster.may_attempt(address)

    def attempt(self, address: Address, now: float) -> None:
        """Dial it, once."""
        self.roster.attempt(address, now)

    def tell(self, to: Address, frame: wire.Met) -> None:
        """Tell a peer of another."""
        session = self.session(to)
        assert session is not None  # gossip knows when it is over
        if not self._leaving:
            session.pass_on(frame)

    def superseded(self, claim: bytes) -> None:
        """A peer says that a newer process has this node's identity; believed with proof only."""
        if self._incarnation.is_superseded_by(claim):
            self._actions.append(Superseded())

    def rest(self, remote: Address, now: float) -> None:
        """Leave the peer alone for a while."""
        self.roster.set_waiting(remote, False)
        self.roster.rest(remote, now)


def _is_goodbye(data: bytes) -> bool:
    try:
        return any(isinstance(frame, wire.Goodbye) for frame in wire.decode_packet(data).frames)
    except RemoteProtocolError:
        return False
