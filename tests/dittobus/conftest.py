"""Buses on this host that find each other, and nobody else."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from dittobus import DittoBus
from tests.dittobus.recording import BusRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
