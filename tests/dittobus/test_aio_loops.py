"""A bus of asyncio, and what is its, in a loop that it does not belong to."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from dittobus import UsageError
from dittobus.aio import Bus, Offer, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from dittobus import DittoAddress

BUS_CALLS: dict[str, Callable[[Bus, DittoAddress], Any]] = {
    "close": lambda bus, _: bus.close(),
    "wait_for_peer": lambda bus, _: bus.wait_for_peer("far"),
    "wait_for_peers": lambda bus, _: bus.wait_for_peers(1),
    "peer_changes": lambda bus, _: bus.peer_changes(),
    "send": lambda bus, peer: bus.send(b"", peer),
    "messages": lambda bus, _: bus.messages(),
    "open_stream": lambda bus, peer: bus.open_stream(peer),
    "offers": lambda bus, _: bus.offers(),
    "on_stream": lambda bus, _: bus.on_stream("name", print),
}

QUERIES: dict[str, Callable[[Bus, DittoAddress], Any]] = {
    "ticket": lambda bus, _: bus.ticket(),
    "child_environment": lambda bus, _: bus.child_environment(),
    "peers": lambda bus, _: bus.peers,
    "peer": lambda bus, peer: bus.peer(peer),
    "stats": lambda bus, _: bus.stats(),
    "peer_stats": lambda bus, peer: bus.peer_stats(peer),
    "name": lambda bus, _: setattr(bus, "name", "other"),
}

STREAM_CALLS: dict[str, Callable[[Stream], Any]] = {
    "receive": lambda stream: stream.receive(),
    "iterate": lambda stream: anext(stream),
    "wait_acknowledged": lambda stream: stream.wait_acknowledged(),
    "finish": lambda stream: stream.finish(),
    "close": lambda stream: stream.close(),
    "wait_closed": lambda stream: stream.wait_closed(),
    "abort": lambda stream: stream.abort(),
}


ITERATIONS: dict[str, Callable[..., Any]] = {
    "offers": lambda offers, _: anext(offers),
    "messages": lambda _, messages: anext(messages),
}


async def refused(calls: dict[str, Callable[..., Any]], *arguments: Any) -> list[str]:
    """Return which of these calls say that they are made in another loop."""
    names = []
    for name, call in calls.items():
        try:
            result = call(*arguments)
            if inspect.isawaitable(result):
                await result
        except UsageError as error:
            names += [name] if "belongs to another event loop" in str(error) else []
    return names


@pytest.mark.asyncio
@pytest.mark.parametrize("io_thread", [False, True])
async def test_a_loop_in_another_thread_is_refused(aio_pair: tuple[Bus, Bus], io_thread: bool) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address))
    offer = await anext(far.offers())

    def elsewhere(calls: dict[str, Callable[..., Any]], *arguments: Any) -> list[str]:
        return asyncio.run(refused(calls, *arguments))

    assert await asyncio.to_thread(elsewhere, BUS_CALLS, near, far.address) == [*BUS_CALLS]
    assert await asyncio.to_thread(elsewhere, ITERATIONS, near.offers(), near.messages()) == [*ITERATIONS]
    answers: dict[str, Callable[[Offer], Any]] = {
        "accept": lambda offer: offer.accept(),
        "reject": lambda offer: offer.reject(),
    }
    assert await asyncio.to_thread(elsewhere, answers, offer) == [*answers]
    async with await offer.accept(), await opening as stream:
        assert await asyncio.to_thread(elsewhere, STREAM_CALLS, stream) == [*STREAM_CALLS]
    # A thread of the network's own answers everybody.
    expected = [] if io_thread else [*QUERIES]
    assert await asyncio.to_thread(elsewhere, QUERIES, near, far.address) == expected
    await near.send(b"here", far.address)


def test_a_loop_after_that_of_the_bus_is_refused(mesh: dict[str, Any]) -> None:
    with asyncio.Runner() as runner:
        bus = Bus("bus", **mesh)
        runner.run(bus.start())
        changes = bus.peer_changes()
        assert asyncio.run(refused({"changes": anext}, changes)) == ["changes"]
        assert asyncio.run(refused(BUS_CALLS, bus, bus.address)) == [*BUS_CALLS]
        assert asyncio.run(refused(QUERIES, bus, bus.address)) == [*QUERIES]
        bus.name = "other"  # nothing waits here, where no loop runs
        assert bus.peers == ()
        assert runner.run(bus.close())
    assert asyncio.run(bus.close()), "twice is harmless, anywhere"
