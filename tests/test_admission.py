"""Every way of being asked, and every answer that is no yes."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Address, Peer
from brokerless.admission import ASKED_AT_ONCE_MAX, NOT_ADMITTED, UNDECIDED, Admission
from tests.witness import Log

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.asyncio

GUEST = Peer(Address(bytes(32)), "guest")
LONG_S = 10.0


def agree(peer: Peer) -> bool:
    return peer is GUEST


async def agree_later(peer: Peer) -> bool:
    await asyncio.sleep(0)
    return peer is GUEST


class Doorkeeper:
    async def __call__(self, peer: Peer) -> bool:
        return await agree_later(peer)


@pytest.mark.parametrize(
    "admit",
    [agree, agree_later, functools.partial(agree), Doorkeeper(), lambda peer: agree_later(peer)],
    ids=["function", "coroutine", "partial", "object", "lambda"],
)
async def test_it_may_be_asked_in_many_ways(admit: Callable[[Peer], Any]) -> None:
    assert await Admission(admit, LONG_S).refusal(GUEST) is None


@pytest.mark.parametrize("answer", [False, None, 1, "", b"yes", [True]])
async def test_only_true_is_a_yes(answer: Any) -> None:
    assert await Admission(lambda peer: answer, LONG_S).refusal(GUEST) == NOT_ADMITTED


async def test_a_text_is_the_reason() -> None:
    assert await Admission(lambda peer: "members only", LONG_S).refusal(GUEST) == "members only"


async def fail_later(peer: Peer) -> bool:
    raise ZeroDivisionError("admit is broken")


def fail(peer: Peer) -> bool:
    raise ZeroDivisionError("admit is broken")


@pytest.mark.parametrize("admit", [fail, fail_later, lambda: True])
async def test_one_that_fails_is_logged_and_a_no(admit: Callable[[Peer], Any]) -> None:
    with Log() as log:
        assert await Admission(admit, LONG_S).refusal(GUEST) == NOT_ADMITTED
    assert log.having(f"admit failed for {GUEST.address.short}")


async def test_one_that_never_answers_is_a_no_in_time() -> None:
    async def ponder(peer: Peer) -> bool:
        await asyncio.Event().wait()
        return True

    assert await Admission(ponder, 0.01).refusal(GUEST) == UNDECIDED


async def test_a_function_that_answers_too_late_is_not_heard_and_holds_up_nobody() -> None:
    released, asked = threading.Event(), []

    def ponder(peer: Peer) -> bool:
        asked.append(threading.current_thread())
        return released.wait(LONG_S) if len(asked) == 1 else True

    admission = Admission(ponder, 0.05)
    try:
        assert await admission.refusal(GUEST) == UNDECIDED
        assert await Admission(ponder, LONG_S).refusal(GUEST) is None
        assert all(thread.daemon for thread in asked)  # the interpreter may exit
    finally:
        released.set()
    asked[0].join(LONG_S)
    await asyncio.sleep(0)  # what it says now is said to nobody


async def test_a_late_answer_to_a_loop_that_is_closed_is_dropped() -> None:
    released, asked = threading.Event(), []

    def ponder(peer: Peer) -> bool:
        asked.append(threading.current_thread())
        return released.wait(LONG_S)

    def run() -> str | None:
        return asyncio.run(Admission(ponder, 0.05).refusal(GUEST))

    assert await asyncio.to_thread(run) == UNDECIDED
    released.set()
    asked[0].join(LONG_S)
    assert not asked[0].is_alive()


async def test_where_the_interpreter_exits_and_allows_no_thread_nobody_is_admitted(
    allow_no_threads: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    allow_no_threads()
    assert await Admission(agree, LONG_S).refusal(GUEST) == "this process is about to exit"
    assert not caplog.records


async def test_only_so_many_are_asked_about_at_once() -> None:
    released, asked = asyncio.Event(), []
    enough = asyncio.Event()

    async def ponder(peer: Peer) -> bool:
        asked.append(peer)
        if len(asked) == ASKED_AT_ONCE_MAX:
            enough.set()
        await released.wait()
        return True

    admission = Admission(ponder, LONG_S)
    questions = [asyncio.create_task(admission.refusal(GUEST)) for _ in range(ASKED_AT_ONCE_MAX + 5)]
    await asyncio.wait_for(enough.wait(), LONG_S)
    assert len(asked) == ASKED_AT_ONCE_MAX
    released.set()
    assert await asyncio.gather(*questions) == [None] * len(questions)
