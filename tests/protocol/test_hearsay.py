"""What was heard of whom: what is refused, what the roster is told, and how many are tried for whose word."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.address import Address
from brokerless.protocol.hearsay import (
    PLACES_PER_TRY,
    REMEMBER_S,
    REST_MAX_S,
    REST_MIN_S,
    TOLD_MAX,
    TRIES_FIRST,
    TRIES_MAX,
    TRY_S,
    YIELD_S,
    Hearsay,
    sift_places,
)

US = Address(b"\x50" * 32)
TELLER = Address(b"\x60" * 32)
OTHER = Address(b"\x61" * 32)
LOWER = Address(b"\x10" * 32)
NOW = 100.0
PLACE = "192.0.2.9:4000"


def subject(number: int) -> Address:
    """One whom we, having the lower address, try at once."""
    return Address(b"\x70" + number.to_bytes(31, "big"))


class Host:
    """A roster that writes down what it is told, and dials nobody."""

    def __init__(self) -> None:
        self.hints: dict[Address, dict[str, tuple[str, ...]]] = {}
        self.gaps = 0
        self.attempts: list[tuple[float, Address]] = []
        self.dialled: list[tuple[str, ...]] = []
        self.unwanted: set[Address] = set()
        self.now = NOW
        self.hearsay = Hearsay(US, self)

    def hint(self, address: Address, source: str, endpoints: tuple[str, ...], now: float) -> None:
        hints = self.hints.setdefault(address, {})
        if endpoints:
            hints[source] = endpoints
        else:
            del hints[source]  # nothing is withdrawn that did not stand
        if not hints:
            del self.hints[address]

    def may_attempt(self, address: Address) -> bool:
        return address in self.hints and address not in self.unwanted

    def attempt(self, address: Address, now: float) -> None:
        (places,) = self.hints[address].values()
        self.dialled.append(places)
        self.attempts.append((now - NOW, address))

    # What a test does with it

    def hear(
        self, about: Address, places: str = PLACE, teller: Address = TELLER, *, is_near: bool = False
    ) -> bool:
        return self.hearsay.heard(teller, about, places, is_near, self.now)

    def wait(self, seconds: float) -> Host:
        end = self.now + seconds
        while (deadline := self.hearsay.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.hearsay.expire(self.now)
        self.now = end
        return self

    def meet(self, about: Address) -> None:
        self.hearsay.met(about, self.now)

    def part(self, about: Address, *remembered: str) -> None:
        self.hearsay.parted(about, remembered, self.now)

    def tried(self) -> list[Any]:
        """Whom it tried since the last time it was asked."""
        tried, self.attempts = [address for _, address in self.attempts], []
        return tried

    def places(self, about: Address) -> dict[str, tuple[str, ...]]:
        return self.hints.get(about, {})


def source(teller: Address) -> str:
    return f"gossip:{teller}"


# What may be said


@pytest.mark.parametrize(
    ("places", "is_near", "endpoints", "refused"),
    [
        ("", False, (), 0),
        (PLACE, False, ("tcp://192.0.2.9:4000",), 0),
        ("192.0.2.9:4000,[2001:db8::9]:4001", False, ("tcp://192.0.2.9:4000", "tcp://[2001:db8::9]:4001"), 0),
        ("192.0.2.9:4000,192.0.2.9:4000", False, ("tcp://192.0.2.9:4000",), 1),
        ("127.0.0.1:4000,192.0.2.9:4000", False, ("tcp://192.0.2.9:4000",), 1),
        ("127.0.0.1:4000,[::1]:4000", False, (), 2),
        ("127.0.0.1:4000,[::1]:4000", True, ("tcp://127.0.0.1:4000", "tcp://[::1]:4000"), 0),
        ("169.254.1.2:4000,[fe80::1]:4000", True, (), 2),
        ("224.0.0.251:5353,[ff02::fb]:5353", True, (), 2),
        ("0.0.0.0:4000,[::]:4000,255.255.255.255:1", True, (), 3),
        ("[::ffff:127.0.0.1]:4000", True, (), 1),
        ("localhost:4000,example.org:80", True, (), 2),
        ("192.0.2.9:0,192.0.2.9:65536,192.0.2.9,nonsense,\0", False, (), 5),
        (",".join(f"192.0.2.{n}:1" for n in range(20)), False, None, 4),
    ],
)
def test_places_are_sifted(
    places: str, is_near: bool, endpoints: tuple[str, ...] | None, refused: int
) -> None:
    sifted, count = sift_places(places, is_near)
    assert count == refused
    assert sifted == (tuple(f"tcp://192.0.2.{n}:1" for n in range(16)) if endpoints is None else endpoints)


@given(st.text(max_size=100), st.booleans())
def test_anything_may_be_said(text: str, is_near: bool) -> None:
    sifted, refused = sift_places(text, is_near)
    assert len(sifted) + refused == len([item for item in text.split(",") if item])


def test_what_cannot_be_meant_is_counted_and_goes_nowhere() -> None:
    host = Host()
    for about, places in ((US, PLACE), (TELLER, PLACE), (subject(1), "127.0.0.1:1")):
        assert not host.hear(about, places)
    assert host.hearsay.refused == 3
    assert host.hints == {}
    assert host.hearsay.next_deadline() is None
    host.hear(subject(1), "127.0.0.1:1", is_near=True)
    assert host.places(subject(1)) == {source(TELLER): ("tcp://127.0.0.1:1",)}


def test_a_teller_may_tell_of_so_many_at_a_time() -> None:
    host = Host()
    for number in range(TOLD_MAX + 3):
        host.hear(subject(number))
    assert (len(host.hints), host.hearsay.refused) == (TOLD_MAX, 3)
    host.hear(subject(0), "192.0.2.1:1")  # one of them anew
    host.hear(subject(1000), teller=OTHER)  # another has a count of its own
    assert host.hearsay.refused == 3
    assert host.hear(subject(0), "")
    host.hear(subject(TOLD_MAX))
    assert (len(host.hints), host.hearsay.refused) == (TOLD_MAX + 1, 3)


# What the roster is told


def test_a_hint_stands_until_it_is_replaced_or_withdrawn_or_the_teller_goes() -> None:
    host = Host()
    host.hear(subject(1))
    host.hear(subject(1))
    host.hear(subject(1), "192.0.2.1:1")
    assert host.places(subject(1)) == {source(TELLER): ("tcp://192.0.2.1:1",)}
    assert host.hearsay.has_told(TELLER, subject(1))
    assert not host.hearsay.has_told(TELLER, subject(2))
    assert not host.hearsay.has_told(OTHER, subject(1))
    assert host.hear(subject(1), "")
    assert not host.hear(subject(1), "")
    host.hear(subject(2))
    host.part(TELLER)
    assert host.hints == {}
    assert host.hearsay.next_deadline() is None
    host.part(TELLER)  # of whom nothing is known


def test_places_that_are_all_refused_end_what_was_told_before() -> None:
    host = Host()
    host.hear(subject(1))
    assert host.hear(subject(1), "127.0.0.1:1")
    assert host.hints == {}


def test_the_roster_has_the_word_of_one_teller_at_a_time_and_never_none_in_between() -> None:
    host = Host()
    host.hear(subject(1), "192.0.2.1:1")
    host.hear(subject(1), "192.0.2.2:2", OTHER)
    assert host.places(subject(1)) == {source(TELLER): ("tcp://192.0.2.1:1",)}
    host.hear(subject(1), "", OTHER)
    assert host.places(subject(1)) == {source(TELLER): ("tcp://192.0.2.1:1",)}
    host.hear(subject(1), "192.0.2.2:2", OTHER)
    host.hear(subject(1), "")
    assert host.places(subject(1)) == {source(OTHER): ("tcp://192.0.2.2:2",)}


def test_what_is_heard_of_somebody_met_is_kept_for_when_the_session_is_over() -> None:
    host = Host()
    host.hear(subject(1))
    host.meet(subject(1))
    assert host.hints == {}
    host.hear(subject(2))
    host.meet(subject(2))
    host.hear(subject(2), "")
    host.hear(subject(1), "192.0.2.2:2")
    host.wait(60)
    assert host.tried() == []
    host.part(subject(1))
    host.part(subject(2))
    assert host.hints == {subject(1): {source(TELLER): ("tcp://192.0.2.2:2",)}}
    host.wait(0)
    assert host.tried() == [subject(1)]


# Who is tried when


def test_the_lower_address_tries_at_once_the_higher_yields() -> None:
    host = Host()
    host.hear(subject(1))
    host.hear(LOWER)
    assert host.wait(YIELD_S - 0.01).tried() == [subject(1)]
    assert host.wait(0.01).tried() == [LOWER]


def test_who_is_not_reached_is_tried_again_less_and_less_often() -> None:
    host = Host()
    host.hear(subject(1))
    host.wait(100)
    pauses = [REST_MIN_S, 2 * REST_MIN_S, 4 * REST_MIN_S, *[REST_MAX_S] * 3]
    times = [0.0]
    for pause in pauses:
        times.append(times[-1] + TRY_S + pause)
    assert [when for when, _ in host.attempts][: len(times)] == times
    assert host.hearsay.failed == len(host.attempts) - 1  # the last is still under way
    host.meet(subject(1))
    host.part(subject(1))
    host.attempts.clear()
    start = host.now - NOW
    host.wait(TRY_S + REST_MIN_S)
    assert [when - start for when, _ in host.attempts] == [0.0, TRY_S + REST_MIN_S]


def test_a_few_are_tried_at_a_time_more_for_a_word_that_proves_good() -> None:
    host = Host()
    for number in range(60):
        host.hear(subject(number))
    under_way = host.wait(0).tried()
    assert under_way == [subject(number) for number in range(TRIES_FIRST)]
    for most in [*range(TRIES_FIRST + 1, TRIES_MAX + 1), TRIES_MAX, TRIES_MAX]:
        host.meet(under_way.pop(0))
        under_way += host.tried()
        assert len(under_way) == most
    assert host.hearsay.failed == 0


def test_fewer_for_one_that_does_not() -> None:
    host = Host()
    for number in range(TOLD_MAX):
        host.hear(subject(number))
    host.wait(600)
    # Four for the first time, then one at a time; so many sockets a lie costs, and no more.
    assert len(host.attempts) == TRIES_FIRST + 600 // TRY_S
    assert len({address for _, address in host.attempts[:50]}) == 50


def test_one_teller_does_not_keep_what_another_tells_from_being_tried() -> None:
    host = Host()
    for number in range(TOLD_MAX):
        host.hear(subject(number))
    host.wait(20)
    host.tried()
    host.hear(subject(1000), teller=OTHER)
    host.hear(subject(200), teller=OTHER)
    assert host.wait(0).tried() == [subject(200), subject(1000)]


def test_tellers_take_turns() -> None:
    host = Host()
    host.hear(subject(1), "192.0.2.1:1")
    host.hear(subject(1), "192.0.2.2:2", OTHER)
    host.wait(100)
    assert host.dialled[:4] == [("tcp://192.0.2.1:1",), ("tcp://192.0.2.2:2",)] * 2


def test_a_try_takes_some_of_many_places_the_next_one_others() -> None:
    host = Host()
    host.hear(subject(1), ",".join(f"192.0.2.{n}:1" for n in range(6)))
    host.wait(TRY_S + REST_MIN_S)
    tried = [[place[-3:] for place in places] for places in host.dialled]
    assert tried == [["0:1", "1:1", "2:1", "3:1"], ["4:1", "5:1", "0:1", "1:1"]]
    assert len(tried[0]) == PLACES_PER_TRY


def test_to_take_a_lie_back_and_tell_another_gains_nothing() -> None:
    host = Host()
    for number in range(100):
        host.hear(subject(number))
        host.wait(0.01)
        host.hear(subject(number), "")
    assert len(host.tried()) == TRIES_FIRST
    for _ in range(100):
        host.hear(subject(0))
        host.wait(0.01)
        host.hear(subject(0), "")
    assert host.tried() == []
    host.wait(TRY_S)
    host.hear(subject(0))
    host.wait(0)
    assert host.tried() == [subject(0)]
    assert host.hearsay.failed == 0  # nothing was there to fail any more


def test_a_word_taken_back_while_it_is_tried_leaves_the_others() -> None:
    host = Host()
    host.hear(subject(1), "192.0.2.1:1")
    host.hear(subject(1), "192.0.2.2:2", OTHER)
    host.wait(1)
    host.hear(subject(1), "")
    assert host.places(subject(1)) == {source(OTHER): ("tcp://192.0.2.2:2",)}
    host.tried()
    assert host.wait(REST_MIN_S).tried() == [subject(1)]
    host.part(OTHER)  # in the middle of its try
    host.part(TELLER)
    host.wait(60)
    assert host.hearsay.failed == 0
    assert host.hearsay.next_deadline() is None


def test_who_is_not_wanted_is_not_tried_but_looked_at_again() -> None:
    host = Host()
    host.unwanted.add(subject(1))
    host.hear(subject(1))
    assert host.wait(REST_MAX_S - 0.01).tried() == []
    host.unwanted.clear()
    assert host.wait(0.01).tried() == [subject(1)]
    assert host.hearsay.failed == 0


def test_who_waits_for_room_and_is_met_or_forgotten_is_not_tried() -> None:
    host = Host()
    for number in range(TRIES_FIRST + 2):
        host.hear(subject(number))
    assert host.wait(0).tried() == [subject(number) for number in range(TRIES_FIRST)]
    host.meet(subject(TRIES_FIRST))
    host.hear(subject(TRIES_FIRST + 1), "")
    host.wait(TRY_S)
    assert host.tried() == []


# What is remembered


def test_a_peer_that_was_lost_is_remembered_for_a_while() -> None:
    host = Host()
    host.meet(subject(1))
    host.part(subject(1), "tcp://192.0.2.1:1")
    assert host.places(subject(1)) == {source(US): ("tcp://192.0.2.1:1",)}
    assert host.wait(0).tried() == [subject(1)]
    host.wait(REMEMBER_S - 1)
    assert host.places(subject(1))
    assert host.wait(REST_MAX_S + 1).hints == {}
    assert host.hearsay.next_deadline() is None


def test_who_comes_back_is_not_remembered_any_more() -> None:
    host = Host()
    for _ in range(2):
        host.meet(subject(1))
        assert host.hints == {}
        host.part(subject(1), "tcp://192.0.2.1:1")
        host.wait(1)
    host.meet(subject(1))
    host.part(subject(1))
    assert host.wait(60).hints == {}


def test_the_first_of_too_many_is_forgotten() -> None:
    host = Host()
    for number in range(TOLD_MAX + 2):
        host.meet(subject(number))
        host.part(subject(number), "tcp://192.0.2.1:1")
    assert host.hints.keys() == {subject(number) for number in range(2, TOLD_MAX + 2)}
    assert host.hearsay.refused == 0
