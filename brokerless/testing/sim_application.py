"""What one process of a simulated node does, as it comes into its head, and what it is told.

It knows what was promised, and what the others did: each event is held against that as it comes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from brokerless.errors import (
    BusClosed,
    BusError,
    DeliveryUnknown,
    MessageTooLarge,
    NoPath,
    OpenTimeout,
    PeerError,
    StreamClosed,
    StreamRejected,
    StreamReset,
    UsageError,
)
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
    StreamReady,
    UnreliableWaiting,
)
from brokerless.protocol.lanes import REJECT_BUSY
from brokerless.protocol.stream_state import OPEN_TIMEOUT, TOO_LARGE, UNTAKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.address import Address
    from brokerless.protocol.stream import Stream
    from brokerless.testing.scenario import Scenario
    from brokerless.testing.sim_node import SimNode

REJECT_CODE, ABORT_CODE = 7, 3
"""Of our own choice, to know them again."""

UNRELIABLE_BYTES_MAX = 8_000
"""Some seven datagrams: with more, none of them would come whole in bad weather."""


@dataclass(eq=False)
class Side:
    """One side of a stream: what its application did and heard."""

    stream: Stream
    is_opener: bool
    deadline: float | None = None
    """Of opening it."""
    sent: list[bytes] = field(default_factory=list)
    received: int = 0
    """Messages of a reliable stream."""
    seen: set[int] = field(default_factory=set)
    """Numbers of those of an unreliable one."""
    consumed: int = 0
    acknowledged: int = 0
    is_open: bool = False
    is_given_up: bool = False
    """Closed or aborted here, or its node has left."""
    sends_no_more: bool = False
    """Its application has said so: a node that leaves does not say it for it."""
    was_aborted: bool = False
    was_rejected: bool = False
    wants_ready: bool = False
    has_finished: bool = False
    """Heard of it."""
    ends: list[BusError | None] = field(default_factory=list)
    ended_at: float = 0.0

    @property
    def is_reliable(self) -> bool:
        """Whether nothing may be lost on it."""
        return self.stream.reliability is Reliability.RELIABLE

    @property
    def may_write(self) -> bool:
        """Whether messages may be sent: by the opener at once, by the other once it has accepted."""
        return not self.ends and (self.is_open or self.is_opener)


@dataclass(eq=False)
class Single:
    """A reliable single message, and how that ended."""

    sender: Application
    sent_at: float
    ends: list[BusError | None] = field(default_factory=list)
    deliveries: int = 0

    @property
    def was_never_sent(self) -> bool:
        """Whether its sender was told that nothing of it has left."""
        return bool(self.ends) and not isinstance(self.ends[0], DeliveryUnknown | None)


class Application:
    """What one process of a node does and hears.

    ``diligence`` is how soon it consumes, ``openness`` how often it accepts at once: shares of 1.
    """

    def __init__(self, world: Scenario, node: SimNode, name: str) -> None:
        self.world = world
        self.node = node
        self.core = node.core
        self.name = name
        self.diligence = world.choice([1.0, 0.5, 0.5, 0.1, 0.0])
        self.openness = world.choice([1.0, 0.6, 0.6, 0.1])
        self.is_leaving = False
        self.present: set[Address] = set()
        self.sides: dict[str, Side] = {}
        self.singles: dict[int, Single | None] = {}  # by send id; None: an unreliable one, until it is done
        self.losses: list[LossReason] = []
        self.lost_at: dict[Address, float] = {}
        self._count = 0
        self._transmitted = 0
        self._heard: dict[str, int] = {}  # the last single message of each sending process
        self._unreliable: set[bytes] = set()  # what came
        self._newest: dict[tuple[str, int], int] = {}  # of sequenced messages, by sending process and channel
        self._unconsumed: list[MessageReceived] = []
        self._unread: list[UnreliableWaiting] = []
        self._bereft: set[Address] = set()  # peers whose streams ended with them, in this turn
        node.accepts = node.consumes = False
        node.admit = lambda peer: None
        node.on_event = self.hear

    def _say(self, *words: object) -> None:
        if self.world.network.trace is not None:
            self.world.network.trace.say(" ".join(map(str, (self.node.label, "·", *words))))

    # What it does

    def send(self, to: SimNode, size: int) -> None:
        """Send a reliable single message."""
        self._count += 1
        data = f"{self.name} {self._count} ".encode().ljust(size, b".")
        timeout = self.world.choice([None, 0.5, 10.0])
        try:
            send_id = self.node.send(data, to, timeout=timeout, channel=size % 3)
        except (PeerError, UsageError):
            return
        self._say("sends", send_id, "to", to.label, f"({size} bytes, within {timeout} s)")
        self.singles[send_id] = self.world.singles[data] = Single(self, self.world.now)

    def transmit(self, to: SimNode, size: int) -> None:
        """Send an unreliable single message, in one of the two ways in which that is done."""
        self._transmitted += 1
        kind = self.world.choice([Reliability.UNRELIABLE, Reliability.SEQUENCED])
        channel = self.world.choice([0, 0, 1])
        data = f"{self.name} {self._transmitted} ".encode().ljust(min(size, UNRELIABLE_BYTES_MAX), b".")
        with contextlib.suppress(PeerError, UsageError):
            if self._transmitted % 2:
                self.core.transmit(data, to.address, kind, channel, self.world.now)
            else:
                self.singles[self.node.send(data, to, channel=channel, reliability=kind)] = None

    def open(self, to: SimNode) -> None:
        """Open a stream."""
        self._count += 1
        name = f"{self.name} {self._count}"
        timeout = self.world.choice([None, 1.0, 10.0])
        reliability = self.world.choice([Reliability.RELIABLE, Reliability.RELIABLE, *Reliability])
        try:
            stream = self.node.open_stream(to, name, timeout=timeout, reliability=reliability)
        except (PeerError, UsageError):
            return
        self._say(
            "opens", stream.id, repr(name), "to", to.label, f"({reliability.value}, within {timeout} s)"
        )
        deadline = None if timeout is None else self.world.now + timeout
        self.sides[name] = Side(stream, is_opener=True, deadline=deadline)
        self.world.streams[name] = [self.sides[name]]

    def write(self, side: Side, size: int) -> None:
        """Send on a stream, if it takes that."""
        stream = side.stream
        if not side.may_write or stream.send_error is not None:
            return
        if not side.is_reliable:
            size = min(size, UNRELIABLE_BYTES_MAX)
        data = f"{stream.name} {side.is_opener} {len(side.sent) + 1} ".encode().ljust(size, b".")
        if stream.room < len(data):
            if side.is_reliable and stream.last_sequence > stream.sent_sequence:  # else it is above the limit
                side.wants_ready = True
                stream.want_ready()
            return
        side.sent.append(data)
        try:
            assert stream.send(data) == len(side.sent)
        except (NoPath, UsageError):
            assert not side.is_reliable

    def end(self, side: Side) -> None:
        """End a stream, one way or another."""
        if side.ends:
            return
        if not side.may_write:
            side.was_rejected = True
            self._say("rejects", side.stream.id)
            side.stream.reject(REJECT_CODE, "not today")
            return
        what = self.world.choice(["finish", "finish", "close", "close in time", "abort"])
        self._say(what, "of", side.stream.id)
        side.sends_no_more |= what != "abort"
        if what == "finish":
            side.stream.finish()
            return
        side.is_given_up = True
        if what == "abort":
            side.was_aborted = True
            side.stream.abort(ABORT_CODE, "enough")
        else:
            side.stream.close(None if what == "close" else self.world.now + 1.0)

    def consume(self) -> None:
        """Read on, as diligently as it does."""
        for side in self.sides.values():
            there = side.received - side.consumed
            count = (
                there
                if self.diligence == 1.0
                else int(there * self.diligence * 2 * self.world.random.random())
            )
            if count and not side.ends and not side.is_given_up:
                side.consumed += min(count, there)
                side.stream.consume(min(count, there))
        while self._unconsumed and self.world.random.random() < self.diligence:
            message = self._unconsumed.pop(0).message
            message.origin.consume(1, len(message.data))
        while self._unread and self.world.random.random() < self.diligence:
            self._take(self._unread.pop(0))

    def accept(self, side: Side) -> None:
        """Take an offer."""
        if not side.is_opener and not side.is_open and not side.ends:
            self._say("accepts", side.stream.id)
            self.core.accept(side.stream, b"")

    def leave(self, deadline: float) -> None:
        """Close the node, as an application does that ends."""
        self._say("leaves")
        self.is_leaving = True
        for side in self.sides.values():
            side.is_given_up = True
        self.core.leave(deadline)

    # What it hears

    def hear(self, event: Event) -> None:
        """Hold an event against what was promised."""
        handler = self._HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def turn_done(self) -> None:
        """All events of this turn have been told."""
        if self._bereft:
            lost = self._bereft & self.present
            assert not lost, "streams ended as if their peer was lost, and it was not"
            self._bereft.clear()

    def _joined(self, event: PeerJoined) -> None:
        assert event.peer.address not in self.present, "joined twice"
        self.present.add(event.peer.address)

    def _left(self, event: PeerLeft) -> None:
        address = event.peer.address
        self.present.remove(address)
        self._bereft.discard(address)
        self.losses.append(event.reason)
        self.lost_at[address] = self.world.now
        for side in self.sides.values():
            assert side.ends or side.stream.peer != address, "a stream outlived its peer"

    def _message(self, event: MessageReceived) -> None:
        message = event.message
        assert message.sender in self.present, "before its sender joined"
        single = self.world.singles[message.data]
        name, number = _origin(message.data)
        assert single.deliveries == 0, "delivered twice"
        assert number > self._heard.get(name, 0), "out of order"
        assert not single.was_never_sent, "delivered, and reported as never sent"
        lost_at = single.sender.lost_at.get(self.node.address, 0.0)
        is_recent = self.world.now - lost_at <= self.world.under_way_s
        assert single.sent_at > lost_at or is_recent, "of a conversation that its sender has given up: stale"
        single.deliveries += 1
        self._heard[name] = number
        self._unconsumed.append(event)

    def _done(self, event: SendDone) -> None:
        assert event.send_id in self.singles, "completed twice"
        single = self.singles[event.send_id]
        if single is None:
            assert isinstance(event.error, NoPath | UsageError | None)
            del self.singles[event.send_id]
            return
        assert not single.ends, "completed twice"
        single.ends.append(event.error)
        if event.error is None:
            assert single.deliveries == 1, "acknowledged, and not delivered"
        elif isinstance(event.error, DeliveryUnknown):
            assert isinstance(event.error.__cause__, BusError), "unknown, and not why"
        else:
            assert single.deliveries == 0, "reported as never sent, and delivered"

    def _offered(self, event: StreamOffered) -> None:
        stream = event.offer.stream
        assert stream.peer in self.present, "before its peer joined"
        opener, *others = self.world.streams[stream.name]
        assert not others, "offered twice"
        assert (stream.id, stream.reliability) == (opener.stream.id, opener.stream.reliability)
        self.sides[stream.name] = Side(stream, is_opener=False)
        self.world.streams[stream.name].append(self.sides[stream.name])
        if self.world.random.random() < self.openness:
            self.accept(self.sides[stream.name])

    def _opened(self, event: StreamOpened) -> None:
        side = self.sides[event.stream.name]
        assert not side.is_open
        assert not side.ends
        side.is_open = True

    def _ready(self, event: StreamReady) -> None:
        side = self.sides[event.stream.name]
        assert side.wants_ready, "told what nobody asked"
        assert not side.ends, "after the end"
        side.wants_ready = False

    def _messages(self, event: StreamMessages) -> None:
        side = self.sides[event.stream.name]
        assert side.is_open
        assert not side.ends, "after the end"
        assert not side.is_given_up, "after it was closed"
        assert not side.has_finished, "after the last"
        assert event.first_sequence == side.received + 1, "a gap, or twice"
        other = self.world.other(side)
        if other.ends and isinstance(other.ends[0], PeerError):
            assert self.world.now - other.ended_at <= self.world.under_way_s, "stale"
        side.received += len(event.messages)
        assert other.sent[event.first_sequence - 1 : side.received] == event.messages, "not what was sent"

    def _waiting(self, event: UnreliableWaiting) -> None:
        if self.world.random.random() < self.diligence:
            self._take(event)
        else:
            self._unread.append(event)

    def _take(self, event: UnreliableWaiting) -> None:
        while (item := event.unread.take()) is not None:
            if event.stream is not None:
                self._unreliable_on(self.sides[event.stream.name], item)
                continue
            assert item.data not in self._unreliable, "delivered twice"
            self._unreliable.add(item.data)
            name, number = _origin(item.data)
            if item.reliability is Reliability.SEQUENCED:
                assert number > self._newest.get((name, item.channel), 0), "went backwards"
                self._newest[name, item.channel] = number

    def _unreliable_on(self, side: Side, data: bytes) -> None:
        assert side.is_open
        number = _origin(data)[1]
        assert self.world.other(side).sent[number - 1] == data, "not what was sent"
        assert number not in side.seen, "delivered twice"
        if side.stream.reliability is Reliability.SEQUENCED:
            assert number > max(side.seen, default=0), "went backwards"
        side.seen.add(number)

    def _acknowledged(self, event: StreamAcknowledged) -> None:
        side = self.sides[event.stream.name]
        assert side.is_open
        assert not side.ends, "after the end"
        assert side.acknowledged < event.sequence <= len(side.sent)
        side.acknowledged = event.sequence
        other = self.world.other(side)
        assert other.received >= event.sequence or other.is_given_up or other.ends, "acknowledged too early"

    def _finished(self, event: StreamFinishedReceiving) -> None:
        side = self.sides[event.stream.name]
        assert side.is_open
        assert not side.ends
        assert not side.has_finished, "finished twice"
        side.has_finished = True
        other = self.world.other(side)
        assert other.sends_no_more, "an end that nobody made"
        if side.is_reliable:
            assert side.received == len(other.sent), "an end that was none"

    def _ended(self, event: StreamEnded) -> None:
        side, error = self.sides[event.stream.name], event.error
        assert not side.ends, "ended twice"
        side.ends.append(error)
        side.ended_at = self.world.now
        sides = self.world.streams[event.stream.name]
        other = self.world.other(side) if len(sides) == 2 else None
        if error is None or isinstance(error, StreamClosed):
            self._check_consumed(side, other, error)
        elif isinstance(error, PeerError | BusClosed):
            self._bereft.add(event.stream.peer)
        else:
            assert self._is_excused(error, side, other), f"nobody did what it ended by: {error!r}"

    def _check_consumed(self, side: Side, other: Side | None, error: StreamClosed | None) -> None:
        consumed = 0 if other is None else other.consumed
        if error is None:
            assert not side.is_reliable or consumed == len(side.sent), "a clean end that was not one"
        else:
            assert error.last_consumed <= consumed, "more consumed than was"
            assert any(one.is_given_up for one in (side, other) if one is not None), "nobody closed it"

    def _is_excused(self, error: BusError, side: Side, other: Side | None) -> bool:
        """Whether somebody did, or some time ran out, what such an end is for."""
        sides = [one for one in (side, other) if one is not None]
        if isinstance(error, OpenTimeout):
            return side.deadline is not None and side.deadline <= self.world.now and not side.is_open
        if isinstance(error, MessageTooLarge):
            return not side.is_open
        if isinstance(error, StreamReset):
            return {
                ABORT_CODE: any(one.was_aborted for one in sides),
                OPEN_TIMEOUT: any(one.deadline is not None for one in sides),
                TOO_LARGE: not side.is_open,
            }[error.code]
        assert isinstance(error, StreamRejected)
        return {
            REJECT_CODE: any(one.was_rejected for one in sides),
            UNTAKEN: any(one.is_given_up for one in sides) or self.world.somebody_left,
            REJECT_BUSY: True,
        }[error.code]

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        PeerJoined: _joined,
        PeerLeft: _left,
        MessageReceived: _message,
        SendDone: _done,
        StreamOffered: _offered,
        StreamOpened: _opened,
        StreamReady: _ready,
        StreamMessages: _messages,
        StreamAcknowledged: _acknowledged,
        StreamFinishedReceiving: _finished,
        StreamEnded: _ended,
        UnreliableWaiting: _waiting,
    }


def _origin(data: bytes) -> tuple[str, int]:
    """Return who made this message, and the number that it was given."""
    name, _, number = data.rstrip(b".").decode().rstrip().rpartition(" ")
    return name, int(number)
