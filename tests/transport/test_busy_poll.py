"""When a loop stays awake for an answer, and when it goes to sleep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from brokerless.transport.busy_poll import PAUSE_MAX, PAUSE_MIN, POLL_S, TRIES, BusyPoll

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


def answers_asleep(loop: Loop) -> int:
    """Count the answers that are awaited asleep before the next try, which is in vain like the others."""
    count = 0
    while True:
        loop.busy_poll.sent()
        if not loop.would_sleep:
            break
        loop.now += 2 * POLL_S
        loop.busy_poll.arrived()
        count += 1
    sleep_after_all(loop)
    for _ in range(TRIES - 1):
        loop.busy_poll.sent()
        sleep_after_all(loop)
    return count


def sleep_after_all(loop: Loop) -> None:
    """Let a try find nothing."""
    start = loop.now
    assert not loop.would_sleep
    while not loop.would_sleep:
        loop.turn()
    assert POLL_S <= loop.now - start < POLL_S + 2 * LOOK_S


def test_after_some_answers_it_looks_until_the_next_one(loop: Loop) -> None:
    for _ in range(PAUSE_MIN):
        loop.busy_poll.sent()
        assert loop.would_sleep
        loop.now += 2 * POLL_S  # beside bulk no answer is quick before somebody is awake
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
    for _ in range(PAUSE_MIN):
        loop.exchange()
    loop.busy_poll.sent()
    loop.busy_poll.sent()
    assert len(loop._ready) == 1


def test_where_answers_are_never_quick_the_pauses_grow_to_a_bound(loop: Loop) -> None:
    assert answers_asleep(loop) == PAUSE_MIN
    pauses = [answers_asleep(loop) for _ in range(7)]
    assert pauses[:3] == [PAUSE_MIN, 2 * PAUSE_MIN, 4 * PAUSE_MIN]
    assert pauses[-2:] == [PAUSE_MAX, PAUSE_MAX]


def test_a_quick_answer_makes_the_next_pause_short_again(loop: Loop) -> None:
    while answers_asleep(loop) < PAUSE_MAX:
        pass
    for _ in range(PAUSE_MAX):
        loop.exchange()
    loop.exchange()
    for _ in range(TRIES):
        loop.busy_poll.sent()
        sleep_after_all(loop)
    assert answers_asleep(loop) == PAUSE_MIN


def test_one_answer_that_does_not_come_quickly_does_not_end_it(loop: Loop) -> None:
    for _ in range(PAUSE_MIN + 1):
        loop.exchange()
    for _ in range(3):
        for _ in range(TRIES - 1):
            loop.busy_poll.sent()
            sleep_after_all(loop)
            loop.busy_poll.arrived()  # too late
        loop.exchange()


def test_an_answer_that_is_seen_too_late_was_a_try_in_vain(loop: Loop) -> None:
    for _ in range(PAUSE_MIN + 1):
        loop.exchange()
    for _ in range(TRIES):
        loop.busy_poll.sent()
        loop.now += 2 * POLL_S  # others had the processor
        loop.busy_poll.arrived()
        loop.turn()
    loop.busy_poll.sent()
    assert loop.would_sleep


def test_who_sends_without_end_falls_asleep(loop: Loop) -> None:
    for _ in range(PAUSE_MIN):
        loop.exchange()
    start = loop.now
    while loop.now - start < (TRIES + 1) * POLL_S:
        loop.busy_poll.sent()
        loop.turn()
    loop.busy_poll.sent()
    assert loop.would_sleep


def test_who_only_sends_or_only_receives_never_looks(loop: Loop) -> None:
    for _ in range(3 * PAUSE_MIN):
        loop.busy_poll.sent()
        assert loop.would_sleep
    for _ in range(3 * PAUSE_MIN):
        loop.busy_poll.arrived()
        assert loop.would_sleep


def test_what_comes_unasked_is_no_answer(loop: Loop) -> None:
    for _ in range(PAUSE_MIN - 1):
        loop.exchange()
        loop.busy_poll.arrived()
    loop.busy_poll.sent()
    assert loop.would_sleep


def test_closed_it_ceases_at_once(loop: Loop) -> None:
    for _ in range(PAUSE_MIN):
        loop.exchange()
    loop.busy_poll.sent()
    loop.busy_poll.close()
    loop.turn()
    assert loop.would_sleep
