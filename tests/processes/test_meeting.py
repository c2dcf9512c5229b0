"""Two processes that start together: how soon each sees the other alive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from brokerless.protocol.roster import NEXT_TIER_S
from tests.processes.processes import Processes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio

NOISE = 3
"""How many times longer a promise of time may take on a machine that does other things."""


@pytest.mark.parametrize(("discovery", "promise_s"), [("registry", 1.0), ("zeroconf", 3.0)])
async def test_two_that_start_together_see_each_other_in_time(
    tmp_path: Path, discovery: str, promise_s: float
) -> None:
    async with Processes(tmp_path, discovery=[discovery]) as processes:
        pair = [await processes.spawn() for _ in range(2)]
        await asyncio.gather(*(process.begin(processes.config("node")) for process in pair))
        began = max(process.heard("started")[0]["since"] for process in pair)
        for process, other in (pair, reversed(pair)):
            joined = await process.says("joined", peer=other.address)
            seconds = joined["at"] - began
            print(f"seen alive by {discovery} after {seconds:.3f} s, over {joined['path']}")
            assert seconds < NOISE * promise_s
            if discovery == "zeroconf":
                assert joined["path"] == "tcp"
            elif seconds < NEXT_TIER_S:  # from then on TCP is tried, too
                assert joined["path"] == "ipc"


async def test_of_two_one_of_which_starts_later_each_sees_the_other(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        first, second = await processes.pair()
        seconds = first.heard("joined")[0]["at"] - second.heard("started")[0]["since"]
        print(f"seen alive {seconds:.3f} s after the second began")
        first.do("close")
        assert (await first.says("closed"))["acknowledged"]
        left = await second.says("left")
        assert left["reason"] == "left"
        assert (await first.end())[0] == 0
