"""What a node does, without I/O: links, peers, sessions and the dial plan under one roof.

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
    PeerError,
    PeerLost,
    PeerRefused,
    RemoteProtocolError,
    UnknownPeer,
)
from brokerless.model import DropCause, LossReason, NodeStats, Reliability, SendDone, Traffic
from brokerless.protocol import wire
from brokerless.protocol.actions import Action, Dial, Push, Refused, Superseded
from brokerless.protocol.association import Nonce
from brokerless.protocol.budget import Budget
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.datagram_stream import KINDS
from brokerless.protocol.datagrams import SINGLE
from brokerless.protocol.gossip import Gossip
from brokerless.protocol.handshake import Refusal
from brokerless.protocol.links import Link, LinkPhase, Links
from brokerless.protocol.paths import parse_places
from brokerless.protocol.peering import Peering
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

DEADLINE_LATER_S = 0.25
"""A session's deadline moves with each packet, mostly to later. One that is so much too early is moved, or an
idle node would wake for it; for less it may come for nothing."""


class NodeCore:
    """The pure half of a node. See the module's text for the order of calls.

    It is the ``LinksHost``, the ``PeeringHost`` and the ``GossipHost``.
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
        self._was_small = self.roster.is_small
        self.wake = wake
        self._incarnation = incarnation
        self._budget = Budget(limits.memory_bytes_max)
        self._plane = plane if plane is not None else DatagramPlane()
        self._gossip = Gossip(address, self) if gossips else None
        self._peers: dict[Address, Peering] = {}
        self._links = Links(self, address, mesh_key, versions, limits)
        self._timers: Timers[Address] = Timers()  # of sessions
        self._expected: Timers[Address] = Timers()  # who may come back, and how long
        self._touched: dict[Address, None] = {}  # in order, so that a run is repeated exactly
        self._actions: list[Action] = []
        self._events: list[Event] = []
        self._epoch = 0
        self._send_id = 0
        self._liveness_s: float | None = None  # until a session begins or ends: each late turn asks for it
        self._dropped: Counter[DropCause] = Counter()  # in sessions that are over
        self._past_traffic = Traffic()
        self._leaving = False

    # Queries

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Everybody known and not lost."""
        return tuple(peering.snapshot() for peering in self._peers.values() if peering.is_listed)

    def peer(self, address: Address) -> Peer | None:
        """Return a snapshot of that peer, or None."""
        peering = self._peers.get(address)
        return peering.snapshot() if peering is not None and peering.is_listed else None

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
        """Once it leaves: true when nothing waits to be sent or acknowledged, nor a stream for its end."""
        return all(
            session.is_idle and all(stream.is_drained for stream in session.streams.values())
            for session in self.sessions
        )

    @property
    def has_parted(self) -> bool:
        """True when no last word is under way any more: who hears one hangs up."""
        return self._links.has_parted

    @property
    def has_output(self) -> bool:
        """True when a link has something to say."""
        return self._links.has_output

    @property
    def has_work(self) -> bool:
        """True when there is anything for the shell to do but to tell of events."""
        return bool(self._links.has_output or self._actions or self._touched)

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, or None."""
        while self._touched:
            address, _ = self._touched.popitem()
            session = self.session(address)
            if session is not None:
                self._timers.set_about(address, session.next_deadline(), DEADLINE_LATER_S)
        gossip_at = None if self._gossip is None else self._gossip.next_deadline()
        timers = (self._links.next_deadline(), self._timers.next_deadline(), self._expected.next_deadline())
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
            handshakes_refused=self._links.handshakes_refused,
            dials_failed=self._links.dials_failed,
            rejected_records=0 if self._gossip is None else self._gossip.refused,
            hearsay_failed=0 if self._gossip is None else self._gossip.failed,
            dropped=dict(dropped),
        )

    # Inputs: links

    def dialled(self, link: int, remote: Address, endpoint: str, now: float) -> None:
        """The shell dials; ``link_opened`` or ``link_closed`` of that link follows."""
        self._links.dialled(link, remote, endpoint, now)

    def dial_failed(self, remote: Address, endpoint: str, now: float) -> None:
        """The shell could not even try."""
        self._links.dials_failed += 1
        self.roster.dial_failed(remote, endpoint, now)

    def link_opened(
        self, link: int, remote: Address, now: float, is_local: bool = False, is_near: bool = False
    ) -> None:
        """A dialled link is connected, or ``remote``, by its CURVE key, has made one to us.

        ``is_local``: by ipc. ``is_near``: by ipc or loopback, so from this host.
        """
        self._links.opened(link, remote, now, is_local, is_near)

    def link_closed(self, link: int, reason: str, now: float) -> None:
        """A link failed, or the other side cut it."""
        self._links.closed(link, now)

    def link_message(self, link: int, data: bytes, now: float) -> None:
        """A ZeroMQ message came."""
        self._links.message(link, data, now)

    def admitted(self, link: int, refusal: str | None, now: float) -> None:
        """The application has decided: None lets the peer in, a text says why not."""
        self._links.admitted(link, refusal, now)

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
        if self.roster.learn(address, source, endpoints, boot, now, ours):
            self._peering(address)
        self._look(address)
        self._prune(address, now)

    def expire(self, now: float) -> None:
        """Act on what time has come for."""
        self.next_deadline()  # takes in what was touched since
        for address in self._timers.pop_due(now):
            peering = self._peers.get(address)
            if peering is not None:
                peering.expire(now)
                self._prune(address, now)
        self._links.expire(now)  # after the sessions: those that end have a last word for their links
        for address in self._expected.pop_due(now):
            self._prune(address, now)
        if self._gossip is not None:
            self._gossip.expire(now)
        for address, endpoint in self.roster.plan(now):
            if not self._leaving or self._is_awaited(address):
                self.act(Dial(address, endpoint))
            else:
                self.roster.dial_failed(address, endpoint, now)

    def _is_awaited(self, address: Address) -> bool:
        """True if there is something to say to that peer still."""
        session = self.session(address)
        return session is not None and not (session.is_idle and not session.streams)

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
            session.lanes.singles.send(channel, data, self._send_id, deadline)
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
        return self._session_to(to, now).lanes.open_stream(reliability, name, metadata, deadline)

    def accept(self, stream: Stream, metadata: bytes) -> None:
        """Take an offered stream. One that is over by now stays over."""
        session = self.session(stream.peer)
        if session is not None and session.streams.get(stream.id) is stream:
            session.lanes.accept(stream, metadata)

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
        self._look(address)
        self.wake()

    def expect_datagrams(self, address: Address) -> None:
        """Find out which path takes datagrams to that peer, as a message would; none is sent."""
        session = self.session(address)
        if session is not None:
            session.datagrams.expect()
            self.wake()

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
        """Drain every stream until ``deadline``, take no more; wait for ``is_drained``, then ``farewell``."""
        self._leaving = True
        for session in self.sessions:
            session.lanes.is_leaving = True
            for stream in list(session.streams.values()):
                stream.leave(deadline)

    def farewell(self, now: float) -> None:
        """Say goodbye to everybody and end all sessions; wait for ``has_parted``."""
        self._leaving = True
        for peering in list(self._peers.values()):
            goodbye = wire.Goodbye(wire.Farewell.LEFT, "")
            peering.end(LossReason.LEFT, BusClosed("the bus was closed", peer=peering.address), now, goodbye)
        self._links.part(now)

    # Outputs

    def take_actions(self) -> list[Action]:
        """Return what the shell is to do, in order."""
        actions, self._actions = self._actions, []
        self._links.cuts_made()
        return actions

    def take_events(self) -> list[Event]:
        """Return what happened, in order."""
        events, self._events = self._events, []
        return events

    def take_sendable(self) -> list[int]:
        """Return the links that have something to send: call ``next_message`` until it gives None."""
        return self._links.take_sendable()

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

    # What links ask of their host

    def act(self, action: Action) -> None:
        """Have the shell do something."""
        self._actions.append(action)

    def turns_away(self, remote: Address) -> tuple[Refusal, str] | None:
        """Why one who dials us may not come in, if so; whom we dial we want."""
        if self._allowed is not None and remote not in self._allowed:
            return Refusal.NOT_ADMITTED, "this address is not on the list"
        if remote not in self._peers and len(self._peers) >= self.limits.peers_max:
            return Refusal.FULL, f"{len(self._peers)} peers are enough"
        return None

    def greeted(self, link: Link, now: float) -> None:
        """Both sides know the secret: who we are and which session we mean is told next."""
        peering = self._peering(link.remote)
        peering.links[link.id] = link
        peering.announce(link, now)

    def refused(self, link: Link, refusal: PeerRefused, now: float) -> None:
        """The peer we dialled will not have us: who waits for it need not wait longer."""
        self.act(Refused(refusal))
        self._links.cut(link, str(refusal), now)
        peering = self._peers.get(link.remote)
        if peering is not None and peering.session is not None:
            if peering.session.state is SessionState.FRESH:
                peering.end(LossReason.EXPELLED, refusal, now)
        self.roster.rest(link.remote, now)

    def heard(self, link: Link, data: bytes, now: float) -> None:
        """A packet came on a link that was greeted."""
        try:
            packet = wire.decode_packet(data)
            self._peers[link.remote].packet(link, packet, len(data), now)
        except RemoteProtocolError as error:
            self._fault(link, error, now)

    def let_in(self, link: Link, info: wire.Info, now: float) -> None:
        """The peer, which told that of itself, is admitted."""
        try:
            self._peers[link.remote].associate(link, info, now)
        except RemoteProtocolError as error:
            self._fault(link, error, now)

    def keep_out(self, link: Link, refusal: str, now: float) -> None:
        """The peer is not admitted."""
        farewell = wire.Goodbye(wire.Farewell.REFUSED, refusal[:200])
        self._expel(link.remote, PeerRefused(reason=refusal, peer=link.remote), now, farewell)

    def _fault(self, link: Link, fault: RemoteProtocolError, now: float) -> None:
        """The peer broke the rules: its conversation ends with the reason, everybody else's goes on."""
        farewell = wire.Goodbye(wire.Farewell.FAULT, str(fault)[:200])
        error = PeerLost(f"expelled: {fault}", reason=LossReason.EXPELLED.value, peer=link.remote)
        error.__cause__ = fault
        self._expel(link.remote, error, now, farewell)

    def _expel(self, remote: Address, error: PeerError, now: float, farewell: wire.Goodbye) -> None:
        self._peers[remote].end(LossReason.EXPELLED, error, now, farewell)
        self.roster.rest(remote, now)

    def gone(self, link: Link, now: float) -> None:
        """A link is no more."""
        peering = self._peers.get(link.remote)
        if peering is not None:
            peering.link_gone(link, now)
        if link.endpoint:
            self.roster.dial_failed(link.remote, link.endpoint, now)  # no effect on one that had succeeded
        self._prune(link.remote, now)

    # What peerings ask of their host

    def _peering(self, address: Address) -> Peering:
        peering = self._peers.get(address)
        if peering is None:
            peering = self._peers[address] = Peering(self, self._links, address)
        return peering

    def _look(self, address: Address) -> None:
        """See how that peer stands in the roster now; and everybody, when that has become large, or small."""
        peerings = [self._peers[address]] if address in self._peers else []
        if self.roster.is_small is not self._was_small:
            self._was_small = self.roster.is_small
            peerings = list(self._peers.values())
        for peering in peerings:
            remote = peering.address
            peering.looked_for(remote in self.roster, self.roster.is_dialling(remote))

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
            wake=self._links.wake,
            touch=lambda: self.touch(remote),
            now=now,
            hear=None if self._gossip is None else partial(self._gossip.heard, remote),
        )
        session.lanes.is_leaving = self._leaving
        return session

    def ended(self, session: Session) -> None:
        """The session is over; what it counted is the node's to keep."""
        self._liveness_s = None
        self._dropped.update(session.dropped)
        self._past_traffic = Traffic.total((self._past_traffic, session.traffic())).past()

    def touch(self, remote: Address) -> None:
        """The session's next deadline may have come nearer."""
        self._touched[remote] = None
        self.wake()

    def emit(self, event: Event) -> None:
        """Pass an event upward."""
        self._events.append(event)
        self.wake()

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
        if link.endpoint:
            self.roster.dial_succeeded(link.remote, link.endpoint, now)
        self.roster.connected(link.remote, now)
        self._look(link.remote)
        self._links.ready(link, now)

    def disconnected(self, remote: Address, now: float) -> None:
        """The peer has no ready link any more."""
        session = self.session(remote)
        self.roster.set_waiting(remote, session is not None)
        self.roster.disconnected(remote, now)
        self._look(remote)
        self._prune(remote, now)

    def doubted(self, remote: Address, is_suspect: bool, now: float) -> None:
        """The peer has become suspect: try a second link; or it no longer is."""
        self.roster.doubt(remote, is_suspect, now)

    def push(self, remote: Address, places: str) -> None:
        """Have a PUSH connection to one of these places; none: have none."""
        self.act(Push(remote, tuple(str(place) for place in parse_places(places))))
        self.wake()

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
            self.act(Superseded())

    def rest(self, remote: Address, now: float) -> None:
        """Leave the peer alone for a while."""
        self.roster.set_waiting(remote, False)
        self.roster.rest(remote, now)
