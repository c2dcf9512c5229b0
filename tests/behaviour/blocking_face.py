"""The blocking face, with threads that wait, as the scenarios know it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from brokerless import Reliability
from dittobus import blocking, statistics
from tests.behaviour.face import (
    WAIT_S,
    AnyBus,
    AnyOffer,
    AnyStream,
    Face,
    Presence,
    done,
    get,
    in_thread,
    then,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from brokerless import Address, Message, NodeStats, Peer, PeerStats, StreamStats, Ticket


class Stream(AnyStream):
    """A stream with a thread that sends, so that what is sent is sent in order, and one that receives."""

    def __init__(self, bus: Bus, stream: blocking.Stream) -> None:
        self.stream = stream
        self._sender, self._receiver = bus.worker(), bus.worker()
        bus.streams.append(self)

    def send(self, data: Any) -> Future[int]:
        return self._sender.submit(self.stream.send, data)

    def receive(self) -> Future[bytes]:
        return self._receiver.submit(self.stream.receive)

    def acknowledged(self, sequence: int) -> Future[None]:
        return in_thread(lambda: self.stream.wait_acknowledged(sequence))

    def finish(self) -> Future[None]:
        return done(self.stream.finish)

    def close(self, timeout: float | None = 5.0) -> Future[None]:
        closing = in_thread(lambda: self.stream.close(timeout))
        until(lambda: self.stream._watchers or closing.done())  # the thread has got so far that it waits
        return closing

    def abort(self, code: int = 0, reason: str = "") -> Future[None]:
        return done(lambda: self.stream.abort(code, reason))

    def stats(self) -> StreamStats:
        return self.stream.stats()


class Offer(AnyOffer):
    def __init__(self, bus: Bus, offer: blocking.Offer) -> None:
        self._bus = bus
        self.offer = offer

    def accept(self, metadata: Any = b"") -> Future[AnyStream]:
        return in_thread(lambda: Stream(self._bus, self.offer.accept(metadata)))

    def reject(self, code: int = 0, reason: str = "") -> Future[None]:
        return done(lambda: self.offer.reject(code, reason))


class Bus(AnyBus):
    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.streams: list[Stream] = []  # which a scenario need not close
        self._workers: list[ThreadPoolExecutor] = []
        self._sender, self._taker, self._offers_taker = self.worker(), self.worker(), self.worker()
        self.bus = blocking.Bus(name, **arguments)
        self.bus.start()

    def worker(self) -> ThreadPoolExecutor:
        """A thread that does one thing after the other."""
        self._workers.append(ThreadPoolExecutor(1))
        return self._workers[-1]

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
        return in_thread(lambda: self.bus.wait_for_peer(target, timeout))

    def wait_for_peers(self, count: int, timeout: float | None = WAIT_S) -> Future[tuple[Peer, ...]]:
        return in_thread(lambda: self.bus.wait_for_peers(count, timeout))

    def presence(self) -> Presence:
        presence = Presence()
        changes = self.bus.peer_changes()

        def watch() -> None:
            for change in changes:
                presence.put(change)

        in_thread(watch)
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
        return self._sender.submit(self.bus.send, data, to, reliability, channel=channel, timeout=timeout)

    def take_message(self) -> Future[Message]:
        return self._taker.submit(self.bus.receive_message)

    def open(
        self,
        to: Any,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        name: Any = "",
        metadata: Any = b"",
        timeout: float | None = 10.0,
    ) -> Future[AnyStream]:
        def open_stream() -> AnyStream:
            return Stream(
                self,
                self.bus.open_stream(to, reliability, name=name, metadata=metadata, timeout=timeout),
            )

        return in_thread(open_stream)

    def take_offer(self) -> Future[AnyOffer]:
        taking = self._offers_taker.submit(self.bus.receive_offer)
        return then(taking, lambda offer: Offer(self, offer))

    def bind(self, name: str, take: Callable[[AnyStream, Address], None]) -> Future[None]:
        return done(lambda: self.bus.on_stream(name, lambda stream, peer: take(Stream(self, stream), peer)))

    def tell_statistics(self) -> Future[None]:
        return done(lambda: self.bus.on_stream(statistics.STREAM, statistics.answers(self.bus)))

    def close(self, timeout: float | None = 5.0) -> Future[bool]:
        return in_thread(lambda: self.bus.close(timeout))

    def end(self) -> None:
        """Close it, if it is not, and let the threads go, for which nothing is left to wait."""
        get(self.close(timeout=0))
        for worker in self._workers:
            worker.shutdown()


class BlockingFace(Face):
    def __init__(self) -> None:
        self._buses: list[Bus] = []

    def bus(self, name: str = "", **arguments: Any) -> Bus:
        bus = Bus(name, arguments)
        self._buses.append(bus)
        return bus

    def close(self) -> None:
        for bus in self._buses:
            bus.end()
