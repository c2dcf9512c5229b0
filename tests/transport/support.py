"""What the tests of the transport stand on: a sink that remembers, transports, and peers of bare libzmq."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from typing import TYPE_CHECKING, Any

import zmq

from brokerless.config import Limits
from brokerless.identity import Identity
from brokerless.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from brokerless.address import Address
    from brokerless.protocol.paths import UdpPlace

PACKET_BYTES_MAX = 72 * 1024

PATIENCE_S = 15.0
"""How long a test waits for what must happen: generous, since only a failure waits for it."""

HASTE_S = 0.5
"""A handshake timeout short enough to wait for, long enough for an honest handshake on a busy machine."""


class Recorder:
    """A sink that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.on_writable: Callable[[int], None] | None = None
        self.on_message: Callable[[int, bytes], None] | None = None
        self.on_datagram: Callable[[UdpPlace, bytes], None] | None = None
        self.permitted: set[Address] = set()
        self._changed = asyncio.Event()

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self._changed.set()

    def link_opened(self, link: int, remote: Address) -> None:
        self._note("opened", link, remote)

    def link_message(self, link: int, packet: bytes) -> None:
        self._note("message", link, packet)
        if self.on_message is not None:
            self.on_message(link, packet)

    def link_closed(self, link: int, reason: str) -> None:
        self._note("closed", link, reason)

    def link_writable(self, link: int) -> None:
        self._note("writable", link)
        if self.on_writable is not None:
            self.on_writable(link)

    def datagram(self, place: UdpPlace, data: bytes) -> None:
        self._note("datagram", place, data)
        if self.on_datagram is not None:
            self.on_datagram(place, data)

    def push_received(self, remote: Address, data: bytes) -> None:
        self._note("pushed", remote, data)

    def permits_push(self, remote: Address) -> bool:
        self._note("asked", remote)
        return remote in self.permitted

    def turn_done(self) -> None:
        self._note("turn")

    def of(self, kind: str, link: int | None = None) -> list[tuple[Any, ...]]:
        """What was told of that kind, and of that link."""
        return [event for event in self.events if event[0] == kind and (link is None or event[1] == link)]

    def packets(self, link: int | None = None) -> list[bytes]:
        return [packet for _, _, packet in self.of("message", link)]

    async def wait(self, kind: str, link: int | None = None, *, count: int = 1) -> tuple[Any, ...]:
        """Wait until that was told ``count`` times, and return the last of them."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.of(kind, link)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.of(kind, link)[count - 1]


async def turns() -> AsyncIterator[None]:
    """Each turn of the loop, for a test that waits for what nobody tells; not for ever."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            yield
            await asyncio.sleep(0)


def collect_failures(failures: list[BaseException]) -> None:
    """Keep what is raised in callbacks of the running loop, which otherwise only logs it."""
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: failures.append(context.get("exception") or RuntimeError(context["message"]))
    )


class Node:
    """A transport with its identity and its recorder."""

    def __init__(self, *, timeout_s: float = PATIENCE_S, packet_bytes_max: int = PACKET_BYTES_MAX) -> None:
        self.identity = Identity.generate()
        self.sink = Recorder()
        self.transport = Transport(
            self.identity,
            self.sink,
            limits=Limits(handshake_timeout_s=timeout_s),
            packet_bytes_max=packet_bytes_max,
        )
        self.endpoints: tuple[str, ...] = ()

    @property
    def address(self) -> Address:
        return self.identity.address

    def dial(self, node: Node, endpoint: str | None = None) -> int:
        return self.transport.dial(endpoint or node.endpoints[0], node.address)

    async def reach(self, node: Node, endpoint: str | None = None) -> int:
        """Dial the node and wait until the link is open at our end."""
        link = self.dial(node, endpoint)
        await self.sink.wait("opened", link)
        return link

    async def heard_by(self, node: Node, packet: bytes) -> tuple[int, int]:
        """Dial the node until the packet comes there, and return the link at both ends.

        One that allows ``HASTE_S`` may hang up on an honest dialler, too, on a busy machine.
        """
        before = len(node.sink.of("message"))
        async with asyncio.timeout(PATIENCE_S):
            while True:
                link, is_said = self.dial(node), False
                while not self.sink.of("closed", link):
                    if not is_said and self.sink.of("opened", link):
                        is_said = self.transport.send(link, packet)
                    if len(node.sink.of("message")) > before:
                        return link, node.sink.of("message")[before][1]
                    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(
    *hosts: str, port: int = 0, ipc_directory: Path | None = None, **options: Any
) -> AsyncIterator[Node]:
    """A node that listens on the hosts, by default on 127.0.0.1."""
    node, failures = Node(**options), list[BaseException]()
    if asyncio.get_running_loop().get_exception_handler() is None:
        collect_failures(failures)
    try:
        node.endpoints = await node.transport.start(hosts or ("127.0.0.1",), port, ipc_directory)
        yield node
    finally:
        await node.transport.close()
    assert not failures


@contextlib.asynccontextmanager
async def linked(
    ipc_directory: Path | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[Node, int, Node, int]]:
    """A node that dialled, its link, a node that accepted, its link.

    One packet, ``b"hello"``, went over and was taken for a proper one: a stranger may not say much.
    """
    async with running() as dialler, running(host, ipc_directory=ipc_directory) as acceptor:
        dialled = await dialler.reach(acceptor, acceptor.endpoints[-1])
        assert dialler.transport.send(dialled, b"hello")
        accepted = (await acceptor.sink.wait("opened"))[1]
        await acceptor.sink.wait("message")
        acceptor.transport.confirm(accepted)
        yield dialler, dialled, acceptor, accepted


@contextlib.contextmanager
def bare_context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context whose sockets are closed with it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


def fresh_routing_id() -> bytes:
    return b"\1" + secrets.token_bytes(15)


def bare_dealer(
    context: zmq.Context[zmq.Socket[bytes]],
    node: Node,
    *,
    identity: Identity | None = None,
    routing_id: bytes | None = None,
    endpoint: str | None = None,
) -> zmq.Socket[bytes]:
    """A peer that knows the node's key and does as the test pleases."""
    identity = identity or Identity.generate()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.CURVE_SECRETKEY, identity.secret)
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, identity.public)
    dealer.setsockopt(zmq.CURVE_SERVERKEY, node.identity.public)
    dealer.setsockopt(zmq.RCVHWM, 1)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    if routing_id != b"":
        dealer.setsockopt(zmq.ROUTING_ID, routing_id or fresh_routing_id())
    dealer.connect(endpoint or node.endpoints[0])
    return dealer


def bare_router(context: zmq.Context[zmq.Socket[bytes]], identity: Identity) -> tuple[zmq.Socket[bytes], str]:
    """An acceptor that does as the test pleases, and its endpoint."""
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.CURVE_SECRETKEY, identity.secret)
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt(zmq.RCVHWM, 1)
    router.bind("tcp://127.0.0.1:*")
    return router, router.get_string(zmq.LAST_ENDPOINT)


async def receive(socket: zmq.Socket[bytes], count: int = 1) -> list[list[bytes]]:
    """What a bare socket receives, off the loop."""

    def read() -> list[list[bytes]]:
        socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        return [socket.recv_multipart() for _ in range(count)]

    return await asyncio.to_thread(read)


_monitors = itertools.count()


def watched(
    make: Callable[..., zmq.Socket[bytes]],
    context: zmq.Context[zmq.Socket[bytes]],
    *args: Any,
    **options: Any,
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """Make a bare socket, and one that reads when it is hung up on."""
    watched = make(context, *args, **options)
    address = f"inproc://watched-{next(_monitors)}"
    watched.monitor(address, zmq.EVENT_DISCONNECTED)
    events = context.socket(zmq.PAIR)
    events.connect(address)
    return watched, events


async def hung_up(events: zmq.Socket[bytes]) -> None:
    """Wait until a watched socket has lost its connection."""
    await receive(events)
