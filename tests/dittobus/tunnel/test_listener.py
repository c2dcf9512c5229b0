"""Who is accepted, and what happens when nobody can be."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

from dittobus.tunnel import Place, listener
from dittobus.tunnel.listener import Listener, listening_sockets
from tests.dittobus.tunnel.conftest import WAIT_S
from tests.witness import reserved_port

if TYPE_CHECKING:
    from contextlib import ExitStack

pytestmark = pytest.mark.asyncio

ANY = Place.parse("127.0.0.1:0")


class Scarce:
    """A listening socket that runs out of descriptors twice."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.errors = [OSError(errno.EMFILE, "Too many open files") for _ in range(2)]

    def accept(self) -> Any:
        if self.errors:
            raise self.errors.pop()
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def test_without_descriptors_it_rests_and_accepts_later(
    monkeypatch: pytest.MonkeyPatch, sockets: ExitStack
) -> None:
    monkeypatch.setattr(listener, "REST_S", 0.01)
    (sock,) = await listening_sockets(ANY)
    accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
    failed: list[OSError] = []
    listening = Listener(Scarce(sock), accepted.put_nowait, failed.append)  # type: ignore[arg-type]
    sockets.callback(listening.close)
    client = sockets.enter_context(socket.create_connection(sock.getsockname()))
    async with asyncio.timeout(WAIT_S):
        server = sockets.enter_context(await accepted.get())
    assert server.getpeername() == client.getsockname()
    assert [error.errno for error in failed] == [errno.EMFILE] * 2


async def test_it_can_be_closed_while_it_rests(sockets: ExitStack) -> None:
    (sock,) = await listening_sockets(ANY)
    failed = asyncio.Event()
    listening = Listener(Scarce(sock), pytest.fail, lambda error: failed.set())  # type: ignore[arg-type]
    sockets.enter_context(socket.create_connection(sock.getsockname()))
    async with asyncio.timeout(WAIT_S):
        await failed.wait()
    listening.close()


async def test_a_host_may_have_addresses_that_are_not_here(
    monkeypatch: pytest.MonkeyPatch, sockets: ExitStack
) -> None:
    def found(*hosts: str) -> Any:
        async def getaddrinfo(*arguments: Any, **options: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 0)) for host in hosts]

        return getaddrinfo

    place = Place.parse(f"host:{sockets.enter_context(reserved_port())}")
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", found("240.0.0.1", "127.0.0.1"))
    (sock,) = await listening_sockets(place)
    sockets.enter_context(sock)
    assert sock.getsockname() == ("127.0.0.1", place.port)
    with pytest.raises(OSError, match="in use"):
        await listening_sockets(place)
    monkeypatch.setattr(loop, "getaddrinfo", found("240.0.0.1", "240.0.0.2"))
    with pytest.raises(OSError, match="assign"):
        await listening_sockets(place)
