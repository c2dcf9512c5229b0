"""Three hosts on one link: finding each other, and talking where the network lets only some of it through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hosts.talk import exchanged, met, streamed

if TYPE_CHECKING:
    from tests.hosts.lab import Lab

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(60),
]  # several processes start, one wait follows the other

PORT = 4000


async def test_zeroconf_alone(lab: Lab) -> None:
    nodes = await lab.nodes(*await lab.hosts("one", "two", "three"), discovery=["zeroconf"])
    await met(*nodes)
    assert {said["path"] for node in nodes for said in node.heard("joined")} == {"tcp"}


async def test_zeroconf_where_some_have_ipv6_only(lab: Lab) -> None:
    one, two = [await lab.host(name, f"fd07::{number}") for number, name in enumerate(("one", "two"), 1)]
    both = await lab.host("both", "10.7.0.3", "fd07::3")
    await met(*await lab.nodes(one, two, both, discovery=["zeroconf"]))


async def test_one_ticket_and_gossip_where_multicast_is_filtered(lab: Lab) -> None:
    hosts = await lab.hosts("one", "two", "three", "unheard")
    await lab.filter_multicast(*hosts)
    first, unheard = await lab.nodes(hosts[0], hosts[3])
    nodes = [first, *await lab.nodes(*hosts[1:3], peers=[first.ticket])]
    await met(*nodes)
    assert not unheard.heard("joined")
    # It would have been found like the others, but for the filter.
    await lab.filter_multicast(*hosts, passes=True)
    again = await lab.node(hosts[3], discovery=["zeroconf"], directory=str(lab.directory / "again"))
    await met(*nodes, again)


async def test_a_peer_that_takes_no_calls_talks_both_ways(lab: Lab) -> None:
    open_host, closed_host = await lab.hosts("open", "closed")
    await closed_host.take_no_calls(PORT)
    open_node = await lab.node(open_host)
    closed_node = await lab.node(closed_host, port=PORT)
    await met(open_node, closed_node)
    await exchanged(open_node, closed_node)
    await streamed(open_node, closed_node)


@pytest.mark.parametrize("astray", [4, 6])
async def test_where_one_family_leads_nowhere_the_other_serves(lab: Lab, astray: int) -> None:
    one, two = await lab.hosts("one", "two")
    await one.mislead(two, astray)
    await two.mislead(one, astray)
    # Dialled one after the other, the second would have to wait until the first is given up.
    first = await lab.node(one, discovery=[], limits={"handshake_timeout_s": 60.0})
    second = await lab.node(two, discovery=[], peers=[first.ticket], limits={"handshake_timeout_s": 60.0})
    await met(first, second)
    await exchanged(first, second)


async def test_in_a_container_what_is_advertised_is_found_and_passed_on(lab: Lab) -> None:
    """Its own addresses lead nowhere, and it can dial nobody."""
    one, two, outer = await lab.hosts("one", "two", "outer")
    container = await lab.container(outer, "container", PORT + 1000, PORT)
    place = f"{outer.addresses[0]}:{PORT + 1000}"
    inner = await lab.node(container, port=PORT, advertise=[f"tcp://{place}"])
    assert inner.ticket.endswith(f"@{place}")
    first = await lab.node(one, peers=[inner.ticket], discovery=["gossip"])
    second = await lab.node(two, peers=[first.ticket], discovery=["gossip"])
    await met(inner, first, second)
    await exchanged(inner, second)
    await streamed(inner, second)
