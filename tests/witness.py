"""Real nodes on loopback, with everything they say, and waiting for what they are to say."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from brokerless import (
    Event,
    Message,
    MessageReceived,
    Node,
    NodeConfig,
    PeerJoined,
    PeerLeft,
    Reliability,
    SendDone,
    Stream,
    StreamEnded,
    StreamMessages,
    StreamOffered,
    StreamOpened,
    UnreliableWaiting,
    generate_secret,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from brokerless import Address, Beacon, BusError, Hint

SOON_S = 15.0
"""More than enough for what takes milliseconds, on any machine; only a failure waits for it."""

LOOPBACK = ("127.0.0.1",)

T = TypeVar("T")


class Witness:
    """A node with a plain application: it accepts streams, consumes at once, and remembers all events.

    ``accepts`` and ``consumes`` make it less willing.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.node = Node(config, self._on_events)
        self.events: list[Event] = []
        self.accepts = True
        self.consumes = True
        self.told = asyncio.Event()
        self.closed_itself = asyncio.Event()
        self.node.on_closed = self.closed_itself.set
        self.received: dict[Stream, list[bytes]] = {}
        self.messages: list[Message] = []
        self.unreliable: list[Message] = []

    @property
    def address(self) -> Address:
        return self.node.address

    def _on_events(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        for event in events:
            if isinstance(event, StreamOffered) and self.accepts:
                self.node.accept(event.offer)
            elif isinstance(event, StreamMessages):
                self.received.setdefault(event.stream, []).extend(event.messages)
                if self.consumes:
                    event.stream.consume(len(event.messages))
            elif isinstance(event, MessageReceived):
                self.messages.append(event.message)
                if self.consumes:
                    self.node.consume(event.message)
            elif isinstance(event, UnreliableWaiting) and self.consumes:
                while (item := event.unread.take()) is not None:
                    if event.stream is None:
                        self.unreliable.append(item)
                    else:
                        self.received.setdefault(event.stream, []).append(item)
        self.told.set()

    def of(self, kind: type[T]) -> list[T]:
        """The events of that kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], T], soon_s: float = SOON_S) -> T:
        """Wait until ``condition``, looked at after each batch of events, gives something true."""
        async with asyncio.timeout(soon_s):
            while not (value := condition()):
                self.told.clear()
                await self.told.wait()
        return value

    async def event(self, kind: type[T], holds: Callable[[T], bool] = lambda event: True) -> T:
        """The first event of that kind of which that holds, when there is one."""
        [found, *_] = await self.until(lambda: [event for event in self.of(kind) if holds(event)])
        return found

    async def joined(self, *others: Witness) -> None:
        """Wait until each of the others has joined, and is there."""
        for other in others:
            await self.event(PeerJoined, lambda event, other=other: event.peer.address == other.address)

    async def lost(self, other: Witness) -> PeerLeft:
        """Wait until the other is lost."""
        return await self.event(PeerLeft, lambda event: event.peer.address == other.address)

    def send(self, data: bytes, to: Witness, **options: Any) -> int:
        """Send a reliable message."""
        return self.node.send(data, to.address, Reliability.RELIABLE, **options)

    async def done(self, send_id: int) -> BusError | None:
        """How that send ended."""
        return (await self.event(SendDone, lambda event: event.send_id == send_id)).error

    def open(
        self,
        to: Witness,
        name: str = "",
        metadata: bytes = b"",
        timeout: float | None = 10.0,
        reliability: Reliability = Reliability.RELIABLE,
    ) -> Stream:
        """Offer a stream."""
        return self.node.open_stream(to.address, reliability, name, metadata, timeout)

    async def opened(
        self, to: Witness, name: str = "", reliability: Reliability = Reliability.RELIABLE
    ) -> Stream:
        """Open a stream that the other accepts."""
        stream = self.open(to, name, reliability=reliability)
        await self.event(StreamOpened, lambda event: event.stream is stream)
        return stream

    async def ended(self, stream: Stream) -> BusError | None:
        """How that stream ended."""
        return (await self.event(StreamEnded, lambda event: event.stream is stream)).error

    async def incoming(self, name: str) -> Stream:
        """The stream of that name that another opened."""
        offered = await self.event(StreamOffered, lambda event: event.offer.name == name)
        return offered.offer.stream


class Mesh:
    """Makes nodes of one secret that find each other by a registry of their own, and closes them all."""

    def __init__(self, directory: Path) -> None:
        self.defaults: dict[str, Any] = {
            "secret": generate_secret(),
            "interfaces": LOOPBACK,
            "discovery": ("registry",),
            "directory": directory / "bus",
        }
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def make(self, name: str = "", **options: Any) -> Witness:
        """A node that is not started."""
        witness = Witness(NodeConfig(name=name, **{**self.defaults, **options}))
        self._stack.push_async_callback(witness.node.close, 0)
        return witness

    async def start(self, name: str = "", **options: Any) -> Witness:
        """A started node."""
        witness = self.make(name, **options)
        await witness.node.start()
        return witness

    async def pair(self, **options: Any) -> tuple[Witness, Witness]:
        """Two nodes that have joined each other."""
        first, second = [await self.start(name, **options) for name in ("first", "second")]
        await first.joined(second)
        await second.joined(first)
        return first, second


class Stubborn:
    """A discovery that does not start."""

    name = "stubborn"
    rejected = 0

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.starting = asyncio.Event()
        self.closes = 0

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        self.starting.set()
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()

    async def announce(self, beacon: Beacon) -> None: ...

    async def close(self) -> None:
        self.closes += 1


def commands(node: Node) -> list[Callable[[], Any]]:
    """All that only a running node does."""
    return [
        lambda: node.send(b"", node.address, Reliability.RELIABLE),
        lambda: node.open_stream(node.address, Reliability.RELIABLE, "", b""),
        lambda: node.want(node.address),
        lambda: node.expect_datagrams(node.address),
        node.ticket,
        node.stats,
    ]


def files(directory: Path) -> list[Path]:
    """Everything below a directory that is no directory."""
    return sorted(path for path in directory.rglob("*") if not path.is_dir())


@contextmanager
def reserved_port(*hosts: str) -> Iterator[int]:
    """A port that is ours to listen on, and the next: bound, so that nobody gets them, and not listening.

    Its namesake of UDP cannot be held for somebody else; when it begins, nobody has it.
    """
    hosts = hosts or LOOPBACK
    with ExitStack() as holders:
        port = 0
        while not port:
            port = _hold(holders, hosts[0], 0) or 0
            others = [(host, port) for host in hosts[1:]] + [(host, port + 1) for host in hosts]
            is_ours = _is_free_for_udp(hosts, port) and all(_hold(holders, *place) for place in others)
            port = port if is_ours else 0
        yield port


def _is_free_for_udp(hosts: Sequence[str], port: int) -> bool:
    for host in hosts:
        with socket.socket(_family(host), socket.SOCK_DGRAM) as trial:
            try:
                trial.bind((host, port))
            except OSError:
                return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _hold(holders: ExitStack, host: str, port: int) -> int | None:
    holder = holders.enter_context(socket.socket(_family(host)))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((host, port))
    except (OSError, OverflowError):  # somebody has it, or there is none
        return None
    bound: int = holder.getsockname()[1]
    return bound


class Log(logging.Handler):
    """What the library logs, from ``level`` up, and waiting for it."""

    def __init__(self, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self.lines: list[str] = []
        self._logger = logging.getLogger("dittobus")
        self._level_before = self._logger.level
        self._logged = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._logged.set()

    def having(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    async def until(self, condition: Callable[[], T]) -> T:
        """Wait until the condition, looked at after each line, gives something true."""
        async with asyncio.timeout(SOON_S):
            while not (value := condition()):
                self._logged.clear()
                await self._logged.wait()
        return value

    async def line(self, text: str) -> str:
        """The first line with that text, when it is there."""
        return (await self.until(lambda: self.having(text)))[0]

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        self._logger.setLevel(self.level)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level_before)
