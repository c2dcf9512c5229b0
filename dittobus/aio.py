"""The bus in asyncio style, in the caller's loop.

A loop that is blocked for longer than the liveness limit loses its peers: keep heavy work off it, or let the
network have a thread of its own, by ``io_thread=True``.
"""
# ruff: noqa: ASYNC109 - a timeout here is what the bus tells the peer or the network, not only how long to wait

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from brokerless import BusClosed, Limits, NodeConfig, Reliability, UsageError
from dittobus import _environment, _fork
from dittobus._aio_exchange import AioExchange
from dittobus._aio_offer import Offer
from dittobus._aio_stream import Stream
from dittobus._aio_threaded import ThreadedAioExchange
from dittobus._arguments import (
    as_bytes,
    checked_channel,
    checked_message,
    checked_metadata,
    checked_name,
    checked_peer,
    checked_reliability,
    checked_timeout,
)
from dittobus._inbox import Iteration
from dittobus.peers import checked_count, checked_target

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
    from types import TracebackType

    from typing_extensions import Buffer

    from brokerless import Address, Identity, Message, NodeStats, Peer, PeerStats, Ticket
    from dittobus.peers import PeerEvent, WaitTarget

__all__ = ["Bus", "Offer", "Stream"]


class Bus:
    """A bus in the running loop: sends and receives messages and streams to and from the mesh.

    >>> async with Bus("camera") as bus:
    ...     viewer = await bus.wait_for_peer("viewer")
    ...     await bus.send(b"hello", viewer)

    The arguments are those of ``dittobus.DittoBus``, whose help describes them, but for the delegate. With
    ``io_thread`` the network has a thread of its own, so that the loop may block; discoveries of your own run
    there, an ``admit`` that is a coroutine function in your loop. ``async with`` starts and closes it;
    leaving by an exception does not wait for the network. Raises ``ConfigError`` or ``TypeError`` for
    arguments that cannot be; nothing is opened before ``start``.
    """

    def __init__(
        self,
        name: str = "",
        *,
        mesh: str = "dittobus",
        secret: str | bytes | None = None,
        trust: str | None = None,
        admit: Callable[[Peer], Any] | Collection[Address] | None = None,
        identity: str | os.PathLike[str] | Identity | None = None,
        peers: Sequence[str | Ticket] = (),
        discovery: Sequence[Any] = ("zeroconf", "registry", "gossip"),
        interfaces: Sequence[str] | None = None,
        port: int = 0,
        advertise: Sequence[str] = (),
        directory: str | os.PathLike[str] | None = None,
        metadata: Buffer = b"",
        limits: Limits = Limits(),  # noqa: B008 - frozen
        io_thread: bool = False,
    ) -> None:
        self._config = NodeConfig(
            name=name,
            mesh=mesh,
            secret=secret,
            trust=trust,
            admit=admit,
            identity=identity,
            peers=peers,
            discovery=discovery,
            interfaces=interfaces,
            port=port,
            advertise=advertise,
            directory=directory,
            metadata=as_bytes(metadata, "metadata"),
            limits=limits,
        )
        self._limits = limits
        self._exchange = ThreadedAioExchange(limits) if io_thread else AioExchange(limits)
        self._started = False
        self._closing: asyncio.Future[bool] | None = None

    # Life

    async def start(self) -> None:
        """Open the bus: listen, and look for peers. Follow with ``close``.

        Raises ``PortInUse``, ``IdentityInUse`` or another ``StartError``, and ``UsageError`` if it was
        started before.
        """
        if self._started or self._closing is not None:
            raise UsageError("a bus starts once", hint="make a new one")
        self._started = True
        try:
            await self._exchange.start(self._config)
        except BaseException:
            self._started = False
            raise
        _fork.watch(self._exchange)

    async def close(self, timeout: float | None = 5.0) -> bool:
        """Close all streams and the bus; return True if everything sent was acknowledged.

        Drains what was sent for up to ``timeout`` seconds. What is still pending then ends in an error, and
        iterators end. A stream that was neither finished nor closed ends in ``PeerLost`` at the other end,
        after what was sent, and in ``BusClosed`` here: nobody has said that this was all. When cancelled,
        everything is aborted. Closing twice is harmless: the second waits.
        """
        checked_timeout(timeout)
        if self._started:
            self._exchange.check_process()  # before the loop is needed, of which a forked child has none
        if self._started and not (self._closing is not None and self._closing.done()):
            self._exchange.check_loop()
        if self._closing is not None:
            return await asyncio.shield(self._closing)
        self._closing = asyncio.get_running_loop().create_future()
        clean = False
        try:
            clean = await self._exchange.shut_down(timeout) if self._started else True
        finally:
            self._closing.set_result(clean)
        return clean

    async def __aenter__(self) -> Bus:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exchange.is_ours:  # a forked child that unwinds leaves the bus to its parent
            # A program that unwinds does not wait for the network.
            await (self.close() if kind is None else self.close(timeout=0))

    # Who is there

    @property
    def address(self) -> Address:
        """The address of this bus. Raises ``BusClosed`` before ``start``."""
        if not self._started:
            raise _not_started()
        return self._exchange.node.address

    @property
    def name(self) -> str:
        """What peers see as the name of this bus; may be set at any time."""
        return self._config.name

    @name.setter
    def name(self, name: str) -> None:
        self._config = dataclasses.replace(self._config, name=checked_name(name, self._limits))
        self._announce()

    @property
    def metadata(self) -> bytes:
        """What peers see besides the name; may be set at any time."""
        return self._config.metadata

    @metadata.setter
    def metadata(self, metadata: Buffer) -> None:
        self._config = dataclasses.replace(self._config, metadata=checked_metadata(metadata, self._limits))
        self._announce()

    def _announce(self) -> None:
        if self._started and self._closing is None:
            self._exchange.call(self._exchange.announce, self._config.name, self._config.metadata)

    def ticket(self) -> Ticket:
        """Return what another bus needs to dial this one, wherever it is."""
        exchange = self._running()
        return exchange.call(exchange.node.ticket)

    def child_environment(self) -> dict[str, str]:
        """Return the environment for a child process that is to join this mesh.

        See ``DittoBus.child_environment``.
        """
        return _environment.child_environment(self._config, self.ticket())

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Snapshots of everybody known and not lost; empty when the bus is not running."""
        if not self._started or self._closing is not None:
            return ()
        return self._exchange.call(lambda: self._exchange.node.peers)

    def peer(self, address: Address | Peer) -> Peer | None:
        """Return a snapshot of that peer as it is now, or None."""
        exchange = self._running()
        return exchange.call(exchange.node.peer, checked_peer(address, "address"))

    def stats(self) -> NodeStats:
        """Return the counters of the bus, as they are now."""
        exchange = self._running()
        return exchange.call(exchange.node.stats)

    def peer_stats(self, address: Address | Peer) -> PeerStats:
        """Return the counters of the conversation with that peer, as they are now. Raises ``UnknownPeer``."""
        exchange = self._running()
        return exchange.call(exchange.peer_stats, checked_peer(address, "address"))

    async def wait_for_peer(self, target: WaitTarget, timeout: float | None = 10.0) -> Peer:
        """Wait for the peer with that name or address, or of whom the predicate is true.

        Raises ``WaitTimeout``, ``AmbiguousPeer`` if several hold the name, or what the predicate raises.
        """
        exchange = self._in_loop()
        checked_timeout(timeout)
        waiting = exchange.table.wait_for(checked_target(target), timeout)
        exchange.want_known()
        return await waiting

    async def wait_for_peers(self, count: int, timeout: float | None = 10.0) -> tuple[Peer, ...]:
        """Wait until there are ``count`` live peers, and return all of them. Raises ``WaitTimeout``."""
        exchange = self._in_loop()
        checked_timeout(timeout)
        waiting = exchange.table.wait_for_count(checked_count(count), timeout)
        exchange.want_known()
        return await waiting

    def peer_changes(self) -> AsyncIterator[PeerEvent]:
        """Iterate over who is there, as ``PeerJoined``, and then over every change of ``peers``.

        Of who has not joined, or not yet, ``PeerChanged`` tells, and ``PeerForgotten`` when it is not known
        any more. ``PeerLeft.reason`` says why somebody has gone. Each iterator sees everything; of what it
        is slow to take, only the latest state of each peer is kept in the end.
        """
        return self._in_loop().changes()

    # Messages and streams

    async def send(
        self,
        data: Buffer,
        to: Address | Peer,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        channel: int = 0,
        timeout: float | None = 10.0,
    ) -> None:
        """Send a single message, and wait until it is acknowledged; an unreliable one, until transmitted.

        When cancelled, it may or may not arrive. Raises ``SendTimeout`` if nothing left this process within
        ``timeout`` seconds, ``DeliveryUnknown`` if the acknowledgement did not come; for an
        unreliable one, at once, ``NoPath``, or ``SendQueueFull`` if the network takes no more now; and
        ``UnknownPeer``, ``MessageTooLarge``, ``UsageError``, ``BusClosed``.
        """
        exchange = self._in_loop()
        message = checked_message(data, self._limits, checked_reliability(reliability))
        address = checked_peer(to)
        checked_channel(channel)
        checked_timeout(timeout)
        if reliability is Reliability.RELIABLE:
            await exchange.send(message, address, channel, timeout)
        else:
            await exchange.transmit(exchange.node.transmit, message, address, reliability, channel)

    def messages(self) -> AsyncIterator[Message]:
        """Iterate over single messages as they come. Iterators compete: each message goes to one."""
        exchange = self._in_loop()
        return Iteration(exchange.messages, exchange.taken)

    async def open_stream(
        self,
        to: Address | Peer,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        name: str = "",
        metadata: Buffer = b"",
        timeout: float | None = 10.0,
    ) -> Stream:
        """Open a stream, and wait until the peer has accepted it.

        When cancelled, it is reset. Raises ``StreamRejected``, ``OpenTimeout``, ``PeerLost``,
        ``UnknownPeer``, ``ConfigError``, ``UsageError``, ``BusClosed``.
        """
        exchange = self._in_loop()
        return await exchange.open_stream(
            checked_peer(to),
            checked_reliability(reliability),
            checked_name(name, self._limits),
            checked_metadata(metadata, self._limits),
            checked_timeout(timeout),
        )

    def offers(self) -> AsyncIterator[Offer]:
        """Iterate over the streams that peers want to open. Iterators compete: each offer goes to one."""
        return Iteration(self._in_loop().offers)

    def on_stream(self, name: str, handler: Callable[[Stream, Address], Awaitable[object] | None]) -> None:
        """Accept streams of that name and give each to ``handler(stream, peer)``, in a task of its own.

        Once there is such a binding, streams of other names are rejected, and ``offers`` brings none. A
        handler that raises aborts its stream. Raises ``BusClosed`` once the bus is closed.
        """
        if self._closing is not None:
            raise BusClosed("the bus is closed")
        if self._started:
            self._exchange.check_loop()
        self._exchange.bind(name, handler)

    # The rest is private

    def _running(self) -> AioExchange:
        if not self._started:
            raise _not_started()
        self._exchange.check_process()
        if self._closing is not None or self._exchange.is_over:
            raise self._exchange.closed_error()
        return self._exchange

    def _in_loop(self) -> AioExchange:
        exchange = self._running()
        exchange.check_loop()
        return exchange

    def __repr__(self) -> str:
        state = "closed" if self._closing else "running" if self._started else "not started"
        return f"<{type(self).__name__} {self._config.name!r}, {state}>"


def _not_started() -> BusClosed:
    return BusClosed("the bus was not started", hint="use it in an async with statement, or await start()")
