"""The side that has the targets: whom it connects to what, and what it refuses."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from brokerless import BusError, ConfigError, Reliability, StreamRejected
from dittobus.tunnel import Began, Ended, Exposure, Failed, Kind, Place, Refusal, Refused, exposure
from dittobus.tunnel.opening import STREAM_NAME, encode
from tests.witness import reserved_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from tests.dittobus.tunnel.conftest import Target, Tunnel

pytestmark = pytest.mark.asyncio

SOMEWHERE = Place.parse("127.0.0.1:9")


async def refusal(tunnel: Tunnel, **asked: Any) -> StreamRejected:
    """What it says to who opens a stream so."""
    arguments: dict[str, Any] = {"name": STREAM_NAME, "metadata": encode(SOMEWHERE), **asked}
    peer = await tunnel.find_far()
    with pytest.raises(StreamRejected) as refused:
        await tunnel.near.open_stream(peer, **arguments)
    return refused.value


async def test_only_what_is_exposed_is_reached(
    tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]
) -> None:
    await tunnel.expose(SOMEWHERE)
    client = await connect(await tunnel.forward(target.place))
    with pytest.raises(ConnectionResetError):
        await client.receive()
    reason = f"{target.place} is not exposed"
    assert await tunnel.there.next(Refused) == Refused(tunnel.near.address, reason)
    failed = await tunnel.here.next(Failed)
    assert isinstance(failed.error, StreamRejected)
    assert (failed.error.code, failed.error.reason) == (Refusal.NOT_EXPOSED, reason)
    with pytest.raises(BlockingIOError):
        target.listener.accept()


async def test_another_name_of_the_same_target_is_not_exposed(tunnel: Tunnel, target: Target) -> None:
    await tunnel.expose(target.place)
    same = Place(Kind.TCP, "localhost", target.place.port)
    assert (await refusal(tunnel, metadata=encode(same))).code == Refusal.NOT_EXPOSED


async def test_streams_that_are_none_of_a_tunnel_are_rejected(tunnel: Tunnel) -> None:
    await tunnel.expose(SOMEWHERE)
    assert (await refusal(tunnel, name="video")).code == Refusal.OTHER_STREAM


@pytest.mark.parametrize(
    "asked",
    [
        {"metadata": b""},
        {"metadata": b"\xc1"},
        {"metadata": msgpack.packb([2, "127.0.0.1:9"])},
        {"reliability": Reliability.UNRELIABLE},
    ],
)
async def test_what_is_not_understood_is_rejected(tunnel: Tunnel, asked: dict[str, Any]) -> None:
    await tunnel.expose(SOMEWHERE)
    assert (await refusal(tunnel, **asked)).code == Refusal.NOT_UNDERSTOOD


async def test_a_target_that_is_down_is_told_of(tunnel: Tunnel, tmp_path: Any) -> None:
    missing = Place.parse(f"{tmp_path}/none")
    nowhere = Place.parse("host..invalid:80")
    with reserved_port() as port:
        down = Place(Kind.TCP, "127.0.0.1", port)
        await tunnel.expose(down, missing, nowhere)
        for place, why in ((down, "refused"), (missing, "No such file"), (nowhere, "")):
            refused = await refusal(tunnel, metadata=encode(place))
            assert refused.code == Refusal.UNREACHABLE
            assert refused.reason.startswith(f"{place} cannot be reached: ")
            assert why in refused.reason


async def test_a_target_that_does_not_answer_is_not_waited_for_without_end(
    tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*arguments: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(exposure, "CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(Exposure, "_connect", never)
    await tunnel.expose(SOMEWHERE)
    assert "no answer within 0.05 s" in (await refusal(tunnel)).reason


async def test_who_gives_up_meanwhile_leaves_no_connection(
    tunnel: Tunnel, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, connecting = asyncio.Event(), asyncio.Event()
    connect = Exposure._connect

    async def slowly(self: Exposure, *arguments: Any) -> Any:
        connecting.set()
        await go_on.wait()
        return await connect(self, *arguments)

    monkeypatch.setattr(Exposure, "_connect", slowly)
    await tunnel.expose(target.place)
    peer = await tunnel.find_far()
    opening = asyncio.create_task(
        tunnel.near.open_stream(peer, name=STREAM_NAME, metadata=encode(target.place))
    )
    await connecting.wait()
    opening.cancel()
    await asyncio.wait([opening])
    await tunnel.near.send(b"after it", peer)  # so the reset has come, too
    go_on.set()
    assert isinstance((await tunnel.there.next(Failed)).error, BusError)
    with pytest.raises(ConnectionResetError):
        await (await target.accept()).receive()


async def test_a_unix_socket_is_a_target_like_any_other(
    tunnel: Tunnel, mesh: dict[str, Any], sockets: ExitStack, connect: Callable[[Place], Any]
) -> None:
    from tests.dittobus.tunnel.conftest import Target

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{mesh['directory']}/target")
    sock.listen()
    target = Target(sock)
    sockets.callback(target.close)
    client = await connect(await tunnel.to(target.place))
    server = await target.accept()
    await client.send(b"hello")
    client.finish()
    assert await server.receive_all() == b"hello"
    await server.send(b"world")
    server.close()
    assert await client.receive_all() == b"world"
    assert (await tunnel.there.next(Began)).peer == tunnel.near.address
    assert (await tunnel.there.next(Ended)).error is None


async def test_a_target_needs_a_port(tunnel: Tunnel) -> None:
    with pytest.raises(ConfigError, match="port"):
        Exposure(tunnel.far, [Place.parse("127.0.0.1:0")])


async def test_it_ends_with_its_bus(tunnel: Tunnel) -> None:
    serving = await tunnel.expose(SOMEWHERE)
    assert await refusal(tunnel, name="so it has begun")
    await tunnel.far.close()
    await serving
