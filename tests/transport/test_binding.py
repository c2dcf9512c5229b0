"""Where a node listens. With real sockets: test_transport.py."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import zmq

from brokerless.errors import ConfigError, PortInUse, StartError
from brokerless.transport.binding import IPC_PATH_BYTES_MAX, PORT_ATTEMPTS, bind, ipc_path
from tests.transport.support import bare_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Fussy:
    """A ROUTER to which the system says no where the test wants it to."""

    def __init__(self, router: zmq.Socket[bytes]) -> None:
        self._router = router
        self.refusals: dict[str, list[int]] = {}
        self.bound: list[str] = []

    def bind(self, endpoint: str) -> None:
        place = endpoint.rpartition(":")[0]
        if self.refusals.get(place):
            raise zmq.ZMQError(self.refusals[place].pop())
        self._router.bind(endpoint)
        self.bound.append(self.get_string(zmq.LAST_ENDPOINT))

    def unbind(self, endpoint: str) -> None:
        self._router.unbind(endpoint)
        self.bound.remove(endpoint)

    def setsockopt(self, option: int, value: int) -> None:
        self._router.setsockopt(option, value)

    def get_string(self, option: int) -> str:
        return self._router.get_string(option)


@pytest.fixture
def fussy() -> Iterator[Fussy]:
    with bare_context() as context:
        yield Fussy(context.socket(zmq.ROUTER))


HOSTS = ("127.0.0.1", "127.0.0.2")


def test_another_port_is_tried_when_one_is_taken_on_a_later_host(fussy: Fussy) -> None:
    fussy.refusals["tcp://127.0.0.2"] = [errno.EADDRINUSE] * (PORT_ATTEMPTS - 1)
    endpoints = bind(fussy, HOSTS, 0, None)  # type: ignore[arg-type]
    assert list(endpoints) == fussy.bound
    assert len(endpoints) == 2


def test_but_not_for_ever(fussy: Fussy) -> None:
    fussy.refusals["tcp://127.0.0.2"] = [errno.EADDRINUSE] * PORT_ATTEMPTS
    with pytest.raises(PortInUse):
        bind(fussy, HOSTS, 0, None)  # type: ignore[arg-type]
    assert fussy.bound == []


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EACCES, "privilege"), (errno.EMFILE, "ulimit"), (errno.ENOMEM, "memory")]
)
def test_another_error_is_not_tried_again(fussy: Fussy, number: int, said: str) -> None:
    fussy.refusals["tcp://127.0.0.2"] = [number]
    with pytest.raises(StartError, match=said):
        bind(fussy, HOSTS, 0, None)  # type: ignore[arg-type]
    assert fussy.bound == []


def test_everywhere_without_ipv6(fussy: Fussy) -> None:
    fussy.refusals["tcp://*"] = [errno.EAFNOSUPPORT]
    (endpoint,) = bind(fussy, ("*",), 0, None)  # type: ignore[arg-type]
    assert endpoint.startswith("tcp://0.0.0.0:")


def test_what_fails_within_the_host_unbinds_the_rest(fussy: Fussy, short_directory: Path) -> None:
    with pytest.raises(StartError):
        bind(fussy, HOSTS, 0, short_directory / "missing")  # type: ignore[arg-type]
    assert fussy.bound == []


def test_the_longest_path(fussy: Fussy, short_directory: Path) -> None:
    space = IPC_PATH_BYTES_MAX - len(os.fsencode(short_directory / "x")) - 17  # the name and its slash
    fits, too_long = short_directory / ("d" * (space + 1)), short_directory / ("d" * (space + 2))
    fits.mkdir()
    too_long.mkdir()
    (endpoint,) = bind(fussy, (), 0, fits)  # type: ignore[arg-type]
    assert len(os.fsencode(str(ipc_path(endpoint)))) == IPC_PATH_BYTES_MAX
    with pytest.raises(ConfigError):
        bind(fussy, (), 0, too_long)  # type: ignore[arg-type]
    fussy.unbind(endpoint)
