"""How long a small message and its answer take between two processes on this machine, when both may be lost.

UNRELIABLE messages and streams of DittoBus, idle and beside a reliable stream at full speed, and plain UDP
and pyzmq, in one run: ``python benchmarks/datagrams.py [--json]``. See README.md for how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import zmq

from pair import Control, InLoop, Pair, Setting, machine, play_all
from stream_rate import TIMEOUT_S, make_bus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

SIZE_BYTES = 16
HOST = "127.0.0.1"

RESEND_S = 0.2
"""Without an answer for so long, a message is sent again. It is told as lost then, and in no median."""

RESENDS_MAX = 25
"""One after the other, all in vain: nothing gets through."""

TICK_S = 0.005
"""Between two messages of those contenders that send as a game or a remote control does. In between both
processes sleep, and what they need of the processor's caches is lost to others."""

BULK_BYTES = (1_000, 64 * 1024)
"""Messages of the reliable streams that run beside: many small ones, and as many bytes as go through."""


@dataclass
class Tally:
    """What became of a round's messages."""

    durations: list[float] = field(default_factory=list)
    """Seconds, of those that were answered at once."""
    lost: int = 0
    note: str = ""


class Asking:
    """Make round trips, one after the other; with ``tick_s``, wait for so long before each.

    Each message has a number of its own, so that a late answer is not taken for that to a later message. The
    look for lost ones is a task beside, since a timeout around each receipt would be measured along.
    """

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[Any]],
        receive: Callable[[], Awaitable[bytes]],
        tick_s: float = 0.0,
    ) -> None:
        self._send = send
        self._tick_s = tick_s
        self._receive = receive
        self._numbers = itertools.count(1)
        self._number = 0
        self._resent = 0  # the latest number that was

    async def __call__(self, count: int) -> Tally:
        """Make so many."""
        looking = asyncio.create_task(self._look_for_lost(asyncio.current_task()))
        try:
            return await self._ask(count)
        except asyncio.CancelledError:
            if not looking.done():
                raise
            raise TimeoutError(f"sent {RESENDS_MAX} times, and never answered") from None
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def _ask(self, count: int) -> Tally:
        send, receive, clock, tally = self._send, self._receive, time.perf_counter, Tally()
        for number in itertools.islice(self._numbers, count):
            data = number.to_bytes(SIZE_BYTES, "big")
            self._number = number
            if self._tick_s:
                await asyncio.sleep(self._tick_s)
            start = clock()
            await send(data)
            while await receive() != data:
                pass
            duration = clock() - start
            if self._resent == number:
                tally.lost += 1
            else:
                tally.durations.append(duration)
        return tally

    async def _look_for_lost(self, asking: asyncio.Task[Any] | None) -> None:
        before = in_vain = 0
        while in_vain < RESENDS_MAX:
            await asyncio.sleep(RESEND_S)
            if self._number == before:
                self._resent = before
                in_vain += 1
                await self._send(before.to_bytes(SIZE_BYTES, "big"))
            else:
                before, in_vain = self._number, 0
        assert asking is not None
        asking.cancel()


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Let something run as long as the block does."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def check(*tasks: asyncio.Task[None]) -> None:
    """Fail if what should be running has failed."""
    for task in tasks:
        if task.done():
            task.result()


async def rounds_pass(control: Control, *answering: asyncio.Task[None]) -> None:
    """Agree to every round: the answers are given beside, however often the same is asked."""
    while await control.next_round_async():
        check(*answering)
        control.done()


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)


class Awaited(asyncio.DatagramProtocol):
    """Datagrams for a program that waits for each of them."""

    def __init__(self) -> None:
        self.next: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, address: Any) -> None:
        if not self.next.done():
            self.next.set_result(data)

    async def receive(self) -> bytes:
        data = await self.next
        self.next = asyncio.get_running_loop().create_future()
        return data


async def echo_udp(control: Control, setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(HOST, 0))
    with contextlib.closing(transport):
        control.ready(transport.get_extra_info("sockname"))
        await rounds_pass(control)


async def ask_udp(tick_s: float, control: Control, setting: Setting, where: tuple[str, int]) -> None:
    loop = asyncio.get_running_loop()
    transport, awaited = await loop.create_datagram_endpoint(Awaited, remote_addr=where)
    with contextlib.closing(transport):

        async def send(data: bytes) -> None:
            transport.sendto(data)

        asking = Asking(send, awaited.receive, tick_s)
        control.ready()
        while count := await control.next_round_async():
            control.done(await asking(count))


def echo_push(control: Control, setting: Setting) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        control.ready([each.bind_to_random_port(f"tcp://{HOST}") for each in (pull, push)])
        while count := control.next_round():
            for _ in range(count):
                push.send(pull.recv())
            control.done()


def ask_push(control: Control, setting: Setting, ports: tuple[int, int]) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        for each, port in zip((push, pull), ports, strict=True):
            each.connect(f"tcp://{HOST}:{port}")
        control.ready()
        data, clock = bytes(SIZE_BYTES), time.perf_counter
        while count := control.next_round():
            tally = Tally()
            for _ in range(count):
                start = clock()
                push.send(data)
                pull.recv()
                tally.durations.append(clock() - start)
            control.done(tally)


async def echo_messages(bus: Any) -> None:
    from dittobus import DittoBusReliability

    async for message in bus.messages():
        await bus.send(message.data, message.sender, DittoBusReliability.UNRELIABLE)


async def echo_stream(bus: Any) -> None:
    stream = await (await anext(aiter(bus.offers()))).accept()
    async for message in stream:
        await stream.send(message)


async def answer_messages(control: Control, setting: Setting) -> None:
    async with make_bus("receiver", setting) as bus:
        control.ready()
        async with beside(echo_messages(bus)) as echoing:
            await rounds_pass(control, echoing)


async def answer_stream(control: Control, setting: Setting) -> None:
    async with make_bus("receiver", setting) as bus:
        control.ready()
        async with beside(echo_stream(bus)) as echoing:
            await rounds_pass(control, echoing)


async def answer_beside_bulk(control: Control, setting: Setting) -> None:
    async def take(bus: Any) -> None:
        async for _ in await (await anext(aiter(bus.offers()))).accept():
            pass

    async with make_bus("receiver", setting) as bus:
        control.ready()
        async with beside(echo_messages(bus)) as echoing, beside(take(bus)) as taking:
            await rounds_pass(control, echoing, taking)


def asking_by_messages(bus: Any, peer: Any, tick_s: float) -> Asking:
    from dittobus import DittoBusReliability

    messages = aiter(bus.messages())

    async def receive() -> bytes:
        data: bytes = (await anext(messages)).data
        return data

    return Asking(lambda data: bus.send(data, peer, DittoBusReliability.UNRELIABLE), receive, tick_s)


def path_to(bus: Any, peer: Any) -> str:
    now = bus.peer(peer.address)
    return f"by {now.path.datagram.value}" if now else ""


async def ask_by_messages(tick_s: float, control: Control, setting: Setting, where: None) -> None:
    async with make_bus("sender", setting) as bus:
        peer = await bus.wait_for_peer("receiver", timeout=TIMEOUT_S)
        asking = asking_by_messages(bus, peer, tick_s)
        control.ready()
        while count := await control.next_round_async():
            tally = await asking(count)
            tally.note = path_to(bus, peer)
            control.done(tally)


async def ask_by_stream(control: Control, setting: Setting, where: None) -> None:
    from dittobus import DittoBusReliability

    async with make_bus("sender", setting) as bus:
        peer = await bus.wait_for_peer("receiver", timeout=TIMEOUT_S)
        stream = await bus.open_stream(peer, DittoBusReliability.UNRELIABLE, name="benchmark")
        asking = Asking(stream.send, stream.receive)
        control.ready()
        while count := await control.next_round_async():
            tally = await asking(count)
            tally.note = path_to(bus, peer)
            control.done(tally)
        stream.abort()


async def ask_beside_bulk(tick_s: float, control: Control, setting: Setting, where: None) -> None:
    """Ask, while messages of the pair's size fill a reliable stream that goes the same way."""
    async with make_bus("sender", setting) as bus:
        peer = await bus.wait_for_peer("receiver", timeout=TIMEOUT_S)
        asking = asking_by_messages(bus, peer, tick_s)
        bulk = await bus.open_stream(peer, name="bulk")
        control.ready()
        large = bytes(setting.size_bytes)

        async def send_bulk() -> None:
            while True:
                await bulk.send(large)

        while count := await control.next_round_async():
            before, start = bulk.stats().bytes_sent, time.perf_counter()
            async with beside(send_bulk()) as sending:
                tally = await asking(count)
                check(sending)
            rate = (bulk.stats().bytes_sent - before) / (time.perf_counter() - start)
            tally.note = f"{path_to(bus, peer)}, {rate / 1e6:,.0f} MB/s beside"
            control.done(tally)
        bulk.abort()


PLAIN = "asyncio UDP echo"
IDLE = "DittoBus UNRELIABLE, messages"
BESIDE = "messages beside bulk"
TICKING = f", each {1e3 * TICK_S:.0f} ms"


def contenders() -> list[Pair]:
    return [
        *at_pace("", 0.0),
        Pair("pyzmq PUSH/PULL echo", SIZE_BYTES, echo_push, ask_push),
        Pair("DittoBus UNRELIABLE, stream", SIZE_BYTES, InLoop(answer_stream), InLoop(ask_by_stream)),
        *at_pace(TICKING, TICK_S),
    ]


def at_pace(suffix: str, tick_s: float) -> list[Pair]:
    """What is compared with each other message by message, and tick by tick."""

    def asking(side: Callable[..., Coroutine[Any, Any, None]]) -> InLoop:
        return InLoop(functools.partial(side, tick_s))

    return [
        Pair(PLAIN + suffix, SIZE_BYTES, InLoop(echo_udp), asking(ask_udp)),
        Pair(IDLE + suffix, SIZE_BYTES, InLoop(answer_messages), asking(ask_by_messages)),
        *(
            Pair(
                f"{BESIDE} of {size_bytes:,} B{suffix}",
                size_bytes,
                InLoop(answer_beside_bulk),
                asking(ask_beside_bulk),
            )
            for size_bytes in BULK_BYTES
        ),
    ]


def result(pair: Pair) -> dict[str, Any]:
    if pair.failure:
        return {"name": pair.name, "failure": pair.failure}
    tallies: list[Tally] = [played.sender.detail for played in pair.rounds]
    durations = sorted(duration for tally in tallies for duration in tally.durations)
    if not durations:
        return {"name": pair.name, "failure": "every message was lost"}
    return {
        "name": pair.name,
        "round_trips": len(durations),
        "lost": sum(tally.lost for tally in tallies),
        "median_us": round(1e6 * statistics.median(durations), 1),
        "p99_us": round(1e6 * durations[int(0.99 * len(durations))], 1),
        "rounds_median_us": [
            round(1e6 * statistics.median(tally.durations), 1) for tally in tallies if tally.durations
        ],
        "note": tallies[-1].note,
    }


def compare(results: list[dict[str, Any]]) -> None:
    """Put each beside the plain echo of its pace, and what ran beside bulk beside the same without."""
    by_name = {result["name"]: result for result in results if "failure" not in result}
    for result in by_name.values():
        suffix = TICKING if result["name"].endswith(TICKING) else ""
        plain, idle = by_name.get(PLAIN + suffix), by_name.get(IDLE + suffix)
        if plain:
            result["x_udp_median"] = round(result["median_us"] / plain["median_us"], 2)
            result["x_udp_p99"] = round(result["p99_us"] / plain["p99_us"], 2)
        if idle and result["name"].startswith(BESIDE):
            result["x_idle_median"] = round(result["median_us"] / idle["median_us"], 2)


COLUMNS = {
    "round_trips": "round trips",
    "lost": "lost",
    "median_us": "median us",
    "p99_us": "99 % us",
    "x_udp_median": "x UDP",
    "x_udp_p99": "x UDP 99 %",
    "x_idle_median": "x idle",
}


def print_table(results: list[dict[str, Any]]) -> None:
    print(f"{'':42}", *(f"{title:>11}" for title in COLUMNS.values()), " medians of the rounds")
    for result in results:
        if "failure" in result:
            print(f"{result['name']:42}  none: {result['failure'].splitlines()[-1]}")
            continue
        figures = (f"{result.get(name, ''):>11}" for name in COLUMNS)
        print(f"{result['name']:42}", *figures, "", *result["rounds_median_us"], result["note"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    as_json = parser.parse_args().json
    pairs = contenders()
    play_all(pairs, warm_up_count=200, rounds=5, round_s=0.7)
    results = [result(pair) for pair in pairs]
    compare(results)
    if as_json:
        print(json.dumps({"machine": machine(), "size_bytes": SIZE_BYTES, "results": results}, indent=1))
    else:
        print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
        print_table(results)
    return int(any(pair.failure for pair in pairs))


if __name__ == "__main__":
    sys.exit(main())
