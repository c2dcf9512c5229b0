"""The whole transport: two nodes, and the packets between them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from brokerless.errors import BusClosed, ConfigError, PortInUse, StartError
from brokerless.identity import Identity
from brokerless.protocol.paths import UdpPlace
from brokerless.transport import dialer, listener
from brokerless.transport.wake import TURN_S
from tests.conftest import open_descriptors
from tests.transport.support import (
    PACKET_BYTES_MAX,
    Node,
    bare_context,
    bare_dealer,
    bare_router,
    collect_failures,
    linked,
    receive,
    running,
    turns,
)
from tests.witness import reserved_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio

PLACES = ("127.0.0.1", "::1", "ipc")


def place(name: str, short_directory: Path) -> dict[str, Any]:
    return {"ipc_directory": short_directory} if name == "ipc" else {"host": name}


def sockets_in(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_socket()]


@pytest.mark.parametrize("name", PLACES)
async def test_packets_go_both_ways_between_proven_keys(name: str, short_directory: Path) -> None:
    async with linked(**place(name, short_directory)) as (dialler, dialled, acceptor, accepted):
        assert dialler.sink.of("opened") == [("opened", dialled, acceptor.address)]
        assert acceptor.sink.of("opened") == [("opened", accepted, dialler.address)]
        assert acceptor.sink.packets(accepted) == [b"hello"]
        packets = [os.urandom(size) for size in (0, 1, 255, 256, 8192, PACKET_BYTES_MAX)]
        for count, packet in enumerate(packets, 1):
            assert dialler.transport.send(dialled, packet)
            assert acceptor.transport.send(accepted, packet)
            await acceptor.sink.wait("message", count=count + 1)
            await dialler.sink.wait("message", count=count)
        assert acceptor.sink.packets(accepted) == [b"hello", *packets]
        assert dialler.sink.packets(dialled) == packets
        assert dialler.sink.events[-1] == ("turn",)


@pytest.mark.parametrize("name", PLACES)
async def test_links_within_this_host_are_known_as_such(name: str, short_directory: Path) -> None:
    async with linked(**place(name, short_directory)) as (dialler, dialled, acceptor, accepted):
        for end, link in ((dialler, dialled), (acceptor, accepted)):
            assert end.transport.is_near(link)
            assert end.transport.is_local(link) is (name == "ipc")
            end.transport.cut(link)
            assert not end.transport.is_near(link)


async def test_one_port_on_all_hosts() -> None:
    async with running() as dialler, running("127.0.0.1", "127.0.0.2", "::1", "127.0.0.1") as acceptor:
        assert len({endpoint.rpartition(":")[2] for endpoint in acceptor.endpoints}) == 1
        assert [endpoint.rpartition(":")[0] for endpoint in acceptor.endpoints] == [
            "tcp://127.0.0.1",
            "tcp://127.0.0.2",
            "tcp://[::1]",
        ]
        for endpoint in acceptor.endpoints:
            await dialler.reach(acceptor, endpoint)


@pytest.mark.parametrize(
    "wildcards", [("*",), ("::",), ("0.0.0.0",), ("*", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")]
)
async def test_a_wildcard_takes_every_address(wildcards: tuple[str, ...]) -> None:
    async with running() as dialler, running(*wildcards) as acceptor:
        assert len(acceptor.endpoints) == 1
        port = acceptor.endpoints[0].rpartition(":")[2]
        await dialler.reach(acceptor, f"tcp://127.0.0.1:{port}")


async def test_a_node_that_listens_nowhere_can_dial() -> None:
    node = Node()
    assert await node.transport.start((), 0, None) == ()
    async with running() as acceptor:
        await node.reach(acceptor)
    await node.transport.close()


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("by", ["dialler", "acceptor"])
async def test_a_cut_is_noticed_at_the_other_end_and_not_told_at_this_one(
    name: str, by: str, short_directory: Path
) -> None:
    async with linked(**place(name, short_directory)) as (dialler, dialled, acceptor, accepted):
        cutter, link, other, others_link = (
            (dialler, dialled, acceptor, accepted)
            if by == "dialler"
            else (acceptor, accepted, dialler, dialled)
        )
        cutter.transport.cut(link)
        assert not cutter.transport.send(link, b"nobody's")
        assert await other.sink.wait("closed") == ("closed", others_link, "connection lost")
        assert not other.transport.send(others_link, b"nobody's")
        again = await dialler.reach(acceptor, acceptor.endpoints[-1])
        assert cutter.sink.of("closed") == []
        assert again != dialled
        cutter.transport.cut(link)  # once more does no harm


@pytest.mark.parametrize("leaver", ["dialler", "acceptor"])
async def test_what_was_received_before_the_end_is_delivered_first(leaver: str) -> None:
    async with linked() as (dialler, dialled, acceptor, accepted):
        left, stays, link = (
            (dialler, acceptor, accepted) if leaver == "dialler" else (acceptor, dialler, dialled)
        )
        last = [b"one", b"two", b"goodbye"]
        for packet in last:
            assert left.transport.send(dialled if leaver == "dialler" else accepted, packet)
        await left.transport.close()
        await stays.sink.wait("closed", link)
        assert stays.sink.packets(link)[-3:] == last
        assert [event[0] for event in stays.sink.events[-2:]] == ["closed", "turn"]


async def test_links_are_numbers_of_the_living() -> None:
    async with linked() as (dialler, dialled, acceptor, accepted):
        assert list(dialler.transport.links) == [dialled]
        assert list(acceptor.transport.links) == [accepted]
        dialler.transport.cut(dialled)
        await acceptor.sink.wait("closed")
        assert not dialler.transport.links
        assert not acceptor.transport.links
        dialler.transport.confirm(dialled)
        acceptor.transport.confirm(accepted)


class Flood:
    """Sends as much as each link takes, and goes on when it is writable again."""

    def __init__(self, node: Node, count: int) -> None:
        self.packets = [index.to_bytes(4, "big") * 16_000 for index in range(count)]
        self.sent: dict[int, int] = defaultdict(int)
        self._node = node
        node.sink.on_writable = self.go_on

    def go_on(self, link: int) -> None:
        while self.sent[link] < len(self.packets):
            if not self._node.transport.send(link, self.packets[self.sent[link]]):
                assert not self._node.transport.send(link, b"too early")
                return
            self.sent[link] += 1

    def is_stuck(self, link: int) -> bool:
        return 0 < self.sent[link] < len(self.packets)


class TestBusy:
    """A peer that does not read makes its link busy, and nothing else."""

    async def test_accepted_link(self) -> None:
        async with running() as node, running() as other:
            flood = Flood(node, 400)
            with bare_context() as context:
                peer = bare_dealer(context, node)
                peer.send(b"hello")
                _, link, _ = await node.sink.wait("opened")
                flood.go_on(link)
                others = await other.reach(node)
                assert other.transport.send(others, b"not held up")
                await node.sink.wait("message", count=2)
                assert flood.is_stuck(link)
                assert await receive(peer, 400) == [[packet] for packet in flood.packets]

    async def test_dialled_link(self) -> None:
        identity = Identity.generate()
        async with running() as node:
            flood = Flood(node, 400)
            with bare_context() as context:
                peer, endpoint = bare_router(context, identity)
                link = node.transport.dial(endpoint, identity.address)
                await node.sink.wait("opened", link)
                flood.go_on(link)
                assert flood.is_stuck(link)
                received = await receive(peer, 400)
                assert [body for _, body in received] == flood.packets

    async def test_many_at_once(self) -> None:
        async with running() as node:
            flood = Flood(node, 100)
            with bare_context() as context:
                peers = [bare_dealer(context, node) for _ in range(8)]
                for peer in peers:
                    peer.send(b"hello")
                await node.sink.wait("opened", count=len(peers))
                links = [link for _, link, _ in node.sink.of("opened")]
                for link in links:
                    flood.go_on(link)
                assert all(map(flood.is_stuck, links))
                received = await asyncio.gather(*(receive(peer, 100) for peer in peers))
                assert received == [[[packet] for packet in flood.packets]] * len(peers)

    async def test_an_accepted_link_that_dies_busy_is_closed(self) -> None:
        async with running() as node:
            flood = Flood(node, 400)
            with bare_context() as context:
                peer = bare_dealer(context, node)
                peer.send(b"hello")
                _, link, _ = await node.sink.wait("opened")
                flood.go_on(link)
                peer.close(linger=0)
                await node.sink.wait("closed", link)
                assert flood.is_stuck(link)

    async def test_a_dialled_link_that_dies_busy_is_closed(self) -> None:
        identity = Identity.generate()
        async with running() as node:
            flood = Flood(node, 400)
            with bare_context() as context:
                peer, endpoint = bare_router(context, identity)
                link = node.transport.dial(endpoint, identity.address)
                await node.sink.wait("opened", link)
                flood.go_on(link)
                peer.close(linger=0)
                await node.sink.wait("closed", link)
                assert flood.is_stuck(link)


class Endless:
    """A socket on which there is always another packet, of that link."""

    def __init__(self, link: Any) -> None:
        self._routing_id = getattr(link, "routing_id", b"")
        self._frame = SimpleNamespace(
            more=False, bytes=b"more", get=lambda name: getattr(link, "user_id", "")
        )

    def recv(self, flags: int, copy: bool = True) -> Any:
        return self._routing_id if copy else self._frame


@pytest.mark.parametrize(("packet_s", "packets"), [(0.0, 32), (0.4 * TURN_S, 3), (5 * TURN_S, 1)])
@pytest.mark.parametrize("end", ["dialler", "acceptor"])
async def test_a_turn_ends_in_time_however_long_packets_take(
    monkeypatch: pytest.MonkeyPatch, end: str, packet_s: float, packets: int
) -> None:
    now = 100.0

    def take(link: int, packet: bytes) -> None:
        nonlocal now
        now += packet_s

    async with linked() as (dialler, dialled, acceptor, accepted):
        node, number, module = (
            (dialler, dialled, dialer) if end == "dialler" else (acceptor, accepted, listener)
        )
        link: Any = node.transport._table.get(number)
        with monkeypatch.context() as patch:
            patch.setattr(module, "monotonic", lambda: now)
            receiver, name = (link, "_socket") if end == "dialler" else (node.transport._listener, "socket")
            patch.setattr(receiver, name, Endless(link))
            patch.setattr(node.sink, "on_message", take)
            before = len(node.sink.packets())
            assert receiver._look()  # there is more
            assert len(node.sink.packets()) - before == packets
            assert node.sink.events[-1] == ("turn",)


async def test_fifty_links_echo() -> None:
    count, rounds = 50, 20
    async with running() as hub, running() as dialler:

        def echo(link: int, packet: bytes) -> None:
            assert hub.transport.send(link, packet)

        hub.sink.on_message = echo
        links = [dialler.dial(hub) for _ in range(count)]
        await dialler.sink.wait("opened", count=count)
        for turn in range(rounds):
            for link in links:
                assert dialler.transport.send(link, b"%d of %d" % (turn, link))
            await dialler.sink.wait("message", count=count * (turn + 1))
        for link in links:
            assert dialler.sink.packets(link) == [b"%d of %d" % (turn, link) for turn in range(rounds)]
        await hub.transport.close()
        await dialler.sink.wait("closed", count=count)


async def test_a_sink_that_raises_loses_no_packet_after() -> None:
    failures: list[BaseException] = []
    collect_failures(failures)
    async with linked() as (dialler, dialled, acceptor, _accepted):

        def fail(_link: int, packet: bytes) -> None:
            if packet == b"bad":
                raise ValueError("of the sink")

        dialler.sink.on_message = acceptor.sink.on_message = fail
        for packet in (b"bad", b"good", b"better"):
            assert dialler.transport.send(dialled, packet)
        await acceptor.sink.wait("message", count=4)
        assert acceptor.sink.packets() == [b"hello", b"bad", b"good", b"better"]
        for packet in (b"bad", b"good"):
            assert acceptor.transport.send(_accepted, packet)
        await dialler.sink.wait("message", count=2)
    assert [str(failure) for failure in failures] == ["of the sink"] * 2


async def test_close_leaves_nothing(short_directory: Path) -> None:
    threads, descriptors = threading.enumerate(), open_descriptors()
    async with running(ipc_directory=short_directory) as node, running() as other:
        assert len(sockets_in(short_directory)) == 1
        for endpoint in node.endpoints:
            await other.reach(node, endpoint)
        other.dial(node, "tcp://127.0.0.1:9")
    assert threading.enumerate() == threads
    assert open_descriptors() == descriptors
    assert not sockets_in(short_directory)
    assert node.sink.of("closed") + other.sink.of("closed") == []
    await node.transport.close()
    assert not node.transport.send(1, b"")
    with pytest.raises(BusClosed):
        other.dial(node)
    with pytest.raises(BusClosed):
        await node.transport.start(("127.0.0.1",), 0, None)


async def test_close_where_the_interpreter_exits_and_allows_no_thread(
    allow_no_threads: Callable[[], None],
) -> None:
    descriptors = open_descriptors()
    async with running() as node, running() as dialler:
        await dialler.reach(node)
        allow_no_threads()
    assert open_descriptors() == descriptors


async def test_close_in_the_middle_of_a_crowd(caplog: pytest.LogCaptureFixture) -> None:
    def crowd(host: str, port: int) -> None:
        with contextlib.suppress(OSError):  # until nobody listens any more
            while True:
                with socket.create_connection((host, port)):
                    pass

    for _ in range(4):
        async with running() as node, running() as dialler:
            host, _, port = node.endpoints[0].removeprefix("tcp://").rpartition(":")
            crowds = [asyncio.create_task(asyncio.to_thread(crowd, host, int(port))) for _ in range(2)]
            for _ in range(5):
                await dialler.reach(node)
            dialler.dial(node)
        await asyncio.gather(*crowds)
    assert not caplog.records


async def test_dial_before_start() -> None:
    node = Node()
    with pytest.raises(BusClosed):
        node.transport.dial("tcp://127.0.0.1:4000", node.address)


class TestStartFails:
    """An error at the start leaves nothing behind: the leak check watches."""

    async def test_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            with pytest.raises(PortInUse, match="choose another port"):
                async with running("::1", "127.0.0.1", port=holder.getsockname()[1]):
                    pass

    async def test_no_such_address(self) -> None:
        with pytest.raises(StartError, match="no such address"):
            async with running("127.0.0.1", "192.0.2.1"):
                pass

    async def test_not_an_address(self) -> None:
        with pytest.raises(StartError, match="expected an IP address"):
            async with running("no-such-interface"):
                pass

    async def test_path_too_long(self, short_directory: Path) -> None:
        with pytest.raises(ConfigError, match="too long"):
            async with running(ipc_directory=short_directory / ("d" * 90)):
                pass

    async def test_no_such_directory(self, short_directory: Path) -> None:
        with pytest.raises(StartError, match=os.strerror(errno.ENOENT)):
            async with running(ipc_directory=short_directory / "missing"):
                pass

    async def test_a_loop_that_cannot_watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
        with pytest.raises(ConfigError, match="selector"):
            async with running():
                pass

    async def test_libzmq_without_curve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zmq, "has", lambda _: False)
        with pytest.raises(StartError, match="CURVE"):
            async with running():
                pass


def run_script(script: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=20)


async def test_use_in_a_forked_child_raises_and_does_no_harm() -> None:
    await asyncio.to_thread(
        run_script,
        """
import asyncio, os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads, which is the point
from brokerless.errors import ForkedProcessError
from tests.transport.support import linked

async def main():
    async with linked() as (dialler, dialled, acceptor, accepted):
        child = os.fork()
        if not child:
            try:
                dialler.dial(acceptor)
            except ForkedProcessError:
                closing = dialler.transport.close()
                try:
                    closing.send(None)
                except StopIteration:
                    os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert dialler.transport.send(dialled, b"unharmed")
        await acceptor.sink.wait("message", count=2)

asyncio.run(main())
""",
    )


async def test_out_of_descriptors() -> None:
    """Dials and strangers are refused, the open link lives on, and nobody spins."""
    await asyncio.to_thread(
        run_script,
        """
import asyncio, os, resource, socket
from brokerless.errors import StartError
from tests.transport.support import PATIENCE_S, linked, running

def raises(command):
    try:
        command()
    except StartError as error:
        return "descriptors" in str(error)

async def main():
    async with linked() as (dialler, dialled, acceptor, accepted):
        strangers = [socket.socket() for _ in range(20)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        assert raises(lambda: dialler.dial(acceptor))
        try:
            async with running():
                raise AssertionError
        except StartError:
            pass
        host, _, port = acceptor.endpoints[0].removeprefix("tcp://").rpartition(":")
        for stranger in strangers:
            stranger.connect((host, int(port)))
            stranger.setblocking(False)
        for stranger in strangers:  # each of them is hung up on
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while await asyncio.get_running_loop().sock_recv(stranger, 1000):
                        pass
            except ConnectionError:
                pass
        for turn in range(50):
            assert dialler.transport.send(dialled, b"alive")
            await acceptor.sink.wait("message", count=turn + 2)
        for descriptor in taken:
            os.close(descriptor)
        await dialler.reach(acceptor)
        for stranger in strangers:
            stranger.close()

asyncio.run(main())
""",
    )


class TestDatagrams:
    """Beside the links; what each of the planes does is tested with it."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    async def test_by_udp_and_by_tcp(self, host: str) -> None:
        async with running(host) as one, running(host) as other:
            ours, theirs = (udp_place(node.transport.udp_places[0]) for node in (one, other))
            assert one.transport.send_datagram(theirs, b"by UDP")
            assert (await other.sink.wait("datagram"))[1:] == (ours._replace(local=0), b"by UDP")
            other.sink.permitted.add(one.address)
            one.transport.open_push(other.address, other.transport.pull_places)
            async for _ in turns():
                if one.transport.send_push(other.address, b"by TCP"):
                    break
            assert (await other.sink.wait("pushed"))[1:] == (one.address, b"by TCP")

    async def test_the_port_that_was_asked_for_and_the_next(self) -> None:
        hosts = ("127.0.0.1", "::1")
        with reserved_port(*hosts) as port:
            async with running(*hosts, port=port) as node:
                assert node.transport.udp_places == (f"127.0.0.1:{port}", f"[::1]:{port}")
                assert node.transport.pull_places == (f"127.0.0.1:{port + 1}", f"[::1]:{port + 1}")

    async def test_the_next_port_may_be_somebody_elses(self, caplog: pytest.LogCaptureFixture) -> None:
        with reserved_port() as port, socket.create_server(("127.0.0.1", port + 1)):
            async with running(port=port) as node:
                assert node.endpoints == (f"tcp://127.0.0.1:{port}",)
                assert node.transport.pull_places != (f"127.0.0.1:{port + 1}",)
        assert "datagrams over TCP use another port" in caplog.text

    async def test_without_udp_there_is_tcp(self, caplog: pytest.LogCaptureFixture) -> None:
        hosts = ("::1", "127.0.0.1")
        with reserved_port(*hosts) as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
            holder.bind(("127.0.0.1", port))
            async with running(*hosts, port=port) as node:
                assert len(node.endpoints) == len(node.transport.pull_places) == 2
                assert node.transport.udp_places == ()
                assert node.transport.send_datagram(UdpPlace("127.0.0.1", port), b"lost")
        assert [(record.name, record.levelname) for record in caplog.records] == [("dittobus", "WARNING")]
        assert "no UDP" in caplog.text

    async def test_a_node_that_listens_nowhere_can_push(self) -> None:
        node = Node()
        await node.transport.start((), 0, None)
        assert node.transport.udp_places == node.transport.pull_places == ()
        async with running() as other:
            other.sink.permitted.add(node.address)
            node.transport.open_push(other.address, other.transport.pull_places)
            async for _ in turns():
                if node.transport.send_push(other.address, b"out"):
                    break
            await other.sink.wait("pushed")
        await node.transport.close()


def udp_place(written: str) -> UdpPlace:
    host, _, port = written.rpartition(":")
    return UdpPlace(host.strip("[]"), int(port))
