"""The delegate face, as the scenarios know it."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from brokerless import EndOfStream, Reliability
from dittobus import DispatchQueue, DittoBus, DittoBusDelegate, DittoBusStreamDelegate, statistics
from tests.behaviour.face import (
    WAIT_S,
    AnyBus,
    AnyOffer,
    AnyStream,
    Face,
    Presence,
    attempt,
    done,
    get,
    in_thread,
    then,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless import Address, BusError, Message, NodeStats, Peer, PeerStats, StreamStats, Ticket
    from dittobus import DittoBusStream, DittoBusStreamOffer
    from dittobus.peers import Peers

T = TypeVar("T")


class Inbox(Generic[T]):
    """What callbacks bring, until somebody asks for it."""

    def __init__(self) -> None:
        self.taken = 0
        self._changed = threading.Condition()
        self._things: deque[T] = deque()
        self._takers: deque[Future[T]] = deque()
        self._end: BaseException | None = None
        self._discarding = False

    def put(self, thing: T) -> None:
        """Called back: keep it for a taker."""
        with self._changed:
            self._things.append(thing)
            self._match()

    def hand_over(self, thing: T) -> None:
        """Called back: do not return, which says that the thing is consumed, before somebody took it."""
        with self._changed:
            self._things.append(thing)
            self._match()
            self._changed.wait_for(lambda: not self._things or self._discarding)

    def take(self) -> Future[T]:
        """Ask for the next thing."""
        taker: Future[T] = Future()
        with self._changed:
            self._takers.append(taker)
            self._match()
        return taker

    def end(self, error: BaseException) -> None:
        """Called back: nothing comes after this, unless that was said before."""
        with self._changed:
            self._end = self._end or error
            self._match()

    def discard(self) -> None:
        """Let callbacks return whether or not anybody asks."""
        with self._changed:
            self._discarding = True
            self._changed.notify_all()

    def _match(self) -> None:
        while self._takers and (self._things or self._end is not None):
            if self._things:
                self.taken += 1
                self._takers.popleft().set_result(self._things.popleft())
                self._changed.notify_all()
            else:
                self._takers.popleft().set_exception(self._end)


class Stream(AnyStream, DittoBusStreamDelegate):
    """A stream with a queue of its own, so that only its own messages wait for those not taken."""

    def __init__(self, stream: DittoBusStream) -> None:
        self.stream = stream
        self.queue = DispatchQueue.serial()
        self.messages: Inbox[bytes] = Inbox()
        self._closed: Future[None] = Future()
        self._receipt = 0
        self._receipts: list[tuple[int, Future[None]]] = []
        self._lock = threading.Lock()
        stream.delegate_event_queue = self.queue
        stream.delegate = self

    def stream_did_receive_message(self, stream: DittoBusStream, message: bytes) -> None:
        self.messages.hand_over(message)

    def stream_did_finish_receiving(self, stream: DittoBusStream) -> None:
        self.messages.end(EndOfStream("the other side has finished"))

    def stream_did_acknowledge_receipt(self, stream: DittoBusStream, message_sequence: int) -> None:
        with self._lock:
            assert message_sequence > self._receipt
            self._receipt = message_sequence
            self._tell_receipts()

    def stream_did_close(self, stream: DittoBusStream, error: BusError | None) -> None:
        self.messages.end(error or EndOfStream("the stream is closed"))
        if error is None:
            self._closed.set_result(None)
        else:
            self._closed.set_exception(error)

    def _tell_receipts(self) -> None:
        for sequence, outcome in self._receipts:
            if sequence <= self._receipt and not outcome.done():
                outcome.set_result(None)

    def send(self, data: Any) -> Future[int]:
        return attempt(lambda: self.stream.send(data))

    def receive(self) -> Future[bytes]:
        return self.messages.take()

    def acknowledged(self, sequence: int) -> Future[None]:
        outcome: Future[None] = Future()
        with self._lock:
            self._receipts.append((sequence, outcome))
            self._tell_receipts()
        return outcome

    def finish(self) -> Future[None]:
        return done(self.stream.finish)

    def close(self, timeout: float | None = 5.0) -> Future[None]:
        until(lambda: self.stream._consumed == self.messages.taken)  # the callbacks have returned
        outcome = done(lambda: self.stream.close(timeout))
        if outcome.exception() is not None:
            return outcome
        self._discard()
        return self._closed

    def abort(self, code: int = 0, reason: str = "") -> Future[None]:
        outcome = done(lambda: self.stream.abort(code, reason))
        if outcome.exception() is None:
            self._discard()
        return outcome

    def _discard(self) -> None:
        self.stream.stats()  # the I/O thread has seen to the command: what is not taken now, is not consumed
        self.messages.discard()

    def stats(self) -> StreamStats:
        return self.stream.stats()


class Offer(AnyOffer):
    def __init__(self, bus: Bus, offer: DittoBusStreamOffer) -> None:
        self._bus = bus
        self.offer = offer

    def accept(self, metadata: Any = b"") -> Future[AnyStream]:
        key, incoming = (self.offer.peer, self.offer.name), Future[AnyStream]()
        self._bus.accepted.setdefault(key, deque()).append(incoming)
        error = done(lambda: self.offer.accept(metadata)).exception()
        if error is not None:
            self._bus.accepted[key].remove(incoming)
            incoming.set_exception(error)
        return incoming

    def reject(self, code: int = 0, reason: str = "") -> Future[None]:
        return done(lambda: self.offer.reject(code, reason))


class Bus(AnyBus, DittoBusDelegate):
    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.accepted: dict[tuple[Address, str], deque[Future[AnyStream]]] = {}
        self.streams: list[Stream] = []
        self._messages: Inbox[Message] = Inbox()
        self._offers: Inbox[AnyOffer] = Inbox()
        self._presence: list[Presence] = []
        self.bus = DittoBus(name, delegate=self, **arguments)
        self.bus.start()

    def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
        self._messages.hand_over(message)

    def bus_did_receive_stream_offer(self, bus: DittoBus, offer: DittoBusStreamOffer) -> None:
        self._offers.put(Offer(self, offer))

    def bus_did_receive_incoming_stream(self, bus: DittoBus, stream: DittoBusStream, peer: Address) -> None:
        assert peer == stream.peer
        self.accepted[peer, stream.name].popleft().set_result(self._adapt(stream))

    def bus_did_update_peers(self, bus: DittoBus, peers: Peers) -> None:
        for presence in self._presence:
            presence.replace(peers, peers.lost)

    def _adapt(self, stream: DittoBusStream) -> Stream:
        adapted = Stream(stream)
        self.streams.append(adapted)
        return adapted

    @property
    def address(self) -> Address:
        return self.bus.address

    @property
    def peers(self) -> tuple[Peer, ...]:
        return self.bus.peers

    def peer(self, address: Address) -> Peer | None:
        return self.bus.peer(address)

    def ticket(self) -> Ticket:
        return self.bus.ticket()

    def stats(self) -> NodeStats:
        return self.bus.stats()

    def peer_stats(self, address: Any) -> PeerStats:
        return self.bus.peer_stats(address)

    def announce(self, *, name: str | None = None, metadata: Any = None) -> Future[None]:
        def announce() -> None:
            if name is not None:
                self.bus.name = name
            if metadata is not None:
                self.bus.metadata = metadata

        return done(announce)

    def wait_for_peer(self, target: Any, timeout: float | None = WAIT_S) -> Future[Peer]:
        return attempt(lambda: self.bus.wait_for_peer(target, timeout))

    def wait_for_peers(self, count: int, timeout: float | None = WAIT_S) -> Future[tuple[Peer, ...]]:
        return attempt(lambda: self.bus.wait_for_peers(count, timeout))

    def presence(self) -> Presence:
        presence = Presence()
        self._presence.append(presence)
        self.bus.delegate = self  # who becomes the delegate is told at once who is there
        return presence

    def send(
        self,
        data: Any,
        to: Any,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        channel: int = 0,
        timeout: float | None = 10.0,
    ) -> Future[None]:
        return attempt(lambda: self.bus.send(data, to, reliability, channel=channel, timeout=timeout))

    def take_message(self) -> Future[Message]:
        return self._messages.take()

    def open(
        self,
        to: Any,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        name: Any = "",
        metadata: Any = b"",
        timeout: float | None = 10.0,
    ) -> Future[AnyStream]:
        opening = attempt(
            lambda: self.bus.open_stream(to, reliability, name=name, metadata=metadata, timeout=timeout)
        )
        return then(opening, self._adapt)

    def take_offer(self) -> Future[AnyOffer]:
        return self._offers.take()

    def bind(self, name: str, take: Callable[[AnyStream, Address], None]) -> Future[None]:
        return done(lambda: self.bus.on_stream(name, lambda stream, peer: take(self._adapt(stream), peer)))

    def tell_statistics(self) -> Future[None]:
        return done(lambda: self.bus.on_stream(statistics.STREAM, statistics.answers(self.bus)))

    def close(self, timeout: float | None = 5.0) -> Future[bool]:
        closed = in_thread(lambda: self.bus.close(timeout))
        for inbox in (self._messages, self._offers, *(stream.messages for stream in self.streams)):
            inbox.discard()
        closed.add_done_callback(lambda _: self._messages.end(EOFError("the bus is closed")))
        return closed


class DelegateFace(Face):
    def __init__(self) -> None:
        self._buses: list[Bus] = []

    def bus(self, name: str = "", **arguments: Any) -> Bus:
        bus = Bus(name, arguments)
        self._buses.append(bus)
        return bus

    def close(self) -> None:
        for bus in self._buses:
            get(bus.close(timeout=0))
            for stream in bus.streams:
                stream.queue.close()
