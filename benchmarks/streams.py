"""What streams cost when ten thousand are open at once between two processes on this machine.

Each is opened, carries a message, and is closed: ``python benchmarks/streams.py [--count 10000] [--json]``.
Prints time and memory for each stream at both ends. See README.md for how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dittobus import DittoBus, DittoBusDelegate, DittoBusStreamDelegate
from pair import RUN_S, Control, InLoop, Pair, PairFailed, Round, Setting, machine
from stream_rate import TIMEOUT_S, make_bus

if TYPE_CHECKING:
    from collections.abc import Callable

    from dittobus import DittoAddress, DittoBusStream, DittoBusStreamOffer
    from dittobus.aio import Stream

PENDING = 200
"""Opened at once; of more than 256 the rest would wait at the opener."""

SIZE_BYTES = 32

PHASES = ("open", "message", "close")


# With asyncio


async def accept_streams(control: Control, setting: Setting) -> None:
    async with make_bus("receiver", setting) as bus:
        control.ready()
        offers = bus.offers()
        count = await control.next_round_async()
        streams = [await (await anext(offers)).accept() for _ in range(count)]
        control.done()
        await control.next_round_async()
        for stream in streams:
            assert len(await stream.receive()) == SIZE_BYTES
        control.done()
        await control.next_round_async()
        await close_streams(streams)
        control.done()
        await control.next_round_async()


async def open_streams(control: Control, setting: Setting, where: None) -> None:
    async with make_bus("sender", setting) as bus:
        peer = await bus.wait_for_peer("receiver", timeout=TIMEOUT_S)
        control.ready()
        count = await control.next_round_async()
        streams: list[Stream] = []

        async def open_some(some: int) -> None:
            for _ in range(some):
                streams.append(await bus.open_stream(peer))  # noqa: PERF401 - others append meanwhile

        await asyncio.gather(*(open_some(some) for some in shares(count)))
        control.done()
        await control.next_round_async()
        for stream in streams:
            await stream.send(bytes(SIZE_BYTES))
        for stream in streams:
            await stream.wait_acknowledged()
        control.done()
        await control.next_round_async()
        await close_streams(streams)
        control.done()
        await control.next_round_async()


async def close_streams(streams: list[Stream]) -> None:
    async def close_some() -> None:
        while streams:
            await streams.pop().close()

    await asyncio.gather(*(close_some() for _ in range(PENDING)))


def shares(count: int) -> list[int]:
    """So many for each of those who open at once."""
    return [count // PENDING + (number < count % PENDING) for number in range(PENDING)]


# With delegates


class Counting(DittoBusStreamDelegate):
    """One delegate for all streams of a side: counts, and tells when it is enough."""

    def __init__(self) -> None:
        self.wanted = 0
        self.streams: list[DittoBusStream] = []
        self._counts = dict.fromkeys(PHASES, 0)
        self._changed = threading.Condition()

    def note(self, phase: str) -> None:
        with self._changed:
            self._counts[phase] += 1
            if self._counts[phase] == self.wanted:
                self._changed.notify_all()

    def wait(self, phase: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._counts[phase] >= self.wanted, RUN_S):
                raise TimeoutError(f"{phase}: {self._counts[phase]} of {self.wanted}")

    def take(self, stream: DittoBusStream) -> None:
        self.streams.append(stream)
        stream.delegate = self
        self.note("open")

    def stream_did_receive_message(self, stream: DittoBusStream, message: bytes) -> None:
        self.note("message")

    def stream_did_acknowledge_receipt(self, stream: DittoBusStream, message_sequence: int) -> None:
        self.note("message")

    def stream_did_close(self, stream: DittoBusStream, error: Any) -> None:
        self.note("close")


class Accepting(DittoBusDelegate):
    def __init__(self, counting: Counting) -> None:
        self._counting = counting

    def bus_did_receive_stream_offer(self, bus: DittoBus, offer: DittoBusStreamOffer) -> None:
        offer.accept()

    def bus_did_receive_incoming_stream(
        self, bus: DittoBus, stream: DittoBusStream, peer: DittoAddress
    ) -> None:
        self._counting.take(stream)


def delegate_bus(name: str, setting: Setting, delegate: DittoBusDelegate | None = None) -> DittoBus:
    return DittoBus(
        name,
        mesh="benchmark",
        secret=setting.secret,
        interfaces=("127.0.0.1",),
        discovery=("registry",),
        directory=setting.directory,
        delegate=delegate,
    )


def accept_delegated(control: Control, setting: Setting) -> None:
    counting = Counting()
    with delegate_bus("receiver", setting, Accepting(counting)):
        control.ready()
        counting.wanted = control.next_round()
        for phase in PHASES:
            if phase == "close":
                close_all(counting)
            counting.wait(phase)
            control.done()
            control.next_round()


def open_delegated(control: Control, setting: Setting, where: None) -> None:
    counting = Counting()
    with delegate_bus("sender", setting) as bus:
        peer = bus.wait_for_peer("receiver", timeout=TIMEOUT_S).result()
        control.ready()
        counting.wanted = control.next_round()
        open_all(counting, lambda done: bus.open_stream(peer, completion=done))
        for phase in PHASES:
            if phase == "message":
                for stream in counting.streams:
                    stream.enqueue_message(bytes(SIZE_BYTES))
            elif phase == "close":
                close_all(counting)
            counting.wait(phase)
            control.done()
            control.next_round()


def open_all(counting: Counting, open_one: Callable[[Callable[[Any, Any], None]], object]) -> None:
    places = threading.Semaphore(PENDING)

    def done(stream: DittoBusStream | None, error: Exception | None) -> None:
        places.release()
        if stream is not None:
            counting.take(stream)

    for _ in range(counting.wanted):
        places.acquire()
        open_one(done)


def close_all(counting: Counting) -> None:
    while counting.streams:
        counting.streams.pop().close()


# Both


def measure(pair: Pair, count: int, directory: Path, until: float) -> list[Round]:
    """Play the phases, one after the other."""
    pair.start(directory, until)
    return [pair.play(count) for _ in PHASES]


def result(pair: Pair, count: int, rounds: list[Round]) -> dict[str, Any]:
    sides = ("receiver", "sender")
    before = dict(zip(sides, pair.memory_before, strict=True))
    figures: dict[str, Any] = {"name": pair.name, "streams": count}
    for phase, played in zip(PHASES, rounds, strict=True):
        growth = {
            side: round(1024 * (memory.private_dirty - before[side].private_dirty) / count)
            for side, memory in zip(sides, (played.receiver.memory, played.sender.memory), strict=True)
        }
        figures[phase] = {"us": round(1e6 * played.length_s / count, 1), "bytes": growth}
    return figures


def print_table(results: list[dict[str, Any]]) -> None:
    print(f"{'':14}{'phase':10}{'us/stream':>11}{'bytes/stream here':>20}{'there':>9}")
    for one in results:
        if "failure" in one:
            print(f"{one['name']:14}none: {one['failure'].splitlines()[-1]}")
            continue
        for phase in PHASES:
            growth = one[phase]["bytes"]
            print(
                f"{one['name']:14}{phase:10}{one[phase]['us']:>11,}{growth['sender']:>20,}{growth['receiver']:>9,}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10_000, help="streams that are open at once")
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    options = parser.parse_args()
    pairs = [
        Pair("asyncio", SIZE_BYTES, InLoop(accept_streams), InLoop(open_streams)),
        Pair("delegates", SIZE_BYTES, accept_delegated, open_delegated),
    ]
    results = []
    until = time.monotonic() + RUN_S
    with tempfile.TemporaryDirectory(prefix="dittobus-") as directory:
        for pair in pairs:
            try:
                rounds = measure(pair, options.count, Path(directory) / pair.name, until)
                results.append(result(pair, options.count, rounds))
            except PairFailed as error:
                results.append({"name": pair.name, "failure": str(error)})
            finally:
                pair.stop()
    if options.json:
        print(json.dumps({"machine": machine(), "size_bytes": SIZE_BYTES, "results": results}, indent=1))
    else:
        print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
        print_table(results)
    return int(any("failure" in one for one in results))


if __name__ == "__main__":
    sys.exit(main())
