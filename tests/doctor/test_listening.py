from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from brokerless import Limits
from brokerless.doctor import listening
from brokerless.doctor.findings import Finding, Verdict
from brokerless.doctor.listening import examine_ports
from brokerless.doctor.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.asyncio

HOST = "127.0.0.1"
LIMITS = Limits()


async def examined(port: int = 0, hosts: tuple[str, ...] = (HOST,)) -> dict[str, Finding]:
    return {finding.name: finding for finding in await examine_ports(hosts, port, LIMITS)}


@contextmanager
def ports() -> Iterator[int]:
    """The first of two neighbouring ports that nobody uses: they are tried, and let go of."""
    for _ in range(100):
        with ExitStack() as stack:
            try:
                kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
                first = [stack.enter_context(socket.socket(socket.AF_INET, kind)) for kind in kinds]
                second = stack.enter_context(socket.socket())
                first[0].bind((HOST, 0))
                port = first[0].getsockname()[1]
                first[1].bind((HOST, port))
                second.bind((HOST, port + 1))
            except OSError:
                continue
        yield port
        return
    raise AssertionError("no two neighbouring ports are free")


async def test_any_port() -> None:
    found = await examined()
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert [name.partition(" 127")[0] for name in found] == ["tcp", "tcp port for datagrams", "udp"]


async def test_two_addresses() -> None:
    found = await examined(hosts=(HOST, "127.0.0.2"))
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert len([name for name in found if name.startswith("tcp 127.0.0.")]) == 2
    assert len([name for name in found if name.startswith("udp 127.0.0.")]) == 2


async def test_a_port_of_ones_choice() -> None:
    with ports() as port:
        found = await examined(port)
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert {f"tcp {HOST}:{port}", f"udp {HOST}:{port}"} <= set(found)
    assert str(port + 1) in found["tcp port for datagrams"].text


async def test_a_port_that_is_taken() -> None:
    with socket.create_server((HOST, 0)) as holder:
        port = holder.getsockname()[1]
        found = await examined(port)
    assert found["tcp port"].verdict is Verdict.FAILURE
    assert str(port) in found["tcp port"].text
    assert "stop it" in found["tcp port"].hint
    assert found["udp port"].verdict is Verdict.SKIPPED


async def test_a_udp_port_that_is_taken() -> None:
    with ports() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((HOST, port))
        found = await examined(port)
    assert found[f"tcp {HOST}:{port}"].verdict is Verdict.OK
    assert found["udp port"].verdict is Verdict.FAILURE
    assert f"udp port {port}" in found["udp port"].text


async def test_a_second_tcp_port_that_is_taken() -> None:
    with ports() as port, socket.create_server((HOST, port + 1)):
        found = await examined(port)
    assert found["tcp port for datagrams"].verdict is Verdict.WARNING
    assert f"another process holds {port + 1}" in found["tcp port for datagrams"].text


async def test_datagrams_that_do_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "datagram", lambda probe, place, data: None)
    monkeypatch.setattr(listening, "UDP_S", 0.05)
    found = await examined()
    [udp] = [finding for name, finding in found.items() if name.startswith("udp")]
    assert udp.verdict is Verdict.FAILURE
    assert "firewall" in udp.hint


async def test_an_address_that_is_not_there() -> None:
    found = await examined(hosts=("192.0.2.77",))
    assert found["tcp port"].verdict is Verdict.FAILURE
    assert "no such address" in found["tcp port"].hint
