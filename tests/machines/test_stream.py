"""One end of a stream against the rules of ``docs/wire.md``, with a peer at the other that may break them.

The peer is the machine itself: it sends any frame at any time, mostly what the rules allow. The model knows
which those are, what the application here is to be told, and what this end may say itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brokerless.errors import (
    BusError,
    MessageTooLarge,
    OpenTimeout,
    PeerLost,
    RemoteProtocolError,
    SendQueueFull,
    StreamClosed,
    StreamFinished,
    StreamRejected,
    StreamReset,
    UsageError,
)
from brokerless.model import (
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamMessages,
    StreamOpened,
    StreamReady,
)
from brokerless.protocol import wire
from tests.machines import as_test
from tests.protocol.two_ends import SMALL, End, acceptor

if TYPE_CHECKING:
    from brokerless.protocol.stream import Stream

COST = 64
CHUNK_MIN = 1_024
MESSAGE_MAX = SMALL.message_bytes_max
WINDOW = SMALL.stream_window_initial_bytes
OPEN_TIMEOUT, CLOSE_TIMEOUT = 0xFFFF_FFFE, 0xFFFF_FFFF


@dataclass
class Direction:
    """One direction of the stream, as both ends can know it from the frames."""

    limit: int
    """Cumulative credit."""
    spent: int = 0
    messages: list[bytes] = field(default_factory=list)
    """That went over it whole."""
    partial: tuple[int, bytes] | None = None
    """A large message under way: its length, and what went so far."""
    is_finished: bool = False
    is_closed: bool = False
    """By its reader."""
    asked: int = 0
    """The credit that its sender said it needs."""
    consumed: int = 0
    """Messages that its reader's application is known to have consumed."""

    @property
    def is_over(self) -> bool:
        return self.is_finished and self.is_closed

    def forbids_run(self, first: int, run: list[bytes]) -> bool:
        cost = sum(map(len, run)) + COST * len(run)
        return (
            self.is_finished
            or self.partial is not None
            or first != len(self.messages) + 1
            or max(map(len, run)) > MESSAGE_MAX
            or self.spent + cost > self.limit
        )

    def run(self, run: list[bytes]) -> None:
        self.spent += sum(map(len, run)) + COST * len(run)
        self.messages += run

    def forbids_chunk(self, chunk: wire.Chunk) -> bool:
        total, had = self.partial or (chunk.total, b"")
        is_last = chunk.offset + len(chunk.payload) == chunk.total
        return (
            self.is_finished
            or chunk.sequence != len(self.messages) + 1
            or (chunk.total, chunk.offset) != (total, len(had))
            or total > MESSAGE_MAX
            or (self.partial is None and self.spent + total + COST > self.limit)
            or (len(chunk.payload) < CHUNK_MIN and not is_last)
        )

    def chunk(self, chunk: wire.Chunk) -> bytes | None:
        """Take one; return the message that it completes."""
        if self.partial is None:
            self.spent += chunk.total + COST
            self.partial = chunk.total, b""
        total, data = self.partial[0], self.partial[1] + chunk.payload
        self.partial = None if len(data) == total else (total, data)
        if self.partial is None:
            self.messages.append(data)
            return data
        return None


class Model:
    """The stream as the frames and the application's commands have made it."""

    def __init__(self, opener: bool) -> None:
        self.opener = opener
        self.is_open = self.is_over = False
        self.ours, self.theirs = Direction(WINDOW), Direction(WINDOW)
        self.queued: list[bytes] = []
        """All that the application here gave to send."""
        self.is_finishing = False
        self.told: list[bytes] = []
        """All that the application here is to have been given."""
        self.receipts = 0
        self.acknowledged = 0
        self.expected: list[Any] = []
        """Events that are due, in order."""
        self.deafened = False
        """The application here has closed, or its node is being closed: it is given nothing more."""
        self.is_left = False
        """The node is being closed: nothing more is taken to send, but that does not make it all there is."""

    # The peer

    def forbids(self, frame: Any) -> bool:
        """Whether the peer breaks the rules with this frame."""
        theirs, ours = self.theirs, self.ours
        if self.is_over:
            return False
        if isinstance(frame, wire.Accept | wire.Reject):
            return not self.opener or self.is_open
        if isinstance(frame, wire.Reset):
            return frame.last_consumed > len(ours.messages)
        if not self.is_open and (self.opener or isinstance(frame, wire.Grant)):
            return True
        match frame:
            case wire.Data():
                return theirs.forbids_run(frame.first_sequence, frame.messages)
            case wire.Chunk():
                return theirs.forbids_chunk(frame)
            case wire.Grant():
                return ours.is_closed or frame.consumed > len(ours.messages)
            case wire.Blocked():
                too_much = frame.limit > theirs.limit + MESSAGE_MAX + COST
                return theirs.is_finished or too_much or theirs.asked > theirs.spent
            case wire.Finish():
                cut_short = theirs.partial is not None and not theirs.is_closed
                return theirs.is_finished or cut_short or frame.last_sequence != len(theirs.messages)
            case _:
                return ours.is_closed or frame.last_consumed > len(ours.messages)

    def hear(self, frame: Any) -> None:
        """Take an allowed frame of the peer."""
        if self.is_over:
            return
        match frame:
            case wire.Accept():
                self.ours.limit = max(self.ours.limit, frame.credit)
                self.open()
            case wire.Reject():
                self.end(StreamRejected)
            case wire.Reset():
                self.end(StreamClosed if frame.code == CLOSE_TIMEOUT else StreamReset)
            case wire.Data():
                self.theirs.run(frame.messages)
                self.give(frame.messages)
            case wire.Chunk():
                if (message := self.theirs.chunk(frame)) is not None:
                    self.give([message])
            case wire.Grant():
                self.ours.limit = max(self.ours.limit, frame.limit)
                self.ours.consumed = max(self.ours.consumed, frame.consumed)
            case wire.Blocked():
                self.theirs.asked = frame.limit
            case wire.Finish():
                self.theirs.is_finished, self.theirs.partial = True, None
                if self.is_open and not self.deafened:
                    self.expected.append(StreamFinishedReceiving)
            case wire.Close():
                self.ours.is_closed = True
                self.ours.consumed = max(self.ours.consumed, frame.last_consumed)
                self.ours.partial = None  # the rest of it is dropped

    def give(self, messages: list[bytes]) -> None:
        if not self.deafened:
            self.told += messages
            if self.is_open:
                self.expected += messages

    def open(self) -> None:
        self.is_open = True
        self.expected.append(StreamOpened)
        self.expected += self.told  # what came before is given now
        if self.theirs.is_finished and not self.deafened:
            self.expected.append(StreamFinishedReceiving)
        self.note_receipts()

    def note_receipts(self) -> None:
        if self.is_open and not self.is_over and self.acknowledged > self.receipts:
            self.receipts = self.acknowledged
            self.expected.append((StreamAcknowledged, self.receipts))

    def end(self, error: type[BusError] | None) -> None:
        self.is_over = True
        self.expected.append((StreamEnded, error))

    # What this end says

    def say(self, frame: Any) -> None:
        """Check that this end keeps the rules, too."""
        assert not self.is_over or isinstance(frame, wire.Reset | wire.Reject | wire.Close), frame
        if not self.is_open and not self.opener:
            assert isinstance(frame, wire.Accept | wire.Reject | wire.Reset), frame
        match frame:
            case wire.Data():
                assert not self.ours.forbids_run(frame.first_sequence, frame.messages)
                assert not self.ours.is_closed
                self.ours.run(frame.messages)
            case wire.Chunk():
                assert not self.ours.forbids_chunk(frame)
                assert not self.ours.is_closed
                self.ours.chunk(frame)
            case wire.Finish():
                assert not self.ours.is_finished
                assert self.is_finishing or self.ours.is_closed
                assert self.ours.partial is None
                assert self.ours.is_closed or self.ours.messages == self.queued
                assert frame.last_sequence == len(self.ours.messages)
                self.ours.is_finished = True
            case wire.Grant():
                assert not self.theirs.is_closed
                assert frame.consumed == self.theirs.consumed
                self.theirs.limit = max(self.theirs.limit, frame.limit)
            case wire.Accept():
                self.theirs.limit = max(self.theirs.limit, frame.credit)
            case wire.Blocked():
                assert not self.ours.is_finished
                assert self.ours.limit < frame.limit <= self.ours.limit + MESSAGE_MAX + COST
                assert self.ours.asked <= self.ours.spent
                self.ours.asked = frame.limit
            case wire.Close():
                assert not self.theirs.is_closed
                assert frame.last_consumed == self.theirs.consumed
                all_done = self.theirs.is_finished and self.theirs.consumed == len(self.theirs.messages)
                assert self.deafened or all_done
                self.theirs.is_closed = True
            case wire.Reset():
                assert frame.last_consumed == self.theirs.consumed
        assert self.ours.messages == self.queued[: len(self.ours.messages)]

    def lose(self) -> None:
        """The session ends: who takes nothing more, and has all that it sent consumed, loses nothing."""
        if self.ours.is_over and self.theirs.is_closed:
            self.end(None if self.ours.consumed == len(self.queued) else StreamClosed)
        else:
            self.end(PeerLost)

    def end_if_done(self) -> None:
        if self.ours.is_over and self.theirs.is_over and not self.is_over:
            self.end(None if self.ours.consumed == len(self.queued) else StreamClosed)


SIZES = (
    st.integers(0, 100) | st.integers(0, 900) | st.integers(900, 3_000) | st.integers(3_000, MESSAGE_MAX + 1)
)
OFF = st.sampled_from([0] * 15 + [1, -1])
"""What a number of the peer's is off by: mostly nothing."""
ENDINGS = ["", "", *["peer_finishes", "peer_closes", "finish", "close"] * 2]
ENDINGS += ["peer_answers", "peer_resets", "reject", "abort", "leave"]
alive = precondition(lambda self: not self.model.is_over)


LATE = [
    wire.Accept(2, b"", 5),
    wire.Reject(2, 1, "no"),
    wire.Data(2, 1, 0, [b"late"]),
    wire.Chunk(2, 1, 0, 5, 0, b"late"),
    wire.Grant(2, 99_999, 99),
    wire.Blocked(2, 99_999),
    wire.Finish(2, 99),
    wire.Close(2, 99),
    wire.Reset(2, 1, "late", 99),
]


class StreamAgainstTheRules(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stream: Stream
        self.model: Model
        self.made = 0

    @initialize(opener=st.booleans(), is_accepted=st.booleans(), spent=st.sampled_from([0, 0, 39_000]))
    def begin(self, opener: bool, is_accepted: bool, spent: int) -> None:
        self.end, self.given, self.spent = End(1, 2, SMALL), 0, spent
        if spent:
            self.end.reserve(spent)
        self.model = Model(opener)
        if opener:
            self.stream = self.end.open(deadline=20.0)
            self.end.controls.clear()  # OPEN
        else:
            self.stream = acceptor(self.end)
        if is_accepted:
            if opener:
                self.hear(wire.Accept(2, b"", WINDOW))
            else:
                self.accept()

    @precondition(lambda self: self.model.is_over)
    @rule(opener=st.booleans(), is_accepted=st.booleans())
    def begin_another(self, opener: bool, is_accepted: bool) -> None:
        self.begin(opener, is_accepted, 0)

    # The peer

    @precondition(lambda self: self.model.is_over)
    @rule(frame=st.sampled_from(LATE))
    def hear_when_it_is_over(self, frame: Any) -> None:
        """What was under way when it ended is ignored."""
        self.hear(frame)

    def hear(self, frame: Any) -> None:
        model, was_over = self.model, self.model.is_over
        handler = {
            wire.Accept: self.stream.on_accept,
            wire.Reject: self.stream.on_reject,
            wire.Reset: self.stream.on_reset,
            wire.Data: self.stream.on_data,
            wire.Chunk: self.stream.on_chunk,
            wire.Grant: self.stream.on_grant,
            wire.Blocked: self.stream.on_blocked,
            wire.Finish: self.stream.on_finish,
            wire.Close: self.stream.on_close,
        }[type(frame)]
        if model.forbids(frame):
            with pytest.raises(RemoteProtocolError):
                handler(frame)
            # The session ends, and with it the stream.
            self.stream.session_ended(PeerLost(reason="expelled"))
            model.lose()
        else:
            handler(frame)
            model.hear(frame)
        if not was_over:
            self.look()

    def peer_accepts(self, credit: int) -> None:
        if self.model.opener and not self.model.is_open:
            self.hear(wire.Accept(2, b"", credit))

    def peer_answers(self, frame: Any) -> None:
        self.hear(frame)

    @alive
    @rule(off=OFF, sizes=st.lists(st.integers(0, 900), min_size=1, max_size=4))
    def peer_sends(self, off: int, sizes: list[int]) -> None:
        self.made += 1
        room = self.model.theirs.limit - self.model.theirs.spent
        while off == 0 and len(sizes) > 1 and sum(sizes) + COST * len(sizes) > room:
            sizes.pop()
        if not off and self.model.theirs.partial is None and sizes[0] + COST <= room:
            run = [bytes([self.made % 256]) * size for size in sizes]
            self.hear(wire.Data(2, len(self.model.theirs.messages) + 1, 0, run))
        elif off:
            self.hear(wire.Data(2, max(1, len(self.model.theirs.messages) + 1 + off), 0, [b"x"]))

    @alive
    @rule(size=SIZES, off=OFF, part=st.integers(CHUNK_MIN, 9_000))
    def peer_sends_a_chunk(self, size: int, off: int, part: int) -> None:
        self.made += 1
        theirs = self.model.theirs
        total, had = theirs.partial or (max(1, min(size, theirs.limit - theirs.spent - COST)), b"")
        payload = bytes([self.made % 256]) * min(part, total - len(had))
        if off == 0 and (theirs.partial is not None or total + COST <= theirs.limit - theirs.spent):
            self.hear(wire.Chunk(2, len(theirs.messages) + 1, 0, total, len(had), payload))
        elif off:
            self.hear(
                wire.Chunk(2, len(theirs.messages) + 1, 0, total + 1 + off, len(had) + (off > 0), payload)
            )

    @alive
    @rule(more=st.integers(0, 9_000), consumed=st.integers(0, 5), off=OFF)
    def peer_grants(self, more: int, consumed: int, off: int) -> None:
        sent = len(self.model.ours.messages)
        if off == 0 and (self.model.ours.is_closed or not self.model.is_open):
            return
        consumed = sent + 1 if off > 0 else max(0, sent - consumed)
        self.hear(wire.Grant(2, self.model.ours.limit + more - 500, consumed))

    @alive
    @rule(more=st.integers(0, MESSAGE_MAX + COST), off=OFF)
    def peer_is_blocked(self, more: int, off: int) -> None:
        theirs = self.model.theirs
        asks_twice = theirs.asked > theirs.spent
        if theirs.partial is not None or (off == 0 and (theirs.is_finished or asks_twice)):
            return
        most = theirs.limit + MESSAGE_MAX + COST
        self.hear(wire.Blocked(2, most + 1 if off > 0 else theirs.limit + more))

    def peer_finishes(self, off: int) -> None:
        self.hear(wire.Finish(2, max(0, len(self.model.theirs.messages) + off)))

    def peer_closes(self, off: int, back: int) -> None:
        sent = len(self.model.ours.messages)
        self.hear(wire.Close(2, sent + 1 if off > 0 else max(0, sent - back)))

    def peer_resets(self, off: int, code: int) -> None:
        self.hear(wire.Reset(2, code, "enough", max(0, len(self.model.ours.messages) + off)))

    @alive
    @rule(by_us=st.booleans(), credit=st.sampled_from([0, WINDOW, 9_000]))
    def answer(self, by_us: bool, credit: int) -> None:
        if by_us:
            self.accept()
        else:
            self.peer_accepts(credit)

    @alive
    @rule(what=st.sampled_from(ENDINGS), off=OFF, number=st.integers(0, 8))
    def end_something(self, what: str, off: int, number: int) -> None:
        match what:
            case "peer_finishes":
                self.peer_finishes(off)
            case "peer_closes":
                self.peer_closes(off, number % 4)
            case "peer_answers":
                self.peer_answers(LATE[number % 2])
            case "peer_resets":
                self.peer_resets(off, [0, 7, OPEN_TIMEOUT, CLOSE_TIMEOUT][number % 4])
            case "close" | "leave":
                getattr(self, what)(number or None)
            case "finish" | "reject" | "abort":
                getattr(self, what)()

    # The application

    @rule(size=SIZES)
    def send(self, size: int) -> None:
        self.made += 1
        model, data = self.model, bytes([self.made % 256]) * size
        waits = len(model.queued) > len(model.ours.messages)
        try:
            sequence = self.stream.send(data)
        except StreamClosed:
            assert model.ours.is_closed or model.is_over
        except StreamFinished:
            assert model.is_finishing
        except MessageTooLarge:
            assert size > MESSAGE_MAX
        except SendQueueFull:
            assert waits
        except BusError:
            assert model.is_over or model.is_left or not (model.is_open or model.opener)
        else:
            assert model.is_open or model.opener
            assert not any((model.is_over, model.is_finishing, model.is_left, model.ours.is_closed))
            assert size <= MESSAGE_MAX
            model.queued.append(data)
            assert sequence == len(model.queued)
        self.look()

    @rule(count=st.integers(0, 9))
    def consume(self, count: int) -> None:
        model = self.model
        given = len(model.told) if model.is_open else 0
        count = min(count, given - model.theirs.consumed)
        if model.is_open and not model.is_over and not model.deafened:
            model.theirs.consumed += count
        self.stream.consume(count)
        self.look()

    @alive
    @rule()
    def consume_too_much(self) -> None:
        model = self.model
        if model.is_open and not (model.is_over or model.deafened or model.theirs.is_over):
            with pytest.raises(UsageError):
                self.stream.consume(len(model.told) - model.theirs.consumed + 1)

    def accept(self) -> None:
        if not (self.model.opener or self.model.is_open or self.model.is_over):
            self.model.open()
            self.stream.accept()
            self.look()

    def reject(self) -> None:
        if not (self.model.opener or self.model.is_open or self.model.is_over):
            self.model.end(StreamRejected)
            self.stream.reject(7)
            self.look()

    def finish(self) -> None:
        if self.model.is_open or self.model.opener:
            self.model.is_finishing = True
            self.stream.finish()
            self.look()

    def close(self, deadline: int | None) -> None:
        if self.model.is_open or self.model.opener:
            self.model.is_finishing = True
        self.take_no_more()
        self.stream.close(None if deadline is None else self.end.now + deadline)
        self.look()

    def leave(self, deadline: int | None) -> None:
        self.model.is_left = True
        self.take_no_more()
        self.stream.leave(None if deadline is None else self.end.now + deadline)
        self.look()

    def take_no_more(self) -> None:
        model = self.model
        if not (model.is_open or model.opener or model.is_over):
            model.end(StreamRejected)
        elif not model.is_over:
            model.deafened = True
            model.told = model.told[: model.theirs.consumed] if model.is_open else []

    def abort(self) -> None:
        if not self.model.is_over:
            self.model.end(StreamReset)
            self.stream.abort(7)
            self.look()

    # The world

    @alive
    @rule(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=4), are_acknowledged=st.booleans())
    def send_some(self, sizes: list[int], are_acknowledged: bool) -> None:
        for size in sizes:
            self.send(size)
        self.transmit(65_000)
        if are_acknowledged and not self.model.is_over:
            self.acknowledge(0)

    @alive
    @rule(room=st.sampled_from([1_500, 4_000, 65_000]), count=st.integers(1, 5))
    def transmit(self, room: int, count: int = 1) -> None:
        for _ in range(count if self.stream.has_output else 0):
            if not self.stream.has_output:
                return
            output = self.stream.next_frame(room)
            self.end.active.clear()
            if self.stream.has_output:
                self.end.active.append(self.stream)
            if output is not None:
                assert len(output[0]) <= room
                (frame,) = wire.decode_packet(wire.encode_packet(1, 0, [output[0]])).frames
                self.model.say(frame)
                assert output[1] == len(self.model.ours.messages)
            self.look()

    @alive
    @rule(back=st.integers(0, 3))
    def acknowledge(self, back: int) -> None:
        sequence = max(0, len(self.model.ours.messages) - back)
        self.stream.acknowledged(sequence)
        self.model.acknowledged = max(self.model.acknowledged, sequence)
        self.model.note_receipts()
        self.look()

    @alive
    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds: int) -> None:
        model = self.model
        now = self.end.now + seconds
        deadline = self.stream.next_deadline()
        if deadline is not None and deadline <= now and not model.is_over:
            is_late = model.opener and not model.is_open and now >= 20.0
            model.end(OpenTimeout if is_late else StreamClosed)
        self.end.expire(now)
        self.look()

    def look(self) -> None:
        """See what came of it: what was said, then what was told."""
        model = self.model
        for frame in self.end.controls:
            model.say(frame)
        self.end.controls.clear()
        model.end_if_done()
        seen: list[Any] = []
        for event in self.end.take_events():
            match event:
                case StreamMessages(first_sequence=first, messages=messages):
                    given = len([one for one in seen if isinstance(one, bytes)])
                    assert first == self.given + given + 1
                    seen += messages
                case StreamAcknowledged(sequence=sequence):
                    seen.append((StreamAcknowledged, sequence))
                case StreamEnded(error=error):
                    seen.append((StreamEnded, None if error is None else type(error)))
                    self.check_end(error)
                case StreamReady():
                    pass
                case _:
                    seen.append(type(event))
        assert seen == model.expected
        self.given += len([one for one in seen if isinstance(one, bytes)])
        model.expected.clear()

    def check_end(self, error: BusError | None) -> None:
        if isinstance(error, StreamClosed):
            assert self.model.ours.consumed <= error.last_consumed <= len(self.model.ours.messages)

    @invariant()
    def what_is_said_of_it_is_so(self) -> None:
        if not hasattr(self, "model"):
            return
        model, stream = self.model, self.stream
        assert stream.is_over is model.is_over
        assert stream.last_sequence == len(model.queued)
        assert stream.sent_sequence == len(model.ours.messages)
        assert stream.consumed_sequence == model.theirs.consumed
        if model.is_over:
            assert self.end.reserved == self.spent
            assert not stream.has_output
        else:
            stats = stream.stats()
            assert stats.messages_received == len(model.theirs.messages)
            if not model.deafened:
                held = model.theirs.spent - sum(map(len, model.theirs.messages[: model.theirs.consumed]))
                held -= COST * model.theirs.consumed
                assert held <= WINDOW + self.end.reserved - self.spent

    def teardown(self) -> None:
        """What both have finished and consumed is over, without an error unless something was cut short."""
        if not hasattr(self, "model") or self.model.is_over:
            return
        self.accept()
        if self.model.opener and not self.model.is_open:
            self.hear(wire.Accept(2, b"", WINDOW))
        self.finish()
        model = self.model
        while not model.ours.is_finished and not model.is_over:
            if not self.stream.has_output:
                self.hear(wire.Grant(2, model.ours.limit + MESSAGE_MAX + COST, len(model.ours.messages)))
            self.transmit(65_000)
        while model.theirs.partial is not None and not model.is_over:
            self.peer_sends_a_chunk(0, 0, 9_000)
        if not model.theirs.is_finished and not model.is_over:
            self.hear(wire.Finish(2, len(model.theirs.messages)))
        if not model.is_over:
            self.consume(len(model.told) + 1)
        if not model.ours.is_closed and not model.is_over:
            self.hear(wire.Close(2, len(model.ours.messages)))
        assert model.is_over
        assert self.stream.is_over


TestStreamAgainstTheRules = as_test(StreamAgainstTheRules)
