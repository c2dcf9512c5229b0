"""Gossip: peers tell each other about peers, so that one who can be reached is enough to meet them all.

It travels in the node's own sessions and is decided in ``brokerless.protocol.gossip``; here it is switched
on, and says where this node is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.errors import StartError
from brokerless.protocol.hearsay import sift_places

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.discovery import Beacon, Hint


class GossipDiscovery:
    """Tells peers where this node is, for them to pass on, and uses what they tell of others.

    Only TCP places with an IP address are told. Peers come by at least one other way: a ticket is enough, of
    any of them. A rendezvous is a peer with a fixed port, and no more.
    """

    name = "gossip"

    def __init__(self) -> None:
        self._tell_places: Callable[[str], None] | None = None
        self._refused: Callable[[], int] = int
        self._is_closed = False

    @property
    def rejected(self) -> int:
        """How much was told that leads nowhere, or was too much."""
        return self._refused()

    def carry(self, tell_places: Callable[[str], None], refused: Callable[[], int]) -> None:
        """A node lends its sessions, before the start: how to say where it is, and what it has refused."""
        self._tell_places, self._refused = tell_places, refused

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        """Let peers know the places of ``beacon``. What they tell goes to the node without ``report``."""
        if self._tell_places is None:
            raise StartError("gossip travels in a node's sessions, and no node carries it")
        await self.announce(beacon)

    async def announce(self, beacon: Beacon) -> None:
        """Let them know others."""
        if self._tell_places is not None and not self._is_closed:
            places = [place.removeprefix("tcp://") for place in beacon.endpoints if place.startswith("tcp:")]
            endpoints, _ = sift_places(",".join(places), is_near=True)
            self._tell_places(",".join(endpoint.removeprefix("tcp://") for endpoint in endpoints))

    async def close(self) -> None:
        """Announce no more. What was told holds until the sessions end."""
        self._is_closed = True
