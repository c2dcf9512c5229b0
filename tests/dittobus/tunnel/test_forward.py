"""The side that listens: where, for whom, and what becomes of who connects in vain."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Address, PeerLost, UnknownPeer
from dittobus.tunnel import Began, Ended, Failed, Forward, Kind, Place, Route
from tests.witness import reserved_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dittobus.aio import Bus
    from tests.dittobus.tunnel.conftest import End, Target, Tunnel

pytestmark = pytest.mark.asyncio

ANY = Place.parse("127.0.0.1:0")


async def echo_once(target: Target, client: End) -> None:
    """See that the connection of ``client`` leads to ``target``."""
    server = await target.accept()
    await client.send(b"hello")
    assert await server.receive_exactly(5) == b"hello"
    server.close()


async def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert Route.parse("0:far:127.0.0.1:80").listen == ANY


async def test_it_listens_where_it_is_told(
    tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]
) -> None:
    await tunnel.expose(target.place)
    for host in ("*", "127.0.0.1"):
        port = (await tunnel.forward(target.place, f"{host}:0")).port
        await echo_once(target, await connect(Place(Kind.TCP, "127.0.0.1", port)))


async def test_a_port_in_use_is_not_listened_on(tunnel: Tunnel, target: Target) -> None:
    for place in (target.place, Place.parse("256.0.0.1:0")):
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            await Forward(tunnel.near, place, tunnel.find_far, target.place).start()


async def test_after_it_is_closed_nobody_listens(
    tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]
) -> None:
    with reserved_port() as port:
        place = Place(Kind.TCP, "127.0.0.1", port)
        async with Forward(tunnel.near, place, tunnel.find_far, target.place):
            await connect(place)
        with pytest.raises(ConnectionRefusedError):
            await connect(place)


# Unix sockets


async def test_a_unix_socket_is_for_this_user_and_gone_in_the_end(
    tunnel: Tunnel, target: Target, mesh: dict[str, Any], connect: Callable[[Place], Any]
) -> None:
    path = f"{mesh['directory']}/here"
    await tunnel.expose(target.place)
    place = await tunnel.forward(target.place, path)
    assert place == Place(Kind.UNIX, path=path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    await echo_once(target, await connect(place))
    await tunnel.close()
    with pytest.raises(FileNotFoundError):
        os.stat(path)


async def test_a_unix_socket_that_was_left_behind_is_replaced(
    tunnel: Tunnel, target: Target, mesh: dict[str, Any], connect: Callable[[Place], Any]
) -> None:
    path = f"{mesh['directory']}/here"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    await tunnel.expose(target.place)
    await echo_once(target, await connect(await tunnel.forward(target.place, path)))


async def test_a_unix_socket_in_use_is_left_alone(
    tunnel: Tunnel, target: Target, mesh: dict[str, Any]
) -> None:
    path = f"{mesh['directory']}/here"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(OSError, match="in use"):
            await tunnel.forward(target.place, path)
    assert stat.S_ISSOCK(os.stat(path).st_mode)


async def test_a_file_that_is_no_socket_is_left_alone(tunnel: Tunnel, target: Target, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        await tunnel.forward(target.place, str(path))
    assert path.read_text() == "precious"


# Peers


async def test_who_connects_while_the_peer_is_away_is_reset(
    tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]
) -> None:
    async def find_nobody() -> Address:
        raise UnknownPeer("nobody of that name")

    forward = Forward(tunnel.near, ANY, find_nobody, target.place, tunnel.here)
    async with forward:
        client = await connect(forward.place)
        with pytest.raises(ConnectionResetError):
            await client.receive()
    assert "nobody" in str((await tunnel.here.next(Failed)).error)


async def test_a_peer_that_comes_back_is_served_at_once(
    tunnel: Tunnel,
    target: Target,
    connect: Callable[[Place], Any],
    make_aio_bus: Callable[..., Awaitable[Bus]],
) -> None:
    place = await tunnel.to(target.place)
    before = await connect(place)
    server = await target.accept()
    await tunnel.here.next(Began)
    await tunnel.far.close(timeout=0)
    with pytest.raises(ConnectionResetError):
        await before.receive()
    with pytest.raises(ConnectionResetError):
        await server.receive()
    assert (await tunnel.here.next(Ended)).error is not None
    waiting = await connect(place)  # while nobody is there
    await tunnel.expose(target.place, bus=await make_aio_bus("far"))  # with another address
    await echo_once(target, waiting)
    await echo_once(target, await connect(place))


@pytest.mark.parametrize("error", [PeerLost(reason="silent"), UnknownPeer("it has left")])
async def test_a_peer_that_was_lost_unnoticed_is_looked_for_again(
    tunnel: Tunnel,
    target: Target,
    connect: Callable[[Place], Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    await tunnel.expose(target.place)
    open_stream = tunnel.near.open_stream
    errors: list[Exception] = [error]

    async def open_at_last(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await open_stream(*arguments, **options)

    monkeypatch.setattr(tunnel.near, "open_stream", open_at_last)
    await echo_once(target, await connect(await tunnel.forward(target.place)))
    assert not errors


async def test_a_search_for_a_peer_ends_with_the_tunnel(
    tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]
) -> None:
    looking = asyncio.Event()

    async def look_for_ever() -> Address:
        looking.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with Forward(tunnel.near, ANY, look_for_ever, target.place) as forward:
        client = await connect(forward.place)
        await looking.wait()
    with pytest.raises(ConnectionResetError):
        await client.receive()
