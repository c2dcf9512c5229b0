"""Proxies between the two peers, on a thread of their own."""

from __future__ import annotations

from contextlib import ExitStack

from brokerless.testing import Chaos


class Proxies:
    """What can stand between peers and be cut. To be called from any thread."""

    def __init__(self) -> None:
        self._contexts = ExitStack()
        self._proxies: list[Chaos] = []

    def put_before(self, host: str, port: int) -> str:
        """Put a proxy before that port, where nothing needs to listen yet; return the endpoint to dial."""
        proxy = self._contexts.enter_context(Chaos((host, port)))
        self._proxies.append(proxy)
        return proxy.endpoint

    def cut(self) -> int:
        """Reset all connections at both ends; return how many there were."""
        return sum(proxy.reset() for proxy in self._proxies)

    @property
    def connections(self) -> int:
        """How many connections there have been so far."""
        return sum(proxy.connections for proxy in self._proxies)

    def close(self) -> None:
        """Reset what is connected, and let go of everything."""
        self._contexts.close()
