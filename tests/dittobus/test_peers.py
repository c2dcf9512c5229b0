from __future__ import annotations

import asyncio

import pytest

from brokerless import (
    Address,
    AmbiguousPeer,
    BusClosed,
    LossReason,
    Peer,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    PeerState,
    WaitTimeout,
)
from dittobus.peers import Peers, PeerTable


def peer(number: int, name: str = "", state: PeerState = PeerState.ALIVE) -> Peer:
    return Peer(Address(bytes([number] * 32)), name, state=state)


def test_a_snapshot_is_a_tuple_that_tells_of_losses() -> None:
    lost = PeerLeft(peer(2), LossReason.SILENT)
    peers = Peers([peer(1)], [lost])
    assert peers == (peer(1),)
    assert peers.lost == (lost,)
    assert Peers().lost == ()


def test_the_table_follows_the_events() -> None:
    table = PeerTable()
    table.apply(PeerChanged(peer(1, state=PeerState.KNOWN)))
    assert (len(table.listed), table.live) == (1, {})
    table.apply(PeerForgotten(peer(1, state=PeerState.KNOWN)))
    assert table.listed == table.live == {}
    table.apply(PeerJoined(peer(1)))
    table.apply(PeerChanged(peer(1, "named")))
    assert [one.name for one in table.live.values()] == ["named"]
    table.apply(PeerLeft(peer(1), LossReason.LEFT))
    table.apply(PeerLeft(peer(1), LossReason.LEFT))
    assert table.listed == table.live == {}


@pytest.mark.asyncio
async def test_whoever_is_waited_for_is_found_when_they_come() -> None:
    table = PeerTable()
    by_name = table.wait_for("b", None)
    by_address = table.wait_for(peer(2).address, 10)
    by_predicate = table.wait_for(lambda one: one.name > "a", 10)
    two = table.wait_for_count(2, 10)
    table.apply(PeerJoined(peer(1, "a")))
    assert not any(future.done() for future in (by_name, by_address, by_predicate, two))
    table.apply(PeerJoined(peer(2, "b")))
    assert [await future for future in (by_name, by_address, by_predicate)] == [peer(2, "b")] * 3
    assert await two == (peer(1, "a"), peer(2, "b"))
    assert await table.wait_for("a", 0) == peer(1, "a")
    assert await table.wait_for_count(1, 0)


@pytest.mark.asyncio
async def test_a_name_may_come_by_a_change() -> None:
    table = PeerTable()
    waiting = table.wait_for("new", None)
    table.apply(PeerJoined(peer(1, "old")))
    table.apply(PeerChanged(peer(1, "new")))
    assert await waiting == peer(1, "new")


@pytest.mark.asyncio
async def test_a_name_of_two_is_ambiguous() -> None:
    table = PeerTable()
    table.apply(PeerJoined(peer(1, "twin")))
    table.apply(PeerJoined(peer(2, "twin")))
    with pytest.raises(AmbiguousPeer, match="2 peers are named 'twin'"):
        await table.wait_for("twin", None)


@pytest.mark.asyncio
async def test_it_is_known_whom_somebody_waits_for() -> None:
    table = PeerTable()
    assert table.awaited() == frozenset()
    first, second = (table.wait_for(peer(number).address, None) for number in (1, 2))
    assert table.awaited() == {peer(1).address, peer(2).address}
    for wait in (
        lambda: table.wait_for("a", None),
        lambda: table.wait_for(lambda _: False, None),
        lambda: table.wait_for_count(1, None),
    ):
        other = wait()
        assert table.awaited() is None
        other.cancel()
        await asyncio.sleep(0)  # a future's callbacks run in the next turn of the loop
        assert table.awaited() == {peer(1).address, peer(2).address}
    table.apply(PeerJoined(peer(1)))
    await first
    await asyncio.sleep(0)
    assert table.awaited() == {peer(2).address}
    second.cancel()
    await asyncio.sleep(0)
    assert table.awaited() == frozenset()


@pytest.mark.asyncio
async def test_waiting_for_oneself() -> None:
    table = PeerTable()
    table.own_name = "me"
    with pytest.raises(WaitTimeout, match="the name of this bus itself"):
        await table.wait_for("me", 0)
    namesake = table.wait_for("me", None)  # which there may be
    table.apply(PeerJoined(peer(1, "me")))
    assert (await namesake).name == "me"


@pytest.mark.asyncio
async def test_waiting_in_vain() -> None:
    table = PeerTable()
    for waiting, match in (
        (table.wait_for("x", 0), "named 'x'"),
        (table.wait_for(peer(7).address, 0), peer(7).address.short),
        (table.wait_for(lambda _: False, 0), "as looked for"),
    ):
        with pytest.raises(WaitTimeout, match=match):
            await waiting
    with pytest.raises(WaitTimeout, match=r"fewer than 1 peers .*are they running"):
        await table.wait_for_count(1, 0)


@pytest.mark.asyncio
async def test_a_predicate_that_fails_fails_its_own_wait_only() -> None:
    table = PeerTable()
    failing, waiting = table.wait_for(lambda _: 1 // 0, None), table.wait_for("a", None)
    table.apply(PeerJoined(peer(1, "a")))
    with pytest.raises(ZeroDivisionError):
        await failing
    assert await waiting == peer(1, "a")


@pytest.mark.asyncio
async def test_nobody_waits_for_a_closed_bus() -> None:
    table = PeerTable()
    waits: list[asyncio.Future[object]] = [table.wait_for("x", None), table.wait_for_count(1, None)]  # type: ignore[list-item]
    given_up = table.wait_for("y", None)
    given_up.cancel()
    table.close(BusClosed("closed"))
    for waiting in waits:
        with pytest.raises(BusClosed):
            await waiting
    await asyncio.sleep(0)  # a future's callbacks run in the next turn of the loop
    assert table._waits == {}
    assert table._counts == {}
