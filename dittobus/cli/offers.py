"""What peers offer to a command; those who ask for its statistics have them told meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from dittobus import BusError, statistics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dittobus import DittoAddress
    from dittobus.aio import Bus, Offer, Stream


async def other_offers(bus: Bus) -> AsyncIterator[Offer]:
    """Iterate over what peers offer, but for streams that ask for statistics, which are answered."""
    answer = statistics.answers(bus)
    answering: set[asyncio.Task[None]] = set()
    try:
        async for offer in bus.offers():
            if offer.name != statistics.STREAM:
                yield offer
                continue
            task = asyncio.create_task(_taken(offer, answer))
            answering.add(task)
            task.add_done_callback(answering.discard)
    finally:
        for task in answering:
            task.cancel()


async def refuse(offered: AsyncIterator[Offer], reason: str) -> None:
    """Reject all that is offered, until cancelled."""
    async for offer in offered:
        await offer.reject(reason=reason)


async def _taken(offer: Offer, answer: Callable[[Stream, DittoAddress], Awaitable[None]]) -> None:
    with suppress(BusError):  # who asked may have given up meanwhile
        await answer(await offer.accept(), offer.peer)
