"""A link that is cut, in both directions or in one, for shorter and for longer than the liveness limit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from brokerless import Limits
from tests.hosts.talk import exchanged, finished, flowing, met

if TYPE_CHECKING:
    from tests.hosts.lab import Lab

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(60),
]  # several processes start, one wait follows the other

SHORT_S = 4.0
"""A liveness limit that one can wait for, and that no busy machine reaches."""


async def test_a_cut_shorter_than_the_limit_loses_nothing(lab: Lab) -> None:
    one, two = await lab.hosts("one", "two")
    first, second = await lab.nodes(one, two)
    await met(first, second)
    stream = await flowing(first, second)
    await lab.unplug(one)
    for node in (first, second):
        await node.says("changed", state="suspect")
    await lab.plug(one)
    for node in (first, second):
        await node.says_next("changed", state="alive")
    await finished(first, second, stream)
    assert not first.heard("left") + second.heard("left")


@pytest.mark.parametrize("directions", [1, 2])
async def test_a_cut_longer_than_the_limit_is_a_loss_on_both_sides_and_heals(
    lab: Lab, directions: int
) -> None:
    one, two = await lab.hosts("one", "two")
    first, second = nodes = await lab.nodes(one, two, limits={"liveness_s": SHORT_S})
    await met(first, second)
    stream = await flowing(first, second)
    for sender, receiver in ((first, second), (second, first)):
        sender.do("send", to=receiver.address, data="before")
        await receiver.says("message", data="before")
    await (lab.unplug(one) if directions == 2 else one.mislead(two))
    for sender, receiver in ((first, second), (second, first)):
        sender.do("send", to=receiver.address, data="during", timeout=None)
    for node in nodes:
        assert (await node.says("left"))["reason"] in ("silent", "expelled")
        assert (await node.says("ended", stream=stream))["error"] == "PeerLost"
        [done] = await node.until(lambda node=node: [one for one in node.heard("done") if one["error"]])
        assert done["error"] in ("DeliveryUnknown", "PeerLost")  # the latter if it has not left
    await (lab.plug(one) if directions == 2 else one.lead(two))
    healed_at = time.monotonic()
    for node in nodes:
        joined = await node.says_next("joined")
        assert joined["at"] - healed_at < 2 * SHORT_S + Limits().redial_max_s
    await exchanged(first, second)
    for node in nodes:
        received = [said["data"] for said in node.heard("message")]
        assert received.count("before") == received.count("reliable") == 1
        assert received.count("during") <= 1
