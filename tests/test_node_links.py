"""What a session survives: all links between two nodes pass through proxies that cut, freeze and refuse."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from brokerless import (
    DeliveryUnknown,
    Limits,
    LossReason,
    PeerChanged,
    PeerJoined,
    PeerLeft,
    PeerLost,
    PeerState,
    SendQueueFull,
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamReady,
)
from brokerless.testing import Chaos
from tests.witness import Mesh, Witness, reserved_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from brokerless import Stream

pytestmark = pytest.mark.asyncio

PIECE_BYTES = 16 * 1024
BULK_BYTES = 20_000_000

QUICK = Limits(liveness_s=1.0)
"""So that a loss need not be waited for long."""

PATIENT = Limits(liveness_s=20.0)
"""Where links are cut all the time and nobody is to be lost, however slow the machine."""

LIVELY = Limits(liveness_s=2.0)
"""Where there must be no loss for twice that time; within a shorter one a busy machine could make one."""


class Line(NamedTuple):
    """Two nodes, and the proxies that each is reached by."""

    first: Witness
    second: Witness
    proxies: tuple[Chaos, Chaos]

    def reset(self) -> None:
        for proxy in self.proxies:
            proxy.reset()

    def freeze(self) -> None:
        for proxy in self.proxies:
            proxy.blackhole()

    def thaw(self) -> None:
        for proxy in self.proxies:
            proxy.heal()

    def off(self) -> None:
        for proxy in self.proxies:
            proxy.off()

    def on(self) -> None:
        for proxy in self.proxies:
            proxy.on()

    async def suspected(self) -> None:
        """Wait until both sides doubt that the other is there."""
        for node, other in ((self.first, self.second), (self.second, self.first)):
            await node.event(PeerChanged, lambda event: event.peer.state is PeerState.SUSPECT)
            await node.until(
                lambda node=node, other=other: node.node.peer(other.address).state is PeerState.SUSPECT
            )

    @property
    def links_lost(self) -> int:
        return self.first.node.peer_stats(self.second.address).links_lost

    @property
    def connections(self) -> int:
        return sum(proxy.connections for proxy in self.proxies)

    def losses(self) -> list[PeerLeft]:
        return self.first.of(PeerLeft) + self.second.of(PeerLeft)


@asynccontextmanager
async def line(directory: Path, **options: Any) -> AsyncIterator[Line]:
    """Two nodes that know of each other only what they advertise: their proxies."""
    with reserved_port() as one, reserved_port() as other:
        async with Chaos(one) as near, Chaos(other) as far, Mesh(directory) as mesh:
            first = await mesh.start("first", port=one, advertise=(near.endpoint,), **options)
            second = await mesh.start("second", port=other, advertise=(far.endpoint,), **options)
            await first.joined(second)
            await second.joined(first)
            assert near.connections + far.connections > 0
            yield Line(first, second, (near, far))


async def pour(sender: Witness, stream: Stream, data: bytes) -> None:
    """Send it all in pieces, as room comes, and finish."""
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        while stream.room < len(piece):
            stream.want_ready()
            ready = len(sender.of(StreamReady))
            await sender.until(lambda ready=ready: len(sender.of(StreamReady)) > ready)
        stream.send(piece)
    stream.finish()


def arrived(receiver: Witness, stream: Stream) -> int:
    return sum(map(len, receiver.received.get(stream, [])))


async def transfer(line: Line, size: int, disturb: Callable[[], Awaitable[None]], times: int) -> None:
    """Send ``size`` bytes, disturbed so many times on the way; all must arrive, once and in order."""
    first, second = line.first, line.second
    data = random.Random(size).randbytes(size)
    stream = await first.opened(second, "bulk")
    other = await second.incoming("bulk")
    resumed_s: list[float] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(pour(first, stream, data))
        for number in range(1, times + 1):
            reached = number * size // (times + 2)
            await second.until(lambda reached=reached: arrived(second, other) >= reached)
            await disturb()
            began, before = time.monotonic(), arrived(second, other)
            await second.until(lambda before=before: arrived(second, other) > before)
            resumed_s.append(time.monotonic() - began)
    await second.event(StreamFinishedReceiving)
    assert arrived(second, other) == size
    assert hashlib.sha256(b"".join(second.received[other])).digest() == hashlib.sha256(data).digest()
    other.finish()
    assert await first.ended(stream) is None
    assert await second.ended(other) is None
    assert line.losses() == []
    print("resumed after", ", ".join(f"{seconds:.3f}" for seconds in resumed_s), "s")


async def test_cut_twenty_times_in_mid_transfer_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with line(tmp_path, limits=PATIENT) as line_:

        async def reset() -> None:
            before = line_.links_lost
            line_.reset()
            await line_.first.until(lambda: line_.links_lost > before)  # what is in sockets still arrives

        before = line_.connections
        await transfer(line_, BULK_BYTES, reset, 20)
        assert line_.connections - before >= 20


async def test_frozen_three_times_in_mid_transfer_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with line(tmp_path) as line_:

        async def freeze() -> None:
            line_.freeze()
            await line_.suspected()
            line_.thaw()

        await transfer(line_, BULK_BYTES, freeze, 3)


async def test_a_host_that_refuses_for_a_while_costs_a_pause(tmp_path: Path) -> None:
    async with line(tmp_path) as line_:

        async def interrupt() -> None:
            on = asyncio.Event()
            line_.off()
            asyncio.get_running_loop().call_later(0.5, on.set)
            await on.wait()
            line_.on()

        await transfer(line_, BULK_BYTES // 4, interrupt, 1)


async def test_cut_while_both_send_all_sorts_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with line(tmp_path, limits=PATIENT) as line_:
        first, second = line_.first, line_.second
        for proxy in line_.proxies:
            proxy.reset_after(400_000)
        sent = [b"%d:" % number + bytes(number * 37 % 9000) for number in range(300)]
        streams = [
            (one, other, one.open(other, f"{name} of {one.node.name}"))
            for one, other in ((first, second), (second, first))
            for name in ("a", "b")
        ]
        ids = []
        for data in sent:
            for one, other, stream in streams:
                while stream.room < len(data):
                    stream.want_ready()
                    await one.until(lambda stream=stream, data=data: stream.room >= len(data))
                stream.send(data)
                ids.append((one, one.send(data, other, timeout=None)))
        for one, send_id in ids:
            assert await one.done(send_id) is None
        for one, other, stream in streams:
            await one.event(
                StreamAcknowledged,
                lambda event, stream=stream: event.stream is stream and event.sequence == len(sent),
            )
            incoming = await other.incoming(stream.name)
            assert other.received[incoming] == sent
        for node in (first, second):
            assert [message.data for message in node.messages] == [data for data in sent for _ in range(2)]
        assert line_.connections > 10
        assert line_.losses() == []


async def test_a_silent_line_makes_the_peer_suspect_and_no_more(tmp_path: Path) -> None:
    async with line(tmp_path) as line_:
        line_.freeze()
        await line_.suspected()
        line_.thaw()
        for node in (line_.first, line_.second):
            await node.until(lambda node=node: node.of(PeerChanged)[-1].peer.state is PeerState.ALIVE)
        assert line_.losses() == []
        assert await line_.first.done(line_.first.send(b"x", line_.second)) is None


async def test_beyond_the_limit_both_sides_are_told_and_meet_again_afterwards(tmp_path: Path) -> None:
    async with line(tmp_path, limits=QUICK) as line_:
        first, second = line_.first, line_.second
        stream = await first.opened(second, "x")
        other = await second.incoming("x")
        began = time.monotonic()
        line_.freeze()
        send_id = first.send(b"once", second)
        for node, end in ((first, stream), (second, other)):
            error = await node.ended(end)
            assert isinstance(error, PeerLost)
            assert error.reason == "silent"
            assert error.silent_s >= 1.0
            [left] = node.of(PeerLeft)
            assert left.reason is LossReason.SILENT
            [ended] = node.of(StreamEnded)
            assert node.events.index(ended) < node.events.index(left)
        print(f"lost after {time.monotonic() - began:.3f} s")
        unknown = await first.done(send_id)
        assert isinstance(unknown, DeliveryUnknown)
        assert isinstance(unknown.__cause__, PeerLost)
        line_.thaw()
        began = time.monotonic()
        for node in (first, second):
            await node.until(lambda node=node: len(node.of(PeerJoined)) >= 2)
        print(f"together again after {time.monotonic() - began:.3f} s")
        assert await first.done(first.send(b"again", second)) is None
        assert [message.data for message in second.messages] == [b"again"]
        for node in (first, second):
            assert (len(node.of(PeerJoined)), len(node.of(PeerLeft))) == (2, 1)


async def test_a_receiver_that_never_reads_bounds_both_ends_and_stops_nobody_else(tmp_path: Path) -> None:
    async with line(tmp_path, limits=LIVELY) as line_:
        first, second = line_.first, line_.second
        stuck, lively = await first.opened(second, "stuck"), await first.opened(second, "lively")
        reader = await second.incoming("lively")
        unread = await second.incoming("stuck")
        second.consumes = False
        taken = refused = 0
        deadline = time.monotonic() + 2 * LIVELY.liveness_s
        for number in count(1):
            for _ in range(50):
                try:
                    taken = stuck.send(bytes(1000))
                except SendQueueFull:
                    refused += 1
            lively.send(b"x")
            await second.until(lambda number=number: len(second.received.get(reader, [])) >= number)
            reader.consume(1)
            await first.event(
                StreamAcknowledged,
                lambda event, number=number: event.stream is lively and event.sequence >= number,
            )
            if refused and time.monotonic() > deadline:
                break
        limits = first.node.limits
        here, there = stuck.stats(), unread.stats()
        assert here.send_queue_bytes <= limits.send_queue_bytes_max
        assert there.unconsumed_bytes <= limits.stream_window_initial_bytes
        assert taken == here.send_queue_messages + there.unconsumed_messages
        assert first.node.peer_stats(second.address).unacknowledged_bytes <= limits.unacknowledged_bytes_max
        assert line_.losses() == []
        unread.consume(there.unconsumed_messages)  # and with the first that is read it goes on
        await second.until(lambda: len(second.received[unread]) > there.unconsumed_messages)
