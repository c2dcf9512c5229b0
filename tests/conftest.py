"""What every test is held to: it leaves no thread, no task and no open descriptor behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.soak import SOAK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# How fast an example runs says nothing about its truth, least of all on a busy machine. A change is judged by
# the same examples every time; others are looked for everywhere else, and in long runs.
settings.register_profile(
    "dittobus",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize="CI" in os.environ and not SOAK,
)
settings.load_profile("dittobus")

# A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DESCRIPTORS = Path("/proc/self/fd")  # elsewhere than on Linux, descriptors are not watched
THREAD_END_S = 5.0
"""How long a thread that was told to end may take: generous, since only a leak waits for it."""


def open_descriptors() -> set[tuple[int, str]]:
    descriptors = set()
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS.exists() else ():
        try:
            descriptors.add((int(name), os.readlink(DESCRIPTORS / name)))
        except FileNotFoundError:  # the listing's own
            continue
    return descriptors


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or a descriptor. Set up first, so it looks when all else is gone."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(THREAD_END_S)
    left_threads = set(threading.enumerate()) - threads
    assert not left_threads, f"threads left behind: {left_threads}"
    if open_descriptors() - descriptors:
        gc.collect()  # what only a cycle of garbage holds, and warns about, is not left open by the test
    left_descriptors = open_descriptors() - descriptors
    assert not left_descriptors, f"descriptors left open: {left_descriptors}"


@pytest.fixture
def allow_no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which no thread can be started, as when the interpreter exits, from Python 3.12 on."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.fixture
def heed_hangup() -> Iterator[None]:
    """Let SIGHUP do what it does, here and in children, though the tests were started by ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest_asyncio.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail an asyncio test that leaves a task running, after its asyncio fixtures were torn down."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            # Around all other fixtures, and no_leaks around the event loop, which the other brings along.
            item.fixturenames[:0] = ["no_leaks", "no_leaked_tasks"]
