"""A world drawn from a seed: nodes whose applications do what comes into their heads, while all else fails.

Then the faults cease, and everything has to come to its end. One number repeats it to the byte::

    Scenario(4711).run()

``python -m brokerless.testing 4711`` shows it line by line.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from brokerless.config import Limits
from brokerless.protocol import wire
from brokerless.protocol.actions import Superseded
from brokerless.protocol.handshake import MAGIC
from brokerless.testing.sim_application import Application, Side, Single
from brokerless.testing.sim_faults import Faults
from brokerless.testing.sim_invariants import check_node, check_rest
from brokerless.testing.sim_link import LINK_BYTES_MAX, Conditions
from brokerless.testing.simulation import SimNetwork

if TYPE_CHECKING:
    from brokerless.testing.sim_node import SimNode

SMALL = Limits(
    stream_window_initial_bytes=4 * 1024,
    stream_window_bytes=32 * 1024,
    send_queue_bytes_max=32 * 1024,
    unacknowledged_bytes_max=64 * 1024,
    unreliable_queue_bytes_max=16 * 1024,
    message_bytes_max=100 * 1024,
    peer_memory_bytes_max=256 * 1024,
    memory_bytes_max=512 * 1024,
)
"""Small enough that a few messages meet every limit."""

TINY = dataclasses.replace(
    SMALL,
    stream_window_initial_bytes=1024,
    message_bytes_max=20 * 1024,
    datagram_message_bytes_max=2 * 1024,
    peer_memory_bytes_max=64 * 1024,
    memory_bytes_max=96 * 1024,
    offers_max=2,
    streams_max=6,
)
"""Smaller still: streams wait for each other, too."""

SIZES = (20, 200, 3_000, 30_000, 70_000)
"""Of messages, about: those that share a packet, fill a window, need chunks, and are above it."""

GOODBYE = b"\x13"
"""Type of the first frame of a packet with a last word."""

CONVERGED_S = 10.0
"""On top of 2 T, until all see all once nothing is in the way: the longest wait between dials, and a dial."""

HEARSAY_S = 60.0
"""The same where some know others by hearsay only: a teller whose peers were not met is tried seldom."""

ENDED_S = 120.0
"""Until everything that was begun has ended, once all see all and everybody reads on."""


class ScenarioFailed(AssertionError):
    """A promise was broken. Says by which seed, and how to see it again."""


class Scenario:
    """One world: its nodes, what their applications do, and everything that goes wrong between them.

    Applications and faults look up here whom and what there is.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.network = SimNetwork(seed)
        self.began_at = self.network.now
        self.random = self.network.random
        self.choice = self.random.choice
        self.network.tap = self._overhear
        self.network.after_turn = self._look
        self.streams: dict[str, list[Side]] = {}
        self.singles: dict[bytes, Single] = {}
        self.applications: list[Application] = []
        """Of all processes that there ever were."""
        self.running: dict[SimNode, Application] = {}
        self.conditions: dict[tuple[SimNode, SimNode], Conditions] = {}
        """What each direction is like when nothing is wrong with it."""
        self.liveness_s = self.choice([5.0, 5.0, 5.0, 2.5, 1.0])
        self._draw_nodes()
        self._draw_roads()
        self._draw_habits()
        for node in self.nodes:
            self.start(node)
        self.introduce()

    # What is drawn

    def _draw_nodes(self) -> None:
        (count,) = self.random.choices([2, 3, 4, 6, 10, 20, 30], [500, 250, 150, 80, 17, 2, 1])
        kinds = self.choice([(Limits(),), (SMALL,), (SMALL,), (TINY,), (Limits(), SMALL, TINY)])
        self.gossips = count > 2 and self.random.random() < 0.3
        asks = self.choice([False, False, True])
        self.nodes: list[SimNode] = []
        for _ in range(count):
            limits = dataclasses.replace(
                self.choice(kinds), liveness_s=self.choice([self.liveness_s] * 3 + [5.0])
            )
            self.nodes.append(
                self.network.add(limits, has_datagrams=True, asks_admission=asks, gossips=self.gossips)
            )
        self.is_one_sided = self.choice([False, False, True])  # only one side can reach the other

    def _draw_roads(self) -> None:
        """Draw what links and datagrams meet with, never so slow that a liveness limit could not be held."""
        is_fast = self.liveness_s < 5.0
        self.network.latency_s = self.choice([0.0001, 0.001, 0.03])
        self.network.bytes_per_s = self.choice([None, None, 1e6 if is_fast else 3e5])
        self.slow = [
            Conditions(latency_s=0.05 if is_fast else 0.3),
            Conditions(bytes_per_s=1e6 if is_fast else 2e5),
            Conditions(latency_s=0.02, loss=0.02 if is_fast else 0.1),
        ]
        normal = Conditions(latency_s=self.network.latency_s, bytes_per_s=self.network.bytes_per_s)
        share = self.choice([0.0, 0.0, 0.3])
        self.is_swift = share == 0.0 and not is_fast
        for one in self.nodes:
            for other in self.nodes:
                if one is not other:
                    drawn = self.choice(self.slow[:2]) if self.random.random() < share else normal
                    self.conditions[one, other] = drawn
                    self.network.impose(one, other, drawn)
        self.weather = self.choice([(0.0, 0.0, 0.0), (0.2, 0.1, 0.3)])
        self.set_weather(*self.weather)
        # What its sender gave up may lie in a link, or wait for TCP to send it again, this long.
        self.under_way_s = 1.0 + LINK_BYTES_MAX / 2e5 + (0.0 if is_fast else 6.2)

    def _draw_habits(self) -> None:
        """Draw what applications like to do, and what goes wrong: not everything in every scenario."""
        self.seconds = self.choice([2.0, 4.0, 4.0, 8.0])
        self.pace_s = self.choice([0.02, 0.05, 0.05, 0.2])
        names = ("_send", "_transmit", "_open", "_write", "_end_one", "_accept", "_consume")
        usual = (15, 8, 8, 40, 4, 10, 15)
        self.habits = {
            name: weight * self.choice([0.3, 1.0, 1.0, 3.0])
            for name, weight in zip(names, usual, strict=True)
        }
        self.size_max = self.choice([200, 30_000, 70_000])
        fault_s = self.choice([None, 2.0, 0.7, 0.3])
        self.fault_share = 0.0 if fault_s is None else self.pace_s / fault_s
        self.is_swift &= fault_s is None or fault_s > 0.5
        kinds = self.choice([Faults.KINDS, Faults.KINDS, Faults.HARMLESS])
        kinds = tuple(kind for kind in kinds if self.random.random() < 0.7)
        self.faults = Faults(self, kinds if self.fault_share else ())

    # Whom and what there is

    @property
    def now(self) -> float:
        """The virtual time."""
        return self.network.now

    @property
    def somebody_left(self) -> bool:
        """Whether any process was told to close its node, which then turns offers down by itself."""
        return any(application.is_leaving for application in self.applications)

    def other(self, side: Side) -> Side:
        """Return the other side of a stream."""
        one, other = self.streams[side.stream.name]
        return other if side is one else one

    def set_weather(self, loss: float, duplication: float, reordering: float) -> None:
        """Say what becomes of datagrams everywhere."""
        weather = self.network.datagrams.weather
        weather.loss, weather.duplication, weather.reordering = loss, duplication, reordering

    def start(self, node: SimNode) -> None:
        """Give a fresh process of the node its application."""
        application = Application(self, node, f"process {len(self.applications)}")
        self.applications.append(application)
        self.running[node] = application

    def introduce(self) -> None:
        """Tell who has to know it where the others are; who gossips hears of most of them from one."""
        for place, node in enumerate(self.nodes):
            others = (
                self.nodes[:1] if self.gossips else self.nodes[:place] if self.is_one_sided else self.nodes
            )
            for other in others:
                if node is not other:
                    node.learn(other)

    # The run

    def run(self) -> None:
        """Let it all happen. Raises ``ScenarioFailed``, with whatever was wrong as its cause."""
        try:
            self._turmoil()
            self._converge()
            self._end()
            self._part_in_peace()
        except Exception as error:
            where = f"seed {self.seed}, at {self.now:.4f} s of its time: {type(error).__name__}: {error}"
            again = f"python -m brokerless.testing {self.seed}"
            raise ScenarioFailed(f"{where}\nto see it again: {again}") from error

    def _turmoil(self) -> None:
        self.faults.begin()
        end = self.now + self.seconds
        names, weights = list(self.habits), list(self.habits.values())
        while self.now < end:
            if self.random.random() < self.fault_share:
                self.faults.happen()
            node = self.choice(self.nodes)
            application = self.running[node]
            if node.is_running and node.paused_since is None and not application.is_leaving:
                (habit,) = self.random.choices(names, weights)
                getattr(self, habit)(application)
            self.network.run(self.random.expovariate(1 / self.pace_s))

    def _send(self, application: Application) -> None:
        to = self._somebody_but(application)
        for _ in range(self.random.randint(1, 10)):
            application.send(to, self._size())

    def _transmit(self, application: Application) -> None:
        to = self._somebody_but(application)
        for _ in range(self.random.randint(1, 10)):
            application.transmit(to, self._size())

    def _open(self, application: Application) -> None:
        to = self._somebody_but(application)
        for _ in range(self.choice([1, 1, 1, 4])):
            application.open(to)

    def _write(self, application: Application) -> None:
        if (side := self._some_side(application)) is not None:
            for _ in range(self.random.randint(1, 20)):
                application.write(side, self._size())

    def _end_one(self, application: Application) -> None:
        if (side := self._some_side(application)) is not None:
            application.end(side)

    def _accept(self, application: Application) -> None:
        if (side := self._some_side(application)) is not None:
            application.accept(side)

    def _consume(self, application: Application) -> None:
        application.consume()

    def _some_side(self, application: Application) -> Side | None:
        sides = [side for side in application.sides.values() if not side.ends]
        return self.choice(sides) if sides else None

    def _somebody_but(self, application: Application) -> SimNode:
        return self.choice([node for node in self.nodes if node is not application.node])

    def _size(self) -> int:
        return min(int(self.choice(SIZES) * (0.2 + self.random.random())), self.size_max)

    # What is looked at all the time

    def _look(self, node: SimNode) -> None:
        self.running[node].turn_done()
        check_node(node)

    def _overhear(self, sender: SimNode, receiver: SimNode, message: bytes) -> None:
        if message[:1] != MAGIC[:1] and message[16:17] == GOODBYE:
            (goodbye,) = wire.decode_packet(message).frames
            assert isinstance(goodbye, wire.Goodbye)
            assert goodbye.code != wire.Farewell.FAULT, f"nobody here breaks the rules: {goodbye.reason}"

    # The end

    def _converge(self) -> None:
        """Nothing goes wrong any more: all see all, and agree on their conversations, within a known time."""
        while self.now < self.faults.over_at:
            self.network.run(self.faults.over_at - self.now)
        limit_s = 2 * 5.0 + CONVERGED_S + (HEARSAY_S if self.gossips else 0.0)
        end = self.now + limit_s
        while not self._has_converged():
            assert self.now < end, f"not all see all after {limit_s} s without a fault"
            self.network.run(0.5)
        if self.is_swift and set(self.faults.kinds) <= set(Faults.HARMLESS):
            assert not any(application.losses for application in self.applications), "a peer was lost"
        assert not any(isinstance(action, Superseded) for node in self.nodes for action in node.actions)

    def _has_converged(self) -> bool:
        for node in self.nodes:
            if len(self.running[node].present) < len(self.nodes) - 1:
                return False
        return all(self._agree(one, other) for one in self.nodes for other in self.nodes if one is not other)

    def _agree(self, one: SimNode, other: SimNode) -> bool:
        """Whether both mean the same session, have a link in it, and know each other by the right name."""
        ours, theirs = one.core.session(other.address), other.core.session(one.address)
        peer = one.core.peer(other.address)
        if ours is None or theirs is None or peer is None or peer.name != other.core.name:
            return False
        return (ours.nonce, ours.their_nonce) == (theirs.their_nonce, theirs.nonce) and bool(ours.links)

    def _end(self) -> None:
        """Everybody reads on and finishes: every stream ends, every send completes, nothing is left over."""
        for application in self.running.values():
            application.diligence = 1.0
        end = self.now + ENDED_S
        while pending := self._pending():
            assert self.now < end, f"not ended after {ENDED_S} s without a fault: {', '.join(pending)}"
            for application in self.running.values():
                self._finish(application)
            self.network.run(0.2)
        for application in self.running.values():
            application.consume()  # what came last
        self.network.run(2.0)  # its credit is returned, and fragments are given up
        for node in self.nodes:
            check_rest(node)

    def _finish(self, application: Application) -> None:
        for side in application.sides.values():
            if not side.ends:
                application.accept(side)
                if side.may_write and (side.is_given_up or not side.wants_ready):  # else it is told first
                    side.sends_no_more = True
                    side.stream.finish()
        application.consume()

    def _pending(self) -> list[str]:
        """Name what was begun and has not ended."""
        pending: list[str] = []
        for node, application in self.running.items():
            sides, singles = application.sides.values(), application.singles.items()
            pending += [f"stream {side.stream.id} at {node.label}" for side in sides if not side.ends]
            pending += [
                f"send {number} of {node.label}" for number, single in singles if not (single and single.ends)
            ]
            if not node.core.is_drained:
                pending.append(f"what {node.label} sends")
        return pending

    def _part_in_peace(self) -> None:
        """All leave: nobody, no link and no memory stays."""
        for node in self.nodes:
            node.core.farewell(self.now)
        self.network.run(1.0)
        assert not self.network.links
        for node in self.nodes:
            assert not self.running[node].present
            assert node.core.stats().links == 0
            assert node.core._plane.readers == {}
            assert not node.pushes
            check_rest(node)
            assert node.core._budget.reserved == 0, "memory was not given back"
