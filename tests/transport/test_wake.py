"""Waiting for ZeroMQ sockets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import zmq

from brokerless.transport.wake import NOBLOCK, Wake
from tests.transport.support import PATIENCE_S, bare_context, collect_failures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio


class Reader:
    """Reads one message a look, or as told."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.looks = 0
        self.fails = 0
        self.socket = socket
        self.wake = Wake(asyncio.get_running_loop(), socket, self.look)

    def look(self) -> bool:
        self.looks += 1
        try:
            message = self.socket.recv(NOBLOCK)
        except zmq.Again:
            return False
        self.messages.put_nowait(message)
        if self.fails:
            self.fails -= 1
            raise ValueError("of the reader")
        return True

    async def next(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.messages.get()


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[tuple[Reader, zmq.Socket[bytes]]]:
    with bare_context() as context:
        ours, theirs = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        ours.bind("inproc://ends")
        theirs.connect("inproc://ends")
        reader = Reader(ours)
        yield reader, theirs
        reader.wake.close()


async def test_everything_is_read_a_bit_each_turn(ends: tuple[Reader, zmq.Socket[bytes]]) -> None:
    reader, theirs = ends
    for index in range(10):
        theirs.send(b"%d" % index)
    assert [await reader.next() for _ in range(10)] == [b"%d" % index for index in range(10)]


async def test_what_came_before_the_wake_is_read(ends: tuple[Reader, zmq.Socket[bytes]]) -> None:
    reader, theirs = ends
    reader.wake.close()
    theirs.send(b"early")
    assert reader.socket.poll(0)  # which takes the signal
    late = Reader(reader.socket)
    assert await late.next() == b"early"
    late.wake.close()


async def test_a_nudge_makes_up_for_a_signal_that_was_swallowed(
    ends: tuple[Reader, zmq.Socket[bytes]],
) -> None:
    reader, theirs = ends
    theirs.send(b"first")
    assert await reader.next() == b"first"
    theirs.send(b"second")
    assert reader.socket.poll(0)
    reader.wake.nudge()
    reader.wake.nudge()
    assert await reader.next() == b"second"


async def test_a_look_that_raises_is_repeated(ends: tuple[Reader, zmq.Socket[bytes]]) -> None:
    failures: list[BaseException] = []
    collect_failures(failures)
    reader, theirs = ends
    reader.fails = 2
    for message in (b"one", b"two", b"three"):
        theirs.send(message)
    assert [await reader.next() for _ in range(3)] == [b"one", b"two", b"three"]
    assert len(failures) == 2


async def test_no_look_after_close(ends: tuple[Reader, zmq.Socket[bytes]]) -> None:
    reader, theirs = ends
    theirs.send(b"unread")
    reader.wake.nudge()
    reader.wake.close()
    reader.wake.nudge()
    looks = reader.looks
    other = Reader(theirs)
    reader.socket.send(b"to the other")
    assert await other.next() == b"to the other"
    other.wake.close()
    assert reader.looks == looks
