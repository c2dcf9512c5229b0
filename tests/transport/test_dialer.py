"""How a dial ends: with a link, or with a reason, in time."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from brokerless.errors import ConfigError
from brokerless.identity import Identity
from brokerless.transport import dialer
from tests.transport.support import HASTE_S, PATIENCE_S, bare_context, bare_router, linked, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.asyncio


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A TCP socket that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def endpoint_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"tcp://{host}:{port}"


async def test_nobody_listens() -> None:
    async with running() as node:
        for endpoint in ("tcp://127.0.0.1:1", "tcp://[::1]:1", "ipc:///no/such/socket"):
            link = node.transport.dial(endpoint, node.address)
            assert (await node.sink.wait("closed", link))[2] == "nobody listens there"
        assert node.sink.events[-1] == ("turn",)
        assert not node.transport.links


async def test_a_black_hole_ends_at_the_deadline(listening: socket.socket) -> None:
    async with running(timeout_s=HASTE_S) as node:
        begun = asyncio.get_running_loop().time()
        link = node.transport.dial(endpoint_of(listening), node.address)
        assert "no answer within 0.5 s" in (await node.sink.wait("closed", link))[2]
        assert asyncio.get_running_loop().time() - begun >= HASTE_S
        assert not node.transport.send(link, b"")


async def test_a_listener_that_hangs_up(listening: socket.socket) -> None:
    async with running() as node:
        link = node.transport.dial(endpoint_of(listening), node.address)
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        connection.close()
        assert "hung up in the handshake" in (await node.sink.wait("closed", link))[2]


async def test_a_listener_of_another_language(listening: socket.socket) -> None:
    async with running() as node:
        link = node.transport.dial(endpoint_of(listening), node.address)
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        with connection:
            await asyncio.get_running_loop().sock_sendall(connection, b"HTTP/1.1 400 Bad Request\r\n" * 10)
            assert await node.sink.wait("closed", link)


async def test_the_wrong_key() -> None:
    async with running() as node, running() as other:
        link = node.transport.dial(other.endpoints[0], Identity.generate().address)
        assert "not the peer we expect" in (await node.sink.wait("closed", link))[2]
        assert node.sink.of("opened") == other.sink.events == []


async def test_a_listener_without_curve() -> None:
    async with running() as node:
        with bare_context() as context:
            router = context.socket(zmq.ROUTER)
            router.bind("tcp://127.0.0.1:*")
            link = node.transport.dial(router.get_string(zmq.LAST_ENDPOINT), node.address)
            assert await node.sink.wait("closed", link)
            assert node.sink.of("opened") == []


async def test_a_cut_dial_is_told_no_more(listening: socket.socket) -> None:
    async with running(timeout_s=HASTE_S) as node:
        cut = node.transport.dial(endpoint_of(listening), node.address)
        other = node.transport.dial(endpoint_of(listening), node.address)
        node.transport.cut(cut)
        await node.sink.wait("closed", other)  # later than the other's would be
        assert node.sink.of("closed", cut) == []


async def test_every_dial_has_a_routing_id_of_its_own() -> None:
    identity = Identity.generate()
    async with running() as node:
        with bare_context() as context:
            router, endpoint = bare_router(context, identity)
            seen = set()
            for _ in range(20):
                link = node.transport.dial(endpoint, identity.address)
                await node.sink.wait("opened", link)
                assert node.transport.send(link, b"hello")
                routing_id, packet = await asyncio.to_thread(router.recv_multipart)
                assert packet == b"hello"
                assert len(routing_id) == 16
                assert routing_id[0] != 0
                seen.add(routing_id)
                node.transport.cut(link)
            assert len(seen) == 20


async def test_too_many_parts_from_an_acceptor() -> None:
    identity = Identity.generate()
    async with running() as node:
        with bare_context() as context:
            router, endpoint = bare_router(context, identity)
            link = node.transport.dial(endpoint, identity.address)
            await node.sink.wait("opened", link)
            assert node.transport.send(link, b"hello")
            routing_id, _ = await asyncio.to_thread(router.recv_multipart)
            router.send_multipart([routing_id, b"one"])
            router.send_multipart([routing_id, b"two", b"three"])
            router.send_multipart([routing_id, b"four"])
            assert await node.sink.wait("closed", link) == ("closed", link, "malformed")
            assert node.sink.packets(link) == [b"one"]


async def test_an_end_seen_before_the_last_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "PACKETS_PER_TURN", 1)
    identity, last = Identity.generate(), [b"one", b"two", b"goodbye"]
    async with running() as node:
        with bare_context() as context:
            router, endpoint = bare_router(context, identity)
            link = node.transport.dial(endpoint, identity.address)
            await node.sink.wait("opened", link)
            assert node.transport.send(link, b"hello")
            routing_id, _ = await asyncio.to_thread(router.recv_multipart)
            for packet in last:
                router.send_multipart([routing_id, packet])
            router.close(linger=int(PATIENCE_S * 1000))
            dialled = node.transport._table.get(link)
            assert isinstance(dialled, dialer.DialledLink)
            assert dialled._monitor is not None
            assert dialled._monitor._socket.poll(int(PATIENCE_S * 1000))
            dialled._monitor.sweep()
            await node.sink.wait("closed", link)
            assert node.sink.packets() == last


async def test_a_send_that_swallows_the_signal_of_a_packet() -> None:
    async with linked() as (node, link, other, others):
        dialled = node.transport._table.get(link)
        assert isinstance(dialled, dialer.DialledLink)
        assert dialled._socket is not None
        descriptor = int(dialled._socket.get(zmq.FD))
        assert node.transport.send(link, b"the second, after which libzmq says that there is room again")
        await other.sink.wait("message", count=2)
        assert other.transport.send(others, b"waiting")
        assert dialled._socket.poll(int(PATIENCE_S * 1000))
        while select.select([descriptor], [], [], 0)[0]:
            dialled._socket.get(zmq.EVENTS)  # as a send does, but only once a millisecond or so
        assert node.transport.send(link, b"the third, of which it says nothing")
        await node.sink.wait("message")
        assert node.sink.packets() == [b"waiting"]


async def test_a_cut_while_packets_are_delivered() -> None:
    identity = Identity.generate()
    async with running() as node:
        with bare_context() as context:
            router, endpoint = bare_router(context, identity)

            def cut(link: int, _packet: bytes) -> None:
                node.transport.cut(link)

            node.sink.on_message = cut
            link = node.transport.dial(endpoint, identity.address)
            await node.sink.wait("opened", link)
            assert node.transport.send(link, b"hello")
            routing_id, _ = await asyncio.to_thread(router.recv_multipart)
            for packet in (b"one", b"two", b"three"):
                router.send_multipart([routing_id, packet])
            await node.sink.wait("message", link)
            await node.sink.wait("turn", count=2)
            assert node.sink.packets() == [b"one"]
            assert node.sink.of("closed") == []


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1", "tcp://127.0.0.1:0", "udp://127.0.0.1:1", "ipc://", "nonsense"]
)
async def test_endpoints_that_are_none(endpoint: str) -> None:
    async with running() as node:
        with pytest.raises(ConfigError):
            node.transport.dial(endpoint, node.address)
        assert not node.transport.links


class TestNames:
    """Hosts given by name are looked up off libzmq's thread, and all their addresses tried in order."""

    @staticmethod
    def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> list[str]:
        asked: list[str] = []

        async def getaddrinfo(host: str, port: str, **_: Any) -> list[Any]:
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port))) for host in hosts]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        return asked

    async def test_the_first_address_that_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with running() as node, running() as other:
            port = other.endpoints[0].rpartition(":")[2]
            asked = self.resolve_to(monkeypatch, "127.0.0.3", "::1", "127.0.0.1")
            await node.reach(other, f"tcp://robot.example:{port}")
            assert asked == ["robot.example"]

    async def test_none_of_them_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with running() as node:
            self.resolve_to(monkeypatch, "127.0.0.3", "::1")
            link = node.transport.dial("tcp://robot.example:1", node.address)
            assert (await node.sink.wait("closed", link))[2] == "nobody listens there"

    @pytest.mark.parametrize(
        "error", [socket.gaierror(socket.EAI_NONAME, "unknown name"), UnicodeError("impossible name")]
    )
    async def test_unknown(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        async def getaddrinfo(*_: Any, **__: Any) -> None:
            raise error

        async with running() as node:
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
            link = node.transport.dial("tcp://robot.example:1", node.address)
            reason = (await node.sink.wait("closed", link))[2]
            assert reason.startswith("robot.example: ")
            assert str(error) in reason

    @pytest.mark.parametrize("end", ["cut", "deadline", "close"])
    async def test_a_resolver_that_does_not_answer(self, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, given_up = asyncio.Event(), asyncio.Event()

        async def getaddrinfo(*_: Any, **__: Any) -> None:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()

        async with running(timeout_s=HASTE_S) as node:
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
            link = node.transport.dial("tcp://robot.example:1", node.address)
            async with asyncio.timeout(PATIENCE_S):
                await asked.wait()
                if end == "cut":
                    node.transport.cut(link)
                elif end == "deadline":
                    await node.sink.wait("closed", link)
                else:
                    await node.transport.close()
                await given_up.wait()
