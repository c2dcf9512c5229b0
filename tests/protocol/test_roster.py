"""The dial plan: whom, where, when, how many at once, and at what cost."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.protocol.roster import (
    AGAIN_S,
    DIALS_AT_ONCE_MAX,
    ENDPOINTS_MAX,
    FRESH_S,
    HEARSAY,
    HEARSAY_SHARE,
    NEXT_TIER_S,
    PACE_FIRST,
    PACE_MIN,
    REDIAL_WAITING_MAX_S,
    YIELD_MAX_S,
    YIELD_PER_PEER_S,
    YIELD_S,
    Roster,
)
from tests.protocol.operations import calls_of

LOCAL = Address(b"\x80" * 32)
LOWER = Address(b"\x10" * 32)
HIGHER = Address(b"\xf0" * 32)
TCP = "tcp://192.0.2.1:4000"
OTHER_TCP = "tcp://192.0.2.2:4000"
IPC = "ipc:///run/peer"

GOSSIP = f"{HEARSAY}somebody"
NOW = 100.0


def peer(number: int) -> Address:
    """Return an address above ours, which we dial at once."""
    return Address(b"\xf1" + number.to_bytes(31, "big"))


def fresh(**limits: Any) -> Roster:
    return Roster(LOCAL, Limits(**limits))


def known(address: Address = HIGHER, endpoints: tuple[str, ...] = (TCP,), **limits: Any) -> Roster:
    """Return a roster that has heard of one peer."""
    roster = fresh(**limits)
    assert roster.learn(address, "test", endpoints, 1, NOW)
    return roster


def run(roster: Roster, until: float) -> list[tuple[float, str]]:
    """Let time pass; every dial fails at once. Return when what was dialled."""
    dials = []
    while (now := roster.next_deadline()) is not None and now <= until:
        for address, endpoint in roster.plan(now):
            dials.append((round(now - NOW, 6), endpoint))
            roster.dial_failed(address, endpoint, now)
    return dials


def all_begun(roster: Roster, since: float, until: float) -> list[tuple[Address, str]]:
    """Let time pass; no dial ends. Return what was dialled."""
    dials = roster.plan(since)
    while (now := roster.next_deadline()) is not None and now <= until:
        dials += roster.plan(now)
    return dials


# Who is dialled when


def test_the_lower_address_dials_at_once_the_higher_yields() -> None:
    assert known(HIGHER).next_deadline() == NOW
    assert known(LOWER).next_deadline() == NOW + YIELD_S
    assert known(LOWER).plan(NOW + YIELD_S - 0.001) == []
    assert known(LOWER).plan(NOW + YIELD_S) == [(LOWER, TCP)]


def test_nobody_is_waited_for_who_does_not_know_of_us() -> None:
    roster = fresh()
    roster.learn(LOWER, "registry", (TCP,), 1, NOW, ours=True)
    assert roster.plan(NOW) == [(LOWER, TCP)]


def test_who_is_known_to_look_for_us_is_waited_for() -> None:
    roster = fresh()
    roster.learn(HIGHER, "registry", (TCP,), 1, NOW, ours=False)
    assert roster.plan(NOW) == []
    assert roster.plan(NOW + YIELD_S) == [(HIGHER, TCP)]


def test_the_more_are_to_be_met_the_longer_is_the_wait_for_their_dials() -> None:
    roster = fresh()
    for number in range(5):
        roster.learn(peer(number), "test", (TCP,), 1, NOW, ours=False)
    all_yield_s = YIELD_S + 4 * YIELD_PER_PEER_S
    assert roster.plan(NOW + YIELD_S) == []
    assert roster.next_deadline() == pytest.approx(NOW + all_yield_s)
    for number in range(3):
        roster.connected(peer(number), NOW + YIELD_S)
    roster.want(peer(3), NOW + YIELD_S)  # somebody uses it: no more waiting
    assert roster.plan(NOW + YIELD_S) == [(peer(3), TCP)]
    assert all_begun(roster, NOW + YIELD_S, NOW + all_yield_s) == [(peer(4), TCP)]


def test_nobody_is_waited_for_very_long() -> None:
    roster = fresh(eager_dials_max=1_000)
    for number in range(1_000):
        roster.learn(peer(number), "test", (TCP,), 1, NOW, ours=False)
    assert all_begun(roster, NOW, NOW + YIELD_MAX_S - 0.001) == []
    assert len(roster.plan(NOW + YIELD_MAX_S)) == PACE_FIRST


def test_we_are_no_peer_of_ours() -> None:
    roster = fresh()
    assert roster.learn(LOCAL, "test", (TCP,), 1, NOW)
    assert roster.addresses == ()
    assert roster.next_deadline() is None


def test_all_endpoints_of_all_sources_once_each() -> None:
    roster = known(endpoints=(TCP, OTHER_TCP))
    roster.learn(HIGHER, "other", (OTHER_TCP, "tcp://192.0.2.3:1"), 1, NOW)
    assert roster.plan(NOW) == [(HIGHER, TCP), (HIGHER, OTHER_TCP), (HIGHER, "tcp://192.0.2.3:1")]
    assert roster.next_deadline() is None
    assert roster.plan(NOW + 60) == []


def test_the_nearer_endpoints_have_a_moment_to_themselves() -> None:
    roster = known(endpoints=(TCP, IPC))
    assert roster.plan(NOW) == [(HIGHER, IPC)]
    assert roster.next_deadline() == NOW + NEXT_TIER_S
    assert roster.plan(NOW + NEXT_TIER_S) == [(HIGHER, TCP)]
    assert roster.next_deadline() is None


def test_the_farther_follow_at_once_where_the_nearer_fail() -> None:
    roster = known(endpoints=(IPC, "ipc:///run/second", TCP))
    assert len(roster.plan(NOW)) == 2
    roster.dial_failed(HIGHER, IPC, NOW + 0.01)
    assert roster.plan(NOW + 0.01) == []
    roster.dial_failed(HIGHER, "ipc:///run/second", NOW + 0.02)
    assert roster.plan(NOW + 0.02) == [(HIGHER, TCP)]


def test_a_peer_has_few_endpoints() -> None:
    near = tuple(f"ipc:///run/{number}" for number in range(100))
    far = tuple(f"tcp://192.0.2.1:{number}" for number in range(1, 100))
    roster = known(endpoints=near + far)
    for now, places in ((NOW, near), (NOW + NEXT_TIER_S, far)):
        assert roster.plan(now) == [(HIGHER, place) for place in places[:ENDPOINTS_MAX]]


# Again


def test_waits_double_from_the_shortest_to_the_longest() -> None:
    roster = known(redial_min_s=0.1, redial_max_s=5.0)
    dials = [when for when, _ in run(roster, NOW + 26)]
    waits = [round(later - earlier, 6) for earlier, later in itertools.pairwise(dials)]
    assert dials[0] == 0
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_the_longest_wait_bounds_the_shortest_too() -> None:
    roster = known(redial_min_s=3.0, redial_max_s=3.0)
    assert [when for when, _ in run(roster, NOW + 9)] == [0, 3, 6, 9]


def test_after_years_of_failing_the_wait_is_still_a_number() -> None:
    roster = known()
    assert len(run(roster, NOW + 20_000)) > 4_000


def test_one_round_of_failures_counts_once() -> None:
    roster = known(endpoints=(IPC, TCP, OTHER_TCP))
    dials = run(roster, NOW + 0.35)
    assert dials == [(when, place) for when in (0, 0.1, 0.3) for place in (IPC, TCP, OTHER_TCP)]


def test_waits_are_counted_from_the_end_of_the_last_dial() -> None:
    roster = known(endpoints=(TCP, OTHER_TCP))
    roster.plan(NOW)
    roster.dial_failed(HIGHER, TCP, NOW + 1)
    assert roster.next_deadline() is None
    roster.dial_failed(HIGHER, OTHER_TCP, NOW + 5)
    assert roster.next_deadline() == NOW + 5.1


def test_whom_a_session_waits_for_is_dialled_though_hearsay_is_all_that_is_known() -> None:
    roster = fresh()
    roster.learn(HIGHER, GOSSIP, (TCP,), 1, NOW)
    assert roster.next_deadline() is None
    roster.set_waiting(HIGHER, False)
    assert roster.next_deadline() is None
    roster.set_waiting(HIGHER, True)
    assert roster.plan(NOW) == [(HIGHER, TCP)]
    roster.set_waiting(HIGHER, False)
    roster.set_waiting(HIGHER, True)
    assert roster.next_deadline() == NOW + AGAIN_S  # that is under way
    roster.set_waiting(LOWER, True)  # of whom nobody has heard


def test_while_a_session_waits_the_wait_is_short() -> None:
    roster = known()
    roster.set_waiting(HIGHER, True)
    dials = [when for when, _ in run(roster, NOW + 3)]
    waits = [round(later - earlier, 6) for earlier, later in itertools.pairwise(dials)]
    assert waits == [0.1, 0.2, 0.4, *[REDIAL_WAITING_MAX_S] * 4]
    roster.set_waiting(HIGHER, False)
    dials = [when for when, _ in run(roster, NOW + 20)]
    assert round(dials[2] - dials[1], 6) == 5.0


def test_a_dial_that_nobody_made_cannot_fail() -> None:
    roster = known()
    roster.dial_failed(HIGHER, TCP, NOW)
    roster.dial_failed(LOWER, TCP, NOW)
    roster.dial_succeeded(HIGHER, TCP, NOW)
    roster.dial_succeeded(LOWER, TCP, NOW)
    assert roster.next_deadline() == NOW
    assert roster.plan(NOW) == [(HIGHER, TCP)]
    roster.dial_failed(HIGHER, OTHER_TCP, NOW)
    assert roster.next_deadline() is None


def test_who_has_left_is_left_alone_for_the_longest_wait() -> None:
    roster = known(endpoints=(IPC, TCP))
    roster.plan(NOW)
    roster.dial_failed(HIGHER, IPC, NOW)
    roster.rest(HIGHER, NOW + 1)
    assert roster.next_deadline() == NOW + 6
    assert roster.plan(NOW + 6) == [(HIGHER, IPC)]  # from the start
    roster.rest(LOWER, NOW)  # never heard of
    assert roster.addresses == (HIGHER,)


@pytest.mark.parametrize(("endpoints", "boot"), [((TCP,), 2), ((OTHER_TCP,), 1)])
def test_who_starts_anew_is_dialled_anew(endpoints: tuple[str, ...], boot: int) -> None:
    roster = known()
    run(roster, NOW + 10)
    roster.rest(HIGHER, NOW + 10)
    roster.learn(HIGHER, "test", endpoints, boot, NOW + 11)
    assert roster.next_deadline() == NOW + 11
    assert [when for when, _ in run(roster, NOW + 11.4)] == [11, 11.1, 11.3]


@pytest.mark.parametrize("boot", [0, 1])
def test_the_same_hint_again_changes_nothing(boot: int) -> None:
    roster = known()
    roster.rest(HIGHER, NOW)
    roster.learn(HIGHER, "test", (TCP,), boot, NOW + 1)
    roster.learn(HIGHER, "another source", (TCP,), boot, NOW + 1)
    assert roster.next_deadline() == NOW + 5


def test_where_a_peer_has_moved_to_is_dialled_beside_where_it_was() -> None:
    roster = known()
    roster.plan(NOW)
    roster.learn(HIGHER, "test", (TCP, OTHER_TCP), 1, NOW + 1)
    assert roster.plan(NOW + 1) == [(HIGHER, OTHER_TCP)]
    roster.dial_failed(HIGHER, OTHER_TCP, NOW + 2)
    assert roster.next_deadline() is None
    roster.dial_failed(HIGHER, TCP, NOW + 2)
    assert roster.plan(NOW + 2.1) == [(HIGHER, TCP), (HIGHER, OTHER_TCP)]


def test_a_peer_that_moves_all_the_time_has_no_more_dials_than_one_with_many_places() -> None:
    roster = known()
    roster.plan(NOW)
    for number in range(1, 100):
        roster.learn(HIGHER, "test", (f"tcp://192.0.2.{number}:1",), 1, NOW + number)
        assert len(roster.plan(NOW + number)) == (number < ENDPOINTS_MAX)


# Connected, and no longer


def test_who_is_connected_is_not_dialled() -> None:
    roster = known(endpoints=(IPC, TCP))
    assert roster.is_dialling(HIGHER)
    roster.plan(NOW)
    roster.dial_succeeded(HIGHER, IPC, NOW)
    roster.connected(HIGHER, NOW)
    assert not roster.is_dialling(HIGHER)
    assert roster.next_deadline() is None
    roster.learn(HIGHER, "test", (OTHER_TCP,), 2, NOW + 1)
    roster.want(HIGHER, NOW + 1)
    assert roster.next_deadline() is None
    roster.disconnected(HIGHER, NOW + 2)
    assert roster.next_deadline() == NOW + 2.1
    assert roster.plan(NOW + 2.1) == [(HIGHER, OTHER_TCP)]


def test_a_needless_dial_that_ends_is_not_repeated() -> None:
    roster = known()
    roster.plan(NOW)
    roster.connected(HIGHER, NOW)  # by a link of theirs
    roster.dial_failed(HIGHER, TCP, NOW + 1)
    assert roster.next_deadline() is None


def test_a_success_after_failures_shortens_the_next_wait() -> None:
    roster = known()
    run(roster, NOW + 10)
    roster.connected(HIGHER, NOW)
    roster.disconnected(HIGHER, NOW + 20)
    assert [when for when, _ in run(roster, NOW + 20.8)] == [20.1, 20.2, 20.4, 20.8]


def test_a_dial_that_has_succeeded_does_not_fail_when_its_link_ends() -> None:
    roster = known()
    roster.plan(NOW)
    roster.dial_succeeded(HIGHER, TCP, NOW)
    roster.connected(HIGHER, NOW)
    roster.disconnected(HIGHER, NOW + 20)
    roster.dial_failed(HIGHER, TCP, NOW + 20)
    assert roster.next_deadline() == NOW + 20.1


def test_a_doubtful_link_gets_a_second_beside_it() -> None:
    roster = known()
    roster.plan(NOW)
    roster.dial_succeeded(HIGHER, TCP, NOW)
    roster.connected(HIGHER, NOW)
    roster.doubt(HIGHER, True, NOW + 2.5)
    assert roster.plan(NOW + 2.5) == [(HIGHER, TCP)]
    roster.doubt(HIGHER, True, NOW + 2.6)  # it is being tried
    assert roster.plan(NOW + 2.6) == []
    assert roster.next_deadline() == NOW + 2.5 + AGAIN_S
    roster.doubt(HIGHER, False, NOW + 2.7)
    roster.doubt(LOWER, True, NOW)  # never heard of
    roster.learn(LOWER, "test", (TCP,), 1, NOW + 3)
    roster.doubt(LOWER, False, NOW + 3)  # without a link there is nothing to doubt
    assert roster.next_deadline() == NOW + 3 + YIELD_S


def test_of_two_that_doubt_each_other_the_higher_yields() -> None:
    roster = known(LOWER)
    roster.connected(LOWER, NOW)
    roster.doubt(LOWER, True, NOW + 2.5)
    assert roster.next_deadline() == NOW + 2.5 + YIELD_S


def test_while_there_is_doubt_the_second_link_is_tried_again_soon_and_wherever_a_hint_says() -> None:
    roster = known()
    roster.connected(HIGHER, NOW)
    roster.doubt(HIGHER, True, NOW)
    assert [when for when, _ in run(roster, NOW + 1.2)] == [0, 0.1, 0.3, 0.7, 1.2]
    roster.learn(HIGHER, "test", (OTHER_TCP,), 1, NOW + 1.3)
    assert roster.plan(NOW + 1.3) == [(HIGHER, OTHER_TCP)]
    roster.dial_failed(HIGHER, OTHER_TCP, NOW + 1.4)
    roster.doubt(HIGHER, False, NOW + 1.45)
    assert roster.next_deadline() is None
    roster.doubt(HIGHER, True, NOW + 9)
    assert roster.plan(NOW + 9) == [(HIGHER, OTHER_TCP)]
    roster.doubt(HIGHER, False, NOW + 9.1)
    roster.dial_failed(HIGHER, OTHER_TCP, NOW + 9.2)  # nobody minds any more
    assert roster.next_deadline() is None
    roster.doubt(HIGHER, True, NOW + 10)
    roster.connected(HIGHER, NOW)
    assert roster.next_deadline() is None
    roster.dial_failed(HIGHER, OTHER_TCP, NOW + 10)
    assert roster.next_deadline() is None


def begun(roster: Roster, since: float, until: float) -> list[float]:
    """Let time pass; no dial ends. Return when something was dialled."""
    times = []
    for step in range(round((until - since) * 100) + 1):
        now = since + step / 100
        times += [round(now - since, 2)] * len(roster.plan(now))
    return times


def test_beside_a_dial_that_hangs_another_is_tried_while_a_session_needs_it() -> None:
    roster = known()
    roster.connected(HIGHER, NOW)
    roster.doubt(HIGHER, True, NOW)
    assert begun(roster, NOW, NOW + 5) == [0, 0.5, 1.5, 3.5]
    roster.dial_failed(HIGHER, TCP, NOW + 5)
    roster.doubt(HIGHER, False, NOW + 5)
    assert begun(roster, NOW + 5, NOW + 15) == []  # nobody needs it any more
    roster.doubt(HIGHER, True, NOW + 15)
    roster.dial_succeeded(HIGHER, TCP, NOW + 15)
    roster.connected(HIGHER, NOW + 15)
    assert begun(roster, NOW + 15, NOW + 25) == []
    roster.dial_failed(HIGHER, TCP, NOW + 25)
    roster.dial_failed(HIGHER, TCP, NOW + 25)
    roster.set_waiting(HIGHER, True)
    roster.disconnected(HIGHER, NOW + 25)
    assert begun(roster, NOW + 25, NOW + 30) == [0.1, 0.6, 1.6, 3.6]


def test_a_dial_begun_before_the_doubt_has_its_time_too() -> None:
    roster = known()
    roster.plan(NOW)
    roster.connected(HIGHER, NOW)
    roster.doubt(HIGHER, True, NOW + 0.2)
    assert begun(roster, NOW, NOW + 1) == [0.5]


def test_a_dial_that_hangs_is_left_alone_where_nobody_waits() -> None:
    roster = known()
    assert begun(roster, NOW, NOW + 5) == [0]


def test_those_beside_others_that_hang_keep_the_pace_too() -> None:
    roster = fresh()
    for number in range(4):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
        roster.connected(peer(number), NOW)
        roster.doubt(peer(number), True, NOW)
    for number in range(4):
        roster.plan(NOW)
        roster.dial_succeeded(peer(number), TCP, NOW + 60)  # each halves the pace
    assert begun(roster, NOW + 60, NOW + 60.99) == [0] * 2 + [0.5] * 2


def test_doubt_ends_with_the_link() -> None:
    roster = known()
    roster.connected(HIGHER, NOW)
    roster.doubt(HIGHER, True, NOW)
    roster.disconnected(HIGHER, NOW)
    assert [when for when, _ in run(roster, NOW + 3.2)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    roster.connected(HIGHER, NOW)
    roster.learn(HIGHER, "test", (OTHER_TCP,), 1, NOW + 4)
    assert roster.next_deadline() is None


def test_who_dialled_us_and_is_nowhere_to_be_found_is_forgotten_with_its_link() -> None:
    roster = fresh()
    roster.connected(HIGHER, NOW)
    assert HIGHER in roster
    assert not roster.is_dialling(HIGHER)
    roster.disconnected(HIGHER, NOW)
    assert HIGHER not in roster
    roster.disconnected(HIGHER, NOW)
    roster.set_waiting(HIGHER, True)
    roster.want(HIGHER, NOW)
    assert not roster.is_dialling(HIGHER)
    assert roster.next_deadline() is None


def test_who_is_waited_for_is_remembered_until_a_hint_comes() -> None:
    roster = fresh()
    roster.connected(HIGHER, NOW)
    roster.set_waiting(HIGHER, True)
    roster.disconnected(HIGHER, NOW)
    assert HIGHER in roster
    assert roster.next_deadline() is None
    roster.learn(HIGHER, "test", (TCP,), 1, NOW + 1)
    assert roster.plan(NOW + 1) == [(HIGHER, TCP)]


# Forgetting


def test_a_hint_is_withdrawn_by_the_source_that_gave_it() -> None:
    roster = known()
    assert roster.learn(HIGHER, "other", (OTHER_TCP,), 1, NOW)
    assert roster.learn(HIGHER, "test", (), 1, NOW)
    assert roster.plan(NOW) == [(HIGHER, OTHER_TCP)]
    assert not roster.learn(HIGHER, "other", (), 1, NOW)
    assert HIGHER not in roster
    assert not roster.is_dialling(HIGHER)


def test_what_is_withdrawn_is_not_dialled() -> None:
    roster = known()
    assert not roster.learn(HIGHER, "test", (), 0, NOW)
    assert roster.next_deadline() is None
    assert roster.plan(NOW + 60) == []
    assert not roster.learn(HIGHER, "test", (), 0, NOW)  # nor remembered by being withdrawn again
    assert roster.addresses == ()


def test_who_is_connected_outlives_its_hints() -> None:
    roster = known()
    roster.plan(NOW)
    roster.connected(HIGHER, NOW)
    assert roster.learn(HIGHER, "test", (), 1, NOW)
    roster.doubt(HIGHER, True, NOW + 1)  # nowhere to dial
    assert roster.plan(NOW + 1) == []
    roster.disconnected(HIGHER, NOW + 2)
    assert HIGHER not in roster


def test_a_timer_of_somebody_nowhere_to_be_found_does_nothing() -> None:
    roster = known()
    roster.connected(HIGHER, NOW)
    roster.doubt(HIGHER, True, NOW)
    roster.learn(HIGHER, "test", (), 1, NOW)
    assert roster.plan(NOW) == []
    assert roster.next_deadline() is None


def test_the_dials_of_who_is_forgotten_are_not_counted() -> None:
    roster = fresh()
    for number in range(DIALS_AT_ONCE_MAX):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
    assert len(all_begun(roster, NOW, NOW + 10)) == DIALS_AT_ONCE_MAX
    for number in range(DIALS_AT_ONCE_MAX):
        roster.forget(peer(number))
        roster.dial_failed(peer(number), TCP, NOW + 10)
        roster.learn(peer(number), "test", (TCP,), 1, NOW + 10)
    roster.forget(HIGHER)  # never heard of
    assert len(all_begun(roster, NOW + 10, NOW + 20)) == DIALS_AT_ONCE_MAX
    assert all_begun(roster, NOW + 20, NOW + 30) == []


def test_who_is_forgotten_before_its_turn_is_not_dialled() -> None:
    roster = fresh()
    for number in range(PACE_FIRST + 2):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
    roster.plan(NOW)
    roster.forget(peer(PACE_FIRST))
    assert roster.plan(NOW + FRESH_S) == [(peer(PACE_FIRST + 1), TCP)]
    assert roster.next_deadline() is None


# Many


def test_few_dials_at_once() -> None:
    roster = fresh()
    for number in range(60):
        roster.learn(peer(number), "test", (TCP, OTHER_TCP, "tcp://192.0.2.3:1"), 1, NOW)
    under_way = all_begun(roster, NOW, NOW + 4)
    assert DIALS_AT_ONCE_MAX - 3 < len(under_way) <= DIALS_AT_ONCE_MAX
    assert roster.next_deadline() is None
    assert roster.plan(NOW + 4) == []
    for address, endpoint in under_way[:6]:
        roster.dial_failed(address, endpoint, NOW + 5)
    assert roster.next_deadline() == NOW + 5
    assert len(roster.plan(NOW + 5)) == 6


def test_few_peers_are_dialled_afresh_at_once() -> None:
    roster = fresh()
    for number in range(60):
        roster.learn(peer(number), "test", (TCP, OTHER_TCP), 1, NOW)
    assert [address for address, _ in roster.plan(NOW)][::2] == [peer(number) for number in range(PACE_FIRST)]
    assert roster.next_deadline() == NOW + FRESH_S
    roster.dial_failed(peer(0), TCP, NOW + 0.1)
    assert roster.plan(NOW + 0.1) == []  # it is being dialled elsewhere
    roster.dial_failed(peer(0), OTHER_TCP, NOW + 0.2)
    roster.connected(peer(1), NOW + 0.2)  # by a link of theirs
    assert roster.next_deadline() == NOW + 0.2
    assert {address for address, _ in roster.plan(NOW + 0.2)} == {peer(PACE_FIRST), peer(PACE_FIRST + 1)}
    assert len(roster.plan(NOW + FRESH_S)) == 2 * (PACE_FIRST - 2)  # whoever takes longer holds up nobody
    assert roster.next_deadline() == NOW + 0.2 + FRESH_S


def test_the_pace_follows_how_soon_peers_are_met() -> None:
    roster = fresh(eager_dials_max=200)
    for number in range(200):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
    now, at_once = NOW, []
    for taken_s in (0.1, 0.1, 0.1, 1.0, 1.0, 0.1):
        met = roster.plan(now)
        at_once.append(len(met))
        now += taken_s
        for address, endpoint in met:
            roster.dial_succeeded(address, endpoint, now)
            roster.connected(address, now)
    assert at_once == [PACE_FIRST, 2 * PACE_FIRST, *[DIALS_AT_ONCE_MAX] * 2, PACE_MIN, PACE_MIN]


def test_many_doubts_at_once_are_looked_into_a_few_at_a_time() -> None:
    roster = fresh()
    for number in range(49):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
        roster.connected(peer(number), NOW)
    for number in range(49):
        roster.doubt(peer(number), True, NOW + 3)
    assert len(roster.plan(NOW + 3)) == PACE_FIRST
    for number in range(49):
        roster.doubt(peer(number), False, NOW + 3.1)
    assert all_begun(roster, NOW + 3.1, NOW + 60) == []


def test_in_the_end_everybody_is_dialled() -> None:
    roster = fresh()
    for number in range(64):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
    dialled = set()
    while len(dialled) < 64:
        now = roster.next_deadline()
        assert now is not None
        assert now < NOW + 1
        for address, endpoint in roster.plan(now):
            dialled.add(address)
            roster.dial_succeeded(address, endpoint, NOW)
            roster.connected(address, NOW)


def test_a_small_roster_is_dialled_and_a_large_one_on_use() -> None:
    roster = fresh(eager_dials_max=3)
    for number in range(5):
        assert roster.learn(peer(number), "test", (TCP,), 1, NOW)
    assert [address for address, _ in roster.plan(NOW)] == [peer(0), peer(1), peer(2)]
    assert not roster.is_dialling(peer(4))
    roster.want(peer(4), NOW + 1)
    assert roster.is_dialling(peer(4))
    assert roster.plan(NOW + 1) == [(peer(4), TCP)]
    roster.dial_failed(peer(4), TCP, NOW + 1)
    assert roster.next_deadline() == NOW + 1.1
    roster.want(peer(4), NOW + 1)  # known already: does not shorten the wait
    assert roster.next_deadline() == NOW + 1.1
    roster.dial_failed(peer(0), TCP, NOW + 1)
    assert roster.plan(NOW + 1.1) == [(peer(4), TCP)]  # not the first: nobody uses it


def test_when_a_roster_has_become_small_it_is_the_turn_of_those_who_were_only_known() -> None:
    roster = fresh(eager_dials_max=3)
    for number in range(3):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
    roster.learn(peer(3), "gossip:somebody", (TCP,), 1, NOW)
    roster.connected(peer(0), NOW)
    roster.plan(NOW)
    roster.learn(peer(4), "test", (TCP,), 1, NOW)
    roster.dial_failed(peer(1), TCP, NOW)  # peer(2) is still being dialled
    assert not roster.is_small
    assert roster.next_deadline() is None
    roster.learn(peer(5), "test", (TCP,), 1, NOW)
    roster.learn(peer(5), "test", (), 0, NOW + 1)
    assert roster.next_deadline() is None
    roster.learn(peer(0), "test", (), 0, NOW + 1)
    roster.disconnected(peer(0), NOW + 2)
    assert roster.is_small
    assert roster.plan(NOW + 2) == [(peer(1), TCP), (peer(4), TCP)]


def test_somebody_being_dialled_is_wanted_without_a_second_dial() -> None:
    roster = known()
    roster.plan(NOW)
    roster.want(HIGHER, NOW)
    assert roster.next_deadline() is None


@pytest.mark.parametrize("use", ["waiting", "suspect"])
def test_a_conversation_gets_its_links_in_a_large_roster_too(use: str) -> None:
    roster = fresh(eager_dials_max=1)
    for number in range(5):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
    roster.plan(NOW)
    roster.connected(peer(3), NOW)  # it dialled us
    if use == "suspect":
        roster.doubt(peer(3), True, NOW + 1)
    else:
        roster.set_waiting(peer(3), True)
        roster.disconnected(peer(3), NOW + 0.9)
    assert roster.plan(NOW + 1) == [(peer(3), TCP)]


def test_a_flood_of_records_is_bounded() -> None:
    roster = fresh(peers_max=100)
    taken = [roster.learn(peer(number), "test", (TCP,), 1, NOW) for number in range(1_000)]
    assert taken == [True] * 100 + [False] * 900
    assert len(roster.addresses) == 100
    assert roster.ignored == 900
    assert roster.learn(peer(7), "test", (OTHER_TCP,), 2, NOW)  # who is in stays in
    assert not roster.learn(peer(7), "test", (), 2, NOW)
    assert roster.learn(peer(999), "test", (TCP,), 1, NOW)  # and makes room


@pytest.mark.parametrize("eager", [64, 4_096])
def test_the_two_thousandth_join_costs_as_the_twentieth(eager: int) -> None:
    roster = fresh(eager_dials_max=eager)
    costs = []
    for number in range(2_001):
        address = peer(number)
        costs.append(
            calls_of(partial(roster.learn, address, "test", (TCP,), 1, NOW))
            + calls_of(partial(roster.is_dialling, address))
            + calls_of(partial(roster.connected, address, NOW))
        )
    assert costs[2_000] <= costs[19]


# Hearsay


def told(roster: Roster, address: Address = HIGHER, endpoints: tuple[str, ...] = (TCP,)) -> bool:
    return roster.learn(address, GOSSIP, endpoints, 0, NOW)


def test_what_is_known_by_hearsay_is_dialled_once_for_each_attempt() -> None:
    roster = fresh()
    assert told(roster)
    assert run(roster, NOW + 60) == []
    assert not roster.is_dialling(HIGHER)
    for when in (1.0, 2.0):
        assert roster.may_attempt(HIGHER)
        roster.attempt(HIGHER, NOW + when)
        roster.attempt(HIGHER, NOW + when)
        assert run(roster, NOW + 60) == [(when, TCP)]
    assert not told(roster, endpoints=())
    assert roster.addresses == ()
    assert not roster.may_attempt(HIGHER)
    roster.attempt(HIGHER, NOW)
    assert roster.plan(NOW) == []


def test_nobody_is_attempted_twice_at_once_or_while_there_is_a_link() -> None:
    roster = fresh()
    told(roster)
    roster.attempt(HIGHER, NOW)
    assert roster.plan(NOW) == [(HIGHER, TCP)]
    roster.attempt(HIGHER, NOW)
    assert roster.plan(NOW) == []
    roster.connected(HIGHER, NOW)
    assert not roster.may_attempt(HIGHER)
    roster.attempt(HIGHER, NOW)
    assert roster.plan(NOW) == []
    roster.disconnected(HIGHER, NOW)
    assert roster.may_attempt(HIGHER)


def test_what_is_known_better_too_is_dialled_as_ever() -> None:
    roster = known()
    told(roster, endpoints=(OTHER_TCP,))
    assert not roster.may_attempt(HIGHER)
    assert sorted(endpoint for _, endpoint in run(roster, NOW)) == [TCP, OTHER_TCP]
    roster.learn(HIGHER, "test", (), 0, NOW)
    assert roster.may_attempt(HIGHER)


def test_what_hearsay_said_already_is_dialled_when_a_better_source_says_the_same() -> None:
    roster = fresh()
    assert roster.learn(HIGHER, GOSSIP, (TCP,), 0, NOW)
    assert roster.next_deadline() is None
    assert roster.learn(HIGHER, "ticket", (TCP,), 0, NOW)  # a ticket names no boot, so that is no news either
    assert roster.plan(NOW) == [(HIGHER, TCP)]


def test_who_has_a_link_is_not_dialled_after_a_rest() -> None:
    roster = known()
    roster.connected(HIGHER, NOW)
    roster.rest(HIGHER, NOW)  # a second link was refused
    assert roster.next_deadline() is None


def test_hearsay_of_somebody_in_use_is_dialled_again_and_again() -> None:
    roster = fresh(eager_dials_max=1)
    for number in range(2):
        roster.learn(peer(number), "test", (TCP,), 1, NOW)
    told(roster)
    assert not roster.may_attempt(HIGHER)  # the mesh is too large to dial everybody
    roster.want(HIGHER, NOW)
    assert roster.may_attempt(HIGHER)
    assert len([when for when, _ in run(roster, NOW + 20)]) > 5


def test_hearsay_does_not_make_the_mesh_a_large_one() -> None:
    roster = fresh(eager_dials_max=2)
    for number in range(10):
        told(roster, peer(number))
    roster.learn(HIGHER, "test", (TCP,), 1, NOW)
    assert roster.may_attempt(peer(9))
    assert run(roster, NOW) == [(0.0, TCP)]
    roster.connected(peer(0), NOW)
    assert not roster.may_attempt(peer(9))


def test_hearsay_fills_half_the_roster_and_takes_half_the_dials() -> None:
    roster = fresh(peers_max=64)
    for number in range(64):
        told(roster, peer(number))
    assert len(roster.addresses) == roster.ignored == 64 * HEARSAY_SHARE
    for number in range(32):
        roster.attempt(peer(number), NOW)
    assert len(all_begun(roster, NOW, NOW + 4)) == DIALS_AT_ONCE_MAX * HEARSAY_SHARE
    for number in range(100, 116):
        assert roster.learn(peer(number), "test", (TCP,), 1, NOW + 4)
    assert len(all_begun(roster, NOW + 4, NOW + 8)) == 16


def test_whose_every_place_is_being_tried_is_not_dialled_again() -> None:
    roster = known()
    assert roster.plan(NOW) == [(HIGHER, TCP)]
    roster.rest(HIGHER, NOW)
    assert roster.plan(NOW + 5) == []
    assert roster.next_deadline() is None
    roster.dial_failed(HIGHER, TCP, NOW + 6)
    assert roster.next_deadline() == NOW + 6.1


def test_what_is_more_than_hearsay_comes_first() -> None:
    roster = fresh()
    for number in range(PACE_FIRST):
        told(roster, peer(number))
        roster.attempt(peer(number), NOW)
    roster.learn(HIGHER, "test", (TCP,), 1, NOW)
    assert roster.plan(NOW)[0] == (HIGHER, TCP)


# Whatever comes


ADDRESSES = [peer(number) for number in range(4)] + [LOWER]
NEEDY = ADDRESSES[2:]
"""With whom there may be a session that waits for a link, or doubts it."""
PLACES = [(), (TCP,), (TCP, OTHER_TCP), (IPC, TCP)]
STEPS = st.tuples(
    st.sampled_from(
        [
            "learn",
            "plan",
            "fail",
            "succeed",
            "connected",
            "disconnected",
            "want",
            "set_waiting",
            "doubt",
            "rest",
            "attempt",
        ]
    ),
    st.sampled_from(ADDRESSES),
    st.sampled_from(PLACES),
    st.integers(0, 300),
)


def take(roster: Roster, step: tuple[Any, ...], under_way: Counter[tuple[Address, str]], now: float) -> None:
    """Do one step to the roster, and keep account of the dials under way."""
    what, address, places, number = step
    mine = sorted(dial for dial in under_way.elements() if dial[0] == address)[:1]
    if what == "learn":
        roster.learn(address, ("a", "b", GOSSIP)[number % 3], places, number % 4, now)
    elif what in ("fail", "succeed"):
        for dial in mine:
            under_way[dial] -= 1
            if what == "fail":
                roster.dial_failed(*dial, now)
            else:
                roster.dial_succeeded(*dial, NOW)
                roster.connected(address, NOW)
    elif what == "plan":
        dials = roster.plan(now)
        needless = {dial for dial in under_way.elements() if dial[0] not in NEEDY}
        assert not needless & set(dials), "dialled twice at once"
        assert len(dials) == len(set(dials))
        under_way.update(dials)
    elif what == "connected":
        roster.connected(address, NOW)
    elif what == "set_waiting":
        roster.set_waiting(address, number % 2 == 0 and address in NEEDY)
    elif what == "doubt":
        roster.doubt(address, number % 3 > 0 and address in NEEDY, now)
    else:
        getattr(roster, what)(address, now)


@given(st.lists(STEPS, max_size=60))
def test_dials_are_counted_and_nobody_is_left_in_a_corner(steps: list[tuple[Any, ...]]) -> None:
    roster = fresh(peers_max=4, eager_dials_max=2)
    under_way = Counter[tuple[Address, str]]()
    now = NOW
    for step in steps:
        now += step[3] / 1000
        take(roster, step, under_way, now)
        under_way = Counter(dial for dial in under_way.elements() if dial[0] in roster)
        deadline = roster.next_deadline()
        assert deadline is None or deadline <= now + 5.0
    # With nothing under way any more, whoever is used and can be reached is dialled within the longest wait.
    for dial in under_way.elements():
        roster.dial_failed(*dial, now)
    for address in roster.addresses:
        roster.learn(address, "final", (TCP,), 0, now)
        roster.want(address, now)
    expected = {address for address in roster.addresses if roster.is_dialling(address)}
    dialled = set()
    for later in range(60):
        for address, endpoint in roster.plan(now + later / 10):
            dialled.add(address)
            roster.dial_failed(address, endpoint, now + later / 10)
    assert expected <= dialled
