"""What may happen to bytes and datagrams on their way, drawn from a seed. No sockets here, and no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from brokerless.errors import ConfigError

SEGMENT_BYTES = 1460
"""What TCP puts into a packet on an Ethernet; the unit in which a connection loses bytes here."""


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How one direction is disturbed; by default not at all. Shares are from 0 to 1.

    Attributes:
        latency_s: What everything takes at least, in TCP and UDP.
        jitter_s: By how much more it may take, evenly spread. In UDP each copy for itself, so the order may
            change.
        rate_bytes_s: Bytes a second that pass, all connections and datagrams together. None: as many as can.
        blackhole: Nothing passes, as if a cable were pulled: TCP waits, UDP vanishes, but for what was under
            way.
        loss: UDP: share of the datagrams that is lost.
        reordering: UDP: share that is held back until a later datagram of the same client has overtaken it.
        held_s_max: UDP: what is held back goes on by itself after so long, so that whoever waits for it gets
            it.
        duplication: UDP: share that is delivered twice.
        slice_bytes: TCP: bytes are handed on in pieces of 1 to so many. None: as they come.
        tcp_loss: TCP: share of a connection's segments (1,460 bytes) that is lost. Nobody sends them again
            here, as real TCP would, so the loss of one resets its connection.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    rate_bytes_s: float | None = None
    blackhole: bool = False
    loss: float = 0.0
    reordering: float = 0.0
    held_s_max: float = 0.05
    duplication: float = 0.0
    slice_bytes: int | None = None
    tcp_loss: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "reordering", "duplication", "tcp_loss"):
            share = getattr(self, name)
            if not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ConfigError(f"{name}: expected a share from 0 to 1, got {share!r:.80}")
        for name in ("latency_s", "jitter_s", "held_s_max"):
            check_seconds(name, getattr(self, name))
        if self.rate_bytes_s is not None and not _is_number(self.rate_bytes_s, 1):
            raise ConfigError(f"rate_bytes_s: expected 1 or more, or None, got {self.rate_bytes_s!r:.80}")
        if self.slice_bytes is not None and not (
            isinstance(self.slice_bytes, int) and _is_number(self.slice_bytes, 1)
        ):
            raise ConfigError(f"slice_bytes: expected 1 or more, or None, got {self.slice_bytes!r:.80}")
        if not isinstance(self.blackhole, bool):
            raise ConfigError(f"blackhole: expected True or False, got {self.blackhole!r:.80}")


def check_seconds(name: str, seconds: Any) -> None:
    """Refuse what is no number of seconds."""
    if not _is_number(seconds, 0):
        raise ConfigError(f"{name}: expected seconds, 0 or more, got {seconds!r:.80}")


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, (int, float)) and least <= value < math.inf


class Fate(NamedTuple):
    """What happens to one datagram, unless it goes into a black hole."""

    is_lost: bool
    is_held: bool
    delays_s: tuple[float, ...]
    """Of each copy; one is the rule."""


class Fates:
    """The fates of the datagrams that one client sends or gets, one after the other.

    Each takes as many random numbers as any other. So what becomes of the n-th depends on the seed, on n and
    on how things are disturbed then: not on what was set before, nor on other clients.
    """

    def __init__(self, seed: object, way: str, client: int) -> None:
        self._random = Random(f"{seed} {way} {client}").random

    def next(self, disturbance: Disturbance) -> Fate:
        """Draw the next one."""
        loss, reordering, duplication, *jitters = (self._random() for _ in range(5))
        copies = 2 if duplication < disturbance.duplication else 1
        delays_s = (disturbance.latency_s + disturbance.jitter_s * jitter for jitter in jitters[:copies])
        return Fate(loss < disturbance.loss, reordering < disturbance.reordering, tuple(delays_s))


class FlowFates:
    """What becomes of the bytes of one direction of a connection.

    Where they are lost depends on the seed, on the connection's number and on the share alone; how they are
    jittered and sliced depends on how they come, too, so each of these draws from a source of its own.
    """

    def __init__(self, seed: object, way: str, connection: int) -> None:
        jitter, slices, self._losses = (
            Random(f"{seed} tcp {way} {connection} {of}") for of in ("jitter", "slices", "losses")
        )
        self._jitter = jitter.random
        self._slice = slices.randint
        self._share = 0.0
        self._bytes_to_loss = 0

    def delay_s(self, disturbance: Disturbance) -> float:
        """How long what was read now takes."""
        return disturbance.latency_s + disturbance.jitter_s * self._jitter()

    def slice_bytes(self, disturbance: Disturbance) -> int | None:
        """Size of the next piece, or None if it does not matter."""
        return None if disturbance.slice_bytes is None else self._slice(1, disturbance.slice_bytes)

    def bytes_to_loss(self, disturbance: Disturbance) -> int | None:
        """How many bytes still pass before one is lost; None if none is."""
        if disturbance.tcp_loss != self._share:
            self._share = disturbance.tcp_loss
            self._bytes_to_loss = self._draw()
        return self._bytes_to_loss if self._share else None

    def passed(self, byte_count: int) -> None:
        """So many bytes have passed."""
        self._bytes_to_loss -= byte_count

    def _draw(self) -> int:
        """Bytes before the first lost segment, each being lost with the same probability."""
        if not 0 < self._share < 1:
            return 0
        segments = math.log(1 - self._losses.random()) / math.log(1 - self._share)
        return SEGMENT_BYTES * int(segments)
