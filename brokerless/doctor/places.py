"""Plain TCP to a place, to know whether anybody is there at all."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

_REASONS = {
    errno.ECONNREFUSED: "nobody listens there",
    errno.EHOSTUNREACH: "there is no way to that host",
    errno.ENETUNREACH: "there is no way to that network",
}


class Reached(NamedTuple):
    """Whether a place took a connection: ``reason`` says why not, and is empty if it did."""

    place: str
    reason: str = ""


def split(endpoint: str) -> tuple[str, int]:
    """Return host and port of a TCP endpoint."""
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


async def resolve(endpoint: str, soon_s: float) -> Reached:
    """Ask for the addresses of the host."""
    host, port = split(endpoint)
    try:
        async with asyncio.timeout(soon_s):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Reached(host, f"no answer within {soon_s:g} s")
    except (OSError, UnicodeError) as error:  # the latter: a name that cannot be
        return Reached(host, getattr(error, "strerror", None) or str(error))
    return Reached(host)


async def connect(endpoint: str, soon_s: float) -> Reached:
    """Connect, and hang up."""
    place = endpoint.removeprefix("tcp://")
    try:
        async with asyncio.timeout(soon_s):
            _, writer = await asyncio.open_connection(*split(endpoint))
    except TimeoutError:
        return Reached(place, f"no answer within {soon_s:g} s")
    except OSError as error:
        number = error.errno or 0
        return Reached(place, _REASONS.get(number) or (os.strerror(number) if number else str(error)))
    writer.transport.abort()
    return Reached(place)
