from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from brokerless import (
    BusError,
    ConfigError,
    EndOfStream,
    Limits,
    MessageTooLarge,
    PeerLost,
    SendQueueFull,
    StreamClosed,
    StreamFinished,
    StreamReset,
)
from brokerless.protocol.credit import MESSAGE_COST_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dittobus.aio import Bus, Stream

    Pair = tuple[Bus, Bus]
    Ends = tuple[Stream, Stream]

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def ends(aio_pair: Pair) -> AsyncIterator[Ends]:
    """Both ends of an open stream."""
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address, name="test"))
    theirs = await (await anext(far.offers())).accept()
    ours = await opening
    yield ours, theirs
    ours.abort()
    theirs.abort()


async def spin() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def fill(stream: Stream, other: Stream) -> int:
    """Send until there is no room, and none comes while nobody reads there; return the last number."""
    cost = 10_000 + MESSAGE_COST_BYTES
    number = 0
    while True:
        try:
            number = stream.send_nowait(bytes(10_000))
        except SendQueueFull:
            ours, theirs = stream.stats(), other.stats()
            if ours.messages_sent == theirs.messages_received and ours.send_credit_bytes < cost:
                return number
            await asyncio.sleep(0)


# Sending and receiving


async def test_messages_arrive_in_order_both_ways(ends: Ends) -> None:
    ours, theirs = ends

    async def send_all(stream: Stream) -> None:
        for number in range(1, 5001):
            assert await stream.send(b"%d" % number) == number
        await stream.finish()

    async def receive_all(stream: Stream) -> list[bytes]:
        return [message async for message in stream]

    _, _, here, there = await asyncio.gather(
        send_all(ours), send_all(theirs), receive_all(ours), receive_all(theirs)
    )
    assert here == there == [b"%d" % number for number in range(1, 5001)]
    await ours.close()
    await theirs.close()


async def test_buffers_are_copied_and_large_messages_arrive(ends: Ends) -> None:
    ours, theirs = ends
    large = bytes(range(256)) * 10_000
    data = bytearray(b"before")
    await ours.send(data)
    data[:] = b"after!"
    await ours.send(memoryview(large))
    assert [await theirs.receive(), await theirs.receive()] == [b"before", large]
    assert (ours.stats().messages_sent, theirs.stats().messages_received) == (2, 2)


async def test_arguments_are_checked(ends: Ends) -> None:
    ours, _ = ends
    for command, kind, match in (
        (lambda: ours.send("text"), TypeError, "data"),
        (lambda: ours.send(bytearray(64 * 1024 * 1024 + 1)), MessageTooLarge, "limit"),
        (lambda: ours.send(bytes(64 * 1024 * 1024 + 1)), MessageTooLarge, ""),
        (lambda: ours.close(timeout=-1), ConfigError, "timeout"),
    ):
        with pytest.raises(kind, match=match or None):
            await command()  # type: ignore[no-untyped-call]
    with pytest.raises(TypeError, match="data"):
        ours.send_nowait(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="code"):
        ours.abort(-1)


async def test_a_sender_waits_for_the_receiving_application(ends: Ends) -> None:
    ours, theirs = ends
    last = await fill(ours, theirs)
    assert ours.stats().send_queue_bytes <= Limits().send_queue_bytes_max
    waiting = [asyncio.create_task(ours.send(b"%d" % number * 10_000)) for number in range(3)]
    await spin()
    with pytest.raises(SendQueueFull, match="others wait"):
        ours.send_nowait(b"")
    for _ in range(last):
        await theirs.receive()
    assert [await task for task in waiting] == [last + 1, last + 2, last + 3]  # first come, first served
    assert [(await theirs.receive())[:1] for _ in range(3)] == [b"0", b"1", b"2"]


async def test_a_cancelled_send_has_sent_nothing(ends: Ends) -> None:
    ours, theirs = ends
    last = await fill(ours, theirs)
    first, second, third = (asyncio.create_task(ours.send(bytes([number]) * 10_000)) for number in range(3))
    await spin()
    second.cancel()
    ours._did_get_ready()  # wakes the first, which is cancelled before it runs
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.cancelled()
    for _ in range(last):
        await theirs.receive()
    assert await third == last + 1
    assert (await theirs.receive())[:1] == b"\2"
    assert not ours._senders


async def test_a_cancelled_receive_has_consumed_nothing(ends: Ends) -> None:
    ours, theirs = ends
    first, second = (asyncio.create_task(theirs.receive()) for _ in range(2))
    await spin()
    theirs._wake_receiver()  # wakes the first, which is cancelled before it runs
    first.cancel()
    await ours.send(b"hello")
    assert await second == b"hello"
    assert first.cancelled()
    third = asyncio.create_task(theirs.receive())
    await spin()
    third.cancel()
    await spin()
    await ours.send(b"again")
    assert await theirs.receive() == b"again"
    assert not theirs._receivers


async def test_receivers_compete(ends: Ends) -> None:
    ours, theirs = ends
    tasks = [asyncio.create_task(theirs.receive()) for _ in range(5)]
    await spin()
    for number in range(5):
        await ours.send(b"%d" % number)
    assert [await task for task in tasks] == [b"0", b"1", b"2", b"3", b"4"]


async def test_who_is_woken_in_vain_keeps_the_place(ends: Ends) -> None:
    ours, theirs = ends
    tasks = [asyncio.create_task(theirs.receive()) for _ in range(3)]
    await spin()
    theirs._wake_receiver()
    await spin()
    for number in range(3):
        await ours.send(b"%d" % number)
    assert [await task for task in tasks] == [b"0", b"1", b"2"]


async def test_credit_comes_back_when_part_of_a_run_was_taken(ends: Ends) -> None:
    ours, theirs = ends
    for number in range(10):
        await ours.send(b"%d" % number)
    await ours.wait_acknowledged()
    for number in range(3):
        assert await theirs.receive() == b"%d" % number
    assert theirs.stats().unconsumed_messages == 10
    await spin()
    assert theirs.stats().unconsumed_messages == 7
    assert [await theirs.receive() for _ in range(7)] == [b"%d" % number for number in range(3, 10)]
    assert theirs.stats().unconsumed_messages == 0


async def test_receipts(ends: Ends) -> None:
    ours, theirs = ends
    await ours.wait_acknowledged()
    await ours.send(b"1")
    await ours.send(b"2")
    await ours.wait_acknowledged(1)
    await ours.wait_acknowledged()
    await ours.wait_acknowledged(2)
    later = asyncio.create_task(ours.wait_acknowledged(3))
    cancelled = asyncio.create_task(ours.wait_acknowledged(7))
    await spin()
    cancelled.cancel()
    await ours.send(b"3")
    await later
    never = asyncio.create_task(ours.wait_acknowledged(7))
    await spin()
    theirs.abort(7)
    with pytest.raises(StreamReset):
        await never
    with pytest.raises(StreamReset):
        await ours.wait_acknowledged(7)
    await ours.wait_acknowledged(3)
    assert ours._receipts == {}


# Ends


async def test_no_receipt_is_awaited_of_what_will_never_be_sent(ends: Ends) -> None:
    ours, theirs = ends
    await ours.send(b"the only one")
    waiting = asyncio.create_task(ours.wait_acknowledged(2))
    await ours.wait_acknowledged(1)
    await ours.finish()
    with pytest.raises(StreamFinished, match="message 2 was never sent"):
        await waiting
    with pytest.raises(StreamFinished, match="message 3 was never sent"):
        await ours.wait_acknowledged(3)
    await ours.wait_acknowledged()
    for sequence, kind in (("1", TypeError), (True, TypeError), (-1, ConfigError)):
        with pytest.raises(kind, match="sequence: expected"):
            await ours.wait_acknowledged(sequence)  # type: ignore[arg-type]
    assert await theirs.receive() == b"the only one"


async def test_the_normal_end(ends: Ends) -> None:
    ours, theirs = ends
    await ours.send(b"last")
    await ours.finish()
    await ours.finish()
    with pytest.raises(StreamFinished):
        await ours.send(b"later")
    assert await theirs.receive() == b"last"
    for _ in range(2):
        with pytest.raises(EndOfStream):
            await theirs.receive()
    await theirs.send(b"reply")
    assert await ours.receive() == b"reply"
    await theirs.close()
    assert [message async for message in ours] == []
    await ours.close()
    await ours.close()
    assert "closed" in repr(ours)


async def test_an_end_wakes_those_who_wait(ends: Ends) -> None:
    ours, theirs = ends
    receivers = [asyncio.create_task(theirs.receive()) for _ in range(3)]
    await spin()
    await ours.finish()
    for outcome in await asyncio.gather(*receivers, return_exceptions=True):
        assert isinstance(outcome, EndOfStream)


async def test_an_abort_resets(ends: Ends) -> None:
    ours, theirs = ends
    await fill(ours, theirs)
    sending = [asyncio.create_task(ours.send(b"x" * 10_000)) for _ in range(3)]
    await spin()
    theirs.abort(7, "enough")
    for outcome in await asyncio.gather(*sending, return_exceptions=True):
        assert isinstance(outcome, StreamReset)
    with pytest.raises(StreamReset) as caught:
        await ours.receive()
    assert (caught.value.code, caught.value.reason) == (7, "enough")
    with pytest.raises(StreamReset):
        await ours.send(b"later")
    await ours.close()  # the error was told
    await theirs.close()
    with pytest.raises(BusError):
        await theirs.receive()


async def test_an_end_nobody_was_told_of_is_told_by_close(ends: Ends) -> None:
    ours, theirs = ends
    await ours.send(b"hello")
    theirs.abort(7)
    await asyncio.shield(ours._ended)
    with pytest.raises(StreamReset):
        await ours.close()
    await ours.close()


async def test_who_has_aborted_is_not_told_so_by_close(ends: Ends) -> None:
    """Neither before the stream has ended nor afterwards; who waits for something else is."""
    ours, theirs = ends
    ours.abort(7)
    await ours.close()
    await ours.close()
    with pytest.raises(StreamReset):
        await ours.receive()
    await asyncio.shield(theirs._ended)
    theirs.abort(8)  # it has ended before, and nobody has been told
    with pytest.raises(StreamReset) as caught:
        await theirs.close()
    assert caught.value.code == 7


async def test_a_message_that_is_too_large_tells_of_no_end(ends: Ends) -> None:
    ours, theirs = ends
    for send in (ours.send, ours.send_nowait):
        with pytest.raises(MessageTooLarge):
            _ = await send(bytes(64 * 1024 * 1024 + 1))  # type: ignore[misc]
    theirs.abort(7)
    await asyncio.shield(ours._ended)
    with pytest.raises(StreamReset):
        await ours.close()


async def test_a_send_that_finds_the_end_has_told_it(ends: Ends) -> None:
    ours, theirs = ends
    theirs.abort(7)
    await asyncio.shield(ours._ended)
    with pytest.raises(StreamReset):
        ours.send_nowait(b"later")
    await ours.close()


async def test_a_close_waits_until_all_was_consumed(ends: Ends) -> None:
    ours, theirs = ends
    for number in range(10):
        await ours.send(b"%d" % number)
    closing = asyncio.create_task(ours.close())
    receiving = asyncio.create_task(ours.receive())
    assert [await theirs.receive() for _ in range(9)] == [b"%d" % number for number in range(9)]
    await spin()
    assert not closing.done()
    with pytest.raises(StreamFinished):
        await receiving
    assert await theirs.receive() == b"9"
    await closing


async def test_a_close_that_runs_out_of_time_says_how_far_the_other_side_came(ends: Ends) -> None:
    ours, theirs = ends
    for number in range(10):
        await ours.send(b"%d" % number)
    await ours.wait_acknowledged()
    for _ in range(3):
        await theirs.receive()
    with pytest.raises(StreamClosed) as caught:
        await ours.close(timeout=0.05)
    assert caught.value.last_consumed <= 3  # as far as it was told


async def test_a_close_while_the_bus_closes(ends: Ends, aio_pair: Pair) -> None:
    ours, theirs = ends
    await ours.send(b"hello")
    closing = asyncio.create_task(aio_pair[0].close())
    await spin()
    stream_closing = asyncio.create_task(ours.close())
    assert await theirs.receive() == b"hello"
    await stream_closing
    assert await closing


async def test_a_cancelled_close_aborts(ends: Ends) -> None:
    ours, theirs = ends
    await ours.send(b"hello")
    closing = asyncio.create_task(ours.close())
    await spin()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await asyncio.shield(theirs._ended)
    with pytest.raises(StreamReset):
        await theirs.send(b"later")


async def test_leaving_async_with(aio_pair: Pair) -> None:
    near, far = aio_pair
    offers = far.offers()
    for error in (None, RuntimeError()):
        opening = asyncio.create_task(near.open_stream(far.address))
        theirs = await (await anext(offers)).accept()
        if error is None:
            async with await opening as stream:
                await stream.send(b"hello")
                receiving = asyncio.create_task(theirs.receive())
            assert await receiving == b"hello"
            assert [message async for message in theirs] == []
        else:
            await leave_by(error, await opening)
            with pytest.raises(StreamReset):
                await theirs.receive()
        await theirs.close()


async def leave_by(error: Exception, stream: Stream) -> None:
    try:
        async with stream:
            raise error
    except type(error):
        pass


async def test_a_stream_that_nobody_keeps_is_aborted(aio_pair: Pair) -> None:
    near, far = aio_pair
    opening = asyncio.create_task(near.open_stream(far.address))
    theirs = await (await anext(far.offers())).accept()
    await opening
    await asyncio.sleep(0)  # the loop, too, lets go of it
    with pytest.warns(ResourceWarning, match="never closed"):
        del opening
    with pytest.raises(StreamReset, match="let go of it without closing it"):
        await theirs.receive()


async def test_a_lost_peer_ends_the_stream(ends: Ends, aio_pair: Pair) -> None:
    ours, theirs = ends
    near, _ = aio_pair
    await near.close(timeout=0)
    with pytest.raises((PeerLost, StreamReset, StreamClosed)):
        await theirs.receive()
    with pytest.raises(BusError):
        await ours.send(b"later")
    with pytest.raises(BusError):
        await ours.receive()


async def test_the_end_is_told_at_once_to_who_waits_for_it_alone(ends: Ends) -> None:
    ours, theirs = ends
    await ours.send(b"not taken")
    waiting = asyncio.create_task(theirs.wait_closed())
    cancelled = asyncio.create_task(theirs.wait_closed())
    await ours.wait_acknowledged()
    cancelled.cancel()
    assert not waiting.done()
    ours.abort(7, "gone")
    with pytest.raises(StreamReset, match="gone"):
        await waiting
    assert await theirs.receive() == b"not taken"
    with pytest.raises(StreamReset, match="gone"):
        await theirs.wait_closed()


async def test_who_waits_for_the_normal_end_is_told_of_nothing_else(ends: Ends) -> None:
    ours, theirs = ends
    waiting = [asyncio.create_task(end.wait_closed()) for end in ends]
    await ours.send(b"the last")
    for end in ends:
        await end.finish()
    with pytest.raises(EndOfStream):
        await ours.receive()
    assert not any(task.done() for task in waiting)
    assert await theirs.receive() == b"the last"
    assert await asyncio.gather(*waiting) == [None, None]


async def test_many_streams_at_once(aio_pair: Pair) -> None:
    near, far = aio_pair

    async def echo(stream: Stream, peer: Any) -> None:
        async with stream:
            async for message in stream:
                await stream.send(message)

    async def ask(number: int) -> bytes:
        async with await near.open_stream(far.address, name="echo") as stream:
            await stream.send(b"%d" % number)
            reply = await stream.receive()
            await stream.finish()
            return reply

    far.on_stream("echo", echo)
    assert await asyncio.gather(*map(ask, range(100))) == [b"%d" % number for number in range(100)]
