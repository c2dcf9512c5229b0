"""The bus for blocking code: scripts, robots, test harnesses, and whoever has threads of their own.

The verbs are those of ``dittobus.aio``, without ``await``. What waits takes ``timeout=`` in seconds; None is
no limit. All of it may be used from several threads at once. Ctrl-C ends every wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from brokerless import BusClosed, Limits, NodeConfig, Reliability, UsageError
from dittobus import _environment, _exit, _fork
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
from dittobus._bindings import Bindings
from dittobus._blocking_exchange import BlockingExchange
from dittobus._blocking_offer import Offer
from dittobus._blocking_stream import Stream
from dittobus._mailbox import Mailbox, Over
from dittobus._waiting import result_of
from dittobus.peers import checked_count, checked_target

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import Callable, Collection, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Buffer

    from brokerless import Address, Identity, Message, NodeStats, Peer, PeerStats, Ticket
    from dittobus.peers import PeerEvent, PeerTable, WaitTarget

__all__ = ["Bus", "Offer", "Stream"]

_log = logging.getLogger("dittobus")

T = TypeVar("T")

HANDLER_GRACE_S = 0.5
"""How long ``close`` waits for handlers of streams when the network has used up its timeout. Their streams
are over by then, so one that deals with its stream returns at once."""


class Bus:
    """A bus for blocking code: sends and receives messages and streams to and from the mesh.

    >>> with Bus("camera") as bus:
    ...     viewer = bus.wait_for_peer("viewer")
    ...     bus.send(b"hello", viewer)

    The arguments are those of ``dittobus.DittoBus``, whose help describes them, but for the delegate.
    ``with`` starts and closes it; leaving by an exception does not wait for the network. The network has a
    thread of its own, so peers are not lost however long other threads are busy. Raises ``ConfigError`` or
    ``TypeError`` for arguments that cannot be; nothing is opened before ``start``.
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
        self._lock = threading.Lock()
        self._bindings: Bindings[Callable[[Stream, Address], object]] = Bindings()
        self._exchange: BlockingExchange | None = None
        self._closed = False

    # Life

    def start(self) -> None:
        """Open the bus: listen, and look for peers. Follow with ``close``.

        Raises ``PortInUse``, ``IdentityInUse`` or another ``StartError``, and ``UsageError`` if it was
        started before. When interrupted, it is not open.
        """
        with self._lock:
            if self._exchange is not None or self._closed:
                raise UsageError("a bus starts once", hint="make a new one")
            label = f"dittobus-{self._config.name}" if self._config.name else "dittobus"
            exchange = BlockingExchange(self._limits, label, self._bindings)
            exchange.io.start()
            starting = exchange.io.run(exchange.start(self._config))
            try:
                result_of(exchange.io, starting)
                _fork.watch(exchange)
                _exit.remember(self, self._limits.exit_timeout_s)
                self._exchange = exchange
            except BaseException:
                if starting.done() and not starting.cancelled() and starting.exception() is None:
                    self._close_now(exchange)  # interrupted when it was open already
                exchange.io.stop()
                raise

    def close(self, timeout: float | None = 5.0) -> bool:
        """Close all streams and the bus; return True if everything sent was acknowledged.

        Drains what was sent for up to ``timeout`` seconds. What is still pending then ends in an error:
        whoever waits in another thread gets ``BusClosed`` or, for a send, ``DeliveryUnknown``, and iterations
        over messages, offers and changes end. A stream that was neither finished nor closed ends in
        ``PeerLost`` at the other end, after what was sent, and in ``BusClosed`` here: nobody has said that
        this was all. Waits for the handlers of streams, but not for one that outlives its stream. When
        interrupted, everything is aborted. Closing twice is harmless: the second waits.
        """
        checked_timeout(timeout)
        begun = monotonic()
        exchange = self._exchange
        if exchange is not None:
            exchange.check_process()  # before the lock, whose holder may not exist here
        try:
            with self._lock:
                self._closed = True
                exchange = self._exchange
            if exchange is None:
                return True
            exchange.shutdown.begin(timeout)
            if exchange.io.is_current:
                exchange.shutdown.done.add_done_callback(lambda _: exchange.io.stop(0))
                return False
            clean = result_of(exchange.io, exchange.shutdown.done)
            self._let_go(exchange, max(begun + (timeout or 0.0), monotonic() + HANDLER_GRACE_S))
        except BaseException:
            if exchange is not None:
                self._close_now(exchange)
                self._let_go(exchange, monotonic())
            raise
        return clean

    def _close_now(self, exchange: BlockingExchange) -> None:
        exchange.shutdown.begin(0)
        exchange.shutdown.hurry()
        result_of(exchange.io, exchange.shutdown.done)

    def _let_go(self, exchange: BlockingExchange, deadline: float) -> None:
        for thread in tuple(exchange.handlers):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - monotonic()))
                if thread.is_alive():
                    _log.warning(
                        "%s goes on after its stream has ended; the bus closes without it", thread.name
                    )
        exchange.io.stop()
        _exit.forget(self)

    @property
    def _is_ours(self) -> bool:
        return self._exchange is not None and self._exchange.is_ours

    def _begin_exit(self, deadline: float) -> None:
        """The interpreter exits: half the time for the network."""
        self._closed = True
        if self._exchange is not None:
            self._exchange.shutdown.begin(max(0.0, (deadline - monotonic()) / 2))

    def _end_exit(self, deadline: float) -> None:
        if self._exchange is not None:
            with contextlib.suppress(TimeoutError):
                self._exchange.shutdown.done.result(max(0.0, deadline - monotonic()))
            self._exchange.io.stop(max(0.0, deadline - monotonic()))

    def __enter__(self) -> Bus:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_ours:  # a forked child that unwinds leaves the bus to its parent
            # A program that unwinds does not wait for the network.
            self.close() if kind is None else self.close(timeout=0)

    # Who is there

    @property
    def address(self) -> Address:
        """The address of this bus. Raises ``BusClosed`` before ``start``."""
        return self._started().node.address

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
        if self._exchange is not None and not self._closed:
            exchange = self._running()
            exchange.io.call(exchange.announce, self._config.name, self._config.metadata)

    def ticket(self) -> Ticket:
        """Return what another bus needs to dial this one, wherever it is."""
        exchange = self._running()
        return exchange.io.call(exchange.node.ticket)

    def child_environment(self) -> dict[str, str]:
        """Return the environment for a child process that is to join this mesh.

        See ``DittoBus.child_environment``.
        """
        return _environment.child_environment(self._config, self.ticket())

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Snapshots of everybody known and not lost; empty when the bus is not running."""
        exchange = self._exchange
        if exchange is None:
            return ()
        exchange.check_process()
        return () if self._closed else exchange.io.call(lambda: exchange.node.peers)

    def peer(self, address: Address | Peer) -> Peer | None:
        """Return a snapshot of that peer as it is now, or None."""
        exchange = self._running()
        return exchange.io.call(exchange.node.peer, checked_peer(address, "address"))

    def stats(self) -> NodeStats:
        """Return the counters of the bus, as they are now."""
        exchange = self._running()
        return exchange.io.call(exchange.node.stats)

    def peer_stats(self, address: Address | Peer) -> PeerStats:
        """Return the counters of the conversation with that peer, as they are now. Raises ``UnknownPeer``."""
        exchange = self._running()
        return exchange.io.call(exchange.peer_stats, checked_peer(address, "address"))

    def wait_for_peer(self, target: WaitTarget, timeout: float | None = 10.0) -> Peer:
        """Wait for the peer with that name or address, or of whom the predicate is true.

        A predicate is called with each ``Peer``, on the I/O thread: it must be quick. Raises ``WaitTimeout``,
        ``AmbiguousPeer`` if several hold the name, or what the predicate raises.
        """
        exchange = self._running()
        target = checked_target(target)
        checked_timeout(timeout)

        def begin(table: PeerTable) -> asyncio.Future[Peer]:
            return table.wait_for(target, timeout)

        return exchange.outcome(exchange.wait, begin)

    def wait_for_peers(self, count: int, timeout: float | None = 10.0) -> tuple[Peer, ...]:
        """Wait until there are ``count`` live peers, and return all of them. Raises ``WaitTimeout``."""
        exchange = self._running()
        checked_count(count)
        checked_timeout(timeout)

        def begin(table: PeerTable) -> asyncio.Future[tuple[Peer, ...]]:
            return table.wait_for_count(count, timeout)

        return exchange.outcome(exchange.wait, begin)

    def peer_changes(self) -> Iterator[PeerEvent]:
        """Iterate over who is there, as ``PeerJoined``, and then over every change of ``peers``.

        Of who has not joined, or not yet, ``PeerChanged`` tells, and ``PeerForgotten`` when it is not known
        any more. ``PeerLeft.reason`` says why somebody has gone. Each iterator sees everything; of what it
        is slow to take, only the latest state of each peer is kept in the end.
        """
        exchange = self._running()
        return Iteration(exchange, exchange.changes())

    # Messages and streams

    def send(
        self,
        data: Buffer,
        to: Address | Peer,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        channel: int = 0,
        timeout: float | None = 10.0,
    ) -> None:
        """Send a single message, and wait until it is acknowledged; an unreliable one, until transmitted.

        When interrupted, it may or may not arrive. Raises ``SendTimeout`` if nothing left this process within
        ``timeout`` seconds, ``DeliveryUnknown`` if the acknowledgement did not come; for an
        unreliable one, at once, ``NoPath``, or ``SendQueueFull`` if the network takes no more now; and
        ``UnknownPeer``, ``MessageTooLarge``, ``UsageError``, ``BusClosed``.
        """
        exchange = self._running()
        exchange.outcome(
            exchange.send,
            checked_message(data, self._limits, checked_reliability(reliability)),
            checked_peer(to),
            reliability,
            checked_channel(channel),
            checked_timeout(timeout),
        )

    def receive_message(self, timeout: float | None = None) -> Message:
        """Return the next single message, waiting for it; it counts as consumed then.

        Raises ``WaitTimeout`` if none comes within ``timeout`` seconds, and ``BusClosed``. When interrupted,
        no message is lost.
        """
        exchange = self._running()
        return _take(exchange, exchange.messages, timeout)

    def messages(self) -> Iterator[Message]:
        """Iterate over single messages as they come, until the bus is closed.

        Iterations and ``receive_message`` compete: each message goes to one.
        """
        exchange = self._running()
        return Iteration(exchange, exchange.messages)

    def open_stream(
        self,
        to: Address | Peer,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        name: str = "",
        metadata: Buffer = b"",
        timeout: float | None = 10.0,
    ) -> Stream:
        """Open a stream, and wait until the peer has accepted it.

        When interrupted, it is reset. Raises ``StreamRejected``, ``OpenTimeout``, ``PeerLost``,
        ``UnknownPeer``, ``ConfigError``, ``UsageError``, ``BusClosed``.
        """
        exchange = self._running()
        return exchange.outcome(
            exchange.open_stream,
            checked_peer(to),
            checked_reliability(reliability),
            checked_name(name, self._limits),
            checked_metadata(metadata, self._limits),
            checked_timeout(timeout),
        )

    def receive_offer(self, timeout: float | None = None) -> Offer:
        """Return the next stream that a peer wants to open, waiting for it.

        Raises ``WaitTimeout`` if none comes within ``timeout`` seconds, and ``BusClosed``.
        """
        exchange = self._running()
        return _take(exchange, exchange.offers, timeout)

    def offers(self) -> Iterator[Offer]:
        """Iterate over the streams that peers want to open, until the bus is closed.

        Iterations and ``receive_offer`` compete: each offer goes to one.
        """
        exchange = self._running()
        return Iteration(exchange, exchange.offers)

    def on_stream(self, name: str, handler: Callable[[Stream, Address], object]) -> None:
        """Accept streams of that name and give each to ``handler(stream, peer)``, in a thread of its own.

        Once there is such a binding, streams of other names are rejected, and ``receive_offer`` gets none. A
        handler that raises aborts its stream. When the bus closes, the streams end, and so should handlers.
        Raises ``BusClosed`` after that.
        """
        if self._closed:
            raise BusClosed("the bus is closed")
        self._bindings.bind(name, handler)
        if (exchange := self._exchange) is not None:
            exchange.check_process()
            exchange.io.post(exchange.sort_again)

    # The rest is private

    def _started(self) -> BlockingExchange:
        if self._exchange is None:
            raise BusClosed("the bus was not started", hint="call start(), or use it in a with statement")
        return self._exchange

    def _running(self) -> BlockingExchange:
        exchange = self._started()
        exchange.check_process()
        if self._closed or exchange.is_over:
            raise exchange.closed_error()
        return exchange

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not started" if self._exchange is None else "running"
        return f"<{type(self).__name__} {self._config.name!r}, {state}>"


class Iteration(Generic[T]):
    """One iteration over what arrives. Several threads may share it."""

    def __init__(self, exchange: BlockingExchange, mailbox: Mailbox[T]) -> None:
        self._exchange = exchange
        self._mailbox = mailbox

    def __iter__(self) -> Iteration[T]:
        return self

    def __next__(self) -> T:
        try:
            return _take(self._exchange, self._mailbox, None)
        except BusClosed:
            raise StopIteration from None


def _take(exchange: BlockingExchange, mailbox: Mailbox[T], timeout: float | None) -> T:
    try:
        return mailbox.take(timeout)
    except Over:
        exchange.check_process()
        raise exchange.closed_error() from None
