"""What is killed at a tunnel: either side, or the server behind it. Nothing hangs, and what can goes on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from brokerless import Limits
from tests.dittobus.tunnel.conftest import End, Target
from tests.dittobus.tunnel.programs import SOON_S, TEST_S, Programs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dittobus.tunnel import Place

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(TEST_S)]

NOISE = 2
"""How many times longer a promise of time may take on a machine that does other things."""


@pytest_asyncio.fixture
async def programs() -> AsyncIterator[Programs]:
    async with Programs() as programs:
        yield programs


async def until_reset(end: End) -> float:
    """Take what comes until the connection is reset; return when that was."""
    with contextlib.suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(end.sock, 1 << 20):
            pass
        raise AssertionError("that was an end, and no reset")
    return time.monotonic()


async def test_what_a_killed_side_had_is_reset_within_the_limit(
    programs: Programs, target: Target, connect: Callable[[Place], Any], sockets: contextlib.ExitStack
) -> None:
    """One tunnel loses the side with the targets, another at the same time the side that listens."""
    from dittobus.tunnel import Place

    first, second = target, Target(socket.create_server(("127.0.0.1", 0)))
    sockets.callback(second.close)
    exposing = await programs.expose(str(first.place))
    await programs.expose(str(second.place), name="other")
    _, place = await programs.listen(str(first.place))
    listening = await programs.tunnel("-L", f"0:other:{second.place}", f"--timeout={SOON_S}", "--json")
    other_place = (await listening.tells("listening"))["listen"]

    clients = [await connect(Place.parse(place)) for _ in range(2)]
    for _ in clients:
        await first.accept()
    for _ in range(2):
        await connect(Place.parse(other_place))
    servers = [await second.accept() for _ in range(2)]
    first.accepted[0].send_what_fits(bytes(20_000_000))  # more than is taken: nobody reads that
    servers[0].send_what_fits(bytes(20_000_000))

    killed_at = time.monotonic()
    await exposing.end()
    await listening.end()
    async with asyncio.timeout(NOISE * Limits().liveness_s):
        reset_at = await asyncio.gather(*map(until_reset, (*clients, *servers)))
    print("reset after", [round(moment - killed_at, 2) for moment in reset_at])

    await programs.expose(str(first.place))  # of the same name, by another address
    again = await connect(Place.parse(place))
    server = await first.accept()
    await again.send(b"hello")
    assert await server.receive_exactly(5) == b"hello"


async def test_a_killed_server_cuts_its_connections(
    programs: Programs, connect: Callable[[Place], Any]
) -> None:
    from dittobus.tunnel import Place

    files = programs.directory / "files"
    files.mkdir()
    with (files / "large").open("wb") as file:
        file.truncate(50_000_000)
    web = await programs.start(
        sys.executable, "-u", "-m", "http.server", "--bind=127.0.0.1", f"--directory={files}", "0"
    )
    port = (await web.says("Serving HTTP")).split()[5]
    client = await connect(Place.parse(await programs.through(f"127.0.0.1:{port}")))
    await client.send(b"GET /large HTTP/1.0\r\n\r\n")
    received = len(await client.receive())
    await web.end()
    with contextlib.suppress(ConnectionError):
        while more := await client.receive():
            received += len(more)
    assert 0 < received < 50_000_000
