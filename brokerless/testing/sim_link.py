"""A simulated connection between two nodes: what is under way in each direction, in order."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from random import Random

    from brokerless.testing.sim_node import SimNode
    from brokerless.testing.simulation import SimNetwork

LINK_BYTES_MAX = 256 * 1024
"""What one direction of a link holds before it is busy: a socket buffer and ZeroMQ's queue."""

RETRANSMIT_S = 0.2
"""How long TCP waits at least before it sends a segment again; twice as long each time (RFC 6298, Linux)."""


class Conditions(NamedTuple):
    """What one direction between two nodes is like, for links and for datagrams by UDP."""

    latency_s: float = 0.001
    """At least; each takes up to twice as long."""
    bytes_per_s: float | None = None
    """None: no limit."""
    loss: float = 0.0
    """Share of what is sent that is lost. A link's TCP sends it again: it is late, and all behind it."""

    def delay_s(self, random: Random) -> float:
        """Draw how long something takes on a link, once it is its turn to be sent."""
        delay_s = self.latency_s * (1 + random.random())
        if self.loss:
            retransmit_s = RETRANSMIT_S
            while random.random() < self.loss:
                delay_s += retransmit_s
                retransmit_s *= 2
        return delay_s


class Sign(enum.Enum):
    """What arrives on a link beside messages."""

    OPENED = enum.auto()
    CLOSED = enum.auto()


Item: TypeAlias = "bytes | Sign"


class Way:
    """One direction of a link: what is under way, each with the time when it may arrive."""

    def __init__(self) -> None:
        self.items: deque[tuple[float, Item]] = deque()
        self.byte_count = 0
        self.free_at = 0.0
        self.is_busy = False


class SimLink:
    """One connection between two nodes, each knowing it under a number of its own. Keeps order."""

    def __init__(self, network: SimNetwork, dialler: SimNode, acceptor: SimNode) -> None:
        self.dialler = dialler
        self.ends: dict[SimNode, tuple[SimNode, int]] = {
            dialler: (acceptor, network.number()),
            acceptor: (dialler, network.number()),
        }
        self.ways: dict[SimNode, Way] = {dialler: Way(), acceptor: Way()}  # by sender
        self.is_cut = False
        self.is_frozen = False

    def number(self, node: SimNode) -> int:
        """Return the number under which ``node`` knows this link."""
        return self.ends[node][1]

    def other(self, node: SimNode) -> SimNode:
        """Return the node at the other end."""
        return self.ends[node][0]
