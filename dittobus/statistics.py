"""Statistics of a bus for peers that ask for them: what ``dittobus top PEER`` shows.

A program has them told by one line, whichever face its bus is of:

>>> bus.on_stream(statistics.STREAM, statistics.answers(bus))

One that accepts streams itself gives those of that name to ``answers(bus)``, too. Whoever is in the mesh may
ask then, and learns with whom the bus converses, and how much; never what is said.

On such a stream each message of who asks, whatever is in it, is answered with one: a JSON object, in which
rates are those since the answer before.
"""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from dittobus import BusError, DittoBus, DittoBusStreamDelegate, UnknownPeer, aio, blocking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dittobus import DittoAddress, DittoBusStream, Peer, Traffic

__all__ = ["STREAM", "Sampler", "answers"]

AnyBus: TypeAlias = aio.Bus | blocking.Bus | DittoBus

STREAM = "dittobus.statistics"
"""The name of streams that ask."""


@overload
def answers(bus: aio.Bus) -> Callable[[aio.Stream, DittoAddress], Awaitable[None]]: ...
@overload
def answers(bus: blocking.Bus) -> Callable[[blocking.Stream, DittoAddress], None]: ...
@overload
def answers(bus: DittoBus) -> Callable[[DittoBusStream, DittoAddress], None]: ...
def answers(bus: AnyBus) -> Any:
    """Return what answers on a stream, until its other side has finished, or has gone."""

    async def answer(stream: aio.Stream, peer: DittoAddress) -> None:
        sampler = Sampler(bus)
        with suppress(BusError):
            async for _ in stream:
                await stream.send(sampler.answer())
            await stream.finish()
            await stream.close()

    def answer_blocking(stream: blocking.Stream, peer: DittoAddress) -> None:
        sampler = Sampler(bus)
        with suppress(BusError):
            for _ in stream:
                stream.send(sampler.answer())
            stream.finish()
            stream.close()

    def answer_by_delegate(stream: DittoBusStream, peer: DittoAddress) -> None:
        stream.delegate = _Answering(Sampler(bus))

    if isinstance(bus, DittoBus):
        return answer_by_delegate
    return answer_blocking if isinstance(bus, blocking.Bus) else answer


class _Answering(DittoBusStreamDelegate):
    """Answers on one stream."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def stream_did_receive_message(self, stream: DittoBusStream, message: bytes) -> None:
        with suppress(BusError):  # such as of who asks more than it reads
            stream.send(self._sampler.answer())

    def stream_did_finish_receiving(self, stream: DittoBusStream) -> None:
        stream.close()


@dataclass(frozen=True, slots=True)
class _Looked:
    """A counter as it was, and when."""

    traffic: Traffic
    at: float


class Sampler:
    """Looks at the counters of a bus now and then, and tells rates."""

    def __init__(self, bus: AnyBus) -> None:
        self._bus = bus
        self._looked: dict[DittoAddress | None, _Looked] = {}

    def answer(self) -> bytes:
        """Return the sample of now, as it is told."""
        return json.dumps(self.sample(monotonic())).encode()

    def sample(self, now: float) -> dict[str, Any]:
        """Return what there is to say, as JSON has it; rates are those since the sample before."""
        peers = sorted(self._bus.peers, key=lambda peer: (peer.name, peer.address))
        looked = dict(self._looked)
        self._looked = {}
        rows = [self._peer(peer, looked, now) for peer in peers]
        stats = self._bus.stats()
        node = {
            "address": str(self._bus.address),
            "name": self._bus.name,
            "links": stats.links,
            "streams": sum(row["streams"] for row in rows),
            **self._rates(None, stats.traffic, looked, now),
            "handshakes_refused": stats.handshakes_refused,
            "dropped": {cause.value: count for cause, count in stats.dropped.items() if count},
        }
        return {"node": node, "peers": rows}

    def _peer(self, peer: Peer, looked: dict[DittoAddress | None, _Looked], now: float) -> dict[str, Any]:
        row = {**peer_object(peer), "streams": 0, "dropped": {}}
        try:
            stats = self._bus.peer_stats(peer)
        except UnknownPeer:  # heard of, but there is no conversation
            return row
        return {
            **row,
            "streams": stats.streams_open,
            "loss": stats.loss,
            "dropped": {cause.value: count for cause, count in stats.dropped.items() if count},
            **self._rates(peer.address, stats.traffic, looked, now),
        }

    def _rates(
        self,
        whose: DittoAddress | None,
        traffic: Traffic,
        looked: dict[DittoAddress | None, _Looked],
        now: float,
    ) -> dict[str, float]:
        before = looked.get(whose, _Looked(traffic, now))
        self._looked[whose] = _Looked(traffic, now)
        elapsed_s = max(now - before.at, 1e-9)

        def rate(count: int, earlier: int) -> float:
            return max(0, count - earlier) / elapsed_s  # a conversation that began anew counts from 0

        return {
            "messages_in_per_s": rate(traffic.messages_received, before.traffic.messages_received),
            "bytes_in_per_s": rate(traffic.bytes_received, before.traffic.bytes_received),
            "messages_out_per_s": rate(traffic.messages_sent, before.traffic.messages_sent),
            "bytes_out_per_s": rate(traffic.bytes_sent, before.traffic.bytes_sent),
            "queued_bytes": traffic.send_queue_bytes + traffic.unconsumed_bytes,
        }


def peer_object(peer: Peer) -> dict[str, Any]:
    """Return what JSON says of a peer."""
    return {
        "address": str(peer.address),
        "name": peer.name,
        "metadata": text_or_base64(peer.metadata),
        "state": peer.state.value,
        "path": {"reliable": peer.path.reliable.value, "datagram": peer.path.datagram.value},
        "rtt_s": peer.rtt_s,
        "jitter_s": peer.jitter_s,
        "loss": peer.loss,
    }


def text_or_base64(data: bytes) -> dict[str, str]:
    """Return bytes as JSON can carry them: as text if they are UTF-8, else in base64."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
