"""Thousands of streams between two peers at once: contract, section 4."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from dittobus.aio import Bus

if TYPE_CHECKING:
    from brokerless import Address
    from dittobus.aio import Stream

pytestmark = pytest.mark.asyncio

COUNT = 2_000


def message(number: int, word: bytes) -> bytes:
    """32 bytes that belong to one stream and direction alone."""
    return hashlib.sha256(b"%d %s" % (number, word)).digest()


async def test_two_thousand_streams_carry_what_is_theirs(mesh: dict[str, Any]) -> None:
    async with Bus("near", **mesh) as near, Bus("far", **mesh) as far:
        await near.wait_for_peer(far.address)
        await far.wait_for_peer(near.address)
        opened, accepted = await asyncio.gather(open_all(near, far.address), accept_all(far))
        assert near.stats().links <= 2  # where both dialled, one of two goes
        assert len({stream.id for stream in opened}) == len({stream.id for stream in accepted}) == COUNT
        theirs = {stream.metadata: stream for stream in accepted}
        await asyncio.gather(
            *(ask(number, stream) for number, stream in enumerate(opened)),
            *(answer(number, theirs[b"%d" % number]) for number in range(COUNT)),
        )


async def open_all(bus: Bus, to: Address) -> list[Stream]:
    """All at once, though far fewer may wait for acceptance."""
    return await asyncio.gather(
        *(bus.open_stream(to, metadata=b"%d" % number, timeout=None) for number in range(COUNT))
    )


async def accept_all(bus: Bus) -> list[Stream]:
    offers = bus.offers()
    return [await (await anext(offers)).accept() for _ in range(COUNT)]


async def ask(number: int, stream: Stream) -> None:
    await stream.send(message(number, b"question"))
    await stream.finish()
    assert [answer async for answer in stream] == [message(number, b"answer")]
    await stream.close(timeout=None)


async def answer(number: int, stream: Stream) -> None:
    await stream.send(message(number, b"answer"))
    await stream.finish()
    assert [question async for question in stream] == [message(number, b"question")]
    await stream.close(timeout=None)
