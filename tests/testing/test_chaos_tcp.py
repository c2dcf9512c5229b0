"""The chaos proxy between TCP sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from brokerless.errors import ConfigError
from brokerless.testing import Chaos
from brokerless.testing.chaos_tcp import BUFFER_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.asyncio

KERNEL_BYTES_MAX = 32 * 1024 * 1024
"""More than the socket buffers of a connection through the proxy ever hold, on systems as they come."""


class Ends:
    """A target behind a proxy, and the clients that were connected to it."""

    def __init__(self, chaos: Chaos, target: socket.socket) -> None:
        self.chaos = chaos
        self.target = target
        self.sockets = contextlib.ExitStack()

    def client(self) -> socket.socket:
        client = self.sockets.enter_context(socket.socket())
        client.setblocking(False)
        return client

    async def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return a client's socket and the target's end of the connection."""
        loop, client = asyncio.get_running_loop(), self.client()
        await loop.sock_connect(client, ("127.0.0.1", self.chaos.port))
        served, _ = await loop.sock_accept(self.target)
        return client, self.sockets.enter_context(served)


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest_asyncio.fixture
async def ends(target: socket.socket) -> AsyncIterator[Ends]:
    async with Chaos(target.getsockname()) as chaos:
        ends = Ends(chaos, target)
        with ends.sockets:
            yield ends


async def send(end: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(end, data)


async def receive(end: socket.socket, byte_count: int) -> bytes:
    """Return what comes, up to so many bytes, the end, or a reset."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while len(data) < byte_count:
            piece = await asyncio.get_running_loop().sock_recv(end, byte_count - len(data))
            if not piece:
                break
            data += piece
    return bytes(data)


def passed(ends: Ends) -> tuple[int, int]:
    return ends.chaos.upstream.tcp_bytes, ends.chaos.downstream.tcp_bytes


async def was_reset(end: socket.socket) -> bool:
    try:
        return await asyncio.get_running_loop().sock_recv(end, 1) == b"never"
    except ConnectionResetError:
        return True


async def fill(end: socket.socket, byte_count: int) -> int:
    """Send until nothing more is taken for a thousand turns of the loop; return how many bytes were taken."""
    piece, taken, refusals = bytes(256 * 1024), 0, 0
    while taken < byte_count and refusals < 1000:
        try:
            taken += end.send(piece)
            refusals = 0
        except BlockingIOError:
            refusals += 1
            await asyncio.sleep(0)
    return taken


async def another_proxy_passes(target: socket.socket) -> None:
    """See bytes through a proxy in the same loop: what an earlier one let pass has come by then."""
    async with Chaos(target.getsockname()) as chaos:
        client, served = await (ends := Ends(chaos, target)).connect()
        with ends.sockets:
            await send(client, b"other")
            assert await receive(served, 5) == b"other"


async def test_bytes_pass_and_are_counted(ends: Ends) -> None:
    client, served = await ends.connect()
    await send(client, b"up there")
    assert await receive(served, 8) == b"up there"
    await send(served, b"down")
    assert await receive(client, 4) == b"down"
    assert passed(ends) == (8, 4)
    assert ends.chaos.connections == 1
    assert ends.chaos.endpoint == f"tcp://127.0.0.1:{ends.chaos.port}"


async def test_much_passes_both_ways_at_once(ends: Ends) -> None:
    client, served = await ends.connect()
    up, down = os.urandom(8_000_000), os.urandom(8_000_000)
    arrived = await asyncio.gather(
        receive(served, len(up)), receive(client, len(down)), send(client, up), send(served, down)
    )
    assert [hashlib.sha256(data).digest() for data in arrived[:2]] == [
        hashlib.sha256(data).digest() for data in (up, down)
    ]


async def test_one_direction_ends_before_the_other(ends: Ends) -> None:
    client, served = await ends.connect()
    await send(client, b"question")
    client.shutdown(socket.SHUT_WR)
    assert await receive(served, 100) == b"question"
    await send(served, b"answer")
    served.shutdown(socket.SHUT_WR)
    assert await receive(client, 100) == b"answer"
    assert ends.chaos.connections_open == 0


async def test_a_reset_at_one_end_reaches_the_other(ends: Ends) -> None:
    client, served = await ends.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert await was_reset(served)
    assert ends.chaos.connections_open == 0


async def test_reset_cuts_what_is_there_and_spares_what_comes(ends: Ends) -> None:
    pairs = [await ends.connect() for _ in range(3)]
    ends.chaos.reset()
    assert ends.chaos.connections_open == 0
    for pair in pairs:
        assert [await was_reset(end) for end in pair] == [True, True]
    client, served = await ends.connect()
    await send(client, b"again")
    assert await receive(served, 5) == b"again"


async def test_reset_after_lets_exactly_so_many_bytes_pass(ends: Ends) -> None:
    data = os.urandom(400_000)
    present = await ends.connect()
    ends.chaos.reset_after(123_457)
    for client, served in (present, await ends.connect(), await ends.connect()):
        sending = asyncio.create_task(send(client, data))
        assert await receive(served, len(data)) == data[:123_457]
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await sending
            assert await was_reset(client)
    assert (ends.chaos.upstream.tcp_bytes, ends.chaos.connections_open) == (3 * 123_457, 0)


async def test_reset_after_counts_both_directions_and_from_the_call(ends: Ends) -> None:
    client, served = await ends.connect()
    await send(client, b"free")
    assert await receive(served, 4) == b"free"
    ends.chaos.reset_after(5)
    await send(client, b"123")
    assert await receive(served, 3) == b"123"
    await send(served, b"45")
    assert await receive(client, 2) == b"45"
    assert [await was_reset(client), await was_reset(served)] == [True, True]


async def test_reset_after_none_resets_no_more(ends: Ends) -> None:
    ends.chaos.reset_after(5)
    client, served = await ends.connect()
    ends.chaos.reset_after(None)
    await send(client, b"0123456789")
    assert await receive(served, 10) == b"0123456789"


async def test_bytes_in_the_black_hole_wait_until_it_heals(ends: Ends) -> None:
    old = await ends.connect()
    ends.chaos.blackhole()
    assert ends.chaos.upstream.blackhole
    new = await ends.connect()
    for client, served in (old, new):
        await send(client, b"up")
        await send(served, b"down")
        await another_proxy_passes(ends.target)
        for end in (client, served):
            with pytest.raises(BlockingIOError):
                end.recv(1)
    assert passed(ends) == (0, 0)
    assert ends.chaos.connections_open == 2
    ends.chaos.heal()
    for client, served in (old, new):
        assert await receive(served, 2) == b"up"
        assert await receive(client, 4) == b"down"


async def test_a_black_hole_holds_what_was_under_way_and_loses_none_of_it(ends: Ends) -> None:
    client, served = await ends.connect()
    data = os.urandom(20_000_000)
    sending = asyncio.create_task(send(client, data))
    arrived = await receive(served, 1_000_000)
    ends.chaos.blackhole()
    until_now, _ = passed(ends)
    arrived += await receive(served, until_now - len(arrived))
    with pytest.raises(BlockingIOError):
        served.recv(1)
    assert not sending.done()
    ends.chaos.heal()
    arrived += await receive(served, len(data) - len(arrived))
    await sending
    assert hashlib.sha256(arrived).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("black", [True, False])
async def test_the_sender_feels_that_nothing_flows(ends: Ends, black: bool) -> None:
    client, served = await ends.connect()
    if black:
        ends.chaos.blackhole()
    byte_count_max = KERNEL_BYTES_MAX + BUFFER_BYTES_MAX
    taken = await fill(client, 2 * byte_count_max)
    assert taken < byte_count_max
    ends.chaos.heal()
    assert len(await receive(served, taken)) == taken


async def test_a_delay_holds_each_way(ends: Ends) -> None:
    client, served = await ends.connect()
    loop = asyncio.get_running_loop()
    ends.chaos.set(latency_s=0.03)
    start = loop.time()
    await send(client, b"ping")
    assert await receive(served, 4) == b"ping"
    assert loop.time() - start >= 0.029
    await send(served, b"pong")
    assert await receive(client, 4) == b"pong"
    assert loop.time() - start >= 0.058


async def test_delayed_bytes_stay_in_order_when_the_delay_ends(ends: Ends) -> None:
    client, served = await ends.connect()
    ends.chaos.set(latency_s=0.03)
    await send(client, b"late")
    await another_proxy_passes(ends.target)
    ends.chaos.set(latency_s=0)
    await send(client, b"early")
    assert await receive(served, 9) == b"lateearly"


async def test_delayed_bytes_wait_for_the_healing_too(ends: Ends) -> None:
    client, served = await ends.connect()
    ends.chaos.set(latency_s=0.01)
    await send(client, b"data")
    client.shutdown(socket.SHUT_WR)
    await another_proxy_passes(ends.target)
    ends.chaos.blackhole()
    ends.chaos.heal()
    assert await receive(served, 100) == b"data"


async def test_delayed_bytes_die_in_a_reset(ends: Ends) -> None:
    client, served = await ends.connect()
    ends.chaos.set(latency_s=3600)
    await send(client, b"data")
    await another_proxy_passes(ends.target)
    ends.chaos.reset()
    assert await was_reset(served)
    assert ends.chaos.upstream.tcp_bytes == 0


async def test_off_resets_and_refuses_until_on(ends: Ends) -> None:
    client, served = await ends.connect()
    port = ends.chaos.port
    for _ in range(2):
        ends.chaos.off()
    assert [await was_reset(client), await was_reset(served)] == [True, True]
    with pytest.raises(ConnectionRefusedError):
        await ends.connect()
    for _ in range(2):
        ends.chaos.on()
    assert ends.chaos.port == port
    client, served = await ends.connect()
    await send(client, b"back")
    assert await receive(served, 4) == b"back"
    assert ends.chaos.connections == 2


async def test_a_client_is_reset_when_the_target_refuses(ends: Ends) -> None:
    ends.target.close()
    client = ends.client()
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", ends.chaos.port))
    assert await was_reset(client)
    assert ends.chaos.connections_open == 0


async def test_leaving_resets_and_refuses(target: socket.socket) -> None:
    async with Chaos(target.getsockname()) as chaos:
        client, served = await Ends.connect(ends := Ends(chaos, target))
    with ends.sockets:
        assert [await was_reset(client), await was_reset(served)] == [True, True]
        with pytest.raises(ConnectionRefusedError):
            await ends.connect()


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1 + count, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


async def test_without_descriptors_it_refuses_until_on(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    client = ends.client()
    with descriptors_left(0):
        with contextlib.suppress(BlockingIOError):
            client.connect(("127.0.0.1", ends.chaos.port))
        assert await was_reset(client)
    assert "cannot accept" in caplog.text
    ends.chaos.on()
    await ends.connect()


async def test_without_a_descriptor_for_the_target_the_client_is_reset(ends: Ends) -> None:
    client = ends.client()
    with descriptors_left(1):
        with contextlib.suppress(BlockingIOError):
            client.connect(("127.0.0.1", ends.chaos.port))
        assert await was_reset(client)
    await ends.connect()


@pytest.mark.parametrize("byte_count", [0, -1, 1.5])
async def test_a_bad_byte_count_is_named(ends: Ends, byte_count: int) -> None:
    with pytest.raises(ConfigError, match="byte_count"):
        ends.chaos.reset_after(byte_count)
