"""The chaos proxy as a whole: what it stands before, who may command it, and what is set."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Address, DatagramPath, Ticket
from brokerless.errors import ConfigError, PortInUse, StartError, UsageError
from brokerless.testing import Chaos, Datagram, Disturbance
from brokerless.testing.chaos_fate import SEGMENT_BYTES, FlowFates
from dittobus import DittoBusReliability
from dittobus.blocking import Bus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON_S = 15.0
"""More than enough for what takes milliseconds; only a failure waits for it."""

ADDRESS = Address(bytes(range(32)))


class Echo:
    """A TCP server and a UDP socket on one port, and a TCP server on the next; each answers in a thread."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        while True:
            with contextlib.ExitStack() as stack:
                tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                self.port = tcp.getsockname()[1]
                try:
                    pull = stack.enter_context(socket.create_server(("127.0.0.1", self.port + 1)))
                    udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    udp.bind(("127.0.0.1", self.port))
                except (OSError, OverflowError):
                    continue
                self.stack = stack.pop_all()
                break
        self.udp = udp
        self.links, self.pull = tcp, pull

    def accepted(self, listener: socket.socket | None = None) -> socket.socket:
        served, _ = (listener or self.links).accept()
        served.settimeout(SOON_S)
        return self.stack.enter_context(served)

    def client(self, port: int) -> socket.socket:
        client = self.stack.enter_context(socket.create_connection(("127.0.0.1", port), SOON_S))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def datagrams(self, port: int) -> socket.socket:
        client = self.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(SOON_S)
        client.connect(("127.0.0.1", port))
        return client


@pytest.fixture
def target() -> Iterator[Echo]:
    echo = Echo()
    echo.udp.settimeout(SOON_S)
    echo.links.settimeout(SOON_S)
    echo.pull.settimeout(SOON_S)
    with echo.stack:
        yield echo


@pytest.fixture
def chaos(target: Echo) -> Iterator[Chaos]:
    with Chaos(target.port, seed=7) as chaos:
        yield chaos


def read(end: socket.socket, byte_count: int) -> bytes:
    """Return what comes, up to so many bytes, the end, or a reset."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while len(data) < byte_count and (piece := end.recv(byte_count - len(data))):
            data += piece
    return bytes(data)


def pour(end: socket.socket, data: bytes) -> threading.Thread:
    """Send in a thread, until all is sent, or the connection breaks."""

    def send() -> None:
        with contextlib.suppress(ConnectionError):
            end.sendall(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    """Give other threads their turns until the condition holds; the test's own time limit ends it."""
    while not condition():
        time.sleep(0)


# Life


def test_links_pull_and_datagrams_pass_on_their_ports(chaos: Chaos, target: Echo) -> None:
    link, pull, datagrams = (
        target.client(chaos.port),
        target.client(chaos.port + 1),
        target.datagrams(chaos.port),
    )
    link.sendall(b"link")
    assert read(target.accepted(), 4) == b"link"
    pull.sendall(b"pull")
    assert read(target.accepted(target.pull), 4) == b"pull"
    datagrams.send(b"datagram")
    data, apparent = target.udp.recvfrom(100)
    assert data == b"datagram"
    target.udp.sendto(b"answer", apparent)
    assert datagrams.recv(100) == b"answer"
    assert chaos.connections == chaos.connections_open == 2
    until(lambda: (chaos.upstream.tcp_bytes, chaos.upstream.passed, chaos.downstream.passed) == (8, 1, 1))
    assert chaos.endpoint == f"tcp://{chaos.place}" == f"tcp://127.0.0.1:{chaos.port}"
    assert chaos.reset() == chaos.resets == 2


def test_it_obeys_every_thread(chaos: Chaos, target: Echo) -> None:
    client, served = target.client(chaos.port), target.accepted()
    threads = [threading.Thread(target=chaos.set, kwargs={name: 0.001}) for name in ("latency_s", "jitter_s")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chaos.upstream.latency_s == chaos.downstream.jitter_s == 0.001
    client.sendall(b"late")
    assert read(served, 4) == b"late"


@pytest.mark.asyncio
async def test_in_a_loop_it_obeys_other_threads_too(target: Echo) -> None:
    async with Chaos(target.port) as chaos:
        await asyncio.to_thread(chaos.off)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", chaos.port)
        await asyncio.to_thread(chaos.heal)
        _, writer = await asyncio.open_connection("127.0.0.1", chaos.port)
        writer.transport.abort()
        await asyncio.to_thread(target.accepted)


def test_it_runs_only_within_its_context_and_once(target: Echo) -> None:
    chaos = Chaos(target.port)
    chaos.upstream.latency_s = 0.5  # before, and after, there is only nothing to be disturbed
    with pytest.raises(UsageError, match="has no port before"):
        _ = chaos.endpoint
    commands: list[Callable[[], Any]] = [
        *(chaos.on, chaos.off, chaos.heal, chaos.reset, chaos.rebind),
        lambda: chaos.flap(1, 1),
        lambda: chaos.reset_after(1),
        lambda: chaos.replay(Datagram(True, ("127.0.0.1", 1), b"")),
    ]
    for _ in range(2):
        for command in commands:
            with pytest.raises(UsageError, match="runs within `with`"):
                command()
        with contextlib.suppress(UsageError), chaos:
            assert chaos.upstream.latency_s == 0.5
    with pytest.raises(UsageError, match="entered once"), chaos:
        pass
    assert chaos.clients == {}


def test_entering_it_again_meanwhile_does_no_harm(chaos: Chaos, target: Echo) -> None:
    with pytest.raises(UsageError, match="entered once"), chaos:
        pass
    client = target.client(chaos.port)
    client.sendall(b"x")
    assert read(target.accepted(), 1) == b"x"


def test_leaving_resets_and_refuses(target: Echo) -> None:
    with Chaos(target.port) as chaos:
        client, served = target.client(chaos.port), target.accepted()
    for end in (client, served):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    with pytest.raises(ConnectionRefusedError):
        target.client(chaos.port)


def test_it_may_stand_at_a_port_of_choice(target: Echo) -> None:
    with Chaos(target.port) as other:
        with pytest.raises(PortInUse, match=str(other.port)), Chaos(target.port, port=other.port):
            pass
    with Chaos(target.port, port=other.port) as chaos:
        assert chaos.port == other.port


# What it stands before


@pytest.mark.parametrize(
    "form",
    [
        "{port}",
        "127.0.0.1:{port}",
        "tcp://127.0.0.1:{port}",
        "localhost:{port}",
        "dittobus://{address}@127.0.0.1:{port}",
    ],
)
def test_a_target_has_many_forms(target: Echo, form: str) -> None:
    text = form.format(port=target.port, address=ADDRESS)
    forms: list[Any] = [text]
    if text.isdigit():
        forms = [int(text), ("127.0.0.1", int(text)), Ticket(ADDRESS, (f"tcp://127.0.0.1:{text}",))]
    for one in forms:
        with Chaos(one) as chaos:
            client = target.client(chaos.port)
            client.sendall(b"x")
            assert read(target.accepted(), 1) == b"x"


@pytest.mark.parametrize(
    "target",
    [
        0,
        -1,
        65536,
        True,
        "",
        "host",
        "host:",
        "host:x",
        ":80",
        1.5,
        ("", 80),
        ("host",),
        ("host", "80"),
        b"h:1",
    ],
)
def test_a_bad_target_is_named(target: Any) -> None:
    with pytest.raises(ConfigError, match="target"):
        Chaos(target)


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(StartError, match="host with spaces"), Chaos("host with spaces:1"):
        pass


def test_other_hosts_are_left_in_peace() -> None:
    with pytest.raises(ConfigError, match="not on loopback"), Chaos("192.0.2.1:80"):
        pass
    with Chaos("192.0.2.1:80", loopback_only=False):
        pass


@pytest.mark.parametrize("port", [-1, 65535, "80", None, True])
def test_a_bad_port_is_named(port: Any) -> None:
    with pytest.raises(ConfigError, match=r"^port"):
        Chaos(1, port=port)


def test_a_ticket_leads_to_the_proxy(chaos: Chaos) -> None:
    expected = Ticket(ADDRESS, (chaos.endpoint,))
    own = Ticket(ADDRESS, ("tcp://127.0.0.1:1",))
    for bus in (ADDRESS, str(ADDRESS), own, str(own)):
        assert chaos.ticket(bus) == expected
    with pytest.raises(ConfigError, match="bus: expected"):
        chaos.ticket(7)
    for name in ("near", "far"):
        with pytest.raises(UsageError, match="has a target"):
            getattr(chaos, name)


def mesh(directory: Path) -> dict[str, Any]:
    return {
        "secret": b"the secret of the chaos' own two buses",
        "directory": directory,
        "discovery": ("registry",),
        "interfaces": ("127.0.0.1",),
    }


def test_two_buses_reach_each_other_only_through_it(tmp_path: Path) -> None:
    shared = mesh(tmp_path)
    with (
        Chaos() as chaos,
        Bus("near", **shared, **chaos.near) as near,
        Bus("far", **shared, **chaos.far) as far,
    ):
        to_far, to_near = near.wait_for_peer("far"), far.wait_for_peer("near")
        near.wait_for_peer(lambda peer: peer.path.datagram is DatagramPath.UDP)
        for direction, sender, to, receiver in (
            (chaos.upstream, near, to_far, far),
            (chaos.downstream, far, to_near, near),
        ):
            tcp_bytes, udp_bytes = direction.tcp_bytes, direction.passed_bytes
            sender.send(bytes(100_000), to)
            assert receiver.receive_message(SOON_S).data == bytes(100_000)
            sender.send(bytes(1000), to, DittoBusReliability.UNRELIABLE)
            assert receiver.receive_message(SOON_S).data == bytes(1000)
            until(lambda way=direction, before=tcp_bytes: way.tcp_bytes - before > 100_000)
            until(lambda way=direction, before=udp_bytes: way.passed_bytes - before > 1000)
        assert not chaos.upstream.lost + chaos.downstream.lost


def test_a_bus_may_be_reached_by_ticket_alone(tmp_path: Path) -> None:
    shared = mesh(tmp_path) | {"discovery": ()}
    with Bus("server", **shared) as server, Chaos(server.ticket()) as chaos:
        with Bus("client", peers=[chaos.ticket(server)], **shared) as client:
            client.wait_for_peer("server")
            assert chaos.connections_open


# What is set


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {name: seconds}
            for name in ("latency_s", "jitter_s", "held_s_max")
            for seconds in (-0.1, float("nan"), "1")
        ),
        *(
            {name: share}
            for name in ("loss", "reordering", "duplication", "tcp_loss")
            for share in (-0.1, 1.1, None)
        ),
        *({"rate_bytes_s": rate} for rate in (0, -5, float("inf"), "1")),
        *({"slice_bytes": size} for size in (0, 1.5, "1")),
        {"blackhole": 1},
        {"latency": 1},
    ],
    ids=str,
)
def test_a_bad_setting_is_named_and_nothing_is_set(chaos: Chaos, settings: dict[str, Any]) -> None:
    before = chaos.upstream.disturbance
    [name] = settings
    with pytest.raises(ConfigError, match=name):
        chaos.upstream.set(loss=0.5, **settings) if name != "loss" else chaos.set(**settings)
    if hasattr(type(chaos.upstream), name):
        with pytest.raises(ConfigError, match=name):
            setattr(chaos.upstream, name, settings[name])
    assert chaos.upstream.disturbance == before


def test_settings_are_those_of_a_disturbance(chaos: Chaos) -> None:
    chaos.set(latency_s=0.2, loss=0.1)
    chaos.downstream.loss = 0.3
    chaos.downstream.slice_bytes = 5
    assert chaos.upstream.disturbance == Disturbance(latency_s=0.2, loss=0.1)
    assert chaos.downstream.disturbance == Disturbance(latency_s=0.2, loss=0.3, slice_bytes=5)
    chaos.disturb(Disturbance(jitter_s=1))
    assert chaos.upstream.jitter_s == chaos.downstream.jitter_s == 1
    assert chaos.upstream.latency_s == chaos.downstream.loss == 0
    chaos.blackhole()
    chaos.heal()
    assert chaos.upstream.disturbance == chaos.downstream.disturbance == Disturbance()


def test_a_black_hole_has_a_direction(chaos: Chaos, target: Echo) -> None:
    client, served = target.client(chaos.port), target.accepted()
    datagrams = target.datagrams(chaos.port)
    datagrams.send(b"hello")
    _, apparent = target.udp.recvfrom(10)
    chaos.upstream.blackhole = True
    client.sendall(b"waits")
    datagrams.send(b"vanishes")
    served.sendall(b"down")
    target.udp.sendto(b"down", apparent)
    assert read(client, 4) == datagrams.recv(10) == b"down"
    until(lambda: chaos.upstream.swallowed == 1)
    assert chaos.upstream.tcp_bytes == 0
    chaos.upstream.blackhole = False
    assert read(served, 5) == b"waits"
    datagrams.send(b"passes")
    assert target.udp.recvfrom(10)[0] == b"passes"


def test_off_swallows_datagrams_until_on(chaos: Chaos, target: Echo) -> None:
    datagrams = target.datagrams(chaos.port)
    chaos.off()
    for port in (chaos.port, chaos.port + 1):
        with pytest.raises(ConnectionRefusedError):
            target.client(port)
    datagrams.send(b"lost")
    until(lambda: chaos.upstream.swallowed == 1)
    chaos.on()
    datagrams.send(b"passes")
    assert target.udp.recvfrom(10)[0] == b"passes"
    target.client(chaos.port)


@pytest.mark.parametrize("refuses", [True, False])
def test_it_flaps_until_it_is_healed(chaos: Chaos, target: Echo, refuses: bool) -> None:
    datagrams = target.datagrams(chaos.port)
    seen = set()

    def passes() -> bool:
        before = chaos.upstream.passed, chaos.upstream.swallowed
        datagrams.send(b"x")
        until(lambda: (chaos.upstream.passed, chaos.upstream.swallowed) != before)
        return chaos.upstream.passed > before[0]

    chaos.flap(0.01, 0.01, refuses=refuses)
    changes, was = 0, True
    while changes < 4 or len(seen) < (1 if refuses else 2):
        changes, was = changes + ((now := passes()) != was), now
        seen.add(chaos.upstream.blackhole)
    chaos.heal()
    chaos.flap(3600, 3600)  # takes the place of one before
    assert passes()
    assert seen == ({False} if refuses else {True, False})
    for name in ("on_s", "off_s"):
        with pytest.raises(ConfigError, match=name):
            chaos.flap(**{"on_s": 1, "off_s": 1, name: -1})


# What passes slowly, in pieces, or not at all


def test_a_rate_is_shared_by_all_that_passes(chaos: Chaos, target: Echo) -> None:
    pairs = [(target.client(chaos.port), target.accepted()) for _ in range(2)]
    datagrams = target.datagrams(chaos.port)
    chaos.upstream.rate_bytes_s = 1_000_000
    begun = time.monotonic()
    for client, _ in pairs:
        pour(client, bytes(100_000))
    datagrams.send(bytes(10_000))
    for _, served in pairs:
        assert len(read(served, 100_000)) == 100_000
    assert len(target.udp.recv(20_000)) == 10_000
    assert time.monotonic() - begun >= 0.209
    served.sendall(bytes(1_000_000))
    assert len(read(client, 1_000_000)) == 1_000_000


def test_datagrams_beyond_the_rate_are_lost(chaos: Chaos, target: Echo) -> None:
    datagrams = target.datagrams(chaos.port)
    chaos.upstream.rate_bytes_s = 1  # one takes 100 s, and more than half a second nobody waits
    for _ in range(20):
        datagrams.send(bytes(100))
    until(lambda: chaos.upstream.received == 20)
    assert chaos.upstream.failed == 19
    chaos.upstream.rate_bytes_s = None
    datagrams.send(b"overtakes")
    assert target.udp.recv(100) == b"overtakes"


def test_jitter_keeps_the_order_of_a_stream(chaos: Chaos, target: Echo) -> None:
    client, served = target.client(chaos.port), target.accepted()
    chaos.upstream.jitter_s = 0.02
    data = os.urandom(50_000)
    for start in range(0, len(data), 1000):
        client.sendall(data[start : start + 1000])
    assert hashlib.sha256(read(served, len(data))).digest() == hashlib.sha256(data).digest()


def test_slices_are_as_small_as_was_asked_for(chaos: Chaos, target: Echo) -> None:
    client, served = target.client(chaos.port), target.accepted()
    chaos.upstream.slice_bytes = 3
    data, passed = bytes(range(200)), []
    client.sendall(data)
    arrived = b""
    while len(arrived) < len(data):
        passed.append(chaos.upstream.tcp_bytes)
        arrived += served.recv(3)
    assert arrived == data
    client.sendall(bytes(100_000))
    chaos.upstream.slice_bytes = None
    assert len(read(served, 100_000)) == 100_000


def test_a_lost_segment_resets_its_connection_at_the_byte_of_the_seed(chaos: Chaos, target: Echo) -> None:
    chaos.upstream.tcp_loss = 0.02
    data = os.urandom(2_000_000)
    for number in range(1, 6):
        expected = FlowFates(7, "up", number).bytes_to_loss(chaos.upstream.disturbance)
        assert expected is not None
        passed = chaos.upstream.tcp_bytes
        client, served = target.client(chaos.port), target.accepted()
        sending = pour(client, data)
        assert data.startswith(
            read(served, len(data))
        )  # less where it was slow: a reset takes what is unsent
        sending.join()
        assert chaos.upstream.segments_lost == number
        assert chaos.upstream.tcp_bytes - passed == expected
    chaos.upstream.tcp_loss = 0
    client, served = target.client(chaos.port), target.accepted()
    pour(client, data)
    assert read(served, len(data)) == data


def test_so_many_segments_are_lost_as_was_asked_for() -> None:
    for share in (0.02, 0.2, 1.0):
        disturbance = Disturbance(tcp_loss=share)
        before = [FlowFates(1, "up", number).bytes_to_loss(disturbance) or 0 for number in range(4000)]
        segments = sum(before) / SEGMENT_BYTES
        assert segments / len(before) == pytest.approx((1 - share) / share, rel=0.06)


def test_the_report_says_what_it_did_and_does(chaos: Chaos, target: Echo) -> None:
    client, served = target.client(chaos.port), target.accepted()
    client.sendall(b"0123456789")
    assert read(served, 10) == b"0123456789"
    chaos.downstream.set(loss=1.0, latency_s=0.5)
    until(lambda: chaos.upstream.tcp_bytes == 10)
    seed, up, down = chaos.report().splitlines()
    assert seed == "seed 7, 1 connections, 1 of them open, 0 reset"
    assert up == "up:   10 bytes by TCP (undisturbed)"
    assert down == "down: nothing (latency_s=0.5 loss=1.0)"
