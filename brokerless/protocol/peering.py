"""One peer across its incarnations: its links, its present session, and what is told of it upward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from brokerless.errors import PeerLost, PeerRefused
from brokerless.model import (
    LossReason,
    Path,
    Peer,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    PeerState,
    ReliablePath,
)
from brokerless.protocol import wire
from brokerless.protocol.association import Nonce, Verdict, is_spared, judge
from brokerless.protocol.links import LinkPhase
from brokerless.protocol.paths import parse_places
from brokerless.protocol.session import Session, SessionState

if TYPE_CHECKING:
    from brokerless.address import Address
    from brokerless.errors import BusError
    from brokerless.model import Event
    from brokerless.protocol.links import Link, Links

LOSSES: dict[int, LossReason] = {
    wire.Farewell.LEFT: LossReason.LEFT,
    wire.Farewell.FAULT: LossReason.EXPELLED,
    wire.Farewell.SUPERSEDED: LossReason.EXPELLED,
    wire.Farewell.SILENT: LossReason.EXPELLED,
    wire.Farewell.REFUSED: LossReason.EXPELLED,
}
"""What the peer's goodbye means for us."""


class PeeringHost(Protocol):
    """What a peering asks of its node."""

    name: str
    metadata: bytes
    tcp_places: str
    claim: bytes
    asks_admission: bool

    def new_session(self, remote: Address, now: float) -> Session:
        """Make a fresh session with a nonce never used before."""

    def emit(self, event: Event) -> None:
        """Pass an event upward."""

    def introduced(self, link: Link, info: wire.Info, now: float) -> None:
        """The peer of a session told about itself, for the first time in it or anew."""

    def parted(self, remote: Address, reason: LossReason, now: float) -> None:
        """The session that the peer was in is over."""

    def connected(self, link: Link, now: float) -> None:
        """The link carries a session."""

    def disconnected(self, remote: Address, now: float) -> None:
        """The peer has no ready link any more."""

    def ended(self, session: Session) -> None:
        """The session is over; what it counted is the node's to keep."""

    def doubted(self, remote: Address, is_suspect: bool, now: float) -> None:
        """The peer has become suspect: try a second link; or it no longer is."""

    def rest(self, remote: Address, now: float) -> None:
        """Leave the peer alone for a while."""

    def superseded(self, claim: bytes) -> None:
        """A peer says that a newer process has this node's identity; the claim proves it, or does not."""

    def push(self, remote: Address, places: str) -> None:
        """Have a PUSH connection to one of these places; none: have none."""

    def touch(self, remote: Address) -> None:
        """The session's next deadline may have come nearer."""


class Peering:
    """One address as this node knows it.

    Queries: ``snapshot``, ``is_listed``, ``joined``, ``loss``.
    Inputs: ``looked_for``, ``info``, ``associate``, ``packet``, ``link_gone``, ``expire``, ``settle``.
    Commands: ``session_for_use``, ``announce``, ``end``.
    """

    def __init__(self, host: PeeringHost, links: Links, address: Address) -> None:
        self.address = address
        self.session: Session | None = None
        self.links: dict[int, Link] = {}
        self.joined = False
        self.loss: LossReason | None = None
        """Why it was lost, until it joins again; it is not listed as long."""
        self.is_known = False
        """Whether a discovery tells where it may be."""
        self.is_dialled = False
        self.expected_until = 0.0
        """So long a peer that was told of our session on a link may still mean it when that link has died."""
        self._host = host
        self._links = links  # of the node, with everybody
        self._name = ""
        self._metadata = b""
        self._suspect = False
        self._began = 0  # ``opened`` of the link that the session began on
        self._told: tuple[object, ...] | None = None  # what was notable then; None: not listed

    # Queries

    @property
    def is_listed(self) -> bool:
        """Whether it is one of the node's peers; events tell of all that come, change and go."""
        return self.joined or (self.is_known and self.loss is None)

    def snapshot(self) -> Peer:
        """Return the peer as it is now."""
        session = self.session
        if session is None or session.state is not SessionState.ESTABLISHED:
            state = PeerState.JOINING if self.is_dialled else PeerState.KNOWN
            return Peer(self.address, self._name, self._metadata, state)
        path = ReliablePath.NONE
        if session.current_link is not None:
            is_local = self.links[session.current_link].is_local
            path = ReliablePath.IPC if is_local else ReliablePath.TCP
        return Peer(
            self.address,
            self._name,
            self._metadata,
            PeerState.SUSPECT if session.is_suspect else PeerState.ALIVE,
            Path(path, session.datagrams.path),
            session.flight.round_trip.rtt_s,
            session.flight.round_trip.jitter_s,
            session.datagrams.loss,
        )

    # Commands

    def session_for_use(self, now: float) -> Session:
        """Return the present session, or a fresh one to wait in until there is a link."""
        if self.session is None:
            self.session = self._host.new_session(self.address, now)
        return self.session

    def announce(self, link: Link, now: float) -> None:
        """Tell the peer on that link who we are and which session we mean."""
        session = self.session_for_use(now)
        link.told = session.their_nonce
        limits = session.limits
        self.expected_until = now + limits.handshake_timeout_s + limits.liveness_s
        host = self._host
        info = session.info(host.name, host.metadata, host.tcp_places, host.claim)
        self._links.say(link, wire.encode_packet(0, 0, (wire.encode_info(info),)))

    def end(
        self,
        reason: LossReason,
        error: BusError,
        now: float,
        farewell: wire.Goodbye | None = None,
        spared: Link | None = None,
    ) -> None:
        """End the present session and its links but the spared one, after a last word if there is one."""
        peer = self.snapshot()
        session, self.session = self.session, None
        if session is not None:
            session.end(error)
            self._host.ended(session)
            if session.datagrams.has_push_at:
                self._host.push(self.address, "")
        for link in list(self.links.values()):
            if link is spared:
                continue
            if farewell is not None and (
                link.phase is not LinkPhase.INFO or farewell.code == wire.Farewell.LEFT
            ):
                word = wire.encode_packet(0, 0, (wire.encode_control(farewell),))
                del self.links[link.id]
                self._links.end(link, word, now)
            else:
                self._links.cut(link, str(error), now)
        if self.joined:
            self.joined = self._suspect = False
            self._told = None
            self.loss = reason
            self._host.parted(self.address, reason, now)
            self._host.emit(PeerLeft(peer, reason))
        self._host.disconnected(self.address, now)

    # Inputs

    def looked_for(self, is_known: bool, is_dialled: bool) -> None:
        """The roster knows the peer, or no longer does; and has it dialled, or not."""
        self.is_known, self.is_dialled = is_known, is_dialled
        self._tell()

    def info(self, link: Link, info: wire.Info, now: float) -> None:
        """The peer told on this link who it is and which session it means. Raises ``RemoteProtocolError``."""
        if self._host.asks_admission and not self.joined and link.phase is LinkPhase.INFO:
            link.info = info
            peer = Peer(self.address, info.name, info.metadata, PeerState.JOINING)
            self._links.ask_admission(link, peer, now)
        else:
            self.associate(link, info, now)

    def associate(self, link: Link, info: wire.Info, now: float) -> None:
        """Find out which session an admitted peer's link is of. Raises ``RemoteProtocolError``."""
        theirs = Nonce(info.boot, info.epoch)
        ours_as_known = Nonce(info.their_boot, info.their_epoch) if info.their_boot else None
        verdict = self._judge(theirs, ours_as_known, now)
        if verdict is Verdict.RENEWED and self._is_left_over(link, theirs):
            self._links.cut(link, "its process is over", now)
        elif verdict is Verdict.RENEWED:
            self._renew(link, info, now)
            if link.id in self.links:
                # Now that ours is fresh, this is agreed or awaited; or asked about anew.
                self.info(link, info, now)
        elif verdict is Verdict.STALE:
            self._links.cut(link, "its session is over", now)
        elif verdict is Verdict.AGREED:
            self._agree(link, info, now)

    def _judge(self, theirs: Nonce, ours_as_known: Nonce | None, now: float) -> Verdict:
        session = self.session_for_use(now)
        return judge(session.nonce, session.their_nonce, theirs, ours_as_known)

    def _is_left_over(self, link: Link, theirs: Nonce) -> bool:
        """Whether an INFO is of a process that was there before the one of our session.

        Boots have no order, but links have: a process says INFO on a link only after this node has seen it
        open, and the next process with the same identity opens its links when the one before is gone.
        """
        assert self.session is not None
        assert self.session.their_nonce is not None
        return theirs.boot != self.session.their_nonce.boot and link.opened < self._began

    def _renew(self, link: Link, info: wire.Info, now: float) -> None:
        """The peer began another session: ours is over. This link, if spared, hears of our new nonce."""
        assert self.session is not None
        assert self.session.their_nonce is not None
        restarted = info.boot != self.session.their_nonce.boot
        reason = LossReason.RESTARTED if restarted else LossReason.EXPELLED
        # Where the process before still lives, it must learn that somebody else has its identity now.
        farewell = wire.Goodbye(wire.Farewell.SUPERSEDED, "a newer process has this identity", info.claim)
        error = PeerLost(reason=reason.value, peer=self.address)
        spared = is_spared(link.told)
        self.end(reason, error, now, farewell if restarted else None, spared=link if spared else None)
        if spared:
            self._links.await_info(link, now)
            self.announce(link, now)

    def _agree(self, link: Link, info: wire.Info, now: float) -> None:
        session = self.session_for_use(now)
        for places in (info.udp_places, info.pull_places):
            parse_places(places)  # whoever tells nonsense is at fault now, whenever it is made use of
        self.loss = None
        if session.state is SessionState.FRESH:
            session.establish(info, now)
            self._began = link.opened
        is_newest = self._is_newest(link)
        link.info = None if is_newest else info
        if is_newest:
            self._take_in(info, now)
        is_fresh = link.phase is not LinkPhase.READY
        if is_fresh:
            link.phase = LinkPhase.READY
            session.link_ready(link.id, info.received, now)
        if not self.joined:
            self.joined = True
            peer = self.snapshot()
            self._told = _notable(peer)
            self._host.emit(PeerJoined(peer))
            session.datagrams.joined(now)
        if is_fresh:
            self._host.connected(link, now)
        self._tell()
        if is_newest:
            self._host.introduced(link, info, now)
        self._host.touch(self.address)

    def _is_newest(self, link: Link) -> bool:
        """Whether the peer spoke on no newer link of the session.

        What comes on an older one may have lain in it for long, and of two INFOs on two links nothing else
        tells which is the later. Each change is told on all links; so when the newest is gone, the next one
        has brought the latest, or will.
        """
        others = (other for other in self.links.values() if other.phase is LinkPhase.READY)
        return all(other.opened <= link.opened for other in others)

    def _take_in(self, info: wire.Info, now: float) -> None:
        assert self.session is not None
        self._name, self._metadata = info.name, info.metadata
        self.session.datagrams.introduced(info, now)

    def _tell(self) -> None:
        """Tell what is notable of the peer, if that is not what was told last."""
        peer, before = self.snapshot(), self._told
        self._told = _notable(peer) if self.is_listed else None
        if self._told == before:
            return
        if self._told is None:
            self._host.emit(PeerForgotten(peer))
        else:
            self._host.emit(PeerChanged(peer))

    def packet(self, link: Link, packet: wire.Packet, size: int, now: float) -> None:
        """A packet came on a link that has proven itself. Raises ``RemoteProtocolError``."""
        if packet.number == 0:
            for frame in packet.frames:
                if isinstance(frame, wire.Info):
                    self.info(link, frame, now)
                elif isinstance(frame, wire.Goodbye):
                    self._goodbye(frame, now)
                if link.id not in self.links:  # that cut it: nothing behind it is heard
                    return
        # On any other link it is of a session that ended while this was under way.
        if link.phase is LinkPhase.READY and self.session is not None:
            self.session.receive(link.id, packet, size, now)
            self.settle(now)

    def _goodbye(self, frame: wire.Goodbye, now: float) -> None:
        reason = LOSSES.get(frame.code, LossReason.EXPELLED)
        what = f"{self.address.short} has left" if reason is LossReason.LEFT else reason.value
        why = f": {frame.reason}" if frame.reason else ""
        error: BusError = PeerLost(f"peer {what}{why}", reason=reason.value, peer=self.address)
        if frame.code == wire.Farewell.REFUSED:
            error = PeerRefused(reason=frame.reason, peer=self.address)
        elif frame.code == wire.Farewell.SUPERSEDED:
            self._host.superseded(frame.claim)
        self.end(reason, error, now)
        self._host.rest(self.address, now)

    def link_gone(self, link: Link, now: float) -> None:
        """A link has failed or been cut."""
        self.links.pop(link.id, None)
        if self.session is not None:
            self.session.link_gone(link.id, now)
            if link.phase is LinkPhase.READY and not self.session.links:
                self._host.disconnected(self.address, now)
            for other in list(self.links.values()):
                if other.phase is LinkPhase.READY and other.info is not None and self._is_newest(other):
                    info, other.info = other.info, None
                    self._take_in(info, now)
                    self._host.introduced(other, info, now)
            self._tell()

    def expire(self, now: float) -> None:
        """Time has come for something of the session."""
        session = self.session
        if session is None:
            return
        if session.expire(now):
            silent_s = session.liveness.unproven_s(now)
            error = PeerLost(
                f"peer {self.address.short} was not heard for {silent_s:.1f} s",
                reason=LossReason.SILENT.value,
                silent_s=silent_s,
                peer=self.address,
            )
            self.end(LossReason.SILENT, error, now, wire.Goodbye(wire.Farewell.SILENT, "not heard"))
            return
        self.settle(now)

    def settle(self, now: float) -> None:
        """After anything that the session did: cut what it gave up, tell what changed."""
        session = self.session
        if session is None:
            return
        while session.links_to_cut:
            number, reason = session.links_to_cut.pop()
            if number in self.links:
                self._links.cut(self.links[number], reason, now)
        if session.is_suspect != self._suspect:
            self._suspect = session.is_suspect
            self._host.doubted(self.address, self._suspect, now)
            self._tell()
        if session.datagrams.take_call() and session.current_link is not None:
            self.announce(self.links[session.current_link], now)
        self.settle_datagrams()
        self._host.touch(self.address)

    def settle_datagrams(self) -> None:
        """After anything that the session's datagrams did: have the connection they want, tell their path."""
        session = self.session
        if session is None:
            return
        datagrams = session.datagrams
        if datagrams.is_settled:
            return
        if datagrams.wants_push_at != datagrams.has_push_at:
            datagrams.has_push_at = datagrams.wants_push_at
            self._host.push(self.address, datagrams.has_push_at)
        datagrams.told_path = datagrams.path
        self._tell()


def _notable(peer: Peer) -> tuple[object, ...]:
    """Return what is told of when it changes: not what is measured, which never stays the same."""
    return peer.name, peer.metadata, peer.state, peer.path
