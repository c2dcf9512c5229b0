"""What peers told of other peers, and whom to try for it, when.

Hearsay may be false, by mistake or by malice, and dials cost sockets. So what is told goes to the roster as a
place to try, but who is tried is decided here: a few at a time for each teller, more for one whose word has
proven good, fewer for one whose has not. A try lasts for a while whatever comes of it. So who lies has a few
dials made for each lie, and later one now and then; and keeps nobody else's from being made.

What a node remembers of those it had a session with is hearsay like any other: it is itself the teller.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from brokerless.errors import WireError
from brokerless.protocol.paths import PLACES_MAX, parse_places
from brokerless.protocol.roster import HEARSAY
from brokerless.protocol.timers import Timers

if TYPE_CHECKING:
    from brokerless.address import Address

TOLD_MAX = 256
"""Peers that one may tell of at a time: enough to meet a mesh, little enough to be kept of everybody."""

TRY_S = 6.0
"""How long a try counts as under way: somewhat longer than a dial into the void takes to be given up."""

YIELD_S = 0.25
"""How long the higher address waits before the first try: the lower one was mostly told, too, and dials."""

REST_MIN_S = 2.0
REST_MAX_S = 15.0
"""How long nobody tries again after a try came to nothing; doubled each time, from the one to the other."""

TRIES_FIRST = 4
"""Tries at a time for the word of a teller of whom nothing is known yet."""

TRIES_MAX = 16
"""And at the most: one more for each that came to something, half as many for each that did not."""

PLACES_PER_TRY = 4
"""Places that one try dials, the likeliest first; the next try takes the next ones."""

REMEMBER_S = 3600.0
"""How long a peer that was lost is tried: outages end, and hosts wake up. Who has a ticket tries always."""


class HearsayHost(Protocol):
    """What hearsay asks of its node."""

    def hint(self, address: Address, source: str, endpoints: tuple[str, ...], now: float) -> None:
        """The peer may be there; no endpoints: what that source said no longer stands."""

    def may_attempt(self, address: Address) -> bool:
        """Whether to dial that peer: nothing better than hearsay is known of it, and it is wanted here."""

    def attempt(self, address: Address, now: float) -> None:
        """Dial where the hints say, once."""


def sift_places(text: str, is_near: bool) -> tuple[tuple[str, ...], int]:
    """Return the endpoints that somebody's word may lead to, and how many others were among the places.

    ``is_near``: who says so is on this host, whose loopback is then meant.
    """
    items = [item for item in text.split(",") if item]
    endpoints = dict.fromkeys(
        f"tcp://{place}" for item in items[:PLACES_MAX] if (place := _sift(item, is_near)) is not None
    )
    return tuple(endpoints), len(items) - len(endpoints)


def _sift(item: str, is_near: bool) -> str | None:
    try:
        (place,) = parse_places(item)
    except WireError:
        return None
    host = ipaddress.ip_address(place.host)
    # A link-local address means this reader's link, or, with IPv6, nothing without an interface.
    if host.is_link_local or (host.is_loopback and not is_near):
        return None
    return str(place)


class _Teller:
    """One whose word we have."""

    __slots__ = ("source", "told", "tries_max", "trying")

    def __init__(self, address: Address) -> None:
        self.source = f"{HEARSAY}{address}"
        self.told: OrderedDict[Address, tuple[str, ...]] = OrderedDict()
        self.trying: set[Address] = set()
        self.tries_max = TRIES_FIRST

    def has_room_for(self, subject: Address) -> bool:
        return len(self.trying) < self.tries_max and subject not in self.trying


class _Subject:
    """One who was told of."""

    __slots__ = ("failures", "hinted", "source", "tellers", "trying")

    def __init__(self) -> None:
        self.tellers: dict[Address, None] = {}  # an ordered set: whose turn it is comes first
        self.source = ""  # whose word the roster has
        self.hinted: tuple[str, ...] = ()
        self.trying: Address | None = None  # for whose word
        self.failures = 0


class Hearsay:
    """What was heard of whom. Times are the core's ``now``.

    Queries: ``refused``, ``failed``, ``has_told``, ``next_deadline``.
    Inputs: ``heard``, ``met``, ``parted``, ``expire``. It acts on its host at once.
    """

    def __init__(self, local: Address, host: HearsayHost) -> None:
        self.refused = 0
        """Things told that nobody may be sent to, or that were too many."""
        self.failed = 0
        """Tries that came to nothing."""
        self._local = local
        self._host = host
        self._tellers: dict[Address, _Teller] = {local: _Teller(local)}
        self._subjects: dict[Address, _Subject] = {}
        self._met: set[Address] = set()
        self._timers: Timers[Address] = Timers()  # when a subject may be tried
        self._tries: Timers[tuple[Address, Address]] = Timers()  # when a try is over, by teller and subject
        self._ready: dict[Address, None] = {}  # due, and waiting for room
        self._remembered: OrderedDict[Address, float] = OrderedDict()  # until when

    # Queries

    def has_told(self, teller: Address, subject: Address) -> bool:
        """Whether the one says that it has a session with the other."""
        present = self._tellers.get(teller)
        return present is not None and subject in present.told

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, or None."""
        deadlines = (self._timers.next_deadline(), self._tries.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # Inputs

    def heard(self, teller: Address, subject: Address, places: str, is_near: bool, now: float) -> bool:
        """A peer told where another may be; nowhere: no more. True if that ended what it had told."""
        present = self._tellers.get(teller)
        if present is None:
            present = self._tellers[teller] = _Teller(teller)
        endpoints, refused = sift_places(places, is_near)
        self.refused += refused
        if subject in (self._local, teller):
            self.refused += 1
            return False
        if not endpoints:
            return self._untold(teller, subject, now)
        if subject not in present.told and len(present.told) >= TOLD_MAX:
            self.refused += 1
            return False
        self._told(teller, subject, endpoints, now)
        return False

    def met(self, subject: Address, now: float) -> None:
        """A session with that peer began; it needs no trying."""
        self._met.add(subject)
        if self._remembered.pop(subject, None) is not None:
            self._untold(self._local, subject, now)
        about = self._subjects.get(subject)
        if about is None:
            return
        self._timers.remove(subject)
        self._ready.pop(subject, None)
        about.failures = 0
        self._withdraw(subject, about, now)
        if about.trying is not None:
            teller = self._tellers[about.trying]
            teller.tries_max = min(teller.tries_max + 1, TRIES_MAX)
            teller.trying.remove(subject)
            self._tries.remove((about.trying, subject))
            about.trying = None
            self._try_some(now)

    def parted(self, subject: Address, remembered: tuple[str, ...], now: float) -> None:
        """The session is over. What that peer told is void; where it was may be remembered."""
        self._met.discard(subject)
        if (teller := self._tellers.get(subject)) is not None:
            for other in list(teller.told):
                self._untold(subject, other, now)
            for other in teller.trying:
                self._tries.remove((subject, other))
            del self._tellers[subject]
        if remembered:
            self._remember(subject, remembered, now)
        about = self._subjects.get(subject)
        if about is not None:
            self._hint(subject, about, now)
            self._schedule(subject, now)

    def expire(self, now: float) -> None:
        """Act on what time has come for."""
        self._forget_some(now)
        for teller, subject in self._tries.pop_due(now):
            self._tellers[teller].trying.remove(subject)
            about = self._subjects.get(subject)
            if about is not None and about.trying == teller:
                self._failed(subject, about, now)
        for subject in self._timers.pop_due(now):
            if self._host.may_attempt(subject):
                self._ready[subject] = None
            else:
                self._timers.set(subject, now + REST_MAX_S)
        self._try_some(now)

    # What is told

    def _told(self, teller: Address, subject: Address, endpoints: tuple[str, ...], now: float) -> None:
        told = self._tellers[teller].told
        before = told.get(subject)
        told[subject] = endpoints
        if endpoints == before:
            return
        about = self._subjects.get(subject)
        if about is None:
            about = self._subjects[subject] = _Subject()
        is_new = not about.tellers
        about.tellers[teller] = None
        if subject in self._met:
            return
        if not about.source or about.source == self._tellers[teller].source:
            self._hint(subject, about, now)
        if is_new:
            self._schedule(subject, now)

    def _untold(self, teller: Address, subject: Address, now: float) -> bool:
        present = self._tellers[teller]
        if present.told.pop(subject, None) is None:
            return False
        about = self._subjects[subject]
        del about.tellers[teller]
        if about.trying == teller:  # the teller is charged with the try until its time is over
            about.trying = None
            self._timers.set(subject, now + REST_MIN_S)
        if about.source == present.source:
            self._hint(subject, about, now)
        if not about.tellers:
            self._timers.remove(subject)
            self._ready.pop(subject, None)
            del self._subjects[subject]
        return True

    def _hint(self, subject: Address, about: _Subject, now: float) -> None:
        """Let the roster have the word of the teller whose turn it is, and of no other."""
        teller = next(iter(about.tellers), None)
        if teller is None:
            self._withdraw(subject, about, now)
            return
        present = self._tellers[teller]
        endpoints = present.told[subject]
        start = about.failures * PLACES_PER_TRY % len(endpoints)
        chosen = (endpoints[start:] + endpoints[:start])[:PLACES_PER_TRY]
        if (present.source, chosen) == (about.source, about.hinted):
            return
        before, about.source, about.hinted = about.source, present.source, chosen
        self._host.hint(subject, about.source, chosen, now)
        if before not in ("", about.source):  # after the new one, or the roster would forget the peer
            self._host.hint(subject, before, (), now)

    def _withdraw(self, subject: Address, about: _Subject, now: float) -> None:
        before, about.source, about.hinted = about.source, "", ()
        self._host.hint(subject, before, (), now)

    # Whom to try

    def _schedule(self, subject: Address, now: float) -> None:
        self._timers.set(subject, now + (YIELD_S if self._local > subject else 0.0))

    def _try_some(self, now: float) -> None:
        """Begin what there is room for, who has waited longest first."""
        for subject in list(self._ready):
            about = self._subjects[subject]
            teller = next((one for one in about.tellers if self._tellers[one].has_room_for(subject)), None)
            if teller is None:
                continue
            del self._ready[subject]
            others = [one for one in about.tellers if one != teller]
            about.tellers = dict.fromkeys((teller, *others))
            about.trying = teller
            self._tellers[teller].trying.add(subject)
            self._hint(subject, about, now)
            self._tries.set((teller, subject), now + TRY_S)
            self._host.attempt(subject, now)

    def _failed(self, subject: Address, about: _Subject, now: float) -> None:
        assert about.trying is not None
        teller = self._tellers[about.trying]
        teller.tries_max = max(1, teller.tries_max // 2)
        self.failed += 1
        about.failures += 1
        del about.tellers[about.trying]
        about.tellers[about.trying] = None  # the next try is another's turn
        about.trying = None
        self._timers.set(subject, now + min(REST_MIN_S * 2 ** min(about.failures - 1, 8), REST_MAX_S))

    # What is remembered

    def _remember(self, subject: Address, endpoints: tuple[str, ...], now: float) -> None:
        if len(self._remembered) >= TOLD_MAX:
            self._forget(next(iter(self._remembered)), now)
        self._remembered[subject] = now + REMEMBER_S
        self._told(self._local, subject, endpoints, now)

    def _forget_some(self, now: float) -> None:
        while self._remembered:
            subject, until = next(iter(self._remembered.items()))
            if until > now:
                return
            self._forget(subject, now)

    def _forget(self, subject: Address, now: float) -> None:
        del self._remembered[subject]
        self._untold(self._local, subject, now)
