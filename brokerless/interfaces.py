"""The addresses of this host: as somebody else would have to write its places, and when they change."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

WILDCARDS = {"tcp://0.0.0.0:": (4,), "tcp://[::]:": (4, 6)}
"""The families that each stands for: libzmq opens IPv6 sockets for IPv4, too."""

ALL_INTERFACES = frozenset({"*", "0.0.0.0", "::"})
"""Hosts that stand for all addresses, those to come included."""

LOOK_S = 2.0
"""How often the addresses are looked at: so late others hear of a new one, well within the usual liveness
limit. A look costs 0.2 ms for each interface: with two of them, a fiftieth of a percent of a processor. The
kernel could tell instead, on each system in a way of its own, and all of those need this look, too."""


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


def _addresses(versions: tuple[int, ...]) -> list[IpAddress]:
    usable = [
        ip for ip, _ in _found() if ip.version in versions and not (ip.version == 6 and ip.is_link_local)
    ]
    return [ip for ip in usable if not ip.is_loopback] or usable


def _found() -> list[tuple[IpAddress, int | None]]:
    """Each address of this host, with the number of its interface."""
    import ifaddr  # only who listens beyond loopback needs it

    return [
        (ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]), adapter.index)
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    ]


def interface_numbers() -> dict[str, int | None]:
    """Return the number of the interface that has it, for each address of this host."""
    return {str(ip): number for ip, number in _found()}


def multicast_interfaces() -> list[str | int]:
    """Return where to speak multicast to reach everybody near: IPv4 addresses, and numbers of interfaces.

    By number come those with an IPv6 address that others can use; multicast by IPv6 means an interface.
    """
    import ifaddr

    found: list[str | int] = []
    for adapter in ifaddr.get_adapters():
        found += [ip.ip for ip in adapter.ips if isinstance(ip.ip, str)]
        of_ipv6 = [ipaddress.IPv6Address(ip.ip[0]) for ip in adapter.ips if isinstance(ip.ip, tuple)]
        is_of_use = any(not (ip.is_link_local or ip.is_loopback) for ip in of_ipv6)
        if adapter.index and is_of_use and is_ours(f"{of_ipv6[0]}%{adapter.index}"):
            found.append(adapter.index)
    return found


def is_ours(address: str) -> bool:
    """Whether this host has that address, and it is ready: one of IPv6 takes a second or two for it."""
    try:
        [(family, *_, place), *_] = socket.getaddrinfo(
            address, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True


class AddressWatch:
    """Calls ``changed`` when addresses that a node with these hosts listens on have come or gone.

    One that moves to another interface, such as a new one in the place of the old, has done both. Loopback
    addresses do not, and who listens nowhere else is not watched at all.
    """

    def __init__(self, hosts: Sequence[str], changed: Callable[[], None]) -> None:
        self._everywhere = not ALL_INTERFACES.isdisjoint(hosts)
        self._hosts = frozenset(
            ip
            for host in hosts
            if host not in ALL_INTERFACES
            and not (ip := ipaddress.ip_address(host.partition("%")[0])).is_loopback
        )
        self._changed = changed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._present: frozenset[tuple[IpAddress, int | None]] = frozenset()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch from now on: what was there before is no news."""
        if self._everywhere or self._hosts:
            self._loop, self._present = loop, self._look()
            self._timer = loop.call_later(LOOK_S, self._turn)

    def close(self) -> None:
        """Watch no more. Twice does no harm."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def _turn(self) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(LOOK_S, self._turn)
        before, self._present = self._present, self._look()
        if self._present != before:
            self._changed()

    def _look(self) -> frozenset[tuple[IpAddress, int | None]]:
        try:
            found = _found()
        except OSError:  # descriptors or memory have run out: nothing is known, so nothing has changed
            return self._present
        return frozenset(
            (ip, number)
            for ip, number in found
            if ip in self._hosts or (self._everywhere and not ip.is_loopback)
            if ip.version == 4 or ip.is_link_local or is_ours(str(ip))
        )
