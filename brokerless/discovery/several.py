"""The discoveries of a node: none depends on another, and it runs on without those that fail."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from brokerless.discovery.gossip import GossipDiscovery
from brokerless.errors import StartError
from brokerless.interfaces import ALL_INTERFACES
from brokerless.private_files import make_private_directory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from brokerless.config import NodeConfig
    from brokerless.discovery import Beacon, Discovery, Hint

_log = logging.getLogger("dittobus")


class Several:
    """Several discoveries as one, of which it is one itself."""

    name = "several"

    def __init__(self, discoveries: Iterable[Discovery]) -> None:
        # Gossip first, since it takes no time: so that the first peer already hears where we are.
        self._all = sorted(discoveries, key=lambda discovery: not isinstance(discovery, GossipDiscovery))
        self._begun: list[Discovery] = []
        self._is_closed = False

    @property
    def gossips(self) -> bool:
        """Whether gossip is among them."""
        return any(isinstance(discovery, GossipDiscovery) for discovery in self._all)

    @property
    def rejected(self) -> int:
        """How many records were false, foreign or garbage."""
        return sum(discovery.rejected for discovery in self._begun)

    def carry(self, tell_places: Callable[[str], None], refused: Callable[[], int]) -> None:
        """A node lends its sessions to gossip, before the start."""
        for discovery in self._all:
            if isinstance(discovery, GossipDiscovery):
                discovery.carry(tell_places, refused)

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        """Start one after the other. Does not raise for what fails: a warning says so."""
        for discovery in self._all:
            if self._is_closed:
                return
            self._begun.append(discovery)  # before it starts, so that whatever happens it is closed
            await _tried(discovery.start(beacon, report), f"discovery {discovery.name} does not work here")

    async def announce(self, beacon: Beacon) -> None:
        """Announce by all; a warning tells of those that cannot."""
        for discovery in self._begun:
            text = f"discovery {discovery.name} cannot tell the new addresses"
            await _tried(discovery.announce(beacon), text)

    async def close(self) -> None:
        """Close those that were started, all at once."""
        self._is_closed = True
        await asyncio.gather(*(discovery.close() for discovery in self._begun), return_exceptions=True)


async def _tried(work: Awaitable[None], failure: str) -> None:
    try:
        await work
    except Exception as error:
        _log.warning("%s: %s", failure, error, exc_info=None if isinstance(error, StartError) else error)


def choose(config: NodeConfig, hosts: Sequence[str], directory: Path) -> Several:
    """Return the discoveries that are configured. Raises ``StartError`` for a directory that will not do."""
    chosen: list[Discovery] = []
    for one in config.discovery:
        if one == "zeroconf":
            from brokerless.discovery.zeroconf import ZeroconfDiscovery  # costs 0.1 s to import

            everywhere = not ALL_INTERFACES.isdisjoint(hosts)
            chosen.append(ZeroconfDiscovery(None if everywhere else hosts))
        elif one == "registry":
            from brokerless.discovery.registry import RegistryDiscovery

            chosen.append(RegistryDiscovery(make_private_directory(directory / "registry")))
        elif one == "gossip":
            chosen.append(GossipDiscovery())
        else:
            chosen.append(one)
    if config.peers:
        from brokerless.discovery.static import StaticDiscovery

        chosen.append(StaticDiscovery(config.peers))
    return Several(chosen)
