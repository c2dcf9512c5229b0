"""How places are written, and what is no place."""

from __future__ import annotations

import pytest

from brokerless import ConfigError
from dittobus.tunnel import Kind, Place, Route

TCP, UDP, UNIX = Kind.TCP, Kind.UDP, Kind.UNIX


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:80", Place(TCP, "127.0.0.1", 80)),
        ("localhost:0", Place(TCP, "localhost", 0)),
        ("[::1]:53/udp", Place(UDP, "::1", 53)),
        ("web.example:443/tcp", Place(TCP, "web.example", 443)),
        ("/run/redis.sock", Place(UNIX, path="/run/redis.sock")),
        ("./relative", Place(UNIX, path="./relative")),
        ("/run/53/udp", Place(UNIX, path="/run/53/udp")),
        ("[/run/a:b]", Place(UNIX, path="/run/a:b")),
    ],
)
def test_a_place_is_read_and_written_back(text: str, place: Place) -> None:
    assert Place.parse(text) == place
    assert Place.parse(str(place)) == place


def test_the_kind_that_is_not_written_is_the_one_that_was_asked_for() -> None:
    assert Place.parse("127.0.0.1:53", UDP) == Place(UDP, "127.0.0.1", 53)
    assert Place.parse("127.0.0.1:53/tcp", UDP) == Place(TCP, "127.0.0.1", 53)
    assert Route.parse("53:dns:127.0.0.1:53", UDP).listen == Place(UDP, "127.0.0.1", 53)


def test_two_ways_to_write_a_host_are_one_place() -> None:
    assert Place.parse("[0:0:0:0:0:0:0:1]:80") == Place.parse("[::1]:80")
    assert Place.parse("LocalHost:80") == Place.parse("localhost:80")


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":80", "80", "host", "host:", "host:http", "host:-1", "host:65536", "host:999999", "h:80:",
        "::1:80", "[::1:80", "::1]:80", "[::1]x:80", "host:٣", "a/b:80", "host:80/sctp", "host:8\n0", "x\0:1",
        "host\udc80:80", "/" + 107 * "x",
    ],
)  # fmt: skip
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ConfigError):
        Place.parse(text)


def test_a_unix_socket_has_no_udp() -> None:
    with pytest.raises(ConfigError, match="no UDP"):
        Place.parse("/run/redis.sock", UDP)


@pytest.mark.parametrize(
    ("text", "listen", "peer", "target"),
    [
        ("8080:web:127.0.0.1:80", "127.0.0.1:8080", "web", "127.0.0.1:80"),
        ("0.0.0.0:8080:web:[::1]:80", "0.0.0.0:8080", "web", "[::1]:80"),
        ("*:8080:web:host:80", "*:8080", "web", "host:80"),
        ("53:dns:127.0.0.1:5353/udp", "127.0.0.1:53/udp", "dns", "127.0.0.1:5353/udp"),
        ("[::1]:0:[a:b]:host:80", "[::1]:0", "a:b", "host:80"),
        ("6379:db:/run/redis.sock", "127.0.0.1:6379", "db", "/run/redis.sock"),
        ("[::1]:6379:db:/run/redis.sock", "[::1]:6379", "db", "/run/redis.sock"),
        ("/tmp/here:db:/run/redis.sock", "/tmp/here", "db", "/run/redis.sock"),
        ("/tmp/here:db:127.0.0.1:6379", "/tmp/here", "db", "127.0.0.1:6379"),
    ],
)
def test_a_route_is_read(text: str, listen: str, peer: str, target: str) -> None:
    assert Route.parse(text) == Route(Place.parse(listen), peer, Place.parse(target))


@pytest.mark.parametrize(
    "text",
    [
        "", "8080", "8080:web", "8080:web:80", "web:127.0.0.1:80", "8080::127.0.0.1:80", ":8080:web:h:80",
        "8080:web:127.0.0.1:0", "1:2:3:4:5:6", "8080:web:127.0.0.1:99999", "::1:8080:web:/run/x",
        "a/b:c:8080:web:/run/x",
    ],
)  # fmt: skip
def test_what_is_no_route(text: str) -> None:
    with pytest.raises(ConfigError):
        Route.parse(text)
