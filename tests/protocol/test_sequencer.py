"""The sequencer: against a model that forgets nothing, and under more keys than it keeps."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.sequencer import KEYS_MAX, Sequencer


def test_only_forward() -> None:
    sequencer = Sequencer()
    assert [sequencer.is_newer("a", number) for number in (3, 2, 3, 4, 1, 9, 8, 10)] == [
        *(True, False, False, True, False, True, False, True)
    ]


def test_each_key_for_itself() -> None:
    sequencer = Sequencer()
    assert sequencer.is_newer((2, 0), 10)
    assert sequencer.is_newer((0, 7), 5)
    assert sequencer.is_newer((0, 8), 1)
    assert not sequencer.is_newer((0, 7), 5)
    assert sequencer.is_newer((0, 7), 6)
    assert not sequencer.is_newer((2, 0), 9)


def test_numbers_start_at_one() -> None:
    assert not Sequencer().is_newer("a", 0)
    assert Sequencer().is_newer("a", 1)


def test_a_key_that_was_forgotten_for_room_does_not_go_backwards() -> None:
    sequencer = Sequencer()
    sequencer.is_newer("first", 100)
    for key in range(KEYS_MAX - 1):
        sequencer.is_newer(key, 50)
    assert sequencer.floor == 0
    sequencer.is_newer("one more", 60)
    assert sequencer.floor == 100
    assert not sequencer.is_newer("first", 99)
    assert not sequencer.is_newer("first", 100)
    assert not sequencer.is_newer("never seen", 100)
    assert sequencer.is_newer("one more", 61)  # known keys have their own
    assert sequencer.is_newer("first", 101)


def test_the_floor_never_falls() -> None:
    sequencer = Sequencer()
    sequencer.is_newer("first", 100)
    sequencer.is_newer("second", 1)
    for key in range(KEYS_MAX):
        sequencer.is_newer(key, 200)
    assert sequencer.floor == 100


def test_who_is_heard_is_kept() -> None:
    sequencer = Sequencer()
    sequencer.is_newer("busy", 1)
    for number in range(2, 3 * KEYS_MAX):
        assert sequencer.is_newer(number, number)
        assert sequencer.is_newer("busy", number)
    assert sequencer.floor < number - KEYS_MAX // 2
    assert not sequencer.is_newer("busy", number)
    assert sequencer.is_newer("busy", number + 1)


def test_a_late_message_does_not_keep_its_key() -> None:
    sequencer = Sequencer()
    sequencer.is_newer("old", 5)
    for key in range(KEYS_MAX - 1):
        sequencer.is_newer(key, 6)
    assert not sequencer.is_newer("old", 4)
    sequencer.is_newer("one more", 7)
    assert sequencer.floor == 5


def test_what_is_over_is_forgotten() -> None:
    sequencer = Sequencer()
    sequencer.is_newer("a", 5)
    sequencer.forget("a")
    sequencer.forget("never seen")
    assert sequencer.floor == 0
    for key in range(KEYS_MAX):
        sequencer.is_newer(key, 1)
    assert sequencer.floor == 0


def test_a_flood_of_channels_takes_bounded_memory() -> None:
    tracemalloc.start()
    try:
        sequencer = Sequencer()
        for number in range(1, 30_000):
            sequencer.is_newer((0, number), number)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1.25 * 1024 * 1024
    assert sequencer.floor == 29_999 - KEYS_MAX


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=80))
def test_with_few_keys_like_a_model(arrivals: list[tuple[int, int]]) -> None:
    sequencer, newest = Sequencer(), dict[int, int]()
    for key, number in arrivals:
        assert sequencer.is_newer(key, number) is (number > newest.get(key, 0))
        newest[key] = max(number, newest.get(key, 0))


def test_with_too_many_keys_never_backwards() -> None:
    chance = random.Random("sequencer")
    sequencer, newest = Sequencer(), dict[int, int]()
    accepted = 0
    for number in range(1, 40_000):
        late = max(1, number - chance.choice((0, 0, 0, 1, 5, 100, 6_000)))
        key = chance.randrange(3 * KEYS_MAX)
        if sequencer.is_newer(key, late):
            assert late > newest.get(key, 0)
            newest[key] = late
            accepted += 1
    assert accepted > 20_000
