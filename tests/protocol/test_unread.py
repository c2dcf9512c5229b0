"""The queue of unread messages: its bound, its wake-ups, and two threads at once."""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.unread import Unread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def all_of(unread: Unread[Any]) -> list[Any]:
    taken = []
    while (item := unread.take()) is not None:
        taken.append(item)
    return taken


def test_first_in_first_out() -> None:
    unread: Unread[str] = Unread(100)
    for item in "abc":
        unread.put(item, 10)
    assert (len(unread), unread.byte_count) == (3, 30)
    assert all_of(unread) == ["a", "b", "c"]
    assert (len(unread), unread.byte_count, unread.dropped) == (0, 0, 0)


def test_the_oldest_is_seen_and_stays() -> None:
    unread: Unread[str] = Unread(100)
    assert unread.oldest is None
    unread.put("a", 1)
    unread.put("b", 1)
    assert unread.oldest == unread.take() == "a"
    assert unread.oldest == "b"


def test_it_tells_once_that_something_waits() -> None:
    unread: Unread[str] = Unread(100)
    assert unread.put("a", 1)  # the taking side has not looked yet
    assert not unread.put("b", 1)
    assert unread.take() == "a"
    assert not unread.put("c", 1)  # it will look again
    assert all_of(unread) == ["b", "c"]
    assert unread.put("d", 1)
    assert unread.take() == "d"
    assert not unread.put("e", 1)  # it has not seen the end yet
    assert unread.take() == "e"
    assert unread.take() is None
    assert unread.take() is None
    assert unread.put("f", 1)


def test_the_oldest_give_way() -> None:
    unread: Unread[int] = Unread(100)
    for item in range(10):
        unread.put(item, 30)
    assert unread.dropped == 7
    assert unread.byte_count == 90
    unread.put(10, 100)
    assert unread.dropped == 10
    assert all_of(unread) == [10]


def test_up_to_the_bound_and_not_beyond() -> None:
    unread: Unread[str] = Unread(100)
    unread.put("a", 60)
    unread.put("b", 40)
    assert unread.dropped == 0
    unread.put("c", 1)
    assert all_of(unread) == ["b", "c"]


def test_the_newest_stays_whatever_its_size() -> None:
    unread: Unread[str] = Unread(100)
    for item in "abc":
        unread.put(item, 101)
        assert len(unread) == 1
    assert unread.dropped == 2
    assert all_of(unread) == ["c"]


def test_what_was_taken_counts_no_more() -> None:
    unread: Unread[int] = Unread(100)
    for item in range(1_000):
        unread.put(item, 60)
        assert unread.take() == item
    assert unread.dropped == 0


def test_closed_it_holds_nothing() -> None:
    unread: Unread[str] = Unread(100)
    unread.put("a", 10)
    unread.close()
    assert (len(unread), unread.byte_count, unread.dropped) == (0, 0, 0)
    assert unread.take() is None
    assert not unread.put("b", 10)
    assert unread.take() is None


# The instants at which the other side may step in, one by one


class Interrupted(deque[Any]):
    """A deque that lets the other side act just before the n-th ``popleft``."""

    def __init__(self, items: Any, n: int, act: Callable[[], object]) -> None:
        super().__init__(items)
        self._left = n
        self._act = act

    def popleft(self) -> Any:
        self._left -= 1
        if self._left == 0:
            self._act()
        return super().popleft()


def interrupt(unread: Unread[Any], n: int, act: Callable[[], object]) -> None:
    unread._queue = Interrupted(unread._queue, n, act)


def test_an_item_that_comes_before_the_first_look_is_found_there() -> None:
    unread: Unread[str] = Unread(100)
    told: list[bool] = []
    interrupt(unread, 1, lambda: told.append(unread.put("a", 1)))
    assert unread.take() == "a"


def test_an_item_that_comes_between_the_looks_is_not_slept_over() -> None:
    unread: Unread[str] = Unread(100)
    unread.put("before", 1)
    told: list[bool] = []
    interrupt(unread, 3, lambda: told.append(unread.put("a", 1)))
    assert unread.take() == "before"
    assert unread.take() == "a"
    assert told == [True]  # for nothing, which does no harm
    assert not unread.put("b", 1)
    assert all_of(unread) == ["b"]
    assert unread.put("c", 1)


def test_what_is_taken_while_the_oldest_give_way_is_not_given_twice() -> None:
    unread: Unread[int] = Unread(100)
    for item in range(5):
        unread.put(item, 20)
    taken: list[Any] = []
    interrupt(unread, 1, lambda: taken.append(deque.popleft(unread._queue)[1]))
    unread.put(5, 20)
    assert taken == [0]
    assert unread.dropped == 1  # one more than needed, and counted
    assert all_of(unread) == [2, 3, 4, 5]


def test_all_is_taken_while_the_oldest_give_way() -> None:
    unread: Unread[int] = Unread(100)
    unread.put(0, 100)
    interrupt(unread, 1, lambda: deque.clear(unread._queue))
    assert not unread.put(1, 100)
    assert unread.dropped == 0
    assert unread.byte_count == 0


@given(st.lists(st.one_of(st.none(), st.integers(0, 150)), max_size=80))
def test_like_a_list_cut_at_its_front(steps: list[int | None]) -> None:
    unread: Unread[tuple[int, int]] = Unread(100)
    model: list[tuple[int, int]] = []
    dropped, asleep = 0, True
    for number, size in enumerate(steps):
        if size is None:
            asleep = not model
            assert unread.take() == (model.pop(0) if model else None)
            continue
        assert unread.put((number, size), size) is asleep
        asleep = False
        model.append((number, size))
        while len(model) > 1 and sum(size for _, size in model) > 100:
            model.pop(0)
            dropped += 1
        assert len(unread) == len(model)
        assert unread.byte_count == sum(size for _, size in model)
        assert unread.dropped == dropped
    assert all_of(unread) == model


# Two threads

PATIENCE_S = 15
"""Of one thread with the other; only a failure takes so long."""


class Taker:
    """A thread that takes, and sleeps when there is nothing until it is told."""

    def __init__(self, unread: Unread[int]) -> None:
        self.taken: list[int] = []
        self.awake = threading.Event()
        self.over = False
        self.took_last_of_burst = threading.Event()
        self._unread = unread
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            over = self.over  # before the look: what was put before it is found by the look
            item = self._unread.take()
            if item is None:
                if over or not self.awake.wait(PATIENCE_S):
                    return
                self.awake.clear()
            else:
                self.taken.append(item)
                if item % BURST == 0:
                    self.took_last_of_burst.set()

    def finish(self) -> None:
        """Let it take what is left, and end."""
        self.over = True
        self.awake.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


BURST = 3
"""Short, so that the taker often falls asleep while something is put."""


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_two_threads_lose_no_wake_up() -> None:
    unread: Unread[int] = Unread(1_000)
    taker = Taker(unread)
    for item in range(1, 3_000 + 1):
        if unread.put(item, 1):
            taker.awake.set()
        if item % BURST == 0:
            assert taker.took_last_of_burst.wait(PATIENCE_S), f"asleep, and not told of {item}"
            taker.took_last_of_burst.clear()
    taker.finish()
    assert taker.taken == list(range(1, 3_000 + 1))
    assert unread.dropped == 0


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("bytes_max", [1, 8, 1_000])
def test_two_threads_take_each_item_in_order_or_count_it(bytes_max: int) -> None:
    unread: Unread[int] = Unread(bytes_max)
    taker = Taker(unread)
    for item in range(50_000):
        if unread.put(item, 1):
            taker.awake.set()
        assert len(unread) <= bytes_max
    taker.finish()
    assert taker.taken == sorted(set(taker.taken))
    assert len(taker.taken) + unread.dropped == 50_000
