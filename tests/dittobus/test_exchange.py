"""What all faces do with their node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Address, BusClosed, Limits, Peer, PeerChanged, PeerState
from brokerless.discovery import Beacon, Hint
from dittobus._aio_exchange import AioExchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dittobus import aio


def peer(number: int, state: PeerState = PeerState.KNOWN) -> Peer:
    return Peer(Address(bytes([number] * 32)), state=state)


class LargeMesh:
    """A node of a mesh that is too large for everybody to be dialled."""

    def __init__(self, *peers: Peer) -> None:
        self.peers = peers
        self.wanted: list[Address] = []
        self.is_closing = False

    def want(self, address: Address) -> None:
        self.wanted.append(address)
        if self.is_closing:
            raise BusClosed("closing")


def exchange_in(node: Any) -> AioExchange:
    exchange = AioExchange(Limits())
    exchange.node = node
    return exchange


@pytest.mark.asyncio
async def test_of_many_that_are_known_those_are_dialled_that_somebody_waits_for() -> None:
    node = LargeMesh(peer(1), peer(2), peer(3, PeerState.JOINING))
    exchange = exchange_in(node)
    by_address = exchange.table.wait_for(peer(2).address, None)
    exchange.want_known()
    assert node.wanted == [peer(2).address]
    by_name = exchange.table.wait_for("whoever", None)
    exchange.want_known()
    assert node.wanted[1:] == [peer(1).address, peer(2).address]
    by_address.cancel()
    by_name.cancel()


@pytest.mark.asyncio
async def test_who_becomes_known_while_somebody_waits_is_dialled() -> None:
    node = LargeMesh()
    exchange = exchange_in(node)
    exchange._on_events([PeerChanged(peer(1))])
    assert node.wanted == []
    waiting = exchange.table.wait_for(peer(2).address, None)
    exchange._on_events([PeerChanged(peer(1)), PeerChanged(peer(2))])
    exchange._on_events([PeerChanged(peer(2, PeerState.JOINING))])
    assert node.wanted == [peer(2).address]
    counting = exchange.table.wait_for_count(1, None)
    node.is_closing = True  # the wait is about to fail
    exchange._on_events([PeerChanged(peer(1))])
    assert node.wanted == [peer(2).address, peer(1).address]
    waiting.cancel()
    counting.cancel()


class Rumours:
    """A discovery that tells what it is told to tell."""

    name = "rumours"
    rejected = 0
    report: Callable[[Hint], None]

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        self.report = report

    async def announce(self, beacon: Beacon) -> None:
        """Tell nobody."""

    async def close(self) -> None:
        """Do nothing."""


@pytest.mark.asyncio
@pytest.mark.parametrize("io_thread", [False, True])
async def test_somebody_is_met_in_a_large_mesh_who_is_heard_of_only_while_waited_for(
    make_aio_bus: Callable[..., Awaitable[aio.Bus]],
) -> None:
    rumours = Rumours()
    seeker = await make_aio_bus("seeker", limits=Limits(eager_dials_max=1), discovery=[rumours])
    elder = await make_aio_bus("elder", discovery=())

    def hear_of(address: Address, *endpoints: str) -> None:
        hint = Hint(address, endpoints, 1, rumours.name)
        seeker._exchange.call(rumours.report, hint)

    for number in (1, 2):  # more than are dialled for being heard of
        hear_of(peer(number).address, "tcp://127.0.0.1:1")
    waiting = asyncio.create_task(seeker.wait_for_peer(elder.address))
    await asyncio.sleep(0)  # the task begins to wait
    hear_of(elder.address, *elder.ticket().endpoints)
    assert (await waiting).name == "elder"
