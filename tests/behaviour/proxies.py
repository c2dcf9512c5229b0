"""Buses that reach each other only through proxies, which misbehave when told to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from brokerless.testing import Chaos
from tests.behaviour.aio_face import Loop
from tests.behaviour.face import get
from tests.witness import reserved_port

if TYPE_CHECKING:
    from collections.abc import Callable


class Proxies:
    """A proxy before each of the buses that are started here."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._proxies: list[Chaos] = []
        self._exits = contextlib.ExitStack()

    def bus(self, make_bus: Callable[..., Any], name: str, **arguments: Any) -> Any:
        """Start a bus that others know by its proxy only."""
        port = self._exits.enter_context(reserved_port())
        proxy = Chaos("127.0.0.1", port)
        get(self._loop.run(proxy.__aenter__()))
        self._proxies.append(proxy)
        return make_bus(name, port=port, advertise=(proxy.endpoint,), **arguments)

    def reset(self) -> None:
        """Cut all connections; new ones may be made at once."""
        self._do(Chaos.reset)

    def freeze(self) -> None:
        """Let nothing through, without cutting anything."""
        self._do(Chaos.freeze)

    def thaw(self) -> None:
        """Let everything through again."""
        self._do(Chaos.thaw)

    def off(self) -> None:
        """Cut all connections, and refuse new ones."""
        self._do(Chaos.off)

    def on(self) -> None:
        """Let connections be made again."""
        self._do(Chaos.on)

    def close(self) -> None:
        """End the proxies, after their buses."""
        for proxy in self._proxies:
            get(self._loop.run(proxy.__aexit__(None, None, None)))
        self._exits.close()
        self._loop.close()

    def _do(self, command: Callable[[Chaos], None]) -> None:
        for proxy in self._proxies:
            get(self._loop.do(lambda proxy=proxy: command(proxy)))
