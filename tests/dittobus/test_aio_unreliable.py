"""What may be lost, in asyncio, with the node in the loop and in a thread of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from brokerless import (
    DatagramPath,
    DropCause,
    EndOfStream,
    Limits,
    MessageTooLarge,
    NoPath,
    Reliability,
    SendQueueFull,
    StreamFinished,
    StreamReset,
    UnknownPeer,
    UsageError,
)
from brokerless.protocol.datagrams import Datagrams
from dittobus._aio_exchange import TRANSMISSIONS_IN_ROW
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dittobus.aio import Bus, Stream

    MakeBus = Callable[..., Awaitable[Bus]]
    Pair = tuple[Bus, Bus]
    Ends = tuple[Stream, Stream]

pytestmark = pytest.mark.asyncio

RESEND_S = 3.0
"""Whoever got nothing by then is sent the same again: seldom, since what was only late then comes twice."""


@pytest.fixture(params=[False, True], ids=["in the loop", "in a thread"])
def io_thread(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest_asyncio.fixture
async def ends(aio_pair: Pair) -> AsyncIterator[Ends]:
    """Both ends of an open stream, by which a message has gone each way."""
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address, Reliability.UNRELIABLE, name="test"))
    theirs = await (await anext(far.offers())).accept()
    ours = await opening
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        await pass_on(sender, receiver, b"first")
    yield ours, theirs
    ours.abort()
    theirs.abort()


async def until(condition: Callable[[], bool]) -> None:
    """Ask until it is so, once for each turn of the loop."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of a counter
            await asyncio.sleep(0)


async def pass_on(sender: Stream, receiver: Stream, data: bytes) -> None:
    """Send until it has arrived: even here a datagram may be lost."""
    async with asyncio.timeout(WAIT_S):
        while True:
            await sender.send(data)
            try:
                async with asyncio.timeout(RESEND_S):
                    while await receiver.receive() != data:
                        pass
                return
            except TimeoutError:
                continue


async def test_a_message_that_finds_no_way_says_so(
    aio_pair: Pair, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = aio_pair
    ours, theirs = ends
    sent = ours.stats().messages_sent
    monkeypatch.setattr(Datagrams, "path", DatagramPath.NONE)
    monkeypatch.setattr(Datagrams, "_transmit", lambda self, targets, plain: False)
    for send in (
        lambda: near.send(b"x", far.address, Reliability.SEQUENCED),
        lambda: ours.send(b"x"),
    ):
        with pytest.raises(NoPath):
            await send()
    with pytest.raises(NoPath):
        ours.send_nowait(b"x")
    assert ours.stats().dropped == {DropCause.NO_PATH: 2}
    assert near.stats().dropped[DropCause.NO_PATH] == 3
    assert near.peer_stats(far.address).dropped[DropCause.NO_PATH] == 3
    monkeypatch.undo()
    number = await ours.send(b"x")
    assert number == sent + 3  # those that were lost here have numbers, too
    await pass_on(ours, theirs, b"on")
    await ours.close()


async def test_a_message_that_the_network_does_not_take_now_says_so(
    aio_pair: Pair, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = aio_pair
    ours, _ = ends
    monkeypatch.setattr(Datagrams, "_transmit", lambda self, targets, plain: False)
    with pytest.raises(SendQueueFull):
        await near.send(b"x", far.address, Reliability.UNRELIABLE)
    with pytest.raises(SendQueueFull):
        await ours.send(b"x")
    with pytest.raises(SendQueueFull):
        ours.send_nowait(b"x")
    assert ours.stats().dropped == {DropCause.SEND_QUEUE_FULL: 2}


async def test_sizes_are_checked_at_the_call(make_aio_bus: MakeBus) -> None:
    limits = Limits(datagram_message_bytes_max=5_000)
    near, far = await make_aio_bus("near", limits=limits), await make_aio_bus("far")
    await near.wait_for_peer("far")
    await far.wait_for_peer("near")
    opening = asyncio.create_task(near.open_stream(far.address, Reliability.UNRELIABLE))
    theirs = await (await anext(far.offers())).accept()
    ours = await opening
    for stream in (ours, theirs):
        with pytest.raises(MessageTooLarge, match="5000"):
            await stream.send(bytes(5_001))
        with pytest.raises(MessageTooLarge, match="5000"):
            stream.send_nowait(bytes(5_001))
        with pytest.raises(TypeError, match="data"):
            await stream.send("text")  # type: ignore[arg-type]
    with pytest.raises(MessageTooLarge, match="5000"):
        await near.send(bytes(5_001), far.address, Reliability.UNRELIABLE)
    with pytest.raises(MessageTooLarge, match="65536"):
        await far.send(bytes(65_537), near.address, Reliability.UNRELIABLE)
    with pytest.raises(MessageTooLarge, match="5000"):
        await far.send(bytes(5_001), near.address, Reliability.UNRELIABLE)
    ours.abort()
    theirs.abort()


async def test_there_are_no_receipts(ends: Ends) -> None:
    with pytest.raises(UsageError, match="no receipts"):
        await ends[0].wait_acknowledged()


async def test_all_that_came_is_taken_before_the_end(ends: Ends) -> None:
    ours, theirs = ends
    for _ in range(10):
        await ours.send(b"x")
    await until(lambda: theirs.stats().messages_received >= ours.stats().messages_sent)
    await ours.finish()
    taken = [message async for message in theirs]
    assert taken == [b"x"] * 10
    with pytest.raises(EndOfStream):
        await theirs.receive()
    with pytest.raises(StreamFinished):
        await ours.send(b"late")
    await pass_on(theirs, ours, b"still here")
    await theirs.close()
    with pytest.raises(EndOfStream):
        await ours.receive()


async def test_each_message_goes_to_one_and_who_gives_up_takes_none(ends: Ends) -> None:
    ours, theirs = ends
    receiving = [asyncio.create_task(theirs.receive()) for _ in range(4)]
    await asyncio.sleep(0)
    receiving.pop(0).cancel()
    wanted = {b"0", b"1", b"2"}
    async with asyncio.timeout(WAIT_S):
        for number in range(3):
            await ours.send(b"%d" % number)
        assert {await task for task in receiving} <= wanted


async def test_an_abort_is_told(ends: Ends) -> None:
    ours, theirs = ends
    receiving = asyncio.create_task(theirs.receive())
    await asyncio.sleep(0)
    ours.abort(7, "enough")
    with pytest.raises(StreamReset) as caught:
        await receiving
    assert caught.value.code == 7
    with pytest.raises(StreamReset):
        await theirs.send(b"late")


async def test_a_stream_that_nobody_keeps_is_aborted(aio_pair: Pair) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address, Reliability.SEQUENCED))
    theirs = await (await anext(far.offers())).accept()
    ours = await opening
    del opening
    await pass_on(theirs, ours, b"x")
    with pytest.warns(ResourceWarning, match="never closed"):
        del ours
    with pytest.raises(StreamReset):
        await theirs.receive()


async def test_who_sends_without_end_lets_others_run(aio_pair: Pair) -> None:
    near, far = aio_pair
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await near.send(b"x", far.address, Reliability.UNRELIABLE)
            sent += 1

    sending = asyncio.create_task(send())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sent <= 2 * TRANSMISSIONS_IN_ROW
    sending.cancel()


async def test_what_nobody_takes_is_kept_nowhere_else(aio_pair: Pair) -> None:
    near, far = aio_pair
    for _ in range(100):
        await near.send(bytes(1_000), far.address, Reliability.UNRELIABLE)
    await until(lambda: far.peer_stats(near.address).datagrams_received >= 50)
    assert not far._exchange.messages.items
    assert (await anext(far.messages())).data == bytes(1_000)


async def test_counters_of_a_peer(aio_pair: Pair) -> None:
    near, far = aio_pair
    await near.send(b"x", far.address, Reliability.UNRELIABLE)
    peer = near.peer(far.address)
    assert peer is not None
    assert near.peer_stats(peer).datagrams_sent > 0
    with pytest.raises(UnknownPeer):
        near.peer_stats(near.address)
    with pytest.raises(TypeError, match="address"):
        near.peer_stats("far")  # type: ignore[arg-type]
