"""Who may stand at a listening socket, and who goes when there are too many."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

import pytest
import zmq

from brokerless.transport.doorway import Doorway
from tests.transport.support import PATIENCE_S, bare_context, turns

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.asyncio


class Door:
    """A PULL with its doorway."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], connections_max: int) -> None:
        self.pull = context.socket(zmq.PULL)
        self.doorway = Doorway(asyncio.get_running_loop(), context, self.pull, connections_max)
        self.pull.bind("tcp://127.0.0.1:*")
        self.place = self.pull.get_string(zmq.LAST_ENDPOINT).removeprefix("tcp://").split(":")

    async def knock(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, whatever becomes of it."""
        return await asyncio.open_connection(self.place[0], int(self.place[1]))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and wait until libzmq has accepted."""
        reader, writer = await self.knock()
        await reader.readexactly(10)  # the greeting begins
        return reader, writer


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with bare_context() as context:
        yield context


async def ended(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(PATIENCE_S):
        try:
            while await reader.read(1000):
                pass
        except ConnectionError:
            pass


async def stand(door: Door, count: int) -> None:
    """Wait until it is seen that so many stand there."""
    async for _ in turns():
        if len(door.doorway) == count:
            break


async def test_the_oldest_goes_first(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    door = Door(context, 2)
    standing = [await door.connect() for _ in range(2)]
    for number in range(3):
        standing.append(await door.connect())
        await ended(standing[number][0])
        assert len(door.doorway) <= 2
    assert not any(reader.at_eof() for reader, _ in standing[3:])
    for _, writer in standing:
        writer.close()
    door.doorway.close()


async def test_whoever_leaves_makes_room(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    door = Door(context, 2)
    (stays, staying), (_, leaving) = await door.connect(), await door.connect()
    await stand(door, 2)
    leaving.close()
    await stand(door, 1)
    _, comes = await door.connect()
    assert not stays.at_eof()
    for writer in (staying, comes):
        writer.close()
    door.doorway.close()


async def test_with_descriptors_exhausted_newcomers_are_let_in_to_be_hung_up_on(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    door = Door(context, 10)
    first, writing = await door.connect()
    await stand(door, 1)
    door.doorway._changed(zmq.EVENT_ACCEPT_FAILED, errno.ECONNABORTED)
    assert not door.doorway._reserve.spent
    door.doorway._changed(zmq.EVENT_ACCEPT_FAILED, errno.EMFILE)
    assert door.doorway._reserve.spent
    reader, writer = await door.knock()  # it may be hung up on before it is greeted
    await ended(reader)
    async for _ in turns():
        if not door.doorway._reserve.spent:  # its end gave descriptors back
            break
    assert not first.at_eof()
    _, more = await door.connect()
    for each in (writing, writer, more):
        each.close()
    door.doorway.close()


async def test_a_connection_that_is_gone_already_is_none(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    door = Door(context, 2)
    with socket.socket() as unconnected:
        door.doorway._changed(zmq.EVENT_ACCEPTED, unconnected.fileno())
    assert len(door.doorway) == 0
    door.doorway.close()
