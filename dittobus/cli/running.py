"""Running a command to its end, whatever ends it, with everything let go of."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dittobus.cli.exits import complain

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in a loop. Ctrl-C, SIGTERM and a terminal that is closed cancel it."""
    try:
        with said():
            return asyncio.run(_until_told(work))
    finally:
        work.close()  # where not even the loop began


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None
    told = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:  # it does not end as it should
            raise KeyboardInterrupt
        told = True
        loop.call_soon_threadsafe(task.cancel)

    with _endings_handled(end):
        try:
            return await work
        except asyncio.CancelledError:
            if told:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, do what Ctrl-C does, so that everything is let go of."""
    with _endings_handled(signal.default_int_handler):
        yield


@contextmanager
def _endings_handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    endings = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
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
