"""Two sessions over links that come and go, against a log of what was written and a count of what was read.

The links are the machine's: it breaks them at any packet, opens others whose INFO is old news, and sends
again what has arrived long ago. The model reads the packets by their header, and knows only their numbers.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brokerless.errors import RemoteProtocolError, SendQueueFull
from brokerless.model import MessageReceived, SendDone, StreamAcknowledged, StreamMessages, StreamOffered
from brokerless.protocol import wire
from tests.machines import as_test
from tests.protocol.talk import Side, Talk
from tests.protocol.two_ends import SMALL

if TYPE_CHECKING:
    from brokerless.protocol.stream import Stream

LINKS_MAX = 3
SIZES = st.integers(4, 100) | st.integers(4, 1_500) | st.integers(4, SMALL.message_bytes_max)
SIDES = st.sampled_from([0, 1])
WHICH = st.integers(0, 5)
SELDOM = st.sampled_from([False] * 4 + [True])


@dataclass
class Sender:
    """What one side wrote: each packet under its number, whole, for ever."""

    packets: list[bytes] = field(default_factory=list)
    received: int = 0
    """Of the other side's, in order."""
    acknowledged: int = 0
    """Of its own, as it has read."""
    given: dict[int, list[bytes]] = field(default_factory=dict)
    """By lane: the application's messages."""
    arrived: dict[int, list[bytes]] = field(default_factory=dict)
    """By lane: of the other side's, in packets that count."""
    delivered: dict[int, list[bytes]] = field(default_factory=dict)
    """By lane: what the application was given."""
    last_of: dict[int, list[int]] = field(default_factory=dict)
    """By lane: in which packet each message ended."""
    done: list[int] = field(default_factory=list)
    receipts: dict[int, int] = field(default_factory=dict)
    accepted: set[int] = field(default_factory=set)


class SessionsAtLarge(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.talk = Talk(SMALL, links=0)
        self.models = {side: Sender() for side in self.talk.sides}
        self.streams: dict[Side, dict[int, Stream]] = {side: {} for side in self.talk.sides}
        self.seen = dict.fromkeys(self.talk.sides, 0)

    def side(self, which: int) -> Side:
        return self.talk.sides[which]

    def link_of(self, which: int) -> int | None:
        links = sorted(self.talk.links)
        return links[which % len(links)] if links else None

    # Links

    @initialize(which=SIDES, is_open=st.booleans())
    def begin(self, which: int, is_open: bool) -> None:
        self.connect(0, 0)
        if is_open:
            self.open(which)
            self.carry(which, [3])
            self.accept(1 - which, 0)
            self.carry(1 - which, [3])

    @precondition(lambda self: len(self.talk.links) < LINKS_MAX)
    @rule(late_near=st.integers(0, 3), late_far=st.integers(0, 3))
    def connect(self, late_near: int, late_far: int) -> None:
        """A new link; what each side says of what it has received may be old by now."""
        talk = self.talk
        talk._links_made += 1
        number = talk._links_made
        talk.links[number] = {side: deque() for side in talk.sides}
        for side, late in zip(talk.sides, (late_near, late_far), strict=True):
            told = max(0, self.models[talk.other(side)].received - late)
            side.session.link_ready(number, told, talk.now)
            self.models[side].acknowledged = max(self.models[side].acknowledged, told)

    @rule(which=WHICH, really=SELDOM)
    def cut(self, which: int, really: bool) -> None:
        if really and (link := self.link_of(which)) is not None:
            self.talk.cut(link)

    @rule(which=SIDES, link=WHICH, count=st.integers(1, 4))
    def write(self, which: int, link: int, count: int) -> None:
        side, number = self.side(which), self.link_of(link)
        for _ in range(count if number is not None else 0):
            assert number is not None
            packet = side.session.next_packet(number, self.talk.now)
            if packet is None:
                side.woken.discard(number)
                return
            self.talk.links[number][side].append(packet)
            self.note_written(side, packet)

    def note_written(self, side: Side, packet: bytes) -> None:
        model = self.models[side]
        number, acknowledged = struct.unpack_from("!QQ", packet)
        if number == 0:
            assert acknowledged == model.received
            return
        assert number <= len(model.packets) + 1, "numbers have no gaps"
        if number <= len(model.packets):
            assert model.packets[number - 1] == packet, "the same bytes are sent again"
            return
        assert acknowledged == model.received
        model.packets.append(packet)
        for lane, count in messages_in(packet):
            model.last_of.setdefault(lane, []).extend([number] * count)

    @rule(which=SIDES, counts=st.lists(st.integers(0, 3), min_size=1, max_size=4))
    def carry(self, which: int, counts: list[int]) -> None:
        """Both sides write where they mean to, and each reads so many packets of it."""
        for count in counts:
            link = self.side(which).session.current_link
            if link not in self.talk.links:
                return
            place = sorted(self.talk.links).index(link)
            self.write(which, place, 3)
            which = 1 - which
            self.read(which, place, count)

    @rule(which=SIDES, link=WHICH, count=st.integers(1, 4))
    def read(self, which: int, link: int, count: int) -> None:
        number = self.link_of(link)
        side = self.side(which)
        for _ in range(count):
            if number not in self.talk.links or not self.talk.links[number][self.talk.other(side)]:
                return
            self.take(side, number, self.talk.links[number][self.talk.other(side)].popleft())

    def take(self, side: Side, link: int, packet: bytes) -> None:
        """Let a side read a packet, and say what must come of it."""
        model, sender = self.models[side], self.models[self.talk.other(side)]
        number, acknowledged = struct.unpack_from("!QQ", packet)
        model.acknowledged = max(model.acknowledged, acknowledged)
        is_gap = number > model.received + 1
        if number == model.received + 1:
            model.received = number
            for lane, end in sender.last_of.items():
                count = len([last for last in end if last <= number])
                model.arrived[lane] = sender.given[lane][:count]
        before = len(self.talk.cuts)
        side.session.receive(link, wire.decode_packet(packet), len(packet), self.talk.now)
        self.talk._settle(side)
        if is_gap:
            assert len(self.talk.cuts) > before
            assert link not in self.talk.links
        self.look(side)

    @rule(which=SIDES, link=WHICH, number=st.integers(0, 100))
    def send_again(self, which: int, link: int, number: int) -> None:
        """What has arrived comes once more."""
        side, on = self.side(which), self.link_of(link)
        sender = self.models[self.talk.other(side)]
        count = self.models[side].received
        if on is not None and count:
            self.take(side, on, sender.packets[number % count])

    @rule(which=SIDES, link=WHICH, beyond=st.sampled_from([2, 3, 2**32]), really=SELDOM)
    def lose_some(self, which: int, link: int, beyond: int, really: bool) -> None:
        """A packet comes before one that was lost: the link has failed."""
        side, on = self.side(which), self.link_of(link)
        if really and on is not None:
            number = self.models[side].received + beyond
            self.take(side, on, wire.encode_packet(number, 0, [wire.encode_data(0, 1, 0, [b"lost"])]))

    # Applications

    def give(self, side: Side, lane: int, data: bytes) -> None:
        self.models[side].given.setdefault(lane, []).append(data)

    @rule(which=SIDES, size=SIZES, count=st.sampled_from([1, 1, 5]))
    def send(self, which: int, size: int, count: int) -> None:
        side = self.side(which)
        for _ in range(count):
            data = len(self.models[side].given.get(0, ())).to_bytes(4, "big") + bytes(size - 4)
            try:
                side.send(data)
            except SendQueueFull:
                side._count -= 1
                return
            self.give(side, 0, data)

    @precondition(lambda self: sum(map(len, self.streams.values())) < 4)
    @rule(which=SIDES)
    def open(self, which: int) -> None:
        side = self.side(which)
        stream = side.open("stream")
        self.streams[side][stream.id] = stream
        self.models[side].accepted.add(stream.id)  # it delivers as soon as the other side has answered

    @rule(which=SIDES, stream=WHICH)
    def accept(self, which: int, stream: int) -> None:
        side = self.side(which)
        offered = [one for one in self.streams[side].values() if one.id not in self.models[side].accepted]
        if offered:
            chosen = offered[stream % len(offered)]
            self.models[side].accepted.add(chosen.id)
            side.session.lanes.accept(chosen, b"")
            self.look(side)

    @rule(which=SIDES, stream=WHICH, size=SIZES)
    def send_on_a_stream(self, which: int, stream: int, size: int) -> None:
        side = self.side(which)
        ready = [one for one in self.streams[side].values() if one.id in self.models[side].accepted]
        if ready:
            chosen = ready[stream % len(ready)]
            data = len(self.models[side].given.get(chosen.id, ())).to_bytes(4, "big") + bytes(size - 4)
            try:
                chosen.send(data)
            except SendQueueFull:
                return
            self.give(side, chosen.id, data)

    @rule(which=SIDES)
    def consume(self, which: int) -> None:
        self.side(which).consume()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.talk.now += seconds
        for side in self.talk.sides:
            side.session.expire(
                self.talk.now
            )  # who is lost is for the node to say; the links are still there
            self.talk._settle(side)

    # What must hold

    def look(self, side: Side) -> None:
        model = self.models[side]
        events = side.events[self.seen[side] :]
        self.seen[side] = len(side.events)
        for event in events:
            match event:
                case MessageReceived(message=message):
                    model.delivered.setdefault(0, []).append(message.data)
                case StreamMessages(stream=stream, messages=messages):
                    model.delivered.setdefault(stream.id, []).extend(messages)
                case StreamOffered(offer=offer):
                    self.streams[side][offer.stream.id] = offer.stream
                case SendDone(send_id=send_id, error=error):
                    assert error is None
                    model.done.append(send_id)
                case StreamAcknowledged(stream=stream, sequence=sequence):
                    assert sequence > model.receipts.get(stream.id, 0)
                    model.receipts[stream.id] = sequence

    @invariant()
    def what_counts_is_delivered_in_order_and_once(self) -> None:
        for side, model in self.models.items():
            self.look(side)
            assert side.session.received == model.received
            for lane, messages in model.arrived.items():
                is_given = lane == 0 or lane in model.accepted
                assert model.delivered.get(lane, []) == (messages if is_given else [])

    @invariant()
    def done_is_what_was_acknowledged(self) -> None:
        for side, model in self.models.items():
            self.look(side)
            assert side.session.flight.acknowledged == model.acknowledged
            assert side.session.flight.sent == len(model.packets)
            done = [last for last in model.last_of.get(0, []) if last <= model.acknowledged]
            assert model.done == list(range(1, len(done) + 1))
            for lane, sequence in model.receipts.items():
                assert model.last_of[lane][sequence - 1] <= model.acknowledged

    @invariant()
    def memory_is_bounded(self) -> None:
        for side in self.talk.sides:
            assert side.budget.reserved <= SMALL.peer_memory_bytes_max
            in_flight = self.models[side].packets[self.models[side].acknowledged :]
            assert side.session.flight.byte_count == sum(map(len, in_flight))

    def teardown(self) -> None:
        """One good link, and everything arrives; then a word too much ends it."""
        for link in list(self.talk.links):
            self.talk.cut(link)
        self.connect(0, 0)
        before = None
        while before != (before := [model.received for model in self.models.values()]):
            for which in (0, 1):
                self.accept(which, 0)
                self.consume(which)
                self.write(which, 0, 10_000)
            for which in (0, 1):
                self.read(which, 0, 10_000)
        for side in self.talk.sides:
            self.look(side)
        for side, model in self.models.items():
            other = self.models[self.talk.other(side)]
            delivered = {lane: messages for lane, messages in other.delivered.items() if messages}
            assert delivered == {lane: messages for lane, messages in model.given.items() if messages}
            assert model.done == list(range(1, len(model.given.get(0, ())) + 1))
            assert side.session.is_idle
        near, link = self.talk.near, self.talk._links_made
        too_much = wire.decode_packet(wire.encode_packet(0, len(self.models[near].packets) + 1, []))
        with pytest.raises(RemoteProtocolError):
            near.session.receive(link, too_much, 16, self.talk.now)


def messages_in(packet: bytes) -> list[tuple[int, int]]:
    """Return how many messages of which lane end in a packet."""
    counts = []
    for frame in wire.decode_packet(packet).frames:
        if isinstance(frame, wire.Data):
            counts.append((frame.stream_id, len(frame.messages)))
        elif isinstance(frame, wire.Chunk):
            counts.append((frame.stream_id, int(frame.offset + len(frame.payload) == frame.total)))
    return counts


TestSessionsAtLarge = as_test(SessionsAtLarge)
