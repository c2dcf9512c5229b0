"""The budget: never above its bound, of one peer and of all, and everything given back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.budget import Budget


def test_up_to_the_bound_and_not_beyond() -> None:
    budget = Budget(100)
    assert budget.reserve(60)
    assert not budget.reserve(41)
    assert budget.reserved == 60
    assert budget.reserve(40)
    assert not budget.reserve(1)
    budget.release(1)
    assert budget.reserved == 99
    assert budget.reserve(1)


def test_the_budget_of_all_bounds_each() -> None:
    everybody = Budget(100)
    one, other = Budget(80, everybody), Budget(80, everybody)
    assert one.reserve(80)
    assert not other.reserve(21)
    assert (one.reserved, other.reserved, everybody.reserved) == (80, 0, 80)
    assert other.reserve(20)
    one.release(30)
    assert everybody.reserved == 70
    assert other.reserve(30)


def test_what_one_peer_may_not_have_is_not_taken_from_all() -> None:
    everybody = Budget(100)
    one = Budget(10, everybody)
    assert not one.reserve(11)
    assert everybody.reserved == 0


def test_more_than_was_reserved_cannot_be_released() -> None:
    budget = Budget(100, Budget(100))
    budget.reserve(5)
    with pytest.raises(AssertionError):
        budget.release(6)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.booleans()), max_size=60))
def test_conserved_whatever_comes(steps: list[tuple[int, int, bool]]) -> None:
    everybody = Budget(150)
    budgets = [Budget(100, everybody) for _ in range(3)]
    held = [0, 0, 0]
    for owner, byte_count, release in steps:
        if release:
            byte_count = min(byte_count, held[owner])
            budgets[owner].release(byte_count)
            held[owner] -= byte_count
        else:
            fits = held[owner] + byte_count <= 100 and sum(held) + byte_count <= 150
            assert budgets[owner].reserve(byte_count) is fits
            held[owner] += byte_count * fits
        assert [budget.reserved for budget in budgets] == held
        assert everybody.reserved == sum(held)


def test_who_was_refused_hears_once_when_something_is_given_back_anywhere() -> None:
    everybody = Budget(100)
    one, other = Budget(100, everybody), Budget(100, everybody)
    assert one.reserve(100)
    calls: list[str] = []
    other.when_freed(lambda: calls.append("other"))
    one.release(10)
    assert calls == ["other"]
    one.release(10)
    assert calls == ["other"]


def test_who_asks_twice_is_called_once_and_may_ask_again() -> None:
    budget = Budget(100)
    assert budget.reserve(100)
    calls: list[int] = []

    def retry() -> None:
        calls.append(budget.reserved)
        if not budget.reserve(30):
            budget.when_freed(retry)

    budget.when_freed(retry)
    budget.when_freed(retry)
    budget.release(20)
    assert calls == [80]
    budget.release(20)
    assert calls == [80, 60]
    assert budget.reserved == 90
    budget.release(90)
    assert calls == [80, 60]


def test_what_is_kept_for_others_is_not_given() -> None:
    everybody = Budget(150)
    one, other = Budget(100, everybody), Budget(100, everybody)
    assert not one.reserve(61, keep=40)
    assert one.reserve(60, keep=40)
    assert not other.reserve(60, keep=40)  # of everybody's too
    assert other.reserve(50, keep=40)
    assert one.reserve(40)
