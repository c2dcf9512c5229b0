from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import MessageTooLarge, SendQueueFull, SendTimeout, StreamReset, StreamStats
from dittobus import _outbox, _waiting
from dittobus._io_thread import IoThread
from dittobus._outbox import Outbox, Refused
from dittobus.stream import MESSAGE_COST_BYTES
from tests.dittobus.interrupts import everywhere
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from brokerless import BusError

QUEUE_BYTES_MAX = 10 * (MESSAGE_COST_BYTES + 1)
"""Ten messages of one byte."""

SIZE_MAX = 2 * QUEUE_BYTES_MAX


class Core:
    """The send queue of a core stream, which sends when it is told to."""

    peer = None

    def __init__(self) -> None:
        self.queue: list[bytes] = []
        self.sent: list[bytes] = []
        self.send_error: BusError | None = None
        self.wants_ready = False
        self.room = SIZE_MAX
        self.memory_bytes = QUEUE_BYTES_MAX
        self.made_bytes = QUEUE_BYTES_MAX

    def send(self, message: bytes) -> int:
        if self.send_error is not None:
            raise self.send_error
        assert self.queue == [] or self.cost + len(message) + MESSAGE_COST_BYTES <= QUEUE_BYTES_MAX
        self.queue.append(message)
        return len(self.sent) + len(self.queue)

    def send_all(self, messages: list[bytes]) -> None:
        for message in messages:
            self.send(message)

    def make_room(self, queue_bytes: int) -> int:
        self.made_bytes = max(self.made_bytes, min(queue_bytes, self.memory_bytes))
        return self.made_bytes

    @property
    def cost(self) -> int:
        return sum(map(len, self.queue)) + MESSAGE_COST_BYTES * len(self.queue)

    def stats(self) -> StreamStats:
        return StreamStats(send_queue_messages=len(self.queue), send_queue_bytes=sum(map(len, self.queue)))

    def want_ready(self) -> None:
        self.wants_ready = True


class Ends:
    """An outbox, and the core behind it on its I/O thread."""

    def __init__(self, io: IoThread, room_bytes: int = QUEUE_BYTES_MAX) -> None:
        self.io = io
        self.core = Core()
        self.core.made_bytes = room_bytes
        stream: Any = self.core
        self.outbox = Outbox(io, stream)

    def fill(self) -> list[bytes]:
        messages = [b"%d" % number for number in range(10)]
        for message in messages:
            self.outbox.send(message)
        return messages

    def settle(self) -> None:
        """Wait until what was accepted is in the core."""
        self.io.call(lambda: None)

    def transmit(self, count: int | None = None) -> None:
        """Let the core send some of its queue, and tell if it is to."""

        def transmit() -> None:
            leaving = self.core.queue[:count]
            self.core.sent += leaving
            del self.core.queue[:count]
            if leaving and self.core.wants_ready:
                self.core.wants_ready = False
                self.outbox.look_for_room()

        self.io.call(transmit)

    def wait_for_senders(self, count: int, *, unless: Future[int] | None = None) -> None:
        """Wait until so many wait for room, unless one of them has given up before."""
        while len(self.outbox._senders) < count and not (unless is not None and unless.done()):
            self.settle()


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-io")
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def ends(io: IoThread) -> Ends:
    return Ends(io)


def test_messages_reach_the_core_in_order(ends: Ends) -> None:
    assert [ends.outbox.send(b"%d" % number) for number in range(5)] == [1, 2, 3, 4, 5]
    ends.settle()
    assert ends.core.queue == [b"0", b"1", b"2", b"3", b"4"]
    assert ends.outbox.sequence == 5


def test_what_crosses_together_wakes_the_thread_once(ends: Ends, io: IoThread) -> None:
    flushes = 0
    flush = io.post

    def count(call: Any) -> None:
        nonlocal flushes
        flushes += 1
        flush(call)

    hold = threading.Event()
    io.post(hold.wait)
    io.post = count  # type: ignore[method-assign]
    ends.fill()
    hold.set()
    assert flushes == 1
    ends.settle()
    assert len(ends.core.queue) == 10


def test_accepted_are_as_many_as_the_queue_holds(ends: Ends) -> None:
    """Wherever they are: on the way, or in the core."""
    messages = ends.fill()
    for _ in range(2):
        with pytest.raises(SendQueueFull, match="no room"):
            ends.outbox.send_nowait(b"x")
        with pytest.raises(SendTimeout, match="not sent"):
            ends.outbox.send(b"x", timeout=0)
        ends.settle()
    assert ends.core.queue == messages
    ends.transmit(1)
    assert ends.outbox.send_nowait(b"x") == 11
    with pytest.raises(SendTimeout):
        ends.outbox.send(b"y", timeout=0.01)
    ends.transmit()
    assert ends.outbox.send(b"y", timeout=0) == 12
    ends.transmit()
    assert ends.core.sent == [*messages, b"x", b"y"]


def test_a_message_of_any_size_fits_into_an_empty_queue(ends: Ends) -> None:
    assert ends.outbox.send_nowait(bytes(SIZE_MAX)) == 1
    with pytest.raises(SendTimeout):
        ends.outbox.send(b"", timeout=0)
    for send in (ends.outbox.send, ends.outbox.send_nowait):
        with pytest.raises(MessageTooLarge, match=f"{SIZE_MAX + 1} bytes, at most {SIZE_MAX}"):
            send(bytes(SIZE_MAX + 1))
    ends.settle()
    ends.transmit()
    assert ends.outbox.send(bytes(SIZE_MAX), timeout=0) == 2
    ends.settle()
    assert ends.core.queue == [bytes(SIZE_MAX)]


def test_who_waits_is_served_first_come_first_served(ends: Ends, threads: ThreadPoolExecutor) -> None:
    messages = ends.fill()
    waiting = []
    for number, message in enumerate([b"large" * 20, b"second", b"third"], 1):
        waiting.append(threads.submit(ends.outbox.send, message, WAIT_S))
        ends.wait_for_senders(number)
    ends.transmit(1)
    with pytest.raises(SendQueueFull):  # although this one would fit
        ends.outbox.send_nowait(b"")
    ends.transmit()
    assert [each.result() for each in waiting] == [11, 12, 13]
    ends.transmit()
    assert ends.core.sent == [*messages, b"large" * 20, b"second", b"third"]


def test_the_queue_grows_with_what_is_sent_as_long_as_memory_lasts(io: IoThread) -> None:
    ends = Ends(io, room_bytes=1 + MESSAGE_COST_BYTES)
    ends.core.memory_bytes = 2 * (1 + MESSAGE_COST_BYTES)
    assert ends.outbox.send(b"0", timeout=0) == 1
    ends.settle()
    assert ends.outbox.send_nowait(b"1") == 2
    for send in (lambda: ends.outbox.send(b"2", timeout=0), lambda: ends.outbox.send_nowait(b"2")):
        with pytest.raises((SendTimeout, SendQueueFull)):
            send()
    ends.core.memory_bytes = QUEUE_BYTES_MAX
    assert ends.outbox.send_nowait(b"2") == 3
    assert ends.outbox.send(b"3", timeout=0) == 4
    ends.settle()
    assert ends.core.queue == [b"0", b"1", b"2", b"3"]


def test_who_gives_up_makes_way(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ends.fill()
    large = threads.submit(ends.outbox.send, b"large" * 20, 0.05)
    ends.wait_for_senders(1, unless=large)
    small = threads.submit(ends.outbox.send, b"x", WAIT_S)
    ends.wait_for_senders(2, unless=large)
    ends.transmit(1)
    assert isinstance(large.exception(), SendTimeout)
    assert small.result() == 11


def test_many_threads_send_at_once(ends: Ends, threads: ThreadPoolExecutor) -> None:
    def send_all(sender: int) -> list[int]:
        return [ends.outbox.send(b"%d" % sender, WAIT_S) for _ in range(200)]

    sending = [threads.submit(send_all, sender) for sender in range(4)]
    while not all(each.done() for each in sending):
        ends.transmit()
    ends.transmit()
    numbers = {sender: each.result() for sender, each in enumerate(sending)}
    assert sorted(itertools.chain(*numbers.values())) == list(range(1, 801))
    assert all(each == sorted(each) for each in numbers.values())
    for sender, own in numbers.items():
        assert all(ends.core.sent[number - 1] == b"%d" % sender for number in own)


def test_a_refusal_ends_the_wait(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ends.fill()
    waiting = [threads.submit(ends.outbox.send, b"x") for _ in range(3)]
    ends.wait_for_senders(3)
    ends.outbox.refuse()
    assert all(isinstance(each.exception(), Refused) for each in waiting)
    for send in (ends.outbox.send, ends.outbox.send_nowait):
        with pytest.raises(Refused):
            send(b"x")
    assert ends.outbox.sequence == 10


def test_what_the_core_does_not_take_any_more_is_told(ends: Ends, io: IoThread) -> None:
    hold = threading.Event()
    io.post(hold.wait)
    assert ends.outbox.send(b"x") == 1  # not known to be in vain
    ends.core.send_error = StreamReset(7)
    hold.set()
    ends.settle()
    assert ends.outbox.loss is ends.core.send_error
    with pytest.raises(Refused):
        ends.outbox.send(b"y")


def test_a_fork_leaves_nothing_to_the_child(ends: Ends) -> None:
    with ends.outbox._lock:  # held by a thread that the child does not have
        ends.outbox.refuse_forked()
    with pytest.raises(Refused):
        ends.outbox.send(b"x")


# Ctrl-C


def test_an_interrupted_send_has_sent_nothing(ends: Ends, io: IoThread) -> None:
    """Wherever it is interrupted before the I/O thread has the message."""
    sent: list[int] = []
    places = 0
    hold = threading.Event()

    def send() -> None:
        hold.clear()
        io.post(hold.wait)
        sent.append(ends.outbox.accept(b"x"))

    for _ in everywhere(send, _outbox.__file__):
        places += 1
        hold.set()
        ends.settle()
        assert (ends.outbox.sequence, ends.outbox._queued, ends.core.queue) == (0, 0, [])
    hold.set()
    assert places >= 4
    assert sent == [1]
    ends.settle()
    assert ends.core.queue == [b"x"]


def test_an_interrupted_wait_for_room_leaves_no_gap(ends: Ends, threads: ThreadPoolExecutor) -> None:
    """Wherever it is interrupted: it may be too late to take the message back, but never half of it."""
    places = 0

    def send() -> None:
        ends.outbox._queued = QUEUE_BYTES_MAX  # as far as was known; in truth there is room
        ends.outbox.send(b"x", WAIT_S)

    for _ in everywhere(send, _outbox.__file__, _waiting.__file__):
        places += 1
        ends.transmit()
        assert not ends.outbox._senders
        assert len(ends.core.sent) == ends.outbox.sequence
        assert threads.submit(ends.outbox.send, b"y", WAIT_S).result() == ends.outbox.sequence
        ends.transmit()
        assert len(ends.core.sent) == ends.outbox.sequence
        assert ends.core.sent[-1] == b"y"
    assert places >= 10
