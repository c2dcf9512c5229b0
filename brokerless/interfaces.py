"""The places of a node that listens everywhere, as somebody else would have to write them."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

WILDCARDS = {"tcp://0.0.0.0:": (4,), "tcp://[::]:": (4, 6)}
"""The families that each stands for: libzmq opens IPv6 sockets for IPv4, too."""


def expand_wildcards(endpoints: Iterable[str]) -> tuple[str, ...]:
    """Return the endpoints with each wildcard replaced by this host's addresses of its families.

    Loopback addresses stand in where the host has no others. Link-local IPv6 addresses are left out: they
    mean nothing without the number of the reader's own interface.
    """
    expanded: dict[str, None] = {}
    for endpoint in endpoints:
        wildcard = next((start for start in WILDCARDS if endpoint.startswith(start)), None)
        if wildcard is None:
            expanded[endpoint] = None
            continue
        port = endpoint.removeprefix(wildcard)
        for address in _addresses(WILDCARDS[wildcard]):
            host = f"[{address}]" if address.version == 6 else str(address)
            expanded[f"tcp://{host}:{port}"] = None
    return tuple(expanded)


def _addresses(versions: tuple[int, ...]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    import ifaddr  # only who listens everywhere needs it

    found = [
        ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    ]
    usable = [ip for ip in found if ip.version in versions and not (ip.version == 6 and ip.is_link_local)]
    return [ip for ip in usable if not ip.is_loopback] or usable
