"""Nodes whose applications do what comes into their heads, while links, networks and processes fail.

Everything is drawn from one seed. Each ``Application`` is one incarnation of a node's application: it checks
what it hears against what the others did, as it comes and at the end.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from brokerless.config import Limits
from brokerless.errors import NoPath, PeerError, PeerLost, SendQueueFull
from brokerless.model import (
    Event,
    LossReason,
    MessageReceived,
    PeerJoined,
    PeerLeft,
    Reliability,
    SendDone,
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamMessages,
    StreamOffered,
    StreamOpened,
    UnreliableWaiting,
)
from brokerless.protocol import wire
from brokerless.protocol.actions import Superseded
from brokerless.protocol.handshake import MAGIC
from brokerless.testing.simulation import SimNetwork, SimNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.address import Address
    from brokerless.errors import BusError
    from brokerless.protocol.stream import Stream

SMALL = Limits(
    stream_window_initial_bytes=4 * 1024,
    stream_window_bytes=32 * 1024,
    send_queue_bytes_max=32 * 1024,
    unacknowledged_bytes_max=64 * 1024,
    message_bytes_max=100 * 1024,
    peer_memory_bytes_max=256 * 1024,
    memory_bytes_max=512 * 1024,
)
"""Small enough that a few messages meet every limit."""

GOODBYE = b"\x13"
"""Type of the first frame of a packet with a last word."""

UNDER_WAY_S = 0.5
"""What was sent before its sender gave the receiver up may still arrive, but not later than this."""

SETTLE_S = 30.0
"""After the last fault: 2 T, the longest wait between dials, and the longest timeout of a send."""


@dataclass
class Side:
    """One side of a stream: what its application did and heard."""

    stream: Stream
    is_opener: bool
    sent: list[bytes] = field(default_factory=list)
    received: int = 0
    consumed: int = 0
    acknowledged: int = 0
    is_open: bool = False
    is_given_up: bool = False  # closed or aborted here
    has_finished: bool = False  # heard of it
    ends: list[BusError | None] = field(default_factory=list)
    ended_at: float = 0.0


@dataclass
class Single:
    """A single message that was sent, and how that ended."""

    data: bytes
    sent_at: float
    ends: list[BusError | None] = field(default_factory=list)


class Application:
    """What one process of a node does and hears."""

    def __init__(self, turmoil: Turmoil, node: SimNode, name: str) -> None:
        self.turmoil = turmoil
        self.node = node
        self.core = node.core
        self.name = name
        self.is_eager = False
        self.present: set[Address] = set()
        self.sides: dict[str, Side] = {}
        self.singles: dict[int, Single] = {}
        self.heard: dict[str, int] = {}  # the last single message of each sending process
        self.transmitted = 0
        self.unreliable: set[bytes] = set()  # what came
        self.newest: dict[str, int] = {}  # of sequenced messages, by sending process
        self.unconsumed: list[MessageReceived] = []
        self.losses: list[LossReason] = []
        self.lost_at: dict[Address, float] = {}
        self._count = 0
        node.accepts = node.consumes = False
        node.admit = lambda peer: None
        node.on_event = self.hear

    # What it does

    def send(self, to: SimNode, size: int) -> None:
        self._count += 1
        data = f"{self.name} {self._count} ".encode().ljust(size, b".")
        timeout = self.turmoil.choice([None, 0.5, 10.0])
        try:
            send_id = self.node.send(data, to, timeout=timeout, channel=size % 3)
        except (PeerError, SendQueueFull):
            return
        self.singles[send_id] = Single(data, self.turmoil.now)

    def transmit(self, to: SimNode, size: int) -> None:
        self.transmitted += 1
        data = f"{self.name} {self.transmitted} ".encode().ljust(size, b".")
        kind = self.turmoil.choice([Reliability.UNRELIABLE, Reliability.SEQUENCED])
        with contextlib.suppress(PeerError, NoPath, SendQueueFull):
            self.core.transmit(data, to.address, kind, 0, self.turmoil.now)

    def open(self, to: SimNode) -> None:
        self._count += 1
        name = f"{self.name} {self._count}"
        try:
            stream = self.node.open_stream(to, name, timeout=self.turmoil.choice([None, 1.0, 10.0]))
        except PeerError:
            return
        self.sides[name] = Side(stream, is_opener=True)

    def write(self, side: Side, size: int) -> None:
        if side.is_open or side.is_opener:
            data = f"{side.stream.name} {side.is_opener} {len(side.sent)} ".encode().ljust(size, b".")
            if side.stream.send_error is None and side.stream.room >= len(data):
                assert side.stream.send(data) == len(side.sent) + 1
                side.sent.append(data)

    def end(self, side: Side) -> None:
        if not (side.is_open or side.is_opener):
            side.stream.reject(7, "not today")
            return
        what = self.turmoil.choice(["finish", "finish", "close", "close in time", "abort"])
        if what == "finish":
            side.stream.finish()
            return
        side.is_given_up = True
        if what == "abort":
            side.stream.abort(3, "enough")
        else:
            side.stream.close(None if what == "close" else self.turmoil.now + 1.0)

    def consume(self) -> None:
        for side in self.sides.values():
            there = side.received - side.consumed
            count = there if self.is_eager else self.turmoil.random.randint(0, there)
            if count and not side.ends and not side.is_given_up:
                side.consumed += count
                side.stream.consume(count)
        while self.unconsumed and (self.is_eager or self.turmoil.random.random() < 0.8):
            message = self.unconsumed.pop(0).message
            message.origin.consume(1, len(message.data))

    def accept(self, side: Side) -> None:
        if not side.is_opener and not side.is_open and not side.ends:
            self.core.accept(side.stream, b"")

    # What it hears

    def hear(self, event: Event) -> None:
        self._HANDLERS[type(event)](self, event) if type(event) in self._HANDLERS else None

    def _joined(self, event: PeerJoined) -> None:
        assert event.peer.address not in self.present, "joined twice"
        self.present.add(event.peer.address)

    def _left(self, event: PeerLeft) -> None:
        self.present.remove(event.peer.address)
        self.losses.append(event.reason)
        self.lost_at[event.peer.address] = self.turmoil.now
        for side in self.sides.values():
            assert side.ends or side.stream.peer != event.peer.address, "a stream outlived its peer"

    def _message(self, event: MessageReceived) -> None:
        message = event.message
        assert message.sender in self.present, "before its sender joined"
        name, _, number = message.data.decode().rstrip(".").rstrip().rpartition(" ")
        assert int(number) > self.heard.get(name, 0), "out of order, or twice"
        self.heard[name] = int(number)
        self._check_fresh(message.data, name)
        self.turmoil.delivered.setdefault(message.data, []).append(self)
        self.unconsumed.append(event)

    def _check_fresh(self, data: bytes, name: str) -> None:
        """Nothing is delivered of a conversation that its sender has given up."""
        sender = self.turmoil.application(name)
        lost_at = sender.lost_at.get(self.node.address, 0.0)
        (sent_at,) = (single.sent_at for single in sender.singles.values() if single.data == data)
        assert sent_at > lost_at or self.turmoil.now - lost_at <= UNDER_WAY_S, "stale"

    def _unreliable(self, event: UnreliableWaiting) -> None:
        while (message := event.unread.take()) is not None:
            assert message.data not in self.unreliable, "delivered twice"
            self.unreliable.add(message.data)
            name, _, number = message.data.decode().rstrip(".").rstrip().rpartition(" ")
            if message.reliability is Reliability.SEQUENCED:
                assert int(number) > self.newest.get(name, 0), "went backwards"
                self.newest[name] = int(number)

    def _done(self, event: SendDone) -> None:
        self.singles[event.send_id].ends.append(event.error)

    def _offered(self, event: StreamOffered) -> None:
        stream = event.offer.stream
        assert stream.peer in self.present, "before its peer joined"
        assert stream.name not in self.sides, "offered twice"
        self.sides[stream.name] = Side(stream, is_opener=False)
        if self.turmoil.random.random() < 0.6:
            self.core.accept(stream, b"")

    def _opened(self, event: StreamOpened) -> None:
        side = self.sides[event.stream.name]
        assert not side.is_open
        side.is_open = True

    def _messages(self, event: StreamMessages) -> None:
        side = self.sides[event.stream.name]
        assert side.is_open
        assert not side.ends
        assert not side.has_finished
        assert event.first_sequence == side.received + 1, "a gap, or twice"
        other = self.turmoil.other(self, side)
        if other.ends and isinstance(other.ends[0], PeerLost):
            assert self.turmoil.now - other.ended_at <= UNDER_WAY_S, "stale"
        sent = other.sent
        side.received += len(event.messages)
        assert sent[event.first_sequence - 1 : side.received] == event.messages

    def _acknowledged(self, event: StreamAcknowledged) -> None:
        side = self.sides[event.stream.name]
        assert side.is_open
        assert side.acknowledged < event.sequence <= len(side.sent)
        side.acknowledged = event.sequence

    def _finished(self, event: StreamFinishedReceiving) -> None:
        side = self.sides[event.stream.name]
        assert not side.ends
        assert not side.has_finished
        side.has_finished = True
        assert side.received == len(self.turmoil.other(self, side).sent), "an end that was none"

    def _ended(self, event: StreamEnded) -> None:
        side = self.sides[event.stream.name]
        side.ends.append(event.error)
        side.ended_at = self.turmoil.now
        if event.error is None:
            consumed = self.turmoil.other(self, side).consumed
            assert consumed == len(side.sent), "a clean end that was not one"

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        PeerJoined: _joined,
        PeerLeft: _left,
        MessageReceived: _message,
        SendDone: _done,
        StreamOffered: _offered,
        StreamOpened: _opened,
        StreamMessages: _messages,
        StreamAcknowledged: _acknowledged,
        StreamFinishedReceiving: _finished,
        StreamEnded: _ended,
        UnreliableWaiting: _unreliable,
    }


class Turmoil:
    """A few nodes, their applications, and everything that goes wrong between them."""

    def __init__(self, seed: int, nodes: int, limits: Limits, faults: tuple[str, ...]) -> None:
        self.network = SimNetwork(seed)
        self.random = self.network.random
        self.choice = self.random.choice
        self.network.tap = self._overhear
        self.network.latency_s = self.choice([0.0001, 0.001, 0.03])
        self.network.bytes_per_s = self.choice([None, 1e6])
        self.is_one_sided = self.choice([False, False, True])  # only one side can reach the other
        asks = self.choice([False, False, True])
        self.faults = faults
        self.delivered: dict[bytes, list[Application]] = {}
        self.applications: list[Application] = []  # of all processes that there ever were
        weather = self.network.datagrams.weather
        weather.loss, weather.duplication, weather.reordering = self.choice([(0, 0, 0), (0.2, 0.1, 0.3)])
        self.nodes = [self.network.add(limits, has_datagrams=True, asks_admission=asks) for _ in range(nodes)]
        self.running: dict[SimNode, Application] = {}
        for node in self.nodes:
            self._start(node)
        self._introduce()

    @property
    def now(self) -> float:
        return self.network.now

    def _start(self, node: SimNode) -> None:
        application = Application(self, node, f"process {len(self.applications)}")
        self.applications.append(application)
        self.running[node] = application

    def _introduce(self) -> None:
        for node in self.nodes:
            for other in self.nodes:
                if node is not other and not (
                    self.is_one_sided and self.nodes.index(node) < self.nodes.index(other)
                ):
                    node.learn(other)

    def application(self, name: str) -> Application:
        """Return the application of that name."""
        (found,) = (application for application in self.applications if application.name == name)
        return found

    def other(self, application: Application, side: Side) -> Side:
        """Return the other side of a stream."""
        name = side.stream.name
        sides = [a.sides[name] for a in self.applications if a is not application and name in a.sides]
        return sides[0]

    def _overhear(self, sender: SimNode, receiver: SimNode, message: bytes) -> None:
        if message[:1] != MAGIC[:1] and message[16:17] == GOODBYE:
            (goodbye,) = wire.decode_packet(message).frames
            assert isinstance(goodbye, wire.Goodbye)
            assert goodbye.code != wire.Farewell.FAULT, goodbye.reason  # nobody here breaks the rules

    # The turmoil

    def run(self, seconds: float) -> None:
        """Let the applications do things, and things happen to them."""
        end = self.now + seconds
        while self.now < end:
            if self.faults and self.random.random() < 0.04:
                getattr(self, self.choice(self.faults))()
            self._do_something()
            self.network.run(self.random.expovariate(20))

    def _do_something(self) -> None:
        node = self.choice(self.nodes)
        if not node.is_running or node.paused_since is not None:
            return
        application, what = self.running[node], self.random.random()
        to = self.choice([other for other in self.nodes if other is not node])
        sides = [side for side in application.sides.values() if not side.ends]
        size = int(self.choice([20, 200, 3000, 30_000, 70_000]) * (0.2 + self.random.random()))
        if what < 0.2:
            for _ in range(self.random.randint(1, 10)):
                application.send(to, min(size, 8_000))
        elif what < 0.25:
            for _ in range(self.random.randint(1, 10)):
                application.transmit(to, min(size, 8_000))
        elif what < 0.32:
            application.open(to)
        elif sides and what < 0.75:
            side = self.choice(sides)
            for _ in range(self.random.randint(1, 20)):
                application.write(side, size)
        elif sides and what < 0.78:
            application.end(self.choice(sides))
        elif sides and what < 0.85:
            application.accept(self.choice(sides))
        else:
            application.consume()

    def cut(self) -> None:
        if self.network.links:
            self.network.cut(self.choice(self.network.links))

    def cut_all(self) -> None:
        self.network.cut_all()

    def freeze(self) -> None:
        self.network.freeze()
        self._later(lambda: self.network.freeze(False))

    def part(self) -> None:
        self.network.part(*self.random.sample(self.nodes, 2))
        self._later(self.network.heal)

    def part_one_way(self) -> None:
        self.network.part(*self.random.sample(self.nodes, 2), one_way=True)
        self._later(self.network.heal)

    def block_udp(self) -> None:
        weather = self.network.datagrams.weather
        weather.is_udp_blocked = True

        def unblock() -> None:
            weather.is_udp_blocked = False

        self._later(unblock)

    def move(self) -> None:
        self.network.datagrams.move(self.choice(self.nodes))

    def pause(self) -> None:
        node = self.choice(self.nodes)
        if node.is_running and node.paused_since is None:
            node.pause()
            self._later(lambda: self._resume(node))

    def _resume(self, node: SimNode) -> None:
        if node.is_running and node.paused_since is not None:
            node.resume()

    def crash(self) -> None:
        node = self.choice(self.nodes)
        if node.is_running:
            node.crash()
            self._later(lambda: self._restart(node))

    def _restart(self, node: SimNode) -> None:
        node.restart()
        self._start(node)
        self._introduce()

    def rename(self) -> None:
        node = self.choice(self.nodes)
        if node.is_running and node.paused_since is None:
            node.core.announce(f"name {self.random.random()}", b"", self.now)

    def _later(self, call: Callable[[], None]) -> None:
        self.network.at(
            self.now + self.choice([0.01, 0.3, 2.0, 4.0, 8.0]) * (0.5 + self.random.random()), call
        )

    # The end

    def settle(self, losses_allowed: bool = True) -> None:
        """Let everything come to its end, and see that it was the right one."""
        self.network.run(SETTLE_S)  # no new faults; those under way end
        assert not any(isinstance(action, Superseded) for node in self.nodes for action in node.actions)
        for node in self.nodes:
            assert self.running[node].present == {other.address for other in self.nodes} - {node.address}
            for other in self.nodes:
                if node is not other:
                    assert self._agree(node, other)
        self._end_streams()
        assert losses_allowed or not any(application.losses for application in self.applications)
        for application in self.applications:
            if application is self.running[application.node]:
                assert all(len(single.ends) == 1 for single in application.singles.values())
                assert all(len(side.ends) == 1 for side in application.sides.values())
            assert all(len(single.ends) <= 1 for single in application.singles.values())
            assert all(len(side.ends) <= 1 for side in application.sides.values())
            self._check_singles(application)
        self._part_in_peace()

    def _agree(self, one: SimNode, other: SimNode) -> bool:
        ours, theirs = one.core.session(other.address), other.core.session(one.address)
        assert ours is not None
        assert theirs is not None
        return (ours.nonce, ours.their_nonce) == (theirs.their_nonce, theirs.nonce) and bool(ours.links)

    def _end_streams(self) -> None:
        for application in self.running.values():
            application.is_eager = True
        for _ in range(100):
            for application in self.running.values():
                for side in application.sides.values():
                    if not side.ends:
                        application.accept(side)
                        if side.is_open or side.is_opener:
                            side.stream.finish()
                application.consume()
            self.network.run(0.2)

    def _check_singles(self, application: Application) -> None:
        for single in application.singles.values():
            times = len(self.delivered.get(single.data, ()))
            assert times <= 1, "delivered twice"
            if single.ends == [None]:
                assert times == 1, "acknowledged and not delivered"

    def _part_in_peace(self) -> None:
        for node in self.nodes:
            assert node.core.is_drained
            node.core.farewell(self.now)
        self.network.run(1.0)
        for node in self.nodes:
            assert not self.running[node].present
            assert node.core.stats().links == 0
            assert node.core._budget.reserved == 0
            assert node.core._plane.readers == {}
            assert not node.pushes
        assert not self.network.links
