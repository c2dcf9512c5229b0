"""What is under way: packets sent and not acknowledged, the round trip, and how much may be in flight."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from brokerless.errors import RemoteProtocolError

IN_FLIGHT_BYTES_MIN = 160 * 1024
"""Always allowed in flight: three packets of 64 KiB, one being written, one under way, one being
acknowledged. What is in flight cannot be overtaken; but with two of them small messages were no quicker
between two processes on 2 cores, and bulk beside them made 101 MB/s instead of 118."""

IN_FLIGHT_ROUND_TRIPS = 2.0
"""Times the bandwidth-delay product: one fills the path, the second covers acknowledgements that come in
bursts (BBR, Cardwell et al. 2016, uses the same gain)."""

SHARED_ROUND_TRIPS = 1.25
"""The same while several streams send: what is in flight cannot be overtaken, so it is little more than fills
the path. Between two processes on 2 cores, with 128 KiB in flight 64 MiB messages made 108 MB/s and round
trips of 16 bytes beside them 0.8 ms in the median; 140 and 1.0 with 192 KiB, 152 and 1.3 with 256, 171 and
2.7 with 512. With a gain of 1, what a late acknowledgement takes from the rate would be lost for good."""

BEST_LIFETIME_S = 10.0
"""How long the smallest round trip and the largest rate seen are believed, as in BBR."""

NEARLY = 0.9
"""A round trip counts as the smallest again if its inverse is this share of the best: no two are equal."""


class RoundTrip:
    """Smoothed round-trip time and its mean deviation (RFC 6298), in seconds; None until measured."""

    __slots__ = ("jitter_s", "rtt_s")

    def __init__(self) -> None:
        self.rtt_s: float | None = None
        self.jitter_s: float | None = None

    def sample(self, seconds: float) -> None:
        """Take one measurement in."""
        if self.rtt_s is None or self.jitter_s is None:
            self.rtt_s, self.jitter_s = seconds, seconds / 2
        else:
            self.jitter_s += (abs(self.rtt_s - seconds) - self.jitter_s) / 4
            self.rtt_s += (seconds - self.rtt_s) / 8


class Best:
    """The best value seen lately: the larger of the best of this period and of the one before."""

    __slots__ = ("_last", "_since", "_this")

    def __init__(self, now: float) -> None:
        self._this = self._last = 0.0
        self._since = now

    def sample(self, value: float, now: float) -> None:
        """Take one measurement in."""
        age_s = now - self._since
        if age_s > BEST_LIFETIME_S:
            self._last = (
                self._this if age_s <= 2 * BEST_LIFETIME_S else 0.0
            )  # long idle: that was another path
            self._this, self._since = value, now
        elif value > self._this:
            self._this = value

    @property
    def value(self) -> float:
        """The best of one to two lifetimes; 0 until measured."""
        return max(self._this, self._last)


class Receipt(NamedTuple):
    """What the acknowledgement of a packet tells: messages of ``stream_id`` up to ``sequence`` arrived."""

    stream_id: int
    sequence: int


class _Retained(NamedTuple):
    packet: bytes
    receipts: tuple[Receipt, ...]
    sent_at: float
    # Of the whole flight when this one was sent, for the delivery rate:
    acknowledged_bytes: int
    acknowledged_at: float
    acknowledged_sent_at: float


class Flight:
    """Numbered packets from the first sending to their acknowledgement.

    Queries: ``sent``, ``acknowledged``, ``byte_count``, ``is_full``, ``is_overfull``, ``packet``.
    Inputs: ``acknowledge``. Commands: ``add``, ``interrupted``.
    """

    def __init__(self, bytes_max: int, now: float) -> None:
        self.sent = 0
        """Highest number given to a packet; the first is 1."""
        self.acknowledged = 0
        """Highest number that the peer has acknowledged."""
        self.byte_count = 0
        self.progress_at = now
        """When an acknowledgement last advanced, or waiting for one began."""
        self.is_shared = False
        """Set by whoever sends: several streams do, so that each waits behind the others' packets."""
        self.round_trip = RoundTrip()
        self._bytes_max = bytes_max
        self._bytes_min = min(IN_FLIGHT_BYTES_MIN, bytes_max)  # of the limit, whatever was measured
        self._retained: deque[_Retained] = deque()
        self._acknowledged_bytes = 0
        self._acknowledged_at = now  # when, and when that packet was sent; or when the flight began
        self._acknowledged_sent_at = now
        self._rate = Best(now)
        self._steady_rate = Best(now)  # not raised by acknowledgements that come in bursts
        self._quickness = Best(now)  # of 1 / round trip: its best is the smallest round trip
        self._quick_at = now  # when a round trip was the smallest, or nearly, or was to be found anew
        self._draining = False
        self._drained_from: int | None = None  # the first packet sent when little was in flight
        self._measure_from = 1  # packets below this may have been sent twice: no measurement (Karn)

    @property
    def limit(self) -> int:
        """How many bytes may be in flight now."""
        if self._draining:
            return self._bytes_min
        quickness = self._quickness.value
        if self.is_shared:
            rate = SHARED_ROUND_TRIPS * self._steady_rate.value
        else:
            rate = IN_FLIGHT_ROUND_TRIPS * self._rate.value
        wanted = int(rate / quickness) if quickness else 0
        return min(max(IN_FLIGHT_BYTES_MIN, wanted), self._bytes_max)

    @property
    def is_full(self) -> bool:
        """True when nothing more should be sent before an acknowledgement."""
        return self.byte_count >= self._bytes_min and self.byte_count >= self.limit

    @property
    def is_overfull(self) -> bool:
        """True when nothing at all should be sent before an acknowledgement."""
        return self.byte_count >= 2 * self._bytes_max

    def packet(self, number: int) -> bytes:
        """Return the unacknowledged packet of that number, to send it again."""
        return self._retained[number - self.acknowledged - 1].packet

    def add(self, packet: bytes, receipts: tuple[Receipt, ...], now: float) -> None:
        """Retain the packet numbered ``sent + 1``, which is being sent."""
        if not self._retained:
            self.progress_at = self._acknowledged_at = self._acknowledged_sent_at = now
        self.sent += 1
        if self._draining and self._drained_from is None and self.byte_count < self._bytes_min:
            self._drained_from = self.sent
        self.byte_count += len(packet)
        self._retained.append(
            _Retained(
                packet,
                receipts,
                now,
                self._acknowledged_bytes,
                self._acknowledged_at,
                self._acknowledged_sent_at,
            )
        )

    def interrupted(self, now: float) -> None:
        """What is in flight may be sent again, on another link: measure nothing by it."""
        self._measure_from = self.sent + 1
        self.progress_at = now

    def acknowledge(self, number: int, now: float) -> list[Receipt]:
        """Forget packets up to ``number``; return their receipts.

        Older acknowledgements do no harm. Raises ``RemoteProtocolError`` for one of what was never sent.
        """
        if number > self.sent:
            raise RemoteProtocolError(f"acknowledged packet {number}; the last one sent was {self.sent}")
        receipts: list[Receipt] = []
        if number <= self.acknowledged:
            return receipts
        while self.acknowledged < number:
            self.acknowledged += 1
            retained = self._retained.popleft()
            self.byte_count -= len(retained.packet)
            self._acknowledged_bytes += len(retained.packet)
            receipts.extend(retained.receipts)
        self.progress_at = self._acknowledged_at = now
        self._acknowledged_sent_at = retained.sent_at
        if number >= self._measure_from:
            self._measure(retained, now)
        self._drain(now)
        return receipts

    def _drain(self, now: float) -> None:
        """Once in a while, let queues run dry for a round trip, to see how long one takes without them.

        What is in flight beyond the path's own product waits in queues and makes every round trip longer.
        Were the longer one believed when the smallest has been forgotten, twice as much would be in flight,
        and so on. So it is looked for as in BBR (PROBE_RTT); at 100 MB/s and 50 ms it costs 1 % of the rate.
        """
        if self._draining:
            if self._drained_from is not None and self.acknowledged >= self._drained_from:
                self._draining, self._drained_from, self._quick_at = False, None, now
        elif now - self._quick_at > BEST_LIFETIME_S and self.byte_count > self._bytes_min:
            self._draining = True

    def _measure(self, retained: _Retained, now: float) -> None:
        elapsed = now - retained.sent_at
        if elapsed > 0:
            self.round_trip.sample(elapsed)
            self._quickness.sample(1 / elapsed, now)
            if 1 / elapsed >= NEARLY * self._quickness.value:
                self._quick_at = now
            # Acknowledgements come in bursts. Over the round trip alone, what arrived before this packet was
            # sent counts as arrived since: a multiple of the rate, so queues are kept full. Whom nobody waits
            # behind, that serves well: held to the steady rate, a stream of small messages lost a third.
            byte_count = self._acknowledged_bytes - retained.acknowledged_bytes
            self._rate.sample(byte_count / elapsed, now)
            delivering = now - retained.acknowledged_at
            sending = retained.sent_at - retained.acknowledged_sent_at
            self._steady_rate.sample(byte_count / max(delivering, sending), now)
