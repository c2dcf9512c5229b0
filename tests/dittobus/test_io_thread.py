from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from brokerless import UsageError
from dittobus import _io_thread
from dittobus._futures import BusFuture
from dittobus._io_thread import IoThread
from tests.dittobus.interrupts import everywhere
from tests.dittobus.recording import WAIT_S, Log

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Iterator


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-io")
    thread.start()
    yield thread
    thread.stop()


def test_calls_run_in_order_on_the_thread(io: IoThread) -> None:
    log = Log()
    for number in range(100):
        io.post(lambda number=number: log.add("call", number, io.is_current))  # type: ignore[misc]
    log.wait("call", 100)
    assert log.of("call") == [(number, True) for number in range(100)]
    assert not io.is_current


def test_a_batch_of_calls_wakes_the_loop_once(io: IoThread, monkeypatch: pytest.MonkeyPatch) -> None:
    wakes = 0
    wake = io.loop.call_soon_threadsafe

    def count(*arguments: object) -> object:
        nonlocal wakes
        wakes += 1
        return wake(*arguments)  # type: ignore[arg-type]

    hold, held = threading.Event(), threading.Event()
    io.post(lambda: (held.set(), hold.wait(WAIT_S)))
    assert held.wait(WAIT_S)
    monkeypatch.setattr(io.loop, "call_soon_threadsafe", count)
    log = Log()
    for _ in range(1000):
        io.post(lambda: log.add("call"))
    hold.set()
    log.wait("call", 1000)
    assert wakes == 1


def test_an_interrupted_post_does_not_cut_off_the_thread(io: IoThread) -> None:
    """Wherever it is interrupted, what is posted afterwards still runs."""
    places = 0
    for _ in everywhere(lambda: io.post(list), _io_thread.__file__):
        places += 1
        done = threading.Event()
        io.post(done.set)
        assert done.wait(WAIT_S)
    assert places >= 3


def test_a_call_that_fails_does_not_take_others_along(io: IoThread, caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    io.post(lambda: 1 // 0)
    io.post(lambda: log.add("after"))
    log.wait("after")
    assert "ZeroDivisionError" in caplog.text


def test_call_returns_or_raises_what_the_function_does(io: IoThread) -> None:
    assert io.call(pow, 2, 10) == 1024
    with pytest.raises(ZeroDivisionError):
        io.call(lambda: 1 // 0)
    assert io.call(lambda: io.call(lambda: io.is_current))


def test_coroutines_run_there(io: IoThread) -> None:
    async def where() -> bool:
        await asyncio.sleep(0)
        return io.is_current

    assert io.run(where()).result(WAIT_S)


def test_a_stopped_thread_ends_its_tasks_and_runs_what_comes_too_late_at_once(io: IoThread) -> None:
    log = Log()

    async def wait_forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.add("cancelled")

    task = io.run(wait_forever())
    io.call(lambda: None)
    io.stop()
    io.stop()
    log.wait("cancelled")
    assert task.cancelled() or task.cancel()
    io.post(lambda: log.add("late", threading.current_thread() is threading.main_thread()))
    assert log.of("late") == [True]
    assert io.call(lambda: "too late") == "too late"
    assert io.loop.is_closed()


def test_what_blocks_runs_in_threads_that_hold_up_no_exit(io: IoThread) -> None:
    async def ask() -> tuple[str, bool]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            None, lambda: (threading.current_thread().name, threading.current_thread().daemon)
        )

    async def fail() -> None:
        await asyncio.get_running_loop().run_in_executor(None, lambda: 1 // 0)

    assert io.run(ask()).result(WAIT_S) == ("dittobus-call", True)
    with pytest.raises(ZeroDivisionError):
        io.run(fail()).result(WAIT_S)


def test_what_blocks_runs_where_no_thread_can_be_started_any_more(
    io: IoThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    async def ask() -> bool:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: io.is_current)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert io.run(ask()).result(WAIT_S)


# Futures


def test_a_future_brings_a_result_or_an_error(io: IoThread) -> None:
    done, failed = BusFuture[int](io), BusFuture[int](io)
    io.post(lambda: done.succeed(7))
    io.post(lambda: failed.fail(ValueError("no")))
    assert done.result(WAIT_S) == 7
    assert done.exception() is None
    with pytest.raises(ValueError, match="no"):
        failed.result(WAIT_S)


def test_waiting_on_the_io_thread_raises_unless_the_outcome_is_known(io: IoThread) -> None:
    future = BusFuture[int](io)
    for method in (future.result, future.exception):
        with pytest.raises(UsageError, match="I/O thread"):
            io.call(method)
    future.succeed(7)
    assert io.call(future.result) == 7


def test_a_future_without_a_way_back_cannot_be_cancelled(io: IoThread) -> None:
    future = BusFuture[int](io)
    assert not future.cancel()
    assert future.succeed(7)
    assert not future.cancel()


def test_a_cancelled_future_gives_up_once(io: IoThread) -> None:
    given_up: list[concurrent.futures.Future[int]] = []
    future = BusFuture[int](io, given_up.append)
    assert future.cancel()
    assert future.cancel()
    assert given_up == [future]
    assert not future.succeed(7)
    assert not future.fail(ValueError())
    late = BusFuture[int](io, given_up.append)
    assert late.succeed(7)
    assert not late.cancel()
    assert given_up == [future]
