"""The side of a tunnel that listens: what connects here goes on to a target at a peer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from brokerless import BusError, PeerLost, UnknownPeer
from dittobus.tunnel.connections import Connections
from dittobus.tunnel.datagrams import IDLE_S, Flow, Port, bound_socket
from dittobus.tunnel.listener import Listener, listening_sockets
from dittobus.tunnel.notices import Dropped, Failed, Way, nobody
from dittobus.tunnel.opening import STREAM_NAME, encode, reliability_of
from dittobus.tunnel.places import Kind
from dittobus.tunnel.relay import Desk, Relay

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from brokerless import Address, Peer
    from dittobus.aio import Bus, Stream
    from dittobus.tunnel.connections import Connection
    from dittobus.tunnel.notices import Report
    from dittobus.tunnel.places import Place

OPEN_TIMEOUT_S = 10.0
"""For the other side to connect to its target. Who connected here waits as long, and is reset then."""

FLOWS_MAX = 4_096
"""Clients of a UDP port at a time; a port scan from many ports must not open streams without end."""


class Forward:
    """Listens at a place, and connects whoever comes to a target at a peer.

    >>> here, there = Place.parse("127.0.0.1:8080"), Place.parse("127.0.0.1:80")
    >>> async with Forward(bus, here, find_web, there) as forward:
    ...     print(forward.place)

    ``find_peer`` is awaited for each connection, so that the next is served when a peer has come back,
    perhaps by another address; it raises a ``BusError`` if there is none. ``report`` is told what becomes of
    connections. TCP and Unix sockets go together, UDP only with UDP.
    """

    def __init__(
        self,
        bus: Bus,
        place: Place,
        find_peer: Callable[[], Awaitable[Address | Peer]],
        target: Place,
        report: Report = nobody,
        *,
        idle_s: float = IDLE_S,
    ) -> None:
        self.place = place
        """Where it listens; once it does, with the port that was chosen if any would do."""
        self._bus = bus
        self._find_peer = find_peer
        self._target = target.reachable()
        self._report = report
        self._idle_s = idle_s
        self._connections = Connections(report)
        self._listeners: list[Listener] = []
        self._port: Port | None = None
        self._flows: dict[Any, Flow] = {}
        self._is_crowded = False

    async def start(self) -> None:
        """Listen. Raises ``OSError``. Follow with ``close``."""
        self._desk = Desk()
        try:
            await self._listen()
        except BaseException:
            self._desk.close()
            raise

    async def _listen(self) -> None:
        if self.place.kind is Kind.UDP:
            self._port = Port(await bound_socket(self.place))
            self._port.start(self._received, lambda error: None)  # of whom it tells is not known
            self.place = replace(self.place, port=self._port.number)
            return
        sockets = await listening_sockets(self.place)
        if self.place.kind is Kind.TCP:
            self.place = replace(self.place, port=sockets[0].getsockname()[1])
        self._listeners = [Listener(sock, self._accepted, self._not_accepted) for sock in sockets]

    async def close(self) -> None:
        """Listen no more, and reset the connections that are left."""
        for listener in self._listeners:
            listener.close()
        if self.place.kind is Kind.UNIX:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.place.path)
        await self._connections.close()
        if self._port is not None:
            self._port.close()
        self._desk.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # TCP and Unix sockets

    def _accepted(self, sock: socket.socket) -> None:
        self._connections.start(self._serve_socket(sock))

    def _not_accepted(self, error: OSError) -> None:
        self._report(Failed(Way(str(self.place), self._target), error))

    async def _serve_socket(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, relay = await loop.connect_accepted_socket(lambda: Relay(self._desk), sock)
        except BaseException:
            sock.close()
            raise
        await self._serve(relay, Way(relay.origin, self._target))

    # UDP

    def _received(self, datagram: bytes, client: Any) -> None:
        flow = self._flows.get(client)
        if flow is None:
            way = Way(f"{client[0]}:{client[1]}", self._target)
            if len(self._flows) >= FLOWS_MAX:
                self._refuse_flow(way)
                return
            assert self._port is not None
            self._is_crowded = False
            flow = Flow(self._port, way, self._report, client=client, idle_s=self._idle_s)
            self._flows[client] = flow
            self._connections.start(self._serve_flow(flow, way, client))
        flow.put(datagram)

    def _refuse_flow(self, way: Way) -> None:
        if not self._is_crowded:  # told of once, until there is room again
            self._is_crowded = True
            self._report(Dropped(way, BusError(f"there are {FLOWS_MAX} clients already")))

    async def _serve_flow(self, flow: Flow, way: Way, client: Any) -> None:
        try:
            await self._serve(flow, way)
        finally:
            del self._flows[client]

    # Both

    async def _serve(self, connection: Connection, way: Way) -> None:
        try:
            stream = await self._open()
        except BaseException as error:
            connection.reset()
            if not isinstance(error, BusError):
                raise
            self._report(Failed(way, error))
            return
        await self._connections.carry(connection, stream, way)

    async def _open(self) -> Stream:
        """Open a stream; if the peer turns out to be lost, to its successor."""
        try:
            return await self._open_to(await self._find_peer())
        except (PeerLost, UnknownPeer):
            return await self._open_to(await self._find_peer())

    async def _open_to(self, peer: Address | Peer) -> Stream:
        return await self._bus.open_stream(
            peer,
            reliability_of(self._target),
            name=STREAM_NAME,
            metadata=encode(self._target),
            timeout=OPEN_TIMEOUT_S,
        )
