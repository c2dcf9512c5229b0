"""Where datagrams leave a node's core, and where others are told to send theirs."""

from __future__ import annotations

from typing import Any

import pytest

from brokerless.clock import now
from brokerless.datagram_port import TransportPort, told_places
from brokerless.protocol.paths import PLACES_MAX, UdpPlace, parse_places
from brokerless.protocol.wire import PLACES_BYTES_MAX

BOUND = ("192.0.2.1:4000", "[2001:db8::1]:4000")


@pytest.mark.parametrize(
    ("bound", "advertised", "told"),
    [
        pytest.param(BOUND, (), "192.0.2.1:4000,[2001:db8::1]:4000", id="what is bound"),
        pytest.param((), (), "", id="nothing where nothing is bound"),
        pytest.param((), ("tcp://203.0.113.9:7",), "", id="whatever is advertised"),
        pytest.param(BOUND, ("tcp://203.0.113.9:7",), "203.0.113.9:7", id="advertised instead"),
        pytest.param(
            BOUND,
            ("tcp://bus.example.net:7", "tcp://[2001:db8::2]:8", "ipc:///run/bus", "tcp://[2001:db8::2]:8"),
            "[2001:db8::2]:8",
            id="addresses only, each once",
        ),
        pytest.param(BOUND, ("tcp://bus.example.net:7",), ",".join(BOUND), id="only a name"),
        pytest.param(("[fe80::1%eth0]:4000", "192.0.2.1:1"), (), "192.0.2.1:1", id="nobody else's interface"),
        pytest.param(("192.0.2.1:1",), ("tcp://224.0.0.1:5",), "192.0.2.1:1", id="nobody lives there"),
    ],
)
def test_places_are_told_that_a_peer_takes(
    bound: tuple[str, ...], advertised: tuple[str, ...], told: str
) -> None:
    assert told_places(bound, advertised) == told
    parse_places(told)


def test_pull_is_on_the_port_after_the_advertised_one() -> None:
    assert told_places(BOUND, ("tcp://203.0.113.9:7",), ports_on=1) == "203.0.113.9:8"
    assert told_places(BOUND, (), ports_on=1) == ",".join(BOUND)
    assert told_places(BOUND, ("tcp://203.0.113.9:65535",), ports_on=1) == ",".join(BOUND)


def test_no_more_is_told_than_info_carries() -> None:
    longest = [f"[2001:db8:1111:2222:3333:4444:5555:{number:x}]:60000" for number in range(0x1000, 0x1040)]
    told = told_places(longest, ())
    assert len(parse_places(told)) == PLACES_MAX
    assert len(told) <= PLACES_BYTES_MAX


def test_a_wildcard_is_told_as_the_addresses_of_this_host() -> None:
    places = parse_places(told_places(("0.0.0.0:4000",), ()))
    assert places
    assert all(place.port == 4000 and place.host != "0.0.0.0" for place in places)


class Sockets:
    """A transport that writes down what it is to send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send_datagram(self, place: UdpPlace, data: bytes) -> bool:
        self.sent.append((place, data))
        return True

    def send_push(self, remote: Any, data: bytes) -> bool:
        self.sent.append((remote, data))
        return False


def test_it_sends_by_the_transport_once_there_is_one() -> None:
    port, place = TransportPort(), UdpPlace("192.0.2.1", 1)
    remote: Any = object()
    assert not port.send_udp(place, b"1")
    assert not port.send_push(remote, b"1")
    port.transport = sockets = Sockets()  # type: ignore[assignment]
    assert port.send_udp(place, b"2")
    assert not port.send_push(remote, b"3")
    assert sockets.sent == [(place, b"2"), (remote, b"3")]  # type: ignore[attr-defined]


def test_keys_are_fresh_and_the_clock_is_the_nodes() -> None:
    port = TransportPort()
    drawn = [port.draw_key() for _ in range(100)]
    assert len({index for index, _ in drawn}) == len({key for _, key in drawn}) == 100
    assert all(0 < index < 2**64 and len(key) == 32 for index, key in drawn)
    before = now()
    assert before <= port.now() <= now()
    cipher = port.make_cipher(bytes(32))
    assert cipher.open(bytes(12), cipher.seal(bytes(12), b"x", b"head"), b"head") == b"x"
