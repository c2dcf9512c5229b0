"""Statistics of a bus: how they are counted, and told to peers that ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dittobus import DittoAddress, Peer, StreamRejected, statistics
from dittobus.statistics import Sampler

if TYPE_CHECKING:
    from dittobus.aio import Bus


@pytest.mark.asyncio
async def test_rates_are_of_the_time_between(aio_pair: tuple[Bus, Bus]) -> None:
    near, far = aio_pair
    sampler = Sampler(near)
    first = sampler.sample(100.0)
    assert first["node"]["messages_out_per_s"] == 0  # whatever there was before
    for _ in range(10):
        await near.send(bytes(50), far.address)
    second = sampler.sample(102.0)
    [peer] = second["peers"]
    for row in (peer, second["node"]):
        assert (row["messages_out_per_s"], row["bytes_out_per_s"], row["bytes_in_per_s"]) == (5, 250, 0)
    assert sampler.sample(103.0)["node"]["messages_out_per_s"] == 0
    assert (peer["name"], peer["streams"], peer["dropped"]) == ("far", 0, {})


@pytest.mark.asyncio
async def test_nobody_is_told_unasked(aio_pair: tuple[Bus, Bus]) -> None:
    near, far = aio_pair
    far.on_stream("another", statistics.answers(far))
    with pytest.raises(StreamRejected):
        await near.open_stream(far.address, name=statistics.STREAM)


def test_what_is_said_of_a_peer() -> None:
    peer = Peer(DittoAddress(bytes(32)), "ann", b"\xff")
    said = json.loads(json.dumps(statistics.peer_object(peer)))
    assert (said["address"], said["metadata"], said["state"]) == ("0" * 52, {"base64": "/w=="}, "known")
