"""Which path carries datagrams to one peer: UDP to one of its places, or PUSH, or none.

A path is believed in once a probe sent on it was answered, by whichever way the answer comes: what counts is
that the peer heard. While the application sends, the path that serves is asked again and again; what leaves
questions open is doubted, then replaced, then given up (but asked now and then, so that it may return). While
nothing is sent, nothing is asked: silence then says nothing.

Where the peer says that it is (its INFO came over the encrypted link) may be tried at once. Any other place
that its packets come from may belong to somebody who copied them: nothing but probes goes there until one of
them was answered.
"""

from __future__ import annotations

import enum
import ipaddress
import math
import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from brokerless.errors import WireError
from brokerless.model import DatagramPath

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PLACES_MAX = 16
"""Places of one plane that a node tells; a host has fewer, so more are a mistake or malice."""

HEARD_MAX = 8
"""Places remembered that the peer did not tell: as often may its address change while none of them fails."""

SPREAD_MAX = 4
"""Places that a datagram is copied to while it is not known which of them works."""

DEMAND_S = 5.0
"""How long after a message the next one is expected, and paths are kept under watch for it."""

FIRST_ROUND_S = 0.75
"""How long paths are asked when the session begins, so that it is known which one works: three probes."""

DOUBT_S = 0.7
"""With a question open for so long, two probes in a row came to nothing: time to have PUSH beside UDP."""

PATIENCE_S = 1.2
"""With a question open for so long, three probes or more came to nothing: the path serves no longer."""

GIVE_UP_S = 2.0
"""With a question open for so long, nothing is sent there any more but probes."""

NEW_PLACE_INTERVAL_S = 0.5
"""Between probes to places that were only heard from: somebody may make the peer's packets come from many."""

PUSH_AFTER_S = 0.3
"""How long UDP has to prove itself before PUSH is opened too: it mostly does, in one round trip."""

PUSH_SPARE_S = 10.0
"""How long PUSH is kept once UDP serves again without a doubt: what failed just now may do so again."""

CALL_INTERVAL_S = 10.0
"""Between two times that the peer is asked to probe us: a firewall before it, which lets in only what answers
it, may have closed since it last sent. Where that is of no use it costs an INFO as often."""

ANSWER_S = 5.0
"""How long an answer is waited for: on the link it may lie behind bulk."""

STALL_S = 0.5
"""Looking later than this after a deadline, this process stood still: answers may lie unread in a socket."""

RTT_GAIN = 1 / 8
"""Weight of the latest round trip in the smoothed one (RFC 6298)."""

PUSH: Final = DatagramPath.PUSH


class UdpPlace(NamedTuple):
    """A host (an IP address) and a port; ``local`` says which socket of ours it is reached by, -1 any."""

    host: str
    port: int
    local: int = -1

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Target: TypeAlias = UdpPlace | Literal[DatagramPath.PUSH]

_PLACE = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[1-9][0-9]{0,4})", re.ASCII)


def format_places(places: Iterable[UdpPlace]) -> str:
    """Return the places as INFO carries them."""
    return ",".join(str(place) for place in places)


def parse_places(text: str) -> tuple[UdpPlace, ...]:
    """Return the places that ``format_places`` wrote, each once. Raises ``WireError``."""
    items = text.split(",") if text else []
    if len(items) > PLACES_MAX:
        raise WireError(f"{len(items)} places, at most {PLACES_MAX}")
    return tuple(dict.fromkeys(_parse_place(item) for item in items))


def _parse_place(text: str) -> UdpPlace:
    match = _PLACE.fullmatch(text)
    if match is None or (port := int(match["port"])) > 65535:
        raise WireError(f"not a place: {text!r:.80}")
    host: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        host = ipaddress.IPv6Address(match["v6"]) if match["v6"] else ipaddress.IPv4Address(match["v4"])
    except ValueError:
        raise WireError(f"not a host: {text!r:.80}") from None
    # One spelling for each host: an IPv4 address in the clothes of an IPv6 one could be any of the others.
    disguised = isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None
    if host.is_multicast or host.is_unspecified or disguised or str(host) == "255.255.255.255":
        raise WireError(f"nobody lives there: {text!r:.80}")
    return UdpPlace(str(host), port)


class Standing(enum.Enum):
    """What is known of one path."""

    UNPROVEN = "may work"
    GOOD = "works"
    DOUBTFUL = "worked, and has left questions open since"
    GIVEN_UP = "does not work"


FADES: Final = {
    Standing.GOOD: (DOUBT_S, Standing.DOUBTFUL),
    Standing.DOUBTFUL: (PATIENCE_S, Standing.UNPROVEN),
    Standing.UNPROVEN: (GIVE_UP_S, Standing.GIVEN_UP),
}
"""What becomes of a path with a question open for so long. An answer makes any path ``GOOD``; when nothing is
asked any more, a ``DOUBTFUL`` one is ``GOOD`` again, the others stay what they are."""

PROBE_INTERVALS_S: Final = {
    Standing.UNPROVEN: 0.25,  # many may be lost, and much depends on the first that is not
    Standing.GOOD: 0.5,  # so that the loss of three in a row is known within 2 s
    Standing.DOUBTFUL: 0.25,
    Standing.GIVEN_UP: 2.0,  # so that it serves again within 10 s of its return, though some are lost
}
"""How often a path is asked, if it is asked."""

_SERVING = (Standing.GOOD, Standing.DOUBTFUL)


class _Way:
    """One path: a place, or PUSH."""

    __slots__ = ("asked_at", "is_trusted", "probed_at", "proven_to", "standing", "target", "told")

    def __init__(self, target: Target, *, told: bool) -> None:
        self.target: Target = target
        self.told = told
        """The peer itself says that it is there."""
        self.is_trusted = told
        """Told or proven: more than probes may go there."""
        self.standing = Standing.UNPROVEN
        self.asked_at: float | None = None  # the first probe that is unanswered since the last proof
        self.probed_at = -math.inf
        self.proven_to = -math.inf  # when the latest probe was sent that was answered

    @property
    def is_hopeful(self) -> bool:
        return self.standing is not Standing.GIVEN_UP

    @property
    def probe_at(self) -> float:
        return self.probed_at + PROBE_INTERVALS_S[self.standing]

    @property
    def fades_at(self) -> float:
        if self.asked_at is None or self.standing not in FADES:
            return math.inf
        return self.asked_at + FADES[self.standing][0]

    def fade(self, now: float) -> None:
        while self.fades_at <= now:
            self.standing = FADES[self.standing][1]

    def rest(self) -> None:
        """Nothing is asked any more: what is open says nothing."""
        self.asked_at = None
        if self.standing is Standing.DOUBTFUL:
            self.standing = Standing.GOOD


class Paths:
    """The paths to one peer, and which of them serves.

    Queries: ``path``, ``targets``, ``wants_push``, ``rtt_s``, ``next_deadline``.
    Inputs: ``learned``, ``pull_moved``, ``established``, ``sent``, ``heard``, ``answered``, ``expire``.
    Outputs: ``take_probes``; to be asked after any input.
    """

    def __init__(self, *, first_token: int = 1) -> None:
        self.path = DatagramPath.NONE
        """What serves the peer: NONE unless it is proven."""
        self.wants_push = False
        """True while there should be a PUSH connection to the peer."""
        self.wants_call = False
        """Set when the peer should be told anew who we are, and so probe us; whoever tells it clears it."""
        self.rtt_s: float | None = None
        """Smoothed round trip over UDP, in seconds."""
        self._token = first_token
        self._probes: dict[int, tuple[_Way, float]] = {}  # under way, by token, oldest first
        self._udp: list[_Way] = []  # those told first
        self._push = _Way(PUSH, told=True)
        self._has_pull = False
        self._serving: _Way | None = None  # of UDP
        self._sure_since: float | None = None  # UDP serves without a doubt
        self._heard: UdpPlace | None = None  # where the newest packet came from
        self._demand_until = -math.inf
        self._asking_until = -math.inf
        self._new_place_at = -math.inf
        self._called_at = -math.inf
        self._targets: tuple[Target, ...] = ()
        self._asked: list[_Way] = []
        self._deadline = math.inf

    # Queries

    def targets(self, now: float) -> tuple[Target, ...]:
        """Return where to send a datagram: to each of these; none when no path works.

        Call ``sent`` before: it is the demand that keeps paths under watch, or finds one.
        """
        if self._deadline <= now:
            self._decide(now)
        return self._targets

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, and ``take_probes`` after it."""
        return None if self._deadline == math.inf else self._deadline

    # Inputs

    def learned(self, places: Sequence[UdpPlace], has_pull: bool, now: float) -> None:
        """The peer says where its UDP sockets are, and whether it takes PUSH; it may say so again."""
        present: dict[Target, _Way] = {way.target: way for way in self._udp}
        told = [present.pop(place, _Way(place, told=True)) for place in places[:PLACES_MAX]]
        for way in told:
            way.told = way.is_trusted = True
        heard = [way for way in present.values() if not way.told or self._is_in_use(way)]
        for way in heard:
            way.told = False
        self._udp = told + heard
        self._forget_some()
        self._has_pull = has_pull
        self._decide(now)

    def pull_moved(self, now: float) -> None:
        """The peer takes PUSH elsewhere than before: what is known of that path is of no use any more."""
        self._push = _Way(PUSH, told=True)
        self._forget_probes()
        self._decide(now)

    def established(self, now: float) -> None:
        """The session begins, or has another link: ask once which paths work, even with nothing to send."""
        self._asking_until = max(self._asking_until, now + FIRST_ROUND_S)
        self._decide(now)

    def sent(self, now: float) -> None:
        """The application sends a message, whether or not there is a path."""
        begins = self._demand_until <= now
        self._demand_until = self._asking_until = now + DEMAND_S
        if begins:
            self._decide(now)

    def heard(self, place: UdpPlace, is_newest: bool, now: float) -> None:
        """An authentic packet came from there; ``is_newest``: with the highest counter so far."""
        if not is_newest or place == self._heard:
            return
        self._heard = place
        if all(way.target != place for way in self._udp):
            self._udp.append(_Way(place, told=False))
            self._forget_some()
        self._decide(now)

    def answered(self, token: int, now: float, *, by_link: bool = False) -> float | None:
        """A probe of ours came to the peer; return the round trip in seconds if the answer came over UDP.

        ``by_link``: the answer came on the reliable link. It proves as much, but measures nothing.
        """
        probe = self._probes.get(token)
        if probe is None:
            return None
        way, sent_at = probe
        way.standing = Standing.GOOD
        way.is_trusted = True
        way.proven_to = max(way.proven_to, sent_at)
        later = (at for other, at in self._probes.values() if other is way and at > way.proven_to)
        way.asked_at = next(later, None)  # of what was sent before, nothing needs an answer any more
        self._fade(way, now)
        if way is not self._push and way.standing is Standing.GOOD and self._may_serve(way):
            self._serving = way
        self._decide(now)
        if by_link:
            return None
        del self._probes[token]
        elapsed = now - sent_at
        self.rtt_s = elapsed if self.rtt_s is None else self.rtt_s + (elapsed - self.rtt_s) * RTT_GAIN
        return elapsed

    def expire(self, now: float) -> None:
        """Act on what time has come for."""
        self._decide(now)

    # Outputs

    def take_probes(self, now: float) -> list[tuple[Target, int]]:
        """Return the probes to send now, each with its token."""
        if self._deadline > now:
            return []
        self._decide(now)
        while self._probes and (first := next(iter(self._probes.items())))[1][1] < now - ANSWER_S:
            del self._probes[first[0]]
        taken: list[tuple[Target, int]] = []
        for way in sorted(self._asked, key=lambda way: way.probed_at):  # so that new places take turns
            if self._probe_at(way) > now:
                continue
            way.probed_at = now
            if way.asked_at is None:
                way.asked_at = now
            if not way.is_trusted:
                self._new_place_at = now + NEW_PLACE_INTERVAL_S
            self._probes[self._token] = (way, now)
            taken.append((way.target, self._token))
            self._token += 1
        self._decide(now)
        return taken

    # Decisions

    def _decide(self, now: float) -> None:
        """Bring all that is shown up to ``now``."""
        asking = now < self._asking_until
        stalled = self._deadline + STALL_S < now
        for way in (*self._udp, self._push):
            if not stalled:
                self._fade(way, now)
            if stalled or not asking:
                way.rest()
        self._review(now)
        changes_at = min(self._consider_push(now), self._consider_call(now))
        self._asked = self._worth_asking() if asking else []
        for way in (*self._udp, self._push):
            if way not in self._asked:
                way.rest()
        self._show()
        self._deadline = changes_at
        if asking:
            times = (time for way in self._asked for time in (self._probe_at(way), way.fades_at))
            self._deadline = max(now, min(self._deadline, self._asking_until, *times))

    def _fade(self, way: _Way, now: float) -> None:
        way.fade(min(now, self._asking_until))  # who looks later finds it as it was when asking ended

    def _review(self, now: float) -> None:
        """See whether the place that serves still does. Another serves only once it has proven itself."""
        if self._serving is not None and self._serving.standing not in _SERVING:
            self._serving = None
        if self._serving is None or self._serving.standing is Standing.DOUBTFUL:
            self._sure_since = None
        elif self._sure_since is None:
            self._sure_since = now

    def _show(self) -> None:
        push: tuple[Target, ...] = (PUSH,)
        if not self.wants_push or self._push.standing is Standing.GIVEN_UP:
            push = ()
        if self._serving is not None:
            self.path = DatagramPath.UDP
            self._targets = (self._serving.target,) + (push if self._sure_since is None else ())
        elif self._push.standing in _SERVING:
            self.path = DatagramPath.PUSH
            self._targets = push
        else:
            self.path = DatagramPath.NONE
            places = [way.target for way in self._udp if way.is_trusted and way.is_hopeful]
            self._targets = (*places[:SPREAD_MAX], *push)

    def _may_serve(self, way: _Way) -> bool:
        """Whether a place just proven replaces the one that serves: if in doubt, or if the peer has moved.

        It has when its newest packet came from a host and port that it never told. Of those it told, it may
        use any, and so do we: two peers with two interfaces each would never cease to follow each other.
        """
        serving = self._serving
        if serving is None or serving.standing is not Standing.GOOD:
            return True
        told = {str(other.target) for other in self._udp if other.told or other is serving}
        return way.target == self._heard and str(way.target) not in told

    def _consider_push(self, now: float) -> float:
        """Decide whether there should be a PUSH connection; return when that may change."""
        changes_at = self._push_ends_at() if self.wants_push else self._push_begins_at(now)
        if changes_at > now:
            return changes_at
        self.wants_push = not self.wants_push
        if not self.wants_push:
            self._push = _Way(PUSH, told=True)
            self._forget_probes()
        return math.inf if not self.wants_push else self._push_ends_at()

    def _push_ends_at(self) -> float:
        if not self._has_pull:
            return -math.inf
        return math.inf if self._sure_since is None else self._sure_since + PUSH_SPARE_S

    def _push_begins_at(self, now: float) -> float:
        if not self._has_pull or now >= self._demand_until or self._sure_since is not None:
            return math.inf
        hopeful = [way for way in self._udp if way.told and way.is_hopeful]
        if self._serving is not None or not hopeful:
            return now
        return min(now if way.asked_at is None else way.asked_at for way in hopeful) + PUSH_AFTER_S

    def _consider_call(self, now: float) -> float:
        """Decide whether the peer should probe us, as ours do not reach it; return when that may change."""
        asked = [way.asked_at for way in self._udp if way.asked_at is not None]
        if not asked or now >= self._demand_until or self._sure_since is not None:
            return math.inf
        due = max(min(asked) + DOUBT_S, self._called_at + CALL_INTERVAL_S)
        if due > now:
            return due
        self.wants_call = True
        self._called_at = now
        return now + CALL_INTERVAL_S

    def _worth_asking(self) -> list[_Way]:
        """While UDP serves without a doubt, ask only there, and where the peer has moved to."""
        if self._sure_since is not None:
            return [way for way in self._udp if way is self._serving or self._may_be_news(way)]
        return [*self._udp, self._push] if self.wants_push else list(self._udp)

    def _may_be_news(self, way: _Way) -> bool:
        return way.target == self._heard and (way.standing is not Standing.GOOD or self._may_serve(way))

    def _probe_at(self, way: _Way) -> float:
        return way.probe_at if way.is_trusted else max(way.probe_at, self._new_place_at)

    # Housekeeping

    def _is_in_use(self, way: _Way) -> bool:
        return way is self._serving or way.target == self._heard

    def _forget_some(self) -> None:
        """Forget the oldest places that were only heard from, those that proved nothing first."""
        heard = [way for way in self._udp if not way.told]
        spare = sorted((way for way in heard if not self._is_in_use(way)), key=lambda way: way.is_trusted)
        for way in spare[: max(0, len(heard) - HEARD_MAX)]:
            self._udp.remove(way)
        self._forget_probes()

    def _forget_probes(self) -> None:
        """Forget the probes to what was forgotten."""
        kept = (*self._udp, self._push)
        self._probes = {token: probe for token, probe in self._probes.items() if probe[0] in kept}
