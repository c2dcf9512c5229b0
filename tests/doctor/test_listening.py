from __future__ import annotations

import socket

import pytest

from brokerless import Limits
from brokerless.doctor import listening
from brokerless.doctor.findings import Finding, Verdict
from brokerless.doctor.listening import examine_ports
from brokerless.doctor.probe import Probe
from tests.witness import reserved_port

pytestmark = pytest.mark.asyncio

HOST = "127.0.0.1"
LIMITS = Limits()


async def examined(port: int = 0, hosts: tuple[str, ...] = (HOST,)) -> dict[str, Finding]:
    return {finding.name: finding for finding in await examine_ports(hosts, port, LIMITS)}


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
    with reserved_port() as port:
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
    with reserved_port() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((HOST, port))
        found = await examined(port)
    assert found[f"tcp {HOST}:{port}"].verdict is Verdict.OK
    assert found["udp port"].verdict is Verdict.FAILURE
    assert f"udp port {port}" in found["udp port"].text


async def test_a_second_tcp_port_that_is_taken() -> None:
    with reserved_port() as port, socket.create_server((HOST, port + 1)):
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
