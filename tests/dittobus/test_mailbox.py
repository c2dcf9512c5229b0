from __future__ import annotations

import itertools
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    Address,
    ConfigError,
    LossReason,
    Message,
    Peer,
    PeerChanged,
    PeerJoined,
    PeerLeft,
    PeerState,
    Reliability,
    Unread,
    WaitTimeout,
)
from dittobus import _mailbox, _waiting
from dittobus._inbox import CHANGES_MAX
from dittobus._io_thread import IoThread
from dittobus._mailbox import Mailbox, MessageMailbox, Over, PeerMailbox
from tests.dittobus.interrupts import everywhere
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-io")
    thread.start()
    yield thread
    thread.stop()


class Counted:
    """A mailbox that says how much of it was consumed."""

    def __init__(self, io: IoThread) -> None:
        self._io = io
        self.reports: list[int] = []
        self.mailbox: Mailbox[int] = Mailbox(io, "number", self.reports.append)

    @property
    def consumed(self) -> int:
        self._io.call(lambda: None)  # after what was posted
        return sum(self.reports)


@pytest.fixture
def counted(io: IoThread) -> Counted:
    return Counted(io)


def wait_for_sleepers(io: IoThread, mailbox: Mailbox[Any], count: int) -> None:
    while len(mailbox._sleepers) < count:
        io.call(lambda: None)


def test_items_are_taken_in_order(counted: Counted) -> None:
    mailbox = counted.mailbox
    mailbox.put([1, 2])
    mailbox.put([3])
    assert [mailbox.take(None), mailbox.take(0), mailbox.take(5.0)] == [1, 2, 3]
    assert counted.consumed == 3


def test_what_was_taken_is_told_at_once(counted: Counted) -> None:
    mailbox = counted.mailbox
    mailbox.put([1, 2])
    mailbox.take(None)
    assert counted.consumed == 1
    mailbox.take(None)
    assert counted.consumed == 2


def test_a_timeout_takes_nothing(counted: Counted) -> None:
    mailbox = counted.mailbox
    for timeout in (0, 0.01):
        with pytest.raises(WaitTimeout, match=f"no number within {timeout} s"):
            mailbox.take(timeout)
    with pytest.raises(ConfigError, match="timeout"):
        mailbox.take(-1)
    mailbox.put([1])
    assert mailbox.take(0) == 1
    assert counted.consumed == 1
    assert not mailbox._sleepers


def test_each_item_goes_to_one(io: IoThread, counted: Counted, threads: ThreadPoolExecutor) -> None:
    mailbox = counted.mailbox

    def take_all() -> list[int]:
        taken = []
        try:
            while True:
                taken.append(mailbox.take(WAIT_S))
        except Over:
            return taken

    takers = [threads.submit(take_all) for _ in range(4)]
    for start in range(0, 10_000, 100):
        io.call(mailbox.put, range(start, start + 100))
    mailbox.end()
    taken = [taker.result() for taker in takers]
    assert sorted(itertools.chain(*taken)) == list(range(10_000))
    assert all(each == sorted(each) for each in taken)
    assert counted.consumed == 10_000


def test_one_arrival_wakes_one(io: IoThread, counted: Counted, threads: ThreadPoolExecutor) -> None:
    mailbox = counted.mailbox
    takers = [threads.submit(mailbox.take, WAIT_S) for _ in range(3)]
    wait_for_sleepers(io, mailbox, 3)
    mailbox.put([1])
    assert len(mailbox._sleepers) == 2
    mailbox.put([2, 3])
    assert sorted(taker.result() for taker in takers) == [1, 2, 3]


def test_the_end_wakes_all_and_what_waits_is_still_there(
    io: IoThread, counted: Counted, threads: ThreadPoolExecutor
) -> None:
    mailbox = counted.mailbox
    takers = [threads.submit(mailbox.take, None) for _ in range(3)]
    wait_for_sleepers(io, mailbox, 3)
    mailbox.put([1])
    mailbox.end()
    mailbox.put([2])
    outcomes = [taker.exception() or taker.result() for taker in takers]
    assert sum(outcome == 1 for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Over) for outcome in outcomes) == 2
    with pytest.raises(Over):
        mailbox.take(0)


def test_what_is_dropped_is_not_consumed(counted: Counted) -> None:
    mailbox = counted.mailbox
    mailbox.put([1, 2, 3])
    mailbox.take(None)
    mailbox.drop()
    with pytest.raises(Over):
        mailbox.take(None)
    assert counted.consumed == 1


def test_what_is_discarded_is_not_consumed(counted: Counted) -> None:
    mailbox = counted.mailbox
    mailbox.put([1, 2, 3])
    mailbox.discard(2)
    mailbox.discard(7)
    assert [mailbox.take(None), mailbox.take(None)] == [1, 3]
    assert counted.consumed == 2


def test_a_fork_leaves_nothing_to_the_child(counted: Counted) -> None:
    mailbox = counted.mailbox
    mailbox.put([1])
    with mailbox._lock:  # held by a thread that the child does not have
        mailbox.refuse()
    with pytest.raises(Over):
        mailbox.take(None)


# Ctrl-C


def test_an_interrupted_take_takes_nothing(counted: Counted) -> None:
    """Wherever it is interrupted, the item stays, and what was consumed is told later."""
    mailbox = counted.mailbox
    mailbox.put([1, 2])
    taken: list[int] = []
    places = 0
    for _ in everywhere(lambda: taken.append(mailbox.take(0)), _mailbox.__file__, _waiting.__file__):
        places += 1
        assert list(mailbox._items) == [1, 2]
    assert places >= 5
    assert taken == [1]
    assert mailbox.take(0) == 2
    assert counted.consumed == 2


def test_an_interrupted_wait_leaves_nobody_behind(
    io: IoThread, counted: Counted, threads: ThreadPoolExecutor
) -> None:
    """Wherever it is interrupted, the wake-up meant for it goes to somebody else."""
    mailbox = counted.mailbox
    places = 0

    def take() -> None:
        with pytest.raises(WaitTimeout):
            mailbox.take(0)

    for _ in everywhere(take, _mailbox.__file__, _waiting.__file__):
        places += 1
        assert not mailbox._sleepers
        other = threads.submit(mailbox.take, WAIT_S)
        wait_for_sleepers(io, mailbox, 1)
        mailbox.put([places])
        assert other.result() == places
    assert places >= 8


def test_who_is_interrupted_after_being_woken_wakes_another(
    io: IoThread, counted: Counted, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = counted.mailbox
    first_sleeps = threading.Event()

    def interrupted(self: _waiting.Sleeper, deadline: float | None) -> bool:
        first_sleeps.set()
        assert self._lock.acquire(timeout=WAIT_S)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_waiting.Sleeper, "sleep", interrupted)
        first = threads.submit(mailbox.take, None)
        assert first_sleeps.wait(WAIT_S)
    second = threads.submit(mailbox.take, WAIT_S)
    wait_for_sleepers(io, mailbox, 2)
    mailbox.put([1])
    assert isinstance(first.exception(WAIT_S), KeyboardInterrupt)
    assert second.result() == 1


def test_what_is_given_back_is_not_consumed_twice(
    io: IoThread, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reported between taking and giving back, it counts once, when it is taken at last."""
    mailbox = counted.mailbox
    mailbox.put([1, 2])
    post = io.post

    def post_and_wait(call: Callable[[], object]) -> None:
        done = threading.Event()
        post(call)
        post(done.set)
        assert done.wait(WAIT_S)

    monkeypatch.setattr(io, "post", post_and_wait)
    reported_early = 0
    for _ in everywhere(lambda: mailbox.take(0), _mailbox.__file__):
        assert list(mailbox._items) == [1, 2]
        reported_early = sum(counted.reports)
    assert reported_early == 1
    assert sum(counted.reports) == 1
    assert mailbox.take(0) == 2
    assert sum(counted.reports) == 2


# Changes of peers


def peer(number: int, name: str = "") -> Peer:
    return Peer(Address(number.to_bytes(32, "big")), name, state=PeerState.ALIVE)


def test_changes_begin_with_who_is_there(io: IoThread) -> None:
    mailbox = PeerMailbox(io, [peer(1)])
    mailbox.put([PeerChanged(peer(1, "x"))])
    assert [mailbox.take(0), mailbox.take(0)] == [PeerJoined(peer(1)), PeerChanged(peer(1, "x"))]
    mailbox.drop()
    mailbox.put([PeerJoined(peer(2))])
    with pytest.raises(Over):
        mailbox.take(0)


def test_changes_that_nobody_takes_are_bounded(io: IoThread) -> None:
    mailbox = PeerMailbox(io, [peer(1)])
    assert isinstance(mailbox.take(0), PeerJoined)
    for number in range(3 * CHANGES_MAX):
        mailbox.put([PeerChanged(peer(1, str(number)))])
    mailbox.put([PeerLeft(peer(1), LossReason.LEFT)])
    assert len(mailbox._items) <= CHANGES_MAX + 1
    *_, last = (mailbox.take(0) for _ in range(len(mailbox._items)))
    assert last == PeerLeft(peer(1), LossReason.LEFT)


# What may be lost


def single(number: int, reliability: Reliability) -> Message:
    return Message(Address(bytes(32)), b"%d" % number, reliability, 0, float(number))


def test_single_messages_are_taken_in_the_order_of_arrival(io: IoThread) -> None:
    reports: list[int] = []
    mailbox, unread = MessageMailbox(io, "message", reports.append), Unread[Message](100)
    mailbox.put([single(number, Reliability.RELIABLE) for number in (2, 3, 6)])
    for number in (1, 4, 5):
        unread.put(single(number, Reliability.UNRELIABLE), 1)
    mailbox.look_into(unread)
    assert [int(mailbox.take(0).data) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    io.call(lambda: None)
    assert sum(reports) == 3  # only what is reliable is consumed
    with pytest.raises(WaitTimeout):
        mailbox.take(0)


def test_of_several_who_wait_each_gets_one(io: IoThread, threads: ThreadPoolExecutor) -> None:
    mailbox: Mailbox[int] = Mailbox(io, "number")
    unread = Unread[int](100)
    mailbox.look_into(unread)
    takers = [threads.submit(mailbox.take, WAIT_S) for _ in range(3)]
    wait_for_sleepers(io, mailbox, 3)
    assert [unread.put(number, 1) for number in range(3)] == [True, False, False]
    mailbox.look_into(unread)  # wakes one, who wakes the next
    assert sorted(taker.result(WAIT_S) for taker in takers) == [0, 1, 2]


def test_who_still_waits_is_told_of_what_comes_after_another_took_the_last(
    io: IoThread, threads: ThreadPoolExecutor
) -> None:
    mailbox: Mailbox[int] = Mailbox(io, "number")
    unread = Unread[int](100)
    mailbox.look_into(unread)
    takers = [threads.submit(mailbox.take, WAIT_S) for _ in range(2)]
    wait_for_sleepers(io, mailbox, 2)
    taken = set()
    for number in range(2):
        assert unread.put(number, 1)
        mailbox.look_into(unread)
        done, _ = wait(takers, WAIT_S, FIRST_COMPLETED)
        taken.update(taker.result() for taker in done)
        takers = [taker for taker in takers if taker not in done]
        while takers and not unread._asleep:  # the other has looked, too
            io.call(lambda: None)
    assert taken == {0, 1}


def test_who_was_woken_and_takes_nothing_wakes_another(io: IoThread, threads: ThreadPoolExecutor) -> None:
    mailbox: Mailbox[int] = Mailbox(io, "number")
    unread = Unread[int](100)
    mailbox.look_into(unread)
    taker = threads.submit(mailbox.take, WAIT_S)
    wait_for_sleepers(io, mailbox, 1)
    unread.put(1, 1)
    mailbox._pass_on()
    assert taker.result(WAIT_S) == 1


def test_what_came_before_the_end_is_still_taken_but_nothing_after_a_drop(io: IoThread) -> None:
    ended: Mailbox[int] = Mailbox(io, "number")
    dropped: Mailbox[int] = Mailbox(io, "number")
    for mailbox in (ended, dropped):
        unread = Unread[int](100)
        unread.put(1, 1)
        mailbox.look_into(unread)
    ended.end()
    assert ended.take(None) == 1
    dropped.drop()
    for mailbox in (ended, dropped):
        with pytest.raises(Over):
            mailbox.take(None)
