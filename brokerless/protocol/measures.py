"""How well datagrams travel one way: the share that is lost, and how unevenly the others come."""

from __future__ import annotations

from collections import deque

from brokerless.protocol.datagram import STAMP_MODULUS

WINDOW_S = 10.0
"""Loss is that of the last so many seconds: long enough for a share of something, short enough to be news."""

SAMPLE_INTERVAL_S = 0.5
"""Counts closer together than this are not both remembered, so a window has 20 of them, whatever the rate."""

JITTER_GAIN = 1 / 16
"""Weight of the latest difference (RFC 3550, section 6.4.1): a good ratio of noise to speed."""


class Reception:
    """What arrives of one direction of one session.

    Queries: ``loss``, ``jitter_s``, ``delay_s``. Inputs: ``counted``, ``arrived``.
    """

    def __init__(self) -> None:
        self.loss: float | None = None
        """Share lost of the datagrams of the last 10 s in which any were sent, 0 to 1; None: not known."""
        self._counts: deque[tuple[float, int, int]] = deque()
        self._before = (0, 0)
        self._transit_us: int | None = None
        self._jitter_us: float | None = None

    @property
    def jitter_s(self) -> float | None:
        """Mean deviation of the time between arrivals from the time between sendings, in seconds."""
        return None if self._jitter_us is None else self._jitter_us / 1e6

    def delay_s(self, stamp: int, now: float) -> float:
        """Return how much longer one with that stamp was under way than the last; 0 if there was none."""
        if self._transit_us is None:
            return 0.0
        behind_us = (round(now * 1e6) - stamp - self._transit_us) % STAMP_MODULUS
        return (behind_us if behind_us < STAMP_MODULUS // 2 else behind_us - STAMP_MODULUS) / 1e6

    def counted(self, received: int, highest: int, now: float) -> None:
        """Of ``highest`` datagrams sent since the session began, ``received`` have come.

        Where the receiver tells the sender, that travels by two ways: what is older than what is known is
        ignored.
        """
        counts = self._counts
        known_received, known_highest = counts[-1][1:] if counts else self._before
        if received < known_received or highest < known_highest:
            return
        if len(counts) > 1 and now < counts[-2][0] + SAMPLE_INTERVAL_S:
            counts.pop()
        counts.append((now, received, highest))
        while counts[0][0] < now - WINDOW_S:
            self._before = counts.popleft()[1:]
        sent = highest - self._before[1]
        if sent > 0:
            # What was under way when counting began may come since: then more arrive than were sent.
            self.loss = min(max(0.0, 1 - (received - self._before[0]) / sent), 1.0)

    def arrived(self, stamp: int, now: float) -> None:
        """A datagram came that its sender stamped ``stamp``; the clocks need not agree, only go equally."""
        transit_us = (round(now * 1e6) - stamp) % STAMP_MODULUS
        if self._transit_us is not None:
            forward = (transit_us - self._transit_us) % STAMP_MODULUS
            difference = min(forward, STAMP_MODULUS - forward)
            jitter = self._jitter_us or 0.0
            self._jitter_us = jitter + (difference - jitter) * JITTER_GAIN
        self._transit_us = transit_us
