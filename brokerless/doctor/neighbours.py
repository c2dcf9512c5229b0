"""Who else is there: of our mesh, of another, or of none; and what those of ours say to us."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brokerless.address import Address, Ticket
from brokerless.discovery import Beacon, Hint
from brokerless.discovery.record import RECORD_BYTES, open_record
from brokerless.discovery.registry import FILES_MAX, SUFFIX
from brokerless.doctor.findings import Finding, failed_by, failure, listed, ok, skipped, warning
from brokerless.doctor.network import WILDCARDS
from brokerless.doctor.probe import Probe, Progress
from brokerless.errors import BusError, ConfigError, StartError
from brokerless.private_files import is_locked, open_private_file, read_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from brokerless.config import NodeConfig
    from brokerless.identity import Identity
    from brokerless.trust import MeshTrust

LISTEN_S = 1.5
"""How long is listened for multicast DNS: we ask within 0.12 s, and who is there answers within another."""

NEIGHBOURS_MAX = 8
"""Dialled at most: it is a sample."""

ENDPOINTS_MAX = 4
"""Of each, as many are dialled: a host tells the likeliest first."""

FOREIGN_HINT = "if you miss somebody, give both sides the same mesh, secret and trust"


@dataclass(slots=True)
class Neighbours:
    """Members of our mesh, with where they say that they are."""

    places: dict[Address, tuple[str, ...]] = field(default_factory=dict)

    def meet(self, address: Address, endpoints: tuple[str, ...]) -> None:
        """Take note of one."""
        self.places[address] = tuple(dict.fromkeys((*self.places.get(address, ()), *endpoints)))


# Files of the registry


def examine_registry(registry: Path, trust: MeshTrust, neighbours: Neighbours) -> list[Finding]:
    """Look at the files of all others. Nothing is removed: the next bus does that, where it may."""
    name, counts = "registry", Counter[str]()
    try:
        names = sorted(entry for entry in os.listdir(registry) if entry.endswith(SUFFIX))
    except OSError as error:
        return [failed_by(name, error)]
    spoilt: list[Finding] = []
    for entry in names[:FILES_MAX]:
        try:
            said = _read(registry / entry, trust)
        except FileNotFoundError:
            continue  # its node has just gone
        except (ConfigError, OSError) as error:  # another user's, open to others, or not readable
            spoilt.append(failed_by(f"registry file {entry}", error, f"remove {registry / entry}"))
            continue
        if isinstance(said, Hint):
            neighbours.meet(said.address, said.endpoints)
            counts["ours"] += 1
        else:
            counts[said] += 1
    return [_of_registry(counts), *_summed(spoilt)]


def _read(path: Path, trust: MeshTrust) -> Hint | str:
    with open_private_file(path) as file:
        if not is_locked(file):
            return "stale"
        record = read_all(file)
    if len(record) != RECORD_BYTES:
        return "garbage"
    return open_record(record, trust.key, "registry") or "foreign"


def _of_registry(counts: Counter[str]) -> Finding:
    name = "registry"
    others = {
        "foreign": "of another mesh or with another secret",
        "garbage": "whose file is garbage",
        "stale": "that died without removing their file",
    }
    said = [f"{counts['ours']} of this mesh"] + [
        f"{counts[kind]} {words}" for kind, words in others.items() if counts[kind]
    ]
    text = f"nodes of this user on this host: {listed(said)}"
    if counts["foreign"]:
        return warning(name, text, FOREIGN_HINT)
    if counts["garbage"]:
        return warning(name, text, "find out who writes to the registry; the bus ignores such files")
    if counts["stale"]:
        return ok(name, text, "nothing to do: the next bus removes their files")
    return ok(name, text)


def _summed(spoilt: Sequence[Finding], most: int = 4) -> list[Finding]:
    """So many in full, and how many more there are."""
    more = len(spoilt) - most
    return [*spoilt[:most], *([failure("registry files", f"{more} more like these")] if more > 0 else [])]


# Multicast


async def examine_zeroconf(
    config: NodeConfig, hosts: Sequence[str], trust: MeshTrust, neighbours: Neighbours
) -> Finding:
    """Listen and ask, but announce nothing."""
    name = "zeroconf"
    if "zeroconf" not in config.discovery:
        return skipped(name, "it is not among the discoveries")
    from brokerless.discovery.zeroconf import ZeroconfDiscovery  # costs 0.1 s to import

    everywhere = any(host in WILDCARDS for host in hosts)
    discovery = ZeroconfDiscovery(None if everywhere else hosts)
    hints: dict[Address, Hint] = {}
    nobody = Beacon(Address(secrets.token_bytes(32)), (), 0, trust.key)
    try:
        await discovery.start(nobody, lambda hint: hints.update({hint.address: hint}))
        await asyncio.sleep(LISTEN_S)
    except StartError as error:
        return failed_by(name, error, "give tickets (peers=), or use the registry on one host")
    finally:
        await discovery.close()
    present = [hint for hint in hints.values() if hint.endpoints]
    for hint in present:
        neighbours.meet(hint.address, hint.endpoints)
    text = f"nodes heard within {LISTEN_S:g} s: {len(present)} of this mesh"
    if discovery.rejected:
        text += f", {discovery.rejected} records of another mesh, with another secret, or false"
        return warning(name, text, FOREIGN_HINT)
    return ok(name, text)


# What they say to us


async def examine_neighbours(
    config: NodeConfig, identity: Identity, trust: MeshTrust, neighbours: Neighbours
) -> list[Finding]:
    """Dial them and those whose tickets are configured; HELLO shows a wrong secret from the other side."""
    for given in config.peers:
        ticket = given if isinstance(given, Ticket) else Ticket.parse(given)
        neighbours.meet(ticket.address, ticket.endpoints)
    neighbours.places.pop(identity.address, None)
    chosen = list(neighbours.places.items())[:NEIGHBOURS_MAX]
    if not chosen:
        return [
            skipped("neighbours", "no other member is known here", "start one, or examine a ticket (--peer)")
        ]
    async with Probe(identity, trust.key, config.limits) as probe:
        try:
            await probe.listen()
        except BusError as error:
            return [failed_by("neighbours", error)]
        return list(await asyncio.gather(*(_examine_neighbour(probe, *place) for place in chosen)))


async def _examine_neighbour(probe: Probe, address: Address, endpoints: tuple[str, ...]) -> Finding:
    name = f"neighbour {address.short}"
    greetings = await asyncio.gather(
        *(probe.greet(endpoint, address) for endpoint in endpoints[:ENDPOINTS_MAX])
    )
    best = max(greetings, key=lambda greeting: (greeting.progress, greeting.refusal is not None))
    if best.progress is Progress.HELLO:
        return ok(name, f"reached at {best.endpoint}: it has the same secret, and takes us")
    if best.refusal is not None:
        return failure(name, f"refused at {best.endpoint}: {best.reason}", refusal_hint(best.refusal.hint))
    reasons = listed(f"{greeting.endpoint}: {greeting.reason}" for greeting in greetings)
    return failure(name, f"not reached: {reasons}", "examine its ticket for more (--peer)")


def refusal_hint(given: str) -> str:
    """What to do about a refusal that does not say so itself."""
    return given or "ask who runs the other side: it does not admit this address, or has enough peers"
