"""The side of a tunnel that has the targets: it connects its peers to them, and to nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from brokerless import BusError
from dittobus.tunnel.connections import Connections
from dittobus.tunnel.datagrams import Flow, Port, connected_socket
from dittobus.tunnel.notices import Failed, Refused, Way, nobody
from dittobus.tunnel.opening import STREAM_NAME, NotUnderstood, Refusal, decode
from dittobus.tunnel.places import Kind
from dittobus.tunnel.relay import Desk, Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from dittobus.aio import Bus, Offer
    from dittobus.tunnel.connections import Connection
    from dittobus.tunnel.notices import Report
    from dittobus.tunnel.places import Place

CONNECT_TIMEOUT_S = 5.0
"""For a target to take a connection; the other side waits longer, so that it learns why it waited in vain."""


class Exposure:
    """Connects peers to targets, which they must ask for just as they are named here.

    >>> async with Bus("web") as bus:
    ...     await Exposure(bus, [Place.parse("127.0.0.1:80")]).run()

    ``report`` is told what becomes of connections. Raises ``ConfigError`` for a target on port 0.
    """

    def __init__(self, bus: Bus, targets: Iterable[Place], report: Report = nobody) -> None:
        self._bus = bus
        self._targets = frozenset(target.reachable() for target in targets)
        self._report = report
        self._connections = Connections(report)

    async def run(self, offers: AsyncIterator[Offer] | None = None) -> None:
        """Serve until the bus is closed or this is cancelled; connections that are left are reset then.

        Takes all streams that are offered on the bus, or ``offers``, which may leave out some of these, and
        rejects those that are not of a tunnel.
        """
        self._desk = Desk()
        try:
            async for offer in self._bus.offers() if offers is None else offers:
                self._connections.start(self._answer(offer))
        finally:
            await self._connections.close()
            self._desk.close()

    async def _answer(self, offer: Offer) -> None:
        if offer.name != STREAM_NAME:
            await self._refuse(offer, Refusal.OTHER_STREAM, f"this takes streams named {STREAM_NAME!r} only")
            return
        try:
            target = decode(offer.metadata, offer.reliability)
        except NotUnderstood as error:
            await self._refuse(offer, Refusal.NOT_UNDERSTOOD, str(error))
            return
        if target not in self._targets:
            await self._refuse(offer, Refusal.NOT_EXPOSED, f"{target} is not exposed")
            return
        await self._serve(offer, Way(offer.peer.short, target))

    async def _serve(self, offer: Offer, way: Way) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await self._connect(way)
        except (OSError, UnicodeError) as error:  # the latter is of a host that cannot be one
            why = said_by_system(error) or f"no answer within {CONNECT_TIMEOUT_S:g} s"
            await self._refuse(offer, Refusal.UNREACHABLE, f"{way.target} cannot be reached: {why}")
            return
        try:
            stream = await offer.accept()
        except BaseException as error:
            connection.reset()
            if not isinstance(error, BusError):
                raise
            self._report(Failed(way, error))  # who asked for it has given up meanwhile
            return
        await self._connections.carry(connection, stream, way)

    async def _connect(self, way: Way) -> Connection:
        loop, target = asyncio.get_running_loop(), way.target
        match target.kind:
            case Kind.UDP:
                return Flow(Port(await connected_socket(target)), way, self._report)
            case Kind.TCP:
                _, relay = await loop.create_connection(self._relay, target.host, target.port)
            case Kind.UNIX:
                _, relay = await loop.create_unix_connection(self._relay, target.path)
        return relay

    def _relay(self) -> Relay:
        return Relay(self._desk)

    async def _refuse(self, offer: Offer, code: Refusal, reason: str) -> None:
        self._report(Refused(offer.peer, reason))
        await offer.reject(code, reason)


def said_by_system(error: Exception) -> str:
    """Return what the system says, without its number, and without what asyncio makes of it."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return (isinstance(error, OSError) and error.strerror) or str(error)
