"""The half of a bus that lives on the I/O thread: between the node and the application's callbacks."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from brokerless import BusError, NoPath, PeerLeft, SendQueueFull, StreamReset
from dittobus._bus_entries import LOST_MAX, Incoming, Offered, PeersChanged, SingleMessages, Unseen
from dittobus._exchange import Exchange
from dittobus._strand import Unpark
from dittobus.offer import DittoBusStreamOffer
from dittobus.peers import Peers
from dittobus.stream import DittoBusStream

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Callable, Iterable

    from brokerless import (
        Address,
        Message,
        MessageReceived,
        Reliability,
        SendDone,
        StreamOffered,
        StreamOpened,
        Unread,
    )
    from brokerless import Stream as CoreStream
    from dittobus._futures import BusFuture
    from dittobus._ground import Ground
    from dittobus.bus import DittoBus
    from dittobus.peers import PeerEvent, PeerTable

T = TypeVar("T")


class Pending:
    """A command whose outcome is awaited: by a future, and perhaps by a completion."""

    __slots__ = ("completion", "future")

    def __init__(self, future: BusFuture[Any], completion: Callable[..., object] | None) -> None:
        self.future = future
        self.completion = completion


class BusExchange(Exchange[DittoBusStream, Pending]):
    """Takes commands to the node, and turns its events into entries for the strands.

    Everything here runs on the I/O thread, except the constructor and ``is_live``.
    """

    def __init__(self, ground: Ground, bus: DittoBus) -> None:
        super().__init__(ground.limits)
        self._ground = ground
        self._bus = bus
        self._sends: dict[int, Pending] = {}
        self._offers: dict[CoreStream, tuple[DittoBusStreamOffer, Offered]] = {}
        self._waits: dict[BusFuture[Any], asyncio.Future[Any]] = {}
        self._peers_changed = False
        self._lost: list[PeerLeft] = []

    # Commands

    def is_live(self, address: Address) -> bool:
        """Tell whether there is a conversation with that peer. From any thread: one look into a dict."""
        return address in self.table.live

    def send(
        self,
        pending: Pending,
        data: bytes,
        to: Address,
        reliability: Reliability,
        channel: int,
        timeout: float | None,
    ) -> None:
        """Send a single message. Raises what the node raises."""
        self._sends[self.node.send(data, to, reliability, channel, timeout)] = pending

    def transmit(
        self, pending: Pending, data: bytes, to: Address, reliability: Reliability, channel: int
    ) -> None:
        """Send a single unreliable message. Raises what the node raises, but for what the outcome tells."""
        error: BusError | None = None
        try:
            self.node.transmit(data, to, reliability, channel)
        except (NoPath, SendQueueFull) as failure:
            error = failure
        self._settle(pending, error)

    def open_stream(
        self,
        pending: Pending,
        to: Address,
        reliability: Reliability,
        name: str,
        metadata: bytes,
        timeout: float | None,
    ) -> None:
        """Open a stream, unless the caller has given up. Raises what the node raises."""
        if pending.future.cancelled():
            self._ground.complete(pending.completion, None, _given_up())
        else:
            self._opening[self.node.open_stream(to, reliability, name, metadata, timeout)] = pending

    def attempt(self, pending: Pending, command: Callable[[], None], *no_result: None) -> None:
        """Run a command that nobody can catch the errors of: they become its outcome."""
        try:
            command()
        except Exception as error:
            self._settle(pending, error, *no_result)

    def give_up(self, future: BusFuture[Any]) -> None:
        """Drop what ``future`` was to bring: reset the stream, stop waiting for the peer."""
        if (waiting := self._waits.pop(future, None)) is not None:
            waiting.cancel()
        for stream, pending in list(self._opening.items()):
            if pending.future is future:
                del self._opening[stream]
                stream.abort()
                self._ground.complete(pending.completion, None, _given_up())

    def wait(self, future: BusFuture[T], begin: Callable[[PeerTable], asyncio.Future[T]]) -> None:
        """Wait for peers, and pass the outcome on."""
        if self.is_over:
            future.fail(self.closed_error())
            return
        waiting = self._waits[future] = begin(self.table)
        self.want_known()

        def pass_on(waiting: asyncio.Future[T]) -> None:
            self._waits.pop(future, None)
            if waiting.cancelled():
                return
            error = waiting.exception()
            if error is None:
                future.succeed(waiting.result())
            else:
                future.fail(error)

        waiting.add_done_callback(pass_on)

    def introduce(self) -> None:
        """Tell a new delegate who is there, and then what has waited for it."""
        self._peers_changed = True
        self._tell_peers()
        self.unpark()

    def unpark(self) -> None:
        """Look again at what has waited: there is a handler for it now, perhaps."""
        self._ground.strand.append(self._bus, Unpark())

    def consume(self, messages: deque[Message]) -> None:
        """Tell the node that the application is done with these."""
        while messages:
            self.node.consume(messages.popleft())

    # Events

    def _peer_changed(self, event: PeerEvent) -> None:
        self.table.apply(event)
        self._peers_changed = True
        if isinstance(event, PeerLeft):
            self._lost = [*self._lost[1 - LOST_MAX :], event]

    def _before_event(self) -> None:
        if self._peers_changed:
            self._tell_peers()

    def _tell_peers(self) -> None:
        self._peers_changed = False
        lost, self._lost = self._lost, []
        if self._bus.delegate is not None:
            peers = Peers(self.table.listed.values(), lost)
            self._ground.strand.append(self._bus, PeersChanged(peers))
            self._ground.watch()

    def _message_received(self, event: MessageReceived) -> None:
        self._ground.strand.append(self._bus, SingleMessages(event.message))
        self._ground.watch()

    def _messages_waiting(self, unread: Unread[Message]) -> None:
        if self._bus._unseen is None:
            self._bus._unseen = Unseen(unread)
        self._ground.strand.append(self._bus, SingleMessages())
        self._ground.watch()

    def _send_done(self, event: SendDone) -> None:
        pending = self._sends.pop(event.send_id, None)
        if pending is not None:
            self._settle(pending, event.error)

    def _settle(self, pending: Pending, error: Exception | None, *no_result: None) -> None:
        if error is None:
            pending.future.succeed(None)
        else:
            pending.future.fail(error)
        self._ground.complete(pending.completion, *no_result, error)

    def _stream_offered(self, event: StreamOffered) -> None:
        offer = DittoBusStreamOffer(self._ground, self.node, event.offer)
        entry = Offered(offer)
        self._offers[event.offer.stream] = offer, entry
        self._ground.strand.append(self._bus, entry)
        self._ground.watch()

    def _stream_opened(self, event: StreamOpened) -> None:
        core = event.stream
        pending = self._opening.pop(core, None)
        self._offers.pop(core, None)
        incoming = pending is None
        handing_over = incoming or (pending is not None and pending.completion is not None)
        stream = DittoBusStream(self._ground, self.node, core, handing_over=handing_over)
        self._streams[core] = weakref.ref(stream)
        if pending is None:
            self._ground.strand.append(self._bus, Incoming(stream))
            self._ground.watch()
        elif not pending.future.succeed(stream):
            stream.abort()
            self._ground.complete(pending.completion, None, _given_up())
        elif pending.completion is not None:
            self._ground.complete(_handing_over, pending.completion, stream)

    def _unopened_ended(self, core: CoreStream, error: BusError | None) -> None:
        if (pending := self._opening.pop(core, None)) is not None:
            self._settle(pending, error or StreamReset(0, "closed before it was open"), None)
        if (offered := self._offers.pop(core, None)) is not None:
            offer, entry = offered
            offer._did_end(error)
            self._ground.strand.discard(self._bus, entry)
        # A loss of the peer told later must not be merged into what was told before the end of its streams.
        if (last := self._bus.last) is not None:
            last.note_followed()
        self._bus.last = None

    def _unopened(self) -> Iterable[CoreStream]:
        return (*self._opening, *self._offers)

    def _unsent(self) -> Iterable[int]:
        return self._sends


def _handing_over(completion: Callable[..., object], stream: DittoBusStream) -> None:
    try:
        completion(stream, None)
    finally:
        stream._handed_over()


def _given_up() -> StreamReset:
    return StreamReset(0, "given up by this side")
