from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from brokerless.address import Address, Ticket
from brokerless.config import NodeConfig
from brokerless.discovery import Beacon, Discovery, Hint
from brokerless.discovery.gossip import GossipDiscovery
from brokerless.discovery.several import Several, choose
from brokerless.errors import StartError
from tests.witness import LOOPBACK, Log, Stubborn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio

BEACON = Beacon(Address(b"p" * 32), ("tcp://127.0.0.1:4000",), 7, bytes(32))


class Able(Stubborn):
    """Notes what it is told to do."""

    name = "able"
    rejected = 3

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.did: list[str] = []
        self.failure = failure

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        self.did.append("start")

    async def announce(self, beacon: Beacon) -> None:
        self.did.append("announce")
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        self.did.append("close")


async def test_those_that_fail_leave_the_others_be() -> None:
    first, last = Able(StartError("no network")), Able()
    several: Discovery = Several(
        [first, Stubborn(StartError("no way")), Stubborn(ZeroDivisionError("worse")), last]
    )
    with Log() as log:
        await several.start(BEACON, lambda hint: None)
        await several.announce(BEACON)
        assert len(log.lines) == 3
        for said in ("stubborn does not work here: no way", "stubborn does not work here: worse"):
            assert log.having(said)
        assert log.having("able cannot tell the new addresses: no network")
    await several.close()
    assert first.did == last.did == ["start", "announce", "close"]
    assert several.rejected == 6


async def test_gossip_comes_first_and_is_lent_the_sessions() -> None:
    said: list[str] = []
    several = Several([Able(), gossip := GossipDiscovery()])
    several.carry(said.append, lambda: 5)
    assert several.gossips
    assert not Several([Able()]).gossips
    await several.start(BEACON, lambda hint: None)
    assert said == ["127.0.0.1:4000"]
    assert several.rejected == gossip.rejected + 3
    await several.close()


async def test_a_close_while_it_starts_starts_no_more_and_closes_what_was_begun() -> None:
    stubborn, late = Stubborn(), Able()
    several = Several([stubborn, late])
    starting = asyncio.create_task(several.start(BEACON, lambda hint: None))
    await stubborn.starting.wait()
    await several.close()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await several.start(BEACON, lambda hint: None)
    assert (stubborn.closes, late.did) == (1, [])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["gossip", "zeroconf", "registry"]),
        ({"discovery": ()}, []),
        (
            {"discovery": ("registry",), "peers": [Ticket(BEACON.address, BEACON.endpoints)]},
            ["registry", "ticket"],
        ),
        ({"discovery": (Able(), GossipDiscovery())}, ["gossip", "able"]),
    ],
)
async def test_what_is_configured(tmp_path: Path, options: dict[str, Any], names: list[str]) -> None:
    several = choose(NodeConfig(**options), LOOPBACK, tmp_path)
    assert [discovery.name for discovery in several._all] == names
