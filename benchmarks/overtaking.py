"""What a large message on one stream does to small ones on another, between two processes on this machine.

Round trips of 16 bytes with nothing else going on, and while messages of 64 MiB travel the same session the
same way, in one run: ``python benchmarks/overtaking.py [--json]``. See README.md for how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from typing import Any

from latency import SIZE_BYTES, echo_stream, print_table, result, timed
from pair import Control, InLoop, Pair, Setting, machine, play_all
from stream_rate import TIMEOUT_S, make_bus

BULK_BYTES = 64 * 1024 * 1024


async def echo_beside_bulk(control: Control, setting: Setting) -> None:
    async with make_bus("receiver", setting) as receiver:
        control.ready()
        offers = aiter(receiver.offers())
        small = await (await anext(offers)).accept()
        bulk = await (await anext(offers)).accept()

        async def take() -> None:
            async for message in bulk:
                assert len(message) == BULK_BYTES

        taking = asyncio.create_task(take())
        while count := await control.next_round_async():
            for _ in range(count):
                await small.send(await small.receive())
            control.done()
        taking.cancel()
        await asyncio.wait([taking])


async def ask_beside_bulk(control: Control, setting: Setting, where: None) -> None:
    async with make_bus("sender", setting) as sender:
        peer = await sender.wait_for_peer("receiver", timeout=TIMEOUT_S)
        small = await sender.open_stream(peer, name="small")
        bulk = await sender.open_stream(peer, name="bulk")
        control.ready()
        data, large = bytes(SIZE_BYTES), bytes(BULK_BYTES)

        async def exchange() -> None:
            await small.send(data)
            await small.receive()

        async def send_bulk() -> None:
            while True:
                await bulk.send(large)

        while count := await control.next_round_async():
            before = bulk.stats().bytes_sent
            sending = asyncio.create_task(send_bulk())
            started = time.perf_counter()
            durations = await timed(count, exchange)
            rate = (bulk.stats().bytes_sent - before) / (time.perf_counter() - started)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            control.done(durations)
            print(f"  bulk beside them: {rate / 1e6:,.0f} MB/s", file=sys.stderr)
        bulk.abort()
        await small.close()


async def ask_alone(control: Control, setting: Setting, where: None) -> None:
    async with make_bus("sender", setting) as sender:
        peer = await sender.wait_for_peer("receiver", timeout=TIMEOUT_S)
        small = await sender.open_stream(peer, name="small")
        control.ready()
        data = bytes(SIZE_BYTES)

        async def exchange() -> None:
            await small.send(data)
            await small.receive()

        while count := await control.next_round_async():
            control.done(await timed(count, exchange))
        await small.close()


def contenders() -> list[Pair]:
    return [
        Pair("echo, nothing else", SIZE_BYTES, InLoop(echo_stream), InLoop(ask_alone)),
        Pair("echo beside 64 MiB messages", SIZE_BYTES, InLoop(echo_beside_bulk), InLoop(ask_beside_bulk)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    as_json = parser.parse_args().json
    pairs = contenders()
    play_all(pairs, warm_up_count=300, rounds=5, round_s=3.0)
    results = [result(pair) for pair in pairs]
    if not any(pair.failure for pair in pairs):
        ratio: Any = results[1]["median_us"] / results[0]["median_us"]
        results[1]["times_idle_median"] = round(ratio, 2)
    if as_json:
        print(json.dumps({"machine": machine(), "size_bytes": SIZE_BYTES, "results": results}, indent=1))
    else:
        print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
        print_table(results)
        print("times the idle median:", results[1].get("times_idle_median", "-"))
    return int(any(pair.failure for pair in pairs))


if __name__ == "__main__":
    sys.exit(main())
