"""What a receiver that never reads costs, while the sender tries all the time, between two processes here.

One such stream, and a thousand: by how much both processes grow, and what is left of another stream's rate.
``python benchmarks/memory.py [--seconds 20] [--streams 1000] [--json]``. See README.md for how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brokerless import Limits
from pair import Control, InLoop, Pair, PairFailed, Setting, machine
from stream_rate import TIMEOUT_S, make_bus

if TYPE_CHECKING:
    from dittobus.aio import Stream

SIZE_BYTES = 1000

MIB = 1024 * 1024

ALLOWANCE_BYTES = 32 * MIB
"""What a process may grow by besides the window: what is in flight, buffers, and what the allocator keeps."""

WARM_UP_COUNT = 20_000

SPARE_S = 15.0
"""For starting, the warm-up and the last round, on top of the seconds that were asked for."""


async def read_one(control: Control, setting: Setting) -> None:
    """Take what comes on the stream named "read", and nothing of all others."""
    async with make_bus("receiver", setting) as bus:
        control.ready()
        read: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        unread = []  # kept, or they would be aborted

        async def accept() -> None:
            async for offer in bus.offers():
                stream = await offer.accept()
                if offer.name == "read":
                    read.set_result(stream)
                else:
                    unread.append(stream)

        accepting = asyncio.create_task(accept())
        count = await control.next_round_async()
        stream = await read
        while count:
            for _ in range(count):
                await stream.receive()
            control.done()
            count = await control.next_round_async()
        accepting.cancel()
        await asyncio.wait([accepting])
        for one in (stream, *unread):
            one.abort()


async def send_all(unread: int, control: Control, setting: Setting, where: None) -> None:
    """Send on the stream "read" in rounds, and on so many others all the time, from the second round on."""
    async with make_bus("sender", setting) as bus:
        peer = await bus.wait_for_peer("receiver", timeout=TIMEOUT_S)
        stream = await bus.open_stream(peer, name="read")
        others = [await bus.open_stream(peer) for _ in range(unread)]
        control.ready()

        async def pour(other: Stream) -> None:
            while True:
                await other.send(bytes(SIZE_BYTES))

        pouring: list[asyncio.Task[None]] = []
        while count := await control.next_round_async():
            for _ in range(count):
                await stream.send(bytes(SIZE_BYTES))
            await stream.wait_acknowledged()
            control.done(sum(other.stats().send_queue_bytes for other in others))
            if not pouring:
                pouring = [asyncio.create_task(pour(other)) for other in others]
        for task in pouring:
            task.cancel()
        if pouring:
            await asyncio.wait(pouring)
        for one in (stream, *others):
            one.abort()


def contender(name: str, unread: int) -> Pair:
    return Pair(name, SIZE_BYTES, InLoop(read_one), InLoop(partial(send_all, unread)))


def play(pairs: list[Pair], seconds: float) -> None:
    """Start all, and let their rounds take turns for so long; one that fails keeps why."""
    until = time.monotonic() + seconds + SPARE_S
    with tempfile.TemporaryDirectory(prefix="dittobus-") as directory:
        try:
            for number, pair in enumerate(pairs):
                pair.start(Path(directory) / str(number), until)
                pair.play(WARM_UP_COUNT)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pair = min(pairs, key=lambda pair: len(pair.rounds))
                pair.rounds.append(pair.play(WARM_UP_COUNT))
        except PairFailed as error:
            pair.failure = str(error)
        finally:
            for pair in pairs:
                pair.stop()


def result(pair: Pair, bound_bytes: int) -> dict[str, Any]:
    if pair.failure or not pair.rounds:
        return {"name": pair.name, "failure": pair.failure or "another one failed"}
    growth = {}
    for number, side in enumerate(("receiver", "sender")):
        before = pair.memory_before[number]
        reports = [(played.receiver, played.sender)[number].memory for played in pair.rounds]
        growth[side] = {
            "private_mib": round(
                max(each.private_dirty - before.private_dirty for each in reports) / 1024, 1
            ),
            "peak_mib": round((reports[-1].resident_peak - before.resident) / 1024, 1),
        }
    return {
        "name": pair.name,
        "growth": growth,
        "bound_mib": round(bound_bytes / MIB, 1),
        "queued_mib": round(pair.rounds[-1].sender.detail / MIB, 1),
        "rate": round(statistics.median(played.count / played.length_s for played in pair.rounds)),
        "rounds": len(pair.rounds),
    }


def print_table(results: list[dict[str, Any]]) -> None:
    print(
        f"{'':26}{'MiB more: receiver':>19}{'sender':>8}{'queued':>8}{'bound':>8}"
        f"{'messages/s':>12}{'ratio':>7}"
    )
    for one in results:
        if "failure" in one:
            print(f"{one['name']:26}  none: {one['failure'].splitlines()[-1]}")
            continue
        growth = one["growth"]
        print(
            f"{one['name']:26}{growth['receiver']['private_mib']:>19}{growth['sender']['private_mib']:>8}"
            f"{one['queued_mib']:>8}{one['bound_mib']:>8}{one['rate']:>12,}{one.get('ratio', ''):>7}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the sender tries")
    parser.add_argument("--streams", type=int, default=1000, help="how many streams are not read at once")
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    options = parser.parse_args()
    limits = Limits()
    one = limits.stream_window_bytes + ALLOWANCE_BYTES
    bounds = [(contender("alone", 0), one), (contender("beside 1 unread", 1), one)]
    many = contender(f"beside {options.streams:,} unread", options.streams)
    bounds.append((many, limits.peer_memory_bytes_max + ALLOWANCE_BYTES))
    play([pair for pair, _ in bounds], options.seconds)
    results = [result(pair, bound) for pair, bound in bounds]
    for each in results:
        if "rate" in each and "rate" in results[0]:
            each["ratio"] = round(each["rate"] / results[0]["rate"], 2)
    if options.json:
        print(json.dumps({"machine": machine(), "seconds": options.seconds, "results": results}, indent=1))
    else:
        print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
        print_table(results)
    return int(any("failure" in each for each in results))


if __name__ == "__main__":
    sys.exit(main())
