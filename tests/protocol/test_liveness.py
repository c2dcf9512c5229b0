"""Liveness: who is silent is noticed in time, who is not is left in peace, and a one-way path is none."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.liveness import Liveness, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

T = 5.0


def fresh(*, eager: bool = True, active: bool = False, now: float = 0.0) -> Liveness:
    liveness = Liveness(limit_s=T, eager=eager, now=now)
    liveness.active = active
    return liveness


def run_out(liveness: Liveness, until: float = math.inf) -> list[tuple[float, str]]:
    """Let time pass with a silent peer; return what happened when."""
    happened = []
    while (now := liveness.next_deadline()) <= until:
        was_suspect = liveness.is_suspect
        verdict = liveness.expire(now)
        assert verdict is not Verdict.QUIET, "a deadline with nothing to do"
        if liveness.is_suspect and not was_suspect:
            happened.append((now, "suspect"))
        happened.append((now, verdict.name))
        if verdict is Verdict.LOST:
            break
    return happened


def rounded(happened: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(round(when, 9), what) for when, what in happened]


# A silent peer


@pytest.mark.parametrize(
    ("eager", "active", "first_ping"),
    [(True, True, 1.0), (True, False, 2.0), (False, True, 1.0), (False, False, 2.0)],
)
def test_a_silent_peer_is_asked_suspected_at_half_the_limit_and_lost_at_the_limit(
    eager: bool, active: bool, first_ping: float
) -> None:
    liveness = fresh(eager=eager, active=active, now=100.0)
    assert rounded(run_out(liveness)) == [
        (100 + first_ping, "PING"),
        (102.5, "suspect"),
        (102.5, "PING"),
        (103.0, "PING"),
        (103.5, "PING"),
        (104.0, "PING"),
        (104.5, "PING"),
        (105.0, "LOST"),
    ]


@pytest.mark.parametrize(("active", "ping_at"), [(True, 1.4), (False, 2.4)])
def test_the_higher_side_waits_longer_once_the_other_asks_often_enough(active: bool, ping_at: float) -> None:
    soon = 1.0 if active else 2.0
    for eager, pings, first in ((False, 0, soon), (False, 1, soon), (False, 2, ping_at), (True, 2, soon)):
        liveness = fresh(eager=eager, active=active)
        for token in range(1, pings + 1):
            liveness.pinged(token, 0.0)
        assert rounded(run_out(liveness, until=2.5)) == [(first, "PING"), (2.5, "suspect"), (2.5, "PING")]


def test_the_schedule_keeps_its_proportions() -> None:
    liveness = Liveness(limit_s=1.0, eager=True, now=0.0)
    happened = rounded(run_out(liveness))
    assert happened[:4] == [(0.4, "PING"), (0.5, "suspect"), (0.5, "PING"), (0.6, "PING")]
    assert happened[-1] == (1.0, "LOST")


@pytest.mark.parametrize(("active", "interval_s"), [(True, 1.0), (False, 2.0)])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.999])
def test_a_node_pings_all_its_peers_at_the_same_ticks(active: bool, interval_s: float, phase: float) -> None:
    tick_s = interval_s / 2
    asked_at = set()
    for number in range(100):
        proven_at = 100 + 7 * number / 100
        liveness = Liveness(limit_s=T, eager=True, now=proven_at, phase=phase)
        liveness.active = active
        ping_at = liveness.next_deadline()
        assert proven_at + interval_s / 2 - 1e-9 <= ping_at <= proven_at + interval_s
        assert liveness.expire(ping_at) is Verdict.PING
        asked_at.add(round(ping_at / tick_s - phase, 6))
    assert all(tick.is_integer() for tick in asked_at)
    assert len(asked_at) <= 7 / tick_s + 2


def test_nothing_is_to_do_before_the_deadline() -> None:
    liveness = fresh()
    for early in (0.0, 1.999):
        assert liveness.expire(early) is Verdict.QUIET
    assert liveness.expire(2.0) is Verdict.PING
    for early in (2.0, 2.499):
        assert liveness.expire(early) is Verdict.QUIET
    assert not liveness.is_suspect


def test_who_looks_late_sees_the_loss_all_the_same() -> None:
    assert fresh().expire(T - 0.001) is Verdict.PING
    assert fresh().expire(T) is Verdict.LOST
    assert fresh().expire(10 * T) is Verdict.LOST


def test_who_looks_at_half_the_limit_for_the_first_time_suspects_and_asks() -> None:
    liveness = fresh()
    assert liveness.expire(2.6) is Verdict.PING
    assert liveness.is_suspect
    assert liveness.next_deadline() == pytest.approx(3.1)


def test_what_becomes_active_is_asked_sooner() -> None:
    liveness = fresh()
    assert liveness.expire(1.5) is Verdict.QUIET
    liveness.active = True
    assert liveness.next_deadline() == 1.0
    assert liveness.expire(1.5) is Verdict.PING
    liveness.active = False
    assert liveness.next_deadline() == 2.0  # idle again: the ping at 1.5 was before its time, so another


def test_how_long_unproven() -> None:
    liveness = fresh(now=100.0)
    assert liveness.unproven_s(103.0) == 3.0
    liveness.progressed(102.0)
    assert liveness.unproven_s(103.0) == 1.0


# What is proof


def test_progress_is_proof_and_ends_suspicion() -> None:
    liveness = fresh()
    run_out(liveness, until=3.2)
    assert liveness.is_suspect
    liveness.progressed(3.3)
    assert not liveness.is_suspect
    assert rounded(run_out(liveness))[:2] == [(5.0, "PING"), (5.8, "suspect")]


def test_the_answer_to_our_ping_is_proof_and_measures_the_round_trip() -> None:
    liveness = fresh()
    liveness.expire(2.0)
    assert liveness.ponged(liveness.ping_token, 2.25) == 0.25
    assert liveness.unproven_s(2.25) == 0
    assert liveness.next_deadline() == 4.0
    liveness.expire(4.0)
    assert liveness.ponged(liveness.ping_token, 4.5) == 0.5


def test_an_answer_counts_whatever_was_proven_meanwhile() -> None:
    liveness = fresh()
    liveness.expire(2.0)
    token = liveness.ping_token
    liveness.progressed(2.1)
    assert not liveness.is_asking
    assert liveness.ponged(token, 2.25) == 0.25
    assert liveness.ping_token == token + 1  # which is proof for the other side
    assert liveness.unproven_s(2.25) == 0


def test_what_is_asked_again_after_other_proof_is_not_measured() -> None:
    liveness = fresh()
    liveness.expire(2.0)
    liveness.progressed(2.1)
    liveness.expire(4.1)
    assert liveness.ponged(liveness.ping_token, 4.2) is None
    liveness.expire(6.2)
    assert liveness.ponged(liveness.ping_token, 6.3) == pytest.approx(0.1)


def test_of_a_ping_sent_twice_the_round_trip_is_not_known() -> None:
    liveness = fresh()
    run_out(liveness, until=2.5)
    assert liveness.ponged(liveness.ping_token, 2.6) is None
    assert liveness.unproven_s(2.6) == 0
    assert not liveness.is_suspect


def test_what_is_asked_again_by_the_way_counts_as_a_ping() -> None:
    liveness = fresh()
    assert not liveness.is_asking
    liveness.expire(2.0)
    assert liveness.is_asking
    liveness.asked(2.2)
    assert liveness.ponged(liveness.ping_token, 2.3) is None
    assert not liveness.is_asking
    liveness.stalled(60.0)
    liveness.asked(60.1)
    assert liveness.next_deadline() == 60.6
    assert liveness.ponged(liveness.ping_token, 60.3) == pytest.approx(0.2)


def test_an_answer_to_nothing_is_no_proof() -> None:
    liveness = fresh()
    assert liveness.ponged(liveness.ping_token, 1.0) is None  # guessed: no ping was sent
    liveness.expire(2.0)
    token = liveness.ping_token
    for foreign in (token - 1, token + 1, 0):
        assert liveness.ponged(foreign, 2.1) is None
    assert liveness.unproven_s(2.1) == 2.1
    liveness.ponged(token, 2.2)
    assert liveness.ping_token == token + 1
    liveness.expire(4.2)
    assert liveness.ponged(token, 4.3) is None  # again
    assert liveness.unproven_s(4.3) == pytest.approx(2.1)


def test_a_ping_is_proof_only_when_its_token_has_moved_on() -> None:
    liveness = fresh()
    tokens = (
        (4, False),
        (4, False),
        (3, False),
        (5, True),
        (5, False),
        (6, True),
        (8, False),
        (9, True),
        (0, False),
    )
    for token, proves in tokens:
        before = liveness.unproven_s(1.0)
        liveness.pinged(token, 1.0)
        assert (liveness.unproven_s(1.0) == 0) is (proves or before == 0)
        liveness.progressed(0.0)  # back to where it was


def test_the_first_ping_is_no_proof_whatever_its_token() -> None:
    for token in (1, 2, 7):
        liveness = fresh()
        liveness.pinged(token, 1.0)
        assert liveness.unproven_s(1.0) == 1.0


def test_a_ping_after_a_stall_of_the_peer_is_no_proof() -> None:
    one, other = fresh(eager=True), fresh(eager=False)
    one.expire(2.0)
    other.pinged(one.ping_token, 2.0)  # the answer never arrives
    one.stalled(9.0)
    one.expire(9.0)
    other.pinged(one.ping_token, 9.0)
    assert other.unproven_s(9.0) == 9.0


# A stall of this process


def test_after_a_stall_nothing_but_a_fresh_answer_confirms() -> None:
    liveness = fresh()
    liveness.pinged(1, 0.5)
    liveness.expire(2.0)
    old = liveness.ping_token
    liveness.stalled(60.0)
    assert liveness.is_confirming
    assert liveness.unproven_s(60.0) == 0  # nobody is lost by our own doing
    assert liveness.next_deadline() == 60.0
    assert liveness.ponged(liveness.ping_token, 60.0) is None  # a guess: it has not been asked yet
    assert liveness.expire(60.0) is Verdict.PING
    assert not liveness.is_suspect
    assert liveness.ping_token > old
    liveness.progressed(60.1)
    liveness.pinged(2, 60.1)
    assert liveness.ponged(old, 60.1) is None
    assert liveness.is_confirming
    assert liveness.unproven_s(60.1) == pytest.approx(0.1)
    assert liveness.ponged(liveness.ping_token, 60.25) == 0.25
    assert not liveness.is_confirming
    assert liveness.unproven_s(60.25) == 0
    assert liveness.next_deadline() == 62.0


def test_after_a_stall_a_silent_peer_is_lost_within_the_limit() -> None:
    liveness = fresh()
    liveness.stalled(60.0)
    happened = rounded(run_out(liveness))
    assert [when for when, what in happened if what == "PING"] == [60 + n / 2 for n in range(10)]
    assert (62.5, "suspect") in happened
    assert happened[-1] == (65.0, "LOST")


def test_a_stall_while_suspect_asks_at_once() -> None:
    liveness = fresh()
    run_out(liveness, until=4.0)
    liveness.stalled(60.0)
    assert liveness.expire(60.0) is Verdict.PING
    assert liveness.expire(60.49) is Verdict.QUIET
    liveness.ponged(liveness.ping_token, 60.1)
    assert not liveness.is_suspect


@pytest.mark.parametrize("call", ["looked", "expire"])
def test_who_was_not_called_for_half_the_limit_asks_before_it_believes(call: str) -> None:
    for gap_s, is_stall in ((2.5, False), (2.51, True), (4.9, True)):
        liveness = fresh(now=100.0)
        token = liveness.ping_token
        getattr(liveness, call)(100.0 + gap_s)
        assert liveness.is_confirming is is_stall
        assert (liveness.ping_token == token) is not is_stall
        assert liveness.unproven_s(100.0 + gap_s) == pytest.approx(gap_s)  # nobody is spared by it
        liveness.looked(200.0)
        assert liveness.ping_token == token + 2  # while it confirms, it asks for nothing more


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("active", [True, False])
def test_whoever_is_called_in_time_is_never_thought_to_have_stood_still(eager: bool, active: bool) -> None:
    liveness = fresh(eager=eager, active=active)
    for token in (1, 2):  # their pings prove something now, so ours wait longest
        liveness.pinged(token, 0.0)
    run_out(liveness)
    assert not liveness.is_confirming


# Two ends


@dataclass
class End:
    liveness: Liveness
    pings: list[float] = field(default_factory=list)
    suspected: list[float] = field(default_factory=list)
    lost_at: float | None = None
    proven_at: float = 0.0


class Pair:
    """Two ends that ask and answer over a path with a latency each way, on a virtual clock."""

    def __init__(
        self,
        *,
        active: tuple[bool, bool] = (False, False),
        latency_s: float = 0.001,
        passes: Callable[[int, float], bool] = lambda sender, now: True,
    ) -> None:
        self.ends = [End(fresh(eager=side == 0, active=active[side])) for side in (0, 1)]
        self.latency_s = latency_s
        self.passes = passes
        self.now = 0.0
        self._under_way: list[tuple[float, int, int, str, int]] = []
        self._count = 0

    def run(self, until: float) -> None:
        while True:
            deadlines = [end.liveness.next_deadline() for end in self.ends if end.lost_at is None]
            arrival = self._under_way[0][0] if self._under_way else math.inf
            following = min([arrival, *deadlines])
            if following > until:
                self.now = until
                return
            self.now = max(self.now, following)
            if arrival <= self.now:
                _, _, receiver, word, token = heapq.heappop(self._under_way)
                self._arrive(receiver, word, token)
            else:
                for side in (0, 1):
                    self._expire(side)

    def _send(self, sender: int, word: str, token: int) -> None:
        if self.passes(sender, self.now):
            self._count += 1
            entry = (self.now + self.latency_s, self._count, 1 - sender, word, token)
            heapq.heappush(self._under_way, entry)

    def _arrive(self, side: int, word: str, token: int) -> None:
        end = self.ends[side]
        if end.lost_at is not None:
            return
        if word == "ping":
            end.liveness.pinged(token, self.now)
            self._send(side, "pong", token)
        else:
            end.liveness.ponged(token, self.now)
        if end.liveness.unproven_s(self.now) == 0:
            end.proven_at = self.now

    def _expire(self, side: int) -> None:
        end = self.ends[side]
        if end.lost_at is not None:
            return
        was_suspect = end.liveness.is_suspect
        verdict = end.liveness.expire(self.now)
        if end.liveness.is_suspect and not was_suspect:
            end.suspected.append(self.now)
        if verdict is Verdict.PING:
            end.pings.append(self.now)
            self._send(side, "ping", end.liveness.ping_token)
        elif verdict is Verdict.LOST:
            end.lost_at = self.now


@pytest.mark.parametrize(
    ("active", "lower_every_s", "higher_every_s"),
    [
        ((False, False), 2.0, None),  # the lower asks; that its tokens move on is proof for the higher
        ((True, False), 1.0, None),
        ((True, True), 1.0, None),
        ((False, True), None, 1.0),
    ],
)
@pytest.mark.parametrize("latency_s", [0.0001, 0.02, 0.15, 0.19])
def test_one_side_asks_for_both_and_nobody_is_suspected(
    active: tuple[bool, bool], lower_every_s: float | None, higher_every_s: float | None, latency_s: float
) -> None:
    pair = Pair(active=active, latency_s=latency_s)
    pair.run(3600.0)
    for end, every_s in zip(pair.ends, (lower_every_s, higher_every_s), strict=True):
        assert end.lost_at is None
        assert end.suspected == []
        expected = 0 if every_s is None else 3600 / every_s
        assert expected * 0.99 <= len(end.pings) <= expected * 1.01 + 3  # both ask at first


@pytest.mark.parametrize("latency_s", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("active", [(False, False), (True, True)])
def test_a_long_way_loses_nobody(latency_s: float, active: tuple[bool, bool]) -> None:
    pair = Pair(latency_s=latency_s, active=active)
    pair.run(600.0)
    assert [end.lost_at for end in pair.ends] == [None, None]


@pytest.mark.parametrize("active", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("open_way", [None, 0, 1])
@pytest.mark.parametrize("cut_at", [10.0, 10.7, 11.3, 12.0, 12.9])
def test_a_way_that_is_cut_in_one_direction_is_lost_on_both_sides(
    active: tuple[bool, bool], open_way: int | None, cut_at: float
) -> None:
    pair = Pair(active=active, latency_s=0.05, passes=lambda sender, now: now < cut_at or sender == open_way)
    pair.run(60.0)
    for end in pair.ends:
        assert end.lost_at is not None
        assert end.lost_at == pytest.approx(end.proven_at + T)
        # The last token that moved on may tell of an answer that came just before the cut.
        assert cut_at < end.lost_at < cut_at + T + 2.5
        assert end.suspected[-1] == pytest.approx(end.proven_at + T / 2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["progress", "pong", "ping", "stall", "toggle", "wait"]), st.integers(0, 2500)
        )
    ),
    st.booleans(),
)
def test_never_lost_early_never_late(steps: list[tuple[str, int]], eager: bool) -> None:
    liveness = fresh(eager=eager)
    proven_at, suspected_from, now = 0.0, T / 2, 0.0
    their_token = 1
    for what, milliseconds in steps:
        end = now + milliseconds / 1000
        while (deadline := liveness.next_deadline()) <= end:
            assert deadline <= proven_at + T
            now = max(now, deadline)
            verdict = liveness.expire(now)
            assert (verdict is Verdict.LOST) is (now >= proven_at + T)
            if verdict is Verdict.LOST:
                return
            assert liveness.is_suspect is (now >= suspected_from)
        now = end
        if what == "stall":
            liveness.stalled(now)
            proven_at = now
            suspected_from = suspected_from if liveness.is_suspect else now + T / 2  # it proves nothing
            continue
        asked = liveness.ping_token
        proves = not liveness.is_confirming
        if what == "progress":
            liveness.progressed(now)
        elif what == "pong":
            liveness.ponged(asked, now)
            proves = liveness.ping_token > asked
        elif what == "ping":
            their_token += 1
            liveness.pinged(their_token, now)
            proves = proves and their_token > 2
        else:
            proves = False
            if what == "toggle":
                liveness.active = not liveness.active
        if proves:
            proven_at, suspected_from = now, now + T / 2
