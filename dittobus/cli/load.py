"""What ``bench`` sends and counts: streams that a client opens and a server fills, drains or returns.

A stream's metadata say what the server does with it: ``echo`` returns each message, ``sink`` counts them,
``source`` sends for so long. What a server has counted it tells in the reply to a stream that asks for the
``report``, which always arrives, unlike what may be lost.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dittobus import BusError, DittoBusReliability, NoPath, SendQueueFull
from dittobus.cli import echo, exits
from dittobus.cli.offers import other_offers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dittobus import Peer
    from dittobus.aio import Bus, Offer, Stream

STREAM = "dittobus.bench"

MODES = ("echo", "sink", "source", "report")

SECONDS_MAX = 3_600.0
"""Nobody makes a server send for longer than this."""

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
REPORTS_MAX = 64
"""Reports that wait to be asked for."""

PACE_S = 0.001
"""Between two looks of a paced sender at the clock, and before trying again what had no room."""

TURN_MESSAGES = 256
"""After so many messages the loop gets a turn, although there is room for more."""


@dataclass(slots=True)
class Counted:
    """Messages in one direction, and how long they took."""

    messages: int = 0
    size: int = 0
    seconds: float = 0.0
    begun: float | None = None

    def add(self, size: int) -> None:
        """Count a message."""
        if self.begun is None:
            self.begun = perf_counter()
        self.messages += 1
        self.size += size

    def stop(self) -> Counted:
        """Take the time."""
        self.seconds = 0.0 if self.begun is None else perf_counter() - self.begun
        return self

    def as_metadata(self) -> bytes:
        """Return what a report says."""
        return json.dumps({"messages": self.messages, "size": self.size, "seconds": self.seconds}).encode()


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent: messages of that size, for so long, at most at that rate (0: no limit)."""

    message_bytes: int
    seconds: float
    rate_bytes_per_s: float = 0.0

    def check(self) -> Load:
        """Return this. Raises ``ValueError`` unless all of it can be."""
        if not 0 < self.message_bytes <= MESSAGE_BYTES_MAX or not 0 <= self.seconds <= SECONDS_MAX:
            raise ValueError("a load has a size and a time")
        if not self.rate_bytes_per_s >= 0:
            raise ValueError("a rate is not below 0")
        return self


async def send_load(stream: Stream, load: Load, counted: Counted) -> None:
    """Send it, and finish; ``counted`` tells meanwhile what was sent."""
    message = bytes(load.message_bytes)
    counted.begun = begun = perf_counter()
    end = begun + load.seconds
    while (now := perf_counter()) < end:
        allowance = load.rate_bytes_per_s * (now - begun) if load.rate_bytes_per_s else None
        if allowance is not None and counted.size >= allowance:
            await asyncio.sleep(PACE_S)
            continue
        try:
            await stream.send(message)
        except (NoPath, SendQueueFull):
            await asyncio.sleep(PACE_S)
            continue
        counted.add(load.message_bytes)
        if counted.messages % TURN_MESSAGES == 0:
            await asyncio.sleep(0)
    await stream.finish()
    counted.stop()


async def count_load(stream: Stream, counted: Counted) -> None:
    """Count what comes, to the end."""
    async for message in stream:
        counted.add(len(message))
        counted.stop()


class Server:
    """Does what clients ask for, each stream in a task of its own."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._reports: dict[tuple[object, int], asyncio.Future[Counted]] = {}
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until cancelled."""
        try:
            async for offer in other_offers(self._bus):
                task = asyncio.create_task(self._serve(offer))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
        finally:
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, offer: Offer) -> None:
        try:
            asked: Any = json.loads(offer.metadata) if offer.name == STREAM else None
            mode, number = asked["mode"], int(asked["number"])
            if mode not in MODES:
                raise ValueError("there is no such mode")
            load = Load(**asked["load"]).check() if mode == "source" else None
        except (ValueError, TypeError, KeyError):
            await offer.reject(reason="'dittobus bench --listen' takes what 'dittobus bench' asks for only")
            return
        with suppress(BusError):  # a client that goes away ends nothing else
            if mode == "report":
                await self._report(offer, number)
            else:
                await self._carry(await offer.accept(), number, load, mode)

    async def _report(self, offer: Offer, number: int) -> None:
        report = self._reports.pop((offer.peer, number), None)
        if report is None:
            await offer.reject(reason="there is no such report")
            return
        stream = await offer.accept((await report).as_metadata())
        await stream.close()

    async def _carry(self, stream: Stream, number: int, load: Load | None, mode: str) -> None:
        if mode == "echo":
            await echo.answer(stream, stream.peer)
            return
        report: asyncio.Future[Counted] = asyncio.get_running_loop().create_future()
        self._reports[stream.peer, number] = report
        while len(self._reports) > REPORTS_MAX:
            del self._reports[next(iter(self._reports))]
        counted = Counted()
        try:
            if load is not None:
                await send_load(stream, load, counted)
            else:
                await count_load(stream, counted)
                await stream.finish()
        finally:
            report.set_result(counted)
        await stream.close()


class Client:
    """Asks a server for loads, and measures them."""

    def __init__(
        self,
        bus: Bus,
        peer: Peer,
        reliability: DittoBusReliability,
        timeout: float,
    ) -> None:
        self._bus = bus
        self._peer = peer
        self._reliability = reliability
        self._timeout_s = timeout
        self._numbers: Iterator[int] = iter(range(1, 2**31))

    async def echo(self) -> Stream:
        """Return a stream whose messages come back."""
        return await self._open(next(self._numbers), "echo")

    async def up(self, load: Load, sent: Counted) -> Counted:
        """Send a load there; return what came. ``sent`` tells meanwhile what was sent."""
        number = next(self._numbers)
        stream = await self._open(number, "sink")
        await send_load(stream, load, sent)
        async for _ in stream:  # the server finishes when it has all that comes
            pass
        came = await self._reported(number)
        await stream.close()
        return came

    async def down(self, load: Load, came: Counted) -> Counted:
        """Have a load sent here; return what was sent. ``came`` tells meanwhile what came."""
        number = next(self._numbers)
        stream = await self._open(number, "source", load)
        await count_load(stream, came)
        sent = await self._reported(number)
        await stream.close()
        return sent

    async def _open(self, number: int, mode: str, load: Load | None = None) -> Stream:
        asked: dict[str, Any] = {"mode": mode, "number": number}
        if load is not None:
            asked["load"] = asdict(load)
        return await self._bus.open_stream(
            self._peer,
            DittoBusReliability.RELIABLE if mode == "report" else self._reliability,
            name=STREAM,
            metadata=json.dumps(asked).encode(),
            timeout=self._timeout_s,
        )

    async def _reported(self, number: int) -> Counted:
        stream = await self._open(number, "report")
        try:
            return Counted(**json.loads(stream.reply_metadata))
        except (ValueError, TypeError):
            raise exits.Failed("the other side reports something else than it should") from None
        finally:
            await stream.close()
