"""A host whose address changes, in the middle of everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hosts.talk import finished, flowing, heard_again, met, path_becomes

if TYPE_CHECKING:
    from tests.hosts.lab import Lab

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(60),
]  # several processes start, one wait follows the other

PORT = 4000


@pytest.mark.parametrize("case", ["the other takes no calls", "all move at once, without udp"])
async def test_a_change_of_address_is_survived(lab: Lab, case: str) -> None:
    """Streams go on with nothing lost or doubled; so does what may be lost, by UDP or, without it, by PUSH.

    Where the other takes no calls, it has to hear where we are now, and dial us. Where all move, nobody is
    where anybody was, nor is its PULL.
    """
    host, other_host = await lab.hosts("moving", "staying")
    all_move = case != "the other takes no calls"
    if all_move:
        await host.send_no_datagrams(PORT)
        await other_host.send_no_datagrams(PORT)
    else:
        await other_host.take_no_calls(PORT)
    path = "push" if all_move else "udp"
    moving, staying = await lab.nodes(host, other_host, port=PORT)
    await met(moving, staying)
    streams = [
        (one, other, await flowing(one, other)) for one, other in ((moving, staying), (staying, moving))
    ]
    for one, other, _ in streams:
        one.do("talk", to=other.address)
        await path_becomes(one, other, path)
    await host.move("10.7.0.101", "fd07::101")
    if all_move:
        await other_host.move("10.7.0.102", "fd07::102")
    for one, other, _ in streams:
        await heard_again(one, other)
    for one, other, stream in streams:
        await finished(one, other, stream)
        await path_becomes(one, other, path)
        assert not one.heard("left")
    moving.do("ticket")
    assert "10.7.0.101" in (await moving.says("ticket"))["ticket"]


async def test_a_named_address_that_comes_back_serves_again(lab: Lab) -> None:
    """Sockets that are bound to it wait for it; multicast is joined anew."""
    host, other_host, third_host = await lab.hosts("named", "other", "third")
    named = await lab.node(host, port=PORT, interfaces=["10.7.0.1"])
    other = await lab.node(other_host)
    await met(named, other)
    stream = await flowing(named, other)
    await host.move()
    for node in (named, other):
        await node.says("changed", state="suspect")
    await host.move("10.7.0.1")
    for node in (named, other):
        await node.says_next("changed", state="alive")
    await finished(named, other, stream)
    assert not named.heard("left") + other.heard("left")
    third = await lab.node(third_host, discovery=["zeroconf"])
    await met(named, third)


@pytest.mark.parametrize("family", [4, 6])
async def test_an_interface_that_is_replaced_by_one_with_the_same_address_is_spoken_on(
    lab: Lab, family: int
) -> None:
    """Sockets that are bound to all addresses do not mind; multicast was joined on the one that is gone."""
    places = ("10.7.0.1", "10.7.0.2") if family == 4 else ("fd07::1", "fd07::2")
    host, other_host = [
        await lab.host(name, place) for name, place in zip(("host", "other"), places, strict=True)
    ]
    node = await lab.node(host, discovery=["zeroconf"])
    await lab.replace_interface(host)
    other = await lab.node(other_host, discovery=["zeroconf"])
    await met(node, other)
