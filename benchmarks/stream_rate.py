"""How many messages a second go one way between two processes on this machine.

A DittoBus reliable stream (encrypted, acknowledged, with backpressure to the application) beside plain pyzmq
(none of that), in one run: ``python benchmarks/stream_rate.py [--json]``. See README.md for how to read it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import socket
import statistics
import sys
import threading
import time
from typing import Any

import zmq
import zmq.asyncio

from pair import Control, InLoop, Pair, Setting, machine, play_all

TIMEOUT_S = 10.0


def receive_multipart(control: Control, setting: Setting) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        control.ready(router.bind_to_random_port("tcp://127.0.0.1"))
        receive = router.recv_multipart
        while count := control.next_round():
            for _ in range(count):
                receive()
            control.done()


def receive_parts(control: Control, setting: Setting) -> None:
    """The same, with a call for each of the two parts: pyzmq's quickest loop, and the least usual."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        control.ready(router.bind_to_random_port("tcp://127.0.0.1"))
        receive = router.recv
        while count := control.next_round():
            for _ in range(count):
                receive()
                receive()
            control.done()


def send_plain(control: Control, setting: Setting, port: int) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port}")
        control.ready()
        send, data = dealer.send, bytes(setting.size_bytes)
        while count := control.next_round():
            for _ in range(count):
                send(data)
            control.done()


async def receive_asyncio(control: Control, setting: Setting) -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        control.ready(router.bind_to_random_port("tcp://127.0.0.1"))
        while count := await control.next_round_async():
            for _ in range(count):
                await router.recv_multipart()
            control.done()


async def send_asyncio(control: Control, setting: Setting, port: int) -> None:
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{port}")
        control.ready()
        data = bytes(setting.size_bytes)
        while count := await control.next_round_async():
            for _ in range(count):
                await dealer.send(data)
            control.done()


def make_bus(name: str, setting: Setting) -> Any:
    from dittobus.aio import Bus

    return Bus(
        name,
        mesh="benchmark",
        secret=setting.secret,
        interfaces=("127.0.0.1",),
        discovery=("registry",),
        directory=setting.directory,
    )


async def receive_dittobus(control: Control, setting: Setting) -> None:
    async with make_bus("receiver", setting) as receiver:
        control.ready()
        offer = await anext(aiter(receiver.offers()))
        stream = await offer.accept()
        left = await control.next_round_async()
        async for _ in stream:
            left -= 1
            if left == 0:
                control.done()
                left = await control.next_round_async()


async def send_dittobus(control: Control, setting: Setting, where: None) -> None:
    async with make_bus("sender", setting) as sender:
        peer = await sender.wait_for_peer("receiver", timeout=TIMEOUT_S)
        stream = await sender.open_stream(peer, name="benchmark")
        control.ready()
        data = bytes(setting.size_bytes)
        while count := await control.next_round_async():
            for _ in range(count):
                await stream.send(data)
            control.done()
        await stream.close()


def zenoh_session(listen: list[str], connect: list[str]) -> Any:
    zenoh = importlib.import_module("zenoh")
    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("listen/endpoints", json.dumps(listen))
    config.insert_json5("connect/endpoints", json.dumps(connect))
    return zenoh.open(config)


def receive_zenoh(control: Control, setting: Setting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        endpoint = f"tcp/127.0.0.1:{unused.getsockname()[1]}"
    received = expected = 0
    over = threading.Event()

    def receive(sample: Any) -> None:
        nonlocal received
        sample.payload.to_bytes()
        received += 1
        if received == expected:
            over.set()

    with zenoh_session([endpoint], []) as session:
        subscriber = session.declare_subscriber("benchmark", receive)
        control.ready(endpoint)
        while count := control.next_round():
            expected += count
            while received < expected:
                over.wait()
                over.clear()
            control.done()
        subscriber.undeclare()


def send_zenoh(control: Control, setting: Setting, endpoint: str) -> None:
    zenoh = importlib.import_module("zenoh")
    with zenoh_session([], [endpoint]) as session:
        publisher = session.declare_publisher(
            "benchmark",
            reliability=zenoh.Reliability.RELIABLE,
            congestion_control=zenoh.CongestionControl.BLOCK,
        )
        while not publisher.matching_status.matching:
            time.sleep(0.01)
        control.ready()
        put, data = publisher.put, bytes(setting.size_bytes)
        while count := control.next_round():
            for _ in range(count):
                put(data)
            control.done()


def contenders() -> list[Pair]:
    return [
        pair
        for size_bytes in (16, 256)
        for pair in (
            Pair("pyzmq", size_bytes, receive_multipart, send_plain),
            Pair("pyzmq, a recv for each part", size_bytes, receive_parts, send_plain),
            Pair("zmq.asyncio", size_bytes, InLoop(receive_asyncio), InLoop(send_asyncio)),
            Pair("zenoh", size_bytes, receive_zenoh, send_zenoh, optional=True),
            Pair("DittoBus stream, asyncio", size_bytes, InLoop(receive_dittobus), InLoop(send_dittobus)),
        )
    ]


def result(pair: Pair) -> dict[str, Any]:
    if pair.failure:
        return {"name": pair.name, "size_bytes": pair.size_bytes, "failure": pair.failure}
    rates = [played.count / played.length_s for played in pair.rounds]
    return {
        "name": pair.name,
        "size_bytes": pair.size_bytes,
        "messages_per_s": round(statistics.median(rates)),
        "rounds": [round(rate) for rate in rates],
        "growth_kib": pair.memory_growth_kib(),
    }


def print_table(results: list[dict[str, Any]]) -> None:
    plain = {
        (result["name"], result["size_bytes"]): result["messages_per_s"]
        for result in results
        if result["name"].startswith("pyzmq") and "messages_per_s" in result
    }
    print(
        f"{'':28}{'bytes':>6}{'messages/s':>12}{'lowest':>11}{'highest':>11}"
        f"{'x pyzmq':>9}{'x a recv':>9}{'MiB, receiver':>15}{'sender':>8}"
    )
    for result in results:
        head = f"{result['name']:28}{result['size_bytes']:>6}"
        if "failure" in result:
            print(f"{head}  none: {result['failure'].splitlines()[-1]}")
            continue
        rate = result["messages_per_s"]
        ratios = [
            f"{rate / base:9.2f}" if (base := plain.get((name, result["size_bytes"]))) else f"{'':9}"
            for name in ("pyzmq", "pyzmq, a recv for each part")
        ]
        growth = [result["growth_kib"][side]["resident_peak"] / 1024 for side in ("receiver", "sender")]
        print(
            f"{head}{rate:>12,}{min(result['rounds']):>11,}{max(result['rounds']):>11,}"
            f"{ratios[0]}{ratios[1]}{growth[0]:15.1f}{growth[1]:8.1f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    as_json = parser.parse_args().json
    pairs = contenders()
    play_all(pairs, warm_up_count=5_000, rounds=5, round_s=0.6)
    results = [result(pair) for pair in pairs]
    if as_json:
        print(json.dumps({"machine": machine(), "results": results}, indent=1))
    else:
        print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
        print_table(results)
    return int(any(pair.failure and not pair.optional for pair in pairs))


if __name__ == "__main__":
    sys.exit(main())
