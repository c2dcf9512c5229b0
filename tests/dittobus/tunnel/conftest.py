"""Tunnels between two buses on this host, and the sockets at their ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, TypeVar

import pytest_asyncio

from dittobus.tunnel import Exposure, Forward, Kind, Notice, Place, exposure, forward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

    from brokerless import Peer
    from dittobus.aio import Bus

WAIT_S = 30.0
"""More than enough for what takes milliseconds; only a failure waits for it."""

NoticeT = TypeVar("NoticeT", bound=Notice)


class Notices:
    """What one side of a tunnel has told."""

    def __init__(self) -> None:
        self.told: list[Notice] = []
        self._news = asyncio.Event()

    def __call__(self, notice: Notice) -> None:
        self.told.append(notice)
        self._news.set()

    async def next(self, kind: type[NoticeT]) -> NoticeT:
        """Take the first of that kind, waiting for it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for notice in self.told:
                    if isinstance(notice, kind):
                        self.told.remove(notice)
                        return notice
                self._news.clear()
                await self._news.wait()


class Tunnel:
    """A side with targets, and sides that listen, each with what it tells."""

    def __init__(self, near: Bus, far: Bus) -> None:
        self.near, self.far = near, far
        self.here, self.there = Notices(), Notices()
        self._stack = contextlib.AsyncExitStack()

    async def expose(self, *targets: Place, bus: Bus | None = None) -> asyncio.Task[None]:
        """Serve those targets until the test is over, or the task is cancelled."""
        serving = asyncio.create_task(Exposure(bus or self.far, targets, self.there).run())

        async def end() -> None:
            serving.cancel()
            await asyncio.wait([serving])

        self._stack.push_async_callback(end)
        return serving

    async def forward(self, target: Place, listen: str = "127.0.0.1:0", **options: Any) -> Place:
        """Listen for connections to that target; return where."""
        forward = Forward(self.near, Place.parse(listen), self.find_far, target, self.here, **options)
        await self._stack.enter_async_context(forward)
        return forward.place

    async def to(self, target: Place, **options: Any) -> Place:
        """Expose that target and listen for it; return where."""
        await self.expose(target)
        kind = Kind.UDP if target.kind is Kind.UDP else Kind.TCP
        return await self.forward(target, "127.0.0.1:0/udp" if kind is Kind.UDP else "127.0.0.1:0", **options)

    async def find_far(self) -> Peer:
        return await self.near.wait_for_peer("far", WAIT_S)

    async def close(self) -> None:
        await self._stack.aclose()


@pytest_asyncio.fixture
async def tunnel(aio_pair: tuple[Bus, Bus], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tunnel]:
    # A loop that stands still for 5 s while it connects to a target takes it for one that does not answer.
    monkeypatch.setattr(exposure, "CONNECT_TIMEOUT_S", 2 * WAIT_S)
    monkeypatch.setattr(forward, "OPEN_TIMEOUT_S", 2 * WAIT_S)
    tunnel = Tunnel(*aio_pair)
    yield tunnel
    await tunnel.close()


class Target:
    """A server that does nothing by itself: the test plays it, connection by connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.listener = sock
        self.accepted: list[End] = []
        sock.setblocking(False)
        name = sock.getsockname()
        self.place = (
            Place(Kind.UNIX, path=name) if isinstance(name, str) else Place(Kind.TCP, name[0], name[1])
        )

    async def accept(self) -> End:
        async with asyncio.timeout(WAIT_S):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        sock.setblocking(False)
        self.accepted.append(End(sock))
        return self.accepted[-1]

    def close(self) -> None:
        for end in self.accepted:
            end.close()
        self.listener.close()


class End:
    """A socket at one end of a tunnel, as a program has it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(WAIT_S):
            await self._loop.sock_sendall(self.sock, data)

    def send_what_fits(self, data: bytes) -> int:
        """Send until the system takes no more at that moment; return how many bytes it took."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < len(data):
                sent += self.sock.send(data[sent:])
        return sent

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    async def receive(self) -> bytes:
        """Return what has come, b"" at the end."""
        async with asyncio.timeout(WAIT_S):
            return await self._loop.sock_recv(self.sock, 1 << 20)

    async def receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count and (more := await self.receive()):
            data += more
        return bytes(data)

    async def receive_all(self) -> bytes:
        data = bytearray()
        while more := await self.receive():
            data += more
        return bytes(data)

    def reset(self) -> None:
        """Close it as a program does that crashes with something unread."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


@pytest_asyncio.fixture
async def sockets() -> AsyncIterator[contextlib.ExitStack]:
    """Closes what was opened, in the end."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest_asyncio.fixture
async def target(sockets: contextlib.ExitStack) -> Target:
    """A TCP server."""
    target = Target(socket.create_server(("127.0.0.1", 0)))
    sockets.callback(target.close)
    return target


@pytest_asyncio.fixture
async def connect(sockets: contextlib.ExitStack) -> Callable[[Place], Any]:
    """A function that connects to a place, as a program does."""

    async def connect(place: Place) -> End:
        if place.kind is Kind.UNIX:
            sock, where = socket.socket(socket.AF_UNIX), place.path
        else:
            sock, where = socket.socket(), (place.host, place.port)  # type: ignore[assignment]
        sockets.enter_context(sock)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
        return End(sock)

    return connect


class Ends:
    """Both ends of a connection through a tunnel."""

    def __init__(self, client: End, server: End) -> None:
        self.client, self.server = client, server


@pytest_asyncio.fixture
async def ends(tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]) -> Ends:
    client = await connect(await tunnel.to(target.place))
    return Ends(client, await target.accept())
