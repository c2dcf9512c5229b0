"""UDP through a tunnel: flows of clients, and what becomes of datagrams that cannot be carried."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from brokerless import Limits, MessageTooLarge, UnknownPeer
from dittobus.tunnel import Began, Dropped, Ended, Failed, Forward, Kind, Place, forward
from tests.dittobus.tunnel.conftest import WAIT_S, Tunnel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import ExitStack

    from brokerless import Address
    from dittobus.aio import Bus

pytestmark = pytest.mark.asyncio

ANY = "127.0.0.1:0/udp"
LARGEST = 65_507
"""What UDP over IPv4 carries at most."""


class Socket:
    """A UDP socket, as a program has it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self.place = Place(Kind.UDP, *sock.getsockname())

    def send(self, datagram: bytes, to: Any) -> None:
        self.sock.sendto(datagram, (to.host, to.port) if isinstance(to, Place) else to)

    async def receive(self) -> tuple[bytes, Any]:
        async with asyncio.timeout(WAIT_S):
            return await self._loop.sock_recvfrom(self.sock, 1 << 16)

    async def echo(self) -> bytes:
        """Send the next datagram back."""
        datagram, sender = await self.receive()
        self.send(datagram, sender)
        return datagram

    async def ask(self, datagram: bytes, to: Any, server: Socket) -> bytes:
        """Send a datagram, and return the answer; again and again, as it may be lost."""
        while True:
            self.send(datagram, to)
            try:
                async with asyncio.timeout(1.0):
                    while await server.echo() != datagram:  # a late one of an earlier try
                        pass
                    while (answer := (await self.receive())[0]) != datagram:
                        pass
                    return answer
            except TimeoutError:
                continue


@pytest_asyncio.fixture
async def udp(sockets: ExitStack) -> Callable[[], Socket]:
    """A function that returns a new UDP socket."""

    def make() -> Socket:
        sock = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        return Socket(sock)

    return make


@pytest.mark.parametrize("size", [0, 1, 512, 1_232, 9_000, LARGEST])
async def test_a_datagram_of_any_size_and_its_answer(
    tunnel: Tunnel, udp: Callable[[], Socket], size: int
) -> None:
    client, server = udp(), udp()
    place = await tunnel.to(server.place)
    assert await client.ask(bytes(size), place, server) == bytes(size)


async def test_each_client_has_a_flow_of_its_own(tunnel: Tunnel, udp: Callable[[], Socket]) -> None:
    server, clients = udp(), [udp() for _ in range(20)]
    place = await tunnel.to(server.place)
    for _ in range(3):
        for number, client in enumerate(clients):
            assert await client.ask(b"%d" % number, place, server) == b"%d" % number
    assert len([notice for notice in tunnel.here.told if isinstance(notice, Began)]) == len(clients)


async def test_several_questions_at_once_wait_for_the_flow_to_open(
    tunnel: Tunnel, udp: Callable[[], Socket]
) -> None:
    client, server = udp(), udp()
    place = await tunnel.to(server.place)
    for number in range(5):
        client.send(b"%d" % number, place)
    heard = {(await server.receive())[0] for _ in range(5)}
    assert heard == {b"%d" % number for number in range(5)}


async def test_a_silent_flow_ends_at_both_sides_and_the_next_datagram_begins_another(
    tunnel: Tunnel, udp: Callable[[], Socket]
) -> None:
    client, server = udp(), udp()
    place = await tunnel.to(server.place, idle_s=0.3)
    await client.ask(b"first", place, server)
    here, there = await tunnel.here.next(Ended), await tunnel.there.next(Ended)
    assert here.error is there.error is None
    assert here.bytes_sent >= 5
    assert await client.ask(b"second", place, server) == b"second"


async def test_a_flow_in_use_goes_on(tunnel: Tunnel, udp: Callable[[], Socket]) -> None:
    server, clock, idle_s = udp(), asyncio.get_running_loop().time, 1.0
    place = await tunnel.to(server.place, idle_s=idle_s)
    for _ in range(5):
        client = udp()
        pauses_s: list[float] = []
        await client.ask(b"here", place, server)
        while sum(pauses_s) < 1.3 * idle_s:
            asked_at = clock()
            await client.ask(b"still here", place, server)
            pauses_s.append(clock() - asked_at)
        if max(pauses_s) < idle_s / 2:  # else the machine stood still, and the flow with it
            break
    ended = [notice.way.origin for notice in tunnel.here.told if isinstance(notice, Ended)]
    assert f"127.0.0.1:{client.place.port}" not in ended


async def test_a_datagram_over_the_limit_of_the_bus_is_dropped_and_told_of(
    mesh: dict[str, Any], make_aio_bus: Callable[..., Awaitable[Bus]], udp: Callable[[], Socket]
) -> None:
    near = await make_aio_bus("near")
    far = await make_aio_bus("far", limits=Limits(datagram_message_bytes_max=1_000))
    tunnel = Tunnel(near, far)
    client, server = udp(), udp()
    try:
        place = await tunnel.to(server.place)
        await client.ask(b"small", place, server)
        client.send(bytes(1_001), place)
        dropped = await tunnel.here.next(Dropped)
        assert isinstance(dropped.error, MessageTooLarge)
        assert await client.ask(bytes(1_000), place, server) == bytes(1_000)  # the flow goes on
    finally:
        await tunnel.close()


async def test_a_target_that_is_down_is_told_of(tunnel: Tunnel, udp: Callable[[], Socket]) -> None:
    client, server = udp(), udp()
    place = await tunnel.to(server.place)
    server.sock.close()
    client.send(b"anybody?", place)
    dropped = await tunnel.there.next(Dropped)
    assert isinstance(dropped.error, ConnectionRefusedError)


async def test_a_client_waits_in_vain_while_the_peer_is_away(
    tunnel: Tunnel, udp: Callable[[], Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "FLOWS_MAX", 1)
    go_on = asyncio.Event()

    async def find_nobody() -> Address:
        await go_on.wait()
        raise UnknownPeer("nobody of that name")

    client, other = udp(), udp()
    async with Forward(
        tunnel.near, Place.parse(ANY), find_nobody, Place.parse("127.0.0.1:9/udp"), tunnel.here
    ) as listening:
        for number in range(100):  # of which few are kept
            client.send(b"%d" % number, listening.place)
        for _ in range(3):
            other.send(b"one too many", listening.place)
        dropped = await tunnel.here.next(Dropped)
        assert dropped.way.origin == f"127.0.0.1:{other.place.port}"
        assert str(dropped.error) == "there are 1 clients already"
        go_on.set()
        failed = await tunnel.here.next(Failed)
        assert failed.way.origin == f"127.0.0.1:{client.place.port}"
        assert "nobody" in str(failed.error)


async def test_flows_end_with_the_tunnel(tunnel: Tunnel, udp: Callable[[], Socket]) -> None:
    client, server = udp(), udp()
    place = await tunnel.to(server.place)
    await client.ask(b"hello", place, server)
    await tunnel.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((place.host, place.port))


async def test_a_port_in_use_is_not_listened_on(tunnel: Tunnel, udp: Callable[[], Socket]) -> None:
    server = udp()
    with pytest.raises(OSError, match="in use"):
        await tunnel.forward(server.place, str(server.place))
