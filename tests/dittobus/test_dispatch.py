from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import ConfigError
from dittobus import DispatchQueue, _strand
from dittobus._strand import Completion, Entry, Recipient, Strand, Unpark
from dittobus.dispatch import as_dispatch_queue
from tests.dittobus.recording import WAIT_S, Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dittobus.dispatch import EventQueue, SerialDispatchQueue


@pytest.fixture
def serial() -> Iterator[SerialDispatchQueue]:
    queue = DispatchQueue.serial("test-callbacks")
    yield queue
    queue.close()


class Calls:
    """A strand and a recipient, and calls in a row."""

    def __init__(self, queue: EventQueue) -> None:
        self.strand = Strand(queue)
        self.recipient = Recipient(is_open=True)
        self.log = Log()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        self.strand.append(self.recipient, Completion(function, *arguments))

    def note(self, *heard: Any) -> None:
        self.call(self.log.add, *heard)


class Numbers(Entry):
    """Several callbacks; two in a row become one."""

    def __init__(self, log: Log, *numbers: int) -> None:
        super().__init__()
        self.log = log
        self.numbers = list(numbers)

    def step(self, strand: Strand, recipient: Recipient) -> bool:
        if not recipient.is_open:
            recipient.park(self)
            return False
        strand.call(self.log.add, "number", self.numbers.pop(0))
        return bool(self.numbers)

    def has_more(self) -> bool:
        return bool(self.numbers)

    def absorb(self, newer: Entry) -> bool:
        if not isinstance(newer, Numbers):
            return False
        self.numbers += newer.numbers
        return True


# The queues


def test_a_serial_queue_calls_in_order_in_a_thread_of_its_own(serial: SerialDispatchQueue) -> None:
    calls = Calls(serial)
    for number in range(1000):
        calls.call(lambda number: calls.log.add("call", number, threading.current_thread().name), number)
    calls.log.wait("call", 1000)
    assert calls.log.of("call") == [(number, "test-callbacks") for number in range(1000)]


def test_a_serial_queue_starts_its_thread_with_the_first_callback(serial: SerialDispatchQueue) -> None:
    before = threading.active_count()
    calls = Calls(serial)
    assert threading.active_count() == before
    calls.note("call")
    calls.log.wait("call")
    assert threading.active_count() == before + 1


def test_a_closed_serial_queue_has_no_thread(serial: SerialDispatchQueue) -> None:
    calls = Calls(serial)
    calls.note("call")
    serial.close()
    serial.close()
    assert calls.log.of("call") == [()]
    assert "test-callbacks" not in [thread.name for thread in threading.enumerate()]


def test_a_serial_queue_without_its_thread_drops_and_can_be_closed(
    serial: SerialDispatchQueue, allow_no_threads: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls(serial)
    allow_no_threads()
    calls.note("call")
    serial.close()
    assert calls.log.all == []
    assert "takes no more callbacks" in caplog.text


def test_a_dropped_serial_queue_takes_its_thread_along() -> None:
    calls = Calls(DispatchQueue.serial("dropped"))
    log = Log()
    calls.call(lambda: log.add("thread", threading.current_thread()))
    thread = log.wait("thread")
    del calls
    gc.collect()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_a_queue_that_is_closed_says_so_once_and_drops(
    serial: SerialDispatchQueue, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls(serial)
    serial.close()
    calls.note("call")
    calls.note("call")
    assert calls.log.all == []
    assert [record.name for record in caplog.records] == ["dittobus"]
    assert "takes no more callbacks" in caplog.text


def test_a_serial_queue_survives_a_callback_that_exits(
    serial: SerialDispatchQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def leave() -> None:
        raise SystemExit

    calls = Calls(serial)
    calls.call(leave)
    calls.note("after")
    calls.log.wait("after")
    assert "SystemExit" in caplog.text


def test_a_manual_queue_calls_when_pumped() -> None:
    queue = DispatchQueue.manual()
    calls = Calls(queue)
    for number in range(3):
        calls.note("call", number)
    assert calls.log.all == []
    assert queue.run_pending() == 3
    assert calls.log.of("call") == [0, 1, 2]
    assert queue.run_pending() == 0


def test_a_manual_queue_keeps_what_has_no_time_left() -> None:
    queue = DispatchQueue.manual()
    first, second = Calls(queue), Calls(queue)
    for number in range(2):
        first.note("call", number)
        second.note("call", number)
    assert [queue.run_pending(max_s=0) for _ in range(5)] == [1, 1, 1, 1, 0]
    assert first.log.of("call") == second.log.of("call") == [0, 1]


def test_a_manual_queue_calls_what_is_added_meanwhile_the_next_time() -> None:
    queue = DispatchQueue.manual()
    calls = Calls(queue)

    def again() -> None:
        calls.call(again)

    again()
    assert [queue.run_pending() for _ in range(3)] == [1, 1, 1]


def test_a_manual_queue_can_be_pumped_from_a_callback() -> None:
    queue = DispatchQueue.manual()
    calls, others = Calls(queue), Calls(queue)
    calls.call(lambda: calls.log.add("nested", queue.run_pending()))
    calls.note("after")
    others.note("other")
    queue.run_pending()
    assert calls.log.all == [("nested", 1), ("after",)]
    assert others.log.all == [("other",)]


@pytest.mark.parametrize("max_s", [-1, float("nan")])
def test_a_manual_queue_refuses_a_time_that_cannot_be(max_s: float) -> None:
    with pytest.raises(ConfigError, match="max_s"):
        DispatchQueue.manual().run_pending(max_s)


def test_an_interrupted_pump_loses_nothing() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    queue = DispatchQueue.manual()
    calls = Calls(queue)
    calls.call(interrupt)
    calls.note("after")
    with pytest.raises(KeyboardInterrupt):
        queue.run_pending()
    assert queue.run_pending() == 1
    assert calls.log.all == [("after",)]


@pytest.mark.asyncio
async def test_a_loop_can_be_the_queue() -> None:
    calls = Calls(asyncio.get_running_loop())
    done = asyncio.Event()
    thread = threading.Thread(target=lambda: [calls.note("call", number) for number in range(3)])
    thread.start()
    thread.join()
    calls.call(done.set)
    async with asyncio.timeout(WAIT_S):
        await done.wait()
    assert calls.log.of("call") == [0, 1, 2]


def test_on_an_executor_callbacks_of_one_strand_never_overlap() -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        calls = Calls(executor)
        running: list[int] = []

        def check(number: int) -> None:
            running.append(number)
            time.sleep(0)  # invites another thread
            calls.log.add("call", number, list(running))
            running.remove(number)

        for number in range(200):
            calls.call(check, number)
        calls.log.wait("call", 200)
    assert calls.log.of("call") == [(number, [number]) for number in range(200)]


def test_other_things_are_no_queues() -> None:
    with pytest.raises(TypeError, match="delegate_event_queue"):
        as_dispatch_queue("main")  # type: ignore[arg-type]
    with concurrent.futures.ProcessPoolExecutor(1) as executor, pytest.raises(TypeError, match="process"):
        as_dispatch_queue(executor)


# Callbacks


def test_a_callback_that_raises_is_logged_with_its_traceback_and_changes_nothing_else(
    serial: SerialDispatchQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("this went wrong")

    calls = Calls(serial)
    calls.call(fail)
    calls.note("after")
    calls.log.wait("after")
    [record] = caplog.records
    assert (record.name, record.levelno) == ("dittobus", logging.ERROR)
    assert "fail raised" in record.message
    assert "this went wrong" in caplog.text
    assert "Traceback" in caplog.text


def test_a_callback_that_took_long_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_strand, "SLOW_CALLBACK_S", 0.0)
    queue = DispatchQueue.manual()
    calls = Calls(queue)
    calls.note("call")
    queue.run_pending()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "Log.add took" in record.message


def test_a_callback_that_hangs_is_logged_once_with_its_stack(
    monkeypatch: pytest.MonkeyPatch, serial: SerialDispatchQueue, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_strand, "SLOW_CALLBACK_S", 0.0)
    started, release = threading.Event(), threading.Event()

    def hang_about() -> None:
        started.set(), release.wait(WAIT_S)  # in one line, which the stack shows wherever it is in it

    calls = Calls(serial)
    calls.call(hang_about)
    assert started.wait(WAIT_S)
    assert calls.strand.report_slow()
    assert calls.strand.report_slow()
    release.set()
    serial.close()
    assert not calls.strand.report_slow()
    [record] = caplog.records
    assert "hang_about has been running" in record.message
    assert "release.wait(WAIT_S)" in record.message


# The strand


def test_entries_in_a_row_are_merged_until_they_are_taken() -> None:
    queue = DispatchQueue.manual()
    calls = Calls(queue)
    for number in range(3):
        calls.strand.append(calls.recipient, Numbers(calls.log, number))
    calls.note("other")
    calls.strand.append(calls.recipient, Numbers(calls.log, 3))
    assert len(calls.strand._entries) == 3
    queue.run_pending(max_s=0)
    calls.strand.append(calls.recipient, Numbers(calls.log, 4))
    while queue.run_pending():
        pass
    assert calls.log.all == [
        ("number", 0),
        ("number", 1),
        ("number", 2),
        ("other",),
        ("number", 3),
        ("number", 4),
    ]


def test_a_discarded_entry_is_not_delivered() -> None:
    queue = DispatchQueue.manual()
    calls = Calls(queue)
    entry = Numbers(calls.log, 1)
    calls.strand.append(calls.recipient, entry)
    calls.strand.discard(calls.recipient, entry)
    calls.strand.discard(calls.recipient, entry)
    calls.note("other")
    queue.run_pending()
    assert calls.log.all == [("other",)]


def test_what_is_parked_is_delivered_before_what_came_later() -> None:
    queue = DispatchQueue.manual()
    calls = Calls(queue)
    calls.recipient.is_open = False
    for number in range(3):
        calls.strand.append(calls.recipient, Numbers(calls.log, number))
        calls.note("other")
    queue.run_pending()
    assert calls.log.of("number") == []
    assert len(calls.recipient.parked) == 1  # merged
    calls.strand.append(calls.recipient, Numbers(calls.log, 3))
    calls.strand.append(calls.recipient, Unpark())
    calls.strand.append(calls.recipient, Numbers(calls.log, 4))
    while queue.run_pending():
        pass
    assert calls.log.of("number") == [0, 1, 2, 3, 4]


def test_what_is_parked_survives_an_interruption() -> None:
    queue = DispatchQueue.manual()
    calls = Calls(queue)
    calls.recipient.is_open = False
    calls.strand.append(calls.recipient, Numbers(calls.log, 1, 2))
    queue.run_pending()
    numbers = calls.recipient.parked[0]
    assert isinstance(numbers, Numbers)
    log = calls.log

    def interrupt(*_: object) -> None:
        numbers.log = log
        raise KeyboardInterrupt

    numbers.log = Log()
    numbers.log.add = interrupt  # type: ignore[method-assign]
    calls.strand.append(calls.recipient, Unpark())
    with pytest.raises(KeyboardInterrupt):
        queue.run_pending()
    while queue.run_pending():
        pass
    assert log.of("number") == [2]


# The end


def test_finish_lets_what_is_queued_run(serial: SerialDispatchQueue) -> None:
    calls = Calls(serial)
    for number in range(100):
        calls.note("call", number)
    calls.strand.finish(time.monotonic() + WAIT_S)
    assert len(calls.log.all) == 100
    calls.note("late")
    assert calls.log.of("late") == []


def test_finish_waits_for_the_callback_that_is_running(serial: SerialDispatchQueue) -> None:
    calls = Calls(serial)
    started, release = threading.Event(), threading.Event()
    calls.call(lambda: (started.set(), release.wait(WAIT_S), calls.log.add("ran")))
    calls.note("next")
    assert started.wait(WAIT_S)
    threading.Timer(0.05, release.set).start()
    calls.strand.finish(time.monotonic() + WAIT_S)
    assert calls.log.all == [("ran",), ("next",)]


def test_finish_does_not_wait_beyond_its_deadline(serial: SerialDispatchQueue) -> None:
    calls = Calls(serial)
    started, release = threading.Event(), threading.Event()
    calls.call(lambda: (started.set(), release.wait(WAIT_S)))
    calls.note("next")
    assert started.wait(WAIT_S)
    assert not calls.strand.finish(time.monotonic())
    assert not release.is_set()
    release.set()
    serial.close()
    assert calls.strand.finish(time.monotonic())
    assert calls.log.all == []


def test_finish_from_a_callback_drops_the_rest(serial: SerialDispatchQueue) -> None:
    calls, others = Calls(serial), Calls(serial)
    calls.call(
        lambda: (
            calls.strand.finish(None),
            others.strand.finish(None),  # on the same queue: it could not run there, either
            calls.log.add("finished"),
        )
    )
    calls.note("next")
    others.note("other")
    calls.log.wait("finished")
    serial.close()
    assert calls.log.all == [("finished",)]
    assert others.log.all == []


def test_finish_runs_what_waits_for_the_thread_that_finishes() -> None:
    queue = DispatchQueue.manual()
    queue.run_pending()
    calls = Calls(queue)
    calls.note("call")
    calls.strand.finish(time.monotonic() + WAIT_S)
    assert calls.log.all == [("call",)]


def test_finish_drops_what_nobody_pumps() -> None:
    calls = Calls(DispatchQueue.manual())
    calls.note("call")
    calls.strand.finish(None)
    assert calls.log.all == []


@pytest.mark.asyncio
async def test_finish_runs_what_waits_for_the_loop_it_is_called_in() -> None:
    calls = Calls(asyncio.get_running_loop())
    calls.note("call")
    calls.strand.finish(time.monotonic() + WAIT_S)
    assert calls.log.all == [("call",)]


def test_finish_does_not_wait_for_a_loop_that_stands_still() -> None:
    loop = asyncio.new_event_loop()
    calls = Calls(loop)
    calls.note("call")
    calls.strand.finish(None)
    loop.close()
    assert calls.log.all == []
