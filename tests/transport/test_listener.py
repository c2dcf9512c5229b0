"""What the accepting half does with strangers, impostors and those who do not keep the rules."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from typing import TYPE_CHECKING

import pytest
import zmq

from brokerless.address import Address
from brokerless.identity import Identity
from brokerless.transport import listener
from tests.transport.support import (
    HASTE_S,
    PACKET_BYTES_MAX,
    PATIENCE_S,
    Node,
    bare_context,
    bare_dealer,
    fresh_routing_id,
    hung_up,
    linked,
    receive,
    running,
    watched,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio

GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3"


async def connect(node: Node) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect a bare TCP socket."""
    host, _, port = node.endpoints[0].removeprefix("tcp://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def reads_end(node: Node, says: bytes) -> None:
    """Connect a bare TCP socket, say that, and wait until the node hangs up."""
    reader, writer = await connect(node)
    try:
        writer.write(says)
        async with asyncio.timeout(PATIENCE_S):
            while await reader.read(65536):
                pass
    except ConnectionError:
        pass
    finally:
        writer.close()


async def still_serves(node: Node) -> None:
    async with running() as good:
        await good.heard_by(node, b"a good peer")
        assert node.sink.packets()[-1] == b"a good peer"


class TestStrangers:
    """Connections that do not become links are closed, and service goes on."""

    @pytest.mark.parametrize(
        "says",
        [b"", GREETING, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(200), b"\xff" * 1000],
        ids=["silence", "half a greeting", "HTTP", "zeros", "ones"],
    )
    async def test_whoever_speaks_no_zmtp(self, says: bytes) -> None:
        async with running(timeout_s=HASTE_S) as node:
            await reads_end(node, says)
            assert node.sink.events == []
            await still_serves(node)

    async def test_a_thousand_of_them(self) -> None:
        chance = random.Random(26)
        async with running(timeout_s=HASTE_S) as node:
            for _ in range(5):
                said = [chance.randbytes(chance.randrange(200)) for _ in range(200)]
                await asyncio.gather(*(reads_end(node, says) for says in said))
            assert node.sink.events == []
            await still_serves(node)

    async def test_silence_after_curve(self) -> None:
        async with running(timeout_s=HASTE_S) as node:
            with bare_context() as context:
                _silent, events = watched(bare_dealer, context, node)
                await hung_up(events)
                assert node.sink.events == []

    async def test_a_link_that_is_not_confirmed_is_cut_and_a_confirmed_one_is_not(self) -> None:
        async with running(timeout_s=HASTE_S) as node, running() as friend, running() as stranger:
            node.sink.on_message = lambda link, _packet: node.transport.confirm(link)
            _, confirmed = await friend.heard_by(node, b"a proper HELLO")
            node.sink.on_message = None
            strangers, unconfirmed = await stranger.heard_by(node, b"nonsense")
            assert "stranger" in (await node.sink.wait("closed", unconfirmed))[2]
            await stranger.sink.wait("closed", strangers)
            # The friend came first, so its time, were it running, would be over.
            assert node.transport.send(confirmed, b"welcome")
            await friend.sink.wait("message")
            assert node.sink.of("closed", confirmed) == []

    async def test_more_than_may_wait_push_out_the_oldest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listener, "STRANGERS_MAX", 3)
        async with running() as node:
            strangers = [await connect(node) for _ in range(4)]
            async with asyncio.timeout(PATIENCE_S):
                while await strangers[0][0].read(1000):
                    pass
            assert not any(reader.at_eof() for reader, _ in strangers[1:])
            await still_serves(node)
            for _, writer in strangers:
                writer.close()

    async def test_another_user_of_the_host(
        self, short_directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        us = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: us + 1)
        async with running() as other, running(ipc_directory=short_directory) as node:
            link = other.dial(node, node.endpoints[-1])
            await other.sink.wait("closed", link)
            assert node.sink.events == []
            await still_serves(node)


class TestImpostors:
    """A routing id belongs to the key and the connection that brought it."""

    async def test_a_second_claim_leaves_the_first_untouched(self) -> None:
        routing_id = fresh_routing_id()
        async with running(timeout_s=HASTE_S) as node:
            with bare_context() as context:
                victim, _events, link = await self.confirmed(node, context, routing_id)
                impostor, events = watched(bare_dealer, context, node, routing_id=routing_id)
                with contextlib.suppress(zmq.Again):  # it may have been hung up on by now
                    for _ in range(3):
                        impostor.send(b"I am the victim", zmq.NOBLOCK)
                await hung_up(events)
                victim.send(b"still here")
                await node.sink.wait("message", count=2)
                assert node.sink.packets() == [b"hello", b"still here"]
                assert node.sink.of("closed", link) == []
                assert node.transport.send(link, b"to the victim")
                assert await receive(victim) == [[b"to the victim"]]

    async def confirmed(
        self, node: Node, context: zmq.Context[zmq.Socket[bytes]], routing_id: bytes
    ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes], int]:
        """A watched peer that was heard and may stay, and its link; it tries until it is there in time."""
        node.sink.on_message = lambda link, _packet: node.transport.confirm(link)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                dealer, events = watched(bare_dealer, context, node, routing_id=routing_id)
                dealer.send(b"hello")
                while not events.poll(0):
                    if node.sink.packets():
                        return dealer, events, node.sink.of("message")[0][1]
                    await asyncio.sleep(0)
                events.close()
                dealer.close(linger=0)

    async def test_a_successor_with_another_key_gets_nothing_of_the_old_link(self) -> None:
        """The victim goes and another comes with its routing id, while we see neither."""
        routing_id, identity = fresh_routing_id(), Identity.generate()
        async with running(timeout_s=4 * PATIENCE_S) as node:
            with bare_context() as context:
                victim = bare_dealer(context, node, routing_id=routing_id)
                victim.send(b"hello")
                _, link, victims_address = await node.sink.wait("opened")
                assert victims_address != identity.address
                await node.sink.wait("message", link)
                victim.close(linger=0)
                _successor, events = self.take_over(node, context, routing_id, identity)
                await node.sink.wait("closed", link)
                await hung_up(events)
                await still_serves(node)
                assert b"as the victim" not in node.sink.packets()

    def take_over(
        self,
        node: Node,
        context: zmq.Context[zmq.Socket[bytes]],
        routing_id: bytes,
        identity: Identity,
    ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Become the routing id's next holder, and speak, while the loop stands still."""
        accepting, zap = node.transport._listener, node.transport._zap
        assert accepting is not None
        assert zap is not None
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            successor, events = watched(bare_dealer, context, node, routing_id=routing_id, identity=identity)
            successor.send(b"as the victim")
            attempt = time.monotonic() + HASTE_S
            while time.monotonic() < attempt:
                zap._look()
                if accepting.socket.poll(10):
                    accepting._wake.nudge()
                    return successor, events
            events.close()
            successor.close(linger=0)  # libzmq still took the routing id for the victim's
        raise AssertionError("nobody could take over")

    @pytest.mark.parametrize("routing_id", [b"", b"short", b"\1" * 17, b"\1" * 200])
    async def test_routing_ids_of_another_length(self, routing_id: bytes) -> None:
        async with running() as node:
            with bare_context() as context:
                dealer, events = watched(bare_dealer, context, node, routing_id=routing_id)
                with contextlib.suppress(zmq.Again):  # it may have been hung up on by now
                    for _ in range(3):
                        dealer.send(b"hello", zmq.NOBLOCK)
                await hung_up(events)
                assert node.sink.events == [("turn",)] * len(node.sink.events)
            await still_serves(node)

    async def test_the_address_is_the_proven_key(self) -> None:
        identity = Identity.generate()
        async with running() as node:
            with bare_context() as context:
                dealer = bare_dealer(context, node, identity=identity)
                dealer.send(b"hello")
                assert (await node.sink.wait("opened"))[2] == Address(identity.public)


class TestMalformed:
    """Who does not keep to one part is cut, and others are not."""

    @pytest.mark.parametrize("parts", [2, 3, 5000])
    async def test_too_many_parts(self, parts: int) -> None:
        async with linked() as (friend, friends, node, _):
            with bare_context() as context:
                dealer, events = watched(bare_dealer, context, node)
                dealer.send(b"hello")
                _, link, _ = await node.sink.wait("opened", count=2)
                await node.sink.wait("message", link)
                node.transport.confirm(link)  # a stranger may not say so much
                dealer.send_multipart([b"part"] * parts)
                dealer.send(b"after")
                assert (await node.sink.wait("closed", link))[2] == "malformed"
                await hung_up(events)
                assert friend.transport.send(friends, b"undisturbed")
                await node.sink.wait("message", count=3)
                assert node.sink.packets(link) == [b"hello"]

    async def test_too_many_parts_at_first(self) -> None:
        async with running() as node:
            with bare_context() as context:
                dealer, events = watched(bare_dealer, context, node)
                dealer.send_multipart([b"hello", b"world"])
                dealer.send(b"after")
                await hung_up(events)
                assert node.sink.of("opened") == node.sink.of("message") == []
            await still_serves(node)

    async def test_too_large_a_packet(self) -> None:
        async with running() as node:
            with bare_context() as context:
                dealer, events = watched(bare_dealer, context, node)
                dealer.send(b"hello")
                _, link, _ = await node.sink.wait("message")
                node.transport.confirm(link)  # a stranger may not say so much
                dealer.send(bytes(PACKET_BYTES_MAX))
                assert len((await node.sink.wait("message", count=2))[2]) == PACKET_BYTES_MAX
                dealer.send(bytes(PACKET_BYTES_MAX + 1))
                await node.sink.wait("closed", link)
                await hung_up(events)
                assert len(node.sink.packets()) == 2


async def test_a_first_packet_seen_before_its_connection() -> None:
    async with running() as node:
        accepting, zap = node.transport._listener, node.transport._zap
        assert accepting is not None
        assert zap is not None
        with bare_context() as context:
            dealer = bare_dealer(context, node)
            dealer.send(b"hello")
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline and not accepting.socket.poll(10):
                zap._look()
            accepting._look()  # before the monitor's turn comes
            assert [event[0] for event in node.sink.events] == ["opened", "message", "turn"]


async def test_an_end_seen_before_the_last_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PACKETS_PER_TURN", 1)
    async with running() as node:
        accepting = node.transport._listener
        assert accepting is not None
        with bare_context() as context:
            dealer = bare_dealer(context, node)
            dealer.send(b"hello")
            _, link, _ = await node.sink.wait("message")
            for packet in (b"one", b"goodbye"):  # with more, libzmq waits for us before it sees the end
                dealer.send(packet)
            dealer.close(linger=int(PATIENCE_S * 1000))
            assert accepting._monitor._socket.poll(int(PATIENCE_S * 1000))
            accepting._monitor.sweep()
            await node.sink.wait("closed", link)
            assert node.sink.packets() == [b"hello", b"one", b"goodbye"]


async def test_packets_of_a_link_that_was_cut_are_nobodys() -> None:
    async with running() as node:
        with bare_context() as context:
            dealer, events = watched(bare_dealer, context, node)

            def cut(link: int, _packet: bytes) -> None:
                node.transport.cut(link)

            node.sink.on_message = cut
            for index in range(100):
                dealer.send(b"%d" % index)
            await hung_up(events)
            assert node.sink.packets() == [b"0"]
            assert len(node.sink.of("opened")) == 1
        node.sink.on_message = None
        await still_serves(node)


class LateFrame:
    """The last part of a packet whose connection is gone; its descriptor has come to be another's."""

    more = False

    def __init__(self, user_id: str, descriptor: int) -> None:
        self._properties: dict[str | int, str | int] = {"User-Id": user_id, zmq.SRCFD: descriptor}

    def get(self, name: str | int) -> str | int:
        return self._properties[name]


async def test_what_a_cut_link_sent_before_is_not_held_against_who_got_its_descriptor() -> None:
    async with linked() as (_, _, node, accepted), running() as good:
        listener = node.transport._listener
        assert listener is not None
        (link,) = listener._links.values()
        user_id = link.user_id
        node.transport.cut(accepted)
        ours = await good.reach(node)
        assert good.transport.send(ours, b"hello again")
        await node.sink.wait("message", count=2)
        (heir,) = [one for one in listener._connections.values() if one.link not in (None, link)]
        late = LateFrame(user_id, heir.descriptor)
        listener._receive_unusual(link.routing_id, link, late)  # type: ignore[arg-type]
        assert not heir.refused
        assert good.transport.send(ours, b"still here")
        assert (await node.sink.wait("message", count=3))[2] == b"still here"


async def test_a_cut_within_link_opened_keeps_the_first_packet_back() -> None:
    async with running() as node, running() as other:
        opened = node.sink.link_opened

        def cut(link: int, remote: Address) -> None:
            opened(link, remote)
            node.transport.cut(link)

        node.sink.link_opened = cut  # type: ignore[method-assign]
        link = await other.reach(node)
        assert other.transport.send(link, b"hello")
        await other.sink.wait("closed", link)
        assert [event[0] for event in node.sink.events if event != ("turn",)] == ["opened"]
