"""TCP proxies between the two peers, on an event loop in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

from brokerless.testing import Chaos

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

COMMAND_TIMEOUT_S = 5.0
"""The loop has little to do; it answers at once, or something is wrong."""


class Proxies:
    """What can stand between peers and be cut. To be called from any thread but the proxies' own."""

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop()  # Chaos needs add_reader, which Windows' default has not
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo-proxies", daemon=True)
        self._contexts = AsyncExitStack()
        self._proxies: list[Chaos] = []
        self._thread.start()

    def put_before(self, host: str, port: int) -> str:
        """Put a proxy before that port, where nothing needs to listen yet; return the endpoint to dial."""
        return self._run(self._put_before(host, port))

    def cut(self) -> int:
        """Reset all connections at both ends; return how many there were."""
        return self._run(self._cut())

    @property
    def connections(self) -> int:
        """How many connections there have been so far."""
        return sum(proxy.connections for proxy in self._proxies)

    def close(self) -> None:
        """Reset what is connected, and let go of everything."""
        try:
            self._run(self._contexts.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(COMMAND_TIMEOUT_S)
            self._loop.close()

    def _run(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(COMMAND_TIMEOUT_S)

    async def _put_before(self, host: str, port: int) -> str:
        proxy = await self._contexts.enter_async_context(Chaos(host, port))
        self._proxies.append(proxy)
        return proxy.endpoint

    async def _cut(self) -> int:
        count = sum(proxy.connections_open for proxy in self._proxies)
        for proxy in self._proxies:
            proxy.reset()
        return count
