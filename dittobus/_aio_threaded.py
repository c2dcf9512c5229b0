"""The asyncio face with its node in a thread of its own, for a loop that may block.

Commands cross to the I/O thread; events come back in batches, with one wake-up of the application's loop for
each. What a stream sends crosses by an outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import threading
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from brokerless import PeerChanged, Reliability, StreamEnded, StreamOffered, StreamOpened, StreamReady
from dittobus import _exit
from dittobus._aio_exchange import AioExchange
from dittobus._exchange import let_go
from dittobus._io_thread import IoThread
from dittobus._outbox import Outbox
from dittobus._shutdown import Shutdown
from dittobus._transmitter import Transmitter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokerless import Address, BusError, Event, Limits, Message, NodeConfig, Peer
    from brokerless import Stream as CoreStream

T = TypeVar("T")
P = ParamSpec("P")

EVENTS_MANY = 1_024
"""When so many events wait for a blocked loop, changes of peers that later ones make void are dropped."""


class ThreadedAioExchange(AioExchange):
    """The asyncio face's exchange, on the application's loop, with its node on another.

    What is inherited runs on the application's loop, as ever, except ``_on_events``: the node calls it on the
    I/O thread, and from there events cross.
    """

    io: IoThread
    _shutdown: Shutdown

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._ports: dict[CoreStream, StreamPort] = {}  # added to by the I/O thread, taken from by the loop
        self._lock = threading.Lock()
        self._events: list[Event] = []  # which the loop has not taken
        self._untold: set[CoreStream] = set()  # offers among these
        self._compact_at = EVENTS_MANY
        self._starting: asyncio.Task[None] | None = None

    # Life

    async def _start_node(self, config: NodeConfig) -> None:
        self.io = IoThread(f"dittobus-{config.name}-io" if config.name else "dittobus-io")
        self._shutdown = Shutdown(self.io, self._close_on_io)
        self._shutdown.done.add_done_callback(lambda _: self._let_go())
        if inspect.iscoroutinefunction(config.admit):
            config = dataclasses.replace(config, admit=_on_loop(self._loop, config.admit))
        self.io.start()
        try:
            await asyncio.shield(asyncio.wrap_future(self.io.run(self._start_on_io(config))))
        except BaseException:
            await self._close_node(0)
            raise
        _exit.remember(self, config.limits.exit_timeout_s)

    async def _start_on_io(self, config: NodeConfig) -> None:
        self._starting = asyncio.current_task()
        await super()._start_node(config)

    async def _close_on_io(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - time to drain, no limit
        starting = self._starting
        assert starting is not None
        while not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # by who hurries, as we do
                await asyncio.wait([starting])
        if starting.cancelled() or starting.exception() is not None:
            return True  # and so undone
        return await self.node.close(timeout)

    async def _close_node(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - time to drain, no limit
        """Close the node and end the thread; that is waited for even when cancelled, but then it is quick."""
        if not self.is_ours:
            return True
        self._shutdown.begin(timeout)
        done = asyncio.wrap_future(self._shutdown.done)
        cancelled: asyncio.CancelledError | None = None
        while not done.done():
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError as error:
                self._shutdown.hurry()
                cancelled = error
        self.io.stop()
        if cancelled is not None:
            raise cancelled
        return done.result()

    def _let_go(self) -> None:
        """Nothing is left of the node."""
        self.io.stop(0)
        _exit.forget(self)

    @property
    def _is_ours(self) -> bool:
        return self.is_ours

    def _begin_exit(self, deadline: float) -> None:
        """The interpreter exits: half the time for the network."""
        self._shutdown.begin(max(0.0, (deadline - monotonic()) / 2))

    def _end_exit(self, deadline: float) -> None:
        with contextlib.suppress(TimeoutError):
            self._shutdown.done.result(max(0.0, deadline - monotonic()))
        self.io.stop(max(0.0, deadline - monotonic()))

    # Commands

    def call(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        self.check_process()
        return self.io.call(function, *arguments, **options)

    def post(self, function: Callable[P, object], *arguments: P.args, **options: P.kwargs) -> None:
        self.check_process()
        self.io.post(partial(function, *arguments, **options))

    def abandon(self, core: CoreStream) -> None:
        if self.is_ours:
            self.io.post(partial(let_go, core))

    def _want_known(self, awaited: frozenset[Address] | None) -> None:
        self.post(super()._want_known, awaited)

    def _want(self, address: Address) -> None:
        self.io.post(partial(super()._want, address))

    def _consume(self, message: Message) -> None:
        self.post(self.node.consume, message)

    async def transmit(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        done: asyncio.Future[T] = self._loop.create_future()

        def transmit() -> None:
            if done.cancelled():
                return
            try:
                result = function(*arguments, **options)
            except Exception as error:
                self._call_soon(partial(_fail, done, error))
            else:
                self._call_soon(partial(_succeed, done, result))

        self.post(transmit)
        return await done

    def close_stream(self, core: CoreStream, timeout: float | None) -> None:
        self.port(core).end(partial(super().close_stream, core, timeout))

    def port(self, core: CoreStream) -> StreamPort:
        return self._ports[core]

    def _begin_send(self, done: asyncio.Future[None], *arguments: Any) -> None:
        # Asking and waiting, as others do, would cost more than all the rest of sending.
        def send() -> None:
            try:
                self._sends[self.node.send(*arguments)] = done  # before SendDone can cross
            except Exception as error:
                self._call_soon(partial(_fail, done, error))

        self.post(send)

    # Events, on the I/O thread

    def _on_events(self, events: Sequence[Event]) -> None:
        events = [self._prepared(event) for event in events]
        with self._lock:
            are_awaited = bool(self._events)
            for event in events:
                self._add(event)
            are_news = bool(self._events) and not are_awaited
        # A loop that was closed with a delivery to come never makes it, and nobody would look again.
        if are_news or self._loop.is_closed():
            self._call_soon(self._deliver)

    def _prepared(self, event: Event) -> Event:
        """Do what is to be done on this side of the crossing."""
        match event:
            case StreamOpened(core):
                self._ports[core] = StreamPort(self, core)
            case StreamReady(core) if core in self._ports:
                self._ports[core].outbox.look_for_room()
            case StreamEnded(core, error) if core in self._ports:
                loss = self._ports[core].end_of_sending()
                return StreamEnded(core, error or loss)
        return event

    def _add(self, event: Event) -> None:
        match event:
            case StreamOffered(offer):
                self._untold.add(offer.stream)
            case StreamEnded(core) if core in self._untold:  # a blocked loop need never hear of it
                self._untold.discard(core)
                self._events = [
                    other
                    for other in self._events
                    if not (isinstance(other, StreamOffered) and other.offer.stream is core)
                ]
                return
            case PeerChanged() if len(self._events) >= self._compact_at:
                self._compact()
        self._events.append(event)

    def _compact(self) -> None:
        """Keep, of the changes of each peer, the last."""
        last = {event.peer.address: event for event in self._events if isinstance(event, PeerChanged)}
        self._events = [
            event
            for event in self._events
            if not isinstance(event, PeerChanged) or last[event.peer.address] is event
        ]
        self._compact_at = max(EVENTS_MANY, 2 * len(self._events))

    def _node_closed(self) -> None:
        self._call_soon(super()._node_closed)

    def _call_soon(self, call: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed, with the bus left open: nobody is there any more
            self._shutdown.begin(0)

    # Events, on the loop

    def _deliver(self) -> None:
        with self._lock:
            events, self._events = self._events, []
            self._untold.clear()
            self._compact_at = EVENTS_MANY
        if not self.is_over:
            super()._on_events(events)

    def _stream_ended(self, event: StreamEnded) -> None:
        if (port := self._ports.pop(event.stream, None)) is not None:
            port.outbox.refuse()  # where the bus was closed, the node may not have come to say so
        super()._stream_ended(event)

    def _did_fork(self) -> None:
        for port in self._ports.values():
            port.outbox.refuse_forked()
        super()._did_fork()


class StreamPort:
    """The commands of a core stream on the I/O thread, for the loop."""

    def __init__(self, exchange: ThreadedAioExchange, core: CoreStream) -> None:
        """Begin with a stream that is open and has sent nothing. On the I/O thread."""
        self.outbox: Outbox | Transmitter = (
            Outbox(exchange.io, core)
            if core.reliability is Reliability.RELIABLE
            else Transmitter(exchange.io, core)
        )
        self._exchange = exchange
        self._core = core

    @property
    def last_sequence(self) -> int:
        """Last message that ``send`` took."""
        return self.outbox.sequence

    def send(self, data: bytes) -> int:
        """Queue one message; return its sequence number. Raises what a core stream does."""
        return self.outbox.accept(data) or self._exchange.call(self._send_through, data)

    def consume(self, count: int) -> None:
        """Say that the application is done with the next ``count`` messages it was given."""
        self._exchange.post(self._core.consume, count)

    def finish(self) -> None:
        """Send no more after what is queued."""
        self.end(self._core.finish)

    def abort(self, code: int = 0, reason: str = "") -> None:
        """Drop everything now."""
        self.end(partial(self._core.abort, code, reason))

    def end(self, end: Callable[[], None]) -> None:
        """Take no more messages, and do this to the core, which has got all others by then."""
        self._exchange.check_process()
        self.outbox.refuse()
        self._exchange.post(self.outbox.flush)
        self._exchange.post(end)

    # On the I/O thread

    def end_of_sending(self) -> BusError | None:
        """The core has ended: take no more. Return why messages did not get into it, if any did not."""
        self.outbox.flush()
        return self.outbox.loss

    def _send_through(self, data: bytes) -> int:
        """Send what may not fit: the core knows, says why not, and tells when there is room."""
        self.outbox.flush()
        sequence = self.outbox.sequence = self._core.send(data)
        self.outbox.look_for_room()
        return sequence


def _on_loop(loop: asyncio.AbstractEventLoop, admit: Callable[[Peer], Any]) -> Callable[[Peer], Any]:
    """Return what runs a coroutine of the application on the loop of the application."""

    async def ask(peer: Peer) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(admit(peer), loop))

    return ask


def _fail(done: asyncio.Future[Any], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)
