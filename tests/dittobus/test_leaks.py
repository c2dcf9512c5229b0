"""What has been opened and closed a thousand times has left nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import BusError, PeerLeft
from brokerless.protocol.budget import Budget
from dittobus import DittoBus, DittoBusDelegate, DittoBusStreamDelegate, aio, blocking
from tests.census import SPARE, census, grown
from tests.soak import amount

if TYPE_CHECKING:
    from collections import Counter

    from dittobus import DittoBusStream

WAIT_S = 30.0

STREAMS = amount(1_000, 100_000)
VISITS = amount(10, 1_000)
BATCH = 20
"""Streams at a time."""

WARM_UP = 2 * BATCH
"""Of what is made once, and kept, all is there after these."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(amount(180, 7_200))]


def settles(before: Counter[str]) -> None:
    """Wait until there is no more than before; other threads may have something to finish."""
    deadline = time.monotonic() + WAIT_S
    while more := grown(before):
        assert time.monotonic() < deadline, f"more than before: {more}"


async def settles_meanwhile(before: Counter[str]) -> None:
    """The same, while the loop of this thread goes on."""
    deadline = time.monotonic() + WAIT_S
    while more := grown(before):
        assert time.monotonic() < deadline, f"more than before: {more}"
        await asyncio.sleep(0.01)


def test_a_leak_would_be_seen() -> None:
    before = census()
    kept = [Budget(1) for _ in range(SPARE + 1)]
    assert grown(before) == {"Budget": len(kept)}


class Answering(DittoBusStreamDelegate):
    """Closes when the other end has."""

    def stream_did_finish_receiving(self, stream: DittoBusStream) -> None:
        stream.close()


class Accepting(DittoBusDelegate):
    def bus_did_receive_incoming_stream(self, bus: DittoBus, stream: DittoBusStream, peer: Any) -> None:
        stream.delegate = Answering()


class Ending(DittoBusStreamDelegate):
    """Says when its stream is over."""

    def __init__(self) -> None:
        self.ended: list[DittoBusStream] = []

    def stream_did_close(self, stream: DittoBusStream, error: Any) -> None:
        self.ended.append(stream)


def test_delegate_streams(mesh: dict[str, Any]) -> None:
    with DittoBus("near", **mesh) as near, DittoBus("far", delegate=Accepting(), **mesh) as far:
        peer = near.wait_for_peer("far").result(WAIT_S)
        far.wait_for_peer("near").result(WAIT_S)

        def play(count: int) -> None:
            for _ in range(count // BATCH):
                ending = Ending()
                for opening in [near.open_stream(peer) for _ in range(BATCH)]:
                    stream = opening.result(WAIT_S)
                    stream.delegate = ending
                    stream.enqueue_message(b"there")
                    stream.close()
                deadline = time.monotonic() + WAIT_S
                while len(ending.ended) < BATCH:
                    assert time.monotonic() < deadline
                    time.sleep(0.001)

        play(WARM_UP)
        before = census()
        play(STREAMS)
        settles(before)


@pytest.mark.asyncio
async def test_asyncio_streams(mesh: dict[str, Any]) -> None:
    async def answer(stream: aio.Stream, peer: Any) -> None:
        with contextlib.suppress(BusError):  # as the asker ends it in one way or another
            async for message in stream:
                await stream.send(message)
            await stream.close()

    async with aio.Bus("near", **mesh) as near, aio.Bus("far", **mesh) as far:
        far.on_stream("", answer)
        peer = await near.wait_for_peer("far")
        await far.wait_for_peer("near")

        async def ask(number: int) -> None:
            async with await near.open_stream(peer) as stream:
                await stream.send(b"there")
                if number % 4 == 1:
                    stream.abort()
                elif number % 4 == 2:
                    await stream.finish()
                    assert [message async for message in stream] == [b"there"]

        async def play(count: int) -> None:
            for _ in range(count // BATCH):
                await asyncio.gather(*map(ask, range(BATCH)))

        await play(WARM_UP)
        before = census()
        await play(STREAMS)
        await settles_meanwhile(before)


def test_blocking_streams(mesh: dict[str, Any]) -> None:
    def answer(stream: blocking.Stream, peer: Any) -> None:
        for message in stream:
            stream.send(message)
        stream.close()

    with blocking.Bus("near", **mesh) as near, blocking.Bus("far", **mesh) as far:
        far.on_stream("", answer)
        peer = near.wait_for_peer("far")
        far.wait_for_peer("near")

        def play(count: int) -> None:
            for _ in range(count):
                with near.open_stream(peer) as stream:
                    stream.send(b"there")
                    stream.finish()
                    assert list(stream) == [b"there"]

        play(WARM_UP)
        before = census()
        play(STREAMS)
        settles(before)


@pytest.mark.parametrize("kind", [DittoBus, blocking.Bus])
def test_buses_that_come_and_go(mesh: dict[str, Any], kind: Any) -> None:
    with blocking.Bus("host", **mesh) as host:

        def visit(count: int) -> None:
            for number in range(count):
                changes = host.peer_changes()
                with kind(f"guest {number}", **mesh) as guest:
                    host.wait_for_peer(guest.address)
                while not isinstance(next(changes), PeerLeft):
                    pass

        visit(2)
        before = census()
        visit(VISITS)
        settles(before)


@pytest.mark.asyncio
async def test_asyncio_buses_that_come_and_go(mesh: dict[str, Any]) -> None:
    async with aio.Bus("host", **mesh) as host:

        async def visit(count: int) -> None:
            for number in range(count):
                changes = host.peer_changes()
                async with aio.Bus(f"guest {number}", **mesh) as guest:
                    await host.wait_for_peer(guest.address)
                while not isinstance(await anext(changes), PeerLeft):
                    pass

        await visit(2)
        before = census()
        await visit(VISITS)
        await settles_meanwhile(before)
