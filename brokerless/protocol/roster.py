"""Whom this node has heard of, and whom to dial when.

Decisions only: ``plan`` says what to dial, the shell dials, and tells how it went. A hint is a place to try;
it never makes a peer alive or dead.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from brokerless.protocol.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokerless.address import Address
    from brokerless.config import Limits

YIELD_S = 0.25
"""How long one of two waits for the other's dial: both dialling makes a link for nothing."""

YIELD_PER_PEER_S = 0.05
YIELD_MAX_S = 3.0
"""And longer for each peer that is still to be met, up to this: many who start together keep a host busy, and
to dial those whose dial is late would keep it busy for longer."""

NEXT_TIER_S = 1.0
"""How long the nearer endpoints of a peer (ipc) have before the others are tried beside them. That nobody is
there shows at once, so this is for those who are there and busy."""

REDIAL_WAITING_MAX_S = 0.5
"""Longest wait between dials while a session waits for a link: an outage costs a pause, not the session."""

AGAIN_S = 0.5
"""A dial that hangs for longer gets another beside it where a session waits for it or doubts its link; the
next follows after twice as long, and so on. TCP keeps silent for seconds after a few losses in a row, and a
session has but half its liveness limit left. They are paced like all others."""

DIALS_AT_ONCE_MAX = 32
"""Dials under way; each costs a socket and a CURVE handshake, and false records must not cost more."""

FRESH_S = 0.5
"""A dial that takes longer leads nowhere, and then it costs next to nothing any more; or somebody is too busy
for it, and then more of them make it worse."""

PACE_MIN = 2
PACE_FIRST = 8
"""Peers that are freshly dialled at once: one more for each that is met in ``FRESH_S``, half as many for each
that is met later. So fifty who start together, or who all doubt each other because their host is busy, come
to an end of it. Without, the dials were what kept it busy, and more peers became suspect meanwhile."""

ENDPOINTS_MAX = 16
"""Endpoints tried for one peer at once; a host has fewer, so more are somebody's mistake or malice."""


HEARSAY = "gossip:"
"""How sources begin whose word may be false: what only they tell is dialled when ``attempt`` says so, and
does not make the mesh a large one."""

HEARSAY_SHARE = 0.5
"""Share of the roster, and of the dials under way, that hearsay may have: there is room for the rest."""

SHARES = (DIALS_AT_ONCE_MAX, int(DIALS_AT_ONCE_MAX * HEARSAY_SHARE))
"""Dials under way up to which another begins: one that is more than hearsay, and one that is not."""


class _Entry:
    """One address that we might dial."""

    __slots__ = (
        "again",
        "begun",
        "boot",
        "connected",
        "dialling",
        "doubted",
        "failures",
        "hangs_at",
        "is_firm",
        "sources",
        "untried",
        "waiting",
        "wanted",
        "yields_since",
    )

    def __init__(self) -> None:
        self.sources: dict[str, tuple[str, ...]] = {}
        self.boot = 0
        self.wanted = False
        self.waiting = False
        self.connected = False
        self.doubted = False
        self.dialling: Counter[str] = Counter()  # dials under way, by endpoint
        self.begun = 0.0  # when those dials were, but for others beside those that hung
        self.again = 0  # how often there were such
        self.hangs_at = 0.0  # so much time have the last of them
        self.yields_since: float | None = None
        self.untried: list[list[str]] = []
        self.failures = 0
        self.is_firm = False

    @property
    def is_hearsay(self) -> bool:
        """Whether nothing better is known of it."""
        return not self.connected and all(source.startswith(HEARSAY) for source in self.sources)

    @property
    def is_in_need(self) -> bool:
        """Whether there is a session that waits for a link, or doubts the one it has."""
        return self.waiting or self.doubted

    @property
    def is_served(self) -> bool:
        """Whether there is a link, and no reason for another."""
        return self.connected and not self.doubted

    def tiers(self) -> list[list[str]]:
        known = dict.fromkeys(place for places in self.sources.values() for place in places)
        near = [place for place in known if place.startswith("ipc:")]
        far = [place for place in known if not place.startswith("ipc:")]
        return [tier[:ENDPOINTS_MAX] for tier in (near, far) if tier]


class Roster:
    """The dial plan of a node.

    Queries: ``addresses``, ``is_dialling``, ``is_small``, ``may_attempt``, ``next_deadline``.
    Inputs: ``learn``, ``dial_failed``, ``dial_succeeded``, ``connected``, ``disconnected``.
    Commands: ``want``, ``attempt``, ``rest``. Outputs: ``plan``.
    """

    def __init__(self, local: Address, limits: Limits) -> None:
        self._local = local
        self._limits = limits
        self._entries: dict[Address, _Entry] = {}
        self._timers: Timers[Address] = Timers()
        self._due: tuple[dict[Address, None], ...] = ({}, {})  # ordered sets: whose turn it is; hearsay, last
        self._fresh: dict[Address, float] = {}  # whom we dial since when, the oldest first
        self._pace = PACE_FIRST
        self._now = 0.0  # the latest that was told: what may be dialled now could not be before
        self._dialling = 0
        self._firm = 0  # entries that are more than hearsay
        self._met = 0  # and of those, the connected
        self.ignored = 0
        """Hints not taken because the roster was full."""

    def __contains__(self, address: Address) -> bool:
        return address in self._entries

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All that have been heard of, in that order."""
        return tuple(self._entries)

    def is_dialling(self, address: Address) -> bool:
        """True when the peer is being dialled, or soon will be."""
        entry = self._entries.get(address)
        return entry is not None and not entry.connected and self._is_eligible(entry)

    def next_deadline(self) -> float | None:
        """Return when ``plan`` wants to be called, or None."""
        deadline = self._timers.next_deadline()
        if not any(self._due):
            return deadline
        if len(self._fresh) >= self._pace:
            due_at = next(iter(self._fresh.values())) + FRESH_S
        elif any(self._has_room(due, most) for due, most in zip(self._due, SHARES, strict=True)):
            due_at = self._now
        else:  # until one of those under way ends
            return deadline
        return due_at if deadline is None else min(deadline, due_at)

    @property
    def is_small(self) -> bool:
        """Whether so few are known that all of them are dialled, and not only those in use."""
        return self._firm <= self._limits.eager_dials_max

    def _is_eligible(self, entry: _Entry) -> bool:
        known = any(entry.sources.values())
        in_use = entry.wanted or entry.waiting or entry.connected
        return known and (in_use or (entry.is_firm and self.is_small))

    def may_attempt(self, address: Address) -> bool:
        """Whether that peer is known by hearsay only, and dialled if it were known better."""
        entry = self._entries.get(address)
        if entry is None or entry.is_firm:
            return False
        return entry.wanted or entry.waiting or self._firm < self._limits.eager_dials_max

    def _weigh(self, entry: _Entry, is_firm: bool) -> None:
        """What is known of the peer may have become more than hearsay, or less."""
        was_small = self.is_small
        self._firm += is_firm - entry.is_firm
        entry.is_firm = is_firm
        if self.is_small and not was_small:
            self._dial_rest()

    def _dial_rest(self) -> None:
        """The roster has become small: it is the turn of those who were only known while it was large."""
        for address, entry in self._entries.items():
            is_scheduled = address in self._timers or any(address in due for due in self._due)
            if not (entry.connected or entry.dialling or is_scheduled):
                self._schedule(address, entry, self._now)

    # Inputs

    def learn(
        self,
        address: Address,
        source: str,
        endpoints: Sequence[str],
        boot: int,
        now: float,
        ours: bool | None = None,
    ) -> bool:
        """A discovery says where the peer may be (nowhere: the source has withdrawn it).

        ``ours``: it is our turn to dial, since the peer does not know of us yet; or it is the peer's, who
        looks for us; None: the lower address dials. Returns False when the roster is full, or when the peer
        is gone from every source and was not connected: it is forgotten.
        """
        if address == self._local:
            return True
        self._now = now
        entry = self._entries.get(address)
        if entry is None:
            if not endpoints:
                return False
            if len(self._entries) >= self._limits.peers_max or self._is_too_much(source):
                self.ignored += 1
                return False
            entry = self._entries[address] = _Entry()
        before, was_eligible = entry.tiers(), self._is_eligible(entry)
        restarted = bool(boot and boot != entry.boot)
        entry.boot = boot or entry.boot
        entry.sources[source] = tuple(endpoints)
        if not endpoints:
            del entry.sources[source]
        if not entry.sources and not entry.connected:
            self.forget(address)
            return False
        self._weigh(entry, not entry.is_hearsay)
        # That a better source says the same as hearsay did may be all that lacked.
        is_news = restarted or entry.tiers() != before
        if is_news or (self._is_eligible(entry) and not was_eligible):
            entry.failures = 0
            if entry.is_served:
                pass
            elif entry.dialling:
                self._dial_beside(address, entry, now)
            else:
                yields = self._local > address if ours is None else not ours
                entry.yields_since = now if yields else None
                self._schedule(address, entry, now + (YIELD_S if yields else 0.0))
        return True

    def _dial_beside(self, address: Address, entry: _Entry, now: float) -> None:
        """Dials are under way, maybe to where the peer was before, and those take their time."""
        places = [place for tier in entry.tiers() for place in tier if place not in entry.dialling]
        if some := places[: max(0, ENDPOINTS_MAX - len(entry.dialling))]:
            entry.untried = [some]
            self._schedule(address, entry, now)

    def _is_too_much(self, source: str) -> bool:
        hearsay = len(self._entries) - self._firm
        return source.startswith(HEARSAY) and hearsay >= self._limits.peers_max * HEARSAY_SHARE

    def forget(self, address: Address) -> None:
        """Drop an address that no source names; its dials under way end as they will."""
        entry = self._entries.pop(address, None)
        if entry is not None:
            self._take_off(address)
            self._fresh.pop(address, None)
            self._dialling -= entry.dialling.total()
            self._met -= entry.connected
            self._weigh(entry, False)

    def _take_off(self, address: Address) -> None:
        """Do not dial it, until it is scheduled again."""
        self._timers.remove(address)
        for due in self._due:
            due.pop(address, None)

    def dial_failed(self, address: Address, endpoint: str, now: float) -> None:
        """A dial came to nothing, or its link was cut before it carried a session."""
        entry = self._entries.get(address)
        if entry is None or endpoint not in entry.dialling:
            return
        self._now = now
        self._dial_over(entry, endpoint)
        if entry.dialling:
            return
        entry.again = 0
        self._fresh.pop(address, None)
        if entry.is_served:
            return
        if entry.untried:
            self._timers.set(address, now)
            return
        entry.failures += 1
        wait_s = self._limits.redial_min_s * 2 ** min(entry.failures - 1, 16)
        longest_s = REDIAL_WAITING_MAX_S if entry.is_in_need else self._limits.redial_max_s
        self._schedule(address, entry, now + min(wait_s, longest_s))

    def dial_succeeded(self, address: Address, endpoint: str, now: float) -> None:
        """The dialled link carries a session now."""
        entry = self._entries.get(address)
        if entry is not None and endpoint in entry.dialling:
            self._now = now
            self._dial_over(entry, endpoint)
            if now - entry.begun <= FRESH_S:
                self._pace = min(self._pace + 1, DIALS_AT_ONCE_MAX)
            else:
                self._pace = max(self._pace // 2, PACE_MIN)

    def _dial_over(self, entry: _Entry, endpoint: str) -> None:
        entry.dialling[endpoint] -= 1
        entry.dialling = +entry.dialling  # without those of which none is left
        self._dialling -= 1

    def connected(self, address: Address, now: float) -> None:
        """The peer has a ready link, whoever dialled it: dial no more."""
        self._now = now
        entry = self._entries.setdefault(address, _Entry())
        self._met += not entry.connected
        entry.connected = True
        self._weigh(entry, True)
        entry.doubted = False
        entry.failures = entry.again = 0
        entry.untried = []
        entry.yields_since = None
        self._take_off(address)
        self._fresh.pop(address, None)

    def disconnected(self, address: Address, now: float) -> None:
        """The peer's last ready link is gone."""
        entry = self._entries.get(address)
        if entry is None:
            return
        self._now = now
        self._met -= entry.connected
        entry.connected = entry.doubted = False
        self._weigh(entry, not entry.is_hearsay)
        if not entry.sources:
            if not entry.waiting:
                self.forget(address)
            return
        self._schedule(address, entry, now + self._limits.redial_min_s)

    # Commands

    def want(self, address: Address, now: float) -> None:
        """Somebody uses the peer: dial it whatever the size of the roster."""
        entry = self._entries.get(address)
        if entry is not None and not entry.wanted:
            entry.wanted = True
            entry.yields_since = None
            if not entry.dialling and not entry.connected:
                self._schedule(address, entry, now)

    def attempt(self, address: Address, now: float) -> None:
        """Dial a peer that is known by hearsay, once."""
        entry = self._entries.get(address)
        if entry is not None and not entry.dialling and not entry.connected:
            self._timers.set(address, now)

    def set_waiting(self, address: Address, waiting: bool) -> None:
        """A session waits for a link to the peer, or no longer does: dial it faster, or at leisure."""
        entry = self._entries.get(address)
        if entry is None:
            return
        was_eligible = self._is_eligible(entry)
        entry.waiting = waiting
        if not was_eligible and not entry.dialling:
            self._schedule(address, entry, self._now)

    def doubt(self, address: Address, doubted: bool, now: float) -> None:
        """The peer has become suspect: dial a second link beside what it has; or it is beyond doubt again."""
        entry = self._entries.get(address)
        if entry is None or not entry.connected:
            return
        entry.doubted = doubted
        if not doubted:
            entry.failures = 0
            entry.untried = []
            self._take_off(address)
        else:
            yields = self._local > address and not entry.dialling
            self._schedule(address, entry, now + (YIELD_S if yields else 0.0))

    def rest(self, address: Address, now: float) -> None:
        """The peer has left, or was at fault: leave it alone for the longest wait, unless it starts anew."""
        entry = self._entries.get(address)
        if entry is not None and not entry.is_served:  # one link may be refused while another serves
            entry.untried = []
            self._schedule(address, entry, now + self._limits.redial_max_s)

    def _schedule(self, address: Address, entry: _Entry, when: float) -> None:
        if self._is_eligible(entry):
            self._timers.set(address, when)

    # Outputs

    def plan(self, now: float) -> list[tuple[Address, str]]:
        """Return what to dial now. Each dial must end in ``dial_failed`` or ``dial_succeeded``."""
        self._now = now
        for address in self._timers.pop_due(now):
            entry = self._entries[address]
            if not self._yields(address, entry, now) and not self._has_patience(address, entry, now):
                entry.untried = entry.untried or entry.tiers()
                self._due[not entry.is_firm][address] = None
        while self._fresh and next(iter(self._fresh.values())) + FRESH_S <= now:
            del self._fresh[next(iter(self._fresh))]
        dials: list[tuple[Address, str]] = []
        for due, most in zip(self._due, SHARES, strict=True):
            while due and len(self._fresh) < self._pace and self._has_room(due, most):
                dials += self._dial(due, now)
        return dials

    def _yields(self, address: Address, entry: _Entry, now: float) -> bool:
        """Give the other side more time to dial us if there are many to be met."""
        if entry.yields_since is None:
            return False
        others = min(self._firm - self._met, self._limits.eager_dials_max) - 1
        until = entry.yields_since + min(YIELD_S + YIELD_PER_PEER_S * max(others, 0), YIELD_MAX_S)
        if until > now:
            self._timers.set(address, until)
            return True
        entry.yields_since = None
        return False

    def _has_patience(self, address: Address, entry: _Entry, now: float) -> bool:
        """Give the dials under way time; beside those that have had it others are due, if they are needed."""
        if entry.untried or not entry.dialling or not entry.is_in_need:
            return False
        if now < entry.hangs_at:
            self._timers.set(address, entry.hangs_at)
            return True
        entry.again += 1
        return False

    def _has_room(self, due: dict[Address, None], most: int) -> bool:
        """Whether the first of those due can be dialled without too many dials at once."""
        untried = self._entries[next(iter(due))].untried if due else []
        return bool(due) and self._dialling + len(untried[0] if untried else ()) <= most

    def _dial(self, due: dict[Address, None], now: float) -> list[tuple[Address, str]]:
        """Begin with the first of those due."""
        address = next(iter(due))
        del due[address]
        entry = self._entries[address]
        if not entry.untried:
            return []
        tier = [place for place in entry.untried.pop(0) if entry.dialling[place] <= entry.again]
        entry.dialling.update(tier)
        if not entry.again:
            entry.begun = now
        entry.hangs_at = now + AGAIN_S * 2**entry.again
        self._dialling += len(tier)
        if tier:
            self._fresh.pop(address, None)
            self._fresh[address] = now
        if entry.untried:
            self._timers.set(address, now + NEXT_TIER_S)
        elif entry.is_in_need:
            self._timers.set(address, entry.hangs_at)
        return [(address, endpoint) for endpoint in tier]
