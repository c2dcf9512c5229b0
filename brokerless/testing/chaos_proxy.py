"""What the chaos proxies have in common: a target, a port on loopback, and a context in which they run."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from brokerless.errors import ConfigError, StartError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

HOST = "127.0.0.1"


class Proxy(ABC):
    """Stand before a target, at a port that stays the same for as long as the context lasts."""

    _kind: ClassVar[socket.SocketKind]

    def __init__(self, target_host: str, target_port: int, *, port: int = 0) -> None:
        if not isinstance(target_host, str) or not target_host:
            raise ConfigError(f"target_host: expected a host name or IP address, got {target_host!r:.80}")
        if not isinstance(target_port, int) or not 0 < target_port < 65536:
            raise ConfigError(f"target_port: expected 1 to 65535, got {target_port!r:.80}")
        if not isinstance(port, int) or not 0 <= port < 65536:
            raise ConfigError(f"port: expected 0 to 65535, got {port!r:.80}")
        self._target = (target_host, target_port)
        self._family = socket.AF_INET
        self._address: Any = None  # what getaddrinfo made of the target
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = False
        self._port = port

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise UsageError(f"a {type(self).__name__} is entered once; make a new one")
        loop = asyncio.get_running_loop()
        host, port = self._target
        try:
            found = await loop.getaddrinfo(host, port, type=self._kind)
        except OSError as error:
            raise StartError(f"target_host: cannot resolve {host!r}: {error}") from error
        self._family, _, _, _, self._address = found[0]
        self._loop = loop
        self._running = True
        self._open_up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        self._close_down()

    @property
    def port(self) -> int:
        """Where clients connect, on 127.0.0.1; the same for as long as the context lasts."""
        if self._loop is None:
            raise UsageError("the proxy has no port before it is entered with `async with`")
        return self._port

    @abstractmethod
    def _open_up(self) -> None:
        """Begin to serve clients."""

    @abstractmethod
    def _close_down(self) -> None:
        """End everything."""

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or not self._running:
            raise UsageError("the proxy runs within `async with`")
        return self._loop

    def _bind(self) -> socket.socket:
        bound = socket.socket(socket.AF_INET, self._kind)
        bound.setblocking(False)
        if self._kind == socket.SOCK_STREAM:  # for datagrams it would let two sockets have the port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, self._port))
        except OSError as error:
            bound.close()
            raise StartError(f"cannot bind {HOST}:{self._port}: {error}") from error
        self._port = bound.getsockname()[1]
        return bound

    def _watch(self, readable: socket.socket, callback: Callable[[], None]) -> None:
        try:
            self._running_loop().add_reader(readable, callback)
        except NotImplementedError:
            readable.close()
            raise StartError("this event loop has no add_reader", hint="use a SelectorEventLoop") from None


def check_seconds(name: str, seconds: float) -> None:
    """Refuse what is no number of seconds."""
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
        raise ConfigError(f"{name}: expected seconds, 0 or more, got {seconds!r:.80}")
