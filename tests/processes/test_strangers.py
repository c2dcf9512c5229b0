"""What comes to an open port: scanners, browsers, silence and garbage; and a good peer afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from tests.processes.processes import SOON_S, Process, Processes
from tests.soak import amount

pytestmark = pytest.mark.asyncio

HANDSHAKE_S = 1.0
LIMITS = {"handshake_timeout_s": HANDSHAKE_S}
NOISE = 3
"""How many times longer a promise of time may take on a machine that does other things."""

GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01"
"""How a ZMTP 3.1 connection begins; the mechanism follows."""


def greeting(mechanism: bytes) -> bytes:
    return GREETING + mechanism.ljust(20, b"\0") + bytes(32)


def port_of(process: Process) -> int:
    return int(process.ticket.rpartition(":")[2])


def descriptors_of(process: Process) -> int | None:
    """How many descriptors a process has open, where the system tells."""
    listing = Path(f"/proc/{process.process.pid}/fd")
    return len(os.listdir(listing)) if listing.exists() else None


async def hung_up_on(port: int, data: bytes) -> float:
    """Connect, say that, and wait until the other end hangs up; return how long that took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    try:
        writer.write(data)
        async with asyncio.timeout(SOON_S):
            while await reader.read(4096):
                pass
    except ConnectionError:
        pass
    finally:
        writer.close()
    return time.monotonic() - began


async def knock(port: int) -> None:
    """Connect and go away, as a scanner does."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def serves_a_good_peer(processes: Processes, host: Process, name: str = "good") -> None:
    good = await processes.start(name, discovery=[], peers=[host.ticket])
    await good.says("joined", peer=host.address)
    good.do("send", to=host.address, data=f"hello from {name}")
    await host.says("message", data=f"hello from {name}")
    assert (await good.says("done"))["error"] is None
    good.do("close")
    assert (await good.says("closed"))["acknowledged"]


async def quiet(host: Process, descriptors: int | None) -> None:
    """Nothing is left of those who came: a look at the descriptors for each answer of the process."""
    async with asyncio.timeout(SOON_S):
        while descriptors is not None and (descriptors_of(host) or 0) > descriptors:
            host.do("stats")
            await host.says_next("stats")


async def test_who_says_nothing_proper_is_hung_up_on_in_time(tmp_path: Path) -> None:
    async with Processes(tmp_path, limits=LIMITS) as processes:
        host = await processes.start("host", discovery=[])
        port, before = port_of(host), descriptors_of(host)
        for _ in range(50):
            await knock(port)
        said = {
            "nothing": b"",
            "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
            "half a greeting": GREETING,
            "no security": greeting(b"NULL"),
            "a password": greeting(b"PLAIN"),
            "curve, then silence": greeting(b"CURVE"),
            "curve, then a false hello": greeting(b"CURVE") + b"\x04\xc8\x05HELLO\x01\x00" + bytes(192),
        }
        tasks = {what: asyncio.create_task(hung_up_on(port, data)) for what, data in said.items()}
        await serves_a_good_peer(processes, host)  # meanwhile
        for what, task in tasks.items():
            seconds = await task
            print(f"{what}: hung up after {seconds:.3f} s")
            assert seconds < NOISE * HANDSHAKE_S
        await quiet(host, before)
        await serves_a_good_peer(processes, host, "late")


@pytest.mark.soak
@pytest.mark.timeout(amount(60, 7_200))
async def test_a_thousand_malformed_connections_leave_nothing_and_stop_nobody(tmp_path: Path) -> None:
    dice = random.Random(11)
    async with Processes(tmp_path, limits=LIMITS) as processes:
        host = await processes.start("host", discovery=[])
        friend = await processes.start("friend", discovery=[], peers=[host.ticket])
        await host.says("joined", peer=friend.address)
        port, before = port_of(host), descriptors_of(host)

        def garbage() -> bytes:
            begin = dice.choice([b"", GREETING, greeting(b"CURVE"), greeting(dice.randbytes(20)[:20])])
            return begin + dice.randbytes(dice.randrange(1, 2000))

        for _ in range(amount(5, 500)):
            await asyncio.gather(*(hung_up_on(port, garbage()) for _ in range(200)))
        friend.do("send", to=host.address, data="still here")
        await host.says("message", data="still here")
        assert host.heard("left") == []
        await quiet(host, before)
        await serves_a_good_peer(processes, host)
