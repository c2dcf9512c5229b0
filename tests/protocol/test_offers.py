"""How many offers of a peer may wait, and how many it may take back."""

from __future__ import annotations

import random

from brokerless.protocol.offers import WITHDRAWAL_S, WITHDRAWALS_MAX, Offers


def test_as_many_wait_as_there_are_places() -> None:
    offers = Offers(3)
    assert [offers.take(stream_id, 0.0) for stream_id in (2, 4, 6, 8)] == [True, True, True, False]
    assert len(offers) == 3


def test_an_answer_makes_room() -> None:
    offers = Offers(1)
    assert offers.take(2, 0.0)
    assert not offers.take(4, 0.0)
    offers.answered(2)
    offers.answered(2)  # a stream that was accepted ends, too
    assert offers.take(6, 0.0)
    assert not offers.take(8, 0.0)


def test_taking_back_makes_room_so_many_times_a_second() -> None:
    offers = Offers(1)
    for count in range(WITHDRAWALS_MAX):
        assert offers.take(2 * count, 10.0 + count / 10_000)
        offers.withdrawn(2 * count, 10.0 + count / 10_000)
        offers.answered(2 * count)
    assert not offers.take(1, 10.0 + WITHDRAWAL_S - 0.001)
    assert offers.take(3, 10.0 + WITHDRAWAL_S)  # the first is forgotten
    offers.withdrawn(3, 10.0 + WITHDRAWAL_S)
    assert not offers.take(5, 10.0 + WITHDRAWAL_S)
    assert offers.take(7, 10.0 + 2 * WITHDRAWAL_S)


def test_taking_back_what_does_not_wait_costs_nothing() -> None:
    offers = Offers(2)
    assert offers.take(2, 0.0)
    offers.answered(2)
    for _ in range(2 * WITHDRAWALS_MAX):
        offers.withdrawn(2, 0.0)  # taken, and reset later
        offers.withdrawn(4, 0.0)  # turned down
    assert offers.take(6, 0.0)


def test_churn_is_limited_however_it_is_mixed() -> None:
    chance = random.Random(16)
    places, now = 16, 0.0
    offers = Offers(places)
    waiting: list[int] = []
    taken: list[float] = []
    for stream_id in range(2, 20_000, 2):
        now += chance.random() / 5000
        if offers.take(stream_id, now):
            waiting.append(stream_id)
            taken.append(now)
        if waiting and chance.random() < 0.9:
            offers.withdrawn(waiting.pop(chance.randrange(len(waiting))), now)
        assert len(waiting) <= places
    most = max(sum(at <= other < at + WITHDRAWAL_S for other in taken) for at in taken[::100])
    assert WITHDRAWALS_MAX <= most <= WITHDRAWALS_MAX + places
