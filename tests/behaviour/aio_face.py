"""The asyncio face, in a loop of its own, as the scenarios know it; the node in that loop, or in a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from brokerless import Reliability
from dittobus import aio, statistics
from tests.behaviour.face import WAIT_S, AnyBus, AnyOffer, AnyStream, Face, Presence, get, then

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from brokerless import Address, Message, NodeStats, Peer, PeerStats, StreamStats, Ticket

T = TypeVar("T")


class Loop:
    """A loop in a thread, and how a scenario reaches it."""

    def __init__(self) -> None:
        self.streams: list[aio.Stream] = []  # which a scenario need not close
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scenario-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def do(self, command: Callable[[], T]) -> Future[T]:
        async def do() -> T:
            return command()

        return self.run(do())

    def close(self) -> None:
        async def end_tasks() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._loop.shutdown_default_executor()

        get(self.run(end_tasks()))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Stream(AnyStream):
    def __init__(self, loop: Loop, stream: aio.Stream) -> None:
        self._loop = loop
        self.stream = stream
        loop.streams.append(stream)

    def send(self, data: Any) -> Future[int]:
        return self._loop.run(self.stream.send(data))

    def receive(self) -> Future[bytes]:
        return self._loop.run(self.stream.receive())

    def acknowledged(self, sequence: int) -> Future[None]:
        return self._loop.run(self.stream.wait_acknowledged(sequence))

    def finish(self) -> Future[None]:
        return self._loop.run(self.stream.finish())

    def close(self, timeout: float | None = 5.0) -> Future[None]:
        return self._loop.run(self.stream.close(timeout))

    def abort(self, code: int = 0, reason: str = "") -> Future[None]:
        return self._loop.do(lambda: self.stream.abort(code, reason))

    def stats(self) -> StreamStats:
        return get(self._loop.do(self.stream.stats))


class Offer(AnyOffer):
    def __init__(self, loop: Loop, offer: aio.Offer) -> None:
        self._loop = loop
        self.offer = offer

    def accept(self, metadata: Any = b"") -> Future[AnyStream]:
        return then(self._loop.run(self.offer.accept(metadata)), lambda stream: Stream(self._loop, stream))

    def reject(self, code: int = 0, reason: str = "") -> Future[None]:
        return self._loop.run(self.offer.reject(code, reason))


class Bus(AnyBus):
    def __init__(self, loop: Loop, name: str, arguments: dict[str, Any]) -> None:
        self._loop = loop
        self.bus: aio.Bus = get(loop.do(lambda: aio.Bus(name, **arguments)))
        get(loop.run(self.bus.start()))
        self._watching: list[Future[None]] = []
        self._messages = get(loop.do(self.bus.messages))
        self._offers = get(loop.do(self.bus.offers))

    @property
    def address(self) -> Address:
        return self.bus.address

    @property
    def peers(self) -> tuple[Peer, ...]:
        return get(self._loop.do(lambda: self.bus.peers))

    def peer(self, address: Address) -> Peer | None:
        return get(self._loop.do(lambda: self.bus.peer(address)))

    def ticket(self) -> Ticket:
        return get(self._loop.do(self.bus.ticket))

    def stats(self) -> NodeStats:
        return get(self._loop.do(self.bus.stats))

    def peer_stats(self, address: Any) -> PeerStats:
        return get(self._loop.do(lambda: self.bus.peer_stats(address)))

    def announce(self, *, name: str | None = None, metadata: Any = None) -> Future[None]:
        def announce() -> None:
            if name is not None:
                self.bus.name = name
            if metadata is not None:
                self.bus.metadata = metadata

        return self._loop.do(announce)

    def wait_for_peer(self, target: Any, timeout: float | None = WAIT_S) -> Future[Peer]:
        return self._loop.run(self.bus.wait_for_peer(target, timeout))

    def wait_for_peers(self, count: int, timeout: float | None = WAIT_S) -> Future[tuple[Peer, ...]]:
        return self._loop.run(self.bus.wait_for_peers(count, timeout))

    def presence(self) -> Presence:
        presence = Presence()
        changes = get(self._loop.do(self.bus.peer_changes))

        async def watch() -> None:
            async for change in changes:
                presence.put(change)

        self._watching.append(self._loop.run(watch()))  # a task that nobody keeps may be collected
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
        return self._loop.run(self.bus.send(data, to, reliability, channel=channel, timeout=timeout))

    def take_message(self) -> Future[Message]:
        return self._loop.run(_next(self._messages))

    def open(
        self,
        to: Any,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        name: Any = "",
        metadata: Any = b"",
        timeout: float | None = 10.0,
    ) -> Future[AnyStream]:
        opening = self.bus.open_stream(to, reliability, name=name, metadata=metadata, timeout=timeout)
        return then(self._loop.run(opening), lambda stream: Stream(self._loop, stream))

    def take_offer(self) -> Future[AnyOffer]:
        return then(self._loop.run(_next(self._offers)), lambda offer: Offer(self._loop, offer))

    def bind(self, name: str, take: Callable[[AnyStream, Address], None]) -> Future[None]:
        def handle(stream: aio.Stream, peer: Address) -> None:
            take(Stream(self._loop, stream), peer)

        return self._loop.do(lambda: self.bus.on_stream(name, handle))

    def tell_statistics(self) -> Future[None]:
        return self._loop.do(lambda: self.bus.on_stream(statistics.STREAM, statistics.answers(self.bus)))

    def close(self, timeout: float | None = 5.0) -> Future[bool]:
        return self._loop.run(self.bus.close(timeout))


async def _next(iterator: Any) -> Any:
    try:
        return await anext(iterator)
    except StopAsyncIteration:
        raise EOFError("the bus is closed") from None


class AioFace(Face):
    io_thread = False

    def __init__(self) -> None:
        self._loop = Loop()
        self._buses: list[Bus] = []

    def bus(self, name: str = "", **arguments: Any) -> Bus:
        bus = Bus(self._loop, name, {**arguments, "io_thread": self.io_thread})
        self._buses.append(bus)
        return bus

    def close(self) -> None:
        for bus in self._buses:
            get(bus.close(timeout=0))
        self._loop.close()


class ThreadedAioFace(AioFace):
    io_thread = True
