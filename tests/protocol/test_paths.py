"""Which path serves: proven, doubted, replaced, found again; and nobody's packets are led astray."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.errors import WireError
from brokerless.model import DatagramPath
from brokerless.protocol.paths import (
    ANSWER_S,
    DEMAND_S,
    HEARD_MAX,
    PLACES_MAX,
    PUSH,
    SPREAD_MAX,
    Paths,
    Standing,
    UdpPlace,
    format_places,
    parse_places,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokerless.protocol.paths import Target

# Places as text


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("", ()),
        ("127.0.0.1:1", (UdpPlace("127.0.0.1", 1),)),
        ("192.0.2.1:65535,[2001:db8::1]:80", (UdpPlace("192.0.2.1", 65535), UdpPlace("2001:db8::1", 80))),
        ("192.0.2.1:80,192.0.2.1:80", (UdpPlace("192.0.2.1", 80),)),
        ("[2001:0DB8::1]:80,[2001:db8:0::1]:80", (UdpPlace("2001:db8::1", 80),)),
    ],
)
def test_places_are_read(text: str, places: tuple[UdpPlace, ...]) -> None:
    assert parse_places(text) == places
    assert parse_places(format_places(places)) == places


@pytest.mark.parametrize(
    "text",
    """, : 192.0.2.1 192.0.2.1: 192.0.2.1:0 192.0.2.1:080 192.0.2.1:65536 192.0.2.1:-1 192.0.2.1:8x
    192.0.2.1:٣ 192.0.2:80 192.0.2.256:80 192.0.2.01:80 host:80 :80 []:80 [::1:80 ::1:80 [192.0.2.1]:80
    [fe80::1%2]:80 [12345::]:80 192.0.2.1:80, ,192.0.2.1:80 192.0.2.1:80;192.0.2.2:80 tcp://192.0.2.1:80
    0.0.0.0:80 [::]:80 224.0.0.1:80 239.255.255.255:80 255.255.255.255:80 [ff02::1]:80
    [::ffff:192.0.2.1]:80""".split(),
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_places(text)


def test_at_most_sixteen_places() -> None:
    places = tuple(UdpPlace("192.0.2.1", port) for port in range(1, PLACES_MAX + 2))
    assert parse_places(format_places(places[:-1])) == places[:-1]
    with pytest.raises(WireError, match="17 places"):
        parse_places(format_places(places))


@given(st.text(st.sampled_from("0123456789.:[],fF%"), max_size=60) | st.text(max_size=20))
def test_places_are_read_or_refused(text: str) -> None:
    try:
        places = parse_places(text)
    except WireError:
        return
    assert parse_places(format_places(places)) == places


# One end, step by step. A case is a table: when, what happens, and what is then shown.

HOME = UdpPlace("192.0.2.1", 4000)
OTHER = UdpPlace("192.0.2.2", 4000)
AWAY = UdpPlace("198.51.100.7", 9000, 0)
T0 = 1000.0

SHOWN = {
    "none": DatagramPath.NONE,
    "udp": DatagramPath.UDP,
    "push": DatagramPath.PUSH,
}


class Bench:
    """One ``Paths`` under a clock; what works answers on the link, 10 ms later."""

    def __init__(self, *places: UdpPlace, has_pull: bool = True, works: tuple[Target, ...] = ()) -> None:
        self.paths = Paths()
        self.works: set[Target] = set(works)
        self.probes: list[tuple[float, Target]] = []
        self._now = 0.0
        self._answers: list[tuple[float, int]] = []
        self._message_at = math.inf
        self.paths.learned(places, has_pull, T0)

    @property
    def now(self) -> float:
        """What the clock of the paths shows."""
        return T0 + self._now

    def sending(self, yes: bool = True) -> None:
        """From now on the application sends 50 messages a second, or none."""
        self._message_at = self._now if yes else math.inf

    def run(self, until: float) -> None:
        """Let time pass until that second of the test."""
        for _ in range(20_000):
            deadline = self.paths.next_deadline()
            times = [math.inf if deadline is None else deadline - T0, self._message_at]
            times += [at for at, _ in self._answers]
            if min(times) > until:
                break
            self._now = max(self._now, min(times))
            if self._message_at <= self._now:
                self.paths.sent(self.now)
                self._message_at += 0.02
            while self._answers and self._answers[0][0] <= self._now:
                assert self.paths.answered(self._answers.pop(0)[1], self.now, by_link=True) is None
            self.paths.expire(self.now)
            for target, token in self.paths.take_probes(self.now):
                self.probes.append((round(self._now, 3), target))
                if target in self.works:
                    self._answers.append((self._now + 0.01, token))
        else:
            raise AssertionError("a deadline with nothing to do, again and again")
        self._now = until

    def targets(self) -> tuple[Target, ...]:
        return self.paths.targets(self.now)

    def probed(self, since: float = 0.0) -> list[Target]:
        return [target for at, target in self.probes if at >= since]


def test_the_first_round_asks_three_times_and_shows_what_works() -> None:
    bench = Bench(HOME, OTHER)
    assert bench.paths.next_deadline() is None
    bench.paths.established(T0)
    bench.run(60)
    assert bench.probes == [(at, place) for at in (0.0, 0.25, 0.5) for place in (HOME, OTHER)]
    assert bench.paths.path is DatagramPath.NONE
    assert bench.paths.next_deadline() is None

    bench = Bench(HOME, OTHER, works=(OTHER,))
    bench.paths.established(T0)
    bench.run(60)
    assert bench.probes == [(0.0, HOME), (0.0, OTHER), (0.5, OTHER)]
    assert bench.paths.path is DatagramPath.UDP
    assert not bench.paths.wants_push


@pytest.mark.parametrize(
    ("works_from", "works_later", "table"),
    [
        pytest.param(
            (HOME, PUSH),
            (PUSH,),
            # at, path, targets, wants_push: UDP is swallowed after 2 s
            [
                (2.0, "udp", (HOME,), False),
                (2.4, "udp", (HOME,), False),
                (3.15, "udp", (HOME,), False),
                (3.21, "udp", (HOME, PUSH), True),
                (3.6, "udp", (HOME, PUSH), True),
                (3.72, "push", (PUSH,), True),
                (60.0, "push", (PUSH,), True),
            ],
            id="UDP is swallowed",
        ),
        pytest.param(
            (PUSH,),
            (HOME, PUSH),
            [
                (0.1, "none", (HOME,), False),
                (0.29, "none", (HOME,), False),
                (0.305, "none", (HOME, PUSH), True),
                (0.315, "push", (PUSH,), True),
                (2.0, "push", (PUSH,), True),
                (5.0, "udp", (HOME,), True),
                (11.9, "udp", (HOME,), True),
                (15.0, "udp", (HOME,), False),
            ],
            id="UDP comes back",
        ),
        pytest.param(
            (),
            (),
            [
                (0.29, "none", (HOME,), False),
                (1.99, "none", (HOME, PUSH), True),
                (2.01, "none", (PUSH,), True),  # PUSH was asked 0.3 s later
                (2.29, "none", (PUSH,), True),
                (2.31, "none", (), True),
                (60.0, "none", (), True),
            ],
            id="nothing works",
        ),
        pytest.param(
            (),
            (HOME,),
            [(2.01, "none", (PUSH,), True), (4.5, "udp", (HOME,), True), (20.0, "udp", (HOME,), False)],
            id="UDP works at last",
        ),
    ],
)
def test_what_is_shown_while_messages_are_sent(
    works_from: tuple[Target, ...],
    works_later: tuple[Target, ...],
    table: list[tuple[float, str, tuple[Target, ...], bool]],
) -> None:
    bench = Bench(HOME, works=works_from)
    bench.sending()
    seen = []
    for at, *_ in table:
        bench.run(min(at, 2.0))
        if at > 2.0:
            bench.works = set(works_later)
            bench.run(at)
        shown = next(name for name, path in SHOWN.items() if path is bench.paths.path)
        seen.append((at, shown, bench.targets(), bench.paths.wants_push))
    assert seen == table


@pytest.mark.parametrize(
    ("standing", "age", "becomes"),
    [
        (Standing.GOOD, 0.69, Standing.GOOD),
        (Standing.GOOD, 0.7, Standing.DOUBTFUL),
        (Standing.GOOD, 1.2, Standing.UNPROVEN),
        (Standing.GOOD, 2.0, Standing.GIVEN_UP),
        (Standing.DOUBTFUL, 1.19, Standing.DOUBTFUL),
        (Standing.DOUBTFUL, 1.2, Standing.UNPROVEN),
        (Standing.UNPROVEN, 1.99, Standing.UNPROVEN),
        (Standing.UNPROVEN, 2.0, Standing.GIVEN_UP),
        (Standing.GIVEN_UP, 99.0, Standing.GIVEN_UP),
    ],
)
def test_a_question_left_open(standing: Standing, age: float, becomes: Standing) -> None:
    """Fades the path; when nothing is asked any more, what is in doubt is good again."""
    paths = Paths()
    paths.learned([HOME], False, T0)
    (way,) = paths._udp
    way.standing, way.asked_at = standing, T0
    way.fade(T0 + age)
    assert (way.standing, way.asked_at) == (becomes, T0)
    way.rest()
    assert way.standing is (Standing.GOOD if becomes is Standing.DOUBTFUL else becomes)
    way.fade(T0 + 1e6)
    assert way.asked_at is None
    assert way.standing is (Standing.GOOD if becomes is Standing.DOUBTFUL else becomes)


@pytest.mark.parametrize("pause_s", [2.0, 4.0, 6.0, 3_600.0])
def test_after_a_stall_of_this_process_silence_says_nothing(pause_s: float) -> None:
    bench = Bench(HOME, works=(HOME,))
    bench.sending()
    bench.run(2.9)
    bench.works = set()
    bench.run(3.1)  # asked at 3.0
    bench.paths.sent(T0 + 3.1 + pause_s)
    assert bench.paths.targets(T0 + 3.1 + pause_s) == (HOME,)
    assert bench.paths.path is DatagramPath.UDP


def test_an_answer_that_comes_once_nothing_is_asked_any_more() -> None:
    paths, tokens = asked(HOME)
    for step in range(1, 50):
        paths.expire(T0 + step / 10)
        for _, token in paths.take_probes(T0 + step / 10):
            if step < 45:
                paths.answered(token, T0 + step / 10, by_link=True)
                tokens[HOME] = token
    for step in range(50, 80):
        paths.expire(T0 + step / 10)
        paths.answered(tokens[HOME], T0 + step / 10, by_link=True)
        assert paths.path is DatagramPath.UDP
    assert paths.next_deadline() is None


def test_an_idle_peer_is_not_asked() -> None:
    for works in ((HOME, PUSH), (PUSH,), ()):
        bench = Bench(HOME, works=works)
        bench.sending()
        bench.run(20)
        bench.sending(False)
        bench.run(3_600)
        assert bench.probed(since=20.0 + DEMAND_S) == []
        assert bench.paths.next_deadline() is None
        bench.sending()
        bench.run(3_601)
        assert bench.targets() == (works[:1])


def test_push_is_kept_while_it_is_all_there_is() -> None:
    bench = Bench(HOME, works=(PUSH,))
    bench.sending()
    bench.run(5)
    bench.sending(False)
    bench.run(3_600)
    assert bench.paths.wants_push
    bench.paths.sent(bench.now)
    assert bench.targets() == (PUSH,)


def test_no_push_where_the_peer_takes_none() -> None:
    bench = Bench(HOME, has_pull=False, works=())
    bench.sending()
    bench.run(1.9)
    assert (bench.targets(), bench.paths.wants_push) == ((HOME,), False)
    bench.run(2.1)
    assert (bench.targets(), bench.paths.wants_push) == ((), False)


def test_push_at_once_where_the_peer_has_no_udp_and_none_once_it_takes_it_no_more() -> None:
    bench = Bench(works=(PUSH,))
    bench.paths.sent(T0)
    assert (bench.targets(), bench.paths.wants_push) == ((PUSH,), True)
    bench.run(0.1)
    assert shown(bench.paths) is DatagramPath.PUSH
    bench.paths.learned([], False, bench.now)
    assert (bench.targets(), bench.paths.wants_push) == ((), False)
    assert shown(bench.paths) is DatagramPath.NONE


def test_while_nothing_is_proven_datagrams_go_to_a_few_places() -> None:
    places = [UdpPlace("192.0.2.1", port) for port in range(1, PLACES_MAX + 1)]
    bench = Bench(*places, works=(places[9],))
    bench.paths.sent(T0)
    assert bench.targets() == tuple(places[:SPREAD_MAX])
    bench.run(0.1)
    assert bench.targets() == (places[9],)


def test_another_place_of_the_peer_takes_over_when_one_fails() -> None:
    bench = Bench(HOME, OTHER, works=(HOME, OTHER))
    bench.sending()
    bench.run(3.1)
    assert bench.targets() == (HOME,)
    assert bench.probed(since=0.1).count(OTHER) == 0
    bench.works = {OTHER}
    bench.run(4.25)
    assert bench.targets() == (OTHER,)


def test_where_all_places_fail_at_once_none_is_believed_on_its_old_merits() -> None:
    bench = Bench(HOME, OTHER, works=(HOME, OTHER, PUSH))
    bench.sending()
    bench.run(3.1)
    bench.works = {PUSH}
    for step in range(200):
        bench.run(3.1 + step / 20)
        assert bench._now < 3.1 + 1.7 or PUSH in bench.targets()
    assert bench.targets() == (PUSH,)


@pytest.mark.parametrize("seed", range(10))
def test_loss_is_no_reason_to_leave_udp(seed: int) -> None:
    chance = random.Random(seed)
    bench = Bench(HOME, works=(HOME, PUSH), has_pull=bool(seed % 2))
    bench.sending()
    by_udp = 0
    for step in range(1_000):
        bench.works = {PUSH, HOME} if chance.random() < 0.8 else {PUSH}
        bench.run((step + 1) / 10)
        assert bench.targets()
        by_udp += HOME in bench.targets()
    assert by_udp > 970


# Tokens and round trips


def asked(*places: UdpPlace) -> tuple[Paths, dict[Target, int]]:
    paths = Paths(first_token=7)
    paths.learned(places, False, T0)
    paths.sent(T0)
    tokens = dict(paths.take_probes(T0))
    assert list(tokens.values()) == list(range(7, 7 + len(places)))
    return paths, tokens


def shown(paths: Paths) -> DatagramPath:
    return paths.path


def test_an_answer_over_udp_measures_the_round_trip_once() -> None:
    paths, tokens = asked(HOME)
    assert paths.answered(tokens[HOME], T0 + 0.02, by_link=True) is None
    assert shown(paths) is DatagramPath.UDP
    assert paths.rtt_s is None
    assert paths.answered(tokens[HOME], T0 + 0.04) == pytest.approx(0.04)
    assert paths.answered(tokens[HOME], T0 + 0.06) is None
    assert paths.rtt_s == pytest.approx(0.04)
    paths.expire(T0 + 1.0)
    ((_, token),) = paths.take_probes(T0 + 1.0)
    assert paths.answered(token, T0 + 1.12) == pytest.approx(0.12)
    assert paths.rtt_s == pytest.approx(0.05)


def test_answers_to_what_was_not_asked_prove_nothing() -> None:
    paths, tokens = asked(HOME)
    for token in (0, tokens[HOME] + 1, 2**63):
        assert paths.answered(token, T0 + 0.01, by_link=True) is None
    assert shown(paths) is DatagramPath.NONE


def test_an_answer_proves_nothing_about_later_probes() -> None:
    paths, tokens = asked(HOME)
    for at in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5):
        assert len(paths.take_probes(T0 + at)) == 1
    assert paths.answered(tokens[HOME], T0 + 1.6, by_link=True) is None
    assert shown(paths) is DatagramPath.NONE  # the question of 0.25 is open for 1.35 s
    assert paths.answered(tokens[HOME] + 3, T0 + 1.6, by_link=True) is None
    assert shown(paths) is DatagramPath.UDP


def test_an_older_answer_opens_no_question_that_a_newer_one_closed() -> None:
    paths, tokens = asked(HOME)
    ((_, later),) = paths.take_probes(T0 + 0.25)
    assert paths.answered(later, T0 + 0.3, by_link=True) is None
    assert paths.answered(tokens[HOME], T0 + 1.5) == pytest.approx(1.5)
    assert paths.path is DatagramPath.UDP
    assert paths.targets(T0 + 1.5) == (HOME,)


def test_answers_are_not_waited_for_for_ever() -> None:
    paths, tokens = asked(HOME)
    for step in range(1, 200):
        paths.sent(T0 + step / 10)
        paths.take_probes(T0 + step / 10)
        assert len(paths._probes) <= 20
    assert paths.answered(tokens[HOME], T0 + 2 * ANSWER_S, by_link=True) is None
    assert shown(paths) is DatagramPath.NONE


# Where the peer may have moved to


def serving(*places: UdpPlace) -> Bench:
    """Return a bench that sends, served by the first place; the others work too."""
    bench = Bench(*places, works=places)
    bench.sending()
    bench.run(2.1)
    assert bench.targets() == (places[0],)
    return bench


@pytest.mark.parametrize(
    ("is_newest", "answers", "moves"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_the_place_moves_once_it_is_proven(is_newest: bool, answers: bool, moves: bool) -> None:
    bench = serving(HOME)
    if answers:
        bench.works.add(AWAY)
    bench.paths.heard(AWAY, is_newest, bench.now)
    assert bench.targets() == (HOME,)
    bench.run(2.105)
    assert (AWAY in bench.probed()) == is_newest
    assert bench.targets() == (HOME,)
    bench.run(2.2)
    assert bench.targets() == ((AWAY,) if moves else (HOME,))
    bench.run(60)
    assert bench.targets() == ((AWAY,) if moves else (HOME,))


def test_nothing_but_probes_goes_to_a_place_that_was_only_heard_from() -> None:
    bench = Bench(has_pull=False)
    bench.sending()
    bench.paths.heard(AWAY, True, bench.now)
    bench.run(1.0)
    assert AWAY in bench.probed()
    assert bench.targets() == ()


def test_new_places_are_asked_one_at_a_time_and_few_are_remembered() -> None:
    bench = serving(HOME)
    strangers = [UdpPlace("198.51.100.7", port, 0) for port in range(1, 100)]
    for stranger in strangers:
        bench.paths.heard(stranger, True, bench.now)
    assert len(bench.paths._udp) == 1 + HEARD_MAX
    bench.works.clear()  # now all are asked
    bench.run(12.1)
    probes = [(at, target) for at, target in bench.probes if target in strangers]
    assert {target for _, target in probes} == set(strangers[-HEARD_MAX:])
    assert all(later - at >= 0.499 for (at, _), (later, _) in itertools.pairwise(probes))


def test_two_places_that_the_peer_told_do_not_take_turns() -> None:
    bench = serving(HOME, OTHER)
    for step in range(100):
        twin = OTHER._replace(local=2) if step % 2 else HOME._replace(local=1)
        bench.paths.heard(OTHER if step % 3 else twin, True, bench.now)
        bench.works |= {twin}
        bench.run(2.2 + step / 10)
        assert bench.targets() == (HOME,)


def test_a_peer_that_moves_back_is_followed_back() -> None:
    bench = serving(HOME)
    homes = [AWAY, AWAY._replace(port=9001)]
    for step in range(1, 9):
        bench.works = {homes[step % 2]}
        bench.paths.heard(homes[step % 2], True, bench.now)
        bench.run(2.1 + 2 * step)
        assert bench.targets() == (homes[step % 2],)


def test_places_told_anew() -> None:
    bench = serving(HOME, OTHER)
    bench.paths.learned([AWAY], True, bench.now)
    assert bench.targets() == (HOME,)  # it works: keep it until it does not
    bench.works = {AWAY}
    bench.run(4.0)
    assert bench.targets() == (AWAY,)
    assert OTHER not in bench.probed(since=2.2)
    bench.paths.learned([AWAY, OTHER], True, bench.now)
    assert bench.targets() == (AWAY,)
    assert [way.target for way in bench.paths._udp] == [AWAY, OTHER, HOME]


def test_a_pull_that_has_moved_is_asked_like_a_new_one() -> None:
    bench = Bench(works=(PUSH,))
    bench.sending()
    bench.run(1.0)
    assert bench.paths.path is DatagramPath.PUSH
    bench.works = set()
    bench.run(5.0)  # given up: asked every two seconds
    assert bench.targets() == ()
    bench.works = {PUSH}
    bench.paths.pull_moved(bench.now)
    assert bench.targets() == (PUSH,)
    bench.run(5.3)
    assert bench.paths.path is DatagramPath.PUSH


# Two ends


@dataclass
class Air:
    """What lies between two ends: each way may be swallowed."""

    udp: dict[str, bool] = field(default_factory=lambda: {"a": True, "b": True})
    """Whether UDP that the end sends arrives."""
    push: dict[str, bool] = field(default_factory=lambda: {"a": True, "b": True})
    delay_s: float = 0.02
    link_delay_s: float = 0.05
    connect_s: float = 0.1
    closes_s: float = math.inf
    """How long after b has sent its firewall lets UDP in."""


@dataclass(frozen=True)
class Packet:
    """A sealed datagram, or what the link carries in answer to a probe."""

    sender: str
    counter: int
    kind: str
    token: int = 0


class End:
    """What a session does with its ``Paths``; ``place`` is where others see it."""

    def __init__(self, name: str, place: UdpPlace) -> None:
        self.name = name
        self.place = place
        self.paths = Paths()
        self.sends = False
        self.counter = 0
        self.highest = 0
        self.seen: set[int] = set()
        self.push_opens_at: float | None = None
        self.heard: list[tuple[float, str]] = []
        """When a message came first, and by what."""
        self.no_path: list[float] = []
        self.probes: list[float] = []
        self.calls: list[float] = []
        self.shown: list[tuple[float, str]] = [(0.0, "none")]


class Pair:
    """Two ends in virtual time; each sends 50 messages a second while it ``sends``."""

    def __init__(self, **air: float) -> None:
        self.air = Air(**air)  # type: ignore[arg-type]
        self.now = 0.0
        self.ends = {"a": End("a", UdpPlace("192.0.2.1", 1)), "b": End("b", UdpPlace("192.0.2.2", 2))}
        self._order = itertools.count()
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self.recorded: list[Packet] = []
        self.b_sent_at = -math.inf
        for end in self.ends.values():
            end.paths.learned([self.other(end).place], True, 0.0)
            end.paths.established(0.0)
            self._at(0.0, self._tick(end))

    def other(self, end: End) -> End:
        return self.ends["b" if end.name == "a" else "a"]

    def run(self, until: float) -> None:
        while self._coming and self._coming[0][0] <= until:
            self.now, _, action = heapq.heappop(self._coming)
            action()
        self.now = until

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._coming, (when, next(self._order), action))

    def _tick(self, end: End) -> Callable[[], None]:
        """Every 20 ms: a message if the application sends, and whatever the clock brings."""

        def tick() -> None:
            end.paths.expire(self.now)
            if end.sends:
                end.paths.sent(self.now)
                targets = end.paths.targets(self.now)
                self._send(end, targets, "message")
                if not targets:
                    end.no_path.append(self.now)
            self._tend(end)
            self._at(self.now + 0.02, tick)

        return tick

    def _tend(self, end: End) -> None:
        for target, token in end.paths.take_probes(self.now):
            end.probes.append(self.now)
            self._send(end, (target,), "probe", token)
        if end.paths.wants_call:
            end.paths.wants_call = False
            end.calls.append(self.now)
            self._at(self.now + self.air.link_delay_s, lambda: self._called(self.other(end)))
        if not end.paths.wants_push:
            end.push_opens_at = None
        elif end.push_opens_at is None:
            end.push_opens_at = self.now + self.air.connect_s
        if end.shown[-1][1] != end.paths.path.value:
            end.shown.append((round(self.now, 2), end.paths.path.value))

    def _send(self, end: End, targets: tuple[Target, ...], kind: str, token: int = 0) -> None:
        end.counter += 1
        packet = Packet(end.name, end.counter, kind, token)
        self.recorded.append(packet)
        for target in targets:
            if isinstance(target, UdpPlace):
                self.udp(packet, end.place, target)
            elif end.push_opens_at is not None and end.push_opens_at <= self.now and self.air.push[end.name]:
                arrive = self._arrival(self.other(end), packet, None)
                self._at(self.now + self.air.delay_s, arrive)

    def udp(self, packet: Packet, source: UdpPlace, target: UdpPlace) -> None:
        """Carry a datagram, whoever sends it, to whoever lives there."""
        if packet.sender == "b":
            self.b_sent_at = self.now
        elif self.now - self.b_sent_at > self.air.closes_s:
            return
        for end in self.ends.values():
            if end.place == target._replace(local=-1) and self.air.udp[packet.sender]:
                self._at(self.now + self.air.delay_s, self._arrival(end, packet, source._replace(local=0)))

    def _arrival(self, end: End, packet: Packet, source: UdpPlace | None) -> Callable[[], None]:
        def arrive() -> None:
            if packet.counter in end.seen or packet.sender == end.name:
                return
            end.seen.add(packet.counter)
            if source is not None:
                end.paths.heard(source, packet.counter > end.highest, self.now)
            end.highest = max(end.highest, packet.counter)
            if packet.kind == "message":
                end.heard.append((self.now, "push" if source is None else "udp"))
            elif packet.kind == "answer":
                end.paths.answered(packet.token, self.now)
            else:
                prober = self.other(end)
                self._at(self.now + self.air.link_delay_s, lambda: self._proven(prober, packet.token))
                if source is not None:
                    self._send(end, (source,), "answer", packet.token)
            self._tend(end)

        return arrive

    def _called(self, end: End) -> None:
        end.paths.established(self.now)
        self._tend(end)

    def _proven(self, end: End, token: int) -> None:
        end.paths.answered(token, self.now, by_link=True)
        self._tend(end)


def heard_by(end: End, since: float, until: float = math.inf) -> Iterator[tuple[float, str]]:
    return (entry for entry in end.heard if since <= entry[0] <= until)


def longest_silence(end: End, since: float, until: float) -> float:
    times = [since, *(at for at, _ in heard_by(end, since, until)), until]
    return max(later - at for at, later in itertools.pairwise(times))


def talking(**air: float) -> tuple[Pair, End, End]:
    """Return two ends that have been sending to each other for 5 s, by UDP."""
    pair = Pair(**air)
    pair.run(1.0)
    for end in pair.ends.values():
        assert end.paths.path is DatagramPath.UDP
        end.sends = True
    pair.run(5.0)
    for end in pair.ends.values():
        assert {how for _, how in end.heard} == {"udp"}
        assert not end.paths.wants_push
    return pair, pair.ends["a"], pair.ends["b"]


@pytest.mark.parametrize("swallowed_at", [5.0, 5.13, 5.26, 5.39, 5.49])
@pytest.mark.parametrize("air", [{}, {"delay_s": 0.0005, "link_delay_s": 0.001}, {"delay_s": 0.15}])
def test_where_udp_is_swallowed_push_serves_within_2_s_and_udp_again_within_10(
    swallowed_at: float, air: dict[str, float]
) -> None:
    pair, a, b = talking(**air)
    pair.run(swallowed_at)
    pair.air.udp = {"a": False, "b": False}
    pair.run(20.0)
    for end in (a, b):
        assert longest_silence(end, swallowed_at, 20.0) < 2.0
        assert end.shown[-1][1] == "push"
        assert end.shown[-1][0] < swallowed_at + 2.0
        assert end.no_path == []
    pair.air.udp = {"a": True, "b": True}
    pair.run(30.0)
    for end in (a, b):
        assert end.shown[-1][1] == "udp"
        assert {how for _, how in heard_by(end, 23.0)} == {"udp"}
        assert longest_silence(end, 20.0, 30.0) < 0.2
        assert len(end.shown) == 4
    pair.run(40.0)
    assert not a.paths.wants_push
    assert not b.paths.wants_push


def test_udp_that_works_one_way_is_proven_by_the_link() -> None:
    pair, a, b = talking()
    pair.air.udp["b"] = False
    pair.run(20.0)
    assert [how for _, how in a.shown] == ["none", "udp"]
    assert {how for _, how in heard_by(b, 5.0)} == {"udp"}
    assert longest_silence(b, 5.0, 20.0) < 0.05
    assert {how for _, how in heard_by(a, 8.0)} == {"push"}
    assert longest_silence(a, 5.0, 20.0) < 2.0


def test_udp_is_taken_where_both_work_and_push_where_udp_never_did() -> None:
    pair = Pair()
    pair.air.udp = {"a": False, "b": False}
    pair.run(10.0)
    a = pair.ends["a"]
    assert a.shown == [(0.0, "none")]
    a.sends = True
    pair.run(12.0)
    assert a.shown[1][1] == "push"
    assert a.shown[1][0] < 10.0 + 1.0
    assert a.no_path == []


def test_a_peer_that_changes_its_address_is_followed() -> None:
    pair, a, b = talking()
    a.place = UdpPlace("198.51.100.9", 9)
    pair.run(15.0)
    assert longest_silence(a, 5.0, 15.0) < 0.3
    assert b.paths.targets(pair.now) == (a.place._replace(local=0),)
    assert [how for _, how in b.shown] == ["none", "udp"]


def test_a_peer_whose_firewall_has_closed_is_called_and_opens_it() -> None:
    """It takes no PUSH from outside either; only what it asked for itself comes in."""
    pair = Pair(closes_s=5.0)
    pair.air.push["a"] = False
    a, b = pair.ends["a"], pair.ends["b"]
    pair.run(20.0)
    assert (a.paths.path, a.calls) == (DatagramPath.UDP, [])
    a.sends = True
    pair.run(24.0)
    assert len(a.calls) == 1
    assert longest_silence(b, 21.2, 24.0) < 0.1
    assert a.no_path == []


def test_where_no_call_is_of_use_few_are_made() -> None:
    pair = Pair()
    pair.air.udp["a"] = False
    a = pair.ends["a"]
    a.sends = True
    pair.run(15.0)
    assert len(a.calls) == 2
    a.sends = False
    pair.run(40.0)
    assert len(a.calls) == 2
    assert pair.ends["b"].calls == []


def test_a_replay_from_another_place_moves_nothing() -> None:
    pair, a, b = talking()
    home = a.place
    for packet in list(pair.recorded)[::7]:
        pair.udp(packet, UdpPlace("203.0.113.66", 66), b.place)
        pair.run(pair.now + 0.01)
    # Even what comes first from there, copied and faster than the original, asks a probe and no more.
    a.counter += 1
    probes = len(b.probes)
    pair.udp(Packet("a", a.counter, "message"), UdpPlace("203.0.113.66", 66), b.place)
    pair.run(pair.now + 5.0)
    assert b.paths.targets(pair.now) == (home,)
    assert len(b.probes) > probes
    assert longest_silence(a, 5.0, pair.now) < 0.1


def test_idle_peers_send_no_probes() -> None:
    pair, a, b = talking()
    a.sends = b.sends = False
    pair.run(5.0 + DEMAND_S + 0.1)
    probes = len(a.probes), len(b.probes)
    pair.run(100.0)
    assert (len(a.probes), len(b.probes)) == probes
    assert a.paths.path is b.paths.path is DatagramPath.UDP


def test_where_nothing_works_there_is_no_path_until_something_does() -> None:
    pair, a, b = talking()
    pair.air.udp = {"a": False, "b": False}
    pair.air.push = {"a": False, "b": False}
    pair.run(20.0)
    for end in (a, b):
        assert end.shown[-1][1] == "none"
        assert 5.0 + 2.0 < end.no_path[0] < 5.0 + 5.0
        assert len(end.no_path) > 400
    pair.air.push = {"a": True, "b": True}
    pair.run(30.0)
    for end in (a, b):
        assert end.shown[-1][1] == "push"
        assert longest_silence(end, 20.0, 30.0) < 2.5
    pair.air.udp = {"a": True, "b": True}
    pair.run(40.0)
    assert a.shown[-1][1] == b.shown[-1][1] == "udp"
    a.sends = b.sends = False
    pair.run(60.0)
    a.sends = True
    pair.run(61.0)
    assert longest_silence(b, 60.05, 61.0) < 0.05
