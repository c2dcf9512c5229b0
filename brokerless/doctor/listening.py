"""Do the ports bind, and are they reached on each address? With a key of the moment, which nobody knows."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import socket
from typing import TYPE_CHECKING

from brokerless.doctor.findings import Finding, failed_by, failure, listed, ok, skipped, warning
from brokerless.doctor.letters import Letterbox
from brokerless.doctor.places import connect, split
from brokerless.doctor.probe import Probe, Progress
from brokerless.errors import BusError, PortInUse
from brokerless.identity import Identity
from brokerless.interfaces import expand_wildcards
from brokerless.transport.transport import PORT_MAX
from brokerless.transport.udp import UdpSockets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokerless.config import Limits

UDP_S = 1.0
"""How long a datagram may take there and back within this host."""

_IN_USE = "if that is the bus you ask about, stop it or leave out the port; if not, choose another"
_FIREWALL = "let a firewall on this machine pass connections to it"


async def examine_ports(hosts: Sequence[str], port: int, limits: Limits) -> list[Finding]:
    """Bind what a bus would, and try each address of it over TCP with CURVE, and over UDP."""
    identity, key = Identity.generate(), secrets.token_bytes(32)
    async with Probe(identity, key, limits) as listener, Probe(Identity.generate(), key, limits) as dialler:
        try:
            bound = await listener.listen(hosts, port)
            await dialler.listen()
        except (BusError, OSError) as error:
            unbound = failed_by("tcp port", error)
            if isinstance(error, PortInUse):
                unbound = dataclasses.replace(unbound, hint=_IN_USE)
            return [unbound, skipped("udp port", "the TCP port could not be bound")]
        links = [_examine_link(dialler, endpoint, identity) for endpoint in expand_wildcards(bound)]
        found = await asyncio.gather(*links)
        pull = await _examine_pull(listener.transport.pull_places, port, limits)
        return [*found, pull, *await _examine_udp(listener, hosts, port)]


async def _examine_link(dialler: Probe, endpoint: str, identity: Identity) -> Finding:
    name = f"tcp {endpoint.removeprefix('tcp://')}"
    greeting = await dialler.greet(endpoint, identity.address)
    if greeting.progress is not Progress.HELLO:
        return failure(name, f"bound, but not reached from this machine: {greeting.reason}", _FIREWALL)
    return ok(name, f"bound, and answered after {greeting.seconds * 1000:.0f} ms, with CURVE and HELLO")


async def _examine_pull(places: Sequence[str], port: int, limits: Limits) -> Finding:
    """The second TCP port, for datagrams where UDP is blocked."""
    name = "tcp port for datagrams"
    endpoints = expand_wildcards(f"tcp://{place}" for place in places)
    outcomes = await asyncio.gather(
        *(connect(endpoint, limits.handshake_timeout_s) for endpoint in endpoints)
    )
    unreached = [outcome for outcome in outcomes if outcome.reason]
    if unreached:
        words = listed(f"{outcome.place}: {outcome.reason}" for outcome in unreached)
        return failure(name, f"bound, but not reached from this machine: {words}", _FIREWALL)
    bound = split(endpoints[0])[1]
    if 0 < port < PORT_MAX and bound != port + 1:
        return warning(
            name,
            f"{bound}, since another process holds {port + 1}",
            f"where a firewall lets only chosen ports pass, free {port + 1}",
        )
    return ok(name, f"bound and reached: {listed(outcome.place for outcome in outcomes)}")


async def _examine_udp(listener: Probe, hosts: Sequence[str], port: int) -> list[Finding]:
    places = listener.transport.udp_places
    if not places:
        return [_udp_obstacle(listener, hosts, port)]
    # A wildcard of IPv6 stands for both families to ZeroMQ, but not to our own sockets.
    of_family = {6 if place.startswith("[") else 4 for place in places}
    expanded = dict.fromkeys(expand_wildcards(f"tcp://{place}" for place in places))
    tried = [endpoint for endpoint in expanded if (6 if "[" in endpoint else 4) in of_family]
    return list(await asyncio.gather(*(_examine_udp_place(listener, endpoint) for endpoint in tried)))


def _udp_obstacle(listener: Probe, hosts: Sequence[str], port: int) -> Finding:
    """The transport goes on without UDP, and only logs why; so ask again."""
    sockets = UdpSockets(listener)
    hint = "without UDP, unreliable messages go over TCP, where they may be late"
    try:
        sockets.open(hosts, port, asyncio.get_running_loop())
    except BusError as error:
        return failed_by("udp port", error, hint)
    sockets.close()
    return warning("udp port", "it could not be bound at first, and then it could", "try again")


async def _examine_udp_place(listener: Probe, endpoint: str) -> Finding:
    host, port = split(endpoint)
    name = f"udp {endpoint.removeprefix('tcp://')}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    letter = listener.nonce + secrets.token_bytes(8)
    began = asyncio.get_running_loop().time()
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.bind((host, 0))
    except OSError as error:
        opened.close()
        return failed_by(name, error)
    try:
        async with Letterbox(opened) as box:
            box.send(letter, (host, port))
            await box.until(lambda data: data == letter, UDP_S)
    except TimeoutError:
        return failure(name, f"a datagram did not come back within {UDP_S:g} s", _FIREWALL)
    except OSError as error:
        return failed_by(name, error, _FIREWALL)
    elapsed_s = asyncio.get_running_loop().time() - began
    return ok(name, f"a datagram came back after {elapsed_s * 1000:.1f} ms")
