"""Timers: against a model that sorts a dictionary each time."""

from __future__ import annotations

import heapq
import random
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.timers import OUTDATED_MAX, Timers

KEYS = st.integers(0, 5)
TIMES = st.integers(0, 12).map(float)
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.none() | TIMES),
    st.tuples(st.just("set_earlier"), KEYS, st.none() | TIMES),
    st.tuples(st.just("set_about"), KEYS, st.none() | TIMES),
    st.tuples(st.just("remove"), KEYS, st.none()),
    st.tuples(st.just("pop_due"), st.none(), TIMES),
)


class Unordered:
    """A key that can only be told from others."""

    __slots__ = ("__weakref__",)


def test_nothing_set_has_no_deadline() -> None:
    timers: Timers[str] = Timers()
    assert timers.next_deadline() is None
    assert timers.pop_due(1e9) == []


def test_due_at_the_very_deadline_and_not_before() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 2.0)
    assert timers.pop_due(1.999) == []
    assert timers.pop_due(2.0) == ["a"]
    assert timers.next_deadline() is None
    assert timers.pop_due(2.0) == []


def test_due_earliest_first() -> None:
    timers: Timers[str] = Timers()
    for key, deadline in (("b", 2.0), ("d", 4.0), ("a", 1.0), ("c", 3.0)):
        timers.set(key, deadline)
    assert timers.pop_due(3.0) == ["a", "b", "c"]
    assert [key for key in "abcd" if key in timers] == ["d"]
    assert timers.next_deadline() == 4.0


def test_equal_deadlines_need_no_order_among_keys() -> None:
    timers: Timers[Unordered] = Timers()
    keys = [Unordered() for _ in range(20)]
    for key in keys:
        timers.set(key, 1.0)
    assert timers.pop_due(1.0) == keys


def test_a_deadline_moves_both_ways() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 5.0)
    timers.set("a", 9.0)
    assert timers.next_deadline() == 9.0
    timers.set("a", 5.0)
    assert timers.pop_due(5.0) == ["a"]
    assert timers.pop_due(9.0) == []


def test_set_earlier_only_moves_nearer() -> None:
    timers: Timers[str] = Timers()
    timers.set_earlier("a", 5.0)
    timers.set_earlier("a", 7.0)
    timers.set_earlier("a", None)
    assert timers.next_deadline() == 5.0
    timers.set_earlier("a", 3.0)
    assert timers.next_deadline() == 3.0


def test_removed_deadlines_do_not_come() -> None:
    timers: Timers[str] = Timers()
    for key in "abc":
        timers.set(key, 1.0)
    timers.remove("a")
    timers.set("b", None)
    timers.remove("never set")
    timers.set("never set", None)
    assert timers.pop_due(1.0) == ["c"]


def test_one_move_is_one_push(monkeypatch: pytest.MonkeyPatch) -> None:
    pushes: list[Any] = []
    push = heapq.heappush
    monkeypatch.setattr(heapq, "heappush", lambda heap, item: (pushes.append(item), push(heap, item)))
    timers: Timers[int] = Timers()
    for key in range(2_000):
        timers.set(key, float(key))
        timers.set(key, float(key))  # not moved
    timers.set_earlier(7, 8.0)
    timers.remove(8)
    assert len(pushes) == 2_000


def test_a_deadline_that_may_come_early_moves_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    pushes: list[Any] = []
    push = heapq.heappush
    monkeypatch.setattr(heapq, "heappush", lambda heap, item: (pushes.append(item), push(heap, item)))
    timers: Timers[str] = Timers()
    for tick in range(1_000):
        timers.set_about("a", tick / 100, 0.25)
        deadline = timers.next_deadline()
        assert deadline is not None
        assert tick / 100 - 0.25 <= deadline <= tick / 100
    assert len(pushes) < 41
    timers.set_about("a", 1.0, 0.25)  # nearer: at once
    assert timers.next_deadline() == 1.0
    timers.set_about("a", None, 0.25)
    assert timers.next_deadline() is None


def test_clearing_the_heap_costs_little_and_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clearings: list[int] = []
    heapify = heapq.heapify
    monkeypatch.setattr(heapq, "heapify", lambda heap: (clearings.append(len(heap)), heapify(heap)))
    timers: Timers[int] = Timers()
    chance = random.Random("timers")
    model = {}
    for _ in range(5_000):
        key, deadline = chance.randrange(100), chance.random()
        timers.set(key, deadline)
        model[key] = deadline
    assert 10 < len(clearings) <= 5_000 // OUTDATED_MAX
    assert max(clearings) <= 100
    assert timers.pop_due(1.0) == sorted(model, key=model.__getitem__)


def test_a_removed_key_is_not_held_until_its_time_would_have_come() -> None:
    timers: Timers[Unordered] = Timers()
    stays = Unordered()
    timers.set(stays, 3600.0)
    gone: list[weakref.ref[Unordered]] = []
    for _ in range(10 * OUTDATED_MAX):
        key = Unordered()
        gone.append(weakref.ref(key))
        timers.set(key, 3600.0)
        timers.remove(key)
        del key
    assert sum(reference() is not None for reference in gone) <= OUTDATED_MAX + 2
    assert timers.pop_due(3600.0) == [stays]


def test_a_deadline_that_often_moves_is_held_once() -> None:
    timers: Timers[str] = Timers()
    for turn in range(10 * OUTDATED_MAX):
        timers.set("a", float(turn % 2))
    timers.set("b", 0.5)
    assert timers.pop_due(2.0) == ["b", "a"]
    assert timers.next_deadline() is None


@given(st.lists(STEPS, max_size=60), st.sampled_from([0, OUTDATED_MAX]))
def test_like_a_dictionary_that_is_sorted_each_time(
    steps: list[tuple[str, Any, Any]], outdated_max: int
) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, float] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brokerless.protocol.timers.OUTDATED_MAX", outdated_max)
        for command, key, time in steps:
            if command == "pop_due":
                due = timers.pop_due(time)
                assert [model[key] for key in due] == sorted(when for when in model.values() if when <= time)
                assert set(due) == {key for key, when in model.items() if when <= time}
                assert len(due) == len(set(due))
                for key in due:
                    del model[key]
                continue
            further = {"remove": (), "set_about": (time, 2.0)}.get(command, (time,))
            getattr(timers, command)(key, *further)
            before = model.get(key, float("inf"))
            if (command == "set_earlier" and (time is None or time >= before)) or (
                command == "set_about" and time is not None and time - 2.0 <= before <= time
            ):
                pass
            elif command == "remove" or time is None:
                model.pop(key, None)
            else:
                model[key] = time
            assert timers.next_deadline() == min(model.values(), default=None)
