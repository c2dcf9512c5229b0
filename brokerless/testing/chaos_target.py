"""Where a ``Chaos`` leads: what its target may be, and ports for targets that are yet to come."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from brokerless.address import Ticket
from brokerless.errors import ConfigError, PortInUse, StartError
from brokerless.testing.chaos_tcp import HOST, bound_stream
from brokerless.testing.chaos_udp import bound_datagram

if TYPE_CHECKING:
    from brokerless.testing.chaos_direction import Place

Target: TypeAlias = "int | str | tuple[str, int] | Ticket"

PORTS_TRIED_MAX = 200
"""A port is taken with the next one and, for UDP, with itself; somebody may have any of them."""

PORT_MAX = 65535


def place_of(target: Target) -> Place:
    """Return host and port of a target. Raises ``ConfigError``."""
    if isinstance(target, int):
        host, port = HOST, target
    elif isinstance(target, tuple) and len(target) >= 2:
        host, port = target[:2]
    else:
        if isinstance(target, str) and target.startswith("dittobus:"):
            target = Ticket.parse(target)
        text = target.endpoints[0] if isinstance(target, Ticket) else target
        if not isinstance(text, str):
            raise ConfigError(f"target: expected a port, host:port or a ticket, got {target!r:.80}")
        host, _, digits = text.removeprefix("tcp://").rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        port = int(digits) if digits.isascii() and digits.isdigit() else 0
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= PORT_MAX:
        raise ConfigError(f"target: expected a port from 1 to {PORT_MAX}, got {target!r:.80}")
    if not isinstance(host, str) or not host:
        raise ConfigError(f"target: expected a host name or IP address, got {target!r:.80}")
    return host, port


async def resolved(host: str, port: int, loopback_only: bool) -> tuple[socket.AddressFamily, Any]:
    """Return family and address of a target. Raises ``StartError``, ``ConfigError``."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StartError(f"target: cannot resolve {host!r}: {error}") from error
    family, _, _, _, address = found[0]
    if loopback_only and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise ConfigError(
            f"target: {host} is not on loopback", hint="loopback_only=False disturbs other hosts, too"
        )
    return family, address


def reserved_port(holders: contextlib.ExitStack) -> int:
    """Return a port, free for TCP and UDP, whose next is free for TCP. Nobody else gets them by chance.

    They are bound and not listening, which lets a bus bind them for itself where that is allowed: on Linux.
    """
    for _ in range(PORTS_TRIED_MAX):
        with contextlib.ExitStack() as taken:
            try:
                first = taken.enter_context(bound_stream(0))
                port: int = first.getsockname()[1]
                taken.enter_context(bound_stream(port + 1))
                bound_datagram(port).close()
            except PortInUse:
                continue
            if sys.platform == "linux":
                holders.push(taken.pop_all())
            return port
    raise StartError("found no port that is free together with the next one")
