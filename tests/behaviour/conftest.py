"""Every scenario, through every face."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.behaviour.aio_face import AioFace, ThreadedAioFace
from tests.behaviour.blocking_face import BlockingFace
from tests.behaviour.delegate_face import DelegateFace
from tests.behaviour.face import AnyBus, AnyStream, Face, get, until
from tests.behaviour.proxies import Proxies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FACES: dict[str, type[Face]] = {
    "delegate": DelegateFace,
    "aio": AioFace,
    "aio with io_thread": ThreadedAioFace,
    "blocking": BlockingFace,
}


@pytest.fixture
def mesh() -> Iterator[dict[str, Any]]:
    """Arguments that bring buses of this test together, and nobody else."""
    directory = tempfile.mkdtemp(prefix="db-")  # short: a Unix socket's path is at most 103 characters
    yield {
        "secret": b"the secret of the scenarios' own mesh",
        "directory": directory,
        "discovery": ("registry",),
        "interfaces": ("127.0.0.1",),
    }
    shutil.rmtree(directory)


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    """Proxies, which outlive the buses behind them."""
    proxies = Proxies()
    yield proxies
    proxies.close()


@pytest.fixture(params=FACES)
def make_bus(request: pytest.FixtureRequest, mesh: dict[str, Any]) -> Iterator[Callable[..., AnyBus]]:
    """A function that starts a bus of this face, which is closed in the end."""
    face = FACES[request.param]()
    yield lambda name, **arguments: face.bus(name, **{**mesh, **arguments})
    face.close()


@pytest.fixture
def pair(make_bus: Callable[..., AnyBus]) -> tuple[AnyBus, AnyBus]:
    """Buses "near" and "far" that know each other."""
    return introduce(make_bus("near"), make_bus("far"))


@pytest.fixture
def line(proxies: Proxies, make_bus: Callable[..., AnyBus]) -> tuple[AnyBus, AnyBus, Proxies]:
    """Buses "near" and "far" with a proxy before each."""
    near, far = (proxies.bus(make_bus, name) for name in ("near", "far"))
    return *introduce(near, far), proxies


@pytest.fixture
def ends(pair: tuple[AnyBus, AnyBus]) -> tuple[AnyStream, AnyStream]:
    """Both ends of an open stream: that of "near", who opened it, and that of "far"."""
    return connect(*pair)


def introduce(near: AnyBus, far: AnyBus) -> tuple[AnyBus, AnyBus]:
    """Wait until both know each other."""
    get(near.wait_for_peer(far.address))
    get(far.wait_for_peer(near.address))
    return near, far


def connect(near: AnyBus, far: AnyBus, name: str = "") -> tuple[AnyStream, AnyStream]:
    """Open a stream, and return both ends."""
    opening = near.open(far.address, name=name)
    theirs = get(get(far.take_offer()).accept())
    return get(opening), theirs


def forget(near: AnyBus, far: AnyBus) -> None:
    """Wait until who was closed is unknown: its record may be found between its goodbye and its end."""
    until(lambda: near.peer(far.address) is None)
