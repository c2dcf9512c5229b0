"""The lanes of a session, and the tests' own host, answer what streams ask for."""

from __future__ import annotations

import inspect

import pytest

from brokerless.protocol.lanes import Lanes
from brokerless.protocol.stream_host import StreamHost
from tests.protocol.two_ends import End

ASKED = sorted(
    name for name, member in vars(StreamHost).items() if inspect.isfunction(member) and name[0] != "_"
)


def parameters(host: type, name: str) -> list[str]:
    return list(inspect.signature(getattr(host, name)).parameters)


@pytest.mark.parametrize("name", ASKED)
def test_the_tests_host_answers(name: str) -> None:
    assert parameters(End, name) == parameters(StreamHost, name)


@pytest.mark.parametrize(
    "name", [name for name in ASKED if name != "emit"]
)  # which it is given when it is made
def test_the_lanes_answer(name: str) -> None:
    assert parameters(Lanes, name) == parameters(StreamHost, name)
