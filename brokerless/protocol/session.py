"""One conversation with one incarnation of a peer, over links that come and go.

Everything reliable travels in numbered packets. The receiver takes them in order and acknowledges the last
one; the sender keeps each until then. So a link may die at any byte: the next one starts again at the number
after the last acknowledged, and what arrives twice is dropped by its number. The scheme is that of TCP's
cumulative acknowledgement (RFC 9293) without its congestion control, which the links' own TCP does.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

from brokerless.errors import RemoteProtocolError
from brokerless.model import DropCause, PeerStats, Traffic
from brokerless.protocol import wire
from brokerless.protocol.association import Nonce
from brokerless.protocol.datagrams import Datagrams
from brokerless.protocol.flight import Flight
from brokerless.protocol.lanes import Lanes
from brokerless.protocol.liveness import Liveness, Verdict
from brokerless.protocol.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.errors import BusError
    from brokerless.model import Event
    from brokerless.protocol.budget import Budget
    from brokerless.protocol.datagram_plane import DatagramPlane

STUCK_SHARE = 0.5
"""A link without progress of acknowledgements for this share of the liveness limit is dead: half of it is
left to resume on another."""

HELD_BYTES_MAX = 8 * 1024 * 1024
"""Packets held while the peer is confirmed after a stall of ours; the most a sender has in flight. Beyond
it they are dropped unacknowledged, and come again."""

PHASES = 1024
"""Places between two ticks of the clock where those of a node may be: ``boot`` is random, and tells which."""

URGENT_FRAMES_MAX = 1024
"""Answers to pings and probes that wait for their link, of at most 33 bytes each: they fit one packet. A peer
that asks for more than it takes does without the rest; an honest one asks for one at a time, and again."""

LIVENESS_S_MIN = 0.1
"""A peer that announces less would be lost at every hiccup of a scheduler."""


class SessionState(enum.Enum):
    """How far a session is."""

    FRESH = "the peer's nonce is not known: nothing is sent yet"
    ESTABLISHED = "both nonces are known"
    ENDED = "over; nothing may be done with it"


class _SessionLink:
    """What the session knows of one of its links."""

    __slots__ = ("ack_due", "cursor", "urgent")

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor  # number of the next packet to send here
        self.ack_due = False
        self.urgent: list[bytes] = []  # unnumbered frames, which go first


class Session:
    """One session. What it carries are its ``lanes`` and its ``datagrams``.

    Queries: ``state``, ``nonce``, ``their_nonce``, ``received``, ``current_link``, ``links``, ``is_suspect``,
    ``is_idle``, ``stats``, ``next_deadline``.
    Inputs: ``establish``, ``link_ready``, ``link_gone``, ``receive``, ``expire``, ``stalled``.
    Commands: ``pass_on``, ``tell``, ``end``.
    Outputs: ``next_packet``, ``links_to_cut``; events go to ``emit``, gossip to ``hear``; ``wake(link)`` says
    that a link has something to send, ``touch()`` that ``next_deadline`` may have come nearer.
    """

    def __init__(
        self,
        *,
        local: Address,
        remote: Address,
        nonce: Nonce,
        limits: Limits,
        budget: Budget,
        plane: DatagramPlane,
        emit: Callable[[Event], None],
        wake: Callable[[int], None],
        touch: Callable[[], None],
        now: float,
        hear: Callable[[wire.Met, float], None] | None = None,
    ) -> None:
        self.remote = remote
        self.nonce = nonce
        self.limits = limits
        self.emit = emit
        self.touch = touch
        self.state = SessionState.FRESH
        self.their_nonce: Nonce | None = None
        self.received = 0
        self.flight = Flight(limits.unacknowledged_bytes_max, now)
        self._phase = nonce.boot % PHASES / PHASES
        self._lower = local < remote
        self.liveness = Liveness(limit_s=limits.liveness_s, eager=self._lower, now=now, phase=self._phase)
        self._schedule = Schedule(self._wake_current, now)
        self.lanes = Lanes(self, self._schedule, budget, self._lower)
        self.streams = self.lanes.streams
        self.datagrams = Datagrams(self, plane)
        self.current_link: int | None = None
        self.links_to_cut: list[tuple[int, str]] = []
        self.dropped: dict[DropCause, int] = {}
        self._wake = wake
        self._hear = hear
        self._links: dict[int, _SessionLink] = {}
        self._held: deque[tuple[int, wire.Packet, int]] = deque()
        self._held_bytes = 0
        self._packets_sent = self._bytes_sent = self._packets_received = self._bytes_received = 0
        self._packets_resent = self._links_lost = 0

    # Queries

    @property
    def links(self) -> tuple[int, ...]:
        """Links that are ready, oldest first."""
        return tuple(self._links)

    @property
    def is_suspect(self) -> bool:
        """True when the peer has not proven for half the liveness limit that it hears us."""
        return self.liveness.is_suspect

    def delivers(self, now: float) -> bool:
        """True when the peer is here, and this process has not stood still since it last spoke with it."""
        self.liveness.looked(now)
        return self.state is SessionState.ESTABLISHED and not self.liveness.is_confirming

    @property
    def is_idle(self) -> bool:
        """True when nothing waits to be sent or acknowledged."""
        return self._schedule.is_empty and not self.flight.byte_count and self.lanes.singles.is_idle

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, or None."""
        deadline = self.lanes.next_deadline()
        if self.state is not SessionState.ESTABLISHED:
            return deadline
        self.liveness.active = self.lanes.is_waiting
        earliest = self.liveness.next_deadline()
        for other in (deadline, self.datagrams.next_deadline()):
            if other is not None and other < earliest:
                earliest = other
        if self.flight.byte_count and self.current_link is not None:
            earliest = min(earliest, self._stuck_at())
        return earliest

    def _stuck_at(self) -> float:
        return self.flight.progress_at + STUCK_SHARE * self.liveness.limit_s

    def traffic(self) -> Traffic:
        """Return the counters of messages."""
        return Traffic.total((self.lanes.traffic(), self.datagrams.traffic()))

    def stats(self) -> PeerStats:
        """Return the counters."""
        return PeerStats(
            traffic=self.traffic(),
            packets_sent=self._packets_sent,
            bytes_sent=self._bytes_sent,
            packets_received=self._packets_received,
            bytes_received=self._bytes_received,
            packets_resent=self._packets_resent,
            links=len(self._links),
            links_lost=self._links_lost,
            streams_open=len(self.streams),
            unacknowledged_bytes=self.flight.byte_count,
            rtt_s=self.flight.round_trip.rtt_s,
            jitter_s=self.flight.round_trip.jitter_s,
            datagrams_sent=self.datagrams.sent,
            datagrams_received=self.datagrams.received,
            datagram_rtt_s=self.datagrams.round_trip_s,
            datagram_jitter_s=self.datagrams.jitter_s,
            loss=self.datagrams.loss,
            loss_there=self.datagrams.loss_there,
            dropped=dict(self.dropped),
        )

    def info(self, name: str, metadata: bytes, tcp_places: str = "", claim: bytes = b"") -> wire.Info:
        """Return what to tell the peer on a link."""
        theirs = self.their_nonce or Nonce(0, 0)
        index, key = self.datagrams.announce()
        return wire.Info(
            boot=self.nonce.boot,
            epoch=self.nonce.epoch,
            their_boot=theirs.boot,
            their_epoch=theirs.epoch,
            received=self.received,
            message_bytes_max=self.limits.message_bytes_max,
            stream_credit=self.limits.stream_window_initial_bytes,
            single_credit=self.limits.stream_window_initial_bytes,
            streams_max=self.limits.streams_max,
            offers_max=self.limits.offers_max,
            liveness_ms=int(self.limits.liveness_s * 1000),
            name=name,
            metadata=metadata,
            datagram_index=index,
            datagram_key=key,
            datagram_message_bytes_max=self.limits.datagram_message_bytes_max,
            udp_places=self.datagrams.plane.udp_places,
            pull_places=self.datagrams.plane.pull_places,
            tcp_places=tcp_places,
            claim=claim,
        )

    # Inputs

    def establish(self, info: wire.Info, now: float) -> None:
        """The peer's nonce and limits are known: what waits may be sent."""
        assert self.state is SessionState.FRESH
        self.state = SessionState.ESTABLISHED
        self.their_nonce = Nonce(info.boot, info.epoch)
        limit_s = max(min(self.limits.liveness_s, info.liveness_ms / 1000), LIVENESS_S_MIN)
        self.liveness = Liveness(limit_s=limit_s, eager=self._lower, now=now, phase=self._phase)
        self.lanes.established(info)

    def link_ready(self, link: int, received: int, now: float) -> None:
        """A link is agreed to carry this session; the peer has received up to that number."""
        self._acknowledged(received, now)
        self._links[link] = _SessionLink(self.flight.sent + 1)
        # The newest link is the one most surely alive: a peer dials only when it has none, or doubts it.
        self._switch_to(link, now)
        was_asking = self.liveness.is_asking or self.liveness.is_confirming
        # A greeting is an answer: each side says INFO only when it has the other's HELLO. Where links die
        # before they carry an answer to a ping, it is the only one.
        self.liveness.progressed(now)
        if was_asking:  # what was asked may have died with its link
            self.liveness.asked(now)
            self._ping(link)

    def link_gone(self, link: int, now: float) -> None:
        """A link has failed or been cut; another takes over where there is one."""
        if self._links.pop(link, None) is None:
            return
        self._links_lost += 1
        if link == self.current_link:
            self.current_link = None
            if self._links:
                self._switch_to(next(reversed(self._links)), now)

    def _switch_to(self, link: int, now: float) -> None:
        self.current_link = link
        self._links[link].cursor = self.flight.acknowledged + 1
        self.flight.interrupted(now)
        self._wake(link)

    def receive(self, link: int, packet: wire.Packet, size: int, now: float) -> None:
        """Take in a packet of a ready link. Raises ``RemoteProtocolError``: end the session then."""
        self._packets_received += 1
        self._bytes_received += size
        self.liveness.looked(now)
        self._acknowledged(packet.acknowledged, now)
        if packet.number == 0:
            self._receive_unnumbered(link, packet, now)
        elif self.liveness.is_confirming:
            self._hold(link, packet, size)
        else:
            self._receive_numbered(link, packet, now)

    def _acknowledged(self, number: int, now: float) -> None:
        before = self.flight.acknowledged
        self.lanes.acknowledged(self.flight.acknowledge(number, now))
        if self.flight.acknowledged > before:
            self.liveness.progressed(now)
            self._wake_current()

    def _receive_numbered(self, link: int, packet: wire.Packet, now: float) -> None:
        if packet.number > self.received + 1:
            self._cut(link, f"packet {packet.number} came after {self.received}")
            return
        if (state := self._links.get(link)) is not None:
            state.ack_due = True
            self._wake(link)
        if packet.number <= self.received:
            self.drop(DropCause.DUPLICATE)
            return
        self.received = packet.number
        for frame in packet.frames:
            if isinstance(frame, wire.Met):
                if self._hear is not None:
                    self._hear(frame, now)
            else:
                self.lanes.receive(frame, now)
        if self._schedule.is_overfull:
            raise RemoteProtocolError("asks for more than it takes", peer=self.remote)

    def _receive_unnumbered(self, link: int, packet: wire.Packet, now: float) -> None:
        for frame in packet.frames:
            if isinstance(frame, wire.Ping):
                self.liveness.pinged(frame.token, now)
                self._urgent(link, wire.Pong(frame.token))
                if frame.sent > self.received and not self.liveness.is_confirming:
                    self._cut(link, f"packets {self.received + 1} to {frame.sent} went missing")
            elif isinstance(frame, wire.Pong):
                self._ponged(frame, now)
            elif isinstance(frame, wire.Probed):
                self.datagrams.probed(frame, now)
            elif not isinstance(frame, wire.Info | wire.Goodbye):  # those are the node's
                raise RemoteProtocolError(f"{type(frame).__name__} in an unnumbered packet")

    def _ponged(self, frame: wire.Pong, now: float) -> None:
        round_trip_s = self.liveness.ponged(frame.token, now)
        if round_trip_s is not None:
            self.flight.round_trip.sample(round_trip_s)
        if not self.liveness.is_confirming:
            self._release_held(now)

    def _hold(self, link: int, packet: wire.Packet, size: int) -> None:
        if self._held_bytes + size <= HELD_BYTES_MAX:
            self._held.append((link, packet, size))
            self._held_bytes += size

    def _release_held(self, now: float) -> None:
        while self._held:
            link, packet, _ = self._held.popleft()
            self._receive_numbered(link, packet, now)
        self._held_bytes = 0

    def expire(self, now: float) -> bool:
        """Act on what time has come for; return True when the peer is lost."""
        self.lanes.expire(now)
        if self.state is not SessionState.ESTABLISHED:
            return False
        self.datagrams.expire(now)
        if self.flight.byte_count and self.current_link is not None and now >= self._stuck_at():
            self._cut(self.current_link, "no acknowledgement in half the liveness limit")
        verdict = self.liveness.expire(now)
        if verdict is Verdict.PING:
            for link in self._links:
                self._ping(link)
        return verdict is Verdict.LOST

    def stalled(self, now: float) -> None:
        """This process stood still: believe and deliver nothing until the peer has answered anew."""
        if self.state is SessionState.ESTABLISHED:
            self.liveness.stalled(now)
            self.flight.progress_at = now

    # Commands

    def end(self, error: BusError) -> None:
        """End the session and all that depends on it; links are the caller's to cut."""
        self.state = SessionState.ENDED
        for _ in self._held:
            self.drop(DropCause.STALE)
        self._held.clear()
        self.lanes.end(error)
        self.datagrams.session_ended()
        self._links.clear()
        self.current_link = None

    def drop(self, cause: DropCause) -> None:
        """Count something dropped."""
        self.dropped[cause] = self.dropped.get(cause, 0) + 1

    def tell(self, frame: wire.Control) -> None:
        """Send an unnumbered frame, if there is a link."""
        if self.current_link is not None:
            self._urgent(self.current_link, frame)

    def pass_on(self, frame: wire.Met) -> None:
        """Tell the peer of another one, in a numbered frame: it arrives once, and in order."""
        self._schedule.control(wire.encode_control(frame))

    def _urgent(self, link: int, frame: wire.Control) -> None:
        state = self._links.get(link)
        if state is not None and len(state.urgent) < URGENT_FRAMES_MAX:
            state.urgent.append(wire.encode_control(frame))
            self._wake(link)

    def _ping(self, link: int) -> None:
        sent = self._links[link].cursor - 1 if link == self.current_link else 0
        self._urgent(link, wire.Ping(self.liveness.ping_token, sent))

    def _cut(self, link: int, reason: str) -> None:
        self.links_to_cut.append((link, reason))

    def _wake_current(self) -> None:
        if self.current_link is not None:
            self._wake(self.current_link)

    # Outputs

    def next_packet(self, link: int, now: float) -> bytes | None:
        """Return the next packet for that link, or None. What is returned counts as sent there."""
        state = self._links.get(link)
        if state is None:
            return None
        packet: bytes | None = None
        if state.urgent:
            packet = wire.encode_packet(0, self.received, state.urgent)
            state.urgent = []
            state.ack_due = False
        elif link == self.current_link:
            packet = self._resend(state) or self._new_packet(state, now)
        if packet is None and state.ack_due:
            packet = wire.encode_packet(0, self.received, ())
            state.ack_due = False
        if packet is not None:
            self._packets_sent += 1
            self._bytes_sent += len(packet)
        return packet

    def _resend(self, state: _SessionLink) -> bytes | None:
        if state.cursor <= self.flight.acknowledged:  # acknowledged while it waited for its turn
            state.cursor = self.flight.acknowledged + 1
        if state.cursor > self.flight.sent:
            return None
        packet = self.flight.packet(state.cursor)
        state.cursor += 1
        self._packets_resent += 1
        return packet

    def _new_packet(self, state: _SessionLink, now: float) -> bytes | None:
        frames, receipts = self._schedule.fill(self.flight, now)
        if not frames:
            return None
        number = self.flight.sent + 1
        packet = wire.encode_packet(number, self.received, frames)
        self.flight.add(packet, tuple(receipts), now)
        state.cursor = number + 1
        state.ack_due = False
        return packet
