"""Deadlines of one length."""

from __future__ import annotations

import asyncio

import pytest

from brokerless.transport.deadlines import Deadlines
from tests.transport.support import PATIENCE_S, collect_failures

pytestmark = pytest.mark.asyncio

SHORT_S = 0.02


class Expired:
    def __init__(self, allowed_s: float = SHORT_S) -> None:
        self.keys: asyncio.Queue[str] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.deadlines: Deadlines[str] = Deadlines(self.loop, allowed_s, self.keys.put_nowait)

    async def next(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return await self.keys.get()


async def test_they_end_in_the_order_in_which_they_began_and_not_before_time() -> None:
    expired, begun = Expired(), asyncio.get_running_loop().time()
    for key in "abc":
        expired.deadlines.set(key)
    expired.deadlines.set("a")  # anew
    assert expired.deadlines.oldest() == "b"
    assert [await expired.next() for _ in range(3)] == ["b", "c", "a"]
    assert expired.loop.time() >= begun + SHORT_S
    assert len(expired.deadlines) == 0


async def test_what_was_lifted_does_not_end() -> None:
    expired = Expired()
    for key in "abc":
        expired.deadlines.set(key)
    expired.deadlines.lift("a")
    expired.deadlines.lift("c")
    expired.deadlines.lift("unknown")
    expired.deadlines.set("last")
    assert [await expired.next(), await expired.next()] == ["b", "last"]
    assert expired.keys.empty()


async def test_one_set_while_another_ends_gets_its_own_time() -> None:
    expired = Expired()
    began_again: list[float] = []

    def set_again(key: str) -> None:
        began_again.append(expired.loop.time())
        if len(began_again) == 1:
            expired.deadlines.set(key)
        expired.keys.put_nowait(key)

    expired.deadlines = Deadlines(expired.loop, SHORT_S, set_again)
    expired.deadlines.set("a")
    assert [await expired.next(), await expired.next()] == ["a", "a"]
    assert began_again[1] - began_again[0] >= SHORT_S * 0.9  # the loop's clock is coarse


async def test_an_exception_does_not_stop_the_others() -> None:
    failures: list[BaseException] = []
    collect_failures(failures)
    expired = Expired()

    def expire(key: str) -> None:
        if key == "a":
            raise ValueError(key)
        expired.keys.put_nowait(key)

    expired.deadlines = Deadlines(expired.loop, SHORT_S, expire)
    for key in "ab":
        expired.deadlines.set(key)
    assert await expired.next() == "b"
    assert len(failures) == 1


async def test_nothing_ends_after_close() -> None:
    closed, other = Expired(), Expired()
    closed.deadlines.set("a")
    closed.deadlines.close()
    other.deadlines.set("b")
    assert await other.next() == "b"
    assert closed.keys.empty()
