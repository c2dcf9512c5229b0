"""How long a stranger may stay, and how much it may say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from brokerless.transport import strangers
from brokerless.transport.strangers import STRANGER_BYTES_MAX, Strangers
from tests.transport.support import PATIENCE_S, turns

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.asyncio

tells = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much has come")

HURRY_S = 0.02


class Expired(list[tuple[int, str]]):
    """What was told of, and waiting for it."""

    def __call__(self, descriptor: int, why: str) -> None:
        self.append((descriptor, why))

    async def count(self, count: int) -> None:
        async for _ in turns():
            if len(self) >= count:
                return


@contextlib.contextmanager
def connection() -> Iterator[tuple[int, socket.socket]]:
    """The descriptor of an accepted connection that nobody reads, and its other end."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as accepted,
    ):
        client.setblocking(False)
        yield accepted.fileno(), client


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "LOOK_S", HURRY_S)


@tells
@pytest.mark.usefixtures("quickly")
async def test_who_says_too_much_is_told_of_and_nobody_else() -> None:
    expired = Expired()

    def expire(descriptor: int, why: str) -> None:
        watched.lift(descriptor)
        expired(descriptor, why)

    watched = Strangers(asyncio.get_running_loop(), PATIENCE_S, expire)
    with connection() as (quiet, modest), connection() as (loud, boaster), connection() as (friend, heavy):
        for descriptor in (quiet, loud, friend):
            watched.set(descriptor)
        watched.lift(friend)
        for client, size in (
            (modest, STRANGER_BYTES_MAX),
            (boaster, STRANGER_BYTES_MAX + 1),
            (heavy, 100_000),
        ):
            await asyncio.get_running_loop().sock_sendall(client, bytes(size))
        await expired.count(1)
        assert expired == [(loud, "too much of a stranger")]
        await asyncio.get_running_loop().sock_sendall(modest, b"x")
        await expired.count(2)
        assert expired[1:] == [(quiet, "too much of a stranger")]
        assert len(watched) == 0
    watched.close()


@pytest.mark.usefixtures("quickly")
async def test_whose_time_is_up_is_told_of() -> None:
    expired = Expired()
    watched = Strangers(asyncio.get_running_loop(), 2.5 * HURRY_S, expired)
    with connection() as (one, _), connection() as (other, _):
        watched.set(one)
        watched.set(other)
        assert (len(watched), watched.oldest()) == (2, one)
        await expired.count(2)
        assert expired == [(one, "a stranger for 0.05 s"), (other, "a stranger for 0.05 s")]
        assert len(watched) == 0
    watched.close()


@pytest.mark.usefixtures("quickly")
async def test_after_close_nobody_is_told_of() -> None:
    expired = Expired()
    watched = Strangers(asyncio.get_running_loop(), HURRY_S, expired)
    with connection() as (one, client):
        watched.set(one)
        await asyncio.get_running_loop().sock_sendall(client, bytes(100_000))
        watched.close()
        watched.close()
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(3 * HURRY_S, later.set)
        await later.wait()
        assert expired == []
