"""What asks for a connection, and that nothing else does."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless import Reliability
from dittobus.tunnel import Place
from dittobus.tunnel.opening import NotUnderstood, decode, encode, reliability_of


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:53/udp", "/run/redis.sock", "[/run/a:b]"])
def test_an_opening_says_to_where(text: str) -> None:
    place = Place.parse(text)
    assert decode(encode(place), reliability_of(place)) == place


def test_the_bytes_of_an_opening() -> None:
    """As docs/guide/tunnel.md has them."""
    assert encode(Place.parse("127.0.0.1:80")).hex(" ") == "92 01 ac 31 32 37 2e 30 2e 30 2e 31 3a 38 30"


def test_what_a_later_version_adds_is_ignored() -> None:
    assert decode(msgpack.packb([1, "a:1", {"more": 1}]), Reliability.RELIABLE) == Place.parse("a:1")


@pytest.mark.parametrize("asked", [[2, "a:1"], [2], [0, 7, 8]])
def test_another_version_is_told_ours(asked: list[Any]) -> None:
    with pytest.raises(NotUnderstood, match=f"version 1 of the tunnel, not {asked[0]}"):
        decode(msgpack.packb(asked), Reliability.RELIABLE)


@pytest.mark.parametrize("asked", [None, 1, [], [1], ["1", "a:1"], [1, b"a:1"], [1, "a"], [1, "a:0"], [1, 2]])
def test_what_is_no_opening_is_not_understood(asked: Any) -> None:
    with pytest.raises(NotUnderstood):
        decode(msgpack.packb(asked), Reliability.RELIABLE)


@pytest.mark.parametrize(
    ("text", "reliability"),
    [("a:1", Reliability.UNRELIABLE), ("a:1/udp", Reliability.RELIABLE), ("a:1/udp", Reliability.SEQUENCED)],
)
def test_a_stream_has_the_reliability_of_its_kind(text: str, reliability: Reliability) -> None:
    with pytest.raises(NotUnderstood, match=reliability.value):
        decode(encode(Place.parse(text)), reliability)


@given(
    st.binary(max_size=64) | st.binary(max_size=30).map(lambda tail: encode(Place.parse("a:1"))[:3] + tail)
)
def test_no_bytes_do_worse_than_not_to_be_understood(metadata: bytes) -> None:
    try:
        decode(metadata, Reliability.RELIABLE)
    except NotUnderstood as error:
        assert str(error)  # noqa: PT017 - which is told to the other side
