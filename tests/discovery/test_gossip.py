from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.discovery import Beacon, Discovery
from brokerless.discovery.gossip import GossipDiscovery
from brokerless.errors import StartError
from brokerless.model import PeerJoined, PeerLeft
from tests.witness import Mesh

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio


def beacon(*endpoints: str) -> Beacon:
    return Beacon(Address(b"p" * 32), endpoints, 7, bytes(32))


async def test_it_says_the_places_that_others_can_use() -> None:
    said: list[str] = []
    discovery: Discovery = GossipDiscovery()
    assert isinstance(discovery, GossipDiscovery)
    discovery.carry(said.append, lambda: 5)
    await discovery.start(
        beacon("ipc:///run/p", "tcp://192.0.2.7:4000", "tcp://[2001:db8::7]:4000", "tcp://example.org:4000"),
        lambda hint: None,
    )
    await discovery.announce(beacon("tcp://127.0.0.1:4000", "tcp://169.254.1.1:4000"))
    await discovery.announce(beacon())
    assert said == ["192.0.2.7:4000,[2001:db8::7]:4000", "127.0.0.1:4000", ""]
    assert discovery.rejected == 5
    for _ in range(2):
        await discovery.close()
    await discovery.announce(beacon("tcp://127.0.0.1:4000"))
    assert len(said) == 3


async def test_it_is_nothing_without_a_node() -> None:
    discovery = GossipDiscovery()
    await discovery.announce(beacon("tcp://127.0.0.1:4000"))
    assert discovery.rejected == 0
    with pytest.raises(StartError, match="no node carries it"):
        await discovery.start(beacon(), lambda hint: None)
    await discovery.close()


async def test_one_ticket_is_enough_for_five_to_meet_and_the_rendezvous_may_go(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        mesh.defaults |= {"discovery": ("gossip",), "limits": Limits(liveness_s=20.0)}
        rendezvous = await mesh.start("rendezvous")
        ticket = (rendezvous.node.ticket(),)
        others = [mesh.make(str(number), peers=ticket) for number in range(3)]
        # An object serves as well as the name.
        others.append(mesh.make("3", peers=ticket, discovery=(GossipDiscovery(),)))
        await asyncio.gather(*(node.node.start() for node in others))
        for node in (rendezvous, *others):
            await node.joined(*(other for other in (rendezvous, *others) if other is not node))
        await rendezvous.node.close()
        for node in others:
            await node.lost(rendezvous)
        newcomer = await mesh.start("newcomer", peers=(others[0].node.ticket(),))
        await newcomer.joined(*others)
        for node in others:
            await node.joined(newcomer)
            assert len(node.of(PeerJoined)) == 5
            assert [event.peer.address for event in node.of(PeerLeft)] == [rendezvous.address]
        for node in (*others, newcomer):
            stats = node.node.stats()
            assert (stats.peers, stats.rejected_records, stats.hearsay_failed) == (4, 0, 0)


async def test_without_gossip_only_who_has_a_ticket_is_met(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        middle = await mesh.start("middle", discovery=("gossip",))
        silent = await mesh.start("silent", discovery=(), peers=(middle.node.ticket(),))
        await silent.joined(middle)
        first, second = [
            await mesh.start(name, discovery=("gossip",), peers=(middle.node.ticket(),))
            for name in ("first", "second")
        ]
        await first.joined(middle, second)
        await second.joined(middle, first)
        assert [peer.address for peer in silent.node.peers] == [middle.address]
        assert first.node.peer(silent.address) is None
