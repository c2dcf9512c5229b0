"""Whose session is it: the whole matrix of verdicts, and every order in which two sides may hear of them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from brokerless.protocol.association import VERDICTS, Nonce, Verdict, is_spared, judge

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = Nonce(boot=7, epoch=3)
KNOWN = Nonce(boot=100, epoch=5)

# What the peer may call itself, against KNOWN, and the word for it in the documentation of the matrix.
THEIRS = {
    "SAME": [KNOWN],
    "OLDER": [Nonce(100, 4), Nonce(100, 0)],
    "OTHER": [Nonce(100, 6), Nonce(100, 5000), Nonce(99, 5), Nonce(101, 5), Nonce(101, 4), Nonce(101, 6)],
}
OURS_AS_KNOWN = {
    "UNKNOWN": [None],
    "SAME": [OURS],
    "OTHER": [Nonce(7, 2), Nonce(7, 4), Nonce(8, 3), Nonce(6, 3)],
}
EXPECTED = {
    ("UNKNOWN", "UNKNOWN"): Verdict.AGREED,
    ("UNKNOWN", "SAME"): Verdict.AGREED,
    ("UNKNOWN", "OTHER"): Verdict.AWAIT,
    ("SAME", "UNKNOWN"): Verdict.AGREED,
    ("SAME", "SAME"): Verdict.AGREED,
    ("SAME", "OTHER"): Verdict.AWAIT,
    ("OLDER", "UNKNOWN"): Verdict.STALE,
    ("OLDER", "SAME"): Verdict.STALE,
    ("OLDER", "OTHER"): Verdict.STALE,
    ("OTHER", "UNKNOWN"): Verdict.RENEWED,
    ("OTHER", "SAME"): Verdict.RENEWED,
    ("OTHER", "OTHER"): Verdict.RENEWED,
}


@pytest.mark.parametrize(("about_theirs", "about_ours"), EXPECTED)
def test_the_whole_matrix(about_theirs: str, about_ours: str) -> None:
    known = None if about_theirs == "UNKNOWN" else KNOWN
    everybody = [nonce for nonces in THEIRS.values() for nonce in nonces]
    for theirs in everybody if known is None else THEIRS[about_theirs]:
        for ours_as_known in OURS_AS_KNOWN[about_ours]:
            verdict = judge(OURS, known, theirs, ours_as_known)
            assert verdict is EXPECTED[about_theirs, about_ours], (theirs, ours_as_known)


def test_the_matrix_has_no_gap() -> None:
    assert len(VERDICTS) == len(EXPECTED) == 4 * 3
    assert set(VERDICTS.values()) == set(Verdict)


def test_after_renewing_the_second_judgement_is_agreement_or_patience() -> None:
    fresh = Nonce(OURS.boot, OURS.epoch + 1)
    for theirs, ours_as_known in itertools.product(THEIRS["OTHER"], [None, OURS, Nonce(8, 3)]):
        assert judge(OURS, KNOWN, theirs, ours_as_known) is Verdict.RENEWED
        assert judge(fresh, None, theirs, ours_as_known) in (Verdict.AGREED, Verdict.AWAIT)


# Two sides and a few links, every interleaving. Each link keeps order, and may be cut with what is under way.

CUT = "cut"
EPOCH_MAX = 30
"""Far more sessions than there is reason to begin: beyond it the two would go round for ever."""


class Info(NamedTuple):
    mine: Nonce
    yours: Nonce | None


class Packet(NamedTuple):
    """Something of a session, sent when its link was ready."""

    mine: Nonce
    yours: Nonce


class Side(NamedTuple):
    ours: Nonce
    known: Nonce | None


class Link(NamedTuple):
    """``phases``: "info", "ready" or "gone" at each side; ``queues``: what is under way to each side;
    ``told``: the other's nonce in the last INFO of each side."""

    phases: tuple[str, str] = ("info", "info")
    queues: tuple[tuple[object, ...], tuple[object, ...]] = ((), ())
    told: tuple[Nonce | None, Nonce | None] = (None, None)

    def with_phase(self, side: int, phase: str) -> Link:
        return self._replace(phases=_put(self.phases, side, phase))

    def with_queue(self, side: int, queue: tuple[object, ...]) -> Link:
        return self._replace(queues=_put(self.queues, side, queue))

    def sent(self, sender: int, message: object) -> Link:
        if self.phases[1 - sender] == "gone":
            return self
        return self.with_queue(1 - sender, (*self.queues[1 - sender], message))


class World(NamedTuple):
    sides: tuple[Side, Side]
    links: tuple[Link, ...] = ()
    disturbances_left: int = 0
    links_left: int = 0
    is_rescued: bool = False

    def with_side(self, side: int, value: Side) -> World:
        return self._replace(sides=_put(self.sides, side, value))

    def with_link(self, number: int, link: Link) -> World:
        return self._replace(links=_put(self.links, number, link))


def _put(values: tuple[Any, ...], index: int, value: object) -> Any:
    return (*values[:index], value, *values[index + 1 :])


def cut(world: World, number: int, by: int) -> World:
    """One side closes a link: it hears no more of it, the other after what is under way."""
    link = world.links[number]
    if link.phases[by] == "gone":
        return world
    return world.with_link(number, link.with_phase(by, "gone").with_queue(by, ()).sent(by, CUT))


def end(world: World, side: int, spared: int | None = None, restart: bool = False) -> World:
    """End the session: cut its links, draw a new nonce."""
    for number in range(len(world.links)):
        if number != spared:
            world = cut(world, number, side)
    ours = world.sides[side].ours
    assert ours.epoch < EPOCH_MAX, "they go round"
    fresh = Nonce(ours.boot + 10, 1) if restart else Nonce(ours.boot, ours.epoch + 1)
    return world.with_side(side, Side(fresh, None))


def announce(world: World, number: int, side: int) -> World:
    link = world.links[number].sent(side, Info(*world.sides[side]))
    return world.with_link(number, link._replace(told=_put(link.told, side, world.sides[side].known)))


def open_link(world: World) -> World:
    world = world._replace(links=(*world.links, Link()))
    for side in (0, 1):
        world = announce(world, len(world.links) - 1, side)
    return world


def hear(world: World, number: int, side: int, info: Info) -> World:
    """What the documentation of the verdicts says to do on an INFO."""
    verdict = judge(*world.sides[side], info.mine, info.yours)
    if verdict is Verdict.RENEWED:
        spared = is_spared(world.links[number].told[side])
        world = end(world, side, spared=number if spared else None)
        if not spared:
            return world
        world = world.with_link(number, world.links[number].with_phase(side, "info"))
        world = announce(world, number, side)
        verdict = judge(*world.sides[side], info.mine, info.yours)
        assert verdict in (Verdict.AGREED, Verdict.AWAIT)
    if verdict is Verdict.STALE:
        return cut(world, number, side)
    if verdict is Verdict.AGREED:
        ours = world.sides[side].ours
        world = world.with_side(side, Side(ours, info.mine))
        link = world.links[number]
        if link.phases[side] == "info":
            world = world.with_link(
                number, link.with_phase(side, "ready").sent(side, Packet(ours, info.mine))
            )
    return world


def deliver(world: World, number: int, side: int) -> World:
    link = world.links[number]
    message, *rest = link.queues[side]
    world = world.with_link(number, link.with_queue(side, tuple(rest)))
    if message == CUT:
        return world.with_link(number, Link(("gone", "gone")))
    if isinstance(message, Info):
        return hear(world, number, side, message)
    assert isinstance(message, Packet)
    if link.phases[side] == "ready":  # otherwise it is of a session that ended while this was under way
        ours, known = world.sides[side]
        assert (message.mine, message.yours) == (known, ours), "a packet was taken for one of another session"
    return world


def steps(world: World) -> Iterator[World]:
    """Yield all that can happen next."""
    for number, link in enumerate(world.links):
        for side in (0, 1):
            queue = link.queues[side]
            if queue:
                yield deliver(world, number, side)
            if CUT in queue[1:]:  # a reset connection loses what was under way
                yield world.with_link(number, Link(("gone", "gone")))
    if world.links_left:
        yield open_link(world._replace(links_left=world.links_left - 1))
    if world.disturbances_left:
        disturbed = world._replace(disturbances_left=world.disturbances_left - 1)
        for side in (0, 1):
            yield end(disturbed, side)
            yield end(disturbed, side, restart=True)
        for number, link in enumerate(world.links):
            yield cut(disturbed, number, 0)
            for side in (0, 1):
                if link.phases[side] == "ready":  # its name changed
                    yield announce(disturbed, number, side)


def is_quiet(world: World) -> bool:
    return not any(queue for link in world.links for queue in link.queues)


def assert_agreed(world: World) -> bool:
    """Nothing is under way: each link left must be ready and of one session. Return whether one is left."""
    live = [link for link in world.links if link.phases != ("gone", "gone")]
    for link in live:
        assert link.phases == ("ready", "ready"), world
        one, other = world.sides
        assert (one.known, other.known) == (other.ours, one.ours), world
    return bool(live)


@pytest.mark.parametrize(("links", "disturbances"), [(1, 2), (2, 1), (2, 2), (3, 1)])
def test_two_sides_agree_whatever_the_order(links: int, disturbances: int) -> None:
    start = World((Side(Nonce(1, 1), None), Side(Nonce(2, 1), None)), (), disturbances, links)
    seen, pending = {start}, [start]
    quiet = agreed = 0
    while pending:
        world = pending.pop()
        following = list(steps(world))
        if is_quiet(world):
            quiet += 1
            if assert_agreed(world):
                agreed += 1
            elif not following:
                assert not world.is_rescued, f"a link more, and still no session: {world}"
                following = [open_link(world._replace(is_rescued=True))]
        for each in following:
            if each not in seen:
                seen.add(each)
                pending.append(each)
    assert quiet > agreed > 20  # it did see both
