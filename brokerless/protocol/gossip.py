"""What to tell which peer about others: those that we have a session with, and where they said they are.

Every peer is told of every other, but of changes only, a while after them and all that came up meanwhile
together. And not what it knows: if A or B told us of the other, they have a session, and need not hear of
each other from us. In a mesh where everybody knows everybody that is most of it.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Protocol

from brokerless.protocol import wire
from brokerless.protocol.hearsay import TOLD_MAX, Hearsay, HearsayHost, sift_places
from brokerless.protocol.paths import parse_places
from brokerless.protocol.timers import Timers

if TYPE_CHECKING:
    from brokerless.address import Address

FIRST_S = {True: 0.1, False: 0.3}
"""How long after a session began the lower, and the higher address tells: so that of two only one must."""

INTERVAL_S = 0.3
"""Between two times that one peer is told something."""

AT_ONCE_MAX = 64
"""Others that a peer is told of at one time: with the interval, some 200 a second, or 20 kB."""

WITH_PEER = "itself"
"""The source of what a peer said of itself, over the session that it is in."""


class GossipHost(HearsayHost, Protocol):
    """What gossip asks of its node."""

    def tell(self, to: Address, frame: wire.Met) -> None:
        """Send the frame to a peer that we have a session with."""


class _Peer:
    """One that we have a session with."""

    __slots__ = ("endpoints", "is_near", "open", "places", "told")

    def __init__(self, is_near: bool) -> None:
        self.is_near = is_near
        self.endpoints: tuple[str, ...] = ()  # where it said it is
        self.places = {True: "", False: ""}  # the same, as others on this host and elsewhere are told
        self.told: dict[Address, str] = {}  # what it was told of others
        self.open: dict[Address, None] = {}  # of whom it may have to be told: an ordered set


class Gossip:
    """All gossip of a node, both ways. Times are the core's ``now``.

    Queries: ``refused``, ``failed``, ``next_deadline``.
    Inputs: ``met``, ``parted``, ``heard``, ``expire``. It acts on its host at once.
    """

    def __init__(self, local: Address, host: GossipHost) -> None:
        self._local = local
        self._host = host
        self._hearsay = Hearsay(local, host)
        self._refused = 0
        self._peers: dict[Address, _Peer] = {}
        self._timers: Timers[Address] = Timers()  # when a peer may be told what is open

    # Queries

    @property
    def refused(self) -> int:
        """Things told to us that nobody may be sent to, or that were too many."""
        return self._refused + self._hearsay.refused

    @property
    def failed(self) -> int:
        """Tries, for what was told to us, that came to nothing."""
        return self._hearsay.failed

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, or None."""
        deadlines = (self._timers.next_deadline(), self._hearsay.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # Inputs

    def met(self, address: Address, places: str, is_near: bool, now: float) -> None:
        """A session with a peer began, or it said something new in one: that it may be dialled there."""
        peer = self._peers.get(address)
        is_new = peer is None
        if peer is None:
            peer = self._peers[address] = _Peer(is_near)
            peer.open = dict.fromkeys(other for other in self._peers if other != address)
            self._timers.set(address, now + FIRST_S[self._local < address])
        endpoints, _ = sift_places(places, is_near)
        if endpoints != peer.endpoints:
            # Loopback is no lie: it is said to everybody, and those elsewhere leave it out.
            self._refused += sift_places(places, is_near=True)[1]
            peer.endpoints = endpoints
            peer.places = {near: _places(endpoints, near) for near in (True, False)}
            self._host.hint(address, WITH_PEER, endpoints, now)
            for other in self._peers:
                self._reconsider(other, address, now)
        if is_new:
            self._hearsay.met(address, now)

    def parted(self, address: Address, is_remembered: bool, now: float) -> None:
        """The session with a peer is over."""
        peer = self._peers.pop(address, None)
        if peer is None:
            return
        self._timers.remove(address)
        self._hearsay.parted(address, peer.endpoints if is_remembered else (), now)
        if peer.endpoints:  # after what is remembered, or the roster would forget the peer
            self._host.hint(address, WITH_PEER, (), now)
        for other, present in self._peers.items():
            if address in present.told:
                self._reconsider(other, address, now)

    def heard(self, teller: Address, frame: wire.Met, now: float) -> None:
        """A peer tells of another."""
        peer = self._peers.get(teller)
        if peer is None or len(frame.address) != len(self._local.public_key):
            self._refused += 1
            return
        subject = type(self._local)(frame.address)
        if self._hearsay.heard(teller, subject, frame.places, peer.is_near, now):
            # They have lost each other; we may be who can help.
            self._reconsider(teller, subject, now)
            self._reconsider(subject, teller, now)

    def expire(self, now: float) -> None:
        """Act on what time has come for."""
        for address in self._timers.pop_due(now):
            self._tell(address, self._peers[address], now)
        self._hearsay.expire(now)

    # Telling

    def _reconsider(self, listener: Address, subject: Address, now: float) -> None:
        """Something about the subject has changed that the listener may have to be told."""
        peer = self._peers.get(listener)
        if peer is None or listener == subject:
            return
        peer.open[subject] = None
        if listener not in self._timers:
            self._timers.set(listener, now + INTERVAL_S)

    def _tell(self, listener: Address, peer: _Peer, now: float) -> None:
        count = 0
        while peer.open and count < AT_ONCE_MAX:
            subject = next(iter(peer.open))
            del peer.open[subject]
            places = self._news(listener, peer, subject)
            if places is None:
                continue
            count += 1
            if places:
                peer.told[subject] = places
            else:
                del peer.told[subject]
                self._fill_up(listener, peer)
            self._host.tell(listener, wire.Met(subject.public_key, places))
        if peer.open:
            self._timers.set(listener, now + INTERVAL_S)

    def _news(self, listener: Address, peer: _Peer, subject: Address) -> str | None:
        """Return what the listener is to be told of the subject; None: nothing."""
        present = self._peers.get(subject)
        places = "" if present is None else present.places[peer.is_near]
        before = peer.told.get(subject, "")
        if places == before:
            return None
        if not before:
            has_told = self._hearsay.has_told
            if len(peer.told) >= TOLD_MAX or has_told(listener, subject) or has_told(subject, listener):
                return None
        return places

    def _fill_up(self, listener: Address, peer: _Peer) -> None:
        """Who was told of as many as may be can be told of another now."""
        if len(peer.told) == TOLD_MAX - 1:
            peer.open.update(dict.fromkeys(self._peers.keys() - peer.told.keys() - {listener}))


def _places(endpoints: tuple[str, ...], is_near: bool) -> str:
    """Return the places as a listener, on this host or elsewhere, is told them."""
    places = [place for endpoint in endpoints for place in parse_places(endpoint.removeprefix("tcp://"))]
    return ",".join(str(p) for p in places if is_near or not ipaddress.ip_address(p.host).is_loopback)
