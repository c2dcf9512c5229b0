"""Running a command to its end, whatever ends it, with everything let go of."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from dittobus.cli.exits import complain

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType

T = TypeVar("T")

STDOUT = 1

ENDINGS = ("SIGTERM", "SIGHUP")

PATIENCE_S = 1.0
"""Whoever interrupts once more after this does not want to wait for a proper end. Sooner it is the same
interrupt, told to the process and to its group."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in a loop. Ctrl-C, SIGTERM, a closed terminal, and a stdout that nobody reads end it.

    They cancel it, so that everything is let go of, and then raise ``KeyboardInterrupt`` or
    ``BrokenPipeError``.
    """
    told: list[type[BaseException]] = []
    try:
        with said():
            return asyncio.run(_until_told(work, told))
    except asyncio.CancelledError:
        if told:
            raise told[0] from None
        raise


async def _until_told(work: Coroutine[Any, Any, T], told: list[type[BaseException]]) -> T:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None
    begun = 0.0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal begun
        if not told:
            told.append(KeyboardInterrupt)
            begun = monotonic()
            loop.call_soon_threadsafe(task.cancel)
        elif monotonic() - begun > PATIENCE_S:
            raise KeyboardInterrupt

    def end_of_pipe() -> None:
        loop.remove_reader(STDOUT)
        told.append(BrokenPipeError)
        task.cancel()

    with _handled(("SIGINT", *ENDINGS), end), _reader_watched(loop, end_of_pipe):
        return await work


@contextmanager
def _reader_watched(loop: asyncio.AbstractEventLoop, gone: Callable[[], None]) -> Iterator[None]:
    """Call ``gone`` when nobody reads from the pipe that is stdout: who listens for long writes seldom."""
    if not stat.S_ISFIFO(os.fstat(STDOUT).st_mode):  # a terminal could be read from
        yield
        return
    try:
        loop.add_reader(STDOUT, gone)  # all it tells is that the other end is gone
    except (NotImplementedError, OSError):  # this loop, or this system, cannot tell
        yield
        return
    try:
        yield
    finally:
        loop.remove_reader(STDOUT)


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, do what Ctrl-C does, so that everything is let go of."""
    with _handled(ENDINGS, signal.default_int_handler):
        yield


@contextmanager
def _handled(names: tuple[str, ...], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    endings = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {ending: signal.getsignal(ending) for ending in endings}
    heeded = [ending for ending in endings if before[ending] is not signal.SIG_IGN]  # nohup has its reasons
    for ending in heeded:
        signal.signal(ending, handler)
    try:
        yield
    finally:
        for ending in heeded:
            signal.signal(ending, before[ending])


class _Said(logging.Handler):
    """Says what the library warns of as the command line says things."""

    def emit(self, record: logging.LogRecord) -> None:
        # That there is no secret is said where it matters: when a peer is not found.
        if not record.getMessage().startswith("no secret was given"):
            complain(record.getMessage())


@contextmanager
def said() -> Iterator[None]:
    """Say on stderr what the library warns of meanwhile."""
    logger = logging.getLogger("dittobus")
    handler = _Said(logging.WARNING)
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)


async def together(*works: Coroutine[Any, Any, Any]) -> None:
    """Run all of them to their ends; the first that raises ends the others, and its error is raised."""
    await _until(lambda tasks: all(task.done() for task in tasks), *works)


async def beside(work: Coroutine[Any, Any, Any], *others: Coroutine[Any, Any, Any]) -> None:
    """Run ``work`` to its end, and the others until then; an error of any ends all, and is raised."""
    await _until(lambda tasks: tasks[0].done(), work, *others)


async def _until(enough: Callable[[list[asyncio.Task[Any]]], bool], *works: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        while not enough(tasks):
            waiting = [task for task in tasks if not task.done()]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
