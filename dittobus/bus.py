"""The bus in the delegate style: callable from any thread, heard from on a queue of your choice."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import threading
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from brokerless import BusClosed, Limits, NodeConfig, Reliability, UsageError
from dittobus import _environment, _exit
from dittobus._arguments import (
    as_bytes,
    checked_channel,
    checked_delegate,
    checked_message,
    checked_metadata,
    checked_name,
    checked_peer,
    checked_reliability,
    checked_timeout,
)
from dittobus._bindings import Bindings
from dittobus._bus_exchange import BusExchange, Pending
from dittobus._futures import BusFuture
from dittobus._ground import Ground, checked_completion
from dittobus._io_thread import IoThread
from dittobus._strand import Recipient
from dittobus.dispatch import DispatchQueue, SerialDispatchQueue, as_dispatch_queue
from dittobus.peers import checked_count, checked_target

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from typing_extensions import Buffer

    from brokerless import Address, BusError, Identity, Message, NodeStats, Peer, PeerStats, Ticket
    from dittobus._bus_entries import Unseen
    from dittobus.delegates import DittoBusDelegate
    from dittobus.dispatch import EventQueue
    from dittobus.peers import PeerTable, WaitTarget
    from dittobus.stream import DittoBusStream

_log = logging.getLogger("dittobus")

T = TypeVar("T")

CALLBACK_GRACE_S = 0.5
"""How long ``close`` lets the last callbacks run when its timeout was used up by the network."""


class DittoBus(Recipient):
    """A bus: sends and receives messages and streams to and from the other members of its mesh.

    >>> with DittoBus("camera", delegate=MyDelegate()) as bus:
    ...     viewer = bus.wait_for_peer("viewer").result()
    ...     bus.send(b"hello", viewer).result()

    Call ``start`` and ``close``, or use it as a context manager. All methods may be called from any thread.

    Args:
        name: What peers see; a label of at most 64 bytes in UTF-8, not unique and not authenticated.
        mesh: Name of the mesh. Buses of different meshes never see each other.
        secret: What all members of the mesh share: a ``str`` of 8 characters or more, or ``bytes`` of 32 or
            more (see ``generate_secret``). None: the bus serves this user's processes on this host.
        trust: ``"open"`` lets anyone join who knows the name of the mesh; None does not.
        admit: Called with a ``Peer`` before it joins; returns True, or the reason (``str``) why not. May be a
            coroutine function; otherwise it runs in a thread of its own. It denies by an exception, and by
            taking longer than ``limits.admit_timeout_s``. Or the addresses of all who may join.
        identity: None for a fresh address, the path of a file that keeps one (made when missing, locked while
            in use), or an ``Identity``.
        peers: Tickets of peers to dial, as text or ``Ticket``.
        discovery: How to find peers: names (``"zeroconf"``, ``"registry"``, ``"gossip"``: peers tell each
            other of peers), or objects of the ``Discovery`` protocol. Empty: tickets only.
        interfaces: Addresses of this host to listen on; None for all, or for loopback without a secret.
        port: TCP port to listen on; 0 for any that is free.
        advertise: Endpoints to give in tickets and discovery in place of those bound, as behind a NAT.
        directory: Where this host's registry and ipc sockets are, instead of the user's private directory.
        metadata: What peers see besides the name, at most 4 KiB.
        limits: All bounds, see ``Limits``.
        delegate: Who hears from the bus, see ``DittoBusDelegate``. May be set later; what arrives waits.
        delegate_event_queue: Where callbacks run: a ``DispatchQueue``, an asyncio loop, or an executor. None:
            a serial queue of its own.

    Raises ``ConfigError`` or ``TypeError`` for arguments that cannot be; nothing is opened before ``start``.
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
        delegate: DittoBusDelegate | None = None,
        delegate_event_queue: EventQueue | None = None,
    ) -> None:
        super().__init__(is_open=False)
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
        if delegate_event_queue is not None:
            as_dispatch_queue(delegate_event_queue)
        self._limits = limits
        self._delegate = checked_delegate(delegate)
        self._event_queue = delegate_event_queue
        self._own_queue: SerialDispatchQueue | None = None
        self._bindings: Bindings[Callable[[DittoBusStream, Address], object]] = Bindings()
        self._lock = threading.Lock()
        self._ground: Ground | None = None
        self._exchange: BusExchange | None = None
        self._closing: concurrent.futures.Future[bool] | None = None
        self._closed = False
        self._done_with: deque[Message] = deque()
        self._unseen: Unseen | None = None  # unknown until something waits there

    # Life

    def start(self) -> None:
        """Open the bus: listen, and look for peers. Follow with ``close``.

        Raises ``PortInUse``, ``IdentityInUse`` or another ``StartError``, and ``UsageError`` if it was
        started before.
        """
        with self._lock:
            if self._ground is not None or self._closed:
                raise UsageError("a bus starts once", hint="make a new one")
            label = f"dittobus-{self._config.name}" if self._config.name else "dittobus"
            if self._event_queue is None:
                self._event_queue = self._own_queue = DispatchQueue.serial(f"{label}-callbacks")
            ground = Ground(IoThread(f"{label}-io"), self._limits, self._event_queue)
            exchange = BusExchange(ground, self)
            ground.io.start()
            try:
                ground.io.run(exchange.start(self._config)).result()
            except BaseException:
                ground.io.stop()
                raise
            self._ground, self._exchange = ground, exchange
            _exit.remember(self, self._limits.exit_timeout_s)
        if self._delegate is not None:
            ground.io.post(exchange.introduce)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Close all streams and the bus; return True if everything sent was acknowledged.

        Drains what was sent for up to ``timeout`` seconds. What is still pending then ends in an error, and
        every completion is queued. A stream that was neither finished nor closed ends in ``PeerLost`` at the
        other end, after what was sent, and in ``BusClosed`` here: nobody has said that this was all. Lets
        callbacks that are queued run, where they can; after it has returned none starts, and one that still
        runs when the time is up is left behind, which is logged. Works from any thread, from a callback
        (those that were queued are then dropped; futures have their outcome), and twice. On the I/O thread it
        begins to close, and returns False.
        """
        checked_timeout(timeout)
        begun = monotonic()
        if self._ground is not None:
            self._ground.check_process()  # before the lock, whose holder may not exist here
        with self._lock:
            self._closed = True
            ground, exchange = self._ground, self._exchange
            if ground is None or exchange is None:
                return True
            if self._closing is None:
                self._closing = ground.io.run(exchange.shut_down(timeout))
        if ground.io.is_current:
            self._seal(ground)
            self._closing.add_done_callback(lambda _: self._let_go(ground, wait=False))
            return False
        clean = self._closed_cleanly(self._closing)
        deadline = None if timeout is None else max(begun + timeout, monotonic() + CALLBACK_GRACE_S)
        are_at_rest = [strand.finish(deadline) for strand in tuple(ground.strands)]
        self._let_go(ground, wait=True, are_at_rest=all(are_at_rest))
        return clean

    def _closed_cleanly(self, closing: concurrent.futures.Future[bool], timeout: float | None = None) -> bool:
        try:
            return closing.result(timeout)
        except (TimeoutError, concurrent.futures.CancelledError):
            return False
        except Exception:
            _log.exception("the bus did not close as it should")
            return False

    def _seal(self, ground: Ground) -> None:
        for strand in tuple(ground.strands):
            strand.seal()

    def _let_go(self, ground: Ground, *, wait: bool, are_at_rest: bool = False) -> None:
        ground.kept.clear()
        ground.io.stop(None if wait else 0)
        if self._own_queue is not None:
            self._own_queue.end()
            if wait and are_at_rest:  # else its thread ends when the callback returns, if it ever does
                self._own_queue.close()
        _exit.forget(self)

    @property
    def _is_ours(self) -> bool:
        return self._ground is not None and self._ground.is_ours

    def _begin_exit(self, deadline: float) -> None:
        """The interpreter exits: no callback any more, half the time for the network."""
        ground, exchange = self._ground, self._exchange
        if ground is not None and exchange is not None:
            self._seal(ground)
            self._closed = True
            if self._closing is None:
                self._closing = ground.io.run(exchange.shut_down(max(0.0, (deadline - monotonic()) / 2)))

    def _end_exit(self, deadline: float) -> None:
        if self._ground is not None and self._closing is not None:
            self._closed_cleanly(self._closing, max(0.0, deadline - monotonic()))
            self._ground.io.stop(max(0.0, deadline - monotonic()))

    def __enter__(self) -> DittoBus:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_ours:  # a forked child that unwinds leaves the bus to its parent
            # A program that unwinds does not wait for the network.
            self.close() if kind is None else self.close(timeout=0)

    # Who hears from it

    @property
    def delegate(self) -> DittoBusDelegate | None:
        """Who hears from the bus. Held strongly. What arrived while there was none waits for the next."""
        return self._delegate

    @delegate.setter
    def delegate(self, delegate: DittoBusDelegate | None) -> None:
        ground, exchange = self._ground, self._exchange
        if ground is not None:
            ground.check_process()
        self._delegate = checked_delegate(delegate)
        if delegate is not None and ground is not None and exchange is not None:
            ground.io.post(exchange.introduce)

    @property
    def delegate_event_queue(self) -> EventQueue | None:
        """Where callbacks of the bus and its streams run. Set it before ``start``; later it raises."""
        return self._event_queue

    @delegate_event_queue.setter
    def delegate_event_queue(self, event_queue: EventQueue) -> None:
        as_dispatch_queue(event_queue)
        if self._ground is not None:
            raise UsageError("delegate_event_queue: can be set before start() only")
        self._event_queue = event_queue

    def on_stream(self, name: str, handler: Callable[[DittoBusStream, Address], object]) -> None:
        """Accept streams of that name and give each to ``handler(stream, peer)``, as a callback.

        Once there is such a binding, streams of other names are rejected. Set ``stream.delegate`` within the
        handler, and no callback is missed. Raises ``BusClosed`` once the bus is closed.
        """
        if self._closed:
            raise BusClosed("the bus is closed")
        self._bindings.bind(name, handler)
        if self._ground is not None and self._exchange is not None:
            self._ground.check_process()
            self._ground.io.post(self._exchange.unpark)

    # Who is there

    @property
    def address(self) -> Address:
        """The address of this bus. Raises ``BusClosed`` before ``start``."""
        return self._started()[1].node.address

    @property
    def name(self) -> str:
        """What peers see as the name of this bus; may be set at any time."""
        return self._config.name

    @name.setter
    def name(self, name: str) -> None:
        checked_name(name, self._limits)
        self._config = dataclasses.replace(self._config, name=name)
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
        if self._ground is not None and not self._closed:
            ground, exchange = self._running()
            ground.io.call(exchange.announce, self._config.name, self._config.metadata)

    def ticket(self) -> Ticket:
        """Return what another bus needs to dial this one, wherever it is."""
        ground, exchange = self._running()
        return ground.io.call(exchange.node.ticket)

    def child_environment(self) -> dict[str, str]:
        """Return the environment for a child process that is to join this mesh.

        It is that of this process with the mesh, its secret, and the tickets of this bus and the peers that
        it was given; and with ``interfaces``, ``discovery`` (but for objects), ``directory``, ``trust`` and
        ``limits``, where they are not the default. There ``dittobus.environment()`` makes arguments of it.
        Not in it is what each bus has for itself: name, metadata, identity, port, ``advertise``, ``admit``.
        Where there is no secret, none is needed: the child is this user's on this host.

        >>> subprocess.Popen([sys.executable, "worker.py"], env=bus.child_environment())
        """
        return _environment.child_environment(self._config, self.ticket())

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Snapshots of everybody known and not lost; empty when the bus is not running."""
        if self._ground is None or self._exchange is None:
            return ()
        self._ground.check_process()
        exchange = self._exchange
        return () if self._closed else self._ground.io.call(lambda: exchange.node.peers)

    def peer(self, address: Address | Peer) -> Peer | None:
        """Return a snapshot of that peer as it is now, or None."""
        ground, exchange = self._running()
        return ground.io.call(exchange.node.peer, checked_peer(address, "address"))

    def stats(self) -> NodeStats:
        """Return the counters of the bus, as they are now."""
        ground, exchange = self._running()
        return ground.io.call(exchange.node.stats)

    def peer_stats(self, address: Address | Peer) -> PeerStats:
        """Return the counters of the conversation with that peer, as they are now. Raises ``UnknownPeer``."""
        ground, exchange = self._running()
        return ground.io.call(exchange.peer_stats, checked_peer(address, "address"))

    def wait_for_peer(
        self, target: WaitTarget, timeout: float | None = 10.0
    ) -> concurrent.futures.Future[Peer]:
        """Return a future of the peer with that name or address, or of whom the predicate is true.

        A predicate is called with each ``Peer``, on the I/O thread: it must be quick. The future fails with
        ``WaitTimeout``, with ``AmbiguousPeer`` if several hold the name, or with what the predicate raises.
        """
        target = checked_target(target)
        checked_timeout(timeout)
        return self._wait(lambda table: table.wait_for(target, timeout))

    def wait_for_peers(
        self, count: int, timeout: float | None = 10.0
    ) -> concurrent.futures.Future[tuple[Peer, ...]]:
        """Return a future of all live peers, once there are ``count``. It may fail with ``WaitTimeout``."""
        checked_count(count)
        checked_timeout(timeout)
        return self._wait(lambda table: table.wait_for_count(count, timeout))

    def _wait(self, begin: Callable[[PeerTable], asyncio.Future[T]]) -> concurrent.futures.Future[T]:
        ground, exchange = self._running()
        future: BusFuture[T] = BusFuture(
            ground.io, lambda given_up: ground.io.post(partial(exchange.give_up, given_up))
        )
        ground.io.post(partial(exchange.wait, future, begin))
        return future

    # Messages and streams

    def send(
        self,
        data: Buffer,
        to: Address | Peer,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        channel: int = 0,
        timeout: float | None = 10.0,
        completion: Callable[[BusError | None], object] | None = None,
    ) -> concurrent.futures.Future[None]:
        """Send a single message; the future, and ``completion(error)``, tell when it was acknowledged.

        They fail with ``SendTimeout`` if nothing left this process within ``timeout`` seconds, and with
        ``DeliveryUnknown`` if the acknowledgement did not come: then it may have arrived. Nothing else tells
        of it: a program that looks at neither of them does not know.

        Of an unreliable one they tell that it was transmitted, at once: no time can run out. They fail with
        ``NoPath``, and with ``SendQueueFull`` if the network takes no more now.

        Raises ``UnknownPeer``, ``MessageTooLarge``, ``UsageError``, ``BusClosed``.
        """
        ground, exchange = self._running()
        message = checked_message(data, self._limits, checked_reliability(reliability))
        address = checked_peer(to)
        checked_channel(channel)
        checked_timeout(timeout)
        pending = Pending(BusFuture[None](ground.io), checked_completion(completion))
        if reliability is Reliability.RELIABLE:
            command = partial(exchange.send, pending, message, address, reliability, channel, timeout)
        else:
            command = partial(exchange.transmit, pending, message, address, reliability, channel)
        if exchange.is_live(address):
            ground.io.post(partial(exchange.attempt, pending, command))
        else:  # where the node is likely to refuse, it is to do so at the call
            ground.io.call(command)
        return pending.future

    def send_single_reliable_message(
        self,
        data: Buffer,
        to_address: Address | Peer,
        completion: Callable[[BusError | None], object] | None = None,
    ) -> concurrent.futures.Future[None]:
        """Send a single message that is delivered in full, if connectivity permits. See ``send``."""
        return self.send(data, to_address, Reliability.RELIABLE, completion=completion)

    def send_single_unreliable_message(
        self,
        data: Buffer,
        to_address: Address | Peer,
        completion: Callable[[BusError | None], object] | None = None,
    ) -> concurrent.futures.Future[None]:
        """Send a single message with no guarantee on delivery. See ``send``."""
        return self.send(data, to_address, Reliability.UNRELIABLE, completion=completion)

    def open_stream(
        self,
        to: Address | Peer,
        reliability: Reliability = Reliability.RELIABLE,
        completion: Callable[[DittoBusStream | None, BusError | None], object] | None = None,
        *,
        name: str = "",
        metadata: Buffer = b"",
        timeout: float | None = 10.0,
    ) -> concurrent.futures.Future[DittoBusStream]:
        """Open a stream; the future, and ``completion(stream, error)``, tell when the peer has accepted it.

        Set ``stream.delegate`` within the completion, and no callback is missed. They fail with
        ``StreamRejected``, ``OpenTimeout`` or ``PeerLost``. Cancelling the future resets the stream.

        Raises ``UnknownPeer``, ``ConfigError``, ``UsageError``, ``BusClosed``.
        """
        ground, exchange = self._running()
        address = checked_peer(to)
        checked_reliability(reliability)
        checked_timeout(timeout)
        checked_name(name, self._limits)
        data = checked_metadata(metadata, self._limits)
        future: BusFuture[DittoBusStream] = BusFuture(
            ground.io, lambda given_up: ground.io.post(partial(exchange.give_up, given_up))
        )
        pending = Pending(future, checked_completion(completion))
        command = partial(exchange.open_stream, pending, address, reliability, name, data, timeout)
        if exchange.is_live(address):
            ground.io.post(partial(exchange.attempt, pending, command, None))
        else:
            ground.io.call(command)
        return future

    # The rest is private

    def _started(self) -> tuple[Ground, BusExchange]:
        if self._ground is None or self._exchange is None:
            raise BusClosed("the bus was not started", hint="call start(), or use it in a with statement")
        return self._ground, self._exchange

    def _running(self) -> tuple[Ground, BusExchange]:
        ground, exchange = self._started()
        ground.check_process()
        if self._closed or exchange.is_over:
            raise exchange.closed_error()
        return ground, exchange

    def _note_consumed(self, message: Message) -> None:
        """The application is done with a single message. On the strand."""
        ground, exchange = self._started()
        self._done_with.append(message)
        if len(self._done_with) == 1:
            ground.io.post(partial(exchange.consume, self._done_with))

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not started" if self._ground is None else "running"
        return f"<{type(self).__name__} {self._config.name!r}, {state}>"
