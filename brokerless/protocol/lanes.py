"""What a session carries: its streams, by their ids, and its single messages.

Here streams are offered, opened and retired, frames find theirs, and memory is set aside for what the peer
may have unconsumed here. In which packets all that travels is the session's business.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from brokerless.errors import RemoteProtocolError, UsageError
from brokerless.model import Offer, Reliability, StreamOffered, Traffic
from brokerless.protocol import wire
from brokerless.protocol.datagram_stream import DatagramStream
from brokerless.protocol.offers import Offers
from brokerless.protocol.openings import Openings
from brokerless.protocol.singles import Singles
from brokerless.protocol.stream import Stream
from brokerless.protocol.stream_state import UNTAKEN
from brokerless.protocol.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.errors import BusError
    from brokerless.model import Event
    from brokerless.protocol.budget import Budget
    from brokerless.protocol.datagrams import Datagrams
    from brokerless.protocol.flight import Receipt
    from brokerless.protocol.schedule import Schedule
    from brokerless.protocol.stream_host import Lane

REJECT_BUSY = wire.BUS_CODE_MIN + 0x10
"""Code of a rejection by the bus: too many streams are open or waiting."""

RELIABILITIES = tuple(Reliability(name) for name in wire.RELIABILITIES)


class LanesHost(Protocol):
    """What lanes ask of their session."""

    remote: Address
    limits: Limits
    datagrams: Datagrams
    emit: Callable[[Event], None]

    def touch(self) -> None:
        """Look at ``next_deadline`` again."""


class Lanes:
    """The streams and the single messages of one session, and their host (``StreamHost``).

    Queries: ``streams``, ``singles``, ``is_waiting``, ``traffic``, ``next_deadline``.
    Inputs: ``established``, ``receive``, ``acknowledged``, ``expire``.
    Commands: ``open_stream``, ``accept``, ``end``, and those of the lanes. What they have to send goes to the
    schedule.
    """

    def __init__(self, host: LanesHost, schedule: Schedule, budget: Budget, is_lower: bool) -> None:
        self.remote = host.remote
        self.limits = host.limits
        self.message_bytes_max = host.limits.message_bytes_max
        self.emit = host.emit
        self.streams: dict[int, Stream] = {}
        self.singles = Singles(self)
        self.is_leaving = False
        """Set when the node closes: it takes no more streams."""
        self._host = host
        self._schedule = schedule
        self._budget = budget
        self._oversized: OrderedDict[Lane, None] = OrderedDict()  # a queue that may be left, too
        self._granted: Lane | None = None
        self._granting = False
        self._timers: Timers[Lane] = Timers()
        self._openings = Openings(self._offer)
        self._offers = Offers(host.limits.offers_max)
        self._next_id = 2 if is_lower else 1
        self._next_their_id = 1 if is_lower else 2
        self._their_stream_credit = 0
        self._their_streams_max = host.limits.streams_max
        self._past_traffic = Traffic()

    # Queries

    @property
    def is_waiting(self) -> bool:
        """True when somebody here depends on the peer: streams are open, or sends under way."""
        return bool(self.streams) or not self.singles.is_idle

    def traffic(self) -> Traffic:
        """Return the counters of messages: those of the streams that are over, and all others."""
        streams = [stream.stats() for stream in self.streams.values()]
        return Traffic.total((self._past_traffic, self.singles.traffic(), *streams))

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, or None."""
        return self._timers.next_deadline()

    # Inputs

    def established(self, info: wire.Info) -> None:
        """The peer's limits are known: what waits may be sent."""
        self.message_bytes_max = min(self.limits.message_bytes_max, info.message_bytes_max)
        self._their_stream_credit = info.stream_credit
        self._their_streams_max = info.streams_max
        for stream in list(self.streams.values()):
            stream.established(info.stream_credit)
        self.singles.established(info.single_credit)
        self._openings.allow(max(1, info.offers_max))  # none at all would leave offers without an answer

    def receive(self, frame: wire.Frame, now: float) -> None:
        """Take in a numbered frame. Raises ``RemoteProtocolError``."""
        handler = _HANDLERS.get(type(frame))
        if handler is None:
            raise RemoteProtocolError(f"{type(frame).__name__} in a numbered packet")
        handler(self, frame, now)

    def acknowledged(self, receipts: Iterable[Receipt]) -> None:
        """The peer has what these say."""
        for stream_id, sequence in receipts:
            if stream_id == 0:
                self.singles.acknowledged(sequence)
            elif (stream := self.streams.get(stream_id)) is not None:
                stream.acknowledged(sequence)

    def expire(self, now: float) -> None:
        """Act on what time has come for."""
        for lane in self._timers.pop_due(now):
            lane.expire(now)
            self._timers.set_earlier(lane, lane.next_deadline())

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
                self._host.datagrams,
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
        """The session is over, and all of this with it."""
        self._openings.allow(0)
        for stream in list(self.streams.values()):
            stream.session_ended(error)
        self.singles.session_ended(error)

    # What streams ask of their host

    def schedule(self, stream: Lane) -> None:
        """The stream has something to send."""
        if stream.id not in self._openings:
            self._schedule.add(stream)

    def control(self, frame: wire.StreamControl) -> None:
        """Send a numbered control frame, before data."""
        if frame.stream_id in self._openings:
            self._openings.hold(frame.stream_id, wire.encode_control(frame))
        else:
            self._schedule.control(wire.encode_control(frame))

    def _offer(self, stream: Stream, frames: list[bytes]) -> None:
        self._schedule.control(*frames)
        if stream.has_output:
            self._schedule.add(stream)

    def retire(self, stream: Stream) -> None:
        """The stream is over."""
        self.streams.pop(stream.id, None)
        self._past_traffic = Traffic.total((self._past_traffic, stream.stats())).past()
        if isinstance(stream, DatagramStream):
            self._host.datagrams.forget(stream.id)
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

    def deadline_changed(self, stream: Lane) -> None:
        """The stream's next deadline moved."""
        self._timers.set(stream, stream.next_deadline())
        self._host.touch()

    def want_oversized(self, stream: Lane) -> None:
        """The peer has a message larger than the stream's window; such are granted one at a time."""
        self._oversized[stream] = None
        self._grant_oversized()

    def oversized_done(self, stream: Lane) -> None:
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

    # Frames, one handler each

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


_HANDLERS: dict[type, Callable[[Lanes, Any, float], None]] = {
    wire.Open: Lanes._on_open,
    wire.Accept: Lanes._on_accept,
    wire.Reject: Lanes._on_reject,
    wire.Data: Lanes._on_data,
    wire.Chunk: Lanes._on_chunk,
    wire.Grant: Lanes._on_grant,
    wire.Blocked: Lanes._on_blocked,
    wire.Finish: Lanes._on_finish,
    wire.Close: Lanes._on_close,
    wire.Reset: Lanes._on_reset,
}
