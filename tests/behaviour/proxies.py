"""Buses that reach each other only through proxies, which misbehave when told to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from brokerless.testing import Chaos
from tests.witness import reserved_port

if TYPE_CHECKING:
    from collections.abc import Callable


class Proxies:
    """A proxy before each of the buses that are started here."""

    def __init__(self) -> None:
        self._proxies: list[Chaos] = []
        self._exits = contextlib.ExitStack()

    def bus(self, make_bus: Callable[..., Any], name: str, **arguments: Any) -> Any:
        """Start a bus that others know by its proxy only."""
        port = self._exits.enter_context(reserved_port())
        proxy = self._exits.enter_context(Chaos(port))
        self._proxies.append(proxy)
        return make_bus(name, port=port, advertise=(proxy.endpoint,), **arguments)

    def reset(self) -> None:
        """Cut all connections; new ones may be made at once."""
        for proxy in self._proxies:
            proxy.reset()

    def freeze(self) -> None:
        """Let nothing through, without cutting anything."""
        for proxy in self._proxies:
            proxy.blackhole()

    def thaw(self) -> None:
        """Let everything through again."""
        for proxy in self._proxies:
            proxy.heal()

    def off(self) -> None:
        """Cut all connections, and refuse new ones."""
        for proxy in self._proxies:
            proxy.off()

    def on(self) -> None:
        """Let connections be made again."""
        for proxy in self._proxies:
            proxy.on()

    def close(self) -> None:
        """End the proxies, after their buses."""
        self._exits.close()
