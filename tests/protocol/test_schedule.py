"""Whose turn it is in a packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.config import Limits
from brokerless.protocol import wire
from brokerless.protocol.flight import IN_FLIGHT_BYTES_MIN
from brokerless.protocol.schedule import SHARED_S, TURN_BYTES
from tests.protocol.talk import Talk, frames

if TYPE_CHECKING:
    from brokerless.protocol.stream import Stream

KIB = 1024
MIB = 1024 * KIB


def test_control_goes_before_data_and_pings_before_all() -> None:
    talk = Talk()
    ours, _ = talk.opened()
    ours.send(b"data")
    talk.near.send(b"single")
    talk.near.open("second")
    talk.now = talk.near.session.next_deadline() or 0
    talk.expire()
    first, second = talk.write(talk.near, 1)
    assert [type(frame) for frame in first.frames] == [wire.Ping]
    assert [type(frame) for frame in second.frames] == [wire.Open, wire.Data, wire.Data]


def test_streams_take_turns_within_a_packet() -> None:
    talk = Talk()
    streams = [talk.opened(str(number))[0] for number in range(4)]
    for stream in streams:
        stream.send(bytes(40 * KIB))
    first, *_ = talk.write(talk.near, 1)
    assert [frame.stream_id for frame in first.frames] == [stream.id for stream in streams]
    assert all(len(frame.payload) <= TURN_BYTES for frame in first.frames)
    assert sum(len(frame.payload) for frame in first.frames) > 3.9 * TURN_BYTES


def test_who_is_alone_fills_its_packet() -> None:
    talk = Talk(Limits(stream_window_initial_bytes=MIB))
    ours, _ = talk.opened()
    ours.send(bytes(200 * KIB))
    first, second, *_ = talk.write(talk.near, 1)
    for full in (first, second):
        assert [len(frame.payload) for frame in full.frames] == [64 * KIB]


def test_a_small_message_is_not_held_up_by_a_large_one() -> None:
    talk = Talk()
    large, _ = talk.opened("large")
    small, theirs = talk.opened("small")
    large.send(bytes(64 * MIB))
    for _ in range(20):  # well under way
        talk.write(talk.near, 1)
        talk.read(talk.far, 1)
        talk.write(talk.far, 1)
        talk.read(talk.near, 1)
    talk.write(talk.near, 1)
    assert talk.near.session.flight.is_full
    before = len(talk.sent)
    small.send(b"sixteen bytes ok")
    talk.read(talk.far, 1)
    talk.write(talk.far, 1)
    talk.read(talk.near, 1)
    packets = talk.write(talk.near, 1)
    assert small.id in [frame.stream_id for frame in packets[0].frames]  # the very next
    talk.read(talk.far, 1)
    assert talk.far.received(theirs) == [b"sixteen bytes ok"]
    assert len(talk.sent) - before < 20
    assert large.sent_sequence == 0


def test_the_flight_is_shared_for_a_while_after_streams_took_turns() -> None:
    talk = Talk()
    large, _ = talk.opened("large")
    small, _ = talk.opened("small")
    flight = talk.near.session.flight

    def send(stream: Stream, after_s: float) -> bool:
        talk.now += after_s
        stream.send(b"message")
        talk.pump()
        return flight.is_shared

    assert not send(large, 0.0)
    assert not send(large, 0.0)
    assert send(small, 0.0)
    assert send(small, 0.9 * SHARED_S)
    assert not send(small, 0.2 * SHARED_S)
    talk.near.send(b"message")  # single messages are one stream more
    talk.pump()
    assert send(small, 0.0)


def test_what_is_in_flight_is_bounded_for_data_but_not_for_control() -> None:
    talk = Talk(Limits(stream_window_initial_bytes=MIB))
    ours, _ = talk.opened()
    for _ in range(20):
        ours.send(bytes(40 * KIB))
    talk.write(talk.near, 1)
    flight = talk.near.session.flight
    assert IN_FLIGHT_BYTES_MIN <= flight.byte_count < IN_FLIGHT_BYTES_MIN + 73 * KIB
    talk.near.open("urgent")
    (control,) = talk.write(talk.near, 1)
    assert [type(frame) for frame in control.frames] == [wire.Open]


def test_even_control_waits_when_twice_as_much_is_in_flight() -> None:
    talk = Talk(Limits(unacknowledged_bytes_max=60 * KIB))
    for _ in range(40):
        talk.near.open(metadata=bytes(4000))
    assert [len(packet.frames) for packet in talk.write(talk.near, 1)] == [16, 16]
    talk.pump()
    assert len(talk.far.offered) == 40


def test_a_full_packet_takes_no_sliver_of_a_message() -> None:
    talk = Talk(Limits(stream_window_initial_bytes=MIB))
    talk.opened()
    ours, _ = talk.opened()
    for _ in range(16):
        talk.near.open(metadata=bytes(4000))  # all but 1.6 KiB of a packet
    ours.send(bytes(100 * KIB))
    first, second, *_ = talk.write(talk.near, 1)
    assert {type(frame) for frame in first.frames} == {wire.Open}
    assert type(second.frames[0]) is wire.Chunk


def test_control_frames_beyond_a_packet_go_into_the_next() -> None:
    talk = Talk()
    for _ in range(40):
        talk.near.open(metadata=bytes(4000))
    packets = talk.write(talk.near, 1)
    assert [len(packet.frames) for packet in packets] == [16, 16, 8]
    assert [frame.stream_id for frame in frames(packets)] == list(range(2, 82, 2))


def test_a_stream_with_nothing_to_give_after_all_leaves_its_turn() -> None:
    talk = Talk()
    ours, _ = talk.opened()
    ours.send(b"data")
    ours.abort()
    (only,) = talk.write(talk.near, 1)
    assert [type(frame) for frame in only.frames] == [wire.Reset]
    assert talk.near.session.is_idle is False
    talk.pump()
    assert talk.near.session.is_idle
