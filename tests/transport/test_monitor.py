"""The events of a socket's connections."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
import zmq

from brokerless.transport import monitor
from brokerless.transport.monitor import Monitor
from tests.transport.support import PATIENCE_S, bare_context, collect_failures

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.asyncio

WATCHED = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED


def watch(
    context: zmq.Context[zmq.Socket[bytes]], on_event: Callable[[int, int], None]
) -> tuple[Monitor, zmq.Socket[bytes], str]:
    router = context.socket(zmq.ROUTER)
    watching = Monitor(asyncio.get_running_loop(), context, router, WATCHED, on_event)
    router.bind("tcp://127.0.0.1:*")
    return watching, router, router.get_string(zmq.LAST_ENDPOINT)


async def come_and_go(endpoint: str, count: int) -> None:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    for _ in range(count):
        reader, writer = await asyncio.open_connection(host, int(port))
        await reader.readexactly(10)  # accepted: the greeting begins
        writer.close()


async def test_events_come_in_order_with_their_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "EVENTS_PER_TURN", 2)
    seen: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    with bare_context() as context:
        watching, _router, endpoint = watch(context, lambda event, value: seen.put_nowait((event, value)))
        await come_and_go(endpoint, 5)
        open_now: set[int] = set()
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(10):
                event, descriptor = await seen.get()
                if event == zmq.EVENT_ACCEPTED:
                    assert descriptor not in open_now
                    open_now.add(descriptor)
                else:
                    assert event == zmq.EVENT_DISCONNECTED
                    open_now.remove(descriptor)
        assert not open_now
        watching.close()


async def test_a_sweep_reads_everything_at_once() -> None:
    seen: list[int] = []
    with bare_context() as context:
        watching, _router, endpoint = watch(context, lambda event, _: seen.append(event))
        dealer = context.socket(zmq.DEALER)
        dealer.connect(endpoint)
        dealer.send(b"hello")
        assert watching._socket.poll(int(PATIENCE_S * 1000))  # the loop stands still: only the sweep reads it
        watching.sweep()
        assert seen == [zmq.EVENT_ACCEPTED]
        watching.close()


async def test_libzmq_is_not_held_up_by_events_that_nobody_reads() -> None:
    seen: list[int] = []
    count = 1100  # more events than libzmq's own limits at both ends of a queue
    with bare_context() as context:
        watching, _router, endpoint = watch(context, lambda event, _: seen.append(event))
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        for _ in range(count):  # while the loop stands still
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as client:
                assert client.recv(1)
        watching.sweep()
        assert seen.count(zmq.EVENT_ACCEPTED) == count
        watching.close()


async def test_nothing_is_read_after_close_even_in_the_middle() -> None:
    seen: list[int] = []
    closed = asyncio.Event()

    def close_at_once(event: int, _value: int) -> None:
        seen.append(event)
        watching.close()
        closed.set()

    failures: list[BaseException] = []
    collect_failures(failures)
    with bare_context() as context:
        watching, _router, endpoint = watch(context, close_at_once)
        await come_and_go(endpoint, 3)
        async with asyncio.timeout(PATIENCE_S):
            await closed.wait()
        await come_and_go(endpoint, 3)
        assert seen == [zmq.EVENT_ACCEPTED]
        assert not failures
