"""Interpreters that exit with an open node, and processes that fork with one."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.processes.processes import SOON_S, Process, Processes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio

EXIT_S = 1.0
"""The promise, of a bus. It takes some 50 ms, so this is no bar of speed."""

NOISE = 3
"""How many times longer a promise of time may take on a machine that does other things."""


async def leave(process: Process) -> float:
    """Let a process exit without closing its node; return how long that took."""
    process.do("exit")
    began = (await process.says("exiting"))["at"]
    status, errors = await process.end()
    assert (status, errors) == (0, "")
    return float(time.monotonic() - began)


@pytest.mark.parametrize("discovery", ["registry", "zeroconf"])
async def test_an_interpreter_exits_with_an_open_node(tmp_path: Path, discovery: str) -> None:
    async with Processes(tmp_path, discovery=[discovery]) as processes:
        leaver, other = await processes.pair()
        other.do("open", to=leaver.address, name="x")
        stream = (await other.says("opened"))["stream"]
        leaver.do("send", to=other.address, data="one")
        await other.says("message")
        seconds = await leave(leaver)
        print(f"exited in {seconds:.3f} s")
        assert seconds < NOISE * EXIT_S
        assert (await other.says("ended", stream=stream))["error"] == "PeerLost"
        await other.says("left")


async def test_an_interpreter_exits_in_the_middle_of_a_transfer(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        leaver, other = await processes.pair()
        for one, peer in ((leaver, other), (other, leaver)):
            one.do("open", to=peer.address, name=f"of {one.address}")
            one.do("flood", stream=(await one.says("opened", name=f"of {one.address}"))["stream"])
        await other.until(lambda: len(other.heard("messages")) > 10)
        await leaver.until(lambda: len(leaver.heard("messages")) > 10)
        leaver.do("exit")
        await leaver.says("exiting")
        assert await leaver.end() == (0, "")


async def test_an_interpreter_exits_while_admit_hangs(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        host = await processes.start("host", admit_hangs=True)
        await processes.start("guest")
        await host.says("asked")
        assert await leave(host) < NOISE * EXIT_S


FORK = """
import asyncio, os, sys, traceback
from brokerless import *

def expect(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")

def in_child(node, peer, config, stream):
    expect(ForkedProcessError, lambda: node.send(b"x", peer, Reliability.RELIABLE))
    expect(ForkedProcessError, lambda: node.open_stream(peer, Reliability.RELIABLE, "", b""))
    expect(ForkedProcessError, lambda: node.want(peer))
    expect(ForkedProcessError, node.ticket)
    expect(ForkedProcessError, node.stats)
    asyncio.run(close_and_make_another(node, config))

async def close_and_make_another(node, config):
    await node.close()
    try:
        await node.start()
    except ForkedProcessError:
        pass
    joined = asyncio.Event()
    def hear(events):
        if any(isinstance(event, PeerJoined) and event.peer.name == "parent" for event in events):
            joined.set()
    another = Node(config("child"), hear)
    await another.start()
    await joined.wait()
    await another.close()

async def main():
    common = {"secret": generate_secret(), "interfaces": ("127.0.0.1",)}
    def config(name):
        return NodeConfig(name=name, directory=sys.argv[1], discovery=(sys.argv[2],), **common)
    events, told = [], asyncio.Event()
    def hear(new):
        events.extend(new)
        for event in new:
            if isinstance(event, MessageReceived):
                peer.consume(event.message)
        told.set()
    async def until(kind, count=1):
        while len([event for event in events if isinstance(event, kind)]) < count:
            told.clear()
            await told.wait()
    node, peer = Node(config("parent"), hear), Node(config("peer"), hear)
    await node.start()
    await peer.start()
    await until(PeerJoined, 2)
    stream = node.open_stream(peer.address, Reliability.RELIABLE, "", b"")
    child = os.fork()
    if child == 0:
        try:
            in_child(node, peer.address, config, stream)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    loop = asyncio.get_running_loop()
    _, status = await loop.run_in_executor(None, os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    node.send(b"unharmed", peer.address, Reliability.RELIABLE)
    await until(MessageReceived)
    await until(SendDone)
    assert [event.error for event in events if isinstance(event, SendDone)] == [None]
    left = [event.peer.name for event in events if isinstance(event, PeerLeft)]
    assert left == ["child"] * len(left), left
    newcomer = Node(config("newcomer"), lambda events: told.set())
    await newcomer.start()  # the parent is still in the registry, and still listens
    while {peer.name for peer in newcomer.peers if peer.state is PeerState.ALIVE} < {"parent", "peer"}:
        told.clear()
        await told.wait()
    stream.abort()
    assert [await each.close() for each in (newcomer, node, peer)] == [True] * 3
    print("well")

asyncio.run(main())
"""
"""A process that forks with an open node; the child may use none of it but make its own."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("discovery", ["registry", "zeroconf"])
async def test_a_forked_child_may_not_use_the_node_and_does_it_no_harm(
    tmp_path: Path, discovery: str
) -> None:
    pipe = asyncio.subprocess.PIPE
    options = ("-W", "ignore:This process:DeprecationWarning")  # of a fork among threads, which this is about
    process = await asyncio.create_subprocess_exec(
        sys.executable, *options, "-c", FORK, str(tmp_path / "bus"), discovery, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(SOON_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, output, errors) == (0, b"well\n", b"")
