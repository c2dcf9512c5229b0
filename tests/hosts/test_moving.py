"""A host whose address changes, in the middle of everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hosts.talk import finished, flowing, heard_again, met, path_becomes

if TYPE_CHECKING:
    from tests.hosts.lab import Lab

pytestmark = pytest.mark.asyncio

PORT = 4000


@pytest.mark.parametrize("case", ["the other takes no calls", "udp is blocked"])
async def test_a_change_of_address_is_survived(lab: Lab, case: str) -> None:
    """Streams go on with nothing lost or doubled; so does what may be lost, by UDP or, without it, by PUSH.

    Where the other takes no calls it has to hear where we are now, and dial us. Where UDP is blocked each has
    to hear where the other's PULL is.
    """
    host, other_host = await lab.hosts("moving", "staying")
    if case == "udp is blocked":
        await host.send_no_datagrams(PORT)
        await other_host.send_no_datagrams(PORT)
    else:
        await other_host.take_no_calls(PORT)
    path = "push" if case == "udp is blocked" else "udp"
    moving, staying = await lab.nodes(host, other_host, port=PORT)
    await met(moving, staying)
    streams = [
        (one, other, await flowing(one, other)) for one, other in ((moving, staying), (staying, moving))
    ]
    for one, other, _ in streams:
        one.do("talk", to=other.address)
        await path_becomes(one, other, path)
    await host.move("10.7.0.101", "fd07::101")
    for one, other, _ in streams:
        await heard_again(one, other)
    for one, other, stream in streams:
        await finished(one, other, stream)
        await path_becomes(one, other, path)
        assert not one.heard("left")
    moving.do("ticket")
    assert "10.7.0.101" in (await moving.says("ticket"))["ticket"]
