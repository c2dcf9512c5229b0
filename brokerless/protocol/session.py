"""One conversation with one incarnation of a peer, over links that come and go.

Everything reliable travels in numbered packets. The receiver takes them in order and acknowledges the last
one; the sender keeps each until then. So a link may die at any byte: the next one starts again at the number
after the last acknowledged, and what arrives twice is dropped by its number. The scheme is that of TCP's
cumulative acknowledgement (RFC 9293) without its congestion control, which the links' own TCP does.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from brokerless.errors import RemoteProtocolError, UsageError
from brokerless.model import DropCause, Offer, PeerStats, Reliability, StreamOffered, Traffic
from brokerless.protocol import wire
from brokerless.protocol.association import Nonce
from brokerless.protocol.datagram_stream import DatagramStream
from brokerless.protocol.datagrams import Datagrams
from brokerless.protocol.flight import Flight, Receipt
from brokerless.protocol.liveness import Liveness, Verdict
from brokerless.protocol.offers import Offers
from brokerless.protocol.openings import Openings
from brokerless.protocol.singles import Singles
from brokerless.protocol.stream import Stream
from brokerless.protocol.stream_state import UNTAKEN
from brokerless.protocol.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.errors import BusError
    from brokerless.model import Event
    from brokerless.protocol.budget import Budget
    from brokerless.protocol.datagram_plane import DatagramPlane

STUCK_SHARE = 0.5
"""A link without progress of acknowledgements for this share of the liveness limit is dead: half of it is
left to resume on another."""

TURN_BYTES = 16 * 1024
"""What one stream may put into a packet while others wait: four take turns in a full one."""

ROOM_BYTES_MIN = 2 * 1024
"""A packet with less room than this is full; a chunk cut so small is not worth its header."""

SHARED_S = 1.0
"""How long after two streams took turns the flight is shared: many ticks of a game, a few of a sensor. A
stream on its own is not held back."""

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

REJECT_BUSY = wire.BUS_CODE_MIN + 0x10
"""Code of a rejection by the bus: too many streams are open or waiting."""

RELIABILITIES = tuple(Reliability(name) for name in wire.RELIABILITIES)


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
    """One session. It is also the host of its streams (``StreamHost``).

    Queries: ``state``, ``nonce``, ``their_nonce``, ``received``, ``current_link``, ``links``, ``is_suspect``,
    ``is_idle``, ``is_waiting``, ``stats``, ``next_deadline``.
    Inputs: ``establish``, ``link_ready``, ``link_gone``, ``receive``, ``expire``, ``stalled``.
    Commands: ``open_stream``, ``accept``, ``pass_on``, ``end``, and those of its streams and ``singles``.
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
        self.state = SessionState.FRESH
        self.their_nonce: Nonce | None = None
        self.message_bytes_max = limits.message_bytes_max
        self.received = 0
        self.flight = Flight(limits.unacknowledged_bytes_max, now)
        self._phase = nonce.boot % PHASES / PHASES
        eager = local < remote
        self.liveness = Liveness(limit_s=limits.liveness_s, eager=eager, now=now, phase=self._phase)
        self.streams: dict[int, Stream] = {}
        self.singles = Singles(self)
        self.datagrams = Datagrams(self, plane)
        self.current_link: int | None = None
        self.is_leaving = False
        """Set when the node closes: it takes no more streams."""
        self.links_to_cut: list[tuple[int, str]] = []
        self.dropped: dict[DropCause, int] = {}
        self._wake = wake
        self._touch = touch
        self._hear = hear
        self._budget = budget
        self._links: dict[int, _SessionLink] = {}
        self._control: deque[bytes] = deque()
        self._active: deque[Stream | Singles] = deque()
        self._sent_last: int | None = None  # id of the stream whose frame was the last
        self._shared_until = now
        self._held: deque[tuple[int, wire.Packet, int]] = deque()
        self._held_bytes = 0
        self._oversized: OrderedDict[Stream | Singles, None] = OrderedDict()  # a queue that may be left, too
        self._granted: Stream | Singles | None = None
        self._granting = False
        self._timers: Timers[Stream | Singles] = Timers()
        self._openings = Openings(self._offer)
        self._offers = Offers(limits.offers_max)
        self._lower = local < remote
        self._next_id = 2 if self._lower else 1
        self._next_their_id = 1 if self._lower else 2
        self._their_stream_credit = 0
        self._their_streams_max = limits.streams_max
        self._packets_sent = self._bytes_sent = self._packets_received = self._bytes_received = 0
        self._packets_resent = self._links_lost = 0
        self._past_traffic = Traffic()

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
        return not (self._control or self._active or self.flight.byte_count or not self.singles.is_idle)

    @property
    def is_waiting(self) -> bool:
        """True when somebody here depends on the peer: streams are open, or sends under way."""
        return bool(self.streams) or not self.singles.is_idle

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, or None."""
        deadline = self._timers.next_deadline()
        if self.state is not SessionState.ESTABLISHED:
            return deadline
        self.liveness.active = self.is_waiting
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
        """Return the counters of messages: those of the streams that are over, and all others."""
        singles = (self.singles.traffic(), self.datagrams.traffic())
        streams = [stream.stats() for stream in self.streams.values()]
        return Traffic.total((self._past_traffic, *singles, *streams))

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
        self.message_bytes_max = min(self.limits.message_bytes_max, info.message_bytes_max)
        limit_s = max(min(self.limits.liveness_s, info.liveness_ms / 1000), LIVENESS_S_MIN)
        self.liveness = Liveness(limit_s=limit_s, eager=self._lower, now=now, phase=self._phase)
        self._their_stream_credit = info.stream_credit
        self._their_streams_max = info.streams_max
        for stream in list(self.streams.values()):
            stream.established(info.stream_credit)
        self.singles.established(info.single_credit)
        self._openings.allow(max(1, info.offers_max))  # none at all would leave offers without an answer

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
        for stream_id, sequence in self.flight.acknowledge(number, now):
            if stream_id == 0:
                self.singles.acknowledged(sequence)
            elif (stream := self.streams.get(stream_id)) is not None:
                stream.acknowledged(sequence)
        if self.flight.acknowledged > before:
            self.liveness.progressed(now)
            if self.current_link is not None:
                self._wake(self.current_link)

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
            handler = _NUMBERED.get(type(frame))
            if handler is None:
                raise RemoteProtocolError(f"{type(frame).__name__} in a numbered packet")
            handler(self, frame, now)

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
        for stream in self._timers.pop_due(now):
            stream.expire(now)
            self._timers.set_earlier(stream, stream.next_deadline())
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

    def open_stream(
        self, reliability: Reliability, name: str, metadata: bytes, deadline: float | None
    ) -> Stream:
        """Offer a stream to the peer, when it may. Raises ``UsageError`` when no more may be open."""
        if len(self.streams) >= min(self.limits.streams_max, self._their_streams_max):
            raise UsageError(f"{len(self.streams)} streams are open, the most allowed", peer=self.remote)
        if self._next_id > wire.STREAM_ID_MAX:
            raise UsageError("the stream ids of this session have run out", peer=self.remote)
        stream_id = self._next_id
        self._next_id += 2
        window = 0
        if reliability is Reliability.RELIABLE:
            window = self.limits.stream_window_initial_bytes
        offer = wire.Open(stream_id, RELIABILITIES.index(reliability), name, metadata, window)
        stream = self._new_stream(offer, self._their_stream_credit, deadline, opener=True)
        self._openings.add(stream, wire.encode_control(offer))
        self.deadline_changed(stream)
        return stream

    def _new_stream(
        self, offer: wire.Open, send_limit: int, deadline: float | None, *, opener: bool
    ) -> Stream:
        reliability = RELIABILITIES[offer.reliability]
        stream: Stream
        if reliability is Reliability.RELIABLE:
            stream = Stream(
                self,
                offer.stream_id,
                opener,
                reliability,
                offer.name,
                offer.metadata,
                send_limit=send_limit,
                receive_window=self.limits.stream_window_initial_bytes,
                deadline=deadline,
            )
        else:
            stream = DatagramStream(
                self,
                self.datagrams,
                offer.stream_id,
                opener,
                reliability,
                offer.name,
                offer.metadata,
                deadline=deadline,
            )
        self.streams[stream.id] = stream
        return stream

    def accept(self, stream: Stream, metadata: bytes) -> None:
        """Take an offered stream, with metadata in reply."""
        self._offers.answered(stream.id)
        stream.accept(metadata)

    def end(self, error: BusError) -> None:
        """End the session and all that depends on it; links are the caller's to cut."""
        self.state = SessionState.ENDED
        for _ in self._held:
            self.drop(DropCause.STALE)
        self._held.clear()
        self._openings.allow(0)
        for stream in list(self.streams.values()):
            stream.session_ended(error)
        self.singles.session_ended(error)
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
        self._control.append(wire.encode_control(frame))
        if self.current_link is not None:
            self._wake(self.current_link)

    def touch(self) -> None:
        """Look at ``next_deadline`` again."""
        self._touch()

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

    # What streams ask of their host

    def schedule(self, stream: Stream | Singles) -> None:
        """The stream has something to send."""
        if stream.id not in self._openings:
            self._active.append(stream)
            if self.current_link is not None:
                self._wake(self.current_link)

    def control(self, frame: wire.StreamControl) -> None:
        """Send a numbered control frame, before data."""
        if frame.stream_id in self._openings:
            self._openings.hold(frame.stream_id, wire.encode_control(frame))
            return
        self._control.append(wire.encode_control(frame))
        if self.current_link is not None:
            self._wake(self.current_link)

    def _offer(self, stream: Stream, frames: list[bytes]) -> None:
        self._control.extend(frames)
        if stream.has_output:
            self._active.append(stream)
        if self.current_link is not None:
            self._wake(self.current_link)

    def retire(self, stream: Stream) -> None:
        """The stream is over."""
        self.streams.pop(stream.id, None)
        self._past_traffic = Traffic.total((self._past_traffic, stream.stats())).past()
        if isinstance(stream, DatagramStream):
            self.datagrams.forget(stream.id)
        self._openings.over(stream.id)
        self._offers.answered(stream.id)
        self._timers.remove(stream)

    def reserve(self, byte_count: int) -> bool:
        """Enlarge what the peer may have unconsumed here; False when the budget is spent."""
        # A window grows only while the largest message would still fit: windows are not given back while
        # their streams live, and an oversized grant that waits for them would wait for good.
        keep = 0 if self._granting else self.limits.message_bytes_max
        return self._budget.reserve(byte_count, keep)

    def release(self, byte_count: int) -> None:
        """Give that back."""
        self._budget.release(byte_count)

    def deadline_changed(self, stream: Stream | Singles) -> None:
        """The stream's next deadline moved."""
        self._timers.set(stream, stream.next_deadline())
        self._touch()

    def want_oversized(self, stream: Stream | Singles) -> None:
        """The peer has a message larger than the stream's window; such are granted one at a time."""
        self._oversized[stream] = None
        self._grant_oversized()

    def oversized_done(self, stream: Stream | Singles) -> None:
        """That message has been consumed, or its stream is over: the next one's turn."""
        if stream is self._granted:
            self._granted = None
        else:
            self._oversized.pop(stream, None)
        self._grant_oversized()

    def _grant_oversized(self) -> None:
        if self._granted is not None or not self._oversized:
            return
        self._granting = True
        first = next(iter(self._oversized))
        granted = first.grant_oversized()
        self._granting = False
        if granted:
            del self._oversized[first]
            self._granted = first
        else:
            self._budget.when_freed(self._grant_oversized)

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
        frames, receipts = self._gather(now)
        if not frames:
            return None
        number = self.flight.sent + 1
        packet = wire.encode_packet(number, self.received, frames)
        self.flight.add(packet, tuple(receipts), now)
        state.cursor = number + 1
        state.ack_due = False
        return packet

    def _gather(self, now: float) -> tuple[list[bytes], list[Receipt]]:
        """Fill a packet: control first, then the streams in turn."""
        frames: list[bytes] = []
        receipts: list[Receipt] = []
        room = wire.RUN_BYTES_MAX + wire.CHUNK_OVERHEAD_BYTES
        control, active = self._control, self._active
        self.flight.is_shared = now < self._shared_until
        while control and room >= len(control[0]):
            room -= len(control[0])
            frames.append(control.popleft())
        while active and room >= ROOM_BYTES_MIN and not control and not self.flight.is_full:
            stream = active.popleft()
            output = stream.next_frame(room if not active else min(room, TURN_BYTES))
            if output is not None:
                frame, sequence = output
                frames.append(frame)
                receipts.append(Receipt(stream.id, sequence))
                room -= len(frame)
                if self._sent_last not in (None, stream.id):
                    self._shared_until = now + SHARED_S
                self._sent_last = stream.id
            if stream.has_output:
                active.append(stream)
        return frames, receipts

    # Numbered frames, one handler each

    def _on_open(self, frame: wire.Open, now: float) -> None:
        expected = self._next_their_id
        if frame.stream_id < expected or frame.stream_id % 2 != expected % 2:
            raise RemoteProtocolError(f"OPEN of stream {frame.stream_id}, expected {expected} or a later one")
        self._next_their_id = frame.stream_id + 2
        if self.is_leaving:
            self.control(wire.Reject(frame.stream_id, UNTAKEN, "the bus is being closed"))
            return
        if len(self.streams) >= self.limits.streams_max or not self._offers.take(frame.stream_id, now):
            self.control(wire.Reject(frame.stream_id, REJECT_BUSY, "too many streams are waiting or open"))
            return
        stream = self._new_stream(frame, frame.credit, None, opener=False)
        self.emit(StreamOffered(Offer(stream)))

    def _of_stream(self, stream_id: int) -> Stream | None:
        """Return the open stream of that id; None for one that is over here, with frames still under way."""
        stream = self.streams.get(stream_id)
        if stream is None:
            ours = stream_id % 2 == self._next_id % 2
            is_opened = 0 < stream_id < (self._next_id if ours else self._next_their_id)
        else:
            is_opened = stream_id not in self._openings
        if not is_opened:
            raise RemoteProtocolError(f"a frame of stream {stream_id}, which was never opened")
        return stream

    def _on_accept(self, frame: wire.Accept, now: float) -> None:
        if (stream := self._of_stream(frame.stream_id)) is not None:
            stream.on_accept(frame)
            self._openings.over(frame.stream_id)

    def _on_reject(self, frame: wire.Reject, now: float) -> None:
        if (stream := self._of_stream(frame.stream_id)) is not None:
            stream.on_reject(frame)

    def _on_data(self, frame: wire.Data, now: float) -> None:
        if frame.stream_id == 0:
            self.singles.on_data(frame, now)
        elif (stream := self._of_stream(frame.stream_id)) is not None:
            stream.on_data(frame)

    def _on_chunk(self, frame: wire.Chunk, now: float) -> None:
        if frame.stream_id == 0:
            self.singles.on_chunk(frame, now)
        elif (stream := self._of_stream(frame.stream_id)) is not None:
            stream.on_chunk(frame)

    def _on_grant(self, frame: wire.Grant, now: float) -> None:
        if frame.stream_id == 0:
            self.singles.on_grant(frame)
        elif (stream := self._of_stream(frame.stream_id)) is not None:
            stream.on_grant(frame)

    def _on_blocked(self, frame: wire.Blocked, now: float) -> None:
        if frame.stream_id == 0:
            self.singles.on_blocked(frame)
        elif (stream := self._of_stream(frame.stream_id)) is not None:
            stream.on_blocked(frame)

    def _on_finish(self, frame: wire.Finish, now: float) -> None:
        if (stream := self._of_stream(frame.stream_id)) is not None:
            stream.on_finish(frame)

    def _on_close(self, frame: wire.Close, now: float) -> None:
        if (stream := self._of_stream(frame.stream_id)) is not None:
            stream.on_close(frame)

    def _on_reset(self, frame: wire.Reset, now: float) -> None:
        if (stream := self._of_stream(frame.stream_id)) is not None:
            self._offers.withdrawn(frame.stream_id, now)
            stream.on_reset(frame)

    def _on_met(self, frame: wire.Met, now: float) -> None:
        if self._hear is not None:
            self._hear(frame, now)


_NUMBERED: dict[type, Callable[[Session, Any, float], None]] = {
    wire.Open: Session._on_open,
    wire.Accept: Session._on_accept,
    wire.Reject: Session._on_reject,
    wire.Data: Session._on_data,
    wire.Chunk: Session._on_chunk,
    wire.Grant: Session._on_grant,
    wire.Blocked: Session._on_blocked,
    wire.Finish: Session._on_finish,
    wire.Close: Session._on_close,
    wire.Reset: Session._on_reset,
    wire.Met: Session._on_met,
}
