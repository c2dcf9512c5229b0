"""What may happen to a datagram on its way, drawn from a seed. No sockets here: a simulation may use it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from brokerless.errors import ConfigError
from brokerless.testing.chaos_proxy import check_seconds


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How one direction is disturbed; by default not at all. Shares are of the datagrams, 0 to 1."""

    loss: float = 0.0
    """Share that is lost."""
    reordering: float = 0.0
    """Share that is held back until a later datagram of the same client has overtaken it."""
    duplication: float = 0.0
    """Share that is delivered twice."""
    latency_s: float = 0.0
    """What each takes at least."""
    jitter_s: float = 0.0
    """By how much more it may take, evenly spread, each copy for itself: may change the order, too."""
    held_s_max: float = 0.05
    """What is held back goes on by itself after so long, so that whoever waits for an answer gets one."""
    swallow: bool = False
    """Everything vanishes, as behind a firewall. What was under way already is not touched."""

    def __post_init__(self) -> None:
        for name in ("loss", "reordering", "duplication"):
            share = getattr(self, name)
            if not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ConfigError(f"{name}: expected a share from 0 to 1, got {share!r:.80}")
        for name in ("latency_s", "jitter_s", "held_s_max"):
            check_seconds(name, getattr(self, name))


class Fate(NamedTuple):
    """What happens to one datagram, unless everything is swallowed."""

    is_lost: bool
    is_held: bool
    delays_s: tuple[float, ...]
    """Of each copy; one is the rule."""


class Fates:
    """The fates of the datagrams that one client sends or gets, one after the other.

    Each takes as many random numbers as any other. So what becomes of the n-th depends on the seed, on n and
    on how things are disturbed then: not on what was set before, nor on other clients.
    """

    def __init__(self, seed: int, way: str, client: int) -> None:
        self._random = Random(f"{seed} {way} {client}").random

    def next(self, disturbance: Disturbance) -> Fate:
        """Draw the next one."""
        loss, reordering, duplication, *jitters = (self._random() for _ in range(5))
        copies = 2 if duplication < disturbance.duplication else 1
        delays_s = (disturbance.latency_s + disturbance.jitter_s * jitter for jitter in jitters[:copies])
        return Fate(loss < disturbance.loss, reordering < disturbance.reordering, tuple(delays_s))
