"""How long a small message and its answer take between two processes on this machine.

``bus.send`` of DittoBus (until acknowledged) and an echo through a stream, beside echoes through plain pyzmq,
in one run: ``python benchmarks/latency.py [--json]``. See README.md for how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import zmq
import zmq.asyncio

from pair import Control, InLoop, Pair, Setting, machine, play_all
from stream_rate import TIMEOUT_S, make_bus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZE_BYTES = 16


async def timed(count: int, exchange: Callable[[], Awaitable[Any]]) -> list[float]:
    """Make so many exchanges, one after the other; return how long each took, in seconds."""
    clock = time.perf_counter
    durations = []
    for _ in range(count):
        start = clock()
        await exchange()
        durations.append(clock() - start)
    return durations


def echo_plain(control: Control, setting: Setting) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        control.ready(router.bind_to_random_port("tcp://127.0.0.1"))
        while count := control.next_round():
            for _ in range(count):
                router.send_multipart(router.recv_multipart())
            control.done()


def ask_plain(control: Control, setting: Setting, port: int) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port}")
        control.ready()
        data, clock = bytes(setting.size_bytes), time.perf_counter
        while count := control.next_round():
            durations = []
            for _ in range(count):
                start = clock()
                dealer.send(data)
                dealer.recv()
                durations.append(clock() - start)
            control.done(durations)


async def echo_asyncio(control: Control, setting: Setting) -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        control.ready(router.bind_to_random_port("tcp://127.0.0.1"))
        while count := await control.next_round_async():
            for _ in range(count):
                await router.send_multipart(await router.recv_multipart())
            control.done()


async def ask_asyncio(control: Control, setting: Setting, port: int) -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port}")
        control.ready()
        data = bytes(setting.size_bytes)

        async def exchange() -> None:
            await dealer.send(data)
            await dealer.recv()

        while count := await control.next_round_async():
            control.done(await timed(count, exchange))


async def take_messages(control: Control, setting: Setting) -> None:
    async with make_bus("receiver", setting) as receiver:
        control.ready()

        async def take() -> None:
            async for _ in receiver.messages():
                pass

        taking = asyncio.create_task(take())
        while await control.next_round_async():
            control.done()
        taking.cancel()
        await asyncio.wait([taking])


async def send_messages(control: Control, setting: Setting, where: None) -> None:
    async with make_bus("sender", setting) as sender:
        peer = await sender.wait_for_peer("receiver", timeout=TIMEOUT_S)
        control.ready()
        data = bytes(setting.size_bytes)
        while count := await control.next_round_async():
            control.done(await timed(count, lambda: sender.send(data, peer)))


async def echo_stream(control: Control, setting: Setting) -> None:
    async with make_bus("receiver", setting) as receiver:
        control.ready()
        offer = await anext(aiter(receiver.offers()))
        stream = await offer.accept()
        while count := await control.next_round_async():
            for _ in range(count):
                await stream.send(await stream.receive())
            control.done()


async def ask_stream(control: Control, setting: Setting, where: None) -> None:
    async with make_bus("sender", setting) as sender:
        peer = await sender.wait_for_peer("receiver", timeout=TIMEOUT_S)
        stream = await sender.open_stream(peer, name="benchmark")
        control.ready()
        data = bytes(setting.size_bytes)

        async def exchange() -> None:
            await stream.send(data)
            await stream.receive()

        while count := await control.next_round_async():
            control.done(await timed(count, exchange))
        await stream.close()


def contenders() -> list[Pair]:
    return [
        Pair("pyzmq echo", SIZE_BYTES, echo_plain, ask_plain),
        Pair("zmq.asyncio echo", SIZE_BYTES, InLoop(echo_asyncio), InLoop(ask_asyncio)),
        Pair("DittoBus stream echo, asyncio", SIZE_BYTES, InLoop(echo_stream), InLoop(ask_stream)),
        Pair("DittoBus send to acknowledgement", SIZE_BYTES, InLoop(take_messages), InLoop(send_messages)),
    ]


def result(pair: Pair) -> dict[str, Any]:
    if pair.failure:
        return {"name": pair.name, "failure": pair.failure}
    durations = sorted(duration for played in pair.rounds for duration in played.sender.detail)
    return {
        "name": pair.name,
        "round_trips": len(durations),
        "median_us": round(1e6 * statistics.median(durations), 1),
        "p99_us": round(1e6 * durations[int(0.99 * len(durations))], 1),
        "rounds_median_us": [round(1e6 * statistics.median(each.sender.detail), 1) for each in pair.rounds],
    }


def print_table(results: list[dict[str, Any]]) -> None:
    print(f"{'':34}{'round trips':>12}{'median us':>11}{'99 % us':>9}   medians of the rounds")
    for result in results:
        if "failure" in result:
            print(f"{result['name']:34}  none: {result['failure'].splitlines()[-1]}")
            continue
        figures = f"{result['round_trips']:>12,}{result['median_us']:>11}{result['p99_us']:>9}"
        print(f"{result['name']:34}{figures}  ", *result["rounds_median_us"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    as_json = parser.parse_args().json
    pairs = contenders()
    play_all(pairs, warm_up_count=200, rounds=5, round_s=0.5)
    results = [result(pair) for pair in pairs]
    if as_json:
        print(json.dumps({"machine": machine(), "size_bytes": SIZE_BYTES, "results": results}, indent=1))
    else:
        print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
        print_table(results)
    return int(any(pair.failure for pair in pairs))


if __name__ == "__main__":
    sys.exit(main())
