"""Where peers may be found. What is found is a hint: whether a peer is alive, conversation alone decides.

A discovery says where this node is and tells what it learns of others of the same mesh. Several work side by
side, none depends on another, and a node runs on without those that fail to start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.address import Address

ENDPOINTS_MAX = 16
"""Places at which one node may be tried. A host with more addresses than this says the first ones."""


@dataclass(frozen=True, slots=True)
class Beacon:
    """What a node says of itself."""

    address: Address
    endpoints: tuple[str, ...]
    """The likeliest first."""
    boot: int
    """Tells one run of the process from the next; 64 bits."""
    mesh_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hint:
    """What was heard of a peer. Without endpoints: what ``source`` had said of it no longer stands."""

    address: Address
    endpoints: tuple[str, ...]
    boot: int
    """0 if unknown."""
    source: str
    """The name of the discovery."""
    ours: bool | None = field(default=None, compare=False)
    """Whose turn it is to dial: ours, as the peer does not know of us yet, or the peer's, who looks for us;
    None if that cannot be told."""


class Discovery(Protocol):
    """A way of finding peers.

    All is called on one event loop, and so is ``report``. After ``close`` nothing is reported.
    """

    @property
    def name(self) -> str:
        """What hints give as their source."""

    @property
    def rejected(self) -> int:
        """How many records were false, foreign or garbage."""

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        """Announce ``beacon`` and begin to report. Raises ``StartError`` if it cannot; close it then too."""

    async def announce(self, beacon: Beacon) -> None:
        """Announce ``beacon`` in the place of the last: endpoints have changed. May raise ``StartError``."""

    async def close(self) -> None:
        """Withdraw what was announced, and stop. Does nothing the second time, or before ``start``."""
