"""Nodes under arbitrary schedules: whatever fails, nothing is lost, doubled or told twice; and it heals."""

from __future__ import annotations

import pytest

from brokerless.config import Limits
from tests.protocol.turmoil import SMALL, Turmoil

EVERYTHING = (
    "cut",
    "cut_all",
    "freeze",
    "part",
    "part_one_way",
    "pause",
    "crash",
    "rename",
    "block_udp",
    "move",
)
LINKS_ONLY = ("cut", "cut_all", "rename", "block_udp", "move")


def turmoil(seed: int, faults: tuple[str, ...]) -> Turmoil:
    return Turmoil(seed, nodes=2 + seed % 3, limits=(SMALL, Limits())[seed % 2], faults=faults)


@pytest.mark.parametrize("seed", range(200))
def test_every_promise_holds_whatever_fails(seed: int) -> None:
    world = turmoil(seed, EVERYTHING)
    world.run(8.0)
    world.settle()


@pytest.mark.parametrize("seed", range(1_000, 1_020))
def test_nobody_is_lost_by_links_that_break(seed: int) -> None:
    world = turmoil(seed, LINKS_ONLY)
    world.run(8.0)
    world.settle(losses_allowed=False)


@pytest.mark.parametrize("seed", range(2_000, 2_010))
def test_nothing_is_in_the_way_when_nothing_fails(seed: int) -> None:
    world = turmoil(seed, ())
    world.run(5.0)
    world.settle(losses_allowed=False)
