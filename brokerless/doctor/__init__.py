"""Why do two peers not see each other? Tries what a bus needs, and says what to do about what fails.

Nothing here is a guess: ports are bound, packets sent and heard, keys proven. What is tried on the network is
tried on the interfaces that the configuration names, like a bus; no application gets a message. No finding
shows a secret.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from brokerless.doctor.files import Keys, examine_files, examine_registry_directory
from brokerless.doctor.findings import Finding, Verdict, skipped
from brokerless.doctor.host import examine_clock, examine_descriptors, examine_libzmq
from brokerless.doctor.listening import examine_ports
from brokerless.doctor.neighbours import Neighbours, examine_neighbours, examine_registry, examine_zeroconf
from brokerless.doctor.network import examine_interfaces, examine_multicast
from brokerless.doctor.path import examine_path
from brokerless.node import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokerless.address import Ticket
    from brokerless.config import NodeConfig

__all__ = ["Finding", "Verdict", "examine"]


async def examine(config: NodeConfig, peer: Ticket | str | None = None) -> list[Finding]:
    """Examine whether a bus of that configuration can work here, and say what to do where it cannot.

    With ``peer``, its ticket, the way there is tried step by step; that peer's application sees a peer of
    the name ``doctor`` join and leave. Takes a few seconds. Raises nothing for what it finds.

    >>> [finding.text for finding in await examine(NodeConfig()) if finding.verdict is Verdict.FAILURE]
    """
    found = [examine_libzmq(), examine_descriptors(config.limits), await examine_clock()]
    if any(finding.verdict is Verdict.FAILURE for finding in found):
        return [*found, skipped("everything else", "it builds on what failed")]
    # Hashing a passphrase takes 0.1 s, and files may be slow.
    of_files, keys = await asyncio.to_thread(examine_files, config)
    found += of_files
    try:
        await _examine_with(config, keys, peer, found)
    finally:
        keys.release()
    return found


async def _examine_with(
    config: NodeConfig, keys: Keys, peer: Ticket | str | None, found: list[Finding]
) -> None:
    finding, registry = await asyncio.to_thread(examine_registry_directory, config, keys.directory)
    found.append(finding)
    hosts = _hosts(config, keys)
    interfaces = examine_interfaces(hosts)
    found.append(interfaces)
    if interfaces.verdict is Verdict.FAILURE:
        found.append(skipped("network", "the interfaces are not there"))
    else:
        found += await examine_multicast(hosts, "zeroconf" in config.discovery)
        found += await examine_ports(hosts, config.port, config.limits)
    neighbours = Neighbours()
    if keys.trust is not None and keys.identity is not None:
        if registry is not None:
            found += await asyncio.to_thread(examine_registry, registry, keys.trust, neighbours)
        if interfaces.verdict is not Verdict.FAILURE:
            found.append(await examine_zeroconf(config, hosts, keys.trust, neighbours))
        found += await examine_neighbours(config, keys.identity, keys.trust, neighbours)
    if peer is not None:
        found += await examine_path(config, peer, keys.identity, keys.trust)


def _hosts(config: NodeConfig, keys: Keys) -> Sequence[str]:
    """Where a bus of that configuration listens."""
    if config.interfaces is not None:
        return config.interfaces
    reaches_out = keys.trust is not None and keys.trust.scope != "host"
    return ("*",) if reaches_out else LOOPBACK
