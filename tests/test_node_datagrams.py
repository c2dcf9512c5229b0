"""Datagrams between real nodes, through proxies that lose, swallow, replay and forge them."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from brokerless import (
    DatagramPath,
    DropCause,
    MessageTooLarge,
    NoPath,
    PeerChanged,
    PeerLeft,
    Reliability,
    SendDone,
    Ticket,
)
from brokerless.testing import Chaos, Disturbance
from tests.soak import amount
from tests.witness import Mesh, Witness, reserved_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from brokerless.testing import Datagram, Direction

pytestmark = pytest.mark.asyncio

KIB = 1024
UNRELIABLE, SEQUENCED = Reliability.UNRELIABLE, Reliability.SEQUENCED
ROUGH = Disturbance(loss=0.2, reordering=0.3, duplication=0.1)
SWALLOW = Disturbance(loss=1)  # no black hole: that would hold PUSH up, too
TICK_S = 0.02
BATCH = 40
"""Datagrams at once, then an honest one that must arrive: no buffer overflows, none is still under way."""


class Line(NamedTuple):
    """Two nodes, and the proxies that each is reached by. Links pass these by."""

    first: Witness
    second: Witness
    to_first: Chaos
    to_second: Chaos

    def disturb(self, disturbance: Disturbance) -> None:
        for proxy in (self.to_first, self.to_second):
            proxy.disturb(disturbance)

    @property
    def ways(self) -> tuple[tuple[Chaos, Direction], ...]:
        """What leads from the first to the second: who sends to a proxy is answered through it."""
        return (self.to_second, self.to_second.upstream), (self.to_first, self.to_first.downstream)

    async def recorded(self, *texts: bytes) -> list[tuple[Chaos, Datagram]]:
        """Send these, and return all datagrams that came by meanwhile, each with the proxy to replay it."""
        for _, way in self.ways:
            way.is_recording = True
        for text in texts:
            await fence(self, text)
        for _, way in self.ways:
            way.is_recording = False
        return [(proxy, datagram) for proxy, way in self.ways for datagram in way.recorded]

    async def proven(self) -> None:
        for one, other in ((self.first, self.second), (self.second, self.first)):
            await one.until(lambda one=one, other=other: path(one, other) is DatagramPath.UDP)


def path(one: Witness, other: Witness) -> DatagramPath:
    peer = one.node.peer(other.address)
    return DatagramPath.NONE if peer is None else peer.path.datagram


@asynccontextmanager
async def line(directory: Path, seed: int = 1, **options: Any) -> AsyncIterator[Line]:
    """Two nodes that are told of each other's proxies only, and have proven both ways."""
    async with AsyncExitStack() as stack:
        one, other = (stack.enter_context(reserved_port()) for _ in range(2))
        near = await stack.enter_async_context(Chaos(one, seed=seed))
        far = await stack.enter_async_context(Chaos(other, seed=seed + 1))
        mesh = await stack.enter_async_context(Mesh(directory))
        options |= {"discovery": ()}
        first = await mesh.start("first", port=one, advertise=(near.endpoint,), **options)
        ticket = Ticket(first.address, (f"tcp://127.0.0.1:{one}",))
        second = await mesh.start("second", port=other, advertise=(far.endpoint,), peers=(ticket,), **options)
        await first.joined(second)
        await second.joined(first)
        both = Line(first, second, near, far)
        await both.proven()
        yield both


def transmit(sender: Witness, receiver: Witness, data: bytes, kind: Reliability, channel: int = 0) -> None:
    sender.node.transmit(data, receiver.address, kind, channel)


async def fence(line_: Line, text: bytes) -> None:
    """Send an unreliable message from the first to the second, and wait until it has arrived."""
    before = len(line_.second.unreliable)
    transmit(line_.first, line_.second, text, UNRELIABLE)
    await line_.second.until(lambda: text in [one.data for one in line_.second.unreliable[before:]])


def dropped(node: Witness) -> int:
    return sum(node.node.stats().dropped.values())


async def test_messages_of_every_size_arrive_by_udp(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        await first.until(lambda: path(first, second) is DatagramPath.UDP)
        sent = [random.Random(size).randbytes(size) for size in (0, 1, 1137, 1138, 20 * KIB, 64 * KIB)]
        for number, data in enumerate(sent, 1):
            send_id = first.node.send(data, second.address, SEQUENCED, 7)
            assert await first.done(send_id) is None
            await second.until(lambda number=number: len(second.unreliable) == number)
        assert [message.data for message in second.unreliable] == sent
        assert {(one.sender, one.channel, one.reliability) for one in second.unreliable} == {
            (first.address, 7, SEQUENCED)
        }
        with pytest.raises(MessageTooLarge):
            first.node.send(bytes(64 * KIB + 1), second.address, UNRELIABLE)
        stream = await first.opened(second, "game", UNRELIABLE)
        stream.send(b"x" * 3000)
        incoming = await second.incoming("game")
        await second.until(lambda: second.received.get(incoming) == [b"x" * 3000])
        stream.finish()
        incoming.finish()
        assert await first.ended(stream) is None


@pytest.mark.parametrize("seed", [1, 2])
async def test_in_bad_weather_nothing_comes_twice_or_goes_backwards(tmp_path: Path, seed: int) -> None:
    async with line(tmp_path, seed) as line_:
        first, second = line_.first, line_.second
        streams = [await first.opened(second, kind.value, kind) for kind in (UNRELIABLE, SEQUENCED)]
        line_.disturb(ROUGH)
        for number in range(300):
            data = b"%d" % number
            for kind in (UNRELIABLE, SEQUENCED):
                for channel in range(2):
                    transmit(first, second, data, kind, channel)
            for stream in streams:
                stream.send(data)
            assert await first.done(first.send(b"", second)) is None  # sets the pace
        line_.disturb(Disturbance())
        await fence(line_, b"300")
        lanes: dict[tuple[Reliability, object], list[int]] = defaultdict(list)
        for message in second.unreliable:
            if message.data != b"300":  # which what was held back on the way may follow
                lanes[message.reliability, message.channel].append(int(message.data))
        for stream, messages in second.received.items():
            lanes[stream.reliability, stream.name].extend(map(int, messages))
        assert len(lanes) == 6
        for (kind, _), numbers in lanes.items():
            assert len(set(numbers)) == len(numbers)
            assert max(numbers) >= 280
            if kind is SEQUENCED:
                assert numbers == sorted(numbers)
            else:
                assert len(numbers) > 190
        assert first.of(PeerLeft) == second.of(PeerLeft) == []
        assert second.node.stats().dropped[DropCause.DUPLICATE] > 0


async def test_swallowed_udp_gives_way_to_push_and_serves_again_when_it_is_back(tmp_path: Path) -> None:
    async with line(tmp_path) as line_:
        first, second = line_.first, line_.second
        loop = asyncio.get_running_loop()
        ticks = 0  # the clock by which the limits of the promise are judged: it stands still with the loop

        def tick() -> None:
            nonlocal timer, ticks
            timer = loop.call_later(TICK_S, tick)
            ticks += 1
            transmit(first, second, b"%d" % ticks, UNRELIABLE)

        timer = loop.call_later(0, tick)
        try:
            await second.until(lambda: len(second.unreliable) > 5)
            line_.disturb(SWALLOW)
            blocked_at = ticks
            await second.until(lambda: int(second.unreliable[-1].data) > blocked_at)
            print(f"by PUSH after {(ticks - blocked_at) * TICK_S:.2f} s")
            assert (ticks - blocked_at) * TICK_S < 2.0
            await first.until(lambda: path(first, second) is DatagramPath.PUSH)
            line_.disturb(Disturbance())
            back_at = ticks
            await first.until(lambda: path(first, second) is DatagramPath.UDP)
            print(f"by UDP after {(ticks - back_at) * TICK_S:.2f} s")
            assert (ticks - back_at) * TICK_S < 10.0
        finally:
            timer.cancel()
        numbers = [int(message.data) for message in second.unreliable]
        assert len(set(numbers)) == len(numbers)
        changes = [event.peer.path.datagram for event in first.of(PeerChanged)]
        assert [one for one in changes if one is not DatagramPath.NONE][-2:] == [
            DatagramPath.PUSH,
            DatagramPath.UDP,
        ]


async def test_what_is_replayed_or_forged_is_dropped_without_a_word(tmp_path: Path) -> None:
    async with line(tmp_path) as line_:
        second = line_.second
        recorded = await line_.recorded(*(b"%d" % number for number in range(50)))
        assert len(recorded) >= 50
        proxy, sample = recorded[0]
        forged = []
        for bit in range(8 * len(sample.data)):
            data = bytearray(sample.data)
            data[bit // 8] ^= 1 << bit % 8
            forged.append((proxy, sample._replace(data=bytes(data))))
        before, sent = dropped(second), len(second.unreliable)
        for from_elsewhere in (False, True):
            for start in range(0, len(recorded) + len(forged), BATCH):
                for proxy, datagram in (recorded + forged)[start : start + BATCH]:
                    proxy.replay(datagram, from_elsewhere=from_elsewhere)
                await fence(line_, b"fence")
        texts = [message.data for message in second.unreliable[sent:]]
        assert set(texts) == {b"fence"}
        assert dropped(second) - before == 2 * (len(recorded) + len(forged))
        transmit(second, line_.first, b"back", UNRELIABLE)
        await line_.first.until(lambda: bool(line_.first.unreliable))
        assert line_.to_first.replies_elsewhere == line_.to_second.replies_elsewhere == 0
        assert path(second, line_.first) is DatagramPath.UDP


@pytest.mark.soak
@pytest.mark.timeout(amount(60, 7_200))
async def test_10_000_datagrams_of_nonsense_leave_a_good_peer_alone(tmp_path: Path) -> None:
    count = amount(10_000, 1_000_000)
    async with line(tmp_path) as line_:
        second = line_.second
        sample = max((datagram.data for _, datagram in await line_.recorded(bytes(200))), key=len)
        chance = random.Random(10_000)
        before = dropped(second)
        target = ("127.0.0.1", line_.to_second.port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for start in range(0, count, BATCH):
                for _ in range(start, min(start + BATCH, count)):
                    stranger.sendto(_nonsense(chance, sample), target)
                await fence(line_, b"fence")
        assert dropped(second) - before == count
        assert second.of(PeerLeft) == []


def _nonsense(chance: random.Random, sample: bytes) -> bytes:
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.randint(1, 1500))
        case 1:
            return sample[: chance.randrange(len(sample))]
        case 2:
            return sample + chance.randbytes(chance.randint(1, 5_000))
        case 3:
            return sample[: chance.choice([3, 4, 12, 20])] + chance.randbytes(chance.randint(70, 1170))
        case _:
            changed = bytearray(sample)
            changed[chance.randrange(len(changed))] ^= chance.randint(1, 255)
            return bytes(changed)


async def test_where_neither_way_works_a_send_fails_with_no_path(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh, AsyncExitStack() as stack:
        port = stack.enter_context(reserved_port())
        nobody = (f"tcp://127.0.0.1:{stack.enter_context(reserved_port())}",)
        first = await mesh.start("first", port=port, advertise=nobody, discovery=())
        ticket = Ticket(first.address, (f"tcp://127.0.0.1:{port}",))
        second = await mesh.start("second", advertise=nobody, discovery=(), peers=(ticket,))
        await second.joined(first)
        loop = asyncio.get_running_loop()

        def tick() -> None:
            nonlocal timer
            timer = loop.call_later(0.05, tick)
            second.node.send(b"x", first.address, SEQUENCED)

        timer = loop.call_later(0, tick)
        try:
            failed = await second.event(SendDone, lambda event: event.error is not None)
        finally:
            timer.cancel()
        assert isinstance(failed.error, NoPath)
        assert second.node.stats().dropped[DropCause.NO_PATH] >= 1
