"""Streams under arbitrary schedules: both ends against a model of what was promised.

Hypothesis decides who opens, sends, consumes, finishes, closes or aborts, and how late each side hears of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brokerless.errors import (
    BusError,
    OpenTimeout,
    SendQueueFull,
    StreamClosed,
    StreamFinished,
    StreamRejected,
    StreamReset,
)
from brokerless.model import (
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamMessages,
    StreamOffered,
    StreamOpened,
    StreamReady,
)
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.outbound import ROOM_BYTES_MIN
from brokerless.protocol.stream_state import StreamState
from tests.protocol.two_ends import SMALL, End, Ends

if TYPE_CHECKING:
    from brokerless.model import Event
    from brokerless.protocol.stream import Stream

STREAMS_MAX = 4
STREAM_EVENTS = (
    StreamOpened | StreamMessages | StreamFinishedReceiving | StreamEnded | StreamAcknowledged | StreamReady
)
ENDINGS = (StreamClosed, StreamReset, StreamRejected, OpenTimeout)
ENDS = st.sampled_from(["near", "far"])
WHICH = st.integers(0, STREAMS_MAX - 1)
SIZES = st.integers(0, 200) | st.integers(0, 3000) | st.integers(3000, SMALL.message_bytes_max)
ROOMS = st.sampled_from([ROOM_BYTES_MIN, 1500, 4000, 65_000])
SELDOM = st.sampled_from([False] * 5 + [True])
DEADLINES = st.none() | st.integers(1, 10)


@dataclass
class Side:
    """What the application at one end of a stream did and saw."""

    end: End
    stream: Stream
    sent: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    consumed: int = 0
    receipts: int = 0
    has_closed: bool = False
    has_opened: bool = False
    has_finished: bool = False
    has_ended: bool = False
    error: BusError | None = None
    timed_out: bool = False
    excuses: set[type[BusError]] = field(default_factory=set)
    """How the stream may end at either end, beside None and ``StreamClosed``."""


class StreamsAtLarge(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ends = Ends()
        self.sides: dict[tuple[End, int], Side] = {}
        self.opened = 0
        self.spent = 0

    # Who and what

    def end(self, name: str) -> End:
        return self.ends.near if name == "near" else self.ends.far

    def pick(self, end: End, which: int, *states: StreamState) -> Side | None:
        sides = [s for (e, _), s in self.sides.items() if e is end and s.stream.state in states]
        return sides[which % len(sides)] if sides else None

    def other(self, side: Side) -> Side | None:
        return self.sides.get((self.ends.other(side.end), side.stream.id))

    def excuse(self, side: Side, *errors: type[BusError]) -> None:
        """Note that the stream may end so, at both ends, from now on."""
        for one in (side, self.other(side)):
            if one is not None:
                one.excuses.update(errors)

    # What applications do

    @initialize(name=ENDS, is_accepted=st.booleans(), spent=st.sampled_from([0, 25_000, 39_999]))
    def begin(self, name: str, is_accepted: bool, spent: int) -> None:
        self.spent = spent  # of both budgets, by others
        for end in (self.ends.near, self.ends.far):
            assert not spent or end.reserve(spent)
        self.open(name, None)
        self.ends.exchange()
        self.look()
        if is_accepted:
            self.accept("far" if name == "near" else "near", 0)
            self.ends.exchange()

    @precondition(lambda self: self.opened < STREAMS_MAX)
    @rule(name=ENDS, deadline=DEADLINES)
    def open(self, name: str, deadline: int | None) -> None:
        end = self.end(name)
        self.opened += 1
        stream_id = 2 * self.opened + (end is self.ends.far)
        stream = end.open(stream_id, deadline=None if deadline is None else end.now + deadline)
        self.sides[end, stream_id] = Side(end, stream)

    @rule(name=ENDS, which=WHICH)
    def accept(self, name: str, which: int) -> None:
        if (side := self.pick(self.end(name), which, StreamState.OFFERED)) is not None:
            side.stream.accept()

    @rule(name=ENDS, which=WHICH, really=SELDOM)
    def reject(self, name: str, which: int, really: bool) -> None:
        if really and (side := self.pick(self.end(name), which, StreamState.OFFERED)) is not None:
            self.excuse(side, StreamRejected)
            side.stream.reject(1)

    @rule(name=ENDS, which=WHICH, size=SIZES, count=st.sampled_from([1, 1, 1, 30]))
    def send(self, name: str, which: int, size: int, count: int) -> None:
        side = self.pick(self.end(name), which, StreamState.OFFERING, StreamState.OPEN, StreamState.ENDED)
        for _ in range(count if side is not None else 0):
            assert side is not None
            stream, data = side.stream, bytes([len(side.sent) % 256]) * size
            welcome = stream.room >= size and stream.room > 0
            try:
                sequence = stream.send(data)
            except (SendQueueFull, StreamFinished, *ENDINGS):
                assert not welcome
                return
            assert stream.send_error is None
            side.sent.append(data)
            assert sequence == stream.last_sequence == len(side.sent)

    @rule(name=ENDS, which=WHICH, count=st.integers(1, 40))
    def consume(self, name: str, which: int, count: int) -> None:
        if (side := self.pick(self.end(name), which, StreamState.OPEN)) is not None:
            count = min(count, len(side.received) - side.consumed)
            side.stream.consume(count)
            if not side.has_closed:
                side.consumed += count

    @rule(name=ENDS, which=WHICH, really=SELDOM)
    def finish(self, name: str, which: int, really: bool) -> None:
        if (
            really
            and (side := self.pick(self.end(name), which, StreamState.OFFERING, StreamState.OPEN)) is not None
        ):
            side.stream.finish()

    @rule(name=ENDS, which=WHICH, deadline=DEADLINES, really=st.booleans())
    def close(self, name: str, which: int, deadline: int | None, really: bool) -> None:
        if not really:
            return
        if (side := self.pick(self.end(name), which, *set(StreamState) - {StreamState.ENDED})) is not None:
            if side.stream.state is StreamState.OFFERED:
                self.excuse(side, StreamRejected)
            side.has_closed = True
            side.stream.close(None if deadline is None else side.end.now + deadline)

    @rule(name=ENDS, which=WHICH, really=SELDOM)
    def abort(self, name: str, which: int, really: bool) -> None:
        if not really:
            return
        if (side := self.pick(self.end(name), which, *set(StreamState) - {StreamState.ENDED})) is not None:
            self.excuse(side, StreamReset)
            side.stream.abort(7)

    @rule(name=ENDS, which=WHICH)
    def want_ready(self, name: str, which: int) -> None:
        if (side := self.pick(self.end(name), which, StreamState.OPEN)) is not None:
            side.stream.want_ready()

    # What the world does

    @rule(name=ENDS, room=ROOMS)
    def transmit(self, name: str, room: int) -> None:
        self.ends.send(self.end(name), room)

    @rule(name=ENDS, room=ROOMS, count=st.integers(1, 9))
    def carry(self, name: str, room: int, count: int) -> None:
        for _ in range(count):
            self.transmit(name, room)
            self.ends.deliver(self.ends.other(self.end(name)))
            self.look()

    @rule(name=ENDS, count=st.integers(1, 5))
    def deliver(self, name: str, count: int) -> None:
        for _ in range(count):
            self.ends.deliver(self.end(name))
            self.look()

    @rule(name=ENDS, seconds=st.integers(1, 3))
    def pass_time(self, name: str, seconds: int) -> None:
        end = self.end(name)
        now = end.now + seconds
        for side in list(self.sides.values()):
            deadline = side.stream.next_deadline()
            if side.end is end and deadline is not None and deadline <= now:
                self.excuse(side, StreamRejected, StreamReset, OpenTimeout)
                for one in (side, self.other(side)):
                    if one is not None:
                        one.timed_out = True
        end.expire(now)

    # What must hold

    @invariant()
    def look(self) -> None:
        for end in (self.ends.near, self.ends.far):
            for event in end.take_events():
                self.see(end, event)

    def see(self, end: End, event: Event) -> None:
        if isinstance(event, StreamOffered):
            stream = event.offer.stream
            side = self.sides[end, stream.id] = Side(end, stream)
            opener = self.other(side)
            assert opener is not None
            side.excuses, side.timed_out = set(opener.excuses), opener.timed_out
            return
        assert isinstance(
            event,
            StreamOpened
            | StreamMessages
            | StreamFinishedReceiving
            | StreamEnded
            | StreamAcknowledged
            | StreamReady,
        )
        side = self.sides[end, event.stream.id]
        assert not side.has_ended, "the end is the last of its events"
        if isinstance(event, StreamOpened):
            assert not side.has_opened
            side.has_opened = True
        elif isinstance(event, StreamMessages):
            self.see_messages(side, event)
        elif isinstance(event, StreamFinishedReceiving):
            self.see_finished(side)
        elif isinstance(event, StreamEnded):
            self.see_end(side, event.error)
        elif isinstance(event, StreamAcknowledged):
            assert side.has_opened
            assert side.receipts < event.sequence <= side.stream.sent_sequence
            side.receipts = event.sequence

    def see_messages(self, side: Side, event: StreamMessages) -> None:
        other = self.other(side)
        assert other is not None
        assert side.has_opened
        assert not side.has_closed
        assert not side.has_finished
        assert event.first_sequence == len(side.received) + 1
        side.received += event.messages
        assert side.received == other.sent[: len(side.received)]

    def see_finished(self, side: Side) -> None:
        other = self.other(side)
        assert other is not None
        assert side.has_opened
        assert not side.has_finished
        assert len(side.received) == len(other.sent), "a finish is never a silent gap"
        side.has_finished = True

    def see_end(self, side: Side, error: BusError | None) -> None:
        side.has_ended, side.error = True, error
        other = self.other(side)
        consumed = 0 if other is None else other.consumed
        if error is None:
            assert consumed == len(side.sent)
        elif isinstance(error, StreamClosed):
            assert error.last_consumed <= consumed
            if not side.timed_out:
                assert error.last_consumed == consumed < len(side.sent)
        else:
            assert type(error) in side.excuses

    @invariant()
    def memory_is_bounded(self) -> None:
        for end in (self.ends.near, self.ends.far):
            live = [side for (e, _), side in self.sides.items() if e is end and not side.has_ended]
            windows = [side.stream._receiver._window for side in live if not side.has_closed]
            held = sum(window.arrived - window.consumed for window in windows)
            assert held <= len(windows) * SMALL.stream_window_initial_bytes + end.reserved - self.spent
            for side in live:
                stats = side.stream.stats()
                queued = stats.send_queue_bytes + stats.send_queue_messages * MESSAGE_COST_BYTES
                assert stats.send_queue_messages <= 1 or queued <= SMALL.send_queue_bytes_max
                assert stats.send_credit_bytes >= 0
                assert stats.messages_received >= len(side.received)

    def teardown(self) -> None:
        for end in (self.ends.near, self.ends.far):
            if self.spent:
                end.release(self.spent)
        self.spent = 0
        for end in (self.ends.near, self.ends.far):
            while (side := self.pick(end, 0, StreamState.OFFERED)) is not None:
                side.stream.accept()
        self.settle()
        for side in self.sides.values():
            assert side.has_ended or side.stream.stats().send_queue_messages == 0, "nothing is stuck"
            side.stream.finish()
        self.settle()
        for side in self.sides.values():
            assert side.has_ended, "what both have finished, and consumed, is over"
            other = self.other(side)
            if other is not None and not side.excuses:
                shortfall = side.consumed < len(other.sent)
                assert isinstance(other.error, StreamClosed) == shortfall or side.timed_out
        for end in (self.ends.near, self.ends.far):
            assert (end.reserved, end.turn, len(end.oversized), len(end.lanes)) == (0, None, 0, 1)

    def settle(self) -> None:
        """Let everything arrive and be consumed, until nothing moves."""
        before = None
        while before != (before := [(len(side.received), side.consumed) for side in self.sides.values()]):
            self.ends.exchange()
            self.look()
            for end in (self.ends.near, self.ends.far):
                while (side := self.pick(end, 0, StreamState.OFFERED)) is not None:
                    side.stream.accept()
                self.look()
            for side in self.sides.values():
                count = len(side.received) - side.consumed
                if not side.has_closed and not side.stream.is_over:
                    side.stream.consume(count)
                    side.consumed += count
            self.ends.exchange()
            self.look()


StreamsAtLarge.TestCase.settings = settings(max_examples=200, stateful_step_count=50)
TestStreamsAtLarge = pytest.mark.timeout(120)(StreamsAtLarge.TestCase)
