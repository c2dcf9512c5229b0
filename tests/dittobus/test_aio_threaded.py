"""All that is tested of the asyncio face, with the node in a thread of its own; and what that is good for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    Address,
    Limits,
    Peer,
    PeerChanged,
    PeerJoined,
    StreamRejected,
    StreamReset,
    WaitTimeout,
)
from dittobus import OpenTimeout, blocking
from dittobus._aio_threaded import EVENTS_MANY, ThreadedAioExchange
from tests.dittobus.conftest import SECRET
from tests.dittobus.recording import WAIT_S
from tests.dittobus.test_aio import *  # noqa: F403
from tests.dittobus.test_aio import spin
from tests.dittobus.test_aio_stream import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dittobus.aio import Bus, Stream

    MakeBus = Callable[..., Awaitable[Bus]]

pytestmark = pytest.mark.asyncio

LIVENESS_S = 1.0
PROCESS_S = 45.0
"""How long a process may take on a busy machine before it counts as hanging."""

EXIT_S = 3 * 1.0
"""One second is promised in so many words; a machine that does other things may need three."""


@pytest.fixture
def io_thread() -> bool:
    return True


async def test_credit_comes_back_when_part_of_a_run_was_taken(ends: tuple[Stream, Stream]) -> None:
    """As in the loop, but that only what was taken comes back cannot be seen in one look."""
    ours, theirs = ends
    for number in range(10):
        await ours.send(b"%d" % number)
    await ours.wait_acknowledged()
    for number in range(3):
        assert await theirs.receive() == b"%d" % number
    for _ in range(1000):  # each question goes through the I/O thread
        if theirs.stats().unconsumed_messages == 7:
            break
        await spin()
    assert theirs.stats().unconsumed_messages == 7


async def test_a_loop_that_blocks_loses_nobody(make_aio_bus: MakeBus, mesh: dict[str, Any]) -> None:
    near = await make_aio_bus("near", limits=Limits(liveness_s=LIVENESS_S))
    with blocking.Bus("far", **mesh) as far:
        changes = far.peer_changes()
        address = far.wait_for_peer("near").address
        await near.wait_for_peer("far")
        with pytest.raises(WaitTimeout):  # while the loop waits for this, for three times the liveness limit
            far.receive_message(timeout=3 * LIVENESS_S)
        for number in range(100):
            far.send(b"%d" % number, address)  # is acknowledged, though nobody takes it
        messages = near.messages()
        assert [(await anext(messages)).data for _ in range(100)] == [b"%d" % number for number in range(100)]
        assert isinstance(next(c for c in changes if not isinstance(c, PeerChanged)), PeerJoined)
        far.close()
    assert [change for change in changes if not isinstance(change, PeerChanged)] == []


async def test_an_offer_withdrawn_while_the_loop_blocks_is_none(
    make_aio_bus: MakeBus, mesh: dict[str, Any]
) -> None:
    near = await make_aio_bus("near")
    with blocking.Bus("far", **mesh) as far:
        address = far.wait_for_peer("near").address
        for _ in range(3):
            with pytest.raises((OpenTimeout, StreamRejected)):
                far.open_stream(address, timeout=0.05)
        far.send(b"after the resets", address)
    await anext(near.messages())
    assert not near._exchange.offers.items


async def test_admit_is_asked_in_the_loop_of_the_application(
    make_aio_bus: MakeBus, mesh: dict[str, Any]
) -> None:
    asked: asyncio.Queue[asyncio.AbstractEventLoop] = asyncio.Queue()

    async def admit(peer: Peer) -> bool:
        await asyncio.sleep(0)
        asked.put_nowait(asyncio.get_running_loop())
        return True

    near = await make_aio_bus("near", admit=admit)
    await make_aio_bus("far")
    await near.wait_for_peer("far")
    assert asked.get_nowait() is asyncio.get_running_loop()


async def test_a_bus_that_is_closed_has_no_thread(make_aio_bus: MakeBus) -> None:
    bus = await make_aio_bus("near")
    names = {thread.name for thread in threading.enumerate()}
    assert "dittobus-near-io" in names
    await bus.close()
    assert "dittobus-near-io" not in {thread.name for thread in threading.enumerate()}


async def test_a_stream_under_way_while_the_loop_blocks(make_aio_bus: MakeBus, mesh: dict[str, Any]) -> None:
    near = await make_aio_bus("near")
    near.on_stream("x", lambda stream, peer: streams.put_nowait(stream))
    streams: asyncio.Queue[Any] = asyncio.Queue()
    with blocking.Bus("far", **mesh) as far:
        opening = asyncio.to_thread(far.open_stream, far.wait_for_peer("near"), name="x")
        theirs = await opening
        ours = await streams.get()
        for number in range(5):
            await ours.send(b"%d" % number)
            theirs.send(b"%d" % number)
        assert [theirs.receive(WAIT_S) for _ in range(5)] == [b"%d" % number for number in range(5)]
        theirs.wait_acknowledged(timeout=WAIT_S)
        assert [await ours.receive() for _ in range(5)] == [b"%d" % number for number in range(5)]
        theirs.abort(7)
        with pytest.raises(StreamReset):
            await ours.receive()


async def test_changes_of_peers_that_nobody_takes_are_bounded() -> None:
    exchange = ThreadedAioExchange(Limits())
    exchange._loop = asyncio.get_running_loop()
    changes = exchange.changes()
    peers = [Peer(Address(bytes([number] * 32))) for number in range(3)]
    exchange._on_events([PeerJoined(peer) for peer in peers])
    for number in range(2 * EVENTS_MANY):
        exchange._on_events([PeerChanged(Peer(peer.address, str(number))) for peer in peers])
    assert len(exchange._events) <= EVENTS_MANY + len(peers)
    exchange._deliver()
    told = [await anext(changes) for _ in range(len(changes._inbox.items))]
    assert told[:3] == [PeerJoined(peer) for peer in peers]
    assert told[-3:] == [PeerChanged(Peer(peer.address, str(2 * EVENTS_MANY - 1))) for peer in peers]


PRELUDE = f"""
import asyncio, atexit, os, sys, threading, time
ended = 0.0
atexit.register(lambda: ended and print("exit took", time.monotonic() - ended))  # the first is called last
from brokerless import ForkedProcessError
from dittobus.aio import Bus
arguments = dict(
    secret={SECRET!r}, directory=sys.argv[1], discovery=("registry",), interfaces=("127.0.0.1",),
    io_thread=True,
)
async def open_pair():
    near, far = Bus("near", **arguments), Bus("far", **arguments)
    await near.start()
    await far.start()
    return near, far, await near.wait_for_peer("far")
"""


def run(program: str, mesh: dict[str, Any]) -> str:
    """Run a program to its end, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + program, mesh["directory"]],
        capture_output=True,
        text=True,
        timeout=PROCESS_S,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


async def test_a_bus_left_open_does_not_hold_up_the_exit(mesh: dict[str, Any]) -> None:
    output = run(
        """
async def main():
    near, far, peer = await open_pair()
    await asyncio.gather(*(near.send(bytes(1000), peer) for _ in range(20)))
    left.extend([near, far])
left = []
asyncio.run(main())
ended = time.monotonic()
""",
        mesh,
    )
    assert float(output.split()[-1]) < EXIT_S


@pytest.mark.parametrize("undelivered", [[], [None]])
async def test_a_bus_whose_loop_is_gone_closes_when_something_comes(
    mesh: dict[str, Any], undelivered: list[None]
) -> None:
    output = run(
        f"undelivered = {undelivered}"
        """
async def main():
    near, far, peer = await open_pair()
    left.extend([near, far])
left = []
asyncio.run(main())
near, far = (bus._exchange for bus in left)
near._events.extend(undelivered)
far.call(setattr, far.node, "metadata", b"something")
near.io._thread.join()
print(near._shutdown.done.result(), near.io.loop.is_closed())
""",
        mesh,
    )
    assert output == "True True\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_forked_child_is_told_and_the_parent_unharmed(mesh: dict[str, Any]) -> None:
    output = run(
        """
async def main():
    near, far, peer = await open_pair()
    opening = asyncio.create_task(near.open_stream(peer))
    theirs = await (await anext(far.offers())).accept()
    stream = await opening
    lock = stream._port.outbox._lock
    lock.acquire()  # as the I/O thread may have done in that moment
    pid = os.fork()
    if pid:
        lock.release()
    else:
        refused = 0
        try:
            for command in (
                lambda: stream.send(b""),
                lambda: stream.finish(),
                lambda: near.send(b"", stream.peer),
                lambda: near.open_stream(stream.peer),
            ):
                try:
                    await command()
                except ForkedProcessError:
                    refused += 1
            print("refused", refused, flush=True)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    await stream.send(b"hello")
    assert await theirs.receive() == b"hello"
    stream.abort()
    theirs.abort()
    await near.close()
    await far.close()
asyncio.run(main())
""",
        mesh,
    )
    assert output == "refused 4\n"


@pytest.mark.parametrize("io_thread", [False, True])
async def test_it_works_under_uvloop(mesh: dict[str, Any], io_thread: bool) -> None:
    """In a process of its own, since uvloop keeps descriptors for as long as it lives."""
    pytest.importorskip("uvloop", reason="uvloop is not installed; it is never required")
    output = run(
        f"""
import uvloop
arguments["io_thread"] = {io_thread}
async def echo(stream, peer):
    async with stream:
        async for message in stream:
            await stream.send(message)
async def send_all(stream):
    for number in range(5000):
        await stream.send(b"%d" % number)
    await stream.finish()
async def main():
    near, far, peer = await open_pair()
    far.on_stream("echo", echo)
    await near.send(b"hello", peer)
    assert (await anext(far.messages())).data == b"hello"
    async with await near.open_stream(peer, name="echo") as stream:
        sending = asyncio.create_task(send_all(stream))
        assert [message async for message in stream] == [b"%d" % number for number in range(5000)]
        await sending
    await near.close()
    await far.close()
    print(type(asyncio.get_running_loop()))
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
""",
        mesh,
    )
    assert "uvloop.Loop" in output
