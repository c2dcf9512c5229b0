"""Buses on this host that find each other, and nobody else."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from dittobus import DittoBus, aio
from tests.dittobus.recording import BusRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

SECRET = b"the secret of the tests' own mesh"


@pytest.fixture
def mesh() -> Iterator[dict[str, Any]]:
    """Arguments that bring buses of this test together."""
    directory = tempfile.mkdtemp(prefix="db-")  # short: a Unix socket's path is at most 103 characters
    yield {
        "secret": SECRET,
        "directory": directory,
        "discovery": ("registry",),
        "interfaces": ("127.0.0.1",),
    }
    shutil.rmtree(directory)


@pytest.fixture
def make_bus(mesh: dict[str, Any]) -> Iterator[Callable[..., DittoBus]]:
    """A function that returns a running bus, which is closed in the end."""
    buses: list[DittoBus] = []

    def make(name: str, **arguments: Any) -> DittoBus:
        bus = DittoBus(name, **{**mesh, **arguments})
        bus.start()
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        bus.close(timeout=0)


@pytest.fixture
def pair(make_bus: Callable[..., DittoBus]) -> tuple[DittoBus, DittoBus, BusRecorder]:
    """A bus "near" without a delegate, a bus "far", and what "far" hears; they know each other."""
    recorder = BusRecorder()
    near, far = make_bus("near"), make_bus("far", delegate=recorder)
    near.wait_for_peer("far").result(10)
    far.wait_for_peer("near").result(10)
    return near, far, recorder


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for what blocks; all have ended when the test has."""
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.fixture
def io_thread() -> bool:
    """Whether asyncio buses have a thread of their own; for a file of tests to say otherwise."""
    return False


@pytest_asyncio.fixture
async def make_aio_bus(
    mesh: dict[str, Any], io_thread: bool
) -> AsyncIterator[Callable[..., Awaitable[aio.Bus]]]:
    """A function that returns a running asyncio bus, which is closed in the end."""
    buses: list[aio.Bus] = []

    async def make(name: str, **arguments: Any) -> aio.Bus:
        bus = aio.Bus(name, **{**mesh, "io_thread": io_thread, **arguments})
        await bus.start()
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        await bus.close(timeout=0)


@pytest_asyncio.fixture
async def aio_pair(make_aio_bus: Callable[..., Awaitable[aio.Bus]]) -> tuple[aio.Bus, aio.Bus]:
    """Buses "near" and "far" that know each other."""
    near, far = await make_aio_bus("near"), await make_aio_bus("far")
    await near.wait_for_peer("far")
    await far.wait_for_peer("near")
    return near, far
