"""Credit of several streams of one peer, against an account in which nothing is lost.

Data and BLOCKED travel one way in order, grants the other way; the machine delays them, and has old grants
come again. Receivers share one budget, and take turns where a message is larger than its window. Senders give
up what waits, and give back what they were granted for it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from brokerless.errors import RemoteProtocolError
from brokerless.protocol.credit import ReceiveWindow, SendCredit
from tests.machines import as_test
from tests.protocol.two_ends import SMALL, End

if TYPE_CHECKING:
    from brokerless.protocol.stream_host import Lane

WINDOW = SMALL.stream_window_initial_bytes
COST = 64
MOST = SMALL.message_bytes_max + COST
LANES = 3
COSTS = st.integers(COST, 300) | st.integers(COST, WINDOW) | st.integers(WINDOW, MOST)
WHICH = st.integers(0, LANES - 1)


class Host(End):
    """Keeps room for the largest message: windows, which are not given back, may not grow into it."""

    is_granting = False

    def reserve(self, byte_count: int) -> bool:
        keep = 0 if self.is_granting else self.limits.message_bytes_max
        return self.reserved + byte_count + keep <= self.limits.peer_memory_bytes_max and super().reserve(
            byte_count
        )

    def take_turns(self) -> None:
        self.is_granting = True
        super().take_turns()
        self.is_granting = False


class Account:
    """One stream: both ends of its credit, and what is under way between them."""

    def __init__(self, host: Host, number: int) -> None:
        self.id = number
        self.host = host
        self.credit = SendCredit(WINDOW)
        self.window = ReceiveWindow(host, cast("Lane", self), WINDOW)
        self.waiting: deque[int] = deque()
        self.under_way: deque[tuple[str, int]] = deque()
        self.unconsumed: deque[int] = deque()
        self.grants: list[int] = []
        """All that were ever sent; ``heard`` of them have arrived, and those from ``valid_from`` on count."""
        self.heard = self.valid_from = 0
        self.limit = self.granted = WINDOW
        """What the sender knows of, and what the receiver has said."""
        self.sent = self.arrived = self.consumed = 0
        self.consumed_at_grant = 0
        self.asked = 0
        """The limit that the sender asked for last."""
        self.gives_back = False
        self.is_stopped = False

    def grant_oversized(self) -> bool:
        """Called by the host when it is this stream's turn."""
        limit = self.window.grant_oversized()
        self.note(limit)
        return limit is not None

    def note(self, limit: int | None) -> None:
        if limit is not None:
            assert not self.is_stopped
            self.grants.append(limit)  # one below an earlier one does no harm
            self.granted = max(limit, self.granted)
            self.consumed_at_grant = self.consumed

    # The sender

    def send(self) -> bool:
        """Send what is first, or say what it needs; return whether anything moved."""
        cost = self.waiting[0] if self.waiting else 0
        if 0 < cost <= self.limit - self.sent:
            self.credit.spend(self.waiting.popleft())
            self.sent += cost
            self.under_way.append(("data", cost))
            return True
        said = self.say(cost)
        assert self.credit.announce(cost) == said
        if said is not None:
            self.under_way.append(("blocked", said))
        return said is not None

    def say(self, cost: int) -> int | None:
        """A large message says what it needs, once. Others do not: enough is granted in time. But before
        anything else, what was said for one that was given up is given back."""
        needed = self.sent + cost if cost > WINDOW // 2 else None
        if self.gives_back or needed == self.asked:
            return None
        if self.asked > self.sent:
            self.gives_back = True
            self.limit = self.sent
            self.asked = 0
            return 0
        if needed is not None:
            self.asked = needed
        return needed

    # The receiver

    def arrive(self) -> bool:
        if not self.under_way:
            return False
        what, number = self.under_way.popleft()
        if what == "data":
            self.window.arrive(number)
            self.window.landed()
            self.arrived += number
            if self.is_stopped:
                self.consumed += number
            else:
                self.unconsumed.append(number)
        elif number:
            self.window.blocked(number)
            self.note(self.window.regrant())
        elif not self.is_stopped:
            self.note(0)
            self.granted = self.arrived
            self.note(self.window.take_back())
            assert self.granted == max(self.arrived, self.consumed + self.window.window)
        return True

    def consume(self) -> bool:
        if not self.unconsumed:
            return False
        cost = self.unconsumed.popleft()
        self.consumed += cost
        limit = self.window.consume(cost)
        self.note(limit)
        since = self.consumed - self.consumed_at_grant
        assert since < max(WINDOW, self.window.window) / 2, "half a window was consumed, and nothing granted"
        return True

    def hear(self, index: int) -> bool:
        """Take a grant: the next, or an old one once more."""
        if index >= len(self.grants):
            return False
        limit = self.grants[index]
        self.credit.raise_to(limit)
        if not self.gives_back:
            self.limit = max(limit, self.limit)
        elif limit == 0:
            self.gives_back = False
            self.valid_from = index + 1
        self.heard = max(self.heard, index + 1)
        return True

    def hear_next(self) -> bool:
        return self.hear(self.heard)

    def stop(self) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            self.window.stop()
            self.consumed += sum(self.unconsumed)
            self.unconsumed.clear()


class CreditAtLarge(RuleBasedStateMachine):
    @initialize(largest=st.sampled_from([1, 2, None]))
    def begin(self, largest: int | None) -> None:
        """With room for so many of the largest messages, or for all there can be."""
        spent = 0 if largest is None else SMALL.peer_memory_bytes_max - largest * (MOST - WINDOW)
        self.host, self.spent = Host(1, 2, SMALL), spent
        self.host.reserved = spent
        self.accounts = [Account(self.host, 2 * number) for number in range(1, LANES + 1)]

    @rule(which=WHICH, costs=st.lists(COSTS, min_size=1, max_size=4))
    def give(self, which: int, costs: list[int]) -> None:
        self.accounts[which].waiting += costs

    @rule(which=WHICH, count=st.integers(1, 5))
    def send(self, which: int, count: int) -> None:
        for _ in range(count):
            self.accounts[which].send()

    @rule(which=WHICH, costs=st.lists(st.integers(COST, WINDOW), min_size=1, max_size=6))
    def flow(self, which: int, costs: list[int]) -> None:
        """Messages that go through at once, and the grants that come of them."""
        account = self.accounts[which]
        account.waiting += costs
        for _ in costs:
            for step in (account.send, account.arrive, account.consume):
                step()
        account.hear_next()

    @rule(which=WHICH)
    def give_up(self, which: int) -> None:
        """The sender drops what waits, and another is first then; single messages run out of time."""
        account = self.accounts[which]
        if account.waiting:
            account.waiting.popleft()
            account.send()

    @rule(which=WHICH, count=st.integers(1, 5))
    def arrive(self, which: int, count: int) -> None:
        for _ in range(count):
            self.accounts[which].arrive()

    @rule(which=WHICH, count=st.integers(1, 5))
    def consume(self, which: int, count: int) -> None:
        for _ in range(count):
            self.accounts[which].consume()

    @rule(which=WHICH, count=st.integers(1, 3))
    def hear(self, which: int, count: int) -> None:
        for _ in range(count):
            self.accounts[which].hear_next()

    @rule(which=WHICH, index=st.integers(0, 100))
    def hear_again(self, which: int, index: int) -> None:
        account = self.accounts[which]
        if account.heard > account.valid_from:
            account.hear(account.valid_from + index % (account.heard - account.valid_from))

    @rule(which=WHICH, really=st.sampled_from([False] * 9 + [True]))
    def stop(self, which: int, really: bool) -> None:
        if really:
            self.accounts[which].stop()

    @rule(which=WHICH, really=st.sampled_from([False] * 9 + [True]))
    def overrun(self, which: int, really: bool) -> None:
        """A peer that sends a byte more than it may is found out, and nothing is taken in."""
        account = self.accounts[which]
        if really:
            with pytest.raises(RemoteProtocolError):
                account.window.arrive(account.granted - account.arrived + 1)
            with pytest.raises(RemoteProtocolError):
                account.window.blocked(account.granted + MOST + 1)

    @invariant()
    def nothing_is_lost_and_nothing_is_made(self) -> None:
        if not hasattr(self, "accounts"):
            return
        reserved = 0
        for account in self.accounts:
            window = account.window
            under_way = sum(cost for what, cost in account.under_way if what == "data")
            assert account.sent == account.arrived + under_way
            assert account.sent <= account.credit.limit <= account.granted
            assert account.credit.limit == account.limit
            assert (window.limit, window.arrived) == (account.granted, account.arrived)
            assert sum(account.unconsumed) == account.arrived - account.consumed
            if not account.is_stopped:
                # All that may come or lies here is covered by the window or by what was set aside for it.
                reserved += max(account.granted - account.consumed, window.window) - WINDOW
        assert self.host.reserved - self.spent == reserved

    def teardown(self) -> None:
        """Nobody is stuck: with everything delivered and consumed, all goes out."""
        if not hasattr(self, "accounts"):
            return
        moved = True
        while moved:
            moved = False
            for account in self.accounts:
                for step in (account.send, account.arrive, account.consume, account.hear_next):
                    moved = step() or moved
        self.nothing_is_lost_and_nothing_is_made()
        for account in self.accounts:
            assert account.is_stopped or not (account.waiting or account.unconsumed)
            account.stop()
        assert self.host.reserved == self.spent
        assert (self.host.turn, len(self.host.oversized)) == (None, 0)


TestCreditAtLarge = as_test(CreditAtLarge)
