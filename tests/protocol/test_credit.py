"""Credit: both sides of it alone, and together against a model."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.config import Limits
from brokerless.errors import RemoteProtocolError
from brokerless.protocol.credit import MESSAGE_COST_BYTES, ReceiveWindow, SendCredit
from tests.protocol.two_ends import SMALL, End

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW = SMALL.stream_window_initial_bytes


class Owner:
    """What a window belongs to."""

    def __init__(self, host: End, stream_id: int = 2) -> None:
        self.id = stream_id
        self.window = ReceiveWindow(host, cast("Any", self), WINDOW)
        self.granted: list[int] = []

    def grant_oversized(self) -> bool:
        limit = self.window.grant_oversized()
        if limit is not None:
            self.granted.append(limit)
        return limit is not None


@pytest.fixture
def host() -> End:
    return End(1, 2, SMALL)


@pytest.fixture
def owner(host: End) -> Owner:
    return Owner(host)


# Sending


def test_a_lower_limit_is_an_old_one() -> None:
    credit = SendCredit(1000)
    credit.spend(300)
    credit.raise_to(900)
    assert credit.remaining == 700
    credit.raise_to(1500)
    assert credit.remaining == 1200


def test_a_large_message_is_announced_once() -> None:
    credit = SendCredit(1000)
    credit.spend(900)
    assert credit.announce(501) == 1401
    assert credit.announce(501) is None
    credit.raise_to(1401)
    credit.spend(501)
    assert credit.announce(501) == 1902


def test_up_to_half_a_window_needs_no_announcement() -> None:
    credit = SendCredit(1000)
    credit.spend(900)
    assert credit.announce(500) is None


def test_nothing_is_announced_before_the_other_side_has_spoken() -> None:
    credit = SendCredit(0)
    assert credit.announce(10_000) is None
    credit.raise_to(1000)
    assert credit.announce(500) is None
    assert credit.announce(10_000) == 10_000
    credit.raise_to(10_000)
    credit.spend(10_000)
    assert credit.announce(501) == 10_501, "the first limit is the smallest window"


def test_what_was_announced_and_given_up_is_given_back_once() -> None:
    credit = SendCredit(1000)
    credit.spend(900)
    assert credit.announce(0) is None
    assert credit.announce(600) == 1500
    assert credit.announce(200) == 0, "the next message needs no announcement"
    assert credit.announce(200) is None
    assert credit.announce(600) is None, "before there is an answer"


def test_grants_that_were_under_way_when_credit_was_given_back_count_no_more() -> None:
    credit = SendCredit(1000)
    credit.spend(900)
    credit.announce(600)
    assert credit.announce(0) == 0
    credit.raise_to(1100)
    credit.raise_to(1500)
    assert credit.remaining == 0
    credit.raise_to(0)
    credit.raise_to(1200)
    assert credit.remaining == 300
    assert credit.announce(600) == 1500
    assert credit.announce(0) == 0


def test_what_a_smaller_message_left_of_its_grant_is_given_back() -> None:
    credit = SendCredit(1000)
    assert credit.announce(2000) == 2000
    credit.raise_to(2000)
    credit.spend(1500)
    assert credit.announce(0) == 0


def test_credit_is_given_back_before_more_is_asked_for() -> None:
    """Who held a part of what it needs would keep it from others, who hold the rest."""
    credit = SendCredit(1000)
    assert credit.announce(2000) == 2000
    credit.raise_to(2000)
    credit.spend(100)
    assert credit.announce(3000) == 0
    credit.raise_to(0)
    assert credit.announce(3000) == 3100


def test_credit_may_be_given_back_before_anything_was_sent() -> None:
    credit = SendCredit(1000)
    assert credit.announce(2000) == 2000
    assert credit.announce(0) == 0
    credit.raise_to(0)
    assert credit.announce(900) == 900
    credit.raise_to(4000)
    assert credit.announce(500) == 0, "the first limit still is the smallest window"


def test_what_has_left_needs_no_withdrawal() -> None:
    credit = SendCredit(1000)
    assert credit.announce(2000) == 2000
    credit.raise_to(2100)
    credit.spend(2000)
    assert credit.announce(0) is None
    assert credit.announce(300) is None


# Receiving


def test_more_than_was_granted_is_the_peers_fault(host: End, owner: Owner) -> None:
    owner.window.arrive(WINDOW)
    with pytest.raises(
        RemoteProtocolError, match=rf"stream 2: {WINDOW + 1} bytes sent, {WINDOW} granted"
    ) as caught:
        owner.window.arrive(1)
    assert caught.value.peer == host.remote


def test_a_grant_comes_at_half_a_window(owner: Owner) -> None:
    owner.window.arrive(WINDOW)
    assert owner.window.consume(WINDOW // 2 - 1) is None
    assert owner.window.consume(1) == WINDOW + WINDOW // 2
    assert owner.window.consume(WINDOW // 2 - 1) is None


def test_the_window_doubles_with_consumption_up_to_its_limit(host: End, owner: Owner) -> None:
    window = owner.window
    sizes = []
    for _ in range(40):
        window.arrive(WINDOW // 2)
        window.consume(WINDOW // 2)
        sizes.append(window.window)
    assert (
        sorted(set(sizes))
        == [WINDOW, 2 * WINDOW, 4 * WINDOW]
        == [WINDOW, 2 * WINDOW, SMALL.stream_window_bytes]
    )
    assert sizes == sorted(sizes)
    assert host.reserved == window.window - WINDOW


def test_the_last_growth_goes_up_to_the_limit_only() -> None:
    host = End(1, 2, Limits(stream_window_bytes=3000, stream_window_initial_bytes=2048))
    owner = Owner(host)
    for _ in range(8):
        owner.window.arrive(1024)
        owner.window.consume(1024)
    assert owner.window.window == 3000


def test_the_first_window_is_kept_when_the_budget_is_spent(host: End, owner: Owner) -> None:
    assert host.reserve(SMALL.peer_memory_bytes_max)
    for _ in range(40):
        owner.window.arrive(WINDOW // 2)
        owner.window.consume(WINDOW // 2)
    assert owner.window.window == WINDOW
    assert owner.window.limit - owner.window.consumed == WINDOW


def test_a_blocked_sender_gets_what_the_window_allows_at_once(owner: Owner) -> None:
    window = owner.window
    window.arrive(1000)
    window.consume(500)
    window.blocked(WINDOW + 400)
    assert window.regrant() == WINDOW + 500
    window.arrive(WINDOW - 600)
    window.blocked(window.limit)
    assert window.regrant() is None, "a grant has crossed it"


def test_a_blocked_sender_gets_it_as_soon_as_consumption_allows(owner: Owner) -> None:
    window = owner.window
    window.arrive(600)
    window.blocked(WINDOW + 500)
    assert window.regrant() is None
    assert window.consume(499) is None
    assert window.consume(1) == WINDOW + 500
    assert window.consume(1) is None, "and once only"


def test_a_message_above_the_window_waits_for_its_turn(host: End, owner: Owner) -> None:
    other = Owner(host, 4)
    owner.window.blocked(10_000)
    other.window.blocked(12_000)
    assert owner.window.regrant() is None
    assert other.window.regrant() is None
    assert (owner.granted, other.granted) == ([10_000], [])
    assert host.reserved == 10_000 - WINDOW
    owner.window.arrive(10_000)
    assert other.granted == []
    owner.window.landed()
    assert other.granted == [12_000], "although the first message is not consumed"
    assert host.reserved == 22_000 - 2 * WINDOW
    owner.window.consume(10_000)
    owner.window.stop()
    other.window.stop()
    assert host.reserved == 0


def test_what_landed_before_the_oversized_message_does_not_end_its_turn(host: End, owner: Owner) -> None:
    owner.window.blocked(10_000)
    owner.window.regrant()
    owner.window.arrive(9_000)
    owner.window.landed()
    assert host.turn is cast("Any", owner)


def test_a_grant_for_what_came_before_does_not_end_the_turn(host: End, owner: Owner) -> None:
    owner.window.arrive(1500)
    owner.window.landed()
    owner.window.blocked(10_000)
    owner.window.regrant()
    assert owner.window.consume(1500) == 10_000
    assert host.turn is cast("Any", owner)
    owner.window.arrive(8_500)
    owner.window.landed()
    assert host.turn is None


def test_a_grant_at_half_a_window_may_not_be_what_the_blocked_sender_needs(host: End, owner: Owner) -> None:
    window = owner.window
    window.arrive(WINDOW)
    window.blocked(2 * WINDOW)
    assert window.regrant() is None
    assert window.consume(WINDOW // 2) == WINDOW + WINDOW // 2
    assert not host.oversized
    assert window.consume(WINDOW // 2 - 1) is None
    assert window.consume(1) == 3 * WINDOW


def test_a_growing_window_takes_over_what_was_reserved(host: End, owner: Owner) -> None:
    window = owner.window
    window.arrive(WINDOW)
    window.blocked(WINDOW + 10_000)
    window.regrant()
    assert host.reserved == 10_000
    assert window.consume(WINDOW) == WINDOW + 10_000
    assert window.window == 2 * WINDOW
    assert host.reserved == 10_000 - WINDOW, "which holds the message that is under way, as before"


def test_reserved_memory_shrinks_with_consumption(host: End, owner: Owner) -> None:
    window = owner.window
    window.arrive(2000)
    window.blocked(12_000)
    window.regrant()
    assert host.reserved == 12_000 - WINDOW
    window.consume(1500)
    assert host.reserved == 12_000 - 1500 - WINDOW
    window.arrive(10_000)
    window.landed()
    window.consume(10_500)
    assert host.reserved == window.window - WINDOW


def test_without_budget_the_turn_comes_when_memory_is_released(host: End, owner: Owner) -> None:
    assert host.reserve(SMALL.peer_memory_bytes_max - 1000)
    owner.window.blocked(10_000)
    assert owner.window.regrant() is None
    assert owner.granted == []
    host.release(10_000)
    assert owner.granted == [10_000]


def test_a_turn_is_given_up_when_the_window_comes_to_suffice(host: End, owner: Owner) -> None:
    window = owner.window
    window.arrive(WINDOW)
    window.blocked(WINDOW + 3000)
    assert host.reserve(SMALL.peer_memory_bytes_max - WINDOW)  # enough for a growth, not for the message
    assert window.regrant() is None
    assert len(host.oversized) == 1
    assert window.consume(WINDOW) == 3 * WINDOW  # the window has doubled
    assert not host.oversized


def test_what_is_given_back_is_taken_back(host: End, owner: Owner) -> None:
    window = owner.window
    window.arrive(1000)
    window.blocked(10_000)
    window.regrant()
    assert host.reserved == 10_000 - WINDOW
    assert window.take_back() == WINDOW
    assert (host.reserved, host.turn) == (0, None)
    with pytest.raises(RemoteProtocolError):
        window.arrive(WINDOW + 1 - 1000)
    window.blocked(9_000)
    window.regrant()
    assert owner.granted == [10_000, 9_000]


def test_what_has_come_of_it_stays_granted(host: End, owner: Owner) -> None:
    window = owner.window
    window.blocked(10_000)
    window.regrant()
    window.arrive(4_000)
    assert window.take_back() == 4_000
    assert host.reserved == 4_000 - WINDOW
    assert window.consume(4_000) == 4_000 + window.window
    assert host.reserved == window.window - WINDOW


def test_what_the_window_sufficed_for_is_given_back_too(host: End, owner: Owner) -> None:
    window = owner.window
    window.arrive(100)
    window.consume(100)
    window.blocked(WINDOW + 100)
    assert window.regrant() == WINDOW + 100
    assert window.take_back() == WINDOW + 100  # no less than a window
    assert host.reserved == 0


def test_what_still_lies_unconsumed_stays_reserved(host: End, owner: Owner) -> None:
    window = owner.window
    window.blocked(10_000)
    window.regrant()
    window.arrive(10_000)
    window.landed()
    assert host.reserve(SMALL.peer_memory_bytes_max - host.reserved)
    window.blocked(20_000)
    window.regrant()
    assert window.take_back() == 10_000
    assert host.reserved == SMALL.peer_memory_bytes_max


def test_nothing_is_given_back_that_was_not_asked_for(owner: Owner) -> None:
    with pytest.raises(RemoteProtocolError, match="stream 2: gives back nothing"):
        owner.window.take_back()
    owner.window.blocked(WINDOW)
    owner.window.arrive(WINDOW)
    with pytest.raises(RemoteProtocolError, match="gives back nothing"):
        owner.window.take_back()


def test_a_place_in_the_queue_is_given_up_with_the_message(host: End, owner: Owner) -> None:
    assert host.reserve(SMALL.peer_memory_bytes_max)
    owner.window.blocked(10_000)
    owner.window.regrant()
    assert len(host.oversized) == 1
    assert owner.window.take_back() == WINDOW
    assert not host.oversized


def test_a_message_that_needs_less_after_consumption_is_tried_again(host: End, owner: Owner) -> None:
    """Although nothing was given back to the budget."""
    owner.window.arrive(100)
    assert host.reserve(SMALL.peer_memory_bytes_max - (10_000 - WINDOW))
    owner.window.blocked(10_100)
    assert owner.window.regrant() is None
    assert owner.granted == []
    owner.window.consume(100)
    assert owner.granted == [10_100]


def test_nobody_needs_more_than_one_message_above_the_limit(owner: Owner) -> None:
    most = WINDOW + SMALL.message_bytes_max + MESSAGE_COST_BYTES
    owner.window.blocked(most)
    with pytest.raises(RemoteProtocolError, match=f"stream 2: blocked at {WINDOW}, asks for {most + 1}"):
        owner.window.blocked(most + 1)


@pytest.mark.parametrize("has_turn", [True, False])
def test_nobody_asks_for_another_before_the_last_was_used_or_given_back(
    host: End, owner: Owner, has_turn: bool
) -> None:
    if not has_turn:
        assert host.reserve(SMALL.peer_memory_bytes_max)
    owner.window.blocked(10_000)
    owner.window.regrant()
    with pytest.raises(RemoteProtocolError, match="asks for 11000"):
        owner.window.blocked(11_000)
    owner.window.take_back()
    owner.window.blocked(11_000)


def test_what_has_stopped_gives_everything_back_and_grants_no_more(host: End, owner: Owner) -> None:
    window = owner.window
    for _ in range(4):
        window.arrive(WINDOW // 2)
        window.consume(WINDOW // 2)
    assert host.reserved > 0
    window.blocked(window.limit + 10_000)
    window.regrant()
    window.stop()
    assert (host.reserved, host.turn) == (0, None)
    window.stop()
    window.arrive(window.limit - window.arrived)  # within the last limit, things may still come
    window.blocked(window.limit + 100)
    assert window.regrant() is None
    assert window.consume(window.arrived) is None
    assert host.reserved == 0


def test_what_has_stopped_leaves_the_queue(host: End, owner: Owner) -> None:
    assert host.reserve(SMALL.peer_memory_bytes_max)
    owner.window.blocked(10_000)
    owner.window.regrant()
    owner.window.stop()
    assert not host.oversized


# Together


COSTS = st.integers(MESSAGE_COST_BYTES, 12_000) | st.integers(MESSAGE_COST_BYTES, 300)
STEPS = st.lists(st.sampled_from("send consume grant blocked".split()) | COSTS, max_size=150)


@given(STEPS, st.integers(0, SMALL.peer_memory_bytes_max - 12_000))
def test_credit_is_conserved_and_never_stuck(steps: list[str | int], spent: int) -> None:
    host, credit = End(1, 2, SMALL), SendCredit(WINDOW)
    owner = Owner(host)
    if spent:
        host.reserve(spent)
    window = owner.window
    queue: deque[int] = deque()
    unconsumed: deque[int] = deque()
    announced: deque[int] = deque()

    def note(limit: int | None) -> None:
        if limit is not None:
            owner.granted.append(limit)

    def act(step: str | int) -> bool:
        if isinstance(step, int):
            queue.append(step)
        elif step == "send" and queue and queue[0] <= credit.remaining:
            credit.spend(queue[0])
            window.arrive(queue[0])
            window.landed()
            unconsumed.append(queue.popleft())
        elif step == "send" and queue and (limit := credit.announce(queue[0])) is not None:
            announced.append(limit)
        elif step == "blocked" and announced:
            window.blocked(announced.popleft())
            note(window.regrant())
        elif step == "consume" and unconsumed:
            note(window.consume(unconsumed.popleft()))
        elif step == "grant" and owner.granted:
            credit.raise_to(owner.granted.pop(0))
        else:
            return False
        held = sum(unconsumed)
        assert held <= WINDOW + host.reserved - spent
        assert window.limit - window.consumed <= WINDOW + host.reserved - spent
        return True

    def everything() -> Iterator[bool]:
        yield from (act(step) for step in ("send", "blocked", "consume", "grant"))

    for step in steps:
        act(step)
    while any(list(everything())):
        pass
    assert not queue
    assert not unconsumed
    window.stop()
    assert host.reserved == spent
    assert host.turn is None
