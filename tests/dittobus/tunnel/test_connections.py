"""Tasks that serve connections, and fail each for itself."""

from __future__ import annotations

import asyncio
import logging

import pytest

from dittobus.tunnel.connections import Connections
from dittobus.tunnel.notices import nobody

pytestmark = pytest.mark.asyncio


class Served:
    """A connection that is served until it is let go of."""

    def __init__(self) -> None:
        self.was_let_go = asyncio.Event()

    async def serve(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.was_let_go.set()

    async def fail(self) -> None:
        try:
            raise ZeroDivisionError("a defect")
        finally:
            self.was_let_go.set()


async def test_a_connection_that_was_not_served_yet_is_let_go_of() -> None:
    connections, served = Connections(nobody), Served()
    connections.start(served.serve())
    await connections.close()  # before the task could begin
    assert served.was_let_go.is_set()


async def test_a_defect_is_logged_and_ends_one_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    connections, defective, other = Connections(nobody), Served(), Served()
    connections.start(other.serve())
    with caplog.at_level(logging.ERROR, "dittobus"):
        connections.start(defective.fail())
        await defective.was_let_go.wait()
        await asyncio.sleep(0)
    assert "a defect" in caplog.text
    assert not other.was_let_go.is_set()
    await connections.close()
    assert other.was_let_go.is_set()


async def test_to_close_what_has_no_connections_is_harmless() -> None:
    await Connections(nobody).close()
