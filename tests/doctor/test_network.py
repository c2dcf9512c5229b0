from __future__ import annotations

import socket

import pytest

from brokerless.doctor import network
from brokerless.doctor.findings import Verdict
from brokerless.doctor.network import addresses_of, examine_interfaces, examine_multicast

pytestmark = pytest.mark.asyncio

LOOPBACK_INDEX = 1

NOBODYS = "192.0.2.77"
"""An address for documentation (RFC 5737), which no machine has."""


def has_ipv6_multicast() -> bool:
    """Loopback has a way for it on some systems only."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, LOOPBACK_INDEX)
            probe.sendto(b"", ("ff02::fb", probe.getsockname()[1], 0, LOOPBACK_INDEX))
    except OSError:
        return False
    return True


async def test_interfaces_of_this_machine() -> None:
    finding = examine_interfaces(["127.0.0.1"])
    assert (finding.verdict, finding.text) == (Verdict.OK, "127.0.0.1")


async def test_an_interface_that_is_not_there() -> None:
    finding = examine_interfaces(["127.0.0.1", NOBODYS])
    assert finding.verdict is Verdict.FAILURE
    assert finding.text.endswith(NOBODYS)
    assert "127.0.0.1" in finding.hint


async def test_no_interface_at_all() -> None:
    assert examine_interfaces([]).verdict is Verdict.FAILURE


async def test_a_wildcard_stands_for_addresses() -> None:
    everywhere = addresses_of(["*"])
    assert everywhere
    assert not {"*", "0.0.0.0", "::"} & set(everywhere)
    assert set(addresses_of(["0.0.0.0"])) <= set(everywhere)


async def test_multicast_comes_back() -> None:
    [finding] = await examine_multicast(["127.0.0.1"], True)
    assert (finding.name, finding.verdict) == ("multicast 127.0.0.1", Verdict.OK)


@pytest.mark.skipif(not has_ipv6_multicast(), reason="no IPv6 multicast on loopback here")
async def test_multicast_comes_back_over_ipv6() -> None:
    [finding] = await examine_multicast(["::1"], True)
    assert finding.verdict is Verdict.OK, finding


async def test_multicast_that_nobody_needs() -> None:
    [finding] = await examine_multicast(["127.0.0.1"], False)
    assert finding.verdict is Verdict.SKIPPED


async def test_an_interface_that_takes_no_multicast() -> None:
    finding = await network._examine_multicast(NOBODYS)
    assert finding.verdict is Verdict.FAILURE
    assert finding.text
    assert "5353" in finding.hint


async def test_multicast_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody has joined what it is sent to, so it is as if a firewall had swallowed it.
    monkeypatch.setattr(network, "_joined", not_joined)
    monkeypatch.setattr(network, "HEAR_S", 0.05)
    [finding] = await examine_multicast(["127.0.0.1"], True)
    assert finding.verdict is Verdict.FAILURE
    assert "did not come back" in finding.text


def not_joined(address: str) -> network._Joined:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind((address, 0))
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    return network._Joined(opened, ("224.0.0.251", opened.getsockname()[1]))
