"""What a session carries: which streams there may be, whose frames are whose, and whose memory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from brokerless.config import Limits
from brokerless.errors import (
    MessageTooLarge,
    OpenTimeout,
    PeerLost,
    RemoteProtocolError,
    SendTimeout,
    StreamRejected,
    UsageError,
)
from brokerless.model import (
    Reliability,
    SendDone,
    StreamAcknowledged,
    StreamEnded,
    StreamMessages,
    StreamOpened,
    Traffic,
)
from brokerless.protocol import wire
from brokerless.protocol.datagram import Kind
from brokerless.protocol.datagram_stream import DatagramStream
from brokerless.protocol.lanes import REJECT_BUSY
from brokerless.protocol.offers import WITHDRAWALS_MAX
from brokerless.protocol.stream_state import UNTAKEN, StreamState
from brokerless.testing.simulation import SimNetwork
from tests.protocol.talk import STREAM_FRAMES, Side, Talk, frames, packet

if TYPE_CHECKING:
    from brokerless.protocol.stream import Stream

KIB = 1024
MIB = 1024 * KIB
LOST = PeerLost(reason="silent")


# Beginning and end


def test_messages_may_follow_an_offer_at_once_within_the_credit_of_info() -> None:
    talk = Talk(Limits(), Limits(stream_window_initial_bytes=2000))
    stream = talk.near.open()
    stream.send(bytes(1000))
    stream.send(bytes(1000))
    first, *_ = talk.write(talk.near, 1)
    assert [type(frame) for frame in first.frames] == [wire.Open, wire.Data]
    assert len(first.frames[1].messages) == 1


def test_what_was_queued_and_is_too_large_for_the_peer_ends_when_its_limit_is_known() -> None:
    talk = Talk(Limits(), Limits(message_bytes_max=1000), established=False)
    stream = talk.near.open()
    stream.send(bytes(1001))
    talk.near.send(bytes(1001))
    talk.near.send(bytes(1000))
    talk.establish()
    talk.link()
    talk.pump()
    assert isinstance(talk.near.of_type(StreamEnded)[0].error, MessageTooLarge)
    assert isinstance(talk.near.of_type(SendDone)[0].error, MessageTooLarge)
    assert talk.near.of_type(SendDone)[1].error is None


def test_accepting_twice_is_refused_and_events_come_in_order() -> None:
    talk = Talk()
    ours = talk.near.open()
    ours.send(b"early")
    talk.pump()
    (theirs,) = talk.far.offered
    talk.far.session.lanes.accept(theirs, b"")
    with pytest.raises(UsageError):
        talk.far.session.lanes.accept(theirs, b"")
    talk.pump()
    assert [type(event) for event in talk.far.events[1:3]] == [StreamOpened, StreamMessages]
    assert [type(event) for event in talk.near.events] == [StreamOpened, StreamAcknowledged]


def test_receipts_of_streams_that_are_over_are_let_go() -> None:
    talk = Talk()
    ours, _ = talk.opened()
    ours.send(b"data")
    talk.write(talk.near, 1)
    ours.abort()
    talk.pump()
    assert talk.near.session.is_idle
    assert talk.near.of_type(StreamAcknowledged) == []


def test_a_stream_comes_to_its_normal_end() -> None:
    talk = Talk()
    ours, theirs = talk.opened()
    ours.send(b"only")
    ours.finish()
    theirs.finish()
    talk.pump()
    assert talk.near.of_type(StreamEnded) == []
    theirs.consume(1)
    talk.pump()
    assert [event.error for side in talk.sides for event in side.of_type(StreamEnded)] == [None, None]
    assert [side.session.streams for side in talk.sides] == [{}, {}]


def test_datagrams_need_no_link_and_streams_of_them_end_with_the_session() -> None:
    talk = Talk(has_datagrams=True)
    ours, theirs = talk.opened("game", Reliability.SEQUENCED)
    talk.cut(1)
    ours.send(b"x")
    talk.carry()
    assert isinstance(theirs, DatagramStream)
    assert theirs.unread.take() == b"x"
    ours.send(bytes(5000))
    talk.ports[0].udp.pop()
    talk.carry()
    assert talk.far.session.datagrams._reassembly.byte_count > 0
    talk.far.session.end(LOST)
    assert talk.far.session.datagrams._reassembly.byte_count == 0
    assert talk.far.session.datagrams.plane.readers == {}


def test_an_unreliable_stream_takes_no_credit_and_offers_none() -> None:
    talk = Talk(has_datagrams=True)
    talk.near.open(reliability=Reliability.UNRELIABLE)
    (offer,) = frames(talk.write(talk.near, 1))
    assert offer == wire.Open(2, 1, "", b"", 0)
    assert talk.near.budget.reserved == 0


def test_stats_sum_up_what_streams_past_and_present_and_single_messages_carried() -> None:
    talk = Talk(has_datagrams=True)
    talk.wait(1.0)
    for name, messages in (("past", 3), ("present", 2)):
        ours, theirs = talk.opened(name)
        for _ in range(messages):
            ours.send(bytes(100))
        talk.pump()
        if name == "past":
            ours.abort()
            talk.pump()
    talk.near.session.lanes.singles.send(0, bytes(10), 1, None)
    talk.near.session.datagrams.send(Kind.UNRELIABLE, 0, 0, bytes(5))
    talk.pump()
    sent = Traffic(messages_sent=7, bytes_sent=515)
    assert talk.near.session.stats().traffic == sent
    received = Traffic(messages_received=7, bytes_received=515, unconsumed_messages=3, unconsumed_bytes=210)
    assert talk.far.session.stats().traffic == received
    theirs.consume(2)
    assert talk.far.session.stats().traffic.unconsumed_bytes == 10


# Rules of the wire


@pytest.mark.parametrize(
    "frame", [wire.Ping(1, 0), wire.Pong(1), wire.Goodbye(1, "")], ids=lambda frame: type(frame).__name__
)
def test_what_concerns_the_moment_is_not_numbered(frame: wire.Control) -> None:
    with pytest.raises(RemoteProtocolError, match="in a numbered packet"):
        Talk().near.session.receive(1, packet(frame, number=1), 50, 100.0)


@pytest.mark.parametrize(("side", "right", "wrong"), [("near", 1, (0, 2, 4)), ("far", 2, (0, 1, 3))])
def test_streams_are_opened_in_turn(side: str, right: int, wrong: tuple[int, ...]) -> None:
    for stream_id in wrong:
        receiver = getattr(Talk(), side).session
        with pytest.raises(RemoteProtocolError, match=f"expected {right}"):
            receiver.receive(1, packet(wire.Open(stream_id, 0, "", b"", 1), number=1), 50, 100.0)
    receiver = getattr(Talk(), side)
    for number, stream_id in enumerate((right, right + 2), 1):
        receiver.session.receive(1, packet(wire.Open(stream_id, 0, "", b"", 1), number=number), 50, 100.0)
    assert [stream.id for stream in receiver.offered] == [right, right + 2]
    with pytest.raises(RemoteProtocolError, match=f"expected {right + 4}"):  # not twice
        receiver.session.receive(1, packet(wire.Open(right, 0, "", b"", 1), number=3), 50, 100.0)


@pytest.mark.parametrize("name", STREAM_FRAMES)
def test_frames_of_streams_that_were_never_opened(name: str) -> None:
    for stream_id in (1, 3, 2, 4, 2**62 - 1):
        near = Talk().near.session
        with pytest.raises(RemoteProtocolError, match=f"stream {stream_id}, which was never opened"):
            near.receive(1, packet(STREAM_FRAMES[name](stream_id), number=1), 50, 100.0)


@pytest.mark.parametrize(("opener", "never"), [("near", (1, 3, 5, 8)), ("far", (2, 4, 6, 7))])
def test_that_one_side_opened_streams_opens_none_of_the_other(opener: str, never: tuple[int, ...]) -> None:
    for stream_id in never:
        talk = Talk()
        for _ in range(3):
            getattr(talk, opener).open().abort()
        talk.pump()
        near = talk.near.session
        with pytest.raises(RemoteProtocolError, match="never opened"):
            near.receive(1, packet(wire.Finish(stream_id, 0), number=near.received + 1), 50, talk.now)


@pytest.mark.parametrize("name", STREAM_FRAMES)
def test_frames_of_streams_that_are_over_are_ignored(name: str) -> None:
    talk = Talk()
    ours, _ = talk.opened()
    theirs = talk.far.open()
    talk.pump()
    ours.abort()
    theirs.abort()
    talk.pump()
    events = len(talk.near.events)
    number = talk.near.session.received
    for stream_id in (ours.id, theirs.id):
        number += 1
        talk.near.session.receive(1, packet(STREAM_FRAMES[name](stream_id), number=number), 50, talk.now)
    assert len(talk.near.events) == events


WITHOUT_STREAM = ("DATA", "CHUNK", "GRANT", "BLOCKED")
"""What stream 0 knows."""


@pytest.mark.parametrize("name", STREAM_FRAMES)
def test_single_messages_have_no_beginning_and_no_end(name: str) -> None:
    near = Talk().near
    if name in WITHOUT_STREAM:
        near.session.receive(1, packet(STREAM_FRAMES[name](0), number=1), 50, 100.0)
        return
    with pytest.raises(RemoteProtocolError, match="stream 0, which was never opened"):
        near.session.receive(1, packet(STREAM_FRAMES[name](0), number=1), 50, 100.0)


# How many streams


def test_ids_are_even_from_the_lower_address_and_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "STREAM_ID_MAX", 5)
    talk = Talk()
    assert [talk.near.open().id for _ in range(2)] == [2, 4]
    assert [talk.far.open().id for _ in range(3)] == [1, 3, 5]
    for side in talk.sides:
        with pytest.raises(UsageError, match="have run out") as caught:
            side.open()
        assert caught.value.peer == side.session.remote


@pytest.mark.parametrize(("ours", "theirs"), [(3, 9), (9, 3)])
def test_no_more_streams_than_either_side_allows(ours: int, theirs: int) -> None:
    talk = Talk(Limits(streams_max=ours), Limits(streams_max=theirs))
    streams = [talk.near.open() for _ in range(3)]
    with pytest.raises(UsageError, match="3 streams are open"):
        talk.near.open()
    streams[0].abort()
    talk.near.open()


def test_streams_of_both_sides_count() -> None:
    talk = Talk(Limits(streams_max=2))
    talk.far.open()
    talk.near.open()
    talk.near.open()  # crossing on the way
    talk.pump()
    assert [type(event.error) for event in talk.far.of_type(StreamEnded)] == [StreamRejected]
    assert [type(event.error) for event in talk.near.of_type(StreamEnded)] == [StreamRejected]
    assert {len(side.session.streams) for side in talk.sides} == {1}


def test_a_flood_of_offers_is_turned_down() -> None:
    far = Talk(Limits(offers_max=4)).far
    for number in range(10):
        far.session.receive(1, packet(wire.Open(2 * number + 2, 0, "", b"", 0), number=number + 1), 30, 100.0)
    assert len(far.offered) == 4
    rejected = [frame for frame in said_by(far) if isinstance(frame, wire.Reject)]
    assert [(frame.code, frame.reason) for frame in rejected] == [
        (REJECT_BUSY, "too many streams are waiting or open")
    ] * 6
    for stream in far.offered[:2]:
        far.session.lanes.accept(stream, b"")  # no longer waiting
    far.offered[2].reject(1)
    for number in range(10, 14):
        far.session.receive(1, packet(wire.Open(2 * number + 2, 0, "", b"", 0), number=number + 1), 30, 100.0)
    assert len(far.offered) == 4 + 3


def said_by(side: Side) -> list[Any]:
    said: list[Any] = []
    while (data := side.session.next_packet(1, 100.0)) is not None:
        said += wire.decode_packet(data).frames
    return said


def test_who_opens_more_than_the_other_side_lets_wait_holds_them_back() -> None:
    talk = Talk(Limits(), Limits(offers_max=4))
    ours = [talk.near.open(str(number)) for number in range(10)]
    for number, stream in enumerate(ours):
        stream.send(b"%d" % number)
    ours[5].abort()  # the other side never hears of it
    ours[6].close()
    talk.pump()
    assert [stream.name for stream in talk.far.offered] == ["0", "1", "2", "3"]
    assert talk.far.offered[0].id == ours[0].id
    talk.far.session.lanes.accept(talk.far.offered[0], b"")
    talk.far.offered[1].reject(1)
    ours[2].abort()
    talk.pump()
    assert [stream.name for stream in talk.far.offered[4:]] == ["4", "6", "7"]
    for _ in range(3):
        for stream in talk.far.offered:
            talk.far.session.lanes.accept(stream, b"") if stream.state is StreamState.OFFERED else None
        talk.pump()
    assert [stream.name for stream in talk.far.offered[7:]] == ["8", "9"]
    taken = [stream for stream in talk.far.offered if stream.name in "0346789"]
    assert [talk.far.received(stream) for stream in taken] == [[stream.name.encode()] for stream in taken]
    assert talk.near.session.is_idle


def test_an_offer_that_is_held_back_has_its_time_as_any_other() -> None:
    talk = Talk(Limits(), Limits(offers_max=1))
    talk.near.open()
    held = talk.near.open(deadline=talk.now + 1.0)
    held.finish()
    talk.pump()
    talk.wait(1.0)
    (ended,) = talk.near.of_type(StreamEnded)
    assert ended.stream is held
    assert type(ended.error) is OpenTimeout
    assert len(talk.far.offered) == 1


def test_offers_wait_for_the_other_sides_limit_and_end_with_the_session() -> None:
    talk = Talk(Limits(), Limits(offers_max=2), established=False)
    for _ in range(3):
        talk.near.open()
    talk.establish()
    talk.link()
    talk.pump()
    assert len(talk.far.offered) == 2
    talk.near.session.end(LOST)
    assert [ended.error for ended in talk.near.of_type(StreamEnded)] == [LOST] * 3


def test_a_side_that_takes_no_offers_is_asked_one_by_one() -> None:
    talk = Talk(established=False)
    told = dataclasses.replace(talk.far.session.info("", b""), offers_max=0)
    talk.near.session.establish(told, talk.now)
    talk.near.session.link_ready(1, 0, talk.now)
    talk.near.open()
    talk.near.open()
    assert [type(frame) for frame in said_by(talk.near)] == [wire.Open]


def test_an_answer_to_an_offer_that_was_not_made_is_a_fault() -> None:
    talk = Talk(Limits(), Limits(offers_max=1))
    talk.near.open()
    held = talk.near.open()
    talk.pump()
    with pytest.raises(RemoteProtocolError, match="never opened"):
        talk.near.session.receive(1, packet(wire.Accept(held.id, b"", 0), number=1), 30, talk.now)


def test_offers_that_were_withdrawn_make_room() -> None:
    talk = Talk(Limits(offers_max=4))
    for _ in range(5):
        streams = [talk.near.open() for _ in range(4)]
        talk.pump()
        for stream in streams:
            stream.abort()
    talk.pump()
    assert len(talk.far.offered) == 20


def test_offers_made_and_taken_back_in_turns_are_turned_down_in_the_end() -> None:
    far = Talk(Limits()).far
    for number in range(WITHDRAWALS_MAX + 2):
        opened, reset = wire.Open(2 * number + 2, 0, "", b"", 0), wire.Reset(2 * number + 2, 0, "", 0)
        far.session.receive(1, packet(opened, reset, number=number + 1), 30, 100.0)
    assert len(far.offered) == WITHDRAWALS_MAX
    rejected = [frame.stream_id for frame in said_by(far) if isinstance(frame, wire.Reject)]
    assert rejected == [2 * WITHDRAWALS_MAX + 2, 2 * WITHDRAWALS_MAX + 4]
    again = 2 * WITHDRAWALS_MAX + 6
    far.session.receive(1, packet(wire.Open(again, 0, "", b"", 0), number=number + 2), 30, 101.0)
    assert far.offered[-1].id == again


def test_who_is_leaving_takes_no_more_streams() -> None:
    talk = Talk()
    talk.far.session.lanes.is_leaving = True
    talk.near.open()
    talk.pump()
    assert talk.far.offered == []
    (ended,) = talk.near.of_type(StreamEnded)
    assert ended.error.code == UNTAKEN


# Memory


def oversized(talk: Talk, count: int, size: int) -> list[Stream]:
    """Open streams with a message each that is larger than its window."""
    streams = [talk.opened(str(number)) for number in range(count)]
    for number, (ours, _) in enumerate(streams):
        ours.send(bytes([number]) * size)
    return [theirs for _, theirs in streams]


def test_messages_larger_than_the_window_are_granted_one_at_a_time_oldest_first() -> None:
    talk = Talk()
    streams = oversized(talk, 3, MIB)
    granted: list[int] = []
    turns = 0
    while not talk.far.received(streams[-1]):
        turns += 1
        talk.write(talk.near, 1)
        talk.read(talk.far, 1)
        for frame in frames(talk.write(talk.far, 1)):
            if isinstance(frame, wire.Grant):
                granted.append(frame.stream_id)
                assert [bool(talk.far.received(stream)) for stream in streams] == [
                    number < len(granted) - 1 for number in range(3)
                ]
        talk.read(talk.near, 1)
    assert granted == [stream.id for stream in streams]
    assert [talk.far.received(stream) for stream in streams] == [[bytes([n]) * MIB] for n in range(3)]
    assert turns > 10


def test_a_budget_that_is_spent_is_waited_for() -> None:
    limits = Limits(message_bytes_max=MIB, peer_memory_bytes_max=MIB + 100 * KIB)
    talk = Talk(limits)
    first, second = oversized(talk, 2, MIB)
    talk.pump()
    assert talk.far.received(first)
    assert not talk.far.received(second)
    assert talk.far.budget.reserved > 900 * KIB
    first.consume(1)
    talk.pump()
    assert talk.far.received(second) == [bytes([1]) * MIB]
    second.consume(1)
    assert talk.far.everybody.reserved == talk.far.budget.reserved < 300 * KIB


def test_who_waits_for_memory_and_ends_does_not_hold_up_the_next() -> None:
    talk = Talk(Limits(message_bytes_max=MIB, peer_memory_bytes_max=MIB + 100 * KIB))
    first, second, third = oversized(talk, 3, MIB)
    talk.pump()
    second.abort()
    first.abort()
    talk.pump()
    assert talk.far.received(third) == [bytes([2]) * MIB]


def test_who_never_waited_for_memory_has_no_turn_to_end() -> None:
    talk = Talk(Limits(message_bytes_max=MIB, peer_memory_bytes_max=MIB + 100 * KIB))
    first, second = oversized(talk, 2, MIB)
    talk.pump()
    _, other = talk.opened()
    talk.far.session.lanes.oversized_done(other)
    assert not talk.far.received(second)
    first.consume(1)
    talk.pump()
    assert talk.far.received(second)


def test_the_end_gives_all_memory_back() -> None:
    talk = Talk()
    oversized(talk, 3, 3 * MIB)
    for _ in range(100):
        talk.near.send(bytes(10 * KIB))
    for _ in range(30):
        talk.pump()
    assert talk.far.everybody.reserved > 0
    for side in talk.sides:
        side.session.end(LOST)
        assert (side.budget.reserved, side.everybody.reserved) == (0, 0)


def test_windows_that_have_grown_leave_room_for_the_largest_message() -> None:
    limits = Limits(
        message_bytes_max=MIB,
        stream_window_bytes=256 * KIB,
        peer_memory_bytes_max=2 * MIB,
        memory_bytes_max=4 * MIB,
    )
    network = SimNetwork(1)
    near, far = network.pair(limits)
    streams = [near.open_stream(far) for _ in range(20)]
    for stream in streams:
        for _ in range(40):  # ten windows each, consumed at once: all would grow if they might
            network.run_until(lambda stream=stream: stream.room >= 64 * KIB)
            stream.send(bytes(64 * KIB))
    network.run(1.0)
    network.run_until(lambda: streams[0].room >= MIB)
    streams[0].send(bytes(MIB))
    network.run_until(lambda: any(len(got) == 41 for got in far.received.values()), limit_s=5.0)


# Deadlines


def test_deadlines_of_streams_and_sends_are_kept_without_a_link() -> None:
    talk = Talk(established=False)
    talk.near.open("patient", deadline=104.0)
    talk.near.send(b"single", deadline=103.0)
    assert talk.near.touches == 2
    assert talk.near.session.next_deadline() == 103.0
    talk.near.session.expire(103.0)
    assert isinstance(talk.near.of_type(SendDone)[0].error, SendTimeout)
    assert talk.near.session.next_deadline() == 104.0
    talk.near.session.expire(104.0)
    assert isinstance(talk.near.of_type(StreamEnded)[0].error, OpenTimeout)
    assert talk.near.session.next_deadline() is None


def test_streams_that_are_over_have_no_deadlines() -> None:
    talk = Talk(established=False)
    stream = talk.near.open(deadline=104.0)
    stream.abort()
    assert talk.near.session.next_deadline() is None


def test_one_that_keeps_a_deadline_is_called_for_the_next() -> None:
    talk = Talk(established=False)
    for deadline in (103.0, 104.0, 105.0):
        talk.near.send(b"single", deadline=deadline)
    for done, now in enumerate((103.0, 104.0, 105.0), 1):
        assert talk.near.session.next_deadline() == now
        talk.near.session.expire(now)
        assert len(talk.near.of_type(SendDone)) == done
