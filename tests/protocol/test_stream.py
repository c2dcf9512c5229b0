"""Streams: both ends, through encoded frames."""

from __future__ import annotations

import pytest

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.errors import (
    BusClosed,
    BusError,
    ConfigError,
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
    Reliability,
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamMessages,
    StreamOffered,
    StreamOpened,
    StreamReady,
    StreamStats,
)
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.stream import Stream, again
from brokerless.protocol.stream_state import (
    CLOSE_TIMEOUT,
    OPEN_TIMEOUT,
    TOO_LARGE,
    UNTAKEN,
    StreamState,
)
from tests.protocol.two_ends import SMALL, End, Ends, acceptor, data_of, ended, kinds

WINDOW = SMALL.stream_window_initial_bytes
LOST = PeerLost(reason="silent", silent_s=5.0)


@pytest.fixture
def ends() -> Ends:
    return Ends()


# Opening


def test_a_stream_is_offered_and_accepted(ends: Ends) -> None:
    near = ends.near.open(2, "video", b"hello")
    assert near.state.name == "OFFERING"
    ends.exchange()
    (offered,) = ends.far.take_events()
    assert isinstance(offered, StreamOffered)
    far = offered.offer.stream
    assert (far.id, far.name, far.metadata, far.peer) == (2, "video", b"hello", ends.near.address)
    assert far.state.name == "OFFERED"
    far.accept(b"welcome")
    assert ends.far.take_events() == [StreamOpened(far)]
    ends.exchange()
    assert ends.near.take_events() == [StreamOpened(near)]
    assert (near.reply_metadata, far.reply_metadata) == (b"welcome", b"welcome")
    assert near.state == far.state == StreamState.OPEN
    assert near.room == far.room == SMALL.message_bytes_max
    assert near.reliability is far.reliability is Reliability.RELIABLE
    assert repr(near) == f"<Stream 2 'video' with {ends.far.address.short}, open>"


def test_a_stream_is_rejected(ends: Ends) -> None:
    near = ends.near.open()
    near.send(b"lost")
    ends.exchange()
    far = ends.far.stream(2)
    far.reject(404, "no such name")
    ends.exchange()
    for end in (ends.near, ends.far):
        error = ended(end)
        assert isinstance(error, StreamRejected)
        assert (error.code, error.reason) == (404, "no such name")
    far.reject(1)
    assert ends.far.controls == []


def test_what_is_sent_with_the_offer_waits_for_acceptance(ends: Ends) -> None:
    near = ends.near.open()
    near.send(b"a")
    ends.exchange()
    near.send(b"b")
    near.send(bytes(1500))
    near.finish()
    ends.exchange(room=1100)
    far = ends.far.stream(2)
    assert kinds(ends.far) == [StreamOffered]
    assert near.acknowledged_sequence == 0
    assert ends.near.events == []
    far.accept()
    assert ends.far.events[1:] == [
        StreamOpened(far),
        StreamMessages(far, 1, [b"a"]),
        StreamMessages(far, 2, [b"b"]),
        StreamMessages(far, 3, [bytes(1500)]),
        StreamFinishedReceiving(far),
    ]
    ends.exchange()
    assert ends.near.events == [StreamOpened(near), StreamAcknowledged(near, 3)]
    assert near.acknowledged_sequence == 3


def test_the_openers_time_runs_out(ends: Ends) -> None:
    near = ends.near.open(deadline=10.0)
    assert near.next_deadline() == 10.0
    ends.exchange()
    ends.near.expire(10.0)
    ends.exchange()
    near_error, far_error = ended(ends.near), ended(ends.far)
    assert isinstance(near_error, OpenTimeout)
    assert isinstance(far_error, StreamReset)
    assert far_error.code == OPEN_TIMEOUT
    assert near.next_deadline() is None


def test_the_acceptors_time_runs_out() -> None:
    end = End(1, 2, SMALL)
    stream = acceptor(end, deadline=3.0)
    end.expire(2.9)
    assert not stream.is_over
    end.expire(3.0)
    error = ended(end)
    assert isinstance(error, StreamRejected)
    assert error.code == UNTAKEN
    assert end.controls == [wire.Reject(2, UNTAKEN, "nobody took it in time")]


def test_acceptance_ends_the_wait() -> None:
    end = End(1, 2, SMALL)
    stream = acceptor(end, deadline=3.0)
    stream.accept()
    assert stream.next_deadline() is None
    assert end.deadlines_changed == [2]
    stream.expire(99.0)
    assert stream.state is StreamState.OPEN


def test_an_answer_crosses_the_end_of_the_wait(ends: Ends) -> None:
    ends.near.open(deadline=1.0)
    ends.exchange()
    ends.far.stream(2).accept()
    ends.near.expire(1.0)
    ends.exchange()
    assert isinstance(ended(ends.near), OpenTimeout)
    assert isinstance(ended(ends.far), StreamReset)


def test_only_an_offer_is_accepted_or_rejected_and_only_once(ends: Ends) -> None:
    near, far = ends.open()
    for stream in (near, far):
        with pytest.raises(UsageError, match="accept: stream 2 is no offer"):
            stream.accept()
        with pytest.raises(UsageError, match="reject: stream 2 is no offer"):
            stream.reject(1)


def test_an_offer_takes_nothing_before_it_is_accepted() -> None:
    stream = acceptor(End(1, 2, SMALL))
    assert stream.room == 0
    with pytest.raises(UsageError, match="send: stream 2 is not accepted"):
        stream.send(b"x")
    with pytest.raises(UsageError, match="finish: stream 2 is not accepted"):
        stream.finish()
    stream.consume(0)
    with pytest.raises(UsageError, match="consume: expected 0 to 0 messages, got 1"):
        stream.consume(1)


def test_an_offer_that_is_gone_is_not_accepted(ends: Ends) -> None:
    near = ends.near.open()
    ends.exchange()
    far = ends.far.stream(2)
    near.abort(7, "changed my mind")
    ends.exchange()
    with pytest.raises(StreamReset, match="changed my mind"):
        far.accept()
    far.reject(1)
    assert isinstance(ended(ends.far), StreamReset)


def test_closing_an_offer_rejects_it(ends: Ends) -> None:
    ends.near.open()
    ends.exchange()
    ends.far.stream(2).close()
    ends.exchange()
    error = ended(ends.near)
    assert isinstance(error, StreamRejected)
    assert error.code == UNTAKEN


def test_words_and_metadata_have_limits(ends: Ends) -> None:
    far = acceptor(ends.far)
    with pytest.raises(ConfigError, match="metadata: at most 4096 bytes"):
        far.accept(bytes(4097))
    for command in (far.reject, far.abort):
        for code in (-1, wire.BUS_CODE_MIN):
            with pytest.raises(ConfigError, match=f"code: expected 0 to {wire.BUS_CODE_MIN - 1}, got {code}"):
                command(code)
        with pytest.raises(ConfigError, match="reason: at most 1024 bytes"):
            command(0, "ü" * 513)
    assert far.state.name == "OFFERED"
    far.reject(wire.BUS_CODE_MIN - 1, "ü" * 512)
    assert far.is_over


def test_a_stream_is_opened_before_the_other_side_is_known(ends: Ends) -> None:
    near = ends.near.open(send_limit=0)
    near.send(b"early")
    near.send(bytes(5000))
    assert not near.has_output
    assert ends.near.controls == [wire.Open(2, 0, "", b"", WINDOW)]
    near.established(WINDOW)
    assert list(ends.near.active) == [near]
    ends.exchange()
    ends.far.stream(2).accept()
    ends.exchange()
    assert data_of(ends.far.events) == [b"early", bytes(5000)]


def test_what_was_queued_turns_out_too_large(ends: Ends) -> None:
    near = ends.near.open(send_limit=0)
    near.send(bytes(5000))
    ends.near.message_bytes_max = 4999
    near.established(WINDOW)
    ends.exchange()
    assert isinstance(ended(ends.near), MessageTooLarge)
    error = ended(ends.far)
    assert isinstance(error, StreamReset)
    assert error.code == TOO_LARGE


def test_the_smaller_message_limit_holds_once_it_is_known(ends: Ends) -> None:
    near = ends.near.open(send_limit=0)
    ends.near.message_bytes_max = 100
    near.established(WINDOW)
    assert near.room == 100
    with pytest.raises(MessageTooLarge, match="a message of 101 bytes, at most 100"):
        near.send(bytes(101))


# Sending and receiving


def test_messages_arrive_in_order_both_ways(ends: Ends) -> None:
    near, far = ends.open()
    assert [near.send(b"n%d" % i) for i in range(3)] == [1, 2, 3]
    assert far.send(b"") == 1
    assert (near.last_sequence, near.sent_sequence) == (3, 0)
    assert ends.send(ends.near)
    assert ends.deliver(ends.far)
    assert ends.far.take_events() == [StreamMessages(far, 1, [b"n0", b"n1", b"n2"])]
    assert ends.near.take_events() == [StreamAcknowledged(near, 3)]
    ends.exchange()
    assert ends.far.take_events() == [StreamAcknowledged(far, 1)]
    assert ends.near.take_events() == [StreamMessages(near, 1, [b""])]
    assert (near.last_sequence, near.sent_sequence, near.acknowledged_sequence) == (3, 3, 3)


def test_receipts_only_advance(ends: Ends) -> None:
    near, _far = ends.open()
    for _ in range(3):
        near.send(b"x")
    ends.exchange()
    ends.near.events.clear()
    for sequence in (2, 3, 99):
        near.acknowledged(sequence)
    assert ends.near.events == []
    assert near.acknowledged_sequence == 3


def test_a_receipt_is_not_of_what_has_not_left(ends: Ends) -> None:
    near, _far = ends.open()
    near.send(b"x")
    near.acknowledged(1)
    assert ends.near.events == []


def test_a_message_is_bytes_only(ends: Ends) -> None:
    near, _far = ends.open()
    for wrong in ("text", bytearray(b"x"), memoryview(b"x")):
        with pytest.raises(TypeError, match=f"a message is bytes, not {type(wrong).__name__}"):
            near.send(wrong)  # type: ignore[arg-type]
    assert near.last_sequence == 0


def test_a_message_over_the_limit_is_refused_before_anything_is_sent(ends: Ends) -> None:
    near, _far = ends.open()
    with pytest.raises(MessageTooLarge, match="a message of 20001 bytes, at most 20000"):
        near.send(bytes(20_001))
    assert near.last_sequence == 0
    assert not near.has_output


def test_the_send_queue_is_bounded(ends: Ends) -> None:
    near, _far = ends.open()
    size = SMALL.send_queue_bytes_max // 4 - MESSAGE_COST_BYTES
    for _ in range(4):
        assert near.room >= size
        near.send(bytes(size))
    assert near.room == 0
    with pytest.raises(SendQueueFull, match="stream 2 has 4 queued"):
        near.send(b"")
    assert near.last_sequence == 4


def test_room_is_what_send_takes(ends: Ends) -> None:
    near, _far = ends.open()
    assert near.room == SMALL.message_bytes_max
    near.send(bytes(1000))
    room = near.room
    assert room == SMALL.send_queue_bytes_max - 1000 - 2 * MESSAGE_COST_BYTES
    with pytest.raises(SendQueueFull):
        near.send(bytes(room + 1))
    near.send(bytes(room))


def test_an_empty_queue_takes_any_message(ends: Ends) -> None:
    near, _far = ends.open()
    near.send(bytes(SMALL.message_bytes_max))
    with pytest.raises(SendQueueFull):
        near.send(b"")
    ends.exchange()
    assert data_of(ends.far.events) == [bytes(SMALL.message_bytes_max)]
    assert near.room == SMALL.message_bytes_max


ROOMY = Limits(
    message_bytes_max=1_000_000, stream_window_initial_bytes=2 * 1024, peer_memory_bytes_max=1_000_000
)
"""Queues may grow until the budget for three large ones is spent."""

PIECE = bytes(16 * 1024 - MESSAGE_COST_BYTES)


def fill(stream: Stream) -> int:
    """Send until memory, or the limit of the queue, lets no more in; return how many."""
    for count in range(1_000):
        try:
            stream.send(PIECE)
        except SendQueueFull:
            return count
    raise AssertionError("it is not bounded")


def test_the_queues_of_all_streams_share_the_budget() -> None:
    end = Ends(ROOMY).near
    streams = [end.open(2 * number) for number in range(1, 21)]
    counts = [fill(stream) for stream in streams]
    assert counts[0] == 64  # a mebibyte, the limit of one
    assert counts[-1] == 4  # 64 KiB, which are anybody's
    assert end.reserved == sum(max(0, 16 * 1024 * (count - 4)) for count in counts)
    assert end.reserved <= ROOMY.peer_memory_bytes_max
    streams[0].abort()
    assert fill(streams[-1]) > 0  # what one gives back another may have
    for stream in streams:
        stream.session_ended(BusClosed("over"))
    assert end.reserved == 0


def test_a_queue_that_has_emptied_gives_its_space_back() -> None:
    ends = Ends(ROOMY)
    near, far = ends.open()
    for _ in range(3):
        assert near.room == ROOMY.message_bytes_max
        assert fill(near) == 64
        assert ends.near.reserved == 60 * 16 * 1024
        while near.stats().send_queue_messages:
            ends.exchange()
            far.consume(far.stats().unconsumed_messages)
        assert ends.near.reserved == 0
        ends.far.events.clear()


def test_a_queue_that_is_dropped_gives_its_space_back() -> None:
    ends = Ends(ROOMY)
    near, far = ends.open()
    fill(near)
    far.close()
    ends.exchange()
    assert near.room == 0
    assert ends.near.reserved == 0
    assert near.make_room(1_000_000) == -1


def test_room_is_made_for_who_asks_for_it() -> None:
    ends = Ends(ROOMY)
    near, _far = ends.open()
    near.send(PIECE)
    assert near.room < 100_000
    assert near.make_room(100_000) == 4 * 64 * 1024
    assert near.room > 100_000
    near.send(bytes(100_000))


def test_what_a_face_has_accepted_is_taken_even_when_memory_has_run_short() -> None:
    ends = Ends(ROOMY)
    near, _far = ends.open()
    other = ends.near.open(4)
    fill(other)
    near.send_all([PIECE] * 20)
    assert near.last_sequence == 20
    with pytest.raises(SendQueueFull):
        near.send(PIECE)
    near.finish()
    with pytest.raises(StreamFinished):
        near.send_all([b"late"])


def test_ready_is_told_once_when_messages_left_after_a_refusal(ends: Ends) -> None:
    near, _far = ends.open()
    near.send(bytes(1000))
    while near.room >= 100:
        near.send(bytes(100))
    with pytest.raises(SendQueueFull):
        near.send(bytes(100))
    assert ends.send(ends.near)
    assert ends.near.take_events() == [StreamReady(near)]
    near.on_grant(wire.Grant(2, 4000, 0))
    assert ends.send(ends.near)
    assert ends.near.take_events() == []
    near.want_ready()
    near.on_grant(wire.Grant(2, 8000, 0))
    assert ends.send(ends.near)
    assert ends.near.take_events() == [StreamReady(near)]


def test_ready_waits_until_a_message_has_left_whole(ends: Ends) -> None:
    near, _far = ends.open()
    near.want_ready()
    near.send(bytes(1900))
    assert ends.near.packet(room=1100) is not None
    assert near.sent_sequence == 0
    assert ends.near.events == []
    assert ends.near.packet() is not None
    assert ends.near.events == [StreamReady(near)]
    assert near.sent_sequence == 1


def test_a_stream_asks_to_be_scheduled_only_when_there_is_something(ends: Ends) -> None:
    near, _far = ends.open()
    assert near.next_frame(9999) is None
    near.send(b"a")
    near.send(b"b")
    assert list(ends.near.active) == [near]
    ends.near.packet()
    assert not ends.near.active
    assert near.next_frame(9999) is None


# Credit


def test_small_stalls_are_not_announced(ends: Ends) -> None:
    near, _far = ends.open()
    for _ in range(20):
        near.send(bytes(200))
    ends.near.packet()
    assert near.stats().send_queue_messages > 0
    assert not near.has_output
    assert ends.near.controls == []


def test_large_stalls_are_announced_once(ends: Ends) -> None:
    near, _far = ends.open()
    for size in (1500, 1600, 1700):
        near.send(bytes(size))
    ends.near.packet()
    needed = 1500 + 1600 + 2 * MESSAGE_COST_BYTES
    assert ends.near.controls == [wire.Blocked(2, needed)]
    near.finish()
    near.on_grant(wire.Grant(2, needed - 1, 0))
    assert ends.near.controls == [wire.Blocked(2, needed)]
    near.on_grant(wire.Grant(2, needed, 0))
    ends.near.packet()
    assert ends.near.controls == [wire.Blocked(2, needed + 1700 + MESSAGE_COST_BYTES)]


def test_a_grant_lets_a_blocked_stream_go_on(ends: Ends) -> None:
    near, _far = ends.open()
    near.send(bytes(3000))
    assert ends.near.controls == [wire.Blocked(2, 3000 + MESSAGE_COST_BYTES)]
    near.on_grant(wire.Grant(2, 3063, 0))
    assert not near.has_output
    near.on_grant(wire.Grant(2, 3064, 0))
    assert list(ends.near.active) == [near]
    near.on_grant(wire.Grant(2, 9999, 0))
    assert list(ends.near.active) == [near], "and is not scheduled twice"


def test_stats_count_everything(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(4):
        near.send(bytes(600))
    ends.exchange()
    far.consume(1)
    assert near.stats() == StreamStats(
        messages_sent=3,
        bytes_sent=1800,
        send_queue_messages=1,
        send_queue_bytes=600,
        send_credit_bytes=WINDOW - 3 * 664,
    )
    assert far.stats() == StreamStats(
        messages_received=3,
        bytes_received=1800,
        send_credit_bytes=WINDOW,
        unconsumed_messages=2,
        unconsumed_bytes=1200,
    )
    near.abort()
    assert near.stats().send_queue_bytes == 0
    assert near.stats().bytes_sent == 1800


# Ends


def test_both_finish_and_everything_is_consumed(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"n")
    near.finish()
    near.finish()
    ends.exchange()
    assert ends.far.take_events() == [StreamMessages(far, 1, [b"n"]), StreamFinishedReceiving(far)]
    far.send(b"f")
    far.finish()
    ends.exchange()
    far.consume(1)
    ends.exchange()
    assert StreamEnded(near, None) not in ends.near.events
    near.consume(1)
    ends.exchange()
    assert ended(ends.near) is None
    assert ended(ends.far) is None
    with pytest.raises(StreamFinished):
        near.send(b"x")
    for command in (near.finish, near.close, near.abort):
        command()
    near.consume(1)
    assert ends.near.controls == []


def test_a_finished_side_still_receives(ends: Ends) -> None:
    near, far = ends.open()
    near.finish()
    with pytest.raises(StreamFinished, match="stream 2 sends no more"):
        near.send(b"x")
    assert isinstance(near.send_error, StreamFinished)
    assert near.room == 0
    ends.exchange()
    far.send(b"still")
    ends.exchange()
    assert data_of(ends.near.events) == [b"still"]
    assert not near.is_over


def test_finish_comes_after_what_is_queued(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(4):
        near.send(bytes(1000))
    near.finish()
    ends.exchange()
    assert StreamFinishedReceiving(far) not in ends.far.events
    for _ in range(4):
        far.consume(1)
        ends.exchange()
    assert len(data_of(ends.far.events)) == 4
    assert ends.far.events[-1] == StreamFinishedReceiving(far)


def test_close_drains_what_is_queued_and_discards_what_comes(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"last words")
    far.send(b"under way")
    ends.send(ends.far)
    near.close(10.0)
    assert near.next_deadline() == 10.0
    assert ends.near.deadlines_changed[-1] == 2
    ends.exchange()
    assert StreamMessages(near, 1, [b"under way"]) not in ends.near.events
    assert data_of(ends.far.events) == [b"last words"]
    assert ends.far.events[-1] == StreamFinishedReceiving(far)
    with pytest.raises(StreamClosed) as caught:
        far.send(b"x")
    assert caught.value.last_consumed == 0
    far.consume(1)
    ends.exchange()
    assert ended(ends.near) is None
    error = ended(ends.far)
    assert isinstance(error, StreamClosed)
    assert error.last_consumed == 0


def test_close_when_the_other_has_sent_nothing_is_a_clean_end_for_both(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    ends.exchange()
    far.consume(1)
    near.close()
    near.close()
    ends.exchange()
    assert ended(ends.near) is None
    assert ended(ends.far) is None


def test_close_of_one_who_has_consumed_everything_is_clean_for_the_other(ends: Ends) -> None:
    near, far = ends.open()
    far.send(b"x")
    ends.exchange()
    near.consume(1)
    near.close()
    ends.exchange()
    assert ended(ends.far) is None
    assert far.send_error is not None
    with pytest.raises(StreamClosed):
        far.send(b"y")


def test_close_makes_the_other_drop_what_it_has_queued(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(8):
        far.send(bytes(1000))
    ends.exchange()
    far.want_ready()
    near.close()
    ends.exchange()
    assert ends.far.events.count(StreamReady(far)) == 1
    assert far.stats().send_queue_messages == 0
    assert ended(ends.near) is None
    assert isinstance(ended(ends.far), StreamClosed)


def test_what_is_closed_discards_large_messages_too(ends: Ends) -> None:
    near, far = ends.open()
    far.send(bytes(1900))
    ends.send(ends.far, room=1200)
    ends.send(ends.far)
    ends.deliver(ends.near)
    near.close()
    ends.exchange()
    assert data_of(ends.near.events) == []
    assert ended(ends.near) is None


def test_both_close_at_once_and_each_reports_its_shortfall(ends: Ends) -> None:
    near, far = ends.open()
    for stream in (near, far):
        for _ in range(3):
            stream.send(b"x")
    ends.exchange()
    near.consume(1)
    far.consume(2)
    near.close()
    far.close()
    ends.exchange()
    near_error, far_error = ended(ends.near), ended(ends.far)
    assert isinstance(near_error, StreamClosed)
    assert isinstance(far_error, StreamClosed)
    assert (near_error.last_consumed, far_error.last_consumed) == (2, 1)


def test_the_earlier_deadline_of_closing_holds(ends: Ends) -> None:
    near, _far = ends.open()
    for deadline, holds in ((None, None), (5.0, 5.0), (9.0, 5.0), (None, 5.0), (4.0, 4.0)):
        near.close(deadline)
        assert near.next_deadline() == holds


def test_closing_in_vain_ends_in_a_reset_that_says_so(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(4):
        near.send(bytes(600))
    ends.exchange()
    far.consume(2)
    ends.exchange()
    near.close(10.0)
    ends.exchange()
    ends.near.expire(9.9)
    assert not near.is_over
    ends.near.expire(10.0)
    ends.exchange()
    near_error, far_error = ended(ends.near), ended(ends.far)
    assert isinstance(near_error, StreamClosed)
    assert near_error.last_consumed == 2, "as the last grant told"
    assert "give it a longer timeout" in near_error.hint
    assert isinstance(far_error, StreamClosed)
    assert far_error.last_consumed == 0
    assert "its close ran out of time" in far_error.hint


def test_close_before_the_answer(ends: Ends) -> None:
    near = ends.near.open(deadline=20.0)
    near.send(b"x")
    near.close(10.0)
    assert near.next_deadline() == 10.0
    ends.exchange()
    far = ends.far.stream(2)
    far.accept()
    with pytest.raises(StreamClosed):
        far.send(b"nobody reads this")
    far.consume(1)
    ends.exchange()
    assert ended(ends.near) is None
    assert ended(ends.far) is None


def test_who_leaves_unfinished_drains_but_does_not_say_that_this_was_all(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(6):
        near.send(bytes(1000))  # more than the window
    far.send(b"too late")
    near.leave(10.0)
    assert not near.is_drained
    with pytest.raises(BusClosed):
        near.send(b"later")
    ends.exchange()
    assert isinstance(far.send_error, StreamClosed)
    while not near.is_drained:
        far.consume(1)
        ends.exchange()
    near.session_ended(BusClosed("the bus was closed"))
    far.session_ended(LOST)
    assert len(data_of(ends.far.events)) == 6
    assert StreamFinishedReceiving(far) not in ends.far.events
    assert ended(ends.far) is LOST
    assert isinstance(ended(ends.near), BusClosed)
    assert data_of(ends.near.events) == []
    assert near.is_drained


def test_who_leaves_and_is_told_that_nobody_reads_is_done(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    near.leave(10.0)
    far.close()
    ends.exchange()
    assert isinstance(ended(ends.near), StreamClosed)
    assert ended(ends.far) is None


def test_who_leaves_and_then_closes_has_finished(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    near.leave(10.0)
    near.close(10.0)
    ends.exchange()
    assert not near.is_drained
    assert ends.far.events[-1] == StreamFinishedReceiving(far)
    far.consume(1)
    ends.exchange()
    assert near.is_drained
    assert ended(ends.near) is None


def test_who_leaves_a_finished_stream_closes_it(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    near.finish()
    near.leave(10.0)
    assert near.next_deadline() == 10.0
    ends.exchange()
    assert not near.is_drained
    far.consume(1)
    ends.exchange()
    assert ended(ends.near) is None
    assert ended(ends.far) is None


def test_who_leaves_turns_offers_down(ends: Ends) -> None:
    ends.near.open()
    ends.exchange()
    ends.far.stream(2).leave(10.0)
    ends.exchange()
    error = ended(ends.near)
    assert isinstance(error, StreamRejected)
    assert error.code == UNTAKEN


def test_the_session_ends_well_for_whom_all_was_consumed_and_who_wants_nothing_more(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    near.close()
    ends.exchange()
    far.consume(1)
    far.leave(10.0)
    ends.exchange()
    near.session_ended(LOST)
    assert ended(ends.near) is None


def test_the_session_does_not_end_well_for_whom_not_all_was_consumed(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    near.close()
    ends.exchange()
    near.session_ended(LOST)
    assert ended(ends.near) is LOST
    assert not far.is_over


def test_abort_drops_everything_on_both_sides(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    near.abort(7, "enough")
    assert not near.has_output
    assert near.next_frame(9999) is None
    ends.exchange()
    for end, stream in ((ends.near, near), (ends.far, far)):
        error = ended(end)
        assert isinstance(error, StreamReset)
        assert (error.code, error.reason, error.peer) == (7, "enough", end.remote)
        with pytest.raises(StreamReset, match="stream reset with code 7: 'enough'") as caught:
            stream.send(b"y")
        assert caught.value is not error
        assert isinstance(stream.send_error, StreamReset)
    assert data_of(ends.far.events) == []


def test_what_still_comes_after_the_end_is_ignored(ends: Ends) -> None:
    near, far = ends.open()
    far.send(b"x")
    ends.send(ends.far)
    near.abort()
    near.on_data(wire.Data(2, 1, 0, [b"x"]))
    near.on_chunk(wire.Chunk(2, 1, 0, 1, 0, b"x"))
    near.on_accept(wire.Accept(2, b"", 0))
    near.on_reject(wire.Reject(2, 0, ""))
    near.on_grant(wire.Grant(2, 0, 0))
    near.on_blocked(wire.Blocked(2, 0))
    near.on_finish(wire.Finish(2, 9))
    near.on_close(wire.Close(2, 9))
    near.on_reset(wire.Reset(2, 0, "", 9))
    near.acknowledged(1)
    near.expire(1e9)
    near.session_ended(LOST)
    assert kinds(ends.near) == [StreamEnded]


def test_streams_end_with_their_session(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    for end, stream in ((ends.near, near), (ends.far, far)):
        stream.session_ended(LOST)
        assert ended(end) is LOST
        with pytest.raises(PeerLost) as caught:
            stream.send(b"y")
        assert caught.value is not LOST
        assert caught.value.reason == "silent"


@pytest.mark.parametrize(
    "error",
    [
        LOST,
        StreamReset(7, "why", peer=Address(bytes(32))),
        OpenTimeout("too late", hint="hurry"),
        BusClosed("over"),
    ],
)
def test_an_error_is_told_again_in_the_same_words(error: BusError) -> None:
    error.__cause__ = ValueError("cause")
    fresh = again(error)
    assert fresh is not error
    assert type(fresh) is type(error)
    assert (str(fresh), vars(fresh), fresh.args) == (str(error), vars(error), error.args)
    assert fresh.__cause__ is error.__cause__
    assert fresh.__traceback__ is None


# The peer's faults


def test_what_cannot_come_now_is_the_peers_fault(ends: Ends) -> None:
    near, far = ends.open()
    with pytest.raises(RemoteProtocolError, match="stream 2: ACCEPT while open") as caught:
        near.on_accept(wire.Accept(2, b"", 0))
    assert caught.value.peer == ends.far.address
    far.on_finish(wire.Finish(2, 0))
    with pytest.raises(RemoteProtocolError, match="stream 2: DATA while done"):
        far.on_data(wire.Data(2, 1, 0, [b"x"]))


@pytest.mark.parametrize("frame", [wire.Grant(2, 0, 1), wire.Close(2, 1), wire.Reset(2, 0, "", 1)])
def test_nobody_consumes_what_was_not_sent(ends: Ends, frame: wire.Control) -> None:
    word = type(frame).__name__.upper()
    near, _far = ends.open()
    near.send(b"x")
    with pytest.raises(RemoteProtocolError, match=f"stream 2: {word}: consumed up to 1 of 0"):
        ends.near.dispatch(frame)
    assert not near.is_over


def test_an_old_grant_and_an_old_count_do_no_harm(ends: Ends) -> None:
    near, _far = ends.open()
    near.send(b"x")
    ends.exchange()
    near.on_grant(wire.Grant(2, 9000, 1))
    near.on_grant(wire.Grant(2, 8000, 0))
    assert near.stats().send_credit_bytes == 9000 - 1 - MESSAGE_COST_BYTES
    near.on_reset(wire.Reset(2, CLOSE_TIMEOUT, "", 0))
    error = ended(ends.near)
    assert isinstance(error, StreamClosed)
    assert error.last_consumed == 1
