"""The dial plan against a list of everything it was told.

The model knows what stands of whom and which dials are under way. It does not say when exactly somebody is
dialled, only who may be, who must be in the end, and how long one who does not answer is left alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.protocol.roster import Roster
from tests.machines import as_test

LOCAL = Address(b"\x80" * 32)
LIMITS = Limits(peers_max=5, eager_dials_max=3)
PEERS = [Address(bytes([number]) * 32) for number in (0x10, 0x20, 0x30, 0x90, 0xA0, 0xB0)]
SOURCES = ("zeroconf", "registry", "gossip:somebody", "gossip:another")
PLACES = [f"tcp://192.0.2.{number}:4000" for number in range(1, 4)] + ["ipc:///run/one"]
AT_ONCE_MAX = 32
HEARSAY_AT_ONCE_MAX = 16
YIELD_S = 0.25
WAITING_MAX_S = 0.5
AGAIN_S = 0.5
TIER_S = 1.0
BUSY_S = 0.05


@dataclass
class Known:
    """What stands of one peer."""

    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ever: set[str] = field(default_factory=set)
    boot: int = 0
    wanted: bool = False
    waiting: bool = False
    connected: bool = False
    doubted: bool = False
    under_way: Counter[str] = field(default_factory=Counter)
    dialled_at: dict[str, float] = field(default_factory=dict)
    news: set[str] = field(default_factory=set)
    """Places heard of while others were dialled, and not dialled since: they need not wait."""
    earliest: float = 0.0
    """Before this nothing gives a reason to dial."""

    @property
    def is_firm(self) -> bool:
        return self.connected or any(not source.startswith("gossip:") for source in self.sources)

    @property
    def is_in_need(self) -> bool:
        return self.waiting or self.doubted

    @property
    def is_served(self) -> bool:
        return self.connected and not self.doubted


WHO = st.sampled_from([*PEERS, LOCAL])


class RosterAtLarge(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster(LOCAL, LIMITS)
        self.now = 100.0
        self.known: dict[Address, Known] = {}
        self.ignored = 0
        self.is_small = True

    def may_be_dialled(self, one: Known) -> bool:
        in_use = one.wanted or one.waiting or one.connected
        firm = sum(other.is_firm for other in self.known.values())
        return bool(one.sources) and (in_use or (one.is_firm and firm <= LIMITS.eager_dials_max))

    def prompt(self, address: Address, wait_s: float = 0.0) -> None:
        """There is a reason to dial that peer, after so long."""
        one = self.known[address]
        one.earliest = min(one.earliest, self.now + wait_s)

    # What is heard

    @rule(
        address=WHO,
        source=st.sampled_from(SOURCES),
        places=st.lists(st.sampled_from(PLACES), max_size=3, unique=True),
        boot=st.integers(0, 2),
        ours=st.sampled_from([None, True, False]),
    )
    def learn(self, address: Address, source: str, places: list[str], boot: int, ours: bool | None) -> None:
        taken = self.roster.learn(address, source, tuple(places), boot, self.now, ours)
        if address == LOCAL:
            assert taken
            return
        one = self.known.get(address)
        if one is None:
            hearsay = sum(not other.is_firm for other in self.known.values())
            is_full = len(self.known) >= LIMITS.peers_max
            is_full |= source.startswith("gossip:") and hearsay >= LIMITS.peers_max / 2
            assert taken is bool(places and not is_full)
            self.ignored += bool(places) and is_full
            if not taken:
                return
            one = self.known[address] = Known(earliest=self.now + 1e9)
        if places:
            one.sources[source] = tuple(places)
            one.ever.update(places)
        else:
            one.sources.pop(source, None)
        heard = set(places)
        if boot not in (0, one.boot):  # it was started anew: where nobody answered, somebody may now
            one.boot = boot
            heard.update(*one.sources.values())
        if one.under_way:
            one.news.update(heard - set(one.under_way))
        if not one.sources and not one.connected:
            assert not taken
            del self.known[address]
            return
        assert taken
        yields = address < LOCAL if ours is None else not ours
        self.prompt(address, YIELD_S if yields and not one.under_way else 0.0)

    @rule(address=WHO, source=st.sampled_from(SOURCES))
    def hear_the_same(self, address: Address, source: str) -> None:
        """One source says what another has said."""
        one = self.known.get(address)
        if one is not None and one.sources:
            self.learn(address, source, list(next(iter(one.sources.values()))), 0, None)

    # What becomes of dials

    @rule(jump=st.booleans())
    def plan(self, jump: bool) -> None:
        deadline = self.roster.next_deadline()
        if jump and deadline is not None:
            self.now = max(self.now, deadline)
        self.take(self.roster.plan(self.now))

    def take(self, dials: list[tuple[Address, str]]) -> None:
        assert len(dials) == len(set(dials))
        for address, place in dials:
            one = self.known[address]
            assert place in one.ever
            if place in one.under_way:
                assert one.is_in_need, "dialled twice at once"
                assert self.now >= one.dialled_at[place] + AGAIN_S - 1e-9, "it has not had its time"
            assert not one.is_served
            assert self.now >= one.earliest - 1e-9, "it is to be left alone"
            one.under_way[place] += 1
            one.dialled_at[place] = self.now
            one.news.discard(place)
        assert sum(one.under_way.total() for one in self.known.values()) <= AT_ONCE_MAX
        if any(not self.known[address].is_firm for address, _ in dials):
            firm_too = [self.known[a].under_way.total() for a in {address for address, _ in dials}]
            assert sum(firm_too) <= AT_ONCE_MAX

    @rule(address=WHO, succeeds=st.booleans(), number=st.integers(0, 3))
    def dial_ends(self, address: Address, succeeds: bool, number: int) -> None:
        one = self.known.get(address)
        if one is None or not one.under_way:
            return
        place = sorted(one.under_way)[number % len(one.under_way)]
        if succeeds:
            self.over(one, place)
            self.roster.dial_succeeded(address, place, self.now)
            self.connected(address)
        else:
            self.fail(address, place)

    def over(self, one: Known, place: str) -> None:
        one.under_way[place] -= 1
        one.under_way = +one.under_way

    def fail(self, address: Address, place: str) -> None:
        one = self.known[address]
        self.over(one, place)
        if not one.under_way and self.may_be_dialled(one):  # else earlier reasons stand
            # The next tier may follow at once, as may what is news; else it is left alone, for as long as it
            # has failed often.
            may_follow = one.news or len({p.split(":")[0] for p in one.ever}) > 1
            one.earliest = self.now if may_follow else self.now + LIMITS.redial_min_s
        self.roster.dial_failed(address, place, self.now)

    @rule(address=WHO)
    def connected(self, address: Address) -> None:
        if address != LOCAL and (address in self.known or len(self.known) < LIMITS.peers_max):
            self.roster.connected(address, self.now)
            one = self.known.setdefault(address, Known())
            one.connected, one.doubted = True, False

    @rule(address=WHO)
    def disconnected(self, address: Address) -> None:
        self.roster.disconnected(address, self.now)
        if (one := self.known.get(address)) is None:
            return
        if one.is_served:
            one.earliest = self.now + LIMITS.redial_min_s
        else:  # what was to be dialled may be all the same
            self.prompt(address, LIMITS.redial_min_s)
        one.connected = one.doubted = False
        if not one.sources and not one.waiting:
            del self.known[address]

    # What is asked for

    @rule(address=WHO)
    def want(self, address: Address) -> None:
        self.roster.want(address, self.now)
        if (one := self.known.get(address)) is not None:
            one.wanted = True
            self.prompt(address)

    @rule(address=WHO)
    def attempt(self, address: Address) -> None:
        if self.roster.may_attempt(address):
            assert not self.known[address].is_firm
            self.roster.attempt(address, self.now)
            self.prompt(address)

    @rule(address=WHO, waiting=st.booleans())
    def set_waiting(self, address: Address, waiting: bool) -> None:
        one = self.known.get(address)
        if one is not None and (waiting or one.sources or one.connected):
            self.roster.set_waiting(address, waiting)
            one.waiting = waiting
            if waiting:
                self.prompt(address)

    @rule(address=WHO, doubted=st.booleans())
    def doubt(self, address: Address, doubted: bool) -> None:
        self.roster.doubt(address, doubted, self.now)
        one = self.known.get(address)
        if one is not None and one.connected:
            one.doubted = doubted
            self.prompt(address)

    @rule(address=WHO)
    def rest(self, address: Address) -> None:
        """It has left: it is left alone, unless something new is heard, or dials under way still fail."""
        self.roster.rest(address, self.now)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.25, 1.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    # What must hold

    @invariant()
    def it_knows_whom_it_should(self) -> None:
        assert set(self.roster.addresses) == set(self.known)
        assert self.roster.ignored == self.ignored
        was_small = self.is_small
        self.is_small = sum(one.is_firm for one in self.known.values()) <= LIMITS.eager_dials_max
        assert self.roster.is_small is self.is_small
        if self.is_small and not was_small:  # it is the turn of those who were only known
            for address in self.known:
                self.prompt(address)
        for address, one in self.known.items():
            assert self.roster.is_dialling(address) is (not one.connected and self.may_be_dialled(one))

    def teardown(self) -> None:
        """Nobody who may be dialled is forgotten; each is tried for ever, and at most so seldom."""
        for address, one in self.known.items():
            for place in sorted(one.under_way.elements()):
                self.fail(address, place)
        due = {
            address for address, one in self.known.items() if self.may_be_dialled(one) and not one.is_served
        }
        due = {a for a in due if self.known[a].wanted or self.known[a].is_firm}  # who is waited for is wanted
        end = self.now + 12.0
        tried: dict[Address, list[float]] = {address: [] for address in due}
        dials: Counter[Address] = Counter()
        while (deadline := self.roster.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            planned = self.roster.plan(self.now)
            self.take(planned)
            for address, place in planned:
                dials[address] += 1
                tried.setdefault(address, []).append(self.now)
                self.fail(address, place)
        for address in due:
            times = tried[address]
            longest = LIMITS.redial_max_s + YIELD_S + 2 * TIER_S + BUSY_S
            gaps = [after - before for before, after in zip([end - 12.0, *times], [*times, end], strict=True)]
            assert max(gaps) <= longest, "whoever may be dialled is dialled again"
            assert dials[address] <= 12.0 / LIMITS.redial_min_s


TestRosterAtLarge = as_test(RosterAtLarge)
