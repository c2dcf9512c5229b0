"""What a bus' counters say of the time since they were last looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dittobus import UnknownPeer
from dittobus.cli.output import peer_object

if TYPE_CHECKING:
    from dittobus import DittoAddress, Peer, Traffic
    from dittobus.aio import Bus


@dataclass(frozen=True, slots=True)
class _Looked:
    """A counter as it was, and when."""

    traffic: Traffic
    at: float


class Sampler:
    """Looks at the counters of a bus now and then, and tells rates."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._looked: dict[DittoAddress | None, _Looked] = {}

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
