"""Wildcards become addresses that somebody else can dial."""

from __future__ import annotations

from types import SimpleNamespace

import ifaddr
import pytest

from brokerless.interfaces import expand_wildcards


def adapters(*ips: object) -> list[SimpleNamespace]:
    return [SimpleNamespace(ips=[SimpleNamespace(ip=ip)]) for ip in ips]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch):
    def be(*ips: object) -> None:
        monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters(*ips))

    return be


def test_a_named_place_stays_as_it_is(host) -> None:
    host("192.0.2.1")
    assert expand_wildcards(["ipc:///x", "tcp://127.0.0.1:5"]) == ("ipc:///x", "tcp://127.0.0.1:5")


def test_a_wildcard_is_expanded_by_the_addresses_of_its_families_without_loopback(host) -> None:
    host("127.0.0.1", "192.0.2.1", "198.51.100.7", ("::1", 0, 0), ("2001:db8::1", 0, 0))
    of_ipv4 = ("tcp://192.0.2.1:5", "tcp://198.51.100.7:5")
    assert expand_wildcards(["tcp://0.0.0.0:5"]) == of_ipv4
    assert expand_wildcards(["tcp://[::]:5"]) == (*of_ipv4, "tcp://[2001:db8::1]:5")
    assert expand_wildcards(["tcp://0.0.0.0:5", "tcp://[::]:5"]) == (*of_ipv4, "tcp://[2001:db8::1]:5")


def test_a_loopback_address_stands_in_for_no_family_while_the_other_has_one(host) -> None:
    host("127.0.0.1", "192.0.2.1", ("::1", 0, 0))
    assert expand_wildcards(["tcp://[::]:5"]) == ("tcp://192.0.2.1:5",)


def test_a_link_local_address_is_of_no_use_to_others(host) -> None:
    host(("fe80::1", 0, 2), ("2001:db8::1", 0, 0))
    assert expand_wildcards(["tcp://[::]:5"]) == ("tcp://[2001:db8::1]:5",)


def test_a_host_with_loopback_only_says_loopback(host) -> None:
    host("127.0.0.1", ("::1", 0, 0))
    assert expand_wildcards(["tcp://0.0.0.0:5", "tcp://[::]:5"]) == ("tcp://127.0.0.1:5", "tcp://[::1]:5")


def test_the_real_host_has_an_address() -> None:
    assert expand_wildcards(["tcp://0.0.0.0:5"])
