"""The interfaces that the bus listens on, and whether each takes multicast."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from brokerless.doctor.findings import Finding, failed_by, failure, listed, ok, skipped
from brokerless.doctor.letters import Letterbox
from brokerless.interfaces import expand_wildcards, is_ours

if TYPE_CHECKING:
    from collections.abc import Sequence

WILDCARDS = {"*": "tcp://[::]:1", "::": "tcp://[::]:1", "0.0.0.0": "tcp://0.0.0.0:1"}
"""Hosts that stand for all addresses, as an endpoint to be expanded."""

GROUPS = {4: "224.0.0.251", 6: "ff02::fb"}
"""Those of multicast DNS. Routers forward neither."""

HEAR_S = 1.0
"""How long a packet may take back to this host: it never leaves it, but the host may be busy."""

NONCE_BYTES = 16


def addresses_of(hosts: Sequence[str]) -> list[str]:
    """Return the IP addresses that the hosts stand for, wildcards replaced by those of this machine."""
    found: dict[str, None] = {}
    for host in hosts:
        endpoints = expand_wildcards([WILDCARDS[host]]) if host in WILDCARDS else ()
        for endpoint in endpoints:
            found[endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")] = None
        if not endpoints:
            found[host] = None
    return list(found)


def examine_interfaces(hosts: Sequence[str]) -> Finding:
    """Does this machine have the addresses that the bus is to listen on?"""
    name, addresses = "interfaces", addresses_of(hosts)
    foreign = [address for address in addresses if not is_ours(address)]
    if foreign:
        return failure(
            name,
            f"this machine has no address {listed(foreign)}",
            f"name IP addresses of this machine: it has {listed(addresses_of(['*']))} and 127.0.0.1",
        )
    if not addresses:
        return failure(name, "none is named", 'name one, or "*" for all')
    return ok(name, listed(addresses))


async def examine_multicast(hosts: Sequence[str], is_wanted: bool) -> list[Finding]:
    """Does each interface take multicast? A packet of ours must come back."""
    if not is_wanted:
        return [skipped("multicast", "zeroconf is not among the discoveries, so none is needed")]
    # Wherever the bus listens everywhere, zeroconf speaks by both families.
    everywhere = any(host in WILDCARDS for host in hosts)
    addresses = addresses_of(["*"] if everywhere else hosts)
    return list(await asyncio.gather(*map(_examine_multicast, filter(is_ours, addresses))))


async def _examine_multicast(address: str) -> Finding:
    name = f"multicast {address}"
    hint = "let firewalls pass UDP port 5353, or do without: tickets (peers=), or the registry on one host"
    nonce = secrets.token_bytes(NONCE_BYTES)
    try:
        group = _joined(address)
        async with Letterbox(group.socket) as box:
            box.send(nonce, group.place)
            await box.until(lambda data: data == nonce, HEAR_S)
    except TimeoutError:
        return failure(name, f"a packet to the group did not come back within {HEAR_S:g} s", hint)
    except OSError as error:
        return failed_by(name, error, hint)
    return ok(name, "a packet to the group came back; whether others hear it, only others can tell")


class _Joined(NamedTuple):
    """A socket that is in the group, and where to send to the group."""

    socket: socket.socket
    place: tuple[object, ...]


def _joined(address: str) -> _Joined:
    """Open a socket on a port of our own: on that of multicast DNS others live."""
    ip = ipaddress.ip_address(address)
    opened = socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.bind(("", 0))
        port, group = opened.getsockname()[1], GROUPS[ip.version]
        if ip.version == 4:
            opened.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + ip.packed
            )
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip.packed)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            return _Joined(opened, (group, port))
        index = _interface_of(address)
        membership = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        return _Joined(opened, (group, port, 0, index))
    except BaseException:
        opened.close()
        raise


def _interface_of(address: str) -> int:
    """Return the number of the interface with that IPv6 address."""
    import ifaddr

    for adapter in ifaddr.get_adapters():
        if any(isinstance(ip.ip, tuple) and ip.ip[0] == address for ip in adapter.ips):
            return adapter.index or 0
    return 0
