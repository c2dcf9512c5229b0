"""``dittobus ping``: how long the way to a peer and back takes, and what gets lost on it."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dittobus import BusError, PeerLost, PeerState, StreamError, UnknownPeer
from dittobus import DittoBusReliability as Reliability
from dittobus.cli import echo, exits
from dittobus.cli.figures import Distribution
from dittobus.cli.options import AsJson, BusOptions, PeerName, Timeout, command_app, with_options
from dittobus.cli.output import label, print_json, print_line, seconds, share
from dittobus.cli.peer import find_peer
from dittobus.cli.running import run

if TYPE_CHECKING:
    from dittobus import Peer, PeerStats
    from dittobus.aio import Bus, Stream

LOOK_S = 0.1
"""How often to look whether the bus has measured something."""

app = command_app()


@app.command()
@with_options(BusOptions)
def ping(
    options: BusOptions,
    wanted: PeerName,
    count: Annotated[
        int, typer.Option("--count", "-c", metavar="NUMBER", min=0, help="End after so many; 0: go on.")
    ] = 0,
    interval: Annotated[
        float, typer.Option("--interval", "-i", metavar="SECONDS", min=0.01, help="Time between two.")
    ] = 1.0,
    wait: Annotated[
        float, typer.Option("--wait", "-W", metavar="SECONDS", min=0.0, help="What takes longer is lost.")
    ] = 1.0,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> int:
    """Measure round trips to a peer.

    With 'dittobus listen --echo' on the other side, messages go there and back, by a stream of each
    reliability. Of any other peer it shows what the two buses have measured by themselves, which bothers no
    application.
    """
    return run(_ping(options, wanted, count, interval, wait, timeout, as_json))


async def _ping(
    options: BusOptions,
    wanted: str,
    count: int,
    interval_s: float,
    wait_s: float,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
    as_json: bool,
) -> int:
    async with options.bus("ping") as bus:
        peer = await find_peer(bus, wanted, timeout)
        if peer.metadata == echo.METADATA:
            pinging: _Echoed | _Measured = await _Echoed.begin(bus, peer, wait_s, timeout)
        else:
            pinging = _Measured(bus, peer, timeout)
        number = 0
        try:
            while not count or number < count:
                number += 1
                begun = perf_counter()
                said = await pinging.once(number)
                if as_json:
                    print_json({"sequence": number, "peer": str(peer.address), **said})
                else:
                    print_line(f"{label(peer)} ({peer.address.short}) {number}: {pinging.line(said)}")
                if number != count:
                    await asyncio.sleep(max(0.0, interval_s - (perf_counter() - begun)))
        finally:
            _print_summary(pinging.summary(), as_json)
            await pinging.end()
    return exits.OK if pinging.has_answer else exits.complain("no answer", exits.TIMEOUT)


def _print_summary(summary: dict[str, Distribution], as_json: bool) -> None:
    if as_json and summary:
        print_json({"summary": {way: figures.as_object() for way, figures in summary.items()}})
        return
    for way, figures in summary.items():
        print_line(f"{way:10}  {figures.line()}")


class _Echoed:
    """Messages that come back, by a stream of each reliability."""

    def __init__(self, bus: Bus, streams: dict[Reliability, Stream], wait_s: float) -> None:
        self._bus = bus
        self._wait_s = wait_s
        self._streams = streams
        self._figures = {reliability: Distribution() for reliability in streams}
        self._awaited: dict[tuple[Reliability, bytes], asyncio.Future[float]] = {}
        self._readers = [
            asyncio.create_task(self._read(reliability, stream)) for reliability, stream in streams.items()
        ]

    @classmethod
    async def begin(
        cls,
        bus: Bus,
        peer: Peer,
        wait_s: float,
        timeout: float,  # noqa: ASYNC109 - it is told to the bus
    ) -> _Echoed:
        opened = [
            await bus.open_stream(peer, reliability, name=echo.STREAM, timeout=timeout)
            for reliability in Reliability
        ]
        return cls(bus, {stream.reliability: stream for stream in opened}, wait_s)

    @property
    def has_answer(self) -> bool:
        return any(figures.values for figures in self._figures.values())

    async def once(self, number: int) -> dict[str, Any]:
        message = number.to_bytes(8, "big")
        trips = await asyncio.gather(*(self._trip(reliability, message) for reliability in self._streams))
        for reader in self._readers:
            if reader.done():
                try:
                    reader.result()  # raises what ended the conversation
                except StreamError:
                    raise exits.Failed("the peer answers no more") from None
        return {
            "rtt_s": {way.value: trip for way, trip in zip(self._streams, trips, strict=True)},
            "path": {way.value: self._path(way) for way in self._streams},
        }

    def _path(self, reliability: Reliability) -> str:
        """By what such messages travel now."""
        peer = self._bus.peer(self._streams[reliability].peer)
        if peer is None:
            return "none"
        if reliability is Reliability.RELIABLE:
            return peer.path.reliable.value
        return peer.path.datagram.value

    async def _trip(self, reliability: Reliability, message: bytes) -> float | None:
        key = reliability, message
        back = self._awaited[key] = asyncio.get_running_loop().create_future()
        begun = perf_counter()
        figures = self._figures[reliability]
        figures.tried += 1
        try:
            await self._streams[reliability].send(message)
            trip_s: float = await asyncio.wait_for(back, self._wait_s) - begun
        except PeerLost:
            raise
        except (TimeoutError, BusError):  # there is no path, or no room; or there was none back
            return None
        finally:
            del self._awaited[key]
        figures.add(trip_s)
        return trip_s

    async def _read(self, reliability: Reliability, stream: Stream) -> None:
        async for message in stream:
            back = self._awaited.get((reliability, message))
            if back is not None and not back.done():
                back.set_result(perf_counter())

    def line(self, said: dict[str, Any]) -> str:
        return ", ".join(
            f"{way} {'lost' if trip is None else seconds(trip)} by {said['path'][way]}"
            for way, trip in said["rtt_s"].items()
        )

    def summary(self) -> dict[str, Distribution]:
        return {reliability.value: figures for reliability, figures in self._figures.items()}

    async def end(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for stream in self._streams.values():
            stream.abort()


class _Measured:
    """What the buses measure by themselves."""

    def __init__(self, bus: Bus, peer: Peer, timeout: float) -> None:
        self._bus = bus
        self._peer = peer
        self._timeout_s = timeout
        self.has_answer = False

    async def once(self, number: int) -> dict[str, Any]:
        try:
            stats = await self._stats()
        except UnknownPeer:
            raise exits.Failed(f"{label(self._peer)} is gone") from None
        self.has_answer |= stats.rtt_s is not None
        peer = self._bus.peer(self._peer) or self._peer
        return {
            "measured": {
                "state": peer.state.value,
                "rtt_s": stats.rtt_s,
                "jitter_s": stats.jitter_s,
                "path": peer.path.reliable.value,
                "datagram_rtt_s": stats.datagram_rtt_s,
                "datagram_jitter_s": stats.datagram_jitter_s,
                "datagram_path": peer.path.datagram.value,
                "loss": stats.loss,
                "loss_there": stats.loss_there,
            }
        }

    async def _stats(self) -> PeerStats:
        """Return the counters once there is something in them, or after patience."""
        patience_s = self._timeout_s
        while (stats := self._bus.peer_stats(self._peer)).rtt_s is None and patience_s > 0:
            await asyncio.sleep(LOOK_S)
            patience_s -= LOOK_S
        return stats

    def line(self, said: dict[str, Any]) -> str:
        measured = said["measured"]
        words = f"{seconds(measured['rtt_s'])} by {measured['path']}, jitter {seconds(measured['jitter_s'])}"
        if measured["state"] == PeerState.SUSPECT.value:
            words = f"not heard for some time; before: {words}"
        if measured["datagram_path"] == "none":
            return words
        return (
            f"{words}; {seconds(measured['datagram_rtt_s'])} by {measured['datagram_path']}, "
            f"jitter {seconds(measured['datagram_jitter_s'])}, loss {share(measured['loss'])}"
        )

    def summary(self) -> dict[str, Distribution]:
        return {}  # they are means already

    async def end(self) -> None:
        """There is nothing to end."""
