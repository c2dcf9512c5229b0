"""Fragments: split and joined, whatever the order, within bounds of memory and time."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.datagram import (
    FRAGMENTS_MAX,
    MESSAGE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Fragment,
    Kind,
    decode_plain,
)
from brokerless.protocol.fragments import LOST_MAX, Reassembly, split

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE = PAYLOAD_BYTES_MAX
ROOM = 1_000_000
TIMEOUT_S = 1.0
SIZES = [0, 1, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE, 2 * SIZE + 1, 64 * 1024, MESSAGE_BYTES_MAX]


def message(size: int, seed: object = 0) -> bytes:
    return random.Random(f"{size} {seed}").randbytes(size)


def fragments(
    data: bytes, number: int = 1, *, kind: Kind = Kind.UNRELIABLE, stream_id: int = 0, channel: int = 0
) -> list[Fragment]:
    """Return the fragments of a message as the other side reads them."""
    read = []
    for plain in split(kind, stream_id, channel, number, 77, data):
        stamp, fragment = decode_plain(plain)
        assert stamp == 77
        assert isinstance(fragment, Fragment)
        read.append(fragment)
    return read


def joined(reassembly: Reassembly, arriving: Iterable[Fragment], now: float = 0.0) -> list[bytes]:
    """Return the messages that came of these."""
    results = [reassembly.add(fragment, now) for fragment in arriving]
    return [data for data in results if data is not None]


def is_empty(reassembly: Reassembly) -> bool:
    return (len(reassembly), reassembly.byte_count, reassembly.next_deadline()) == (0, 0, None)


# Splitting


@pytest.mark.parametrize("size", SIZES)
def test_all_that_fits_and_no_empty_rest(size: int) -> None:
    data = message(size)
    parts = fragments(data, 9, kind=Kind.SEQUENCED, stream_id=6)
    assert b"".join(part.payload for part in parts) == data
    assert len(parts) == max(1, -(-size // SIZE))
    for place, part in enumerate(parts):
        assert part[:6] == (Kind.SEQUENCED, 6, 0, 9, place, len(parts))


def test_a_message_of_64_kib_has_58_fragments() -> None:
    assert len(fragments(bytes(64 * 1024))) == 58
    assert len(fragments(bytes(MESSAGE_BYTES_MAX))) == FRAGMENTS_MAX == 64


def test_a_larger_one_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        split(Kind.UNRELIABLE, 0, 0, 1, 0, bytes(MESSAGE_BYTES_MAX + 1))


# Joining


@pytest.mark.parametrize("size", SIZES)
def test_joined_in_any_order(size: int) -> None:
    chance = random.Random(size)
    data = message(size)
    for number in range(1, 6):
        reassembly = Reassembly(ROOM, TIMEOUT_S)
        parts = fragments(data, number)
        chance.shuffle(parts)
        assert joined(reassembly, parts) == [data]
        assert is_empty(reassembly)
        assert reassembly.dropped == 0


def test_a_single_fragment_passes_at_once_and_takes_no_room() -> None:
    reassembly = Reassembly(0, TIMEOUT_S)
    assert joined(reassembly, fragments(b"") + fragments(b"whole")) == [b"", b"whole"]
    assert is_empty(reassembly)


def test_many_at_once_each_for_itself() -> None:
    reassembly = Reassembly(ROOM, TIMEOUT_S)
    sent = {number: message(3 * SIZE + number, number) for number in range(1, 50)}
    parts = [part for number, data in sent.items() for part in fragments(data, number)]
    random.Random("many").shuffle(parts)
    assert sorted(joined(reassembly, parts)) == sorted(sent.values())
    assert is_empty(reassembly)


def test_the_same_fragment_again_changes_nothing() -> None:
    reassembly = Reassembly(ROOM, TIMEOUT_S)
    data = message(2 * SIZE)
    first, last = fragments(data)
    assert joined(reassembly, [first]) == []
    held = reassembly.byte_count
    assert joined(reassembly, [first, first]) == []
    assert reassembly.byte_count == held
    assert joined(reassembly, [last]) == [data]


@pytest.mark.parametrize(
    "other",
    [
        {"kind": Kind.SEQUENCED},
        {"stream_id": 4},
        {"channel": 1},
        {"fragments": 4},
        {"fragments": 2, "payload": b"end"},
    ],
)
def test_a_message_that_contradicts_itself_is_dropped(other: dict[str, object]) -> None:
    reassembly = Reassembly(ROOM, TIMEOUT_S)
    first, middle, last = fragments(message(3 * SIZE))
    assert joined(reassembly, [first, middle._replace(**other), middle, last]) == []
    assert is_empty(reassembly)
    assert reassembly.dropped == 1


# Bounds


def test_time_is_up_one_second_after_the_first_fragment() -> None:
    reassembly = Reassembly(ROOM, TIMEOUT_S)
    first, middle, last = fragments(message(3 * SIZE))
    assert reassembly.next_deadline() is None
    reassembly.add(first, 10.0)
    reassembly.add(middle, 10.9)
    assert reassembly.next_deadline() == 11.0
    reassembly.expire(10.999)
    assert len(reassembly) == 1
    reassembly.expire(11.0)
    assert is_empty(reassembly)
    assert reassembly.dropped == 1
    assert reassembly.add(last, 11.1) is None
    assert is_empty(reassembly), "a late fragment began the message anew"
    reassembly.expire(20.0)
    assert reassembly.dropped == 1


def test_each_has_its_own_time() -> None:
    reassembly = Reassembly(ROOM, TIMEOUT_S)
    for number in range(1, 11):
        reassembly.add(fragments(message(2 * SIZE), number)[0], number / 10)
    reassembly.expire(1.5)
    assert (len(reassembly), reassembly.dropped) == (5, 5)
    assert reassembly.next_deadline() == pytest.approx(1.6)


def test_the_oldest_give_way() -> None:
    reassembly = Reassembly(4 * SIZE, TIMEOUT_S)
    parts = [fragments(message(2 * SIZE, number), number) for number in range(1, 6)]
    for first, _ in parts:
        reassembly.add(first, 0.0)
    assert (len(reassembly), reassembly.dropped) == (2, 3)
    assert len(joined(reassembly, [last for _, last in parts])) == 2
    assert is_empty(reassembly)
    assert reassembly.dropped == 3


def test_messages_that_were_given_up_do_not_displace_the_others() -> None:
    """Many interleaved, more than there is room for: without a memory of the lost, none would be whole."""
    reassembly = Reassembly(200_000, TIMEOUT_S)
    parts = [fragments(message(20 * SIZE, number), number) for number in range(1, 31)]
    in_turns = [part for turn in zip(*parts, strict=True) for part in turn]
    whole = joined(reassembly, in_turns)
    assert len(whole) >= 5
    assert len(whole) + reassembly.dropped == 30
    assert is_empty(reassembly)


def test_a_message_larger_than_the_room_is_dropped_once() -> None:
    reassembly = Reassembly(10 * SIZE, TIMEOUT_S)
    assert joined(reassembly, fragments(message(20 * SIZE))) == []
    assert is_empty(reassembly)
    assert reassembly.dropped == 1


def test_only_so_many_of_the_lost_are_remembered() -> None:
    reassembly = Reassembly(ROOM, TIMEOUT_S)
    parts = {number: fragments(message(2 * SIZE), number) for number in range(1, LOST_MAX + 2)}
    for number, (first, _) in parts.items():
        reassembly.add(first, number / 1000)
    reassembly.expire(10.0)
    assert reassembly.dropped == LOST_MAX + 1
    for number, (_, last) in parts.items():
        reassembly.add(last, 10.0)
        assert len(reassembly) == 1, number  # the first is a stranger again, and waits in vain


def test_what_came_of_a_stream_that_is_over_is_forgotten() -> None:
    reassembly = Reassembly(ROOM, TIMEOUT_S)
    kept = fragments(message(2 * SIZE), 1)
    reassembly.add(kept[0], 0.0)
    for number in (2, 3):
        reassembly.add(fragments(message(2 * SIZE), number, stream_id=6)[0], 0.0)
    reassembly.forget(6)
    reassembly.forget(8)
    assert (len(reassembly), reassembly.dropped) == (1, 0)
    assert joined(reassembly, kept[1:]) == [message(2 * SIZE)]
    assert is_empty(reassembly)


@pytest.mark.parametrize("count", [2, 58, 64])
@pytest.mark.parametrize("missing", ["all but one", "one"])
def test_the_count_is_what_is_really_held(count: int, missing: str) -> None:
    came = 1 if missing == "all but one" else count - 1
    reassembly = Reassembly(100 * ROOM, TIMEOUT_S)
    tracemalloc.start()
    try:
        for number in range(1, 101):
            for part in range(came):
                payload = message(SIZE, number)
                reassembly.add(Fragment(Kind.UNRELIABLE, 0, 0, number, part, count, payload), 0.0)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.9 * held < reassembly.byte_count < 1.2 * held


def test_a_flood_of_first_fragments_takes_bounded_memory() -> None:
    room = 256 * 1024
    reassembly = Reassembly(room, TIMEOUT_S)
    tracemalloc.start()
    try:
        for number in range(1, 5_001):
            payload = bytes(bytearray(SIZE))
            reassembly.add(Fragment(Kind.UNRELIABLE, 0, number, number, number % 63, 64, payload), 0.0)
            assert reassembly.byte_count <= room
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < room + 64 * 1024
    reassembly.expire(TIMEOUT_S)
    assert is_empty(reassembly)
    assert reassembly.dropped == 5_000


@st.composite
def arrivals(draw: st.DrawFn) -> list[Fragment]:
    """Return fragments of a few messages, some lost, some twice, in any order."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    parts = [
        part for number, count in enumerate(counts, 1) for part in fragments(message(count * SIZE), number)
    ]
    return draw(st.permutations(draw(st.lists(st.sampled_from(parts), max_size=2 * len(parts)))))


@given(arrivals(), st.sampled_from([3 * SIZE, 8 * SIZE, ROOM]))
def test_whatever_comes(arriving: list[Fragment], room: int) -> None:
    reassembly = Reassembly(room, TIMEOUT_S)
    came: dict[int, set[int]] = {}
    for step, part in enumerate(arriving):
        now = step / 1000
        data = reassembly.add(part, now)
        seen = came.setdefault(part.number, set())
        seen.add(part.fragment)
        assert reassembly.byte_count <= room
        if data is not None:
            assert data == message(part.fragments * SIZE)
            assert len(seen) == part.fragments
            seen.clear()
        elif room == ROOM:
            assert len(seen) < part.fragments
    reassembly.expire(100.0)
    assert is_empty(reassembly)


def test_deadlines_come_in_order() -> None:
    reassembly = Reassembly(ROOM, TIMEOUT_S)
    deadlines = []
    for number in range(1, 20):
        reassembly.add(fragments(message(2 * SIZE), number)[0], number / 10)
    while (deadline := reassembly.next_deadline()) is not None:
        deadlines.append(deadline)
        reassembly.expire(deadline)
    assert len(deadlines) == 19
    assert all(one < other for one, other in pairwise(deadlines))


def test_nonsense_of_a_member_takes_bounded_memory() -> None:
    """Well-formed fragments of numbers, counts and places drawn at random; and a good message afterwards."""
    chance = random.Random("fragments")
    room = 128 * 1024
    reassembly = Reassembly(room, TIMEOUT_S)
    tracemalloc.start()
    try:
        for step in range(20_000):
            count = chance.randint(2, FRAGMENTS_MAX)
            place = chance.randrange(count - 1)
            number, channel = chance.randint(1, chance.choice((5, 2**64 - 1))), chance.randrange(2)
            payload = bytes(bytearray(SIZE))
            reassembly.add(
                Fragment(Kind.UNRELIABLE, 0, channel, number, place, count, payload), step / 10_000
            )
            assert reassembly.byte_count <= room
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < room + 64 * 1024
    data = message(64 * 1024)
    assert joined(reassembly, fragments(data, 2**63), 2.0) == [data]
