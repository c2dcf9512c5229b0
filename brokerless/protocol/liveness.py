"""Is the peer there, and does it hear us? Decided by conversation alone.

What counts is *proof*: a sign that the peer heard something we sent: an answer to our ping, an
acknowledgement that advances, a link that was agreed (it has our greeting), or a ping with the token after
the last one (the peer moves on by one only when it has our answer). Anything else it sends proves one
direction only, and a one-way path is a loss on both sides.

All shares are of the liveness limit, so a shorter limit keeps the proportions: 5 s gives pings after 1 s when
something is open or waiting, 2 s when idle, suspicion at 2.5 s.
"""

from __future__ import annotations

import enum

PING_ACTIVE_SHARE = 0.2
PING_IDLE_SHARE = 0.4
"""After this share of the limit without proof the lower address pings; the answer proves the path to both."""

TICK_SHARE = 0.5
"""Pings of one node to all its peers go out together, at ticks that are this share of their interval apart;
each is at most so much too early. To wake for each of 49 peers by itself took twice the CPU time."""

PING_LATER_SHARE = 0.08
"""The higher address waits this much longer, once the other's pings have come to prove that it is heard (the
first one cannot): it only pings when they no longer do."""

PING_SUSPECT_SHARE = 0.1
"""How often a suspect is pinged."""

SUSPECT_SHARE = 0.5
"""A peer is suspect after this share of the limit without proof."""

STALL_SHARE = 0.5
"""A session that nobody looked at for this share of the limit was not left alone for lack of work: there is a
ping to send before. This process stood still. A shorter pause costs no peer that was well until then."""


class Verdict(enum.Enum):
    """What the passing of time says about the peer."""

    QUIET = "nothing to do"
    PING = "ask for a sign of life"
    LOST = "no proof for the whole limit"


class Liveness:
    """The liveness of one session; ``active`` (streams open, sends waiting) is set by its owner.

    Queries: ``is_suspect``, ``is_confirming``, ``is_asking``, ``unproven_s``, ``next_deadline``.
    Inputs: ``looked``, ``asked``, ``pinged``, ``ponged``, ``progressed``, ``expire``, ``stalled``.
    Outputs: ``ping_token``.
    """

    def __init__(self, *, limit_s: float, eager: bool, now: float, phase: float = 0.0) -> None:
        """``eager``: ours is the lower address, so we ping first.

        ``phase``: where between the ticks of the clock those of this node are, from 0 to 1. It is the same
        for all its sessions, and another for other nodes, so that those of one host do not all wake at once.
        """
        self.limit_s = limit_s
        self.active = False
        self.is_suspect = False
        self.is_confirming = False
        """After a stall of our own: nothing proves the peer but the answer to a ping sent since."""
        self.ping_token = 1
        """Token of our next ping; moves on when it has been answered."""
        self._later_share = 0.0 if eager else PING_LATER_SHARE
        self._phase = phase
        self._proven_at = self._looked_at = now
        self._pinged_at: float | None = None  # our last ping, while nothing has been proven since
        self._asked_at: float | None = None  # when the present token was sent first
        self._asked_again = False  # it was sent since: of which the answer is, cannot be told (Karn)
        self._their_token = 0
        self._their_pings_prove = False

    @property
    def is_asking(self) -> bool:
        """True when nothing has been proven since our last ping."""
        return self._pinged_at is not None

    def unproven_s(self, now: float) -> float:
        """Return how long ago the peer last proved that it hears us."""
        return now - self._proven_at

    def next_deadline(self) -> float:
        """Return when ``expire`` wants to be called."""
        return min(self._ping_at(), self._proven_at + self.limit_s)

    def _ping_at(self) -> float:
        if self.is_confirming or self.is_suspect:
            if self._pinged_at is None:
                return self._proven_at
            return self._pinged_at + PING_SUSPECT_SHARE * self.limit_s
        interval_s = (PING_ACTIVE_SHARE if self.active else PING_IDLE_SHARE) * self.limit_s
        ping_at = self._proven_at + interval_s
        if self._their_pings_prove and self._later_share:
            ping_at += self._later_share * self.limit_s
        else:
            tick_s = TICK_SHARE * interval_s
            ping_at -= (ping_at - self._phase * tick_s) % tick_s
        if self._pinged_at is not None and self._pinged_at >= ping_at:  # asked already: next comes suspicion
            return self._proven_at + SUSPECT_SHARE * self.limit_s
        return ping_at

    def looked(self, now: float) -> None:
        """A packet has come, or ``expire`` is called: if nothing did for long, what comes may be old."""
        gap_s, self._looked_at = now - self._looked_at, now
        if gap_s > STALL_SHARE * self.limit_s and not self.is_confirming:
            self._confirm()

    def _confirm(self) -> None:
        self.ping_token += 2  # an answer to the ping before may still lie in a socket; by two: it is no proof
        self.is_confirming = True
        self._pinged_at = self._asked_at = None

    def pinged(self, token: int, now: float) -> None:
        """The peer's ping came; it is to be answered with the same token."""
        if token > self._their_token:
            answered = 0 < self._their_token == token - 1  # it skips some after a stall
            self._their_token = token
            if answered:
                self._their_pings_prove = True
                self.progressed(now)

    def ponged(self, token: int, now: float) -> float | None:
        """The peer answered the ping with that token; return the round trip in seconds if it was ours."""
        if token != self.ping_token or self._asked_at is None:
            return None
        elapsed = None if self._asked_again else now - self._asked_at
        self.ping_token += 1
        self._asked_at = None
        self.is_confirming = False
        self.progressed(now)
        return elapsed

    def progressed(self, now: float) -> None:
        """The peer proved that it hears us."""
        if not self.is_confirming:
            self._proven_at = now
            self._pinged_at = None
            self.is_suspect = False

    def expire(self, now: float) -> Verdict:
        """Say what time has come for. On ``PING`` the caller sends one with ``ping_token``."""
        self.looked(now)
        if now >= self._proven_at + self.limit_s:
            return Verdict.LOST
        if now < self._ping_at():
            return Verdict.QUIET
        if now >= self._proven_at + SUSPECT_SHARE * self.limit_s:
            self.is_suspect = True
        self.asked(now)
        return Verdict.PING

    def asked(self, now: float) -> None:
        """A ping is being sent, with ``ping_token``."""
        self._pinged_at = now
        self._asked_again = self._asked_at is not None
        if self._asked_at is None:
            self._asked_at = now

    def stalled(self, now: float) -> None:
        """This process itself stood still: declare nobody lost, and believe nothing that is older."""
        self._confirm()
        self._proven_at = now
