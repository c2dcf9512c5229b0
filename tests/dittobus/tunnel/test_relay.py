"""One connection through a tunnel: its bytes, its two ends, its resets, and what waits in between."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import StreamReset
from dittobus.tunnel import Began, Ended, Exposure, hangups
from tests.dittobus.tunnel.conftest import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from dittobus.tunnel import Place
    from dittobus.tunnel.relay import Relay
    from tests.dittobus.tunnel.conftest import End, Ends, Target, Tunnel

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
IN_BETWEEN_BYTES_MAX = 2 * MIB + 3 * 64 * 1024
"""A send queue, a window, and what each relay has in hand."""

BOTH = pytest.mark.parametrize("from_client", [True, False], ids=["from client", "from target"])


def sides(ends: Ends, from_client: bool) -> tuple[End, End]:
    return (ends.client, ends.server) if from_client else (ends.server, ends.client)


def numbered(count: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(count // 4))


@BOTH
async def test_bytes_arrive_as_they_were_sent(ends: Ends, from_client: bool) -> None:
    ours, theirs = sides(ends, from_client)
    data = numbered(3 * MIB)
    sending = asyncio.create_task(ours.send(data))
    assert await theirs.receive_exactly(len(data)) == data
    await sending


@BOTH
async def test_one_direction_ends_and_the_other_goes_on(
    ends: Ends, tunnel: Tunnel, from_client: bool
) -> None:
    ours, theirs = sides(ends, from_client)
    await ours.send(b"a question")
    ours.finish()
    assert await theirs.receive_all() == b"a question"
    for _ in range(3):
        await theirs.send(b"answer")
        assert await ours.receive_exactly(6) == b"answer"
    theirs.finish()
    assert await ours.receive() == b""
    here, there = await tunnel.here.next(Ended), await tunnel.there.next(Ended)
    assert here.error is there.error is None
    assert (here.bytes_sent, here.bytes_received) == ((10, 18) if from_client else (18, 10))
    assert (there.bytes_sent, there.bytes_received) == (here.bytes_received, here.bytes_sent)


async def test_a_connection_may_carry_nothing(ends: Ends, tunnel: Tunnel) -> None:
    ends.client.finish()
    assert await ends.server.receive() == b""
    ends.server.close()
    assert await ends.client.receive() == b""
    assert (await tunnel.here.next(Ended)).error is None


@BOTH
async def test_what_was_sent_before_an_end_arrives_before_it(ends: Ends, from_client: bool) -> None:
    ours, theirs = sides(ends, from_client)
    data = numbered(3 * MIB)

    async def send() -> None:
        await ours.send(data)
        ours.close()  # which has read nothing, so this is an end in both directions

    sending = asyncio.create_task(send())
    assert await theirs.receive_all() == data
    await sending


# Resets


@BOTH
async def test_a_reset_is_passed_on(ends: Ends, tunnel: Tunnel, from_client: bool) -> None:
    ours, theirs = sides(ends, from_client)
    await ours.send(b"begun")
    assert await theirs.receive_exactly(5) == b"begun"
    ours.reset()
    with pytest.raises(ConnectionResetError):
        await theirs.receive()
    ended = [await notices.next(Ended) for notices in (tunnel.here, tunnel.there)]
    errors = [end.error for end in (ended if from_client else reversed(ended))]
    assert isinstance(errors[0], ConnectionResetError)
    assert isinstance(errors[1], StreamReset)


@BOTH
@pytest.mark.skipif(not hangups.AVAILABLE, reason="without epoll, a reset is noticed when something is read")
async def test_a_reset_is_passed_on_when_that_direction_has_ended(ends: Ends, from_client: bool) -> None:
    ours, theirs = sides(ends, from_client)
    ours.finish()
    assert await theirs.receive() == b""
    ours.reset()
    with pytest.raises(ConnectionError):  # which it learns although it sends nothing
        await gone(theirs)


@BOTH
@pytest.mark.skipif(not hangups.AVAILABLE, reason="without epoll, a reset is noticed when something is read")
async def test_a_reset_is_passed_on_although_nobody_takes_what_was_sent(
    ends: Ends, tunnel: Tunnel, from_client: bool
) -> None:
    ours, theirs = sides(ends, from_client)
    await stuffed(ours)
    ours.reset()
    with pytest.raises(ConnectionResetError):
        await theirs.receive_all()


@BOTH
async def test_who_takes_nothing_learns_of_a_reset_too(ends: Ends, tunnel: Tunnel, from_client: bool) -> None:
    """Whose socket is full of what was not taken, so that nothing more can be written to it."""
    ours, theirs = sides(ends, from_client)
    await stuffed(ours)
    theirs.reset()
    with pytest.raises(ConnectionError):
        await ours.receive()


@pytest.mark.parametrize("goes_on", [False, True], ids=["silent", "sending on"])
async def test_what_was_sent_before_a_reset_arrives_before_it(ends: Ends, goes_on: bool) -> None:
    """As a server answers that has had enough: it closes with something unread."""
    await ends.client.send(b"more than is read")
    async with asyncio.timeout(WAIT_S):
        assert await asyncio.get_running_loop().sock_recv(ends.server.sock, 4) == b"more"
    answer = numbered(50_000)  # less than a socket takes unread, 64 KiB: what is beyond, the system drops
    await ends.server.send(answer)
    ends.server.close()
    is_told = False
    if goes_on:
        try:
            await ends.client.send(bytes(MIB))
        except ConnectionError:
            is_told = True
    assert await ends.client.receive_exactly(len(answer)) == answer
    if not is_told:  # the system tells of a reset once
        with pytest.raises(ConnectionResetError):
            await ends.client.receive()


async def test_what_was_sent_before_a_reset_that_writing_meets_arrives_too(
    tunnel: Tunnel, target: Target, connect: Callable[[Place], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    relays: list[Relay] = []
    make = Exposure._relay

    def remembered(exposure: Exposure) -> Relay:
        relays.append(make(exposure))
        return relays[-1]

    monkeypatch.setattr(hangups, "AVAILABLE", False)
    monkeypatch.setattr(Exposure, "_relay", remembered)
    client = await connect(await tunnel.to(target.place))
    server = await target.accept()
    await client.send(b"more than is read")
    async with asyncio.timeout(WAIT_S):
        assert await asyncio.get_running_loop().sock_recv(server.sock, 4) == b"more"
    relays[0]._transport.pause_reading()  # so that it is written to first
    answer = numbered(100_000)
    await server.send(answer)
    server.close()
    await client.send(b"and more")
    assert await client.receive_exactly(len(answer)) == answer
    with pytest.raises(ConnectionResetError):
        await client.receive()


async def test_who_ends_the_tunnel_resets_both(ends: Ends, tunnel: Tunnel) -> None:
    await tunnel.here.next(Began)
    await tunnel.close()
    for end in (ends.client, ends.server):
        with pytest.raises(ConnectionResetError):
            await end.receive()


async def gone(end: End) -> None:
    """Wait for what the system says of a socket that nobody reads from or writes to."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    watching = hangups.Hangups(loop)
    watching.watch(end.sock, lambda: told.set_result(None))
    try:
        async with asyncio.timeout(WAIT_S):
            await told
    finally:
        watching.close()
    number = end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    raise OSError(number, os.strerror(number))


# Backpressure


async def stuffed(end: End) -> int:
    """Send until nothing more is taken, and none will be; return how many bytes it was."""
    sent, idle = 0, 0
    while idle < 20:
        more = end.send_what_fits(bytes(MIB))
        idle = 0 if more else idle + 1
        sent += more
        await asyncio.sleep(0.005)  # nothing tells that no room will come
    return sent


@BOTH
async def test_nothing_is_read_that_nobody_takes(ends: Ends, tunnel: Tunnel, from_client: bool) -> None:
    ours, theirs = sides(ends, from_client)
    sent = await stuffed(ours)
    ours.finish()
    received = 0
    while more := await theirs.receive():
        received += len(more)
    assert received == sent
    theirs.finish()
    here, there = await tunnel.here.next(Ended), await tunnel.there.next(Ended)
    assert here.bytes_sent + here.bytes_received == there.bytes_sent + there.bytes_received == sent


async def test_between_the_sockets_waits_no_more_than_a_queue_and_a_window(
    tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]
) -> None:
    client = await connect(await tunnel.to(target.place))
    server = await target.accept()
    await stuffed(client)
    near, far = tunnel.near.stats().traffic, tunnel.far.stats().traffic
    waiting = near.send_queue_bytes + far.unconsumed_bytes
    assert 0 < waiting <= IN_BETWEEN_BYTES_MAX
    server.close()


async def test_who_takes_nothing_holds_up_nobody_else(
    ends: Ends, tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]
) -> None:
    data = numbered(4 * MIB)
    await stuffed(ends.client)
    place = await tunnel.forward(target.place)
    client = await connect(place)
    server = await target.accept()
    sending = asyncio.create_task(client.send(data))
    assert await server.receive_exactly(len(data)) == data
    await sending
    server.close()


async def test_many_connections_at_once(
    tunnel: Tunnel, target: Target, connect: Callable[[Place], Any]
) -> None:
    place = await tunnel.to(target.place)

    async def ask(number: int) -> bytes:
        client = await connect(place)
        await client.send(b"%d" % number)
        client.finish()
        answer: bytes = await client.receive_all()
        client.close()
        return answer

    async def answer(server: End) -> None:
        await server.send(2 * await server.receive_all())
        server.close()

    asking = asyncio.gather(*map(ask, range(200)))
    await asyncio.gather(*[asyncio.create_task(answer(await target.accept())) for _ in range(200)])
    assert await asking == [2 * (b"%d" % number) for number in range(200)]
