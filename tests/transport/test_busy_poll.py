"""When a loop stays awake for an answer, and when it goes to sleep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from brokerless.transport.busy_poll import EXCHANGES_MIN, POLL_S, BusyPoll

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LOOK_S = POLL_S / 10
"""How long a turn of the loop takes."""


class Loop:
    """As much of a loop as is polled with, and a clock that moves only by its turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ready: list[Callable[[], Any]] = []
        self.busy_poll = BusyPoll(cast("asyncio.AbstractEventLoop", self), lambda: self.now)

    def call_soon(self, callback: Callable[[], Any]) -> None:
        self._ready.append(callback)

    @property
    def would_sleep(self) -> bool:
        return not self._ready

    def turn(self) -> None:
        self.now += LOOK_S
        ready, self._ready = self._ready, []
        for callback in ready:
            callback()

    def exchange(self, answer_s: float = LOOK_S) -> None:
        """Send, and hear an answer after so long."""
        self.busy_poll.sent()
        until = self.now + answer_s
        while self.now + LOOK_S < until:
            self.turn()
        self.now = until
        self.busy_poll.arrived()
        self.turn()


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_quick_answers_in_a_row_make_it_look_until_the_next_one(loop: Loop) -> None:
    for _ in range(EXCHANGES_MIN):
        loop.busy_poll.sent()
        assert loop.would_sleep
        loop.now += LOOK_S
        loop.busy_poll.arrived()
    for _ in range(3):
        loop.busy_poll.sent()
        for _ in range(5):
            loop.turn()
            assert not loop.would_sleep
        loop.busy_poll.arrived()
        loop.turn()
        assert loop.would_sleep  # nothing is awaited


def test_it_looks_once_however_much_is_sent(loop: Loop) -> None:
    for _ in range(EXCHANGES_MIN):
        loop.exchange()
    loop.busy_poll.sent()
    loop.busy_poll.sent()
    assert len(loop._ready) == 1


def test_an_answer_that_does_not_come_ends_it_until_as_many_have_come_again(loop: Loop) -> None:
    for _ in range(EXCHANGES_MIN):
        loop.exchange()
    loop.busy_poll.sent()
    start = loop.now
    while not loop.would_sleep:
        loop.turn()
    assert POLL_S <= loop.now - start < POLL_S + 2 * LOOK_S
    loop.busy_poll.arrived()  # too late
    for _ in range(EXCHANGES_MIN):
        loop.busy_poll.sent()
        assert loop.would_sleep
        loop.now += LOOK_S
        loop.busy_poll.arrived()
    loop.busy_poll.sent()
    assert not loop.would_sleep


def test_slow_answers_and_one_way_traffic_never_make_it_look(loop: Loop) -> None:
    for _ in range(3 * EXCHANGES_MIN):
        loop.exchange(answer_s=2 * POLL_S)
        assert loop.would_sleep
    for _ in range(3 * EXCHANGES_MIN):
        loop.busy_poll.sent()
        assert loop.would_sleep
    for _ in range(3 * EXCHANGES_MIN):
        loop.busy_poll.arrived()
        assert loop.would_sleep


def test_what_comes_unasked_is_no_answer(loop: Loop) -> None:
    for _ in range(EXCHANGES_MIN - 1):
        loop.exchange()
        loop.busy_poll.arrived()
    loop.busy_poll.sent()
    assert loop.would_sleep


def test_closed_it_ceases_at_once(loop: Loop) -> None:
    for _ in range(EXCHANGES_MIN):
        loop.exchange()
    loop.busy_poll.sent()
    loop.busy_poll.close()
    loop.turn()
    assert loop.would_sleep
