from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    AmbiguousPeer,
    BusClosed,
    BusError,
    ConfigError,
    DeliveryUnknown,
    LossReason,
    MessageTooLarge,
    OpenTimeout,
    PeerJoined,
    PeerLeft,
    PortInUse,
    StreamRejected,
    StreamReset,
    UnknownPeer,
    UsageError,
    WaitTimeout,
)
from dittobus import DittoAddress, DittoBusReliability
from dittobus.aio import Bus, Offer, Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    MakeBus = Callable[..., Awaitable[Bus]]
    Pair = tuple[Bus, Bus]

pytestmark = pytest.mark.asyncio

STRANGER = DittoAddress(bytes(range(32)))


async def spin() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


# Life


async def test_a_bus_starts_and_closes(mesh: dict[str, Any]) -> None:
    async with Bus("alone", **mesh) as bus:
        assert bus.name == "alone"
        assert bus.address == bus.ticket().address
        assert bus.peers == ()
        assert bus.stats().peers == 0
        assert repr(bus) == "<Bus 'alone', running>"
    assert await bus.close()
    assert repr(bus) == "<Bus 'alone', closed>"
    with pytest.raises(UsageError, match="starts once"):
        await bus.start()


async def test_a_bus_is_not_among_its_peers(mesh: dict[str, Any]) -> None:
    async with Bus("alone", **mesh) as bus:
        for bus.name in ("alone", "renamed"):
            with pytest.raises(WaitTimeout, match="the name of this bus itself"):
                await bus.wait_for_peer(bus.name, timeout=0)


async def test_a_bus_that_was_never_started(mesh: dict[str, Any]) -> None:
    bus = Bus("bus", **mesh)
    with pytest.raises(BusClosed, match="not started"):
        await bus.send(b"", STRANGER)
    with pytest.raises(BusClosed, match="not started"):
        _ = bus.address
    assert bus.peers == ()
    assert await bus.close()
    with pytest.raises(BusClosed):
        bus.messages()


async def test_two_may_close_at_once(aio_pair: Pair) -> None:
    near, _ = aio_pair
    assert await asyncio.gather(near.close(), near.close()) == [True, True]


async def test_a_failed_start_can_be_repeated(make_aio_bus: MakeBus, mesh: dict[str, Any]) -> None:
    [place] = (await make_aio_bus("first")).ticket().endpoints
    bus = Bus("second", **mesh, port=int(place.rpartition(":")[2]))
    for _ in range(2):
        with pytest.raises(PortInUse):
            await bus.start()


async def test_commands_after_close_are_refused(aio_pair: Pair) -> None:
    near, far = aio_pair
    await near.close()
    for command in (
        lambda: near.send(b"", far.address),
        lambda: near.open_stream(far.address),
        lambda: near.wait_for_peer("far"),
        lambda: near.wait_for_peers(1),
    ):
        with pytest.raises(BusClosed):
            await command()
    for query in (near.messages, near.offers, near.peer_changes, near.ticket, near.stats):
        with pytest.raises(BusClosed):
            query()
    assert near.peers == ()


async def test_a_cancelled_close_leaves_nothing_behind(aio_pair: Pair) -> None:
    near, far = aio_pair
    closing = asyncio.create_task(near.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await near.close()
    with pytest.raises(BusClosed):
        await near.send(b"", far.address)


# Presence


async def test_presence(aio_pair: Pair, make_aio_bus: MakeBus) -> None:
    near, far = aio_pair
    assert [peer.name for peer in near.peers] == ["far"]
    peer = near.peer(far.address)
    assert peer is not None
    assert near.peer(peer) is not None
    changes = near.peer_changes()
    joined = await anext(changes)
    assert (type(joined), joined.peer.address) == (PeerJoined, far.address)
    far.name = "farther"
    far.metadata = b"details"
    while True:
        changed = await anext(changes)
        if changed.peer.metadata == b"details":
            break
    assert (changed.peer.name, far.name, far.metadata) == ("farther", "farther", b"details")
    third = await make_aio_bus("third")
    assert {peer.name for peer in await near.wait_for_peers(2)} == {"farther", "third"}
    address = third.address
    await third.close()
    async for change in changes:
        if isinstance(change, PeerLeft):
            assert (change.peer.address, change.reason) == (address, LossReason.LEFT)
            break


async def test_waiting_for_peers(aio_pair: Pair, make_aio_bus: MakeBus) -> None:
    near, far = aio_pair
    assert (await near.wait_for_peer(far.address)).name == "far"
    assert (await near.wait_for_peer(lambda peer: peer.name == "far")).address == far.address
    with pytest.raises(WaitTimeout):
        await near.wait_for_peer("nobody", timeout=0)
    with pytest.raises(WaitTimeout):
        await near.wait_for_peers(7, timeout=0)
    with pytest.raises(ConfigError, match="timeout"):
        await near.wait_for_peer("far", timeout=-1)
    await make_aio_bus("far")
    await near.wait_for_peers(2)
    with pytest.raises(AmbiguousPeer):
        await near.wait_for_peer("far")
    waiting = asyncio.create_task(near.wait_for_peer("nobody", timeout=None))
    await spin()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert near._exchange.table._waits == {}


async def test_iterators_end_when_the_bus_closes(aio_pair: Pair) -> None:
    near, _ = aio_pair

    async def count(iterator: AsyncIterator[object]) -> int:
        return len([item async for item in iterator])

    tasks = [
        asyncio.create_task(count(iterator))
        for iterator in (near.messages(), near.offers(), near.peer_changes())
    ]
    await spin()
    await near.close()
    assert [await task for task in tasks][:2] == [0, 0]


# Single messages


async def test_a_single_message_arrives(aio_pair: Pair) -> None:
    near, far = aio_pair
    await near.send(bytearray(b"hello"), far.address, channel=7)
    message = await anext(far.messages())
    assert (message.sender, message.data, message.channel) == (near.address, b"hello", 7)
    assert message.reliability is DittoBusReliability.RELIABLE


async def test_messages_arrive_in_order_and_credit_comes_back(aio_pair: Pair) -> None:
    near, far = aio_pair

    async def read() -> list[int]:
        numbers = []
        async for message in far.messages():
            numbers.append(int(message.data[:4]))
            if len(numbers) == 1000:
                break
        return numbers

    reading = asyncio.create_task(read())
    await asyncio.gather(*(near.send(b"%04d" % n + bytes(1000), far.address) for n in range(1000)))
    assert await reading == list(range(1000))


async def test_consumers_compete(aio_pair: Pair) -> None:
    near, far = aio_pair
    taken = [asyncio.create_task(anext(far.messages())) for _ in range(3)]
    await spin()
    taken[0].cancel()
    for number in range(2):
        await near.send(b"%d" % number, far.address)
    assert {(await task).data for task in taken[1:]} == {b"0", b"1"}


async def test_arguments_are_checked(aio_pair: Pair) -> None:
    near, far = aio_pair
    to = far.address
    for command, kind, match in (
        (lambda: near.send("text", to), TypeError, "data"),
        (lambda: near.send(bytes(64 * 1024 * 1024 + 1), to), MessageTooLarge, "limit"),
        (lambda: near.send(b"", str(to)), TypeError, "to: .*parse"),
        (lambda: near.send(b"", to, timeout=-1), ConfigError, "timeout"),
        (lambda: near.send(b"", to, channel=-1), ConfigError, "channel"),
        (lambda: near.send(b"", STRANGER), UnknownPeer, "heard"),
        (lambda: near.send(bytes(65_537), to, DittoBusReliability.UNRELIABLE), MessageTooLarge, "65536"),
        (lambda: near.open_stream(to, name="x" * 65), ConfigError, "name"),
        (lambda: near.open_stream(to, metadata=bytes(4097)), ConfigError, "metadata"),
        (lambda: near.open_stream(STRANGER), UnknownPeer, "heard"),
    ):
        with pytest.raises(kind, match=match):
            await command()  # type: ignore[no-untyped-call]


async def test_a_cancelled_send_is_forgotten(aio_pair: Pair) -> None:
    near, far = aio_pair
    sending = asyncio.create_task(near.send(b"hello", far.address))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await near.send(b"again", far.address)
    assert near._exchange._sends == {}


async def test_sends_that_are_pending_at_close_end(aio_pair: Pair) -> None:
    near, far = aio_pair
    sends = [asyncio.create_task(near.send(bytes(60_000), far.address, timeout=None)) for _ in range(50)]
    await spin()
    await near.close(timeout=0)
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert isinstance(outcomes[-1], DeliveryUnknown | BusClosed)
    assert far.stats() is not None


# Opening streams


async def test_a_stream_opens(aio_pair: Pair) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address, name="video", metadata=b"30 fps"))
    offer = await anext(far.offers())
    assert (offer.peer, offer.name, offer.metadata) == (near.address, "video", b"30 fps")
    assert offer.reliability is DittoBusReliability.RELIABLE
    assert "video" in repr(offer)
    theirs = await offer.accept(b"welcome")
    ours = await opening
    for stream in (ours, theirs):
        assert (stream.name, stream.metadata, stream.reply_metadata) == ("video", b"30 fps", b"welcome")
        assert stream.reliability is DittoBusReliability.RELIABLE
    assert (ours.peer, theirs.peer) == (far.address, near.address)
    with pytest.raises(UsageError):
        await offer.accept()
    ours.abort()
    theirs.abort()


async def test_an_offer_can_be_rejected(aio_pair: Pair) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address))
    await (await anext(far.offers())).reject(42, "not today")
    with pytest.raises(StreamRejected) as caught:
        await opening
    assert (caught.value.code, caught.value.reason) == (42, "not today")


async def test_an_offer_nobody_takes_times_out_and_is_withdrawn(aio_pair: Pair) -> None:
    near, far = aio_pair
    with pytest.raises((OpenTimeout, StreamRejected)):
        await near.open_stream(far.address, timeout=0.05)
    await near.send(b"after the reset", far.address)
    assert not far._exchange.offers.items


async def test_a_cancelled_open_resets(aio_pair: Pair) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address))
    offer = await anext(far.offers())
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await near.send(b"after the reset", far.address)
    with pytest.raises(BusError):
        await offer.accept()
    assert near._exchange._opening == {}


async def test_a_cancelled_accept_resets(aio_pair: Pair) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address))
    offer = await anext(far.offers())
    accepting = asyncio.create_task(offer.accept())
    await asyncio.sleep(0)
    accepting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await accepting
    with pytest.raises(StreamReset):  # here, or when the stream is used
        await (await opening).receive()


async def test_an_open_that_is_pending_at_close_ends(aio_pair: Pair) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address))
    await anext(far.offers())
    await near.close()
    with pytest.raises(BusClosed):
        await opening


# Bindings


async def test_streams_go_to_the_handler_of_their_name(aio_pair: Pair) -> None:
    near, far = aio_pair

    async def echo(stream: Stream, peer: Any) -> None:
        assert peer == near.address
        async with stream:
            async for message in stream:
                await stream.send(message)
            await stream.finish()

    early = asyncio.create_task(near.open_stream(far.address, name="echo"))
    await asyncio.sleep(0)
    await near.send(b"after the offer", far.address)
    far.on_stream("echo", echo)
    for stream in (await early, await near.open_stream(far.address, name="echo")):
        async with stream:
            await stream.send(b"hello")
            await stream.finish()
            assert [message async for message in stream] == [b"hello"]
    with pytest.raises(StreamRejected, match="nothing here takes streams named 'other'"):
        await near.open_stream(far.address, name="other")
    with pytest.raises(ConfigError, match="handler already"):
        far.on_stream("echo", echo)


async def test_a_handler_that_raises_aborts_its_stream(
    aio_pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = aio_pair

    async def fail(stream: Stream, peer: Any) -> None:
        raise ValueError("faulty handler")

    far.on_stream("faulty", fail)
    stream = await near.open_stream(far.address, name="faulty")
    with pytest.raises(StreamReset, match="an exception ended it there"):
        await stream.receive()
    assert "faulty handler" in caplog.text


async def test_a_handler_may_be_a_plain_function_and_is_cancelled_at_close(aio_pair: Pair) -> None:
    near, far = aio_pair
    kept: asyncio.Queue[Stream] = asyncio.Queue()
    far.on_stream("plain", lambda stream, peer: kept.put_nowait(stream))
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait_forever(stream: Stream, peer: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    far.on_stream("waiting", wait_forever)
    plain = await near.open_stream(far.address, name="plain")
    waiting = await near.open_stream(far.address, name="waiting")
    await started.wait()
    theirs = await kept.get()
    await far.close(timeout=0)
    assert ended.is_set()
    for stream in (plain, waiting, theirs):
        stream.abort()


@pytest.mark.parametrize("in_task", [False, True])
async def test_a_handler_may_close_the_bus(aio_pair: Pair, in_task: bool) -> None:
    near, far = aio_pair
    entered = asyncio.Event()

    async def last(stream: Stream, peer: Any) -> None:
        entered.set()
        await (asyncio.create_task(far.close(timeout=0)) if in_task else far.close(timeout=0))

    far.on_stream("last", last)
    stream = await near.open_stream(far.address, name="last")
    await entered.wait()
    await far.close()
    with pytest.raises(BusError):
        await stream.receive()
    await spin()
    assert not far._exchange._handling


async def test_a_bus_dropped_streams_and_offers_leave_nothing(aio_pair: Pair) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address))
    offer: Offer = await anext(far.offers())
    theirs = await offer.accept()
    ours = await opening
    await ours.finish()
    await theirs.finish()
    for stream in (ours, theirs):
        assert [message async for message in stream] == []
        await stream.close()
    gc.collect()
    assert near._exchange._streams == far._exchange._streams == {}
