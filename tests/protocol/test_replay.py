"""The replay window: against a set of all counters that came."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.replay import WINDOW, ReplayWindow

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ahead"), st.sampled_from([1, 1, 1, 2, 63, 64, 65, 8_000, WINDOW, 8_192, 2**40])),
        st.tuples(st.just("behind"), st.sampled_from([0, 1, 63, 64, 65, WINDOW - 1, WINDOW, WINDOW + 1])),
        st.tuples(st.just("again"), st.integers(0, 100)),
    ),
    max_size=60,
)


class Model:
    """Everything that came, and what the words say of it."""

    def __init__(self) -> None:
        self.came: set[int] = set()

    @property
    def highest(self) -> int:
        return max(self.came, default=0)

    def is_fresh(self, counter: int) -> bool:
        return counter > 0 and counter not in self.came and self.highest - counter < WINDOW


def window_after(*counters: int) -> ReplayWindow:
    window = ReplayWindow()
    for counter in counters:
        assert window.is_fresh(counter)
        window.add(counter)
    return window


def test_the_window_is_that_of_the_specification() -> None:
    assert WINDOW == 8_128


def test_counters_start_at_one() -> None:
    window = ReplayWindow()
    assert (window.highest, window.received) == (0, 0)
    assert not window.is_fresh(0)
    assert window.is_fresh(1)
    assert not window_after(1).is_fresh(0)


def test_each_counter_is_fresh_once_in_any_order() -> None:
    counters = list(range(1, WINDOW + 1))
    random.Random("replay").shuffle(counters)
    window = window_after(*counters)
    assert not any(window.is_fresh(counter) for counter in range(WINDOW + 1))
    assert (window.highest, window.received) == (WINDOW, WINDOW)


def test_far_beyond_one_turn_of_the_ring_in_order() -> None:
    window = ReplayWindow()
    for counter in range(1, 20_001):
        assert window.is_fresh(counter)
        window.add(counter)
        assert not window.is_fresh(counter)
    assert window.received == 20_000


@pytest.mark.parametrize("highest", [*range(WINDOW, WINDOW + 130), 2**32, 2**64 - 1])
def test_the_edges_of_the_window(highest: int) -> None:
    window = window_after(highest)
    assert not window.is_fresh(highest)
    assert not window.is_fresh(highest - WINDOW)
    assert window.is_fresh(highest - WINDOW + 1) is (highest > WINDOW - 1)
    window.add(highest - WINDOW + 1)
    assert not window.is_fresh(highest - WINDOW + 1)
    assert window.is_fresh(highest - WINDOW + 2)
    assert window.is_fresh(highest - 1)


@pytest.mark.parametrize("jump", [1, 63, 64, 65, WINDOW - 1, WINDOW, WINDOW + 1, 8_192, 8_193, 2**40, 2**63])
def test_a_jump_forgets_what_it_leaves_behind_and_nothing_else(jump: int) -> None:
    before = range(1, 201)
    window = window_after(*before, 200 + jump)
    for counter in before:
        assert not window.is_fresh(counter)
    between = range(max(201, 200 + jump - WINDOW + 1), 200 + jump)
    assert all(map(window.is_fresh, between))
    assert (window.highest, window.received) == (200 + jump, 201)


def test_its_memory_is_the_same_whatever_comes() -> None:
    window = ReplayWindow()
    size = sys.getsizeof(window._seen)
    assert size < 1_200
    for counter in (1, 2**20, 2**63, 2**64 - 1):
        window.add(counter)
    assert sys.getsizeof(window._seen) == size


@given(STEPS)
def test_like_a_set_of_all_that_came(steps: list[tuple[str, int]]) -> None:
    window, model = ReplayWindow(), Model()
    for step, by in steps:
        if step == "ahead":
            counter = model.highest + by
        elif step == "behind":
            counter = model.highest - by
        else:
            counter = sorted(model.came)[by % len(model.came)] if model.came else 0
        if not 0 <= counter < 2**64:
            continue
        assert window.is_fresh(counter) is model.is_fresh(counter)
        if model.is_fresh(counter):
            window.add(counter)
            model.came.add(counter)
            assert not window.is_fresh(counter)
        assert (window.highest, window.received) == (model.highest, len(model.came))


def test_a_hundred_thousand_at_random_like_a_set() -> None:
    chance = random.Random("replay at large")
    window, came, highest = ReplayWindow(), set[int](), 0
    for _ in range(100_000):
        # About half of them anew, half of them again, some too late, and now and then a jump.
        counter = max(0, highest + chance.choice((1, 2, 3, 100, -1, -7, -64, -5_000, -WINDOW, -9_000)))
        fresh = counter > 0 and counter not in came and highest - counter < WINDOW
        assert window.is_fresh(counter) is fresh
        if fresh:
            window.add(counter)
            came.add(counter)
            highest = max(highest, counter)
    assert (window.received, window.highest) == (len(came), highest)
    assert 20_000 < len(came) < 90_000
