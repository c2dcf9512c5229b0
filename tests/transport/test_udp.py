"""UDP sockets: what comes, what goes, and what the kernel has to say about it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest

from brokerless.errors import PortInUse, StartError
from brokerless.protocol.paths import UdpPlace
from brokerless.transport import busy_poll, udp
from brokerless.transport.udp import UdpSockets
from tests.transport.support import PATIENCE_S, Recorder, collect_failures

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.asyncio

DATAGRAM = bytes(1200)


class Opened:
    """Sockets with their sink, and where to reach them."""

    def __init__(self, *hosts: str, port: int = 0) -> None:
        self.sink = Recorder()
        self.udp = UdpSockets(self.sink)
        self.written = self.udp.open(hosts or ("127.0.0.1",), port, asyncio.get_running_loop())

    @property
    def places(self) -> list[UdpPlace]:
        parted = [place.rpartition(":") for place in self.written]
        return [UdpPlace(host.strip("[]"), int(port)) for host, _, port in parted]


@contextlib.contextmanager
def opened(*hosts: str, port: int = 0) -> Iterator[Opened]:
    one = Opened(*hosts, port=port)
    try:
        yield one
    finally:
        one.udp.close()


@contextlib.contextmanager
def bare(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, UdpPlace]]:
    """A plain socket, and where it is."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as plain:
        plain.bind((host, 0))
        plain.settimeout(10)
        yield plain, UdpPlace(*plain.getsockname()[:2])


def await_data(readable: socket.socket) -> None:
    """Wait while the loop stands still; the kernel may be busy, too."""
    assert select.select([readable], [], [], PATIENCE_S)[0]


class Refusing:
    """Stands in for one of our sockets, and fails as often as it is told to."""

    def __init__(self, real: socket.socket, *errors: OSError) -> None:
        self._real = real
        self.errors = list(errors)

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def sendto(self, data: bytes, address: Any) -> int:
        self._fail()
        return self._real.sendto(data, address)

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        self._fail()
        return self._real.recvfrom(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def replace_socket(of: Opened, *errors: OSError) -> Refusing:
    bound = of.udp._bound[0]
    refusing = Refusing(bound.socket, *errors)
    of.udp._bound[0] = bound._replace(socket=refusing)  # type: ignore[arg-type]
    return refusing


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
async def test_datagrams_go_both_ways_and_say_where_they_come_from(host: str) -> None:
    with opened(host) as one, opened(host) as other:
        for data in (b"", b"\x80\xff", DATAGRAM):
            assert one.udp.send(other.places[0], data)
            await other.sink.wait("turn", count=len(other.sink.of("turn")) + 1)
        assert [event[2] for event in other.sink.of("datagram")] == [b"", b"\x80\xff", DATAGRAM]
        _, place, _ = other.sink.of("datagram")[0]
        assert place == one.places[0]._replace(local=0)
        assert other.udp.send(place, b"an answer")
        assert (await one.sink.wait("datagram"))[2] == b"an answer"
        assert one.udp.lost == other.udp.lost == 0


async def test_a_quick_exchange_keeps_the_loop_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_poll, "POLL_S", 10.0)  # however slow this machine is
    with opened() as one, opened() as other:
        for count in range(1, busy_poll.PAUSE_MIN + 1):
            assert one.udp.send(other.places[0], b"a question")
            await other.sink.wait("datagram", count=count)
            assert other.udp.send(one.places[0], b"an answer")
            await one.sink.wait("datagram", count=count)
        polling = one.udp._busy_poll
        assert polling is not None
        assert not polling._is_polling
        assert one.udp.send(other.places[0], b"one more")
        assert polling._is_polling
        one.udp.close()
        await asyncio.sleep(0)
        assert not polling._is_polling


async def test_each_host_has_its_socket_and_all_have_one_port() -> None:
    with opened("127.0.0.1", "127.0.0.2", "::1", "127.0.0.1") as node, bare() as (plain, plain_place):
        assert [place.host for place in node.places] == ["127.0.0.1", "127.0.0.2", "::1"]
        assert len({place.port for place in node.places}) == 1
        for local, host in enumerate(("127.0.0.1", "127.0.0.2")):
            assert node.udp.send(plain_place._replace(local=local), b"from here")
            data, address = plain.recvfrom(100)
            assert (data, address[0]) == (b"from here", host)
            plain.sendto(b"back", address)
            assert (await node.sink.wait("datagram", count=local + 1))[1] == plain_place._replace(local=local)


async def test_of_several_sockets_the_one_serves_that_the_kernel_would_choose() -> None:
    with opened("127.0.0.2", "::1", "127.0.0.1") as node, bare() as (plain, place):
        assert node.udp.send(place, b"")
        assert plain.recvfrom(100)[1][0] == "127.0.0.1"
        assert node.udp.send(place._replace(local=1), b"the other family's")  # cannot be, so: as if not said
        assert plain.recvfrom(100)[1][0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("wildcards", "hosts"),
    [
        (("*",), ["0.0.0.0", "::"]),
        (("::", "127.0.0.1"), ["0.0.0.0", "::"]),
        (("127.0.0.1", "0.0.0.0"), ["0.0.0.0"]),
    ],
)
async def test_a_wildcard_takes_every_address(wildcards: tuple[str, ...], hosts: list[str]) -> None:
    with opened(*wildcards) as node, opened("127.0.0.1", "::1") as other:
        assert [place.host for place in node.places] == hosts
        for count, (host, place) in enumerate(zip(("127.0.0.1", "::1"), node.places, strict=False), 1):
            assert other.udp.send(UdpPlace(host, place.port), b"hello")
            _, source, _ = await node.sink.wait("datagram", count=count)
            assert source == other.places[count - 1]._replace(local=count - 1)
            assert node.udp.send(source, b"hello yourself")
            assert (await other.sink.wait("datagram", count=count))[1].host == host


async def test_a_kernel_without_ipv6_serves_the_other_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: UdpSockets, host: str, port: int) -> None:
        raise OSError(errno.EAFNOSUPPORT, host)

    monkeypatch.setattr(UdpSockets, "_bind_next", refuse)
    with opened("*") as node:
        assert [place.host for place in node.places] == ["0.0.0.0"]


async def test_a_port_taken_on_a_later_address_is_another_one_there() -> None:
    with opened("127.0.0.1") as first:
        port = first.places[0].port
        first.udp._bind_next("127.0.0.2", 0)
        assert first.udp._bound[1].socket.getsockname() == ("127.0.0.2", port)
        first.udp._bind_next("127.0.0.2", 0)
        assert first.udp._bound[2].socket.getsockname()[1] not in (0, port)


async def test_a_port_in_use() -> None:
    with bare() as (_, place):
        with (
            pytest.raises(PortInUse, match=f"udp port {place.port}"),
            opened("::1", place.host, port=place.port),
        ):
            pass


@pytest.mark.parametrize(
    ("host", "complaint"), [("192.0.2.1", "no such address"), ("localhost", "an IP address")]
)
async def test_a_place_that_is_not_ours(host: str, complaint: str) -> None:
    with pytest.raises(StartError, match=complaint), opened("127.0.0.1", host):
        pass


async def test_buffers_hold_several_large_messages() -> None:
    with opened() as node, bare() as (plain, _):
        bound = node.udp._bound[0].socket
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            own = plain.getsockopt(socket.SOL_SOCKET, option)
            assert bound.getsockopt(socket.SOL_SOCKET, option) >= own
        # Nobody reads until all three have been sent.
        messages, fragments = 3, 58
        with opened() as sender:
            for number in range(messages * fragments):
                assert sender.udp.send(node.places[0], number.to_bytes(2, "big") * 600)
            await node.sink.wait("datagram", count=messages * fragments)
        assert [int.from_bytes(data[:2], "big") for _, _, data in node.sink.of("datagram")] == list(
            range(messages * fragments)
        )


class TestReceiving:
    async def test_others_get_their_turn_in_a_flood(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(udp, "DATAGRAMS_PER_TURN", 4)
        with opened() as node, bare() as (plain, _):
            for _ in range(10):
                plain.sendto(b"x", node.places[0][:2])
            await node.sink.wait("datagram", count=10)
            kinds = "".join(event[0][0] for event in node.sink.events)
            assert 0 < max(map(len, kinds.split("t"))) <= 4

    async def test_a_longer_datagram_than_any_of_ours_shows_by_its_length(self) -> None:
        with opened() as node, bare() as (plain, _):
            plain.sendto(bytes(60_000), node.places[0][:2])
            assert 1200 < len((await node.sink.wait("datagram"))[2]) <= udp.READ_BYTES_MAX

    async def test_an_unreachable_port_does_not_stop_it(self) -> None:
        with opened() as node, bare() as (plain, _):
            for _ in range(20):
                assert node.udp.send(UdpPlace("127.0.0.1", 1), b"anybody?")
                plain.sendto(b"still here", node.places[0][:2])
            await node.sink.wait("datagram", count=20)

    async def test_an_error_of_the_kernel_concerns_one_datagram(self) -> None:
        """As on Windows, where a port-unreachable is told to whoever receives next."""
        with opened() as node, bare() as (plain, place):
            errors = [ConnectionResetError(10054, "reset"), OSError(10040, "too long")] * 3
            refusing = Refusing(node.udp._bound[0].socket, *errors)
            plain.sendto(b"one", node.places[0][:2])
            await_data(node.udp._bound[0].socket)
            node.udp._read(refusing, 0)  # type: ignore[arg-type]
            assert node.sink.events == [("datagram", place._replace(local=0), b"one"), ("turn",)]

    async def test_a_sink_that_raises_loses_nothing_after(self) -> None:
        failures: list[BaseException] = []
        collect_failures(failures)

        def fail(_place: UdpPlace, data: bytes) -> None:
            if data == b"bad":
                raise ValueError("of the sink")

        with opened() as node, bare() as (plain, _):
            node.sink.on_datagram = fail
            for data in (b"bad", b"good"):
                plain.sendto(data, node.places[0][:2])
            await node.sink.wait("turn", count=2)
            assert [event[-1] for event in node.sink.of("datagram")] == [b"bad", b"good"]
        assert [str(failure) for failure in failures] == ["of the sink"]

    async def test_closed_in_the_middle_nothing_more_is_told(self) -> None:
        with opened() as node, bare() as (plain, _):
            node.sink.on_datagram = lambda _place, _data: node.udp.close()
            for _ in range(3):
                plain.sendto(b"x", node.places[0][:2])
            await_data(node.udp._bound[0].socket)
            node.udp._read(node.udp._bound[0].socket, 0)
            assert [event[0] for event in node.sink.events] == ["datagram"]


class TestSending:
    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
    async def test_a_full_socket_says_so(self, number: int) -> None:
        with opened() as node, bare() as (plain, place):
            replace_socket(node, OSError(number, "full"))
            assert not node.udp.send(place, b"one")
            assert node.udp.send(place, b"two")
            assert plain.recvfrom(100)[0] == b"two"
            assert node.udp.lost == 0

    @pytest.mark.parametrize(
        "number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM, errno.ECONNREFUSED]
    )
    async def test_what_cannot_be_sent_is_lost_on_the_way(self, number: int) -> None:
        with opened() as node, bare() as (plain, place):
            replace_socket(node, OSError(number, "no"))
            assert node.udp.send(place, b"one")
            assert node.udp.lost == 1
            assert node.udp.send(place, b"two")
            assert plain.recvfrom(100)[0] == b"two"

    @pytest.mark.parametrize(
        "place",
        [
            UdpPlace("localhost", 4000),
            UdpPlace("", 4000),
            UdpPlace("a\0b", 4000),
            UdpPlace("127.0.0.1", 0),
            UdpPlace("127.0.0.1", 65536),
            UdpPlace("127.0.0.1", -1),
            UdpPlace("0.0.0.0", 4000),
            UdpPlace("224.0.0.1", 4000),
            UdpPlace("255.255.255.255", 4000),
            UdpPlace("ff02::1", 4000),
            UdpPlace("::1", 4000),
            UdpPlace("192.0.2.1", 4000),
            UdpPlace("fe80::1%nowhere", 4000),
        ],
        ids=str,
    )
    async def test_no_place_to_send_to(self, place: UdpPlace) -> None:
        with opened("127.0.0.1") as node, bare() as (plain, reachable):
            assert node.udp.send(place, b"nobody's")
            assert node.udp.lost == 1
            assert node.udp.send(reachable, b"somebody's")
            assert plain.recvfrom(100)[0] == b"somebody's"

    async def test_more_than_a_datagram_takes_is_lost(self) -> None:
        with opened() as node, bare() as (_, place):
            assert node.udp.send(place, bytes(70_000))
            assert node.udp.lost == 1

    async def test_what_is_remembered_of_places_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(udp, "ROUTES_MAX", 3)
        with opened() as node:
            for port in range(1, 11):  # nobody's here
                assert node.udp.send(UdpPlace("127.0.0.1", port), b"")
                assert len(node.udp._routes) <= 3

    async def test_after_close_nothing_goes(self) -> None:
        with opened() as node, bare() as (_, place):
            node.udp.close()
            node.udp.close()
            assert node.udp.send(place, b"")
            assert node.udp.lost == 1


async def test_a_link_local_place_names_its_interface() -> None:
    assert udp._place(("fe80::1", 4000, 0, 2), 1) == UdpPlace("fe80::1%2", 4000, 1)
    assert udp._place(("::1", 4000, 0, 0), 0) == UdpPlace("::1", 4000, 0)
    assert udp._resolved("fe80::1%1", 4000) == (socket.AF_INET6, ("fe80::1", 4000, 0, 1))
