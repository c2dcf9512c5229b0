"""Datagrams over TCP, between transports and with peers of bare libzmq."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import zmq

from brokerless.errors import BusClosed, StartError
from brokerless.identity import Identity
from brokerless.protocol.datagram import SEALED_BYTES_MAX
from brokerless.transport import doorway, push
from brokerless.transport.descriptors import shut_down
from tests.transport.support import HASTE_S, PATIENCE_S, Node, bare_context, hung_up, running, turns, watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokerless.address import Address

pytestmark = pytest.mark.asyncio

PACKET = bytes(SEALED_BYTES_MAX)
MESSAGES, FRAGMENTS = 4, 58

NOWHERE = "127.0.0.1:1"
"""A place where nobody listens."""


async def connected(pusher: Node, puller: Node, *places: str) -> None:
    """Permit it, open the PUSH and wait until a packet is taken, and came."""
    puller.sink.permitted.add(pusher.address)
    pusher.transport.open_push(puller.address, places or puller.transport.pull_places)
    await taken(pusher, puller.address, b"first")
    await puller.sink.wait("pushed")


async def taken(pusher: Node, remote: Address, packet: bytes = b"") -> None:
    """Offer the packet once each turn of the loop until the connection takes it."""
    async for _ in turns():
        if pusher.transport.send_push(remote, packet):
            break


@contextlib.contextmanager
def bare_push(
    node: Node, *, identity: Identity | None = None, server_key: bytes | None = None
) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A PUSH to the node's PULL that does as the test pleases, and what reads when it is hung up on."""

    def make(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        pusher, ours = context.socket(zmq.PUSH), identity or Identity.generate()
        pusher.setsockopt(zmq.CURVE_SECRETKEY, ours.secret)
        pusher.setsockopt(zmq.CURVE_PUBLICKEY, ours.public)
        pusher.setsockopt(zmq.CURVE_SERVERKEY, server_key or node.identity.public)
        pusher.setsockopt(zmq.RECONNECT_IVL, -1)
        return pusher

    with bare_context() as context:
        pusher, events = watched(make, context)
        pusher.connect(f"tcp://{node.transport.pull_places[0]}")
        yield pusher, events


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_packets_come_by_the_key_that_sent_them(host: str) -> None:
    async with running() as one, running() as two, running(host) as puller:
        await connected(one, puller)
        await connected(two, puller)
        for message in range(MESSAGES):  # each of them whole, whatever the one before left behind
            for number in range(message * FRAGMENTS, (message + 1) * FRAGMENTS):
                assert one.transport.send_push(puller.address, number.to_bytes(2, "big") + PACKET[2:])
            await puller.sink.wait("pushed", count=2 + (message + 1) * FRAGMENTS)
        assert two.transport.send_push(puller.address, b"")
        await puller.sink.wait("pushed", count=3 + MESSAGES * FRAGMENTS)
        came = [(remote, data) for _, remote, data in puller.sink.of("pushed")]
        assert [data for remote, data in came if remote == two.address] == [b"first", b""]
        numbers = [data[:2] for remote, data in came if remote == one.address and len(data) == len(PACKET)]
        assert numbers == [number.to_bytes(2, "big") for number in range(MESSAGES * FRAGMENTS)]
        assert puller.sink.events[-1] == ("turn",)
        assert puller.sink.of("opened") == []


async def test_who_is_not_permitted_is_let_in_as_soon_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "HANDSHAKE_MS", int(HASTE_S * 1000))
    async with running() as pusher, running() as puller:
        pusher.transport.open_push(puller.address, puller.transport.pull_places)
        await puller.sink.wait("asked", count=2)
        assert not pusher.transport.send_push(puller.address, b"too early")
        puller.sink.permitted.add(pusher.address)
        await taken(pusher, puller.address, b"now")
        assert (await puller.sink.wait("pushed"))[1:] == (pusher.address, b"now")


async def test_the_first_place_that_answers_serves() -> None:
    async with running() as pusher, running() as puller, running() as another:
        another.sink.permitted.add(pusher.address)
        places = (
            "no-name-is-looked-up:4000",
            "127.0.0.1:99999",
            NOWHERE,
            another.transport.pull_places[0],  # has another key
            *puller.transport.pull_places,
        )
        await connected(pusher, puller, *places)
        known = pusher.transport._pushes[puller.address]
        assert not known._racing
        pusher.transport.open_push(puller.address, places)
        assert pusher.transport._pushes[puller.address] is known
        assert another.sink.of("asked") == []


async def test_other_places_replace_the_former() -> None:
    async with running() as pusher, running() as puller:
        pusher.transport.open_push(puller.address, [NOWHERE])
        assert not pusher.transport.send_push(puller.address, b"nobody there")
        await connected(pusher, puller)
        assert len(pusher.transport._pushes) == 1


async def test_a_peer_that_reads_nothing_costs_its_own_packets_only() -> None:
    async with running() as pusher, running() as puller, running() as other:
        await connected(pusher, puller)
        await connected(pusher, other)
        assert puller.transport._pull is not None
        puller.transport._pull._wake.close()
        sent = 0
        while pusher.transport.send_push(puller.address, PACKET):
            sent += 1
        assert sent < 20_000  # at the most what kernels hold for a connection
        assert pusher.transport.send_push(other.address, b"free")
        assert (await other.sink.wait("pushed", count=2))[2] == b"free"


@pytest.mark.parametrize(("refusals", "takes"), [(1, True), (2, False)])
async def test_room_that_libzmq_has_not_looked_for(refusals: int, takes: bool) -> None:
    """It may also be gone by the second look, with the connection."""

    class Hesitant:
        def __init__(self) -> None:
            self.refusals, self.taken = refusals, list[bytes]()

        def send(self, data: bytes, _flags: int) -> None:
            if self.refusals:
                self.refusals -= 1
                raise zmq.Again
            self.taken.append(data)

        def get(self, _option: int) -> int:
            return int(zmq.POLLOUT)

        def close(self) -> None:
            pass

    async with running() as pusher:
        remote = Identity.generate().address
        pusher.transport.open_push(remote, ())
        hesitant = Hesitant()
        pusher.transport._pushes[remote]._socket = hesitant  # type: ignore[assignment]
        assert pusher.transport.send_push(remote, b"x") is takes
        assert hesitant.taken == [b"x"] * takes


async def test_a_connection_that_takes_nothing_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "STALLED_S", 0.05)
    async with running() as pusher, running() as puller:
        await connected(pusher, puller)
        monkeypatch.setattr(push.Push, "_connect", lambda _self, _place: None)
        known = pusher.transport._pushes[puller.address]
        await puller.transport.close()
        async for _ in turns():
            pusher.transport.send_push(puller.address, b"is anybody there?")
            if not known.is_connected:
                break
        monkeypatch.undo()
        monkeypatch.setattr(push, "STALLED_S", 0.05)
        async with running() as heir:
            known.places = heir.transport.pull_places  # nobody answers there by that key
            async for _ in turns():
                assert not pusher.transport.send_push(puller.address, b"and now?")
                if known._racing:
                    break


async def test_libzmq_connects_again_by_itself() -> None:
    async with running() as pusher, running() as puller:
        await connected(pusher, puller)
        assert puller.transport._pull is not None
        door = puller.transport._pull._doorway
        async for _ in turns():
            if door._connections:  # which may be seen later than what it brought
                break
        [(descriptor, of)] = door._connections.items()
        assert shut_down(descriptor, of)
        await puller.sink.wait("asked", count=2)
        before = len(puller.sink.of("pushed"))
        await taken(pusher, puller.address, b"again")
        await puller.sink.wait("pushed", count=before + 1)


async def test_closed_it_takes_nothing() -> None:
    async with running() as pusher, running() as puller:
        await connected(pusher, puller)
        pusher.transport.close_push(puller.address)
        pusher.transport.close_push(puller.address)
        assert not pusher.transport.send_push(puller.address, b"")
        await pusher.transport.close()
        with pytest.raises(BusClosed):
            pusher.transport.open_push(puller.address, puller.transport.pull_places)


async def test_without_descriptors_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_count: int) -> None:
        raise StartError("file descriptors have run out")

    async with running() as pusher, running() as puller:
        monkeypatch.setattr(push, "STALLED_S", 0.05)
        with monkeypatch.context() as patched:
            patched.setattr(push, "require_descriptors", refuse)
            pusher.transport.open_push(puller.address, puller.transport.pull_places)
            assert not pusher.transport.send_push(puller.address, b"")
        puller.sink.permitted.add(pusher.address)
        await taken(pusher, puller.address)


class TestStrangers:
    """At the PULL, where nobody says HELLO."""

    async def test_without_the_servers_key_nobody_is_asked_about(self) -> None:
        async with running(timeout_s=HASTE_S) as puller:
            with bare_push(puller, server_key=Identity.generate().public) as (_, events):
                await hung_up(events)
            assert puller.sink.events == []

    async def test_a_stranger_is_hung_up_on(self) -> None:
        identity = Identity.generate()
        async with running(timeout_s=HASTE_S) as puller:
            with bare_push(puller, identity=identity) as (_, events):
                await hung_up(events)
            assert puller.sink.events == [("asked", identity.address)]

    async def test_with_the_handler_dead_nobody_comes_in(self) -> None:
        identity = Identity.generate()
        async with running(timeout_s=HASTE_S) as puller:
            puller.sink.permitted.add(identity.address)
            assert puller.transport._zap is not None
            puller.transport._zap.close()
            with bare_push(puller, identity=identity) as (_, events):
                await hung_up(events)
            assert puller.sink.events == []

    async def test_silence_is_cut(self) -> None:
        async with running(timeout_s=HASTE_S) as puller:
            host, _, port = puller.transport.pull_places[0].rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            async with asyncio.timeout(PATIENCE_S):
                while await reader.read(1000):
                    pass
            writer.close()

    async def test_the_oldest_goes_when_there_are_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorway, "descriptors_max", lambda: 2 * doorway.CONNECTIONS_SHARE)
        async with running() as pusher, running() as puller:
            host, _, port = puller.transport.pull_places[0].rpartition(":")
            strangers = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
            async with asyncio.timeout(PATIENCE_S):
                for reader, _ in strangers[:2]:
                    with contextlib.suppress(ConnectionError):
                        while await reader.read(1000):
                            pass
            assert puller.transport._pull is not None
            assert len(puller.transport._pull._doorway) <= 2
            await connected(pusher, puller)
            for _, writer in strangers:
                writer.close()

    async def test_a_message_that_breaks_the_rules_reaches_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(push, "PARTS_PER_TURN", 8)
        monkeypatch.setattr(push, "PACKETS_PER_TURN", 4)
        identity = Identity.generate()
        async with running() as puller:
            puller.sink.permitted.add(identity.address)
            with bare_push(puller, identity=identity) as (pusher, events):
                for parts in (2, 100, 3):
                    pusher.send_multipart([b"part"] * parts)
                for number in range(10):
                    pusher.send(b"%d" % number)
                await puller.sink.wait("pushed", count=10)
                assert [event[1:] for event in puller.sink.of("pushed")] == [
                    (identity.address, b"%d" % number) for number in range(10)
                ]
                pusher.send(bytes(SEALED_BYTES_MAX + 1))
                await hung_up(events)
            assert len(puller.sink.of("pushed")) == 10
