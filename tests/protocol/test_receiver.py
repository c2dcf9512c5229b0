"""The receiving half of a stream: held, handed up, consumed, granted anew, discarded."""

from __future__ import annotations

import pytest

from brokerless.config import Limits
from brokerless.errors import (
    RemoteProtocolError,
    StreamClosed,
    StreamReset,
    UsageError,
)
from brokerless.model import (
    StreamFinishedReceiving,
    StreamOffered,
    StreamOpened,
)
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from tests.protocol.two_ends import SMALL, Ends, data_of, ended, kinds

WINDOW = SMALL.stream_window_initial_bytes


@pytest.fixture
def ends() -> Ends:
    return Ends()


# Before the stream is open


def test_what_came_before_the_stream_was_open_is_handed_up_then(ends: Ends) -> None:
    near = ends.near.open()
    near.send(b"a")
    near.send(b"b")
    ends.exchange()
    far = ends.far.stream(2)
    assert data_of(ends.far.events) == []
    far.accept()
    assert data_of(ends.far.events) == [b"a", b"b"]


def test_a_stream_that_finished_empty_before_acceptance(ends: Ends) -> None:
    near = ends.near.open()
    near.finish()
    ends.exchange()
    far = ends.far.stream(2)
    far.accept()
    assert kinds(ends.far) == [StreamOffered, StreamOpened, StreamFinishedReceiving]
    far.finish()
    ends.exchange()
    assert ended(ends.near) is None
    assert ended(ends.far) is None


def test_an_offer_gets_no_memory_beyond_its_window_before_it_is_taken(ends: Ends) -> None:
    near = ends.near.open()
    near.send(bytes(10_000))
    ends.exchange()
    assert (ends.far.reserved, ends.far.turn) == (0, None)
    far = ends.far.stream(2)
    far.accept()
    ends.exchange()
    assert data_of(ends.far.events) == [bytes(10_000)]


# Credit


def test_a_sender_without_credit_waits_for_consumption(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(9):
        near.send(bytes(1000))
    ends.exchange()
    assert near.sent_sequence == 1
    for received in (2, 5, 8, 9):  # 1,064 a message; the window doubles after the second and the eighth
        far.consume(len(data_of(ends.far.events)) - far.consumed_sequence)
        ends.exchange()
        assert (near.sent_sequence, len(data_of(ends.far.events))) == (received, received)


def test_a_grant_tells_what_was_consumed(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(3):
        near.send(bytes(400))
    ends.exchange()
    far.consume(2)
    assert ends.far.controls == []
    far.consume(1)
    assert ends.far.controls == [wire.Grant(2, 3 * 464 + WINDOW, 3)]
    assert far.consumed_sequence == 3


def test_a_message_above_the_window_gets_through(ends: Ends) -> None:
    near, far = ends.open()
    large = bytes(range(250)) * 36
    near.send(b"before")
    near.send(large)
    near.send(b"after")
    ends.exchange(room=3000)
    assert data_of(ends.far.events) == [b"before", large]
    assert ends.far.reserved > 0
    assert ends.far.turn is None
    far.consume(2)
    ends.exchange()
    assert data_of(ends.far.events) == [b"before", large, b"after"]
    near.abort()
    ends.exchange()
    assert isinstance(ended(ends.far), StreamReset)


def test_an_oversized_message_waits_for_the_budget(ends: Ends) -> None:
    near, _far = ends.open()
    assert ends.far.reserve(SMALL.peer_memory_bytes_max)
    near.send(bytes(10_000))
    ends.exchange()
    assert data_of(ends.far.events) == []
    ends.far.release(10_000)
    ends.exchange()
    assert data_of(ends.far.events) == [bytes(10_000)]


def test_consume_is_held_to_what_was_handed_up(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(3):
        near.send(b"x")
    ends.exchange()
    far.consume(0)
    for wrong in (4, -1):
        with pytest.raises(UsageError, match=f"consume: expected 0 to 3 messages, got {wrong}"):
            far.consume(wrong)
    far.consume(3)
    assert far.consumed_sequence == 3


def test_the_first_window_is_not_reserved_and_the_last_byte_is_given_back() -> None:
    limits = Limits(stream_window_initial_bytes=1024, stream_window_bytes=64 * 1024)
    ends = Ends(limits)
    near, far = ends.open()
    assert ends.far.reserved == 0
    for _ in range(400):
        near.send(bytes(1000))
        ends.exchange()
        far.consume(1)
        ends.exchange()
    assert ends.far.reserved == 63 * 1024
    far.abort()
    assert ended(ends.far) is not None


# The end


def test_an_application_that_never_consumes_keeps_the_stream(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    near.finish()
    far.finish()
    ends.exchange()
    assert not near.is_over
    assert not far.is_over


def test_close_tells_how_far_the_application_came(ends: Ends) -> None:
    near, far = ends.open()
    for _ in range(3):
        near.send(b"x")
    ends.exchange()
    far.consume(2)
    far.close()
    far.consume(1)  # too late, and harmless
    ends.exchange()
    error = ended(ends.near)
    assert isinstance(error, StreamClosed)
    assert error.last_consumed == 2
    assert ended(ends.far) is None


def test_close_after_their_finish_tells_how_far_the_application_came(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"x")
    near.finish()
    ends.exchange()
    far.close()
    ends.exchange()
    error = ended(ends.near)
    assert isinstance(error, StreamClosed)
    assert error.last_consumed == 0


def test_close_cuts_off_a_message_in_its_middle(ends: Ends) -> None:
    near, far = ends.open()
    far.send(b"first")
    far.send(bytes(1900))
    ends.send(ends.far, room=1200)
    near.close()
    ends.send(ends.near)
    ends.deliver(ends.far)
    assert far.stats().send_queue_messages == 0
    ends.exchange()
    error = ended(ends.far)
    assert isinstance(error, StreamClosed)
    assert error.last_consumed == 0
    assert ended(ends.near) is None
    assert far.stats().bytes_sent == 5


def test_close_gives_back_the_turn_of_an_oversized_message(ends: Ends) -> None:
    near, far = ends.open()
    far.send(bytes(10_000))
    ends.send(ends.far)
    ends.deliver(ends.near)
    assert [ends.near.turn] == [near]
    assert ends.near.reserved > 0
    near.close()
    assert [ends.near.turn] == [None]
    assert ends.near.reserved == 0
    ends.exchange()
    assert near.is_over
    assert far.is_over


def test_their_finish_is_answered_once_everything_is_consumed(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"a")
    near.send(b"b")
    near.finish()
    ends.exchange()
    far.consume(1)
    assert ends.far.controls == []
    far.consume(1)
    assert ends.far.controls == [wire.Close(2, 2)]


def test_what_comes_after_close_is_handed_up_to_nobody(ends: Ends) -> None:
    near, far = ends.open()
    near.send(b"wanted")
    ends.exchange()
    near.send(b"unwanted")
    ends.send(ends.near)
    far.close()
    ends.exchange()
    assert data_of(ends.far.events) == [b"wanted"]


def test_close_is_said_once(ends: Ends) -> None:
    _, far = ends.open()
    far.close()
    far.close()
    assert ends.far.controls == [wire.Close(2, 0)]


# The peer's faults


@pytest.mark.parametrize("last", [0, 2])
def test_finish_names_the_last_message(ends: Ends, last: int) -> None:
    _near, far = ends.open()
    far.on_data(wire.Data(2, 1, 0, [b"x"]))
    with pytest.raises(RemoteProtocolError, match=f"stream 2: FINISH at {last}, after 1"):
        far.on_finish(wire.Finish(2, last))


def test_finish_does_not_come_within_a_message_that_is_wanted(ends: Ends) -> None:
    _near, far = ends.open()
    far.on_chunk(wire.Chunk(2, 1, 0, 1500, 0, bytes(1024)))
    with pytest.raises(RemoteProtocolError, match="stream 2: FINISH at 0, after 0"):
        far.on_finish(wire.Finish(2, 0))


def test_more_than_was_granted_is_the_peers_fault(ends: Ends) -> None:
    _near, far = ends.open()
    far.on_data(wire.Data(2, 1, 0, [bytes(WINDOW - MESSAGE_COST_BYTES)]))
    with pytest.raises(RemoteProtocolError, match="granted"):
        far.on_data(wire.Data(2, 2, 0, [b""]))
