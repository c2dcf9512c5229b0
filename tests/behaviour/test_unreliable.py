"""What may be lost, and what is promised of it all the same: contract, section 3, UNRELIABLE and SEQUENCED.

Even here a datagram may be lost, so scenarios send again what must arrive, and count nothing that need not.
"""

from __future__ import annotations

import concurrent.futures
import os
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from brokerless import (
    Address,
    BusClosed,
    ConfigError,
    DatagramPath,
    DropCause,
    EndOfStream,
    Limits,
    MessageTooLarge,
    PeerLost,
    Reliability,
    StreamClosed,
    StreamFinished,
    StreamRejected,
    StreamReset,
    UnknownPeer,
)
from brokerless.clock import now
from tests.behaviour.conftest import forget, introduce
from tests.behaviour.face import WAIT_S, AnyBus, AnyStream, Outcome, drain, error_of, get, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless import Message

    Pair = tuple[AnyBus, AnyBus]
    Ends = tuple[AnyStream, AnyStream]
    MakeBus = Callable[..., AnyBus]

T = TypeVar("T")

KIB = 1024
STRANGER = Address(bytes(range(32)))
RESEND_S = 3.0
"""Whoever got nothing by then is sent the same again: seldom, since what was only late then comes twice."""

CLOSED = StreamClosed | StreamReset | StreamFinished | BusClosed | PeerLost
"""What a command says that comes after the end, whichever side made it."""

pytestmark = pytest.mark.parametrize(
    "reliability", [Reliability.UNRELIABLE, Reliability.SEQUENCED], ids=["unreliable", "sequenced"]
)


def insist(
    send: Callable[[], Outcome[Any]], take: Callable[[], Outcome[T]], is_it: Callable[[T], bool]
) -> list[T]:
    """Send until what was meant has arrived; return all that was taken, with it at the end."""
    deadline = time.monotonic() + WAIT_S
    get(send())
    taken: list[T] = []
    taking = take()
    while True:
        try:
            taken.append(taking.result(RESEND_S))
        except concurrent.futures.TimeoutError:
            assert time.monotonic() < deadline, f"nothing came within {WAIT_S} s"
            get(send())
            continue
        if is_it(taken[-1]):
            return taken
        taking = take()


def tell(sender: AnyBus, receiver: AnyBus, data: Any, reliability: Reliability, channel: int = 0) -> Message:
    """Bring a single message across; return it as received."""
    return insist(
        lambda: sender.send(data, receiver.address, reliability, channel=channel),
        receiver.take_message,
        lambda message: message.data == bytes(data),
    )[-1]


def pass_on(sender: AnyStream, receiver: AnyStream, data: bytes) -> list[bytes]:
    """Bring a message across a stream; return all that was taken, with it at the end."""
    return insist(lambda: sender.send(data), receiver.receive, lambda message: message == data)


def connect(near: AnyBus, far: AnyBus, reliability: Reliability, name: str = "") -> Ends:
    """Open a stream, and return both ends."""
    opening = near.open(far.address, reliability, name=name)
    theirs = get(get(far.take_offer()).accept())
    return get(opening), theirs


@pytest.fixture
def ends(pair: Pair, reliability: Reliability) -> Ends:
    return connect(*pair, reliability)


def check_numbers(numbers: list[int], reliability: Reliability) -> None:
    """Hold what arrived to what is promised: nothing twice, and if sequenced nothing after what is newer."""
    assert len(set(numbers)) == len(numbers)
    if reliability is Reliability.SEQUENCED:
        assert numbers == sorted(numbers)


# Single messages


def test_a_message_says_whose_it_is_and_what(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    before = now()
    message = tell(near, far, b"hello", reliability, channel=2**32 - 1)
    assert (message.sender, message.channel, message.reliability) == (near.address, 2**32 - 1, reliability)
    assert before <= message.received_at <= now()
    assert type(message.data) is bytes
    assert tell(far, near, b"and back", reliability).sender == far.address


@pytest.mark.parametrize("size_bytes", [0, 1, 1_100, 1_200, 5_000, 64 * KIB])
def test_messages_of_all_sizes_arrive_whole(pair: Pair, reliability: Reliability, size_bytes: int) -> None:
    near, far = pair
    tell(near, far, os.urandom(size_bytes), reliability)
    tell(far, near, os.urandom(size_bytes), reliability)


def test_any_buffer_is_sent_as_its_bytes(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    for data in (bytearray(b"array"), memoryview(b"view")):
        assert type(tell(near, far, data, reliability).data) is bytes


def test_many_messages_arrive_at_most_once_each_and_sequenced_ones_never_late(
    pair: Pair, reliability: Reliability
) -> None:
    near, far = pair
    for number in range(500):
        get(near.send(b"%d %d" % (number % 3, number), far.address, reliability, channel=number % 3))
    arrived = insist(
        lambda: near.send(b"3 500", far.address, reliability, channel=3),
        far.take_message,
        lambda message: message.channel == 3,
    )
    numbers = [tuple(int(part) for part in message.data.split()) for message in arrived]
    assert [message.channel for message in arrived] == [channel for channel, _ in numbers]
    assert len(arrived) > 1
    for channel in range(3):
        check_numbers([number for of, number in numbers if of == channel], reliability)


def test_a_message_over_the_limit_is_refused_at_the_call(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    for size_bytes in (64 * KIB + 1, 10_000_000):
        error = error_of(near.send(bytes(size_bytes), far.address, reliability))
        assert isinstance(error, MessageTooLarge)
        assert "65536" in str(error)
    tell(near, far, b"next", reliability)


@pytest.mark.parametrize("small", ["near", "far"])
def test_either_sides_limit_holds(make_bus: MakeBus, reliability: Reliability, small: str) -> None:
    limits = {small: {"limits": Limits(datagram_message_bytes_max=5_000)}}
    near, far = introduce(*(make_bus(name, **limits.get(name, {})) for name in ("near", "far")))
    for sender, receiver in ((near, far), (far, near)):
        error = error_of(sender.send(bytes(5_001), receiver.address, reliability))
        assert isinstance(error, MessageTooLarge)
        tell(sender, receiver, bytes(5_000), reliability)
    ours, theirs = connect(near, far, reliability)
    for end, other in ((ours, theirs), (theirs, ours)):
        assert isinstance(error_of(end.send(bytes(5_001))), MessageTooLarge)
        pass_on(end, other, bytes(5_000))


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"data": "text"}, TypeError, "data: expected bytes"),
        ({"data": None}, TypeError, "data: expected bytes"),
        ({"channel": -1}, ConfigError, "channel"),
        ({"channel": 2**32}, ConfigError, "channel"),
        ({"timeout": -1}, ConfigError, "timeout"),
        ({"to": "far"}, TypeError, "to: expected a DittoAddress or a Peer"),
        ({"to": STRANGER}, UnknownPeer, ""),
    ],
)
def test_what_cannot_be_sent(
    pair: Pair, reliability: Reliability, arguments: dict[str, Any], kind: type, says: str
) -> None:
    near, far = pair
    error = error_of(
        near.send(**{"data": b"data", "to": far.address, "reliability": reliability, **arguments})
    )
    assert isinstance(error, kind)
    assert says in str(error)
    tell(near, far, b"next", reliability)


def test_who_has_left_is_told_so(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    tell(near, far, b"here", reliability)
    presence = near.presence()
    get(far.close())
    presence.wait_until(lambda presence: presence.lost)
    forget(near, far)
    for _ in range(2):
        assert isinstance(error_of(near.send(b"to nobody", far.address, reliability)), PeerLost | UnknownPeer)


def test_a_closed_bus_sends_nothing(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    get(near.close())
    assert isinstance(error_of(near.send(b"late", far.address, reliability)), BusClosed)


def test_messages_to_several_peers_are_of_no_concern_to_each_other(
    make_bus: MakeBus, reliability: Reliability
) -> None:
    hub, *others = (make_bus(name) for name in ("hub", "one", "two"))
    for number, other in enumerate(others):
        introduce(hub, other)
        tell(hub, other, b"to %d" % number, reliability)
    for number, other in enumerate(others):
        assert tell(other, hub, b"from %d" % number, reliability).sender == other.address


# Beside what is reliable


def test_they_pass_a_reliable_stream_that_nobody_reads(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    full, _ = connect(near, far, Reliability.RELIABLE)
    sends = [full.send(bytes(45_000)) for _ in range(40)]
    until(lambda: full.stats().send_queue_messages > 0)
    ours, theirs = connect(near, far, reliability)
    tell(near, far, b"not behind it", reliability)
    pass_on(ours, theirs, b"nor is this")
    assert full.stats().send_queue_messages > 0
    get(full.abort())
    for outcome in sends:
        error_of(outcome)


def test_the_path_and_its_quality_are_shown(pair: Pair, reliability: Reliability) -> None:
    near, far = pair

    def is_measured() -> bool:
        tell(near, far, b"%d" % time.monotonic_ns(), reliability)
        ours, theirs = near.peer(far.address), far.peer(near.address)
        assert ours is not None
        assert theirs is not None
        return ours.path.datagram is DatagramPath.UDP and theirs.loss is not None

    until(is_measured)
    peer = far.peer(near.address)
    assert peer is not None
    assert peer.loss is not None
    assert 0 <= peer.loss <= 1


# Who does not read


def settle(near: AnyBus, far: AnyBus) -> None:
    """Wait until datagrams go by UDP, and so on: those on another way may come later than newer ones."""

    def is_settled() -> bool:
        peer = near.peer(far.address)
        return peer is not None and peer.path.datagram is DatagramPath.UDP

    until(is_settled)


def overflow(send: Callable[[bytes], Outcome[Any]], receiver: AnyBus) -> int:
    """Send until so many are known to be dropped there; return how many were sent."""
    sent = 0

    def is_dropping() -> bool:
        nonlocal sent
        for _ in range(10):  # few at a time: the question lets the receiver keep up with the network
            get(send(b"%1000d" % sent))
            sent += 1
        return receiver.stats().dropped.get(DropCause.RECEIVE_QUEUE_FULL, 0) >= 20

    def have_come() -> bool:
        stats = receiver.stats()
        lost = [stats.dropped.get(cause, 0) for cause in (DropCause.LATE, DropCause.STALE)]
        return stats.traffic.messages_received + sum(lost) >= sent

    until(is_dropping)
    until(have_come)  # none is on its way any more
    return sent


def check_newest(arrived: list[int], sent: int, queue_bytes_max: int, reliability: Reliability) -> None:
    """Hold what was kept to what is promised: the newest that fit.

    One more was in the application's hands, and perhaps another when the last came.
    """
    check_numbers(arrived, reliability)
    kept = arrived[1:]
    assert 5 < len(kept) <= queue_bytes_max // 1000 + 1
    assert min(kept) >= 20
    assert max(kept) == sent


def test_who_does_not_read_loses_the_oldest_messages(make_bus: MakeBus, reliability: Reliability) -> None:
    limits = Limits(unreliable_queue_bytes_max=32 * KIB)
    near, far = introduce(make_bus("near"), make_bus("far", limits=limits))
    settle(near, far)
    sent = overflow(lambda data: near.send(data, far.address, reliability), far)
    arrived = insist(
        lambda: near.send(b"%1000d" % sent, far.address, reliability),
        far.take_message,
        lambda message: int(message.data) == sent,
    )
    check_newest([int(message.data) for message in arrived], sent, 32 * KIB, reliability)
    assert tell(near, far, b"read again", reliability).sender == near.address


def test_who_does_not_read_a_stream_loses_its_oldest_and_nothing_else(
    make_bus: MakeBus, reliability: Reliability
) -> None:
    limits = Limits(unreliable_queue_bytes_max=32 * KIB)
    near, far = introduce(make_bus("near"), make_bus("far", limits=limits))
    ours, theirs = connect(near, far, reliability)
    other_ours, other_theirs = connect(near, far, reliability)
    settle(near, far)
    sent = overflow(ours.send, far)
    pass_on(other_ours, other_theirs, b"of no concern")
    tell(near, far, b"of no concern either", reliability)
    arrived = [int(message) for message in pass_on(ours, theirs, b"%1000d" % sent)]
    check_newest(arrived, sent, 32 * KIB, reliability)
    pass_on(ours, theirs, b"read again")


# Streams


def test_both_ends_know_what_was_agreed(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    opening = near.open(far.address, reliability, name="video", metadata=b"1080p")
    offer = get(far.take_offer())
    assert (offer.offer.name, offer.offer.metadata) == ("video", b"1080p")
    assert offer.offer.reliability is reliability
    theirs = get(offer.accept(b"720p"))
    ours = get(opening)
    for end, peer in ((ours.stream, far.address), (theirs.stream, near.address)):
        assert (end.peer, end.name, end.metadata, end.reply_metadata) == (peer, "video", b"1080p", b"720p")
        assert end.reliability is reliability
    pass_on(ours, theirs, b"there")
    pass_on(theirs, ours, b"and back")


def test_either_side_may_open(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    for opener, acceptor in ((near, far), (far, near)):
        ours, theirs = connect(opener, acceptor, reliability)
        pass_on(ours, theirs, b"there")
        pass_on(theirs, ours, b"and back")


def test_a_rejection_tells_code_and_reason(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    opening = near.open(far.address, reliability)
    get(get(far.take_offer()).reject(7, "not now"))
    error = error_of(opening)
    assert isinstance(error, StreamRejected)
    assert (error.code, error.reason) == (7, "not now")


def test_no_stream_to_who_is_unknown(pair: Pair, reliability: Reliability) -> None:
    near, _ = pair
    for stranger in (STRANGER, near.address):
        assert isinstance(error_of(near.open(stranger, reliability)), UnknownPeer)


def test_a_bound_name_gets_its_stream(pair: Pair, reliability: Reliability) -> None:
    near, far = pair
    taken: list[AnyStream] = []
    get(far.bind("stick", lambda stream, peer: taken.append(stream)))
    ours = get(near.open(far.address, reliability, name="stick"))
    until(lambda: taken)
    assert taken[0].stream.reliability is reliability
    pass_on(ours, taken[0], b"left")


@pytest.mark.parametrize("size_bytes", [0, 1, 1_200, 64 * KIB])
def test_messages_of_a_stream_arrive_whole(ends: Ends, size_bytes: int) -> None:
    for sender, receiver in (ends, ends[::-1]):
        pass_on(sender, receiver, os.urandom(size_bytes))


def test_messages_of_a_stream_are_numbered_and_counted(ends: Ends) -> None:
    ours, theirs = ends
    assert [get(ours.send(b"%d" % number)) for number in range(5)] == [1, 2, 3, 4, 5]
    pass_on(ours, theirs, b"last")
    sent, received = ours.stats(), theirs.stats()
    assert received.messages_received <= sent.messages_sent
    assert sent.messages_sent >= 6
    assert sent.bytes_sent >= 5 + 4
    assert (sent.send_queue_messages, sent.send_queue_bytes) == (0, 0)


def test_many_messages_of_a_stream_arrive_at_most_once_each_and_sequenced_ones_never_late(
    ends: Ends, reliability: Reliability
) -> None:
    for sender, receiver in (ends, ends[::-1]):
        for number in range(500):
            get(sender.send(b"%d" % number))
        arrived = [int(message) for message in pass_on(sender, receiver, b"500")]
        assert len(arrived) > 1
        check_numbers(arrived, reliability)


def test_a_message_of_a_stream_over_the_limit_is_refused_at_the_call(ends: Ends) -> None:
    for sender, receiver in (ends, ends[::-1]):
        assert isinstance(error_of(sender.send(bytes(64 * KIB + 1))), MessageTooLarge)
        pass_on(sender, receiver, b"next")


def test_finishing_ends_one_side_only(ends: Ends) -> None:
    ours, theirs = ends
    pass_on(ours, theirs, b"before")
    get(ours.finish())
    assert isinstance(error_of(ours.send(b"later")), StreamFinished)
    assert isinstance(drain(theirs), EndOfStream)
    assert isinstance(error_of(theirs.receive()), EndOfStream)  # and again
    pass_on(theirs, ours, b"still here")
    get(theirs.finish())
    assert isinstance(drain(ours), EndOfStream)


def test_a_close_ends_both_directions(ends: Ends) -> None:
    ours, theirs = ends
    pass_on(ours, theirs, b"there")
    pass_on(theirs, ours, b"and back")
    closing = ours.close()
    assert isinstance(drain(theirs), EndOfStream | StreamClosed)
    get(closing)
    assert isinstance(error_of(theirs.send(b"late")), CLOSED)
    assert isinstance(error_of(ours.send(b"late")), CLOSED)


def test_an_abort_tells_code_and_reason(ends: Ends) -> None:
    ours, theirs = ends
    pass_on(ours, theirs, b"there")
    get(ours.abort(7, "enough"))
    error = drain(theirs)
    assert isinstance(error, StreamReset)
    assert (error.code, error.reason) == (7, "enough")
    assert isinstance(error_of(theirs.send(b"late")), CLOSED)


def test_streams_end_with_their_peer(pair: Pair, ends: Ends) -> None:
    _, far = pair
    ours, theirs = ends
    pass_on(ours, theirs, b"there")
    get(far.close(timeout=0))
    assert isinstance(drain(ours), CLOSED | EndOfStream)
    assert isinstance(error_of(ours.send(b"to nobody")), CLOSED)


def test_a_stream_that_ends_disturbs_no_other(pair: Pair, ends: Ends, reliability: Reliability) -> None:
    others = [connect(*pair, reliability), connect(*pair[::-1], reliability)]
    get(ends[0].abort())
    for ours, theirs in others:
        pass_on(ours, theirs, b"there")
        pass_on(theirs, ours, b"and back")
