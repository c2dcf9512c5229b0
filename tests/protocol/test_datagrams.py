"""The datagrams of a session: sealed for one reader, delivered at most once, on the path that works."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest

from brokerless.config import Limits
from brokerless.errors import ConfigError, MessageTooLarge, NoPath, SendQueueFull, WireError
from brokerless.model import DatagramPath, DropCause, Reliability, Traffic, UnreliableWaiting
from brokerless.protocol import wire
from brokerless.protocol.datagram import (
    DATAGRAM_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PREFIX,
    Answer,
    Fragment,
    Kind,
    Plain,
    Sealer,
    decode_plain,
    encode_fragment,
    encode_probe,
    frame_udp,
    header,
)
from brokerless.protocol.datagram_stream import DatagramStream
from brokerless.protocol.datagrams import (
    BACKLOG_S,
    EARLY_MAX,
    EARLY_S,
    KEY_OVERLAP_S,
    KEYS_MAX,
    MESSAGE_COST_BYTES,
    SINGLE,
)
from brokerless.protocol.paths import DOUBT_S, GIVE_UP_S, PUSH_AFTER_S
from tests.protocol.datagram_ends import ELSEWHERE, DatagramEnd, DatagramEnds
from tests.protocol.two_ends import End

KIB = 1024
U32 = 2**32 - 1


def sealed_by(end: DatagramEnd, plain: bytes) -> bytes:
    """Return a datagram to the other end with whatever is within."""
    sealer = end.datagrams._sealer
    assert sealer is not None
    return frame_udp(sealer.seal(plain))


def opened(end: DatagramEnd, datagram: bytes) -> Plain:
    """Return what is within a datagram to that end, without its taking it."""
    read = header(datagram[len(PREFIX) :])
    assert read is not None
    plain = end.datagrams._inbound[read[0]].opener.open(datagram[len(PREFIX) :])
    assert plain is not None
    return decode_plain(plain)[1]


# Messages


@pytest.mark.parametrize("kind", [Kind.UNRELIABLE, Kind.SEQUENCED])
@pytest.mark.parametrize("size", [0, 1, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, 64 * KIB])
def test_a_message_arrives_whole_with_all_that_is_said_of_it(kind: Kind, size: int) -> None:
    ends = DatagramEnds().proven()
    data = random.Random(size).randbytes(size)
    assert ends.near.send(data, kind, 7) is None
    assert all(len(datagram) <= DATAGRAM_BYTES_MAX for _, datagram in ends.near.port.udp)
    ends.carry()
    (message,) = ends.far.messages()
    assert message.data == data
    assert message.sender == ends.far.remote
    assert message.reliability is {1: Reliability.UNRELIABLE, 2: Reliability.SEQUENCED}[kind]
    assert (message.channel, message.received_at) == (7, ends.now)
    assert not ends.far.dropped


def test_the_application_is_told_once_until_it_has_taken_all() -> None:
    ends = DatagramEnds().proven()
    for _ in range(3):
        ends.near.send(b"x")
    ends.carry()
    assert ends.far.waiting == [UnreliableWaiting(None, ends.far.plane.unread)]
    assert len(ends.far.messages()) == 3
    ends.near.send(b"x")
    ends.carry()
    assert len(ends.far.waiting) == 2


@pytest.mark.parametrize(("near", "far"), [(64 * KIB, 64 * KIB), (2000, 64 * KIB), (64 * KIB, 2000)])
def test_the_smaller_limit_of_both_sides_holds_at_the_call(near: int, far: int) -> None:
    ends = DatagramEnds(Limits(datagram_message_bytes_max=near), Limits(datagram_message_bytes_max=far))
    ends.proven()
    size = min(near, far)
    assert ends.near.send(bytes(size)) is None
    sent = len(ends.near.port.udp)
    with pytest.raises(MessageTooLarge, match=f"{size + 1} bytes, at most {size}") as caught:
        ends.near.send(bytes(size + 1))
    assert caught.value.peer == ends.near.remote
    assert len(ends.near.port.udp) == sent


@pytest.mark.parametrize("data", ["text", bytearray(b"x"), memoryview(b"x"), None])
def test_a_message_is_bytes(data: Any) -> None:
    with pytest.raises(TypeError, match="a message is bytes"):
        DatagramEnds().near.send(data)


@pytest.mark.parametrize("channel", [-1, U32 + 1])
def test_a_channel_is_a_number_of_32_bits(channel: int) -> None:
    ends = DatagramEnds().proven()
    with pytest.raises(ConfigError, match=f"channel: expected 0 to {U32}, got {channel}"):
        ends.near.send(b"x", channel=channel)
    assert ends.near.send(b"x", channel=U32) is None


def test_what_is_repeated_comes_once_and_what_is_late_in_its_channel_does_not_come() -> None:
    ends = DatagramEnds().proven()
    for number in range(4):
        ends.near.send(b"u%d" % number)
        ends.near.send(b"a%d" % number, Kind.SEQUENCED, 1)
        ends.near.send(b"b%d" % number, Kind.SEQUENCED, 2)
    u0, a0, b0, u1, a1, b1, u2, a2, b2, u3, a3, b3 = ends.near.port.taken()
    for datagram in (u2, u2, u0, a1, a0, a0, b3, b2, u1, a3, a2, u3, b0, b1, u0):
        ends.far.take(datagram, ends.near.port.place)
    assert ends.far.data() == [b"u2", b"u0", b"a1", b"b3", b"u1", b"a3", b"u3"]
    assert ends.far.dropped == {DropCause.DUPLICATE: 3, DropCause.LATE: 5}


@pytest.mark.parametrize("seed", range(5))
def test_fragments_come_in_any_order_and_the_memory_of_what_is_not_whole_is_freed(seed: int) -> None:
    ends = DatagramEnds().proven()
    chance = random.Random(seed)
    sent = [chance.randbytes(chance.randint(2, 40) * KIB) for _ in range(8)]
    datagrams = []
    for data in sent:
        ends.near.send(data)
        datagrams.append(ends.near.port.taken())
    lost = [one.pop(chance.randrange(len(one))) for one in datagrams[:4]]
    under_way = [datagram for one in datagrams for datagram in one]
    chance.shuffle(under_way)
    for datagram in under_way:
        ends.far.take(datagram, ends.near.port.place)
    assert sorted(ends.far.data()) == sorted(sent[4:])
    assert len(lost) == 4
    reassembly = ends.far.datagrams._reassembly
    assert len(reassembly) == 4
    ends.wait(Limits().reassembly_timeout_s)
    assert (len(reassembly), reassembly.byte_count) == (0, 0)
    assert ends.far.dropped == {DropCause.INCOMPLETE: 4}


def test_incomplete_messages_are_bounded_and_counted_when_they_give_way() -> None:
    limits = Limits(unreliable_queue_bytes_max=100_000)
    ends = DatagramEnds(limits).proven()
    for _ in range(40):
        ends.near.send(bytes(20_000))
        for datagram in ends.near.port.taken()[1:]:
            ends.far.take(datagram, ends.near.port.place)
        assert ends.far.datagrams._reassembly.byte_count <= 100_000
    assert ends.far.dropped[DropCause.INCOMPLETE] >= 35


def test_who_does_not_take_its_messages_loses_the_oldest() -> None:
    ends = DatagramEnds().proven()
    unread = ends.far.plane.unread
    for number in range(1200):
        ends.near.send(b"%d" % number + bytes(1000))
        ends.carry()
        assert unread.byte_count <= 1024 * KIB
    dropped = ends.far.dropped[DropCause.RECEIVE_QUEUE_FULL]
    taken = ends.far.data()
    assert dropped == unread.dropped == 1200 - len(taken) > 0
    assert taken[-1].startswith(b"1199")
    assert taken[0].startswith(b"%d" % dropped)
    assert len(taken) * (1000 + MESSAGE_COST_BYTES) <= 1024 * KIB


# What overtakes the INFO of who sends it


def overtaking(message: bytes) -> DatagramEnds:
    """Return ends of which near has far's key, and sent that; far does not know near yet."""
    ends = DatagramEnds(introduced=False)
    ends.far.is_delivering = False
    ends.introduce(ends.far)
    assert ends.near.send(message) is None
    ends.carry()
    assert (ends.far.events, ends.far.dropped) == ([], {})
    return ends


def join(ends: DatagramEnds) -> None:
    """Let near's INFO come."""
    ends.introduce(ends.near)
    ends.far.is_delivering = True
    assert ends.far.waiting == []  # that the peer has joined is to be told before
    ends.far.datagrams.joined(ends.now)


@pytest.mark.parametrize("size", [0, 64 * KIB])
def test_a_message_that_overtakes_it_is_delivered_after_it(size: int) -> None:
    ends = overtaking(bytes(size))
    join(ends)
    assert ends.far.data() == [bytes(size)]
    assert not ends.far.dropped


def test_what_overtakes_it_is_bounded() -> None:
    ends = overtaking(b"")
    for _ in range(EARLY_MAX):
        ends.near.send(b"x")
    ends.carry()
    assert ends.far.dropped == {DropCause.STALE: 1}
    join(ends)
    assert len(ends.far.data()) == EARLY_MAX


def test_what_overtook_it_long_ago_is_stale() -> None:
    ends = overtaking(b"x")
    for end in ends.ends:
        end.port.time += 2 * EARLY_S
    join(ends)
    assert (ends.far.data(), ends.far.dropped) == ([], {DropCause.STALE: 1})


def test_what_overtook_it_is_stale_too_if_this_process_has_stood_still_since() -> None:
    ends = overtaking(b"x")
    ends.introduce(ends.near)
    ends.far.datagrams.joined(ends.now)
    assert (ends.far.data(), ends.far.dropped) == ([], {DropCause.STALE: 1})


def test_what_overtook_an_info_that_never_came_goes_with_the_session() -> None:
    ends = overtaking(b"x")
    ends.far.datagrams.session_ended()
    assert ends.far.dropped == {DropCause.STALE: 1}


# Where nothing can be sent


def test_a_peer_that_has_told_no_key_is_not_reached() -> None:
    ends = DatagramEnds(introduced=False)
    drop = ends.near.send(b"x")
    assert drop is not None
    assert drop.cause is DropCause.NO_PATH
    assert isinstance(drop.error, NoPath)
    assert drop.error.peer == ends.near.remote
    ends.near.datagrams.introduced(ends.far.info(datagram_index=0, datagram_key=b""), ends.now)
    assert ends.near.send(b"x") is not None
    assert ends.near.dropped == {DropCause.NO_PATH: 2}
    assert ends.near.port.udp == []


@pytest.mark.parametrize("places", ["udp_places", "pull_places"])
def test_a_peer_whose_places_are_none_has_told_nothing(places: str) -> None:
    ends = DatagramEnds(introduced=False)
    with pytest.raises(WireError, match="not a place"):
        ends.introduce(ends.far, **{places: "192.0.2.7"})
    drop = ends.near.send(b"x")
    assert drop is not None
    assert drop.cause is DropCause.NO_PATH


def test_without_a_port_no_key_is_told_and_none_taken() -> None:
    alone = DatagramEnd(1, Limits(), has_port=False)
    other = DatagramEnd(2, Limits())
    assert alone.datagrams.announce() == (0, b"")
    alone.datagrams.introduced(other.info(), 0.0)
    drop = alone.send(b"x")
    assert drop is not None
    assert isinstance(drop.error, NoPath)
    assert alone.datagrams.next_deadline() is None


def test_where_no_path_works_a_send_says_so_until_one_does() -> None:
    ends = DatagramEnds()
    ends.wait(1.0, carried=False)
    assert ends.near.send(b"x") is None  # nobody knows yet that it gets nowhere
    ends.wait(GIVE_UP_S, carried=False)
    drop = ends.near.send(b"x")
    assert drop is not None
    assert isinstance(drop.error, NoPath)
    for end in ends.ends:
        end.port.taken()
    ends.wait(2.5)
    assert ends.near.datagrams.path is DatagramPath.UDP
    assert ends.near.send(b"y") is None
    ends.carry()
    assert ends.far.data() == [b"y"]


def test_a_socket_without_room_is_said_and_the_rest_of_the_message_kept() -> None:
    ends = DatagramEnds().proven()
    ends.near.port.takes_udp = False
    drop = ends.near.send(bytes(10_000))
    assert drop is not None
    assert drop.cause is DropCause.SEND_QUEUE_FULL
    assert isinstance(drop.error, SendQueueFull)
    assert ends.near.dropped == {DropCause.SEND_QUEUE_FULL: 1}
    ends.near.port.takes_udp = True
    assert ends.near.send(b"later") is None
    ends.carry()
    assert ends.far.data() == [b"later"]


def test_where_nothing_is_proven_no_room_is_no_path() -> None:
    ends = DatagramEnds()
    ends.near.port.takes_udp = False
    drop = ends.near.send(b"x")
    assert drop is not None
    assert drop.cause is DropCause.NO_PATH
    assert isinstance(drop.error, NoPath)


# Paths


def test_a_path_is_proven_before_anything_is_sent_and_told() -> None:
    ends = DatagramEnds()
    near = ends.near.datagrams
    assert near.path is DatagramPath.NONE
    ends.near.touches = 0
    ends.near.datagrams.expire(ends.now)
    ends.far.datagrams.expire(ends.now)
    ends.carry()
    assert near.path is DatagramPath.UDP
    assert not near.is_settled
    assert near.next_deadline() == 0.0
    assert ends.near.touches > 0
    ends.near.settle()
    assert near.is_settled
    assert near.next_deadline() != 0.0
    assert near.round_trip_s == 0.0


def test_a_probe_is_answered_both_ways_and_no_answer_is_larger_than_what_asked() -> None:
    ends = DatagramEnds()
    ends.near.datagrams.expire(ends.now)
    ((_, probe),) = ends.near.port.udp
    ends.far.take(probe, ELSEWHERE)
    (answer,) = (one for place, one in ends.far.port.udp if isinstance(opened(ends.near, one), Answer))
    assert len(answer) <= len(probe)
    assert (ELSEWHERE, answer) in ends.far.port.udp
    (told,) = ends.far.told
    assert told == wire.Probed(told.token, 1, 1)


def test_counters_at_their_end_under_two_keys_do_not_break_the_answer() -> None:
    ends = DatagramEnds()
    for token in (1, 2):
        info = ends.far.info()
        sealer = Sealer(info.datagram_index, ends.far.port.make_cipher(info.datagram_key))
        sealer.counter = wire.U64_MAX - 1
        ends.far.take(frame_udp(sealer.seal(encode_probe(token, 0))), ELSEWHERE)
    assert ends.far.told == [wire.Probed(1, 1, wire.U64_MAX), wire.Probed(2, 2, wire.U64_MAX)]
    items = [opened(ends.near, one) for place, one in ends.far.port.udp if place == ELSEWHERE]
    assert [item.highest for item in items if isinstance(item, Answer)] == [wire.U64_MAX] * 2


def test_an_answer_on_the_link_proves_as_much_and_measures_nothing() -> None:
    ends = DatagramEnds()
    ends.near.datagrams.expire(ends.now)
    ends.far.take(ends.near.port.taken()[0], ends.near.port.place)
    ends.far.port.taken()
    ends.carry()
    assert ends.near.datagrams.path is DatagramPath.UDP
    assert ends.near.datagrams.round_trip_s is None


def test_who_has_no_key_of_ours_yet_answers_on_the_link_alone() -> None:
    ends = DatagramEnds(introduced=False)
    ends.introduce(ends.far)
    ends.near.datagrams.expire(ends.now)
    ends.far.take(ends.near.port.taken()[0], ends.near.port.place)
    assert ends.far.port.udp == []
    assert len(ends.far.told) == 1


def test_push_is_asked_for_where_udp_fails_and_serves_when_it_is_proven() -> None:
    ends = DatagramEnds(has_pull=True)
    near = ends.near.datagrams
    assert near.send(Kind.UNRELIABLE, 0, 0, b"x") is None
    ends.near.port.taken()
    ends.wait(PUSH_AFTER_S + 0.01, carried=False)
    assert near.wants_push_at == "127.0.0.2:1"
    assert near.has_push_at == "127.0.0.2:1"  # as its peering saw to
    for end in ends.ends:
        end.port.takes_udp = False
    ends.near.port.taken()
    ends.wait(1.0)
    assert near.path is DatagramPath.PUSH
    assert near.round_trip_s is None
    ends.near.send(b"over tcp")
    ends.carry()
    assert ends.far.data() == [b"over tcp"]
    ends.near.port.takes_push = False
    drop = ends.near.send(b"x")
    assert drop is not None
    assert drop.cause is DropCause.SEND_QUEUE_FULL


def test_a_peer_that_hears_nothing_is_to_be_called_once() -> None:
    ends = DatagramEnds()
    ends.near.send(b"x")
    ends.wait(DOUBT_S + 0.05, carried=False)
    assert ends.near.calls == 1
    assert ends.near.datagrams.is_settled
    ends.near.send(b"x")
    ends.wait(DOUBT_S, carried=False)
    assert ends.near.calls == 1


def test_a_path_is_looked_for_without_a_message_when_that_is_wanted() -> None:
    ends = DatagramEnds(has_pull=True)
    ends.near.datagrams.expect()
    ends.wait(PUSH_AFTER_S + 0.01, carried=False)
    assert ends.near.datagrams.wants_push_at
    ends.wait(1.0)
    assert ends.near.datagrams.path is DatagramPath.UDP
    assert ends.far.data() == []


def test_who_takes_no_datagrams_is_asked_for_no_path() -> None:
    ends = DatagramEnds(introduced=False)
    ends.near.datagrams.expect()
    assert ends.near.port.udp == []
    assert ends.near.datagrams.next_deadline() is None


def test_without_a_place_for_it_there_is_no_push() -> None:
    ends = DatagramEnds()
    ends.near.send(b"x")
    ends.wait(GIVE_UP_S, carried=False)
    assert not ends.near.datagrams.wants_push_at


def test_what_goes_two_ways_is_the_same_datagram_and_comes_once() -> None:
    ends = DatagramEnds(introduced=False)
    ends.introduce(ends.near)
    ends.introduce(ends.far, udp_places=f"{ends.far.port.place},{ELSEWHERE}")
    ends.near.send(b"x")
    first, second = (one for _, one in ends.near.port.udp if isinstance(opened(ends.far, one), Fragment))
    assert first == second
    ends.far.take(first, ends.near.port.place)
    ends.far.take(second, ends.near.port.place)
    assert ends.far.data() == [b"x"]
    assert ends.far.dropped == {DropCause.DUPLICATE: 1}


def test_the_first_send_after_a_while_puts_the_path_under_watch() -> None:
    ends = DatagramEnds().proven()
    ends.wait(20.0)
    assert ends.near.datagrams.next_deadline() is None
    ends.near.touches = 0
    ends.near.send(b"x")
    assert ends.near.touches > 0
    assert ends.near.datagrams.next_deadline() is not None


def test_a_peer_that_moves_is_followed_once_the_new_place_is_proven() -> None:
    ends = DatagramEnds().proven()
    before = ends.near.port.place
    ends.near.port.place = moved = ELSEWHERE
    ends.far.send(b"keeps the path under watch")
    ends.far.port.taken()
    ends.near.send(b"x")
    ends.far.take(ends.near.port.taken()[-1], moved)
    ends.far.send(b"still to the old place")
    assert {place for place, datagram in ends.far.port.udp if len(datagram) > 70} == {before}
    ends.wait(2.0)
    ends.far.send(b"to the new one")
    assert {place for place, datagram in ends.far.port.udp if len(datagram) > 70} == {moved}


# Keys


def test_a_newer_key_is_used_at_once_and_the_older_one_opens_for_a_while() -> None:
    ends = DatagramEnds().proven()
    ends.near.send(b"under the old key")
    (late,) = ends.near.port.taken()
    ends.introduce(ends.far)
    ends.near.send(b"under the new key")
    ends.carry()
    ends.wait(KEY_OVERLAP_S - 0.1)
    ends.far.take(late, ends.near.port.place)
    assert ends.far.data() == [b"under the new key", b"under the old key"]


def test_a_key_that_was_left_is_forgotten_after_that() -> None:
    ends = DatagramEnds().proven()
    ends.near.send(b"under the old key")
    (late,) = ends.near.port.taken()
    received = ends.far.datagrams.received
    ends.introduce(ends.far)
    ends.near.send(b"under the new key")
    ends.carry()
    ends.wait(KEY_OVERLAP_S + 0.1)
    assert len(ends.far.plane.readers) == 1
    ends.far.take(late, ends.near.port.place)
    assert ends.far.plane.dropped == {DropCause.UNAUTHENTICATED: 1}
    assert ends.far.data() == [b"under the new key"]
    assert ends.far.datagrams.received > received  # what came under the old one still counts


def test_a_key_that_never_reached_the_peer_changes_nothing() -> None:
    ends = DatagramEnds().proven()
    ends.far.info()  # died with its link
    for number in range(30):
        ends.near.port.place = ELSEWHERE if number > 15 else ends.near.port.place
        for end in ends.ends:
            end.send(b"%d" % number)
        ends.carry()
        ends.wait(1.0)
    assert len(ends.far.data()) == 30
    ends.far.send(b"x" * 100)
    assert {place for place, datagram in ends.far.port.udp if len(datagram) > 100} == {ELSEWHERE}


def test_keys_that_come_in_another_order_than_they_were_drawn_serve_all_the_same() -> None:
    ends = DatagramEnds(introduced=False)
    ends.introduce(ends.near)
    first, second = ends.far.info(), ends.far.info()
    for info in (second, first):
        ends.near.datagrams.introduced(info, ends.now)
        ends.near.send(b"x")
        ends.carry()
    for _ in range(30):
        ends.wait(1.0)
        ends.near.send(b"x")
        ends.carry()
    assert len(ends.far.data()) == 32
    assert len(ends.far.plane.readers) == 1


def test_a_late_first_datagram_of_an_old_key_costs_the_new_one_nothing() -> None:
    ends = DatagramEnds(introduced=False)
    ends.introduce(ends.near)
    ends.introduce(ends.far)
    ends.near.send(b"old")
    late = ends.near.port.taken()
    ends.introduce(ends.far)
    ends.near.send(b"new")
    ends.carry()
    for datagram in late:
        ends.far.take(datagram, ends.near.port.place)
    for _ in range(15):
        ends.wait(1.0)
        ends.near.send(b"new")
        ends.carry()
    assert len(ends.far.data()) == 17


def test_a_late_datagram_of_an_old_key_moves_nobody() -> None:
    ends = DatagramEnds().proven()
    ends.near.send(b"old")
    (late,) = ends.near.port.taken()
    ends.introduce(ends.far)
    ends.near.send(b"new")
    ends.carry()
    ends.far.take(late, ELSEWHERE)
    ends.far.send(b"x")
    ends.far.datagrams.expire(ends.now)
    assert ELSEWHERE not in {place for place, _ in ends.far.port.udp}


def test_of_many_keys_under_way_the_one_in_use_is_kept() -> None:
    ends = DatagramEnds().proven()
    for _ in range(3 * KEYS_MAX):
        ends.far.info()
    assert len(ends.far.plane.readers) == KEYS_MAX
    ends.near.send(b"x")
    ends.carry()
    assert ends.far.data() == [b"x"]


def test_a_key_that_is_told_again_does_not_start_again() -> None:
    ends = DatagramEnds(introduced=False)
    ends.introduce(ends.near)
    info = ends.introduce(ends.far)
    ends.near.send(b"x")
    ends.near.datagrams.introduced(info, ends.now)
    ends.near.send(b"y")
    counters = [datagram[len(PREFIX) : len(PREFIX) + 17] for _, datagram in ends.near.port.udp]
    assert len(set(counters)) == len(counters)
    ends.introduce(ends.far)
    ends.near.datagrams.introduced(info, ends.now)  # late: it was left already
    ends.near.port.taken()
    ends.near.send(b"z")
    assert ends.near.port.udp[-1][1][len(PREFIX) : len(PREFIX) + 17] not in counters


def test_nothing_is_opened_or_sent_when_the_session_is_over() -> None:
    ends = DatagramEnds().proven()
    ends.near.send(b"x")
    ends.far.datagrams.session_ended()
    ends.carry()
    assert ends.far.data() == []
    assert ends.far.plane.readers == {}
    assert ends.far.plane.dropped == {DropCause.UNAUTHENTICATED: 1}
    drop = ends.far.send(b"x")
    assert drop is not None
    assert isinstance(drop.error, NoPath)


# What must not be believed


def test_a_forged_bit_anywhere_is_dropped_without_a_word() -> None:
    ends = DatagramEnds().proven()
    ends.near.send(b"stick left", Kind.SEQUENCED, 3)
    (datagram,) = ends.near.port.taken()
    ends.far.touches = 0
    targets = ends.far.datagrams._paths.targets(ends.now)
    for place in (ends.near.port.place, ELSEWHERE):
        for bit in range(8 * len(datagram)):
            forged = bytearray(datagram)
            forged[bit // 8] ^= 1 << bit % 8
            ends.far.take(bytes(forged), place)
    assert ends.far.events == []
    assert ends.far.port.udp == []
    assert ends.far.told == []
    assert ends.far.touches == 0
    assert ends.far.datagrams._paths.targets(ends.now) == targets
    assert sum(ends.far.dropped.values()) + sum(ends.far.plane.dropped.values()) == 16 * len(datagram)
    assert ends.far.plane.dropped.keys() == {DropCause.MALFORMED, DropCause.UNAUTHENTICATED}
    assert ends.far.dropped[DropCause.UNAUTHENTICATED] > 8 * 16
    ends.far.take(datagram, ends.near.port.place)  # and none of that has spoilt the true one
    assert ends.far.data() == [b"stick left"]


@pytest.mark.parametrize("place", [None, ELSEWHERE])
def test_whatever_is_replayed_is_dropped_without_a_word(place: Any) -> None:
    ends = DatagramEnds()
    recorded: list[bytes] = []
    for number in range(50):
        ends.near.send(b"%d" % number, Kind(1 + number % 2), number % 3)
        ends.near.send(bytes(3 * KIB))
        recorded += [datagram for _, datagram in ends.near.port.udp]
        ends.carry()
        ends.wait(0.1)
        recorded += [datagram for _, datagram in ends.near.port.udp]
        ends.carry()
    assert len(ends.far.data()) == 100
    ends.far.events.clear()
    before = ends.far.dropped[DropCause.DUPLICATE]
    targets = ends.far.datagrams._paths.targets(ends.now)
    for datagram in recorded:
        ends.far.take(datagram, place or ends.near.port.place)
    assert ends.far.dropped[DropCause.DUPLICATE] - before == len(recorded)
    assert (ends.far.events, ends.far.port.udp, ends.far.told, ends.far.data()) == ([], [], [], [])
    assert ends.far.datagrams._paths.targets(ends.now) == targets


def test_what_a_peer_seals_may_be_nonsense_as_well() -> None:
    ends = DatagramEnds().proven()
    for plain in (bytes(27), b"\x05" + bytes(40), b"\x01" + bytes(40), b"\x03" + bytes(40)):
        ends.far.take(sealed_by(ends.near, plain), ends.near.port.place)
    assert ends.far.dropped == {DropCause.MALFORMED: 4}
    assert ends.far.port.udp == []


def nonsense(chance: random.Random, datagram: bytes) -> bytes:
    """Return something that is no datagram, or hardly one."""
    match chance.randrange(7):
        case 0:
            return chance.randbytes(chance.randint(0, 2048))
        case 1:
            return datagram[: chance.randrange(len(datagram))]
        case 2:
            return datagram + chance.randbytes(chance.randint(1, 60_000))
        case 3:  # of an index that nobody drew
            return PREFIX + b"\x01" + chance.randbytes(chance.randint(60, 1190))
        case 4:  # of our index, from a stranger
            return datagram[: len(PREFIX) + 9] + chance.randbytes(chance.randint(8, 1180))
        case 5:
            return PREFIX + datagram
        case _:
            changed = bytearray(datagram)
            for _ in range(chance.randint(1, 8)):
                changed[chance.randrange(len(changed))] ^= chance.randint(1, 255)
            return bytes(changed)


def absurd(chance: random.Random, end: DatagramEnd) -> bytes:
    """Return what a peer gone mad may seal."""
    plain = encode_fragment(
        Kind(chance.randint(1, 2)),
        chance.choice([0, 0, 2, 2**62 - 1, 2**64 - 1]),
        chance.choice([0, U32]),
        chance.choice([0, 1, 2**63, 2**64 - 1, chance.getrandbits(64)]),
        chance.randrange(256),
        chance.randrange(256),
        bytes(chance.choice([0, 1, PAYLOAD_BYTES_MAX])),
        chance.getrandbits(32),
    )
    return sealed_by(end, plain)


def test_20_000_random_and_mutated_datagrams_change_nothing_and_cost_no_memory() -> None:
    ends = DatagramEnds().proven()
    chance = random.Random(20_000)
    ends.near.send(bytes(500))
    (sample,) = ends.near.port.taken()
    ends.far.take(sample, ends.near.port.place)
    assert len(ends.far.data()) == 1
    ends.far.events.clear()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(20_000):
        is_mad = number % 10 == 0
        datagram = absurd(chance, ends.near) if is_mad else nonsense(chance, sample)
        place = ends.near.port.place if is_mad else ELSEWHERE._replace(port=1 + number)
        ends.far.take(datagram, place)
        ends.far.data()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < Limits().unreliable_queue_bytes_max + 256 * KIB
    assert sum(ends.far.dropped.values()) + sum(ends.far.plane.dropped.values()) > 19_000
    assert ends.far.plane.dropped.keys() == {DropCause.MALFORMED, DropCause.UNAUTHENTICATED}
    assert ends.far.told == []
    assert [place for place, _ in ends.far.port.udp if place != ends.near.port.place] == []
    ends.wait(1.0)
    assert ends.far.datagrams._reassembly.byte_count == 0
    ends.near.send(b"still here")
    ends.carry()
    assert b"still here" in ends.far.data()


# After a stall


def test_nothing_is_delivered_before_the_peer_has_answered() -> None:
    ends = DatagramEnds().proven()
    ends.far.is_delivering = False
    ends.near.send(b"x")
    ends.near.send(bytes(5_000))
    ends.carry()
    assert ends.far.data() == []
    assert ends.far.dropped == {DropCause.STALE: 6}
    assert ends.far.datagrams._reassembly.byte_count == 0


def test_probes_that_come_before_the_peer_has_answered_are_no_loss() -> None:
    ends = DatagramEnds()
    ends.far.is_delivering = False
    ends.wait(0.5, carried=False)
    ends.far.port.taken()
    probes = ends.near.port.taken()
    assert probes
    for probe in probes:
        ends.far.take(probe, ends.near.port.place)
    assert ends.far.port.taken() == []  # not answered
    assert ends.far.dropped == {}


def test_what_lay_in_the_socket_is_stale_however_late_it_is_read() -> None:
    ends = DatagramEnds().proven()
    for _ in range(3):
        ends.near.send(b"from before")
    old = ends.near.port.taken()
    ends.far.port.time = ends.near.port.time = ends.now + 3.0
    ends.far.is_delivering = False
    ends.far.take(old[0], ends.near.port.place)
    ends.far.is_delivering = True  # the answer came before the rest was read
    ends.far.port.time += 0.01
    ends.far.take(old[1], ends.near.port.place)
    ends.near.port.time = ends.far.port.time
    ends.near.send(b"from now")
    ends.carry()
    ends.far.port.time += BACKLOG_S
    ends.far.take(old[2], ends.near.port.place)  # no stall has anything to do with that
    assert ends.far.data() == [b"from now", b"from before"]
    assert ends.far.dropped == {DropCause.STALE: 2}


# Streams


def stream_of(end: DatagramEnd, reliability: Reliability, stream_id: int = 2) -> DatagramStream:
    stream = DatagramStream(End(1, 2, end.limits), end.datagrams, stream_id, True, reliability, "", b"", None)
    end.streams[stream_id] = stream
    return stream


def test_single_messages_are_counted_each_way() -> None:
    ends = DatagramEnds().proven()
    before = ends.near.datagrams.traffic(), ends.far.datagrams.traffic()
    stream_of(ends.far, Reliability.UNRELIABLE)
    for stream_id, size in ((SINGLE, 10), (SINGLE, 3000), (2, 7)):
        ends.near.datagrams.send(Kind.UNRELIABLE, stream_id, 0, bytes(size))
    ends.carry()
    sent, received = Traffic(messages_sent=2, bytes_sent=3010), Traffic(0, 0, 2, 3010)
    assert ends.near.datagrams.traffic() == Traffic.total((before[0], sent))
    assert ends.far.datagrams.traffic() == Traffic.total((before[1], received))


def test_messages_of_a_stream_go_to_it_and_none_of_another_kind() -> None:
    ends = DatagramEnds().proven()
    stream = stream_of(ends.far, Reliability.SEQUENCED)
    for data, kind, stream_id in ((b"a", 2, 2), (b"b", 1, 2), (b"c", 2, 4), (b"d", 2, 2)):
        ends.near.datagrams.send(Kind(kind), stream_id, 0, data)
    a, b, c, d = ends.near.port.taken()
    for datagram in (b, c, d, a):
        ends.far.take(datagram, ends.near.port.place)
    assert [stream.unread.take() for _ in range(2)] == [b"d", None]
    assert ends.far.dropped == {DropCause.STALE: 2, DropCause.LATE: 1}
    assert ends.far.data() == []


def test_a_stream_that_is_full_loses_its_oldest_and_one_that_is_finished_takes_nothing() -> None:
    ends = DatagramEnds(Limits(unreliable_queue_bytes_max=3200)).proven()
    stream = stream_of(ends.far, Reliability.UNRELIABLE)
    for number in range(10):
        ends.near.datagrams.send(Kind.UNRELIABLE, 2, 0, b"%d" % number + bytes(999))
    ends.carry()
    assert ends.far.dropped == {DropCause.RECEIVE_QUEUE_FULL: 7}
    assert stream.unread.take() == b"7" + bytes(999)
    stream.close()
    ends.near.datagrams.send(Kind.UNRELIABLE, 2, 0, b"late")
    ends.carry()
    assert ends.far.dropped[DropCause.LATE] == 1


def test_what_is_kept_for_a_stream_goes_with_it() -> None:
    ends = DatagramEnds().proven()
    stream_of(ends.far, Reliability.SEQUENCED)
    ends.near.datagrams.send(Kind.SEQUENCED, 2, 0, b"whole")
    ends.near.datagrams.send(Kind.SEQUENCED, 2, 0, bytes(5_000))
    for datagram in ends.near.port.taken()[:-1]:
        ends.far.take(datagram, ends.near.port.place)
    assert ends.far.datagrams._reassembly.byte_count > 0
    ends.far.datagrams.forget(2)
    assert ends.far.datagrams._reassembly.byte_count == 0
    assert ends.far.datagrams._sequencer._newest == {}


# Counters


def test_loss_is_counted_at_both_ends() -> None:
    ends = DatagramEnds().proven()
    chance = random.Random(4)
    for _ in range(200):
        ends.near.send(b"x")
        if chance.random() < 0.25:
            ends.near.port.taken()
        ends.carry()
        ends.wait(0.02)
    near, far = ends.near.datagrams, ends.far.datagrams
    assert far.loss == pytest.approx(0.25, abs=0.08)
    assert near.loss_there == pytest.approx(0.25, abs=0.08)
    assert near.loss == far.loss_there == 0.0
    assert far.jitter_s == pytest.approx(0.0, abs=1e-6)
    assert near.round_trip_s == 0.0
    assert near.sent > far.received > 150


def test_who_has_the_index_and_not_the_key_is_nobody() -> None:
    ends = DatagramEnds().proven()
    stranger = Sealer(next(iter(ends.far.plane.readers)), ends.far.port.make_cipher(bytes(32)))
    ends.far.take(frame_udp(stranger.seal(encode_probe(1, 0))), ELSEWHERE)
    assert ends.far.dropped == {DropCause.DUPLICATE: 1}  # its counter had come
    for _ in range(20):
        stranger.seal(bytes(30))
    ends.far.take(frame_udp(stranger.seal(encode_probe(1, 0))), ELSEWHERE)
    assert ends.far.dropped[DropCause.UNAUTHENTICATED] == 1
    assert ends.far.port.udp == []
