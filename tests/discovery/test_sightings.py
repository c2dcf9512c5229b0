from __future__ import annotations

import pytest

from brokerless.address import Address
from brokerless.discovery import Hint
from brokerless.discovery.sightings import RECORDS_PER_PEER_MAX, Sightings


class Heard(list[Hint]):
    """What was reported, and a way to take it."""

    def taken(self) -> list[Hint]:
        taken = self[:]
        self.clear()
        return taken


def hint(peer: int, port: int = 4000) -> Hint:
    return Hint(Address(bytes([peer] * 32)), (f"tcp://192.0.2.7:{port}",), 1, "test")


def gone(peer: int) -> Hint:
    return Hint(Address(bytes([peer] * 32)), (), 1, "test")


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def sightings(heard: Heard) -> Sightings:
    return Sightings(heard.append, records_max=6)


def test_a_record_is_reported_once(sightings: Sightings, heard: Heard) -> None:
    assert sightings.see("a", hint(1))
    assert sightings.see("a", hint(1))
    assert heard == [hint(1)]
    assert list(sightings) == ["a"]
    assert "a" in sightings
    assert sightings.get("a") == hint(1)


def test_a_record_that_goes_withdraws_what_it_said(sightings: Sightings, heard: Heard) -> None:
    sightings.see("a", hint(1))
    sightings.lose("a")
    sightings.lose("a")
    sightings.lose("never there")
    assert heard == [hint(1), gone(1)]
    assert "a" not in sightings


def test_a_new_record_replaces_the_old_without_a_gap(sightings: Sightings, heard: Heard) -> None:
    sightings.see("old", hint(1, 4000))
    sightings.see("new", hint(1, 5000))
    sightings.lose("old")
    assert heard == [hint(1, 4000), hint(1, 5000)]


def test_the_same_said_under_another_name_is_no_news(sightings: Sightings, heard: Heard) -> None:
    sightings.see("a", hint(1))
    sightings.see("b", hint(1))
    sightings.lose("a")
    assert heard == [hint(1)]
    sightings.lose("b")
    assert heard[1:] == [gone(1)]


def test_what_stands_is_reported_again_when_the_newer_goes(sightings: Sightings, heard: Heard) -> None:
    sightings.see("a", hint(1, 4000))
    sightings.see("b", hint(1, 5000))
    sightings.lose("b")
    assert heard[2:] == [hint(1, 4000)]


def test_a_name_may_change_what_it_says_and_whom_it_is_of(sightings: Sightings, heard: Heard) -> None:
    sightings.see("a", hint(1, 4000))
    sightings.see("a", hint(1, 5000))
    assert heard.taken() == [hint(1, 4000), hint(1, 5000)]
    sightings.see("a", hint(2))
    assert heard.taken() == [gone(1), hint(2)]
    sightings.lose("a")
    assert heard.taken() == [gone(2)]


def test_replays_push_out_each_other_only(sightings: Sightings, heard: Heard) -> None:
    sightings.see("other", hint(2))
    heard.clear()
    for number in range(100):
        assert sightings.see(f"replay {number}", hint(1))
    assert heard == [hint(1)]
    assert len(list(sightings)) == RECORDS_PER_PEER_MAX + 1
    for name in list(sightings):
        sightings.lose(name)
    assert heard[1:] == [gone(2), gone(1)]


def test_what_there_is_no_room_for_is_not_reported(sightings: Sightings, heard: Heard) -> None:
    for peer in range(6):
        assert sightings.see(str(peer), hint(peer))
    heard.clear()
    assert not sightings.see("6", hint(6))
    assert heard == []
    sightings.lose("0")
    assert sightings.see("6", hint(6))
    assert heard == [gone(0), hint(6)]


def test_a_name_that_changes_finds_room_in_a_full_table(sightings: Sightings, heard: Heard) -> None:
    for peer in range(6):
        sightings.see(str(peer), hint(peer))
    assert sightings.see("0", hint(0, 5000))
    assert heard[-1] == hint(0, 5000)
