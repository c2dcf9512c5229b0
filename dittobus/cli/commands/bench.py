"""``dittobus bench``: throughput and latency between two hosts."""

from __future__ import annotations

import asyncio
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dittobus import BusError, PeerLost
from dittobus import DittoBusReliability as Reliability
from dittobus.cli import exits
from dittobus.cli.figures import Distribution
from dittobus.cli.options import (
    AsJson,
    BusOptions,
    ReliabilityName,
    Timeout,
    command_app,
    with_options,
)
from dittobus.cli.output import label, print_json, print_line, share, size
from dittobus.cli.peer import find_peer
from dittobus.cli.running import beside, run

if TYPE_CHECKING:
    from dittobus import Peer
    from dittobus.aio import Stream
    from dittobus.cli.load import Client, Counted, Load

LATENCY_S_MAX = 2.0
"""Some thousand round trips say all there is to say, however long the rest lasts."""

LATENCY_BYTES_MAX = 64
"""What is asked of a round trip is its time; how long bytes take is the throughput."""

REPLY_S = 1.0
"""What may be lost, and has not come back by then, was lost."""

INTERVAL_S = 1.0
"""Between two lines about what is under way."""

UNRELIABLE_MBIT_PER_S = 10.0
"""By default: nobody's network is to be flooded unasked."""


class Direction(Enum):
    """Which way to measure the throughput."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


app = command_app()


@app.command()
@with_options(BusOptions)
def bench(
    options: BusOptions,
    wanted: Annotated[
        str, typer.Argument(metavar="PEER", help="Whom to measure with.", show_default=False)
    ] = "",
    listen: Annotated[bool, typer.Option("--listen", "-l", help="Be the other side.")] = False,
    duration: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.01, max=3600.0, help="How long each direction lasts.")
    ] = 10.0,
    message_bytes: Annotated[
        int, typer.Option("--size", metavar="BYTES", min=1, help="The size of messages.")
    ] = 1024,
    reliability: ReliabilityName = Reliability.RELIABLE,
    direction: Annotated[Direction, typer.Option(help="Which way; to the peer is up.")] = Direction.BOTH,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="MBIT",
            min=0.0,
            help="At most so many Mbit/s; 0: no limit. What may be lost has 10.",
            show_default=False,
        ),
    ] = None,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> int:
    """Measure round trips to a peer, then throughput to it and from it.

    The peer is 'dittobus bench --listen', on another host or on this one.
    """
    from dittobus.cli.load import Load

    if listen == bool(wanted):
        raise exits.Failed("either PEER, or --listen to be the peer of another", exits.USAGE)
    if listen:
        return run(_serve(options))
    if rate is None:
        rate = 0.0 if reliability is Reliability.RELIABLE else UNRELIABLE_MBIT_PER_S
    load = Load(message_bytes, duration, rate * 1e6 / 8)
    return run(_measure(options, wanted, load, reliability, direction, timeout, as_json))


async def _serve(options: BusOptions) -> int:
    from dittobus.cli.load import Server

    async with options.listening() as bus:
        await Server(bus).serve()
    return exits.OK


async def _measure(
    options: BusOptions,
    wanted: str,
    load: Load,
    reliability: Reliability,
    direction: Direction,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
    as_json: bool,
) -> int:
    from dittobus.cli.load import Client

    async with options.bus("bench") as bus:
        peer = await find_peer(bus, wanted, timeout)
        bench = _Bench(Client(bus, peer, reliability, timeout), load, as_json)
        bench.begin(peer, reliability)
        await bench.latency()
        for way in (Direction.UP, Direction.DOWN):
            if direction in (way, Direction.BOTH):
                await bench.throughput(way)
        path = (bus.peer(peer) or peer).path
        by = path.reliable.value if reliability is Reliability.RELIABLE else path.datagram.value
        bench.end(by)
    return exits.OK


class _Bench:
    """Measures one thing after the other, and says what came of it."""

    def __init__(self, client: Client, load: Load, as_json: bool) -> None:
        self._client = client
        self._load = load
        self._as_json = as_json
        self._found: dict[str, Any] = {}

    def begin(self, peer: Peer, reliability: Reliability) -> None:
        self._found = {
            "peer": str(peer.address),
            "name": peer.name,
            "reliability": reliability.value,
            "size_bytes": self._load.message_bytes,
        }
        self._say(
            f"{label(peer)} ({peer.address.short}), {reliability.value}, "
            f"messages of {size(self._load.message_bytes)}"
        )

    async def latency(self) -> None:
        """Send one message at a time there and back."""
        stream = await self._client.echo()
        trips = Distribution()
        end = perf_counter() + min(self._load.seconds, LATENCY_S_MAX)
        width = min(self._load.message_bytes, LATENCY_BYTES_MAX)
        while perf_counter() < end or not trips.tried:
            trips.tried += 1
            message = trips.tried.to_bytes(8, "little")[:width].ljust(width, b"\0")
            trip_s = await _trip(stream, message)
            if trip_s is not None:
                trips.add(trip_s)
        stream.abort()
        self._found["latency"] = trips.as_object()
        self._say(f"round trip  {trips.line()}")

    async def throughput(self, way: Direction) -> None:
        """Send one way for a time."""
        from dittobus.cli.load import Counted

        here, there = Counted(), Counted()

        async def carry() -> None:
            nonlocal there
            there = await getattr(self._client, way.value)(self._load, here)

        await beside(carry(), self._tell(way, here))
        sent, came = (here, there) if way is Direction.UP else (there, here)
        took_s = max(came.seconds, sent.seconds, 1e-9)  # few that are large come all at once
        lost = 1 - came.messages / sent.messages if sent.messages else None
        self._found[way.value] = {
            "messages_sent": sent.messages,
            "messages": came.messages,
            "bytes": came.size,
            "seconds": took_s,
            "bytes_per_s": came.size / took_s,
            "messages_per_s": came.messages / took_s,
            "loss": lost,
        }
        self._say(
            f"{way.value:10}  {size(came.size / took_s)}/s, {came.messages / took_s:,.0f} messages/s: "
            f"{size(came.size)} in {took_s:.2f} s, {share(lost)} lost"
        )

    async def _tell(self, way: Direction, counted: Counted) -> None:
        """Say every second how it goes, from this side."""
        before = 0
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._say(f"  {way.value:8}  {size((counted.size - before) / INTERVAL_S)}/s")
            before = counted.size

    def end(self, path: str) -> None:
        if self._as_json:
            print_json({**self._found, "path": path})
        else:
            print_line(f"path        {path}")

    def _say(self, line: str) -> None:
        if not self._as_json:
            print_line(line)


async def _trip(stream: Stream, message: bytes) -> float | None:
    """Return how long a message took there and back; None if it was lost."""
    begun = perf_counter()
    try:
        await stream.send(message)
        async with asyncio.timeout(None if stream.reliability is Reliability.RELIABLE else REPLY_S):
            while await stream.receive() != message:  # one that was thought lost is late
                pass
    except PeerLost:
        raise
    except TimeoutError:
        return None
    except BusError:
        if stream.reliability is Reliability.RELIABLE:
            raise
        return None
    return perf_counter() - begun
