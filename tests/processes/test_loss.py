"""Processes that are killed, stopped and started again, and what their peers are told."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.processes.processes import SOON_S, Process, Processes
from tests.soak import amount, only_in_soak

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import TypeAlias

    StandStill: TypeAlias = Callable[[Process, Path], Awaitable[Callable[[], object]]]

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(90),  # two interpreters start in each, and machines may be busy
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process"),
]

LIVENESS_S = 2.0
QUICK = {"liveness_s": LIVENESS_S}
LATE_S = 1.0
"""What a loss may take beyond the limit."""

NOISE = 3
"""How many times longer a promise of time may take on a machine that does other things."""


async def stop(process: Process, directory: Path) -> Callable[[], object]:
    """Stop a process; return what lets it go on."""
    process.signal(signal.SIGSTOP)
    return partial(process.signal, signal.SIGCONT)


async def block(process: Process, directory: Path) -> Callable[[], object]:
    """Let a process block its loop; return what lets it go on."""
    os.mkfifo(directory / "until")
    process.do("block", until=str(directory / "until"))
    await process.says("blocking")
    return partial((directory / "until").write_bytes, b"go on")


async def stream_between(opener: Process, acceptor: Process, name: str = "x") -> int:
    """Open a stream; return its id, which is the same on both sides."""
    opener.do("open", to=acceptor.address, name=name)
    stream = (await opener.says("opened", name=name))["stream"]
    await acceptor.says("opened", name=name)
    return int(stream)


async def has_company(process: Process) -> None:
    """Wait until it has a peer."""
    await process.until(lambda: len(process.heard("joined")) > len(process.heard("left")))


async def test_a_peer_killed_in_mid_stream_is_lost_and_never_a_clean_end(tmp_path: Path) -> None:
    async with Processes(tmp_path, limits=QUICK) as processes:
        survivor, victim = await processes.pair()
        inward, outward = (
            await stream_between(victim, survivor, "inward"),
            await stream_between(survivor, victim, "outward"),
        )
        victim.do("flood", stream=inward)
        survivor.do("flood", stream=outward)
        await survivor.until(lambda: len(survivor.heard("messages", stream=inward)) > 20)
        await victim.end(signal.SIGKILL)
        killed_at = time.monotonic()
        survivor.do("send", to=victim.address, data="too late")
        send_id = (await survivor.says("sent"))["id"]
        for stream in (inward, outward):
            ended = await survivor.says("ended", stream=stream)
            assert (ended["error"], ended["reason"]) == ("PeerLost", "silent")
        left = await survivor.says("left")
        lost_s = left["at"] - killed_at
        print(f"lost {lost_s:.3f} s after the kill, with a limit of {LIVENESS_S} s")
        assert 0 < lost_s < NOISE * LIVENESS_S
        assert left["reason"] == "silent"
        done = await survivor.says("done", id=send_id)
        assert (done["error"], done["cause"]) in [("DeliveryUnknown", "PeerLost"), ("PeerLost", None)]
        survivor.do("stats")
        assert (await survivor.says("stats"))["peers"] == 0


async def test_a_peer_that_is_killed_is_lost_to_everybody_in_time_and_nobody_else_is(tmp_path: Path) -> None:
    limit_s = 2.0
    async with Processes(tmp_path, limits={"liveness_s": limit_s}) as processes:
        nodes = [await processes.spawn() for _ in range(5)]
        await asyncio.gather(*(node.begin(processes.config("node")) for node in nodes))
        for node in nodes:
            await node.until(lambda node=node: len(node.heard("joined")) == 4)
        victim, *survivors = nodes
        killed_at = time.monotonic()
        await victim.end(signal.SIGKILL)
        for survivor in survivors:
            left = await survivor.says("left", peer=victim.address)
            assert left["reason"] == "silent"
            print(f"lost {left['at'] - killed_at:.3f} s after it was killed")
            assert left["at"] - killed_at < limit_s + NOISE * LATE_S
        assert [len(survivor.heard("left")) for survivor in survivors] == [1] * 4


async def test_a_message_under_way_to_a_peer_that_is_killed_ends_as_unknown(tmp_path: Path) -> None:
    async with Processes(tmp_path, limits=QUICK) as processes:
        survivor, victim = await processes.pair()
        victim.signal(signal.SIGSTOP)  # so that it leaves, and is not acknowledged
        survivor.do("send", to=victim.address, data="anybody?")
        send_id = (await survivor.says("sent"))["id"]
        await victim.end(signal.SIGKILL)
        done = await survivor.says("done", id=send_id)
        assert (done["error"], done["cause"]) == ("DeliveryUnknown", "PeerLost")


async def test_a_peer_that_restarts_is_one_loss_and_one_arrival(tmp_path: Path) -> None:
    limits = {"liveness_s": SOON_S}  # so that the restart is what ends the old one
    async with Processes(tmp_path, limits=limits) as processes:
        identity = str(tmp_path / "identity")
        survivor = await processes.start("survivor")
        victim = await processes.start("before", identity=identity)
        await survivor.says("joined", peer=victim.address)
        await victim.says("joined", peer=survivor.address)
        stream = await stream_between(survivor, victim)
        survivor.do("flood", stream=stream)
        await victim.until(lambda: len(victim.heard("messages")) > 5)
        await victim.end(signal.SIGKILL)
        again = await processes.start("after", identity=identity)
        assert again.address == victim.address
        joined = await survivor.says("joined", name="after")
        await again.says("joined", peer=survivor.address)
        ended = await survivor.says("ended", stream=stream)
        assert (ended["error"], ended["reason"]) == ("PeerLost", "restarted")
        again.do("send", to=survivor.address, data="here again")
        await survivor.says("message", data="here again")
        story = [
            (said["event"], said.get("reason"), said.get("name"))
            for said in survivor.said
            if said["event"] in ("joined", "left")
        ]
        assert story == [
            ("joined", None, "before"),
            ("left", "restarted", None),
            ("joined", None, "after"),
        ]
        assert survivor.heard("left")[0]["at"] <= joined["at"]
        assert again.heard("messages") == []


@pytest.mark.parametrize(
    ("stand_still", "own_limit_s"),
    [
        pytest.param(stop, LIVENESS_S, id="stopped"),
        pytest.param(stop, 5.0, id="stopped-with-a-longer-limit-of-its-own"),
        pytest.param(block, LIVENESS_S, id="loop-blocked"),
    ],
)
async def test_a_process_that_stood_still_beyond_the_limit_finds_itself_expelled(
    tmp_path: Path, stand_still: StandStill, own_limit_s: float
) -> None:
    await stands_still(tmp_path, stand_still, own_limit_s, LIVENESS_S)


@only_in_soak
@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_a_process_stopped_for_thirty_seconds_finds_itself_expelled(tmp_path: Path) -> None:
    """With the limits that there are by default."""
    await stands_still(tmp_path, stop, 5.0, 5.0, seconds=30.0)


async def stands_still(
    directory: Path, stand_still: StandStill, own_limit_s: float, limit_s: float, seconds: float = 0.0
) -> None:
    """Of two, one stands still until the other has given it up, and learns what has become of it."""
    async with Processes(directory) as processes:
        sleeper = await processes.start("sleeper", limits={"liveness_s": own_limit_s})
        other = await processes.start("other", limits={"liveness_s": limit_s})
        await sleeper.says("joined")
        await other.says("joined")
        stream = await stream_between(sleeper, other)
        stops_at = time.monotonic()
        go_on = await stand_still(sleeper, directory)
        other.do("send", to=sleeper.address, data="stale")
        sent = await other.says("sent")
        ended = await other.says("ended", stream=stream)
        assert (ended["error"], ended["reason"]) == ("PeerLost", "silent")
        left = await other.says("left")
        assert left["reason"] == "silent"
        print(f"lost after {left['at'] - stops_at:.3f} s, with a limit of {limit_s} s")
        assert left["at"] - stops_at < NOISE * limit_s
        done = await other.says("done", id=sent["id"])
        assert (done["error"], done["cause"]) == ("DeliveryUnknown", "PeerLost")
        # It tells nobody lost by its own judgement: it learns that it was given up, and joins anew.
        await asyncio.sleep(stops_at + seconds - time.monotonic())
        go_on()
        wakes_at = time.monotonic()
        ended = await sleeper.says("ended", stream=stream)
        assert (ended["error"], ended["reason"]) == ("PeerLost", "expelled")
        assert (await sleeper.says("left"))["reason"] == "expelled"
        rejoined = await sleeper.until(lambda: sleeper.heard("joined")[1:])
        await other.until(lambda: other.heard("joined")[1:])
        print(f"joined anew {rejoined[0]['at'] - wakes_at:.3f} s after waking")
        other.do("send", to=sleeper.address, data="fresh")
        await sleeper.says("message", data="fresh")
        assert sleeper.heard("message", data="stale") == []
        sleeper.do("stats")
        assert (await sleeper.says("stats"))["stale"] >= 1
        for process in (sleeper, other):
            assert [len(process.heard(event)) for event in ("joined", "left")] == [2, 1]


async def test_a_process_stopped_for_more_than_half_the_limit_asks_and_goes_on(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        sleeper, other = await processes.pair()
        stream = await stream_between(sleeper, other)
        go_on = await stop(sleeper, tmp_path)
        await other.says("changed", peer=sleeper.address, state="suspect")  # so half the limit is over
        go_on()
        other.do("send", to=sleeper.address, data="kept")
        await sleeper.says("message", data="kept")
        assert (await other.says("done"))["error"] is None
        sleeper.do("flood", stream=stream)
        await other.says("messages", stream=stream)
        for process in (sleeper, other):
            assert process.heard("left") == []
        assert len(sleeper.heard("message")) == 1


@pytest.mark.soak
@pytest.mark.timeout(amount(90, 7_200))  # six interpreters start one after the other
async def test_ten_losses_in_a_row_each_end_in_a_new_beginning(tmp_path: Path) -> None:
    """Killed and started again, stopped and continued, in turns, while the other keeps sending."""
    limit_s = 1.5
    async with Processes(tmp_path, limits={"liveness_s": limit_s}) as processes:
        identity = str(tmp_path / "identity")
        survivor = await processes.start("survivor")
        victim = await processes.start("victim", identity=identity)
        await survivor.says("joined")
        cycles = amount(10, 500)
        for cycle in range(cycles):
            await has_company(victim)
            name = f"of cycle {cycle}"
            stream = await stream_between(survivor, victim, name)
            survivor.do("flood", stream=stream)
            await victim.says("messages", stream=stream)
            victim.signal(signal.SIGSTOP if cycle % 2 else signal.SIGKILL)
            if cycle % 2 == 0:
                await victim.end()
                victim = await processes.start("victim", identity=identity)
            ended = await survivor.says_next("ended")
            assert ended["error"] == "PeerLost"
            if cycle % 2:  # by now it is given up, so it learns that when it goes on
                victim.signal(signal.SIGCONT)
                await victim.says("left", reason="expelled")
            await survivor.until(lambda cycle=cycle: len(survivor.heard("joined")) == cycle + 2)
        story = [said["event"] for said in survivor.said if said["event"] in ("joined", "left")]
        assert story == ["joined", *["left", "joined"] * cycles]
        assert survivor.heard("ended", error=None) == []


async def test_a_process_stopped_for_less_than_half_the_limit_is_missed_by_nobody(tmp_path: Path) -> None:
    async with Processes(tmp_path, limits={"liveness_s": SOON_S}) as processes:
        sleeper, other = await processes.pair()
        stream = await stream_between(other, sleeper)
        other.do("flood", stream=stream)
        await sleeper.until(lambda: len(sleeper.heard("messages")) > 20)
        go_on = await stop(sleeper, tmp_path)
        await asyncio.sleep(0.4)
        go_on()
        wakes_at = time.monotonic()
        await sleeper.until(
            lambda: [said for said in sleeper.heard("messages") if said["at"] > wakes_at][20:]
        )
        other.do("finish", stream=stream)
        sleeper.do("finish", stream=stream)
        assert (await other.says("ended"))["error"] is None
        assert (await sleeper.says("ended"))["error"] is None
        first, expected = 1, sleeper.heard("messages")
        for said in expected:
            assert said["first"] == first
            first += said["count"]
        for process in (sleeper, other):
            assert process.heard("left") == []
            assert [said for said in process.heard("changed") if said["state"] == "suspect"] == []
