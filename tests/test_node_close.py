"""The end of a node: drained or not, said goodbye, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from brokerless import (
    BusClosed,
    DeliveryUnknown,
    Identity,
    IdentityInUse,
    Limits,
    LossReason,
    PeerJoined,
    PeerLeft,
    Reliability,
    SendDone,
    StreamClosed,
    StreamEnded,
    StreamFinishedReceiving,
    Ticket,
)
from brokerless.errors import StreamFinished
from brokerless.testing import Chaos
from tests.witness import Log, Mesh, Stubborn, Witness, commands, files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio

IDLE_CLOSE_S = 1.0
"""The promise for a bus with nothing pending. It takes some 10 ms, so this is no bar of speed."""


async def timed_close(node: Witness, drain_s: float = 5.0) -> tuple[bool, float]:
    began = time.monotonic()
    acknowledged = await node.node.close(drain_s)
    return acknowledged, time.monotonic() - began


async def in_moments(close: Callable[[], Awaitable[float]]) -> None:
    """Require it of the quickest of some: a machine that stands still for a moment proves nothing."""
    for _ in range(5):
        seconds = await close()
        if seconds < IDLE_CLOSE_S:
            return
    raise AssertionError(f"a close took {seconds:.3f} s, and none before was quick")


@pytest.mark.parametrize("discovery", [("registry",), ("zeroconf",)])
async def test_with_nothing_pending_it_is_a_matter_of_moments(
    tmp_path: Path, discovery: tuple[str, ...]
) -> None:
    async with Mesh(tmp_path) as mesh:

        async def close() -> float:
            first, second = await mesh.pair(discovery=discovery)
            acknowledged, seconds = await timed_close(first)
            assert acknowledged
            assert (await second.lost(first)).reason is LossReason.LEFT
            alone, seconds_alone = await timed_close(second)
            assert alone
            assert files(tmp_path) == []
            return max(seconds, seconds_alone)

        await in_moments(close)


async def test_two_that_close_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:

        async def close() -> float:
            closes = await asyncio.gather(*(timed_close(node) for node in await mesh.pair()))
            assert all(acknowledged for acknowledged, _ in closes)
            return max(seconds for _, seconds in closes)

        await in_moments(close)


async def test_what_was_sent_before_is_acknowledged_first(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        sent = [bytes(10_000) + b"%d" % number for number in range(200)]
        ids = [first.send(data, second) for data in sent]
        assert await first.node.close()
        assert [message.data for message in second.messages] == sent
        assert [(done.send_id, done.error) for done in first.of(SendDone)] == [(n, None) for n in ids]


async def test_finished_streams_are_drained_and_closed(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        stream = await first.opened(second, "x")
        other = await second.incoming("x")
        for number in range(50):
            stream.send(bytes(10_000) + b"%d" % number)
        stream.finish()
        assert await first.node.close()
        assert [len(data) for data in second.received[other]] == [10_001] * 10 + [10_002] * 40
        [ended] = first.of(StreamEnded)
        assert ended.error is None
        await second.event(StreamFinishedReceiving)
        assert await second.ended(other) is None


async def test_what_nobody_consumes_is_given_up_at_the_timeout(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        second.consumes = False
        stream = await first.opened(second, "x")
        while stream.room > 50_000:
            stream.send(bytes(50_000))
        stream.finish()
        acknowledged, seconds = await timed_close(first, 0.3)
        assert not acknowledged
        assert seconds >= 0.3
        [ended] = first.of(StreamEnded)
        assert isinstance(ended.error, StreamClosed)
        assert ended.error.last_consumed == 0
        assert await second.ended(await second.incoming("x")) is not None  # never a clean end


async def test_a_send_that_nobody_acknowledges_ends_as_unknown(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first = await mesh.start("first", discovery=())
        port = int(first.node.ticket().endpoints[0].rpartition(":")[2])
        async with Chaos(port) as chaos:
            second = await mesh.start("second", discovery=(), peers=(chaos.ticket(first),))
            await second.joined(first)
            await first.joined(second)
            chaos.blackhole()
            send_id = second.send(b"x", first)
            assert not await second.node.close(0.2)
        [done] = second.of(SendDone)
        assert done.send_id == send_id
        assert isinstance(done.error, DeliveryUnknown)
        assert isinstance(done.error.__cause__, BusClosed)
        assert isinstance(second.events[-1], PeerLeft)


async def test_a_send_that_never_left_ends_too(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        nobody = Ticket(Identity.generate().address, ("tcp://127.0.0.1:1",))
        node = await mesh.start(discovery=(), peers=(nobody,))
        send_id = node.node.send(b"x", nobody.address, Reliability.RELIABLE)
        stream = node.node.open_stream(nobody.address, Reliability.RELIABLE, "", b"")
        assert not await node.node.close(0.05)
        [done] = node.of(SendDone)
        assert done.send_id == send_id
        assert isinstance(done.error, BusClosed)
        [ended] = node.of(StreamEnded)
        assert ended.stream is stream
        assert ended.error is not None


async def test_an_outage_during_the_close_is_sat_out(tmp_path: Path) -> None:
    """Only the closing side can dial here; it does, for what it still has to say."""
    async with Mesh(tmp_path) as mesh:
        first = await mesh.start("first", discovery=())
        port = int(first.node.ticket().endpoints[0].rpartition(":")[2])
        async with Chaos(port) as chaos:
            second = await mesh.start("second", discovery=(), peers=(chaos.ticket(first),))
            await second.joined(first)
            await first.joined(second)
            chaos.blackhole()
            send_id = second.send(b"x", first)
            closing = asyncio.create_task(second.node.close())
            await asyncio.sleep(0)
            chaos.reset()
            chaos.heal()
            assert await closing
        assert [(done.send_id, done.error) for done in second.of(SendDone)] == [(send_id, None)]
        assert [message.data for message in first.messages] == [b"x"]
        assert (await first.lost(second)).reason is LossReason.LEFT


async def test_an_offer_to_a_node_that_closes_is_rejected(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        first.consumes = False
        stream = await first.opened(second, "keeps it open")
        other = await second.incoming("keeps it open")
        other.send(b"x")
        await first.until(lambda: stream in first.received)
        second.consumes = False
        stream.send(b"y")
        closing = asyncio.create_task(first.node.close())  # waits for second's application to consume
        await second.until(lambda: other in second.received)
        with Log() as log:
            late = second.open(first, "late")
            assert await second.ended(late) is not None
        assert log.lines == []
        other.consume(1)
        assert await closing


async def test_it_may_be_closed_twice_and_at_once(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        second.consumes = False
        stream = await first.opened(second, "x")
        stream.send(b"x")
        stream.finish()
        first.told.clear()
        outcomes = await asyncio.gather(first.node.close(0.1), first.node.close(5))
        assert outcomes == [False, False]  # the second waits for the first, and knows how it went
        assert not await first.node.close()


async def test_it_may_be_closed_while_it_starts(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        discovery = Stubborn()
        node = mesh.make(discovery=("registry", discovery)).node
        starting = asyncio.create_task(node.start())
        await asyncio.wait_for(discovery.starting.wait(), 10)
        assert await node.close()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert files(tmp_path) == []


async def test_closed_before_its_key_is_made_it_opens_nothing(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        node = mesh.make(secret="correct horse battery staple").node
        starting = asyncio.create_task(node.start())
        await asyncio.sleep(0)
        assert await node.close()
        with pytest.raises(BusClosed, match="while it started"):
            await starting
        assert files(tmp_path) == []


async def test_a_close_that_is_cancelled_drops_what_is_under_way(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        second.consumes = False
        stream = await first.opened(second, "x")
        stream.send(b"x")
        closing = asyncio.create_task(first.node.close(None))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not await first.node.close()
        assert len(files(tmp_path / "bus" / "registry")) == 1  # the other's


async def test_afterwards_there_is_nothing_to_be_had(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        stream = await first.opened(second, "x")
        assert await first.node.close()
        assert first.node.peers == ()
        assert first.node.peer(second.address) is None
        for command in commands(first.node):
            with pytest.raises(BusClosed):
                command()
        with pytest.raises((BusClosed, StreamFinished)):
            stream.send(b"x")
        told = len(first.events)
        second.send(b"x", first) if second.node.peer(first.address) else None
        await second.lost(first)
        assert len(first.events) == told


# Two of one identity


async def test_of_two_with_one_identity_the_older_closes_and_does_not_return(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        identity = Identity.generate()
        peer = await mesh.start("peer")
        older = await mesh.start("older", identity=identity)
        await peer.joined(older)
        await older.joined(peer)
        with Log() as log:
            newer = await mesh.start("newer", identity=identity)
            await asyncio.wait_for(older.closed_itself.wait(), 10)
        assert isinstance(older.node.failure, IdentityInUse)
        assert len(log.having("another live process has this identity")) == 1
        with pytest.raises(BusClosed):
            older.node.ticket()
        await newer.joined(peer)
        left = await peer.lost(older)
        assert left.reason is LossReason.RESTARTED
        assert newer.node.failure is None
        assert await newer.done(newer.send(b"still here", peer)) is None
        assert [left.reason for left in peer.of(PeerLeft)] == [LossReason.RESTARTED]


async def test_of_two_with_one_identity_one_is_left_though_their_clocks_disagree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is told to close has the later claim: it comes back, and the other is shown it."""
    async with Mesh(tmp_path) as mesh:
        identity, hasty = Identity.generate(), Limits(redial_max_s=0.2)
        peer = await mesh.start("peer")
        older = await mesh.start("older", identity=identity, limits=hasty)
        await peer.joined(older)
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: 0)
            newer = await mesh.start("newer", identity=identity, limits=hasty)
        await asyncio.wait_for(newer.closed_itself.wait(), 10)
        await peer.until(lambda: [one.name for one in peer.node.peers] == ["older"])
        assert older.node.failure is None
        assert await older.done(older.send(b"still here", peer)) is None


async def test_a_new_incarnation_is_one_loss_and_one_arrival(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        identity = tmp_path / "identity"
        peer = await mesh.start("peer")
        before = await mesh.start("before", identity=identity)
        await peer.joined(before)
        assert await before.node.close()
        await mesh.start("after", identity=identity)
        await peer.event(PeerJoined, lambda event: event.peer.name == "after")
        presence = [event for event in peer.events if isinstance(event, PeerJoined | PeerLeft)]
        assert [(type(event), event.peer.name) for event in presence] == [
            (PeerJoined, "before"),
            (PeerLeft, "before"),
            (PeerJoined, "after"),
        ]
