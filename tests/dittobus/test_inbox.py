from __future__ import annotations

import asyncio

import pytest

from brokerless import (
    Address,
    LossReason,
    Message,
    Peer,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    PeerState,
    Reliability,
    Unread,
)
from dittobus import _inbox
from dittobus._inbox import Inbox, Iteration, MessageInbox, PeerChanges
from tests.dittobus.recording import WAIT_S


def peer(number: int, name: str = "") -> Peer:
    return Peer(Address(number.to_bytes(32)), name, state=PeerState.ALIVE)


def known(number: int) -> Peer:
    return Peer(Address(number.to_bytes(32)))


def left(number: int) -> PeerLeft:
    return PeerLeft(peer(number), LossReason.LEFT)


async def spin() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_items_come_in_order_to_whoever_waits_longest() -> None:
    inbox: Inbox[int] = Inbox()
    getters = [asyncio.create_task(inbox.get()) for _ in range(3)]
    await spin()
    for number in range(3):
        inbox.put(number)
    assert [await getter for getter in getters] == [0, 1, 2]


@pytest.mark.asyncio
async def test_a_cancelled_getter_takes_nothing_and_wakes_the_next() -> None:
    inbox: Inbox[int] = Inbox()
    first, second = asyncio.create_task(inbox.get()), asyncio.create_task(inbox.get())
    await spin()
    inbox.put(1)  # wakes the first, which is cancelled before it runs
    first.cancel()
    async with asyncio.timeout(WAIT_S):
        assert await second == 1
    assert first.cancelled()
    waiting = asyncio.create_task(inbox.get())
    await spin()
    waiting.cancel()
    await spin()
    assert not inbox._getters


@pytest.mark.asyncio
async def test_who_is_woken_in_vain_keeps_the_place() -> None:
    inbox: Inbox[int] = Inbox()
    getters = [asyncio.create_task(inbox.get()) for _ in range(2)]
    await spin()
    inbox.put(1)
    inbox.discard(1)  # before the first has taken it
    await spin()
    for number in (2, 3):
        inbox.put(number)
    assert [await getter for getter in getters] == [2, 3]


@pytest.mark.asyncio
async def test_closing_ends_all_iterations() -> None:
    inbox: Inbox[int] = Inbox()
    taken: list[int] = []

    async def take() -> list[int]:
        return [item async for item in Iteration(inbox, taken.append)]

    tasks = [asyncio.create_task(take()) for _ in range(2)]
    inbox.put(1)
    await spin()
    inbox.close()
    inbox.put(2)
    assert sorted([await task for task in tasks]) == [[], [1]]
    assert taken == [1]


@pytest.mark.asyncio
async def test_what_nobody_has_taken_can_be_taken_back() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.put(1)
    inbox.put(2)
    inbox.discard(1)
    inbox.discard(1)
    assert await inbox.get() == 2


@pytest.mark.asyncio
async def test_changes_begin_with_those_who_are_there() -> None:
    changes = PeerChanges([peer(1), known(2)])
    changes.put(left(1))
    assert [await anext(changes) for _ in range(3)] == [PeerJoined(peer(1)), PeerChanged(known(2)), left(1)]
    changes.close()
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


@pytest.mark.asyncio
async def test_changes_that_nobody_takes_are_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inbox, "CHANGES_MAX", 8)
    changes = PeerChanges([peer(1), peer(2)])
    assert await anext(changes) == PeerJoined(peer(1))
    assert await anext(changes) == PeerJoined(peer(2))
    changes.put(left(1))
    changes.put(PeerJoined(peer(1, "restarted")))
    for number in range(100):
        changes.put(PeerChanged(peer(1, f"changed {number}")))
        changes.put(PeerChanged(peer(2, f"changed {number}")))
        changes.put(PeerJoined(peer(3)))  # comes and goes unseen
        changes.put(left(3))
        assert len(changes._inbox.items) <= 9
    changes._compact()
    assert list(changes._inbox.items) == [
        left(1),
        PeerJoined(peer(1, "changed 99")),
        PeerChanged(peer(2, "changed 99")),
    ]


@pytest.mark.asyncio
async def test_who_is_only_known_is_compacted_so_that_it_adds_up() -> None:
    changes = PeerChanges([known(1), known(2), peer(3)])
    for _ in range(3):
        await anext(changes)
    for event in (
        PeerForgotten(known(1)),
        PeerJoined(peer(2)),
        left(2),
        left(3),
        PeerChanged(known(3)),
        PeerForgotten(known(3)),
        PeerChanged(known(4)),
        PeerForgotten(known(4)),
        PeerChanged(known(5)),
        PeerJoined(peer(5)),
        PeerForgotten(known(1)),
    ):
        changes.put(event)
    changes._compact()
    # The second was not seen joining, so nobody need hear that it has left, only that it is there no more.
    assert list(changes._inbox.items) == [
        left(3),
        PeerForgotten(peer(2)),
        PeerJoined(peer(5)),
        PeerForgotten(known(1)),
    ]


def message(data: bytes, received_at: float, reliability: Reliability) -> Message:
    return Message(Address(bytes(32)), data, reliability, 0, received_at)


@pytest.mark.asyncio
async def test_single_messages_come_in_the_order_of_arrival() -> None:
    inbox, unread = MessageInbox(), Unread[Message](100)
    for number in (2, 3, 6):
        inbox.put(message(b"%d" % number, float(number), Reliability.RELIABLE))
    for number in (1, 4, 5):
        unread.put(message(b"%d" % number, float(number), Reliability.UNRELIABLE), 1)
    inbox.look_into(unread)
    assert [int((await inbox.get()).data) for _ in range(6)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.asyncio
async def test_what_is_not_asked_for_stays_where_the_oldest_gives_way() -> None:
    inbox, unread = MessageInbox(), Unread[Message](5)
    for number in range(9):
        if unread.put(message(b"%d" % number, float(number), Reliability.UNRELIABLE), 1):
            inbox.look_into(unread)
    assert (len(unread), unread.dropped) == (5, 4)
    getters = [asyncio.create_task(inbox.get()) for _ in range(6)]
    await spin()
    assert [int(getter.result().data) for getter in getters[:5]] == [4, 5, 6, 7, 8]
    assert unread.put(message(b"9", 9.0, Reliability.UNRELIABLE), 1)  # somebody waits for it
    inbox.look_into(unread)
    assert (await getters[5]).data == b"9"


@pytest.mark.asyncio
async def test_of_several_who_wait_each_gets_one() -> None:
    inbox, unread = MessageInbox(), Unread[Message](100)
    getters = [asyncio.create_task(inbox.get()) for _ in range(3)]
    await spin()
    told = [unread.put(message(b"%d" % n, float(n), Reliability.UNRELIABLE), 1) for n in range(3)]
    assert told == [True, False, False]
    inbox.look_into(unread)  # wakes one, who wakes the next
    async with asyncio.timeout(WAIT_S):
        assert [(await getter).data for getter in getters] == [b"0", b"1", b"2"]


@pytest.mark.asyncio
async def test_who_still_waits_is_told_of_what_comes_after_another_took_the_last() -> None:
    inbox, unread = MessageInbox(), Unread[Message](100)
    getters = [asyncio.create_task(inbox.get()) for _ in range(2)]
    await spin()
    for number in range(2):
        assert unread.put(message(b"%d" % number, float(number), Reliability.UNRELIABLE), 1)
        inbox.look_into(unread)
        await spin()
        assert getters[number].result().data == b"%d" % number


@pytest.mark.asyncio
async def test_a_closed_inbox_holds_no_unread_messages() -> None:
    inbox, late = MessageInbox(), Unread[Message](100)
    unread = Unread[Message](100)
    for each in (unread, late):
        each.put(message(b"x", 1.0, Reliability.UNRELIABLE), 1)
    inbox.look_into(unread)
    inbox.close()
    inbox.look_into(late)
    assert (len(unread), len(late)) == (0, 0)
    with pytest.raises(StopAsyncIteration):
        await inbox.get()
