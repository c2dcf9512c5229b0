"""Streams whose messages come back: what ``listen --echo`` answers, and ``ping`` measures with.

Who answers says so in the metadata of its bus, so that nobody else is bothered with the offer of a stream.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from dittobus import BusError, NoPath, SendQueueFull

if TYPE_CHECKING:
    from dittobus import DittoAddress
    from dittobus.aio import Stream

STREAM = "dittobus.echo"

METADATA = b"dittobus.echo"


async def answer(stream: Stream, peer: DittoAddress) -> None:
    """Send every message back, until the other side has finished, or goes."""
    with suppress(BusError):
        async for message in stream:
            with suppress(NoPath, SendQueueFull):  # which happen to what may be lost only
                await stream.send(message)
        await stream.finish()
        await stream.close()
