"""Where ``top`` gets what it shows: from its own bus, or from a peer that tells its statistics."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from dittobus import BusError, BusTimeout, PeerState, StreamError, statistics
from dittobus.cli import exits
from dittobus.cli.output import label, printable
from dittobus.cli.peer import find_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dittobus.aio import Bus, Stream

    Look = Callable[[], Awaitable[dict[str, Any]]]

NUMBER = (int, float)
RATES = dict.fromkeys(
    ("messages_in_per_s", "bytes_in_per_s", "messages_out_per_s", "bytes_out_per_s", "queued_bytes"), NUMBER
)
NODE: dict[str, Any] = {
    "address": str,
    "name": str,
    "links": int,
    "streams": int,
    **RATES,
    "handshakes_refused": int,
    "dropped": dict,
}
PEER: dict[str, Any] = {
    "address": str,
    "name": str,
    "state": str,
    "path": dict,
    "rtt_s": (*NUMBER, type(None)),
    "jitter_s": (*NUMBER, type(None)),
    "loss": (*NUMBER, type(None)),
    "streams": int,
    "dropped": dict,
}
"""What a peer tells must be of these types: anybody in the mesh can tell anything."""


@asynccontextmanager
async def looking(
    bus: Bus,
    wanted: str,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
) -> AsyncIterator[Look]:
    """Give what looks at the counters of the peer that ``wanted`` means; of ``bus`` if that is nothing.

    Raises what ``find_peer`` does, and ``Failed`` if that peer does not tell its statistics.
    """
    if not wanted:
        sampler = statistics.Sampler(bus)

        async def own() -> dict[str, Any]:
            return sampler.sample(monotonic())

        yield own
        return
    peer = await find_peer(bus, wanted, timeout)
    try:
        stream = await bus.open_stream(peer, name=statistics.STREAM, timeout=timeout)
    except (StreamError, BusTimeout) as error:
        raise exits.Failed(
            f"{label(peer)} does not tell its statistics: commands of dittobus that listen do, and programs "
            "that bind dittobus.statistics",
            exits.code_of(error),
        ) from None
    try:
        yield lambda: _asked(stream, label(peer), timeout)
    finally:
        stream.abort()


async def _asked(stream: Stream, name: str, timeout_s: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(timeout_s):
            await stream.send(b"")
            told = await stream.receive()
    except TimeoutError:
        raise exits.Failed(f"no statistics of {name} came within {timeout_s:g} s", exits.TIMEOUT) from None
    except BusError as error:
        raise exits.Failed(f"{name} tells no more: {error}", exits.code_of(error)) from None
    try:
        return checked(told)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise exits.Failed(f"{name} tells something else than statistics") from None


def checked(told: bytes) -> dict[str, Any]:
    """Return the statistics that a peer told, without anything that a terminal would obey.

    Raises ``ValueError``, ``TypeError``, ``KeyError`` or ``RecursionError`` if they are none.
    """
    sample = _harmless(json.loads(told))
    _check(sample["node"], NODE)
    for peer in sample["peers"]:
        _check(peer, PEER)
        _check(peer, {name: kind for name, kind in RATES.items() if name in peer})
        _check(peer["path"], {"reliable": str, "datagram": str})
        PeerState(peer["state"])
    for row in (sample["node"], *sample["peers"]):
        _check(row["dropped"], dict.fromkeys(row["dropped"], int))
    return sample  # type: ignore[no-any-return]


def _check(row: dict[str, Any], kinds: dict[str, Any]) -> None:
    for name, kind in kinds.items():
        if not isinstance(row[name], kind):
            raise ValueError(f"{name} is {row[name]!r}")


def _harmless(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case dict():
            return {printable(name): _harmless(content) for name, content in value.items()}
        case list():
            return [_harmless(content) for content in value]
        case float() if not math.isfinite(value):
            raise ValueError("a number is none")
    return value
