"""Tasks that serve connections, and fail each for itself."""

from __future__ import annotations

import asyncio
import logging

import pytest

from dittobus.tunnel.connections import Connections
from dittobus.tunnel.notices import nobody

pytestmark = pytest.mark.asyncio


class Socket:
    """As much of a connection as is let go of."""

    bytes_sent = bytes_received = 0
    resets = 0

    def __init__(self) -> None:
        self.was_reset = asyncio.Event()

    async def run(self, stream: object) -> None:
        await asyncio.Event().wait()

    def reset(self) -> None:
        self.resets += 1
        self.was_reset.set()


async def test_a_connection_that_was_not_served_yet_is_let_go_of() -> None:
    connections, connection = Connections(nobody), Socket()
    serving = connection.run(None)
    connections.start(serving, connection)
    await connections.close()  # before the task could begin
    assert connection.resets == 1


async def test_a_defect_is_logged_and_ends_one_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    connections, defective, other = Connections(nobody), Socket(), Socket()

    async def fail() -> None:
        raise ZeroDivisionError("a defect")

    connections.start(other.run(None), other)
    with caplog.at_level(logging.ERROR, "dittobus"):
        connections.start(fail(), defective)
        await defective.was_reset.wait()
    assert "a defect" in caplog.text
    assert not other.resets
    await connections.close()
    assert other.resets == 1


async def test_to_close_what_has_no_connections_is_harmless() -> None:
    await Connections(nobody).close()
