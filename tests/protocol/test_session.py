"""A session: in order and exactly once over links that come and go, fairly, and within its bounds."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from brokerless.config import Limits
from brokerless.errors import (
    DeliveryUnknown,
    MessageTooLarge,
    PeerLost,
    RemoteProtocolError,
)
from brokerless.model import (
    DatagramPath,
    DropCause,
    MessageReceived,
    SendDone,
    StreamAcknowledged,
    StreamEnded,
)
from brokerless.protocol import session as module
from brokerless.protocol import wire
from brokerless.protocol.datagram import Kind
from brokerless.protocol.session import (
    HELD_BYTES_MAX,
    LIVENESS_S_MIN,
    PHASES,
    URGENT_FRAMES_MAX,
    SessionState,
)
from tests.protocol.talk import HIGHER, LOWER, STREAM_FRAMES, Side, Talk, frames, packet

if TYPE_CHECKING:
    from brokerless.protocol.stream import Stream

KIB = 1024
T = 5.0
LOST = PeerLost(reason="silent")


def numbers(packets: list[wire.Packet]) -> list[int]:
    return [packet.number for packet in packets]


# Beginning


def test_a_fresh_session_sends_nothing_and_has_no_deadline_of_its_own() -> None:
    talk = Talk(established=False)
    near = talk.near.session
    assert near.state is SessionState.FRESH
    assert near.next_deadline() is None
    assert near.links == ()
    assert near.next_packet(1, talk.now) is None
    assert not near.expire(talk.now + 100)
    near.stalled(talk.now + 100)
    assert not near.liveness.is_confirming


def test_what_waits_for_the_peer_leaves_once_it_is_known() -> None:
    talk = Talk(established=False)
    stream = talk.near.open("early", metadata=b"meta")
    stream.send(b"one")
    talk.near.send(b"single")
    assert not talk.near.woken
    talk.establish()
    talk.link()
    talk.pump()
    (theirs,) = talk.far.offered
    assert (theirs.name, theirs.metadata) == ("early", b"meta")
    assert talk.far.singles == [b"single"]
    talk.far.session.lanes.accept(theirs, b"reply")
    talk.pump()
    assert talk.far.received(theirs) == [b"one"]
    assert stream.reply_metadata == b"reply"


def test_the_shorter_of_both_limits_holds_on_both_sides() -> None:
    talk = Talk(
        Limits(message_bytes_max=3000, liveness_s=2.0), Limits(message_bytes_max=2000, liveness_s=7.0)
    )
    for side in talk.sides:
        assert side.session.lanes.message_bytes_max == 2000
        assert side.session.liveness.limit_s == 2.0
    with pytest.raises(MessageTooLarge):
        talk.near.send(bytes(2001))


def test_no_peer_can_make_us_impatient() -> None:
    talk = Talk(Limits(), Limits(liveness_s=0.001))
    assert talk.near.session.liveness.limit_s == LIVENESS_S_MIN


def test_info_tells_what_the_peer_needs() -> None:
    limits = Limits(message_bytes_max=5000, stream_window_initial_bytes=2000, offers_max=3, liveness_s=1.5)
    talk = Talk(limits, established=False)
    info = talk.near.session.info("name", b"meta")
    assert (info.boot, info.epoch, info.their_boot, info.their_epoch) == (0x10 * PHASES, 1, 0, 0)
    assert (info.message_bytes_max, info.offers_max, info.liveness_ms) == (5000, 3, 1500)
    assert info.streams_max == Limits().streams_max
    assert (info.stream_credit, info.single_credit) == (2000, 2000)
    assert (info.name, info.metadata, info.received) == ("name", b"meta", 0)
    talk.establish()
    talk.link()
    talk.far.send(b"single")
    talk.pump()
    info = talk.near.session.info("", b"")
    assert (info.their_boot, info.their_epoch, info.received) == (0x90 * PHASES, 1, 1)


# Order, acknowledgement, resending


def test_messages_arrive_in_order_once_and_are_acknowledged() -> None:
    talk = Talk()
    ours, theirs = talk.opened()
    messages = [b"%d" % number for number in range(500)]
    for message in messages:
        ours.send(message)
    talk.pump()
    assert talk.far.received(theirs) == messages
    assert talk.near.of_type(StreamAcknowledged)[-1].sequence == 500
    assert talk.near.session.flight.byte_count == 0
    assert talk.near.session.is_idle


@pytest.mark.parametrize("seed", range(30))
def test_links_that_break_at_any_moment_lose_and_double_nothing(seed: int) -> None:
    chance = random.Random(seed)
    talk = Talk(Limits(stream_window_initial_bytes=4 * KIB))
    pairs = [(talk.near, *talk.opened(str(number))) for number in range(3)]
    sent: dict[Stream, list[bytes]] = {}
    singles: dict[Side, list[bytes]] = {side: [] for side in talk.sides}
    for turn in range(300):
        what = chance.random()
        side = chance.choice(talk.sides)
        if what < 0.3:
            _, ours, theirs = chance.choice(pairs)
            writer, reader = chance.choice([(ours, theirs), (theirs, ours)])
            message = b"%d " % turn + bytes(chance.randrange(3000))
            if writer.room >= len(message):
                writer.send(message)
                sent.setdefault(reader, []).append(message)
        elif what < 0.4:
            singles[talk.other(side)].append(b"single %d" % turn)
            side.send(b"single %d" % turn)
        elif what < 0.45 and len(talk.links) < 4:
            talk.link()
        elif what < 0.5 and talk.links:
            talk.cut(chance.choice(list(talk.links)))
        elif talk.links:
            number = chance.choice(list(talk.links))
            talk.write(side, number)
            talk.read(side, number, chance.randrange(4))
        for reader_side in talk.sides:
            reader_side.consume()
    talk.link()
    for _ in range(20):
        talk.pump()
        for side in talk.sides:
            side.consume()
    for _, ours, theirs in pairs:
        assert talk.far.received(theirs) == sent.get(theirs, [])
        assert talk.near.received(ours) == sent.get(ours, [])
    for side in talk.sides:
        assert side.singles == singles[side]
        assert side.session.is_idle
        assert all(event.error is None for event in side.of_type(SendDone))
    assert not talk.cuts


def test_a_new_link_goes_on_after_what_the_peer_has_received() -> None:
    talk = Talk()
    for number in range(4):
        talk.near.send(b"%d" % number)
        talk.write(talk.near, 1)
    talk.read(talk.far, 1, 2)
    lost = [data for _, _, data in talk.sent[2:]]
    talk.cut(1)
    assert talk.near.session.current_link is None
    number = talk.link()
    assert talk.near.woken == {number}
    assert numbers(talk.write(talk.near, number)) == [3, 4]
    assert [data for _, _, data in talk.sent[-2:]] == lost  # byte for byte
    assert talk.near.session.stats().packets_resent == 2
    assert talk.near.session.stats().links_lost == 1
    assert len(talk.near.of_type(SendDone)) == 2  # INFO acknowledges, too


def test_duplicates_are_acknowledged_again_counted_and_otherwise_ignored() -> None:
    talk = Talk()
    talk.near.send(b"once")
    talk.write(talk.near, 1)
    (_, _, data) = talk.sent[-1]
    talk.read(talk.far, 1)
    talk.write(talk.far, 1)
    talk.far.session.receive(1, wire.decode_packet(data), len(data), talk.now)
    assert talk.far.session.stats().dropped == {DropCause.DUPLICATE: 1}
    assert len(talk.far.of_type(MessageReceived)) == 1
    assert talk.write(talk.far, 1) == [wire.Packet(0, 1, [])]


def test_a_gap_closes_the_link_and_delivers_nothing() -> None:
    talk = Talk()
    for number in range(3):
        talk.near.send(b"%d" % number)
        talk.write(talk.near, 1)
    del talk.links[1][talk.near][1]
    talk.read(talk.far, 1)
    assert talk.cuts == ["packet 3 came after 1"]
    assert len(talk.far.of_type(MessageReceived)) == 1
    talk.link()
    talk.pump()
    assert talk.far.singles == [b"0", b"1", b"2"]


def test_a_ping_tells_of_packets_that_went_missing() -> None:
    talk = Talk()
    talk.near.send(b"lost")
    talk.write(talk.near, 1)
    talk.links[1][talk.near].clear()
    talk.now += 1.0
    talk.expire()
    assert list(frames(talk.write(talk.near, 1))) == [wire.Ping(1, 1)]
    talk.read(talk.far, 1)
    assert talk.cuts == ["packets 1 to 1 went missing"]


def test_a_ping_with_nothing_missing_is_answered_and_that_is_all() -> None:
    talk = Talk()
    talk.near.send(b"there")
    talk.write(talk.near, 1)
    talk.now += 1.0
    talk.expire()
    talk.write(talk.near, 1)
    talk.read(talk.far, 1)
    assert talk.cuts == []
    # The answer acknowledges as well.
    assert talk.write(talk.far, 1) == [wire.Packet(0, 1, [wire.Pong(1)])]


def test_a_link_without_progress_for_half_the_limit_is_closed() -> None:
    talk = Talk()
    talk.near.send(b"stuck")
    talk.write(talk.near, 1)
    talk.links[1][talk.near].clear()
    near = talk.near.session
    assert not near.expire(102.499)
    assert near.links_to_cut == []
    assert not near.expire(102.5)
    assert near.links_to_cut == [(1, "no acknowledgement in half the liveness limit")]


def test_the_deadline_of_a_stuck_link_is_kept() -> None:
    talk = Talk()
    near = talk.near.session
    assert near.next_deadline() == 102.0  # a ping
    talk.near.send(b"stuck")
    talk.write(talk.near, 1)
    near.expire(101.0)
    near.expire(102.0)
    assert near.next_deadline() == 102.5
    talk.cut(1)
    assert near.next_deadline() == 102.5  # suspicion: there is no link that could be stuck
    near.expire(102.5)
    assert near.links_to_cut == []


def test_a_link_that_answers_pings_and_acknowledges_nothing_is_stuck_all_the_same() -> None:
    talk = Talk()
    talk.near.send(b"stuck")
    near = talk.near.session
    near.next_packet(1, talk.now)
    assert near.next_deadline() == 101.0
    near.expire(101.0)
    near.receive(1, packet(wire.Pong(1)), 30, 102.0)
    assert near.next_deadline() == 102.5
    near.expire(102.5)
    assert len(near.links_to_cut) == 1


def test_a_link_that_makes_progress_is_kept() -> None:
    talk = Talk()
    for _ in range(5):
        talk.now += 2.0
        talk.near.send(b"single")
        talk.write(talk.near, 1)
        talk.read(talk.far, 1)
        talk.near.session.expire(talk.now + 0.4)
        talk.write(talk.far, 1)
        talk.read(talk.near, 1)
    assert talk.cuts == []


# Several links


def test_the_newest_link_is_used_and_all_are_listened_to() -> None:
    talk = Talk(links=2)
    talk.near.send(b"new way")
    assert talk.near.session.links == (1, 2)
    assert talk.near.session.current_link == 2
    assert talk.write(talk.near, 1) == []
    assert numbers(talk.write(talk.near, 2)) == [1]
    talk.far.session.receive(1, packet(number=1, acknowledged=0), 16, talk.now)
    assert talk.far.session.received == 1
    assert talk.write(talk.far, 2) == []
    assert talk.write(talk.far, 1) == [wire.Packet(0, 1, [])]  # acknowledged where it came


def test_when_the_link_in_use_fails_the_newest_of_the_others_takes_over() -> None:
    talk = Talk(links=3)
    talk.near.send(b"single")
    talk.write(talk.near, 3)
    talk.cut(3)
    assert talk.near.session.current_link == 2
    talk.cut(1)
    assert talk.near.session.current_link == 2
    assert numbers(talk.write(talk.near, 2)) == [1]
    talk.near.session.link_gone(77, talk.now)  # never was one
    assert talk.near.session.stats().links_lost == 2


def test_a_ping_on_a_link_that_is_gone_is_not_answered_elsewhere() -> None:
    talk = Talk(links=2)
    talk.near.session.link_gone(1, talk.now)
    talk.near.session.receive(1, packet(wire.Ping(1, 0)), 30, talk.now)
    assert talk.write(talk.near, 2) == []


def test_a_message_that_has_left_in_part_is_not_acknowledged() -> None:
    talk = Talk(Limits(stream_window_initial_bytes=1024 * 1024))
    ours, _ = talk.opened()
    ours.send(bytes(150_000))
    assert len(talk.write(talk.near, 1)) == 3
    for _ in range(2):
        talk.read(talk.far, 1, count=1)
        talk.write(talk.far, 1)
        talk.read(talk.near, 1)
    assert talk.near.session.flight.byte_count < 65_536
    assert talk.near.of_type(StreamAcknowledged) == []
    talk.pump()
    assert [event.sequence for event in talk.near.of_type(StreamAcknowledged)] == [1]


@pytest.mark.parametrize("received", [0, 1, 2, 3])
def test_what_is_acknowledged_while_it_waits_is_not_sent_again(received: int) -> None:
    talk = Talk(links=2)
    for number in range(3):
        talk.near.send(b"%d" % number)
        talk.write(talk.near, 2)
    talk.near.session.link_gone(2, talk.now)  # the near side notices first
    talk.near.session.receive(1, packet(acknowledged=received), 16, talk.now)
    assert numbers(talk.write(talk.near, 1)) == [1, 2, 3][received:]
    assert talk.near.session.stats().packets_resent == 3 - received


def test_what_is_sent_again_measures_nothing() -> None:
    talk = Talk()
    talk.near.send(b"single")
    talk.write(talk.near, 1)
    talk.cut(1)
    talk.now += 2.0
    talk.link()
    talk.now += 0.1
    talk.pump()
    assert talk.near.of_type(SendDone)
    assert talk.near.session.stats().rtt_s is None


def test_only_the_link_in_use_vouches_for_what_was_sent() -> None:
    talk = Talk()
    talk.near.send(b"single")
    talk.write(talk.near, 1)
    talk.link()
    talk.write(talk.near, 2)
    talk.now += 1.0
    talk.expire()
    assert list(frames(talk.write(talk.near, 1))) == [wire.Ping(1, 0)]
    assert list(frames(talk.write(talk.near, 2))) == [wire.Ping(1, 1)]


def test_a_link_that_is_unknown_or_not_in_use_has_nothing_to_send() -> None:
    talk = Talk(links=2)
    talk.near.send(b"single")
    assert talk.near.session.next_packet(1, talk.now) is None
    assert talk.near.session.next_packet(99, talk.now) is None


# Acknowledgements, pings


def test_one_acknowledgement_for_all_that_came_in_one_go() -> None:
    talk = Talk()
    for number in range(5):
        talk.near.send(b"%d" % number)
        talk.write(talk.near, 1)
    talk.read(talk.far, 1)
    assert talk.far.woken == {1}
    assert talk.write(talk.far, 1) == [wire.Packet(0, 5, [])]
    assert talk.write(talk.far, 1) == []


def test_an_acknowledgement_travels_with_data_where_there_is_some() -> None:
    talk = Talk()
    talk.near.send(b"there")
    talk.write(talk.near, 1)
    talk.read(talk.far, 1)
    talk.far.send(b"back")
    (only,) = talk.write(talk.far, 1)
    assert (only.number, only.acknowledged) == (1, 1)


def test_a_flood_of_pings_is_answered_as_far_as_a_packet_goes() -> None:
    talk = Talk()
    pings = [wire.encode_control(wire.Ping(count, 0)) for count in range(4_000)]
    talk.far.session.receive(1, wire.decode_packet(wire.encode_packet(0, 0, pings)), 30, talk.now)
    answer = talk.far.session.next_packet(1, talk.now)
    assert answer is not None
    assert len(wire.decode_packet(answer).frames) == URGENT_FRAMES_MAX  # which says that it is no larger
    assert talk.far.session.next_packet(1, talk.now) is None
    talk.far.session.receive(1, packet(wire.Ping(7, 0)), 30, talk.now)
    again = talk.far.session.next_packet(1, talk.now)
    assert again is not None
    assert wire.decode_packet(again).frames == [wire.Pong(7)]
    largest = wire.encode_control(wire.Probed(*[wire.U64_MAX] * 3))
    assert wire.PACKET_HEADER_BYTES + URGENT_FRAMES_MAX * len(largest) <= wire.PACKET_BYTES_MAX


# Rules of the wire


@pytest.mark.parametrize("name", ["OPEN", *STREAM_FRAMES])
def test_what_must_arrive_is_numbered(name: str) -> None:
    frame = STREAM_FRAMES[name](2) if name != "OPEN" else wire.Open(1, 0, "", b"", 1)
    with pytest.raises(RemoteProtocolError, match="in an unnumbered packet"):
        Talk().near.session.receive(1, packet(frame), 50, 100.0)


def test_what_was_never_sent_cannot_be_acknowledged() -> None:
    talk = Talk()
    with pytest.raises(RemoteProtocolError, match="acknowledged packet 1"):
        talk.near.session.receive(1, packet(acknowledged=1), 16, talk.now)
    with pytest.raises(RemoteProtocolError, match="acknowledged packet 1"):
        talk.near.session.link_ready(2, 1, talk.now)


def test_unnumbered_packets_of_the_node_are_none_of_our_business() -> None:
    talk = Talk()
    info = wire.encode_info(talk.far.session.info("", b""))
    talk.near.session.receive(1, packet(info, wire.Goodbye(1, "")), 100, talk.now)
    assert talk.near.events == []


def test_who_asks_on_and_takes_no_answer_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brokerless.protocol.schedule.CONTROL_FRAMES_MAX", 100)
    far = Talk(Limits(offers_max=1)).far
    opens = [packet(wire.Open(2 * number, 0, "", b"", 0), number=number) for number in range(1, 103)]
    for one in opens[:-1]:
        far.session.receive(1, one, 30, 100.0)
    with pytest.raises(RemoteProtocolError, match="asks for more than it takes"):
        far.session.receive(1, opens[-1], 30, 100.0)


# Deadlines and liveness


def test_the_earliest_of_all_deadlines_is_next() -> None:
    talk = Talk()
    near = talk.near.session
    assert near.next_deadline() == 102.0  # idle: a ping after 2 s
    talk.near.send(b"single", deadline=100.5)
    assert near.next_deadline() == 100.5
    near.expire(100.5)
    assert near.next_deadline() == 102.0
    talk.near.send(b"single", deadline=104.0)
    assert near.lanes.is_waiting
    assert near.next_deadline() == 101.0  # something waits: after 1 s


def test_an_idle_pair_talks_little_and_nobody_is_suspected() -> None:
    talk = Talk()
    talk.wait(600.0)
    assert len(talk.sent) < 2 * 600 / 2 + 10
    assert not any(side.session.is_suspect for side in talk.sides)


def test_a_silent_peer_is_pinged_on_every_link_suspected_and_lost() -> None:
    talk = Talk(links=2)
    near = talk.near.session
    lost_at = None
    pings: dict[int, int] = {1: 0, 2: 0}
    while lost_at is None:
        now = near.next_deadline()
        assert now is not None
        if near.expire(now):
            lost_at = now
        for link in pings:
            while (data := near.next_packet(link, now)) is not None:
                pings[link] += sum(isinstance(frame, wire.Ping) for frame in wire.decode_packet(data).frames)
        assert near.is_suspect is (now >= 102.5)
    assert lost_at == 105.0
    assert pings[1] == pings[2] >= 5


def test_acknowledgements_and_answers_are_proof() -> None:
    talk = Talk()
    talk.near.send(b"single")
    talk.now = 101.0
    talk.pump()
    assert talk.near.session.liveness.unproven_s(101.0) == 0
    assert talk.far.session.liveness.unproven_s(101.0) == 1.0
    talk.now = 104.0
    talk.near.session.expire(104.0)
    talk.far.session.expire(104.0)
    talk.pump()
    assert talk.near.session.stats().rtt_s is not None
    assert talk.far.session.liveness.unproven_s(104.0) == 0


def test_a_greeting_on_a_new_link_is_proof_and_the_ping_is_asked_there_again() -> None:
    talk = Talk()
    near = talk.near.session
    for now in (101.0, 102.6, 104.0):
        near.expire(now)
    assert near.is_suspect
    near.link_ready(2, 0, 104.5)
    assert not near.is_suspect
    assert near.liveness.unproven_s(104.5) == 0
    [packet] = [wire.decode_packet(data) for data in iter(lambda: near.next_packet(2, 104.5), None)]
    assert [type(frame) for frame in packet.frames] == [wire.Ping]
    assert not near.expire(109.4)
    assert near.expire(109.5)


def test_the_round_trip_is_measured_by_pings_too() -> None:
    talk = Talk()
    talk.now = 102.0
    talk.expire()
    talk.write(talk.near, 1)
    talk.read(talk.far, 1)
    talk.write(talk.far, 1)
    talk.now = 102.3
    talk.read(talk.near, 1)
    assert talk.near.session.stats().rtt_s == pytest.approx(0.3)


# A stall of this process


def test_after_a_stall_nothing_is_delivered_before_the_peer_has_answered() -> None:
    talk = Talk()
    _, theirs = talk.opened()
    ours = talk.near.session.streams[theirs.id]
    for number in range(3):
        ours.send(b"%d" % number)
        talk.write(talk.near, 1)
    talk.now = 130.0
    talk.far.session.stalled(130.0)
    talk.read(talk.far, 1)
    assert talk.far.received(theirs) == []
    assert talk.far.session.next_deadline() == 130.0
    assert talk.write(talk.far, 1) == []  # nothing is acknowledged either
    talk.far.session.expire(130.0)
    assert [asked.acknowledged for asked in talk.write(talk.far, 1)] == [talk.far.session.received]
    talk.read(talk.near, 1)
    talk.write(talk.near, 1)
    talk.read(talk.far, 1)
    assert talk.far.received(theirs) == [b"0", b"1", b"2"]
    assert talk.far.session.stats().dropped == {}
    assert [answer.acknowledged for answer in talk.write(talk.far, 1)] == [talk.far.session.received]


def test_a_session_notices_by_itself_that_nobody_has_looked_at_it_for_long() -> None:
    talk = Talk()
    talk.now += 2.51
    talk.near.send(b"single")
    talk.write(talk.near, 1)
    talk.read(talk.far, 1)
    assert talk.far.session.liveness.is_confirming
    assert talk.far.singles == []
    assert talk.far.session.next_deadline() <= talk.now
    talk.expire()
    talk.pump()
    assert talk.far.singles == [b"single"]


def test_two_that_stood_still_together_confirm_each_other() -> None:
    talk = Talk()
    for side in talk.sides:
        side.send(b"before")
        talk.write(side, 1)
    talk.now = 130.0  # the host was suspended
    for side in talk.sides:
        side.session.stalled(130.0)
    for side in talk.sides:
        talk.read(side, 1)
        assert side.singles == []
    talk.expire()
    talk.pump()
    for side in talk.sides:
        assert not side.session.liveness.is_confirming
        assert side.singles == [b"before"]
        assert side.session.is_idle


def test_a_stall_is_no_reason_to_close_the_link() -> None:
    talk = Talk()
    talk.near.send(b"single")
    talk.write(talk.near, 1)
    talk.now = 104.0
    talk.near.session.stalled(104.0)
    assert talk.near.session.next_deadline() == 104.0
    talk.expire()
    assert talk.cuts == []
    talk.pump()
    talk.expire()  # nobody has called the far side for as long, so it asks, too
    talk.pump()
    assert talk.near.of_type(SendDone)[0].error is None


def test_an_answer_to_what_was_asked_before_the_stall_confirms_nothing() -> None:
    talk = Talk()
    talk.now = 102.0
    talk.expire()
    talk.write(talk.near, 1)
    talk.far.send(b"single")
    talk.write(talk.far, 1)  # a message
    talk.read(talk.far, 1)
    assert list(frames(talk.write(talk.far, 1))) == [wire.Pong(1)]
    talk.near.session.stalled(130.0)
    talk.now = 130.0
    talk.read(talk.near, 1)
    assert talk.near.session.liveness.is_confirming
    assert talk.near.singles == []


def test_what_was_held_is_dropped_and_counted_if_the_peer_has_given_up() -> None:
    talk = Talk()
    for number in range(3):
        talk.near.send(b"%d" % number)
        talk.write(talk.near, 1)
    talk.far.session.stalled(130.0)
    talk.read(talk.far, 1)
    talk.far.session.end(LOST)
    assert talk.far.session.stats().dropped == {DropCause.STALE: 3}
    assert talk.far.of_type(MessageReceived) == []


def test_a_ping_during_confirmation_is_answered_and_finds_nothing_missing() -> None:
    talk = Talk()
    talk.near.send(b"single")
    talk.write(talk.near, 1)
    talk.far.session.stalled(130.0)
    talk.read(talk.far, 1)
    talk.far.session.receive(1, packet(wire.Ping(5, 1)), 30, 130.0)
    assert list(frames(talk.write(talk.far, 1))) == [wire.Pong(5)]
    assert talk.far.session.links_to_cut == []


def test_what_is_held_is_bounded_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HELD_BYTES_MAX >= Limits().unacknowledged_bytes_max
    talk = Talk()
    for number in range(5):
        talk.near.send(b"%d" % number)
        talk.write(talk.near, 1)
    size = len(talk.sent[0][2])
    monkeypatch.setattr(module, "HELD_BYTES_MAX", 3 * size)
    talk.now = 130.0
    talk.far.session.stalled(130.0)
    talk.read(talk.far, 1)
    talk.near.session.stalled(130.0)
    talk.expire()
    talk.pump()
    assert talk.far.singles == [b"0", b"1", b"2"]
    talk.near.send(b"5")
    talk.pump()
    assert talk.cuts == ["packet 6 came after 3"]
    talk.link()
    talk.pump()
    assert talk.far.singles == [b"%d" % n for n in range(6)]


def test_what_is_held_is_counted_anew_after_it_was_released(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk()
    for turn in range(4):
        for number in range(2):
            talk.near.send(b"%d" % number)
            talk.write(talk.near, 1)
        monkeypatch.setattr(module, "HELD_BYTES_MAX", 2 * len(talk.sent[-1][2]))
        talk.now += 10.0
        talk.far.session.stalled(talk.now)
        talk.read(talk.far, 1)
        talk.far.session.expire(talk.now)
        talk.near.session.stalled(talk.now)
        talk.pump()
        assert len(talk.far.of_type(MessageReceived)) == 2 * (turn + 1)
        talk.near.session.expire(talk.now)
        talk.pump()
    assert talk.cuts == []


@pytest.mark.parametrize("doubt", ["stalled", "suspect"])
def test_a_new_link_asks_at_once_while_there_is_doubt(doubt: str) -> None:
    talk = Talk()
    if doubt == "stalled":
        talk.near.session.stalled(102.5)
    else:
        talk.near.session.expire(102.5)
    talk.now = 102.6
    talk.cut(1)
    number = talk.link()
    assert [type(frame) for frame in frames(talk.write(talk.near, number))] == [wire.Ping]
    calm = Talk()
    assert calm.write(calm.near, calm.link()) == []


def test_of_what_is_asked_again_the_round_trip_is_not_known() -> None:
    talk = Talk()
    talk.now = 102.0
    talk.expire()
    talk.write(talk.near, 1)
    talk.cut(1)  # with the ping
    talk.now = 102.4
    number = talk.link()
    assert list(frames(talk.write(talk.near, number))) == [wire.Ping(1, 0)]
    talk.pump()
    assert not talk.near.session.liveness.is_asking
    assert talk.near.session.stats().rtt_s is None


def test_packets_held_on_a_link_that_is_gone_are_delivered_all_the_same() -> None:
    talk = Talk()
    talk.near.send(b"single")
    talk.write(talk.near, 1)
    talk.far.session.stalled(101.0)
    talk.read(talk.far, 1)
    talk.now = 101.0
    talk.cut(1)
    talk.link()
    talk.pump()
    assert talk.far.singles == [b"single"]
    assert talk.far.session.stats().dropped == {DropCause.DUPLICATE: 1}


# The end


def test_the_end_ends_everything_once_and_nothing_follows() -> None:
    talk = Talk()
    ours, _ = talk.opened()
    ours.send(b"data")
    sent = talk.near.send(b"left")
    talk.write(talk.near, 1)
    talk.near.session.link_gone(1, talk.now)
    waiting = talk.near.send(b"did not leave")
    near = talk.near.session
    near.end(LOST)
    assert near.state is SessionState.ENDED
    assert near.links == ()
    assert near.streams == {}
    (ended,) = talk.near.of_type(StreamEnded)
    assert isinstance(ended.error, PeerLost)
    done = {event.send_id: event.error for event in talk.near.of_type(SendDone)}
    assert isinstance(done[sent], DeliveryUnknown)
    assert isinstance(done[sent].__cause__, PeerLost)
    assert isinstance(done[waiting], PeerLost)
    assert near.next_packet(1, talk.now) is None
    assert near.next_deadline() is None
    assert not near.expire(talk.now + 100)


def test_the_end_drops_links_that_are_there() -> None:
    talk = Talk(links=2)
    talk.near.send(b"single")
    talk.near.session.end(LOST)
    assert talk.near.session.current_link is None
    assert talk.near.session.links == ()
    assert talk.near.session.next_packet(2, talk.now) is None


def test_counters() -> None:
    talk = Talk(links=2)
    talk.opened()
    talk.near.send(b"single")
    talk.write(talk.near, 2)
    stats = talk.near.session.stats()
    sent = [data for side, _, data in talk.sent if side is talk.near]
    assert (stats.packets_sent, stats.bytes_sent) == (len(sent), sum(map(len, sent)))
    assert stats.streams_open == 1
    assert stats.links == 2
    assert stats.unacknowledged_bytes == len(sent[-1])
    received = [data for side, _, data in talk.sent if side is talk.far]
    assert (stats.packets_received, stats.bytes_received) == (len(received), sum(map(len, received)))
    assert (stats.packets_resent, stats.links_lost) == (0, 0)


def test_addresses_decide_who_is_the_lower() -> None:
    assert LOWER < HIGHER
    talk = Talk()
    assert talk.near.session.remote == HIGHER
    assert talk.far.session.remote == LOWER


# Datagrams


def test_info_tells_a_fresh_key_each_time_and_where_to_send() -> None:
    talk = Talk(Limits(datagram_message_bytes_max=5000), has_datagrams=True)
    near = talk.near.session
    near.datagrams.plane.pull_places = "127.0.0.1:9"
    infos = [near.info("", b"") for _ in range(3)]
    assert len({info.datagram_index for info in infos} - {0}) == 3
    assert len({info.datagram_key for info in infos}) == 3
    assert all(len(info.datagram_key) == 32 for info in infos)
    assert infos[0].datagram_message_bytes_max == 5000
    assert (infos[0].udp_places, infos[0].pull_places) == (str(talk.ports[0].place), "127.0.0.1:9")
    without = Talk().near.session.info("", b"")
    assert (without.datagram_index, without.datagram_key) == (0, b"")


def test_a_probe_is_answered_on_the_link_where_there_is_one() -> None:
    talk = Talk(has_datagrams=True)
    talk.ports[1].takes_udp = False
    talk.wait(1.0)
    assert talk.near.session.datagrams.path is DatagramPath.UDP
    assert talk.near.session.datagrams.round_trip_s is None
    assert talk.far.session.datagrams.path is DatagramPath.NONE
    apart = Talk(has_datagrams=True, links=0)
    apart.wait(1.0)
    assert apart.near.session.datagrams.path is DatagramPath.UDP
    assert apart.near.session.datagrams.round_trip_s == 0.0


def test_after_a_stall_that_nobody_has_told_of_datagrams_are_stale_until_the_peer_answers() -> None:
    talk = Talk(has_datagrams=True)
    talk.wait(1.0)
    talk.now += 0.6 * T
    for port in talk.ports:
        port.time = talk.now
    talk.near.session.datagrams.send(Kind.UNRELIABLE, 0, 0, b"from before")
    talk.carry()
    assert talk.far.session.dropped[DropCause.STALE] > 0
    assert talk.far.session.next_deadline() <= talk.now
    talk.expire()
    talk.pump()
    assert not talk.far.session.liveness.is_confirming
    talk.now += 0.01
    talk.ports[0].time = talk.now
    talk.near.session.datagrams.send(Kind.UNRELIABLE, 0, 0, b"from now")
    talk.carry()
    unread = talk.far.session.datagrams.plane.unread
    assert [message.data for message in iter(unread.take, None)] == [b"from now"]


def test_stats_tell_of_datagrams() -> None:
    talk = Talk(has_datagrams=True)
    talk.wait(1.0)
    for _ in range(10):
        talk.near.session.datagrams.send(Kind.UNRELIABLE, 0, 0, b"x")
    talk.ports[0].udp.pop()
    talk.carry()
    talk.wait(2.0)
    near, far = talk.near.session.stats(), talk.far.session.stats()
    assert near.datagrams_sent == far.datagrams_received + 1
    assert far.loss == near.loss_there == pytest.approx(1 / near.datagrams_sent, abs=0.03)
    assert near.datagram_rtt_s == pytest.approx(0.0)
    assert far.datagram_jitter_s is not None
    assert near.loss == 0.0


# Of others


def test_peers_are_told_of_others_in_order_and_once_whatever_becomes_of_links() -> None:
    talk = Talk(established=True, links=0)
    told = [wire.Met(bytes([number]) * 32, f"192.0.2.{number}:4000") for number in range(3)]
    talk.near.session.pass_on(told[0])  # no link yet
    assert not talk.near.woken
    link = talk.link()
    talk.pump()
    assert talk.far.heard == told[:1]
    talk.near.session.pass_on(told[1])
    assert talk.near.woken == {link}
    talk.write(talk.near, link)
    talk.cut(link)
    talk.near.session.pass_on(told[2])
    talk.link()
    talk.pump()
    assert talk.far.heard == told
    assert talk.near.session.is_idle


def test_who_does_not_listen_passes_over_what_it_is_told() -> None:
    talk = Talk()
    talk.far.session._hear = None
    talk.near.session.pass_on(wire.Met(bytes(32), ""))
    talk.pump()
    assert talk.far.session.received == 1
    assert talk.far.heard == []


def test_where_we_may_be_dialled_is_said_in_info() -> None:
    session = Talk().near.session
    assert session.info("", b"").tcp_places == ""
    assert session.info("", b"", "192.0.2.7:4000").tcp_places == "192.0.2.7:4000"
