"""A UDP socket of the doctor's own, and waiting for what comes to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

LETTERS_MAX = 64
"""What waits to be looked at; anybody may write to the port, and the oldest are no loss."""


class Letterbox(asyncio.DatagramProtocol):
    """Sends on a socket, which it closes at the end, and waits for what comes there."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._transport: asyncio.DatagramTransport | None = None
        self._letters: asyncio.Queue[bytes | Exception] = asyncio.Queue(LETTERS_MAX)
        self._closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=self._socket)
        except BaseException:
            self._socket.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.abort()
        await self._closed.wait()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio has closed it."""
        self._closed.set()

    def datagram_received(self, data: bytes, address: Any) -> None:
        """A datagram came."""
        if not self._letters.full():
            self._letters.put_nowait(data)

    def error_received(self, error: Exception) -> None:
        """The kernel refused to send."""
        if not self._letters.full():
            self._letters.put_nowait(error)

    def send(self, data: bytes, place: Any) -> None:
        """Send to that socket address."""
        assert self._transport is not None
        self._transport.sendto(data, place)

    async def until(self, holds: Callable[[bytes], bool], soon_s: float) -> bytes:
        """Return the first datagram of which that holds. Raises ``TimeoutError``, ``OSError``."""
        async with asyncio.timeout(soon_s):
            while True:
                letter = await self._letters.get()
                if isinstance(letter, Exception):
                    raise letter
                if holds(letter):
                    return letter
