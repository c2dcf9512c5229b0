"""Resets of sockets that nobody reads."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from dittobus.tunnel import hangups
from dittobus.tunnel.hangups import Hangups
from tests.dittobus.tunnel.conftest import WAIT_S, End

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not hangups.AVAILABLE, reason="there is no epoll here"),
]


@pytest_asyncio.fixture
async def watching() -> AsyncIterator[Hangups]:
    watching = Hangups(asyncio.get_running_loop())
    yield watching
    watching.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


async def test_a_reset_is_told_once(watching: Hangups, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    told: asyncio.Queue[None] = asyncio.Queue()
    watching.watch(ours, lambda: told.put_nowait(None))
    End(theirs).reset()
    async with asyncio.timeout(WAIT_S):
        await told.get()
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    await asyncio.sleep(0)
    assert told.empty()
    watching.forget(ours)


async def test_data_and_ends_are_no_resets(
    watching: Hangups, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    told: asyncio.Queue[None] = asyncio.Queue()
    watching.watch(ours, lambda: told.put_nowait(None))
    theirs.send(b"data")
    ours.shutdown(socket.SHUT_WR)
    theirs.close()
    ours.settimeout(WAIT_S)
    assert (ours.recv(4), ours.recv(4)) == (b"data", b"")
    for _ in range(3):
        await asyncio.sleep(0)
    assert told.empty()


async def test_who_was_forgotten_is_told_nothing(
    watching: Hangups, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    told: asyncio.Queue[None] = asyncio.Queue()
    watching.watch(ours, lambda: told.put_nowait(None))
    watching.forget(ours)
    watching.forget(ours)
    End(theirs).reset()
    ours.settimeout(WAIT_S)
    with pytest.raises(ConnectionResetError):  # so it has come
        ours.recv(1)
    await asyncio.sleep(0)
    assert told.empty()


async def test_without_epoll_nobody_is_told(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.setattr(hangups, "AVAILABLE", False)
    watching = Hangups(asyncio.get_running_loop())
    watching.watch(pair[0], lambda: None)
    watching.forget(pair[0])
    watching.close()
