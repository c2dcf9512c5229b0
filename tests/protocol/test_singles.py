"""Single messages: both ends, through encoded frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from brokerless.errors import (
    ConfigError,
    DeliveryUnknown,
    MessageTooLarge,
    PeerLost,
    RemoteProtocolError,
    SendQueueFull,
    SendTimeout,
    UsageError,
)
from brokerless.model import Event, Message, MessageReceived, Reliability, SendDone, Traffic
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.outbound import ROOM_BYTES_MIN
from brokerless.protocol.singles import SPARE_DEADLINES
from tests.protocol.two_ends import SMALL, End, Ends

if TYPE_CHECKING:
    from brokerless.errors import BusError
    from brokerless.protocol.singles import Singles

WINDOW = SMALL.stream_window_initial_bytes
LOST = PeerLost(reason="silent", silent_s=5.0)


@pytest.fixture
def ends() -> Ends:
    return established()


def established() -> Ends:
    ends = Ends()
    for end in (ends.near, ends.far):
        end.singles.established(WINDOW)
    return ends


@pytest.fixture
def singles(ends: Ends) -> Singles:
    return ends.near.singles


def received(end: End) -> list[Message]:
    return [event.message for event in end.events if isinstance(event, MessageReceived)]


def outcomes(end: End) -> dict[int, BusError | None]:
    done = [event for event in end.events if isinstance(event, SendDone)]
    assert len({event.send_id for event in done}) == len(done), "each once"
    return {event.send_id: event.error for event in done}


def consume_all(end: End) -> None:
    for message in received(end):
        end.singles.consume(1, len(message.data))


# Sending and receiving


def test_messages_arrive_in_order_with_their_channels(ends: Ends, singles: Singles) -> None:
    ends.far.now = 7.0
    sent = [(0, b"a"), (0, b"b"), (5, b""), (5, b"d"), (0, b"e")]
    for send_id, (channel, data) in enumerate(sent, 1):
        singles.send(channel, data, send_id, None)
    assert not singles.is_idle
    ends.exchange()
    assert [(m.channel, m.data) for m in received(ends.far)] == sent
    of_all = (ends.near.address, Reliability.RELIABLE, 7.0)
    assert {(m.sender, m.reliability, m.received_at) for m in received(ends.far)} == {of_all}
    assert outcomes(ends.near) == dict.fromkeys(range(1, 6))
    assert singles.is_idle
    assert not singles.has_output


def test_they_are_counted_each_way_with_what_waits(ends: Ends, singles: Singles) -> None:
    for send_id, size in enumerate((10, 15_000), 1):
        singles.send(0, bytes(size), send_id, None)
    assert singles.traffic() == Traffic(send_queue_messages=2, send_queue_bytes=10 + 15_000)
    singles.next_frame(9999)
    left = Traffic(messages_sent=1, bytes_sent=10, send_queue_messages=1, send_queue_bytes=15_000)
    assert singles.traffic() == left
    ends.far.singles.on_data(wire.Data(0, 1, 0, [bytes(10)]), 7.0)
    assert ends.far.singles.traffic() == Traffic(
        messages_received=1, bytes_received=10, unconsumed_messages=1, unconsumed_bytes=10
    )
    ends.far.singles.consume(1, 10)
    assert ends.far.singles.traffic() == Traffic(messages_received=1, bytes_received=10)


def test_a_message_that_is_being_cut_has_not_been_sent(ends: Ends, singles: Singles) -> None:
    singles.send(0, bytes(15_000), 1, None)
    singles.next_frame(9999)
    assert singles.traffic() == Traffic(send_queue_messages=1, send_queue_bytes=15_000)
    ends.exchange()
    assert singles.traffic().past() == singles.traffic() == Traffic(messages_sent=1, bytes_sent=15_000)


def test_messages_of_one_channel_travel_together(ends: Ends, singles: Singles) -> None:
    for send_id, channel in enumerate([1, 1, 2, 1]):
        singles.send(channel, b"x", send_id, None)
    frames = []
    while singles.has_output:
        output = singles.next_frame(9999)
        assert output is not None
        frames.append((wire.decode_packet(wire.encode_packet(1, 0, [output[0]])).frames[0], output[1]))
    assert frames == [
        (wire.Data(0, 1, 1, [b"x", b"x"]), 2),
        (wire.Data(0, 3, 2, [b"x"]), 3),
        (wire.Data(0, 4, 1, [b"x"]), 4),
    ]
    assert singles.next_frame(9999) is None


def test_a_receipt_ends_only_what_it_covers(ends: Ends, singles: Singles) -> None:
    for send_id in (1, 2, 3):
        singles.send(0, b"x", send_id, None)
    singles.acknowledged(3)
    assert outcomes(ends.near) == {}, "nothing has left"
    singles.next_frame(9999)
    singles.acknowledged(2)
    singles.acknowledged(1)
    assert outcomes(ends.near) == {1: None, 2: None}
    assert not singles.is_idle
    singles.acknowledged(99)
    assert outcomes(ends.near) == {1: None, 2: None, 3: None}


def test_a_large_message_is_cut_and_joined(ends: Ends, singles: Singles) -> None:
    large = bytes(range(250)) * 40
    singles.send(3, large, 1, None)
    singles.send(3, b"after", 2, None)
    ends.exchange(room=ROOM_BYTES_MIN)
    consume_all(ends.far)
    ends.exchange(room=ROOM_BYTES_MIN)
    assert [(m.channel, m.data) for m in received(ends.far)] == [(3, large), (3, b"after")]
    assert outcomes(ends.near) == {1: None, 2: None}


def test_no_frame_is_larger_than_its_room(ends: Ends, singles: Singles) -> None:
    for send_id in range(5):
        singles.send(0, bytes(300), send_id, None)
    sizes = []
    while singles.has_output:
        output = singles.next_frame(ROOM_BYTES_MIN)
        assert output is not None
        sizes.append(len(output[0]))
    assert len(sizes) > 1
    assert max(sizes) <= ROOM_BYTES_MIN


def test_arguments_are_checked(ends: Ends, singles: Singles) -> None:
    with pytest.raises(TypeError, match="a message is bytes, not str"):
        singles.send(0, "text", 1, None)  # type: ignore[arg-type]
    for channel in (-1, 2**32):
        with pytest.raises(ConfigError, match=f"channel: expected 0 to 4294967295, got {channel}"):
            singles.send(channel, b"", 1, None)
    with pytest.raises(MessageTooLarge, match="a message of 20001 bytes, at most 20000"):
        singles.send(0, bytes(20_001), 1, None)
    assert singles.is_idle


def test_what_waits_is_bounded(ends: Ends, singles: Singles) -> None:
    size = SMALL.peer_memory_bytes_max // 4 - MESSAGE_COST_BYTES
    for send_id in range(4):
        singles.send(0, bytes(size), send_id, None)
    with pytest.raises(SendQueueFull, match="4 messages are queued"):
        singles.send(0, b"", 9, None)
    ends.exchange()
    consume_all(ends.far)
    ends.exchange()
    singles.send(0, bytes(size), 9, None)
    assert singles.next_deadline() is None


def test_what_was_handed_over_waits_no_more(ends: Ends, singles: Singles) -> None:
    size = SMALL.peer_memory_bytes_max // 4 - MESSAGE_COST_BYTES
    for _ in range(3):
        for send_id in range(4):
            singles.send(0, bytes(size), send_id, None)
        assert len(singles.take_unsent()) == 4


@pytest.mark.parametrize(("spare", "count"), [(0, 4), (-1, 3)])
def test_a_run_is_filled_to_its_room(ends: Ends, singles: Singles, spare: int, count: int) -> None:
    for send_id in range(4):
        singles.send(0, bytes(300), send_id, None)
    room = wire.DATA_OVERHEAD_BYTES + 4 * (300 + wire.MESSAGE_OVERHEAD_BYTES)
    output = singles.next_frame(room + spare)
    assert output is not None
    (frame,) = wire.decode_packet(wire.encode_packet(1, 0, [output[0]])).frames
    assert isinstance(frame, wire.Data)
    assert len(frame.messages) == count


def test_nothing_leaves_before_the_other_side_is_known() -> None:
    ends = Ends()
    singles = ends.near.singles
    singles.send(0, b"early", 1, None)
    singles.send(0, bytes(5000), 2, None)
    singles.send(0, b"small", 3, None)
    assert not singles.has_output
    assert ends.near.controls == []
    ends.near.message_bytes_max = 4999
    singles.established(WINDOW)
    assert [type(error) for error in outcomes(ends.near).values()] == [MessageTooLarge]
    ends.exchange()
    assert [m.data for m in received(ends.far)] == [b"early", b"small"]


# Credit


def test_without_credit_messages_wait_for_consumption(ends: Ends, singles: Singles) -> None:
    for send_id in range(1, 11):
        singles.send(0, bytes(440), send_id, None)
    ends.exchange()
    assert len(received(ends.far)) == 4
    assert ends.near.singles.next_frame(9999) is None
    for message in received(ends.far)[:3]:
        ends.far.singles.consume(1, len(message.data))
    ends.exchange()
    assert len(received(ends.far)) == 7


def test_a_grant_tells_how_many_were_consumed(ends: Ends, singles: Singles) -> None:
    for send_id in range(4):
        singles.send(0, bytes(440), send_id, None)
    ends.exchange()
    ends.far.singles.consume(3, 1320)
    assert ends.far.controls == [wire.Grant(0, 3 * 504 + WINDOW, 3)]


def test_no_more_is_consumed_than_was_received(ends: Ends, singles: Singles) -> None:
    singles.send(0, b"x", 1, None)
    ends.exchange()
    for count, byte_count in ((0, 0), (2, 1), (1, 2), (-1, 0)):
        with pytest.raises(UsageError, match="more than was received"):
            ends.far.singles.consume(count, byte_count)
    ends.far.singles.consume(1, 1)
    with pytest.raises(UsageError, match="more than was received"):
        ends.far.singles.consume(1, 1)


def test_an_oversized_message_waits_for_the_budget(ends: Ends, singles: Singles) -> None:
    assert ends.far.reserve(SMALL.peer_memory_bytes_max)
    singles.send(0, bytes(10_000), 1, None)
    ends.exchange()
    assert received(ends.far) == []
    ends.far.release(SMALL.peer_memory_bytes_max)
    ends.exchange()
    assert len(received(ends.far)) == 1
    consume_all(ends.far)
    assert ends.far.reserved == ends.far.singles._window.window - WINDOW


def test_the_peer_may_not_overrun(ends: Ends, singles: Singles) -> None:
    with pytest.raises(RemoteProtocolError, match=r"stream 0: \d+ bytes sent, 2048 granted"):
        singles.on_data(wire.Data(0, 1, 0, [bytes(WINDOW)]), 0.0)


# Deadlines


def test_what_has_not_left_in_time_is_not_sent(ends: Ends, singles: Singles) -> None:
    singles.send(0, b"late", 1, 5.0)
    singles.send(0, b"in time", 2, 6.0)
    assert singles.next_deadline() == 5.0
    ends.near.expire(5.0)
    assert isinstance(outcomes(ends.near)[1], SendTimeout)
    assert singles.next_deadline() == 6.0
    ends.exchange()
    assert [m.data for m in received(ends.far)] == [b"in time"]
    assert singles.next_deadline() is None


def test_what_has_left_and_is_not_acknowledged_in_time_is_unknown(ends: Ends, singles: Singles) -> None:
    singles.send(0, b"x", 1, 5.0)
    assert ends.send(ends.near)
    ends.near.expire(5.0)
    error = outcomes(ends.near)[1]
    assert isinstance(error, DeliveryUnknown)
    assert isinstance(error.__cause__, SendTimeout)
    assert not singles.is_idle
    ends.exchange()
    assert len(received(ends.far)) == 1
    assert len(outcomes(ends.near)) == 1
    assert singles.is_idle


def test_what_has_left_in_part_is_unknown_and_goes_on(ends: Ends, singles: Singles) -> None:
    singles.send(0, bytes(1900), 1, 5.0)
    assert ends.send(ends.near, room=ROOM_BYTES_MIN)
    ends.near.expire(5.0)
    assert isinstance(outcomes(ends.near)[1], DeliveryUnknown)
    ends.exchange()
    assert len(received(ends.far)) == 1


def test_a_deadline_that_is_over_does_nothing(ends: Ends, singles: Singles) -> None:
    singles.send(0, b"x", 1, 5.0)
    ends.exchange()
    singles.expire(5.0)
    assert outcomes(ends.near) == {1: None}


def test_the_host_is_told_of_an_earlier_deadline_only(ends: Ends, singles: Singles) -> None:
    for send_id, deadline in enumerate((9.0, None, 9.0, 5.0, 7.0)):
        singles.send(0, b"", send_id, deadline)
    assert ends.near.deadlines_changed == [0, 0]
    assert singles.next_deadline() == 5.0


def test_deadlines_of_what_is_done_do_not_pile_up(ends: Ends, singles: Singles) -> None:
    singles.send(0, b"", 0, 2000.0)
    for send_id in range(1, 1000):
        singles.send(0, b"", send_id, 2000.0 + send_id)
        ends.exchange()
        ends.far.singles.consume(1, 0)
        assert len(singles._deadlines) <= 2 + SPARE_DEADLINES


def test_what_is_behind_an_expired_message_leaves(ends: Ends, singles: Singles) -> None:
    assert ends.far.reserve(SMALL.peer_memory_bytes_max)
    singles.send(0, bytes(10_000), 1, 5.0)
    singles.send(0, b"small", 2, None)
    ends.exchange()
    assert len(ends.far.oversized) == 1
    ends.near.expire(5.0)
    ends.exchange()
    assert [m.data for m in received(ends.far)] == [b"small"]
    assert not ends.far.oversized, "nobody waits for what is not coming"


def test_a_turn_for_what_has_expired_is_given_back(ends: Ends, singles: Singles) -> None:
    singles.send(0, bytes(10_000), 1, 5.0)
    ends.send(ends.near)
    ends.deliver(ends.far)
    assert ends.far.turn is ends.far.singles
    ends.near.expire(5.0)
    singles.send(0, bytes(15_000), 2, None)
    ends.exchange()
    assert [len(m.data) for m in received(ends.far)] == [15_000]


def test_memory_set_aside_for_what_has_expired_is_given_back(ends: Ends, singles: Singles) -> None:
    singles.send(0, bytes(10_000), 1, 5.0)
    ends.send(ends.near)
    ends.deliver(ends.far)
    assert ends.far.reserved > 0
    ends.near.expire(5.0)
    ends.exchange()
    assert (ends.far.reserved, ends.far.turn) == (0, None)
    singles.send(0, b"small", 2, None)
    singles.send(0, bytes(20_000), 3, None)
    ends.exchange()
    assert [len(m.data) for m in received(ends.far)] == [5, 20_000]


# The end


def test_unsent_messages_are_handed_over(ends: Ends, singles: Singles) -> None:
    sends = [(1, b"a", 7, None), (2, b"bb", 8, 9.0)]
    for send in sends:
        singles.send(*send)
    assert singles.take_unsent() == sends
    assert singles.take_unsent() == []
    assert singles.is_idle
    assert ends.near.events == []
    assert singles.next_deadline() is None
    assert ends.near.packet() is None


def test_the_end_of_the_session_is_the_end_of_every_send(ends: Ends, singles: Singles) -> None:
    for send_id, size in enumerate((10, 1900, 10)):
        singles.send(0, bytes(size), send_id, 9.0)
    ends.send(ends.near, room=ROOM_BYTES_MIN + 50)
    assert singles.has_output
    singles.session_ended(LOST)
    done = outcomes(ends.near)
    for send_id in (0, 1):
        error = done[send_id]
        assert isinstance(error, DeliveryUnknown)
        assert error.__cause__ is LOST
    unsent = done[2]
    assert isinstance(unsent, PeerLost)
    assert unsent is not LOST
    assert singles.is_idle
    assert singles.next_deadline() is None
    assert singles.next_frame(9999) is None


def test_what_was_received_may_be_consumed_after_the_end(ends: Ends, singles: Singles) -> None:
    singles.send(0, bytes(1900), 1, None)
    ends.exchange()
    ends.far.singles.session_ended(LOST)
    consume_all(ends.far)
    assert ends.far.controls == []
    assert ends.far.reserved == 0


# At large


COUNTS = st.sampled_from([1, 1, 9])
SIZES = st.integers(0, 100) | st.integers(0, 3000) | st.integers(3000, SMALL.message_bytes_max)


class SinglesAtLarge(RuleBasedStateMachine):
    """One direction under arbitrary schedules, against what was promised of each send."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = established()
        self.sent: dict[int, tuple[int, bytes]] = {}
        self.done: dict[int, BusError | None] = {}
        self.received: list[int] = []
        self.unconsumed: list[int] = []

    @rule(channel=st.integers(0, 2), size=SIZES, count=COUNTS, wait=st.none() | st.integers(1, 9))
    def send(self, channel: int, size: int, count: int, wait: int | None) -> None:
        for _ in range(count):
            send_id = len(self.sent) + 1
            data = send_id.to_bytes(4, "big") + bytes(max(0, size - 4))
            deadline = None if wait is None else self.ends.near.now + wait
            try:
                self.ends.near.singles.send(channel, data, send_id, deadline)
            except SendQueueFull:
                return
            self.sent[send_id] = (channel, data)

    @rule(room=st.sampled_from([ROOM_BYTES_MIN, 2000, 65_000]))
    def transmit(self, room: int) -> None:
        self.ends.send(self.ends.near, room)

    @rule(room=st.sampled_from([ROOM_BYTES_MIN, 2000, 65_000]), count=st.integers(1, 9))
    def carry(self, room: int, count: int) -> None:
        for _ in range(count):
            self.transmit(room)
            self.ends.deliver(self.ends.far)

    @rule()
    def answer(self) -> None:
        self.ends.send(self.ends.far)
        self.ends.deliver(self.ends.near)

    @rule(index=st.integers(0, 5), count=st.integers(1, 5))
    def consume(self, index: int, count: int) -> None:
        for _ in range(min(count, len(self.unconsumed))):
            send_id = self.unconsumed.pop(index % len(self.unconsumed))  # in any order
            self.ends.far.singles.consume(1, len(self.sent[send_id][1]))

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds: int) -> None:
        self.ends.near.expire(self.ends.near.now + seconds)

    @invariant()
    def look(self) -> None:
        for event in self.ends.near.take_events():
            self.see_done(event)
        for event in self.ends.far.take_events():
            assert isinstance(event, MessageReceived)
            send_id = int.from_bytes(event.message.data[:4], "big")
            assert self.sent[send_id] == (event.message.channel, event.message.data)
            assert not self.received or send_id > self.received[-1], "in order, and each once"
            assert not isinstance(self.done.get(send_id), SendTimeout), "it was said not to have been sent"
            self.received.append(send_id)
            self.unconsumed.append(send_id)

    def see_done(self, event: Event) -> None:
        assert isinstance(event, SendDone)
        assert event.send_id not in self.done
        self.done[event.send_id] = event.error
        if event.error is not None:
            assert isinstance(event.error, SendTimeout | DeliveryUnknown)

    @invariant()
    def memory_is_bounded(self) -> None:
        window = self.ends.far.singles._window
        assert window.arrived - window.consumed <= WINDOW + self.ends.far.reserved

    def teardown(self) -> None:
        before = -1
        while before != (before := len(self.received)):
            self.ends.exchange()
            self.look()
            self.consume(0, len(self.unconsumed))
            self.ends.exchange()
            self.look()
        assert set(self.done) == set(self.sent)
        unsent = {send_id for send_id, error in self.done.items() if isinstance(error, SendTimeout)}
        assert set(self.received) == set(self.sent) - unsent
        far = self.ends.far
        assert self.ends.near.singles.is_idle
        assert (far.turn, len(far.oversized)) == (None, 0)
        far.singles.session_ended(LOST)
        assert far.reserved == 0


SinglesAtLarge.TestCase.settings = settings(max_examples=200, stateful_step_count=50)
TestSinglesAtLarge = pytest.mark.timeout(120)(SinglesAtLarge.TestCase)
