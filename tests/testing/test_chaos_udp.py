"""The UDP chaos proxy between real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from brokerless.testing import Chaos, Datagram, Direction, chaos_udp
from brokerless.testing.chaos_direction import RECORDED_MAX
from brokerless.testing.chaos_fate import Disturbance, Fates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from brokerless.testing.chaos_direction import Place

pytestmark = pytest.mark.asyncio

SEED = 7
JITTER_SEED = 414
JITTER_ORDER = [3, 1, 4, 0, 2]
"""Of five with this seed, by their delays."""

ROUGH = Disturbance(loss=0.2, reordering=0.3, duplication=0.1, held_s_max=3600)
SWALLOW = Disturbance(blackhole=True)


class Ends:
    """A target behind a proxy, and the clients that send to it."""

    def __init__(self, chaos: Chaos, target: socket.socket) -> None:
        self.chaos = chaos
        self.target = target
        self.sockets = contextlib.ExitStack()

    def client(self) -> socket.socket:
        client = self.sockets.enter_context(bound())
        client.connect(("127.0.0.1", self.chaos.port))
        return client

    async def up(self, client: socket.socket, data: bytes) -> Place:
        """Send to the target, and return from where it got it."""
        client.send(data)
        arrived, place = await receive(self.target)
        assert arrived == data
        return place

    async def known_client(self) -> tuple[socket.socket, Place]:
        """Return a client, and the address by which the target knows it."""
        client = self.client()
        return client, await self.up(client, b"hello")


def bound(port: int = 0) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.bind(("127.0.0.1", port))
    return one


async def receive(end: socket.socket) -> tuple[bytes, Place]:
    return await asyncio.get_running_loop().sock_recvfrom(end, 65_535)


async def data_of(end: socket.socket, count: int) -> list[bytes]:
    """Return so many datagrams; more must not have come."""
    arrived = [(await receive(end))[0] for _ in range(count)]
    is_empty(end)
    return arrived


def is_empty(end: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        end.recv(1)


def is_balanced(direction: Direction, waiting: int = 0) -> bool:
    came = direction.received + direction.duplicated
    return came == direction.passed + direction.lost + direction.swallowed + direction.failed + waiting


async def a_turn() -> None:
    await asyncio.sleep(0)


async def have_come(direction: Direction, count: int) -> None:
    """Let the loop turn until so many datagrams came to the proxy; the test's own time limit ends it."""
    while direction.received < count:
        await a_turn()


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with bound() as target:
        yield target


@pytest_asyncio.fixture
async def ends(target: socket.socket) -> AsyncIterator[Ends]:
    async with Chaos(target.getsockname(), seed=SEED) as chaos:
        ends = Ends(chaos, target)
        with ends.sockets:
            yield ends


async def test_datagrams_pass_and_are_counted(ends: Ends) -> None:
    client = ends.client()
    apparent = await ends.up(client, b"up there")
    ends.target.sendto(b"down", apparent)
    assert await receive(client) == (b"down", ("127.0.0.1", ends.chaos.port))
    up, down = ends.chaos.upstream, ends.chaos.downstream
    assert [(way.received, way.passed, way.passed_bytes) for way in (up, down)] == [(1, 1, 8), (1, 1, 4)]
    assert ends.chaos.clients == {client.getsockname(): apparent}
    assert ends.chaos.place == f"127.0.0.1:{ends.chaos.port}"


@pytest.mark.parametrize("size_bytes", [0, 1, 1200, 65_507])
async def test_datagrams_of_all_sizes_pass(ends: Ends, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    client = ends.client()
    ends.target.sendto(data, await ends.up(client, data))
    assert (await receive(client))[0] == data


async def test_each_client_gets_its_own_answers(ends: Ends) -> None:
    clients = [await ends.known_client() for _ in range(5)]
    assert len({apparent for _, apparent in clients}) == 5
    for number, (_, apparent) in enumerate(clients):
        ends.target.sendto(b"%d" % number, apparent)
    for number, (client, _) in enumerate(clients):
        assert await data_of(client, 1) == [b"%d" % number]


async def test_who_is_not_the_target_reaches_no_client(ends: Ends) -> None:
    client, apparent = await ends.known_client()
    with bound() as stranger:
        stranger.sendto(b"false", apparent)
    ends.target.sendto(b"true", apparent)
    assert await data_of(client, 1) == [b"true"]
    assert ends.chaos.downstream.received == 1


@pytest.mark.parametrize(("way", "lost_of_seed"), [("up", 102), ("down", 92)])  # a fifth would be 100
async def test_exactly_those_are_lost_that_the_seed_says(ends: Ends, way: str, lost_of_seed: int) -> None:
    client = ends.client()
    sender, receiver, direction = client, ends.target, ends.chaos.upstream
    if way == "down":
        ends.target.connect(await ends.up(client, b"hello"))
        sender, receiver, direction = ends.target, client, ends.chaos.downstream
    lossy, fates, lost = Disturbance(loss=0.2), Fates(SEED, way, 1), 0
    direction.disturbance = lossy
    for number in range(500):
        sender.send(b"%d" % number)
        if fates.next(lossy).is_lost:
            lost += 1
        else:
            assert (await receive(receiver))[0] == b"%d" % number
    await have_come(direction, 500)
    assert (direction.lost, direction.passed) == (lost, 500 - lost) == (lost_of_seed, 500 - lost_of_seed)


async def test_exactly_those_come_in_the_order_that_the_seed_says(ends: Ends) -> None:
    ends.chaos.disturb(ROUGH)
    client, fates = ends.client(), Fates(SEED, "up", 1)
    expected: list[bytes] = []
    held: list[bytes] = []
    for number in range(400):
        data = b"%d" % number
        client.send(data)
        fate = fates.next(ROUGH)
        copies = [data] * len(fate.delays_s)
        if fate.is_held and not fate.is_lost:
            held += copies
        elif not fate.is_lost:
            expected += copies + held
            assert [(await receive(ends.target))[0] for _ in copies + held] == copies + held
            held = []
    await have_come(ends.chaos.upstream, 400)
    up = ends.chaos.upstream
    assert (up.lost, up.held, up.duplicated, up.passed) == (83, 99, 36, len(expected))
    assert is_balanced(up, len(held))
    assert expected != sorted(expected, key=int)


async def test_what_is_held_back_goes_on_after_a_while(ends: Ends) -> None:
    loop, client = asyncio.get_running_loop(), ends.client()
    ends.chaos.disturb(Disturbance(reordering=1, held_s_max=0.03))
    start = loop.time()
    client.send(b"one")
    client.send(b"two")
    assert await data_of(ends.target, 2) == [b"one", b"two"]
    assert loop.time() - start >= 0.029
    assert ends.chaos.upstream.held == 2
    assert is_balanced(ends.chaos.upstream)


async def test_all_may_come_twice(ends: Ends) -> None:
    client, apparent = await ends.known_client()
    ends.chaos.disturb(Disturbance(duplication=1))
    client.send(b"up")
    assert await data_of(ends.target, 2) == [b"up"] * 2
    ends.target.sendto(b"down", apparent)
    assert await data_of(client, 2) == [b"down"] * 2
    assert (ends.chaos.upstream.duplicated, ends.chaos.downstream.duplicated) == (1, 1)


async def test_latency_holds_each_way_and_keeps_the_order(ends: Ends) -> None:
    loop, client = asyncio.get_running_loop(), ends.client()
    ends.chaos.disturb(Disturbance(latency_s=0.03))
    start = loop.time()
    for number in range(10):
        client.send(b"%d" % number)
    (_, apparent), *_ = arrived = [await receive(ends.target) for _ in range(10)]
    assert [data for data, _ in arrived] == [b"%d" % number for number in range(10)]
    assert loop.time() - start >= 0.029
    ends.target.sendto(b"back", apparent)
    assert await data_of(client, 1) == [b"back"]
    assert loop.time() - start >= 0.058


async def test_what_comes_when_the_latency_is_gone_overtakes(ends: Ends) -> None:
    client, up = ends.client(), ends.chaos.upstream
    up.disturbance = Disturbance(latency_s=3600)
    client.send(b"late")
    await have_come(up, 1)
    up.disturbance = Disturbance()
    client.send(b"early")
    assert await data_of(ends.target, 1) == [b"early"]
    assert is_balanced(up, waiting=1)


async def test_jitter_changes_the_order_as_the_seed_says(
    target: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaken = Disturbance(latency_s=0.01, jitter_s=0.4)
    fates = Fates(JITTER_SEED, "up", 1)
    delays_s = [fates.next(shaken).delays_s[0] for _ in range(5)]
    in_order = sorted(range(5), key=delays_s.__getitem__)
    loop = asyncio.get_running_loop()
    async with Chaos(target.getsockname(), seed=JITTER_SEED) as chaos:
        chaos.upstream.disturbance = shaken
        ends = Ends(chaos, target)
        with ends.sockets:
            client, start = ends.client(), loop.time()
            with monkeypatch.context() as patch:
                patch.setattr(loop, "time", lambda: start)  # all come at once, however long it takes
                for number in range(5):
                    client.send(b"%d" % number)
                await have_come(chaos.upstream, 5)
            assert await data_of(target, 5) == [b"%d" % number for number in in_order]
            assert loop.time() - start >= max(delays_s) - 0.001
    assert in_order == JITTER_ORDER


async def test_what_is_swallowed_never_comes(ends: Ends) -> None:
    client, apparent = await ends.known_client()
    ends.chaos.disturb(SWALLOW)
    client.send(b"up")
    ends.target.sendto(b"down", apparent)
    await have_come(ends.chaos.upstream, 2)
    await have_come(ends.chaos.downstream, 1)
    ends.chaos.upstream.disturbance = Disturbance()
    assert await ends.up(client, b"again") == apparent
    ends.target.sendto(b"still not", apparent)
    await have_come(ends.chaos.downstream, 2)
    ends.chaos.downstream.disturbance = Disturbance()
    ends.target.sendto(b"now", apparent)
    assert await data_of(client, 1) == [b"now"]
    assert (ends.chaos.upstream.swallowed, ends.chaos.downstream.swallowed) == (1, 2)


async def test_what_was_under_way_is_not_swallowed(ends: Ends) -> None:
    client = ends.client()
    ends.chaos.upstream.disturbance = Disturbance(latency_s=0.02)
    client.send(b"under way")
    await have_come(ends.chaos.upstream, 1)
    ends.chaos.disturb(SWALLOW)
    assert await data_of(ends.target, 1) == [b"under way"]


async def test_a_client_may_get_another_address(ends: Ends) -> None:
    (one, of_one), (two, of_two) = [await ends.known_client() for _ in range(2)]
    ends.chaos.rebind(one.getsockname())
    assert ends.chaos.clients[two.getsockname()] == of_two
    ends.target.sendto(b"to the old one", of_one)
    now = await ends.up(one, b"here I am")
    assert now == ends.chaos.clients[one.getsockname()] != of_one
    ends.target.sendto(b"to the new one", now)
    assert await data_of(one, 1) == [b"to the new one"]
    before = ends.chaos.clients
    ends.chaos.rebind()
    assert not set(before.values()) & set(ends.chaos.clients.values())
    assert await ends.up(two, b"me too") == ends.chaos.clients[two.getsockname()]


async def test_what_is_under_way_leaves_from_the_new_address(ends: Ends) -> None:
    client = ends.client()
    ends.chaos.upstream.disturbance = Disturbance(latency_s=0.02)
    client.send(b"late")
    await have_come(ends.chaos.upstream, 1)
    ends.chaos.rebind()
    assert await receive(ends.target) == (b"late", ends.chaos.clients[client.getsockname()])


async def test_what_was_recorded_comes_again_and_again(ends: Ends) -> None:
    client = ends.client()
    ends.chaos.upstream.is_recording = ends.chaos.downstream.is_recording = True
    apparent = await ends.up(client, b"question")
    ends.target.sendto(b"answer", apparent)
    assert await data_of(client, 1) == [b"answer"]
    ends.chaos.upstream.is_recording = False
    await ends.up(client, b"not recorded")
    [question], [answer] = ends.chaos.upstream.recorded, ends.chaos.downstream.recorded
    assert question == Datagram(True, client.getsockname(), b"question")
    assert answer == Datagram(False, client.getsockname(), b"answer")
    ends.chaos.disturb(SWALLOW)
    for _ in range(3):
        ends.chaos.replay(question)
        ends.chaos.replay(answer)
    assert [await receive(ends.target) for _ in range(3)] == [(b"question", apparent)] * 3
    assert await data_of(client, 3) == [b"answer"] * 3
    ends.chaos.replay(question._replace(data=b"forged"))
    assert await receive(ends.target) == (b"forged", apparent)
    assert (ends.chaos.upstream.replayed, ends.chaos.downstream.replayed) == (4, 3)
    assert (ends.chaos.upstream.received, ends.chaos.upstream.passed) == (2, 2)


async def test_what_was_lost_may_be_recorded_and_replayed(ends: Ends) -> None:
    client = ends.client()
    ends.chaos.upstream.is_recording = True
    ends.chaos.disturb(SWALLOW)
    client.send(b"lost")
    await have_come(ends.chaos.upstream, 1)
    ends.chaos.rebind()
    ends.chaos.replay(ends.chaos.upstream.recorded[0])
    assert await receive(ends.target) == (b"lost", ends.chaos.clients[client.getsockname()])


async def test_a_replay_may_come_from_elsewhere(ends: Ends) -> None:
    client, apparent = await ends.known_client()
    address = client.getsockname()
    for _ in range(2):
        ends.chaos.replay(Datagram(True, address, b"up"), from_elsewhere=True)
        ends.chaos.replay(Datagram(False, address, b"down"), from_elsewhere=True)
    (_, elsewhere), (_, same) = [await receive(ends.target) for _ in range(2)]
    assert elsewhere == same != apparent
    ends.target.sendto(b"reply", elsewhere)
    while ends.chaos.replies_elsewhere < 1:
        await a_turn()
    assert ends.chaos.clients == {address: apparent}
    assert (ends.chaos.upstream.replayed, ends.chaos.downstream.received) == (2, 0)


async def test_a_client_hears_of_a_replay_from_elsewhere(ends: Ends) -> None:
    with bound() as client:
        client.sendto(b"hello", ("127.0.0.1", ends.chaos.port))
        await receive(ends.target)
        ends.chaos.replay(Datagram(False, client.getsockname(), b"false"), from_elsewhere=True)
        data, place = await receive(client)
    assert data == b"false"
    assert place != ("127.0.0.1", ends.chaos.port)


async def test_only_the_latest_are_remembered(ends: Ends) -> None:
    recorded = ends.chaos.upstream.recorded
    recorded.extend(Datagram(True, ("127.0.0.1", 1), b"%d" % n) for n in range(RECORDED_MAX + 5))
    assert len(recorded) == RECORDED_MAX
    assert recorded[0].data == b"5"


async def test_a_target_that_is_gone_for_a_while_is_found_again(ends: Ends) -> None:
    client, _ = await ends.known_client()
    port = ends.target.getsockname()[1]
    ends.target.close()
    for number in range(20):
        client.send(b"to nobody")
        await have_come(ends.chaos.upstream, 2 + number)
    with bound(port) as target:
        client.send(b"to somebody")
        data, apparent = await receive(target)
        assert data == b"to somebody"
        target.sendto(b"hello again", apparent)
        assert await data_of(client, 1) == [b"hello again"]
    assert is_balanced(ends.chaos.upstream)


async def test_a_client_that_is_gone_disturbs_no_other(ends: Ends) -> None:
    (gone, of_gone), (client, apparent) = [await ends.known_client() for _ in range(2)]
    gone.close()
    for _ in range(20):
        ends.target.sendto(b"to nobody", of_gone)
    await have_come(ends.chaos.downstream, 20)
    ends.target.sendto(b"to somebody", apparent)
    assert await data_of(client, 1) == [b"to somebody"]
    await ends.up(client, b"and back")


async def test_who_was_silent_longest_is_forgotten(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_udp, "CLIENTS_MAX", 2)
    (one, of_one), (two, _) = [await ends.known_client() for _ in range(2)]
    await ends.up(one, b"still here")
    three, _ = await ends.known_client()
    assert list(ends.chaos.clients) == [one.getsockname(), three.getsockname()]
    assert await ends.up(one, b"me") == of_one
    await ends.up(two, b"new to you")
    assert list(ends.chaos.clients) == [one.getsockname(), two.getsockname()]


async def test_what_is_under_way_is_bounded(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_udp, "WAITING_BYTES_MAX", 1000)
    ends.chaos.upstream.disturbance = Disturbance(latency_s=3600)
    client = ends.client()
    for number in range(15):
        client.send(bytes(100))
        await have_come(ends.chaos.upstream, number + 1)
    up = ends.chaos.upstream
    assert (up.failed, up.passed) == (5, 0)
    assert is_balanced(up, waiting=10)


async def test_what_waits_dies_with_the_proxy(target: socket.socket) -> None:
    async with Chaos(target.getsockname()) as chaos:
        ends = Ends(chaos, target)
        with ends.sockets:
            client = ends.client()
            for number, disturbance in enumerate(
                (Disturbance(latency_s=3600), Disturbance(reordering=1, duplication=1, held_s_max=3600))
            ):
                chaos.upstream.disturbance = disturbance
                client.send(b"never")
                await have_come(chaos.upstream, number + 1)
            chaos.replay(Datagram(True, client.getsockname(), b"the last"), from_elsewhere=True)
    assert await data_of(target, 1) == [b"the last"]
    assert (chaos.upstream.failed, chaos.clients) == (3, {})


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


async def test_without_descriptors_only_new_clients_suffer(ends: Ends) -> None:
    (known, _), new = await ends.known_client(), ends.client()
    with no_descriptors():
        new.send(b"lost")
        await have_come(ends.chaos.upstream, 2)
        await ends.up(known, b"passes")
    await ends.up(new, b"passes now")
    assert ends.chaos.upstream.failed == 1
    assert is_balanced(ends.chaos.upstream)
