"""Wildcards become addresses that somebody else can dial; addresses that come and go are noticed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ifaddr
import pytest

from brokerless import interfaces
from brokerless.interfaces import LOOK_S, AddressWatch, expand_wildcards, is_ours, multicast_interfaces

if TYPE_CHECKING:
    from collections.abc import Callable


def adapters(*ips: object, first: int = 1) -> list[SimpleNamespace]:
    """One for each, numbered from the first."""
    return [
        SimpleNamespace(
            index=number, ips=[SimpleNamespace(ip=ip) for ip in (ip if isinstance(ip, list) else [ip])]
        )
        for number, ip in enumerate(ips, first)
    ]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch):
    def be(*ips: object, unready: str = "", first: int = 1) -> None:
        monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters(*ips, first=first))
        monkeypatch.setattr(interfaces, "is_ours", lambda address: address != unready)

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


# Multicast


def test_multicast_goes_to_every_ipv4_address_and_to_interfaces_with_an_ipv6_one_of_use(host) -> None:
    host(
        ["127.0.0.1", ("::1", 0, 0)],
        ["192.0.2.1", "198.51.100.1", ("fe80::1", 0, 2), ("2001:db8::1", 0, 0)],
        [("fe80::2", 0, 3)],
        [("2001:db8::2", 0, 0)],
        [("2001:db8::3", 0, 0)],
        unready="2001:db8::3%5",
    )
    assert multicast_interfaces() == ["127.0.0.1", "192.0.2.1", "198.51.100.1", 2, 4]


def test_an_address_is_ours_or_not() -> None:
    assert is_ours("127.0.0.1")
    assert not is_ours("203.0.113.1")
    assert not is_ours("localhost")


# Coming and going


class Loop:
    """A loop in which time passes by command."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[SimpleNamespace] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> SimpleNamespace:
        timer = SimpleNamespace(at=self.now + delay_s, callback=callback)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def wait(self, seconds: float) -> None:
        self.now += seconds
        while due := [timer for timer in self.timers if timer.at <= self.now]:
            self.timers.remove(due[0])
            due[0].callback()


class Watched:
    """A host that is watched for a node with these hosts, and how often a change was told."""

    def __init__(self, *hosts: str) -> None:
        self.changes = 0
        self.loop: Any = Loop()
        self.watch = AddressWatch(hosts, self._changed)
        self.watch.start(self.loop)

    def _changed(self) -> None:
        self.changes += 1

    def look(self) -> int:
        """How many changes the next look tells."""
        before = self.changes
        self.loop.wait(LOOK_S)
        return self.changes - before


@pytest.mark.parametrize("wildcard", ["*", "0.0.0.0", "::"])
def test_who_listens_everywhere_is_told_of_whatever_comes_and_goes(host, wildcard: str) -> None:
    host("127.0.0.1", "192.0.2.1")
    watched = Watched("127.0.0.1", wildcard)
    assert watched.look() == 0
    host("127.0.0.1", "192.0.2.1", "198.51.100.1")
    assert (watched.look(), watched.look()) == (1, 0)
    host("127.0.0.1")
    assert watched.look() == 1
    host("127.0.0.1", ("2001:db8::1", 0, 0), unready="2001:db8::1")
    assert watched.look() == 0
    host("127.0.0.1", ("2001:db8::1", 0, 0))
    assert watched.look() == 1
    watched.watch.close()
    watched.watch.close()
    assert watched.loop.timers == []


def test_who_listens_on_named_addresses_is_told_of_those(host) -> None:
    host("192.0.2.1")
    watched = Watched("192.0.2.1", "127.0.0.1", "fe80::1%eth0")
    host("192.0.2.1", "198.51.100.1")
    assert watched.look() == 0
    host("198.51.100.1", ("fe80::1", 0, 2))
    assert watched.look() == 1
    host("198.51.100.1")
    assert watched.look() == 1
    host("192.0.2.1")
    assert watched.look() == 1


@pytest.mark.parametrize("hosts", ["*", "192.0.2.1"])
def test_another_interface_with_the_same_address_is_told_of(host, hosts: str) -> None:
    host("192.0.2.1", "127.0.0.1")
    watched = Watched(hosts)
    host("192.0.2.1", "127.0.0.1", first=5)
    assert (watched.look(), watched.look()) == (1, 0)


@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("127.0.0.2", "::1"), ()])
def test_who_listens_on_loopback_only_is_not_watched(host, hosts: tuple[str, ...]) -> None:
    assert Watched(*hosts).loop.timers == []


def test_a_look_that_fails_tells_nothing(host, monkeypatch: pytest.MonkeyPatch) -> None:
    host("192.0.2.1")
    watched = Watched("*")

    def fail() -> None:
        raise OSError("no descriptor left")

    monkeypatch.setattr(ifaddr, "get_adapters", fail)
    assert watched.look() == 0
    host("192.0.2.2")
    assert watched.look() == 1
