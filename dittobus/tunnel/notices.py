"""What a tunnel tells of its connections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from brokerless import Address
    from dittobus.tunnel.places import Place


@dataclass(frozen=True, slots=True)
class Way:
    """From where to where a connection goes, as far as this side knows."""

    origin: str
    """Who connected here; at the side of the target, the peer through whom."""
    target: Place


@dataclass(frozen=True, slots=True)
class Began:
    """A connection was made, with that peer at the other end of the tunnel."""

    way: Way
    peer: Address


@dataclass(frozen=True, slots=True)
class Ended:
    """A connection is over; with an ``error`` it was reset. *Sent* is into the tunnel."""

    way: Way
    error: Exception | None
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class Failed:
    """No connection was made; who asked for it was hung up on."""

    way: Way
    error: Exception


@dataclass(frozen=True, slots=True)
class Dropped:
    """A datagram was dropped, the first of its flow for that reason. There may be more."""

    way: Way
    error: Exception


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer asked for what it does not get; it was told the same reason."""

    peer: Address
    reason: str


Notice: TypeAlias = Began | Ended | Failed | Dropped | Refused

Report: TypeAlias = Callable[[Notice], None]


def nobody(notice: Notice) -> None:
    """Report to nobody."""
