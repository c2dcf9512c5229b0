"""A stream of datagrams: opened and closed like any other, and nothing of it ever waits."""

from __future__ import annotations

from typing import Any

import pytest

from brokerless.config import Limits
from brokerless.errors import (
    MessageTooLarge,
    NoPath,
    PeerLost,
    RemoteProtocolError,
    SendQueueFull,
    StreamClosed,
    StreamFinished,
    StreamRejected,
    StreamReset,
    UsageError,
)
from brokerless.model import (
    DropCause,
    Reliability,
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamMessages,
    StreamOpened,
    UnreliableWaiting,
)
from brokerless.protocol import wire
from brokerless.protocol.datagram import Kind
from brokerless.protocol.datagram_stream import DatagramStream
from brokerless.protocol.datagrams import SINGLE
from tests.protocol.talk import Side, Talk, packet

KIB = 1024

KINDS = pytest.mark.parametrize("reliability", [Reliability.UNRELIABLE, Reliability.SEQUENCED])


def datagram_talk(limits: Limits | None = None) -> Talk:
    """Return two sessions whose UDP path is proven, with no probe due at once."""
    talk = Talk(limits, has_datagrams=True)
    talk.wait(1.0)
    for side in talk.sides:
        side.session.datagrams.send(Kind.UNRELIABLE, SINGLE, 0, b"begins a demand")
    talk.pump()
    for side in talk.sides:
        assert side.session.datagrams.plane.unread.take() is not None
        side.events.clear()
    return talk


def opened(
    talk: Talk, reliability: Reliability = Reliability.UNRELIABLE
) -> tuple[DatagramStream, DatagramStream]:
    ours, theirs = talk.opened("game", reliability)
    assert isinstance(ours, DatagramStream)
    assert isinstance(theirs, DatagramStream)
    return ours, theirs


def taken(stream: DatagramStream) -> list[bytes]:
    messages = []
    while (data := stream.unread.take()) is not None:
        messages.append(data)
    return messages


def waiting(side: Side, stream: DatagramStream) -> int:
    return len([event for event in side.of_type(UnreliableWaiting) if event.stream is stream])


def ended(side: Side) -> list[Any]:
    return [event.error for event in side.of_type(StreamEnded)]


@KINDS
def test_messages_go_both_ways_without_receipts_and_leave_at_once(reliability: Reliability) -> None:
    talk = datagram_talk()
    ours, theirs = opened(talk, reliability)
    assert ours.reliability is theirs.reliability is reliability
    assert (theirs.name, ours.room) == ("game", 64 * KIB)
    assert [ours.send(b"a"), ours.send(bytes(64 * KIB)), ours.send(b"")] == [1, 2, 3]
    assert ours.last_sequence == ours.sent_sequence == 3
    assert len(talk.ports[0].udp) == 60
    theirs.send(b"back")
    talk.pump()
    assert taken(theirs) == [b"a", bytes(64 * KIB), b""]
    assert taken(ours) == [b"back"]
    assert (waiting(talk.far, theirs), waiting(talk.near, ours)) == (1, 1)
    assert talk.near.of_type(StreamAcknowledged) == talk.far.of_type(StreamMessages) == []
    sent, received = ours.stats(), theirs.stats()
    assert (sent.messages_sent, sent.bytes_sent, sent.messages_received) == (3, 64 * KIB + 1, 1)
    assert (received.messages_received, received.bytes_received) == (3, 64 * KIB + 1)


def test_what_waits_and_what_was_dropped_is_seen() -> None:
    talk = datagram_talk(Limits(unreliable_queue_bytes_max=10 * 1064))
    ours, theirs = opened(talk)
    for _ in range(12):
        ours.send(bytes(1000))
    talk.pump()
    stats = theirs.stats()
    assert (stats.unconsumed_messages, stats.unconsumed_bytes) == (10, 10_000)
    assert stats.dropped == {DropCause.RECEIVE_QUEUE_FULL: 2}
    talk.ports[0].takes_udp = False
    for number in (13, 14):
        with pytest.raises(SendQueueFull):
            ours.send(b"x")
        assert ours.last_sequence == number
    assert ours.stats().dropped == {DropCause.SEND_QUEUE_FULL: 2}
    assert ours.stats().messages_sent == 12


def test_a_face_may_hand_over_what_it_has_accepted_and_is_told_nothing() -> None:
    talk = datagram_talk()
    ours, theirs = opened(talk)
    assert ours.make_room(10**6) > 0
    ours.send_all([b"a", bytes(65 * KIB), b"b"])
    talk.pump()
    assert taken(theirs) == [b"a", b"b"]
    ours.finish()
    assert ours.make_room(1) == -1
    ours.send_all([b"too late"])
    talk.pump()
    assert taken(theirs) == []


@pytest.mark.parametrize("data", ["text", bytearray(b"x"), None])
def test_a_message_is_bytes_within_the_limit(data: Any) -> None:
    ours, _ = opened(datagram_talk())
    with pytest.raises(TypeError, match="a message is bytes"):
        ours.send(data)
    with pytest.raises(MessageTooLarge):
        ours.send(bytes(64 * KIB + 1))


def test_without_a_path_a_send_says_so() -> None:
    talk = Talk()
    ours, _ = opened(talk)
    with pytest.raises(NoPath):
        ours.send(b"x")
    assert ours.stats().dropped == {DropCause.NO_PATH: 1}


def test_an_offer_may_be_sent_on_and_what_arrives_waits_for_its_acceptance() -> None:
    talk = datagram_talk()
    ours = talk.near.open("game", reliability=Reliability.UNRELIABLE)
    assert isinstance(ours, DatagramStream)
    ours.send(b"overtakes its offer")
    talk.carry()
    talk.pump()
    (theirs,) = talk.far.offered
    assert isinstance(theirs, DatagramStream)
    ours.send(b"early")
    ours.send(b"too")
    talk.pump()
    assert waiting(talk.far, theirs) == 0
    with pytest.raises(UsageError, match="is not accepted"):
        theirs.send(b"x")
    assert theirs.room == 0
    assert theirs.make_room(1) == -1
    talk.far.session.lanes.accept(theirs, b"reply")
    kinds = [type(event) for event in talk.far.events]
    assert kinds[-2:] == [StreamOpened, UnreliableWaiting]
    assert taken(theirs) == [b"early", b"too"]
    assert talk.far.session.dropped == {DropCause.STALE: 1}
    talk.pump()
    assert ours.reply_metadata == b"reply"


def test_the_answer_may_be_overtaken_by_the_first_message() -> None:
    talk = datagram_talk()
    ours = talk.near.open(reliability=Reliability.SEQUENCED)
    assert isinstance(ours, DatagramStream)
    talk.pump()
    (theirs,) = talk.far.offered
    talk.far.session.lanes.accept(theirs, b"")
    theirs.send(b"first")
    talk.carry()
    assert waiting(talk.near, ours) == 0
    talk.pump()
    assert waiting(talk.near, ours) == 1
    assert taken(ours) == [b"first"]


def test_an_offer_may_be_rejected() -> None:
    talk = datagram_talk()
    ours = talk.near.open(reliability=Reliability.UNRELIABLE)
    talk.pump()
    talk.far.offered[0].reject(5, "no")
    talk.pump()
    (error,) = ended(talk.near)
    assert isinstance(error, StreamRejected)
    with pytest.raises(StreamRejected):
        ours.send(b"x")


@KINDS
def test_both_finish_and_it_is_a_clean_end(reliability: Reliability) -> None:
    talk = datagram_talk()
    ours, theirs = opened(talk, reliability)
    ours.send(b"last")
    ours.finish()
    with pytest.raises(StreamFinished):
        ours.send(b"x")
    assert ours.room == 0
    talk.carry()
    talk.pump()
    assert talk.far.of_type(StreamFinishedReceiving)
    assert taken(theirs) == [b"last"]
    theirs.send(b"still")
    talk.pump()
    assert taken(ours) == [b"still"]
    theirs.finish()
    talk.pump()
    assert ended(talk.near) == ended(talk.far) == [None]
    assert talk.near.session.streams == talk.far.session.streams == {}
    with pytest.raises(StreamFinished):
        ours.send(b"x")


def test_what_its_end_has_overtaken_is_late() -> None:
    talk = datagram_talk()
    ours, theirs = opened(talk)
    ours.send(b"slow")
    (slow,) = talk.ports[0].taken()
    ours.finish()
    talk.pump()
    talk.far.session.datagrams.plane.udp_received(talk.ports[0].place, slow, talk.now)
    assert taken(theirs) == []
    assert talk.far.session.dropped == {DropCause.LATE: 1}


def test_close_ends_both_directions() -> None:
    talk = datagram_talk()
    ours, theirs = opened(talk)
    ours.close(talk.now + 5.0)
    talk.pump()
    assert isinstance(theirs.send_error, StreamClosed)
    with pytest.raises(StreamClosed):
        theirs.send(b"x")
    talk.pump()
    assert ended(talk.near) == [None]
    theirs.close()
    talk.pump()
    assert ended(talk.far) == [None]


def test_abort_and_the_end_of_the_session_end_it_at_once() -> None:
    talk = datagram_talk()
    ours, theirs = opened(talk)
    ours.abort(7, "crash")
    talk.pump()
    (error,) = ended(talk.far)
    assert isinstance(error, StreamReset)
    assert error.code == 7
    second, _ = opened(talk)
    talk.near.session.end(PeerLost(reason="silent"))
    assert isinstance(ended(talk.near)[-1], PeerLost)
    with pytest.raises(PeerLost):
        second.send(b"x")
    assert not theirs.arrived(b"x")


def test_nothing_is_consumed_of_it() -> None:
    talk = datagram_talk()
    ours, theirs = opened(talk)
    ours.send(b"x")
    talk.pump()
    with pytest.raises(UsageError, match="consume"):
        theirs.consume(1)


@pytest.mark.parametrize(
    "frame",
    [
        wire.encode_data(1, 1, 0, [b""]),
        wire.encode_data(1, 1, 0, [b"reliable"]),
        wire.encode_chunk(wire.Chunk(1, 1, 0, 70_000, 0, bytes(100))),
        wire.encode_control(wire.Blocked(1, 1000)),
        wire.encode_control(wire.Finish(1, 1)),
        wire.encode_control(wire.Close(1, 1)),
    ],
)
def test_reliable_messages_on_it_are_a_breach(frame: bytes) -> None:
    talk = datagram_talk()
    number = talk.far.session.received + 1
    talk.far.session.receive(1, packet(wire.Open(2, 1, "", b"", 0), number=number), 1, talk.now)
    talk.far.session.lanes.accept(talk.far.offered[0], b"")
    its_own = bytearray(frame)
    if frame[0] == wire.DATA_CODE or frame[0] == wire.CHUNK_CODE:
        its_own[5:13] = (2).to_bytes(8, "big")
    else:
        its_own[6] = 2
    with pytest.raises(RemoteProtocolError, match="stream 2"):
        talk.far.session.receive(1, packet(bytes(its_own), number=number + 1), 1, talk.now)


def test_a_late_blocked_is_ignored_once_it_is_over() -> None:
    talk = datagram_talk()
    ours, _ = opened(talk)
    ours.abort()
    ours.on_blocked(wire.Blocked(ours.id, 1000))
    assert len(ended(talk.near)) == 1


def test_credit_from_the_other_side_changes_nothing() -> None:
    talk = datagram_talk()
    ours, theirs = opened(talk)
    ours.on_grant(wire.Grant(ours.id, 10**6, 0))
    ours.send(b"x")
    talk.pump()
    assert taken(theirs) == [b"x"]


@KINDS
def test_messages_without_content_are_bounded_too(reliability: Reliability) -> None:
    talk = datagram_talk(Limits(unreliable_queue_bytes_max=6400))
    ours, theirs = opened(talk, reliability)
    for _ in range(150):
        ours.send(b"")
    talk.pump()
    stats = theirs.stats()
    assert (stats.messages_received, stats.unconsumed_messages, stats.unconsumed_bytes) == (150, 100, 0)
    assert stats.dropped == {DropCause.RECEIVE_QUEUE_FULL: 50}
