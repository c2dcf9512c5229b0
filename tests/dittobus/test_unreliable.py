"""What may be lost, in the delegate style."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from brokerless import (
    DatagramPath,
    DropCause,
    Limits,
    MessageTooLarge,
    NoPath,
    Reliability,
    SendQueueFull,
    StreamFinished,
    StreamReset,
    UnknownPeer,
)
from brokerless.protocol.datagrams import MESSAGE_COST_BYTES, Datagrams
from dittobus import DispatchQueue, DittoBus, DittoBusStream
from tests.dittobus.recording import WAIT_S, BusRecorder, Log, StreamRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless import Peer

    MakeBus = Callable[..., DittoBus]
    Pair = tuple[DittoBus, DittoBus, BusRecorder]
    Ends = tuple[DittoBusStream, StreamRecorder, DittoBusStream, StreamRecorder]


@pytest.fixture
def ends(pair: Pair) -> Ends:
    """An open stream: our end with its recorder, their end with its."""
    near, far, recorder = pair
    ours = near.open_stream(far.address, Reliability.UNRELIABLE, name="test").result(WAIT_S)
    our_recorder = StreamRecorder()
    ours.delegate = our_recorder
    theirs, their_recorder = recorder.wait_for_stream()
    return ours, our_recorder, theirs, their_recorder


@pytest.fixture
def no_path(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function from which on nobody reaches anybody."""

    def cut() -> None:
        monkeypatch.setattr(Datagrams, "path", DatagramPath.NONE)
        monkeypatch.setattr(Datagrams, "_transmit", lambda self, targets, plain: False)

    return cut


def reached_by_udp(peer: Peer) -> bool:
    """Whether datagrams go by UDP, and so on: those on another way may come later than newer ones."""
    return peer.path.datagram is DatagramPath.UDP


def pass_on(sender: DittoBusStream, recorder: StreamRecorder, data: bytes) -> None:
    """Send until it has arrived: even here a datagram may be lost."""
    before = recorder.log.of("message").count(data)
    arrived = threading.Event()

    def look() -> bool:
        if recorder.log.of("message").count(data) > before:
            arrived.set()
        return arrived.is_set()

    for _ in range(20):
        sender.send(data).result(WAIT_S)
        with recorder.log._changed:
            if recorder.log._changed.wait_for(look, 0.5):
                return
    raise AssertionError("nothing arrives")


def test_a_single_message_that_finds_no_way_fails_by_its_outcome(
    pair: Pair, no_path: Callable[[], None]
) -> None:
    near, far, _ = pair
    log = Log()
    no_path()
    sending = near.send(b"x", far.address, Reliability.UNRELIABLE, completion=lambda e: log.add("done", e))
    assert isinstance(sending.exception(WAIT_S), NoPath)
    assert isinstance(log.wait("done"), NoPath)
    assert near.peer_stats(far.address).dropped[DropCause.NO_PATH] == 1


def test_single_messages_are_checked_at_the_call(make_bus: MakeBus) -> None:
    limits = Limits(datagram_message_bytes_max=5_000)
    near, far = make_bus("near"), make_bus("far", limits=limits, delegate=BusRecorder())
    near.wait_for_peer("far").result(WAIT_S)
    far.wait_for_peer("near").result(WAIT_S)
    with pytest.raises(MessageTooLarge, match="5000"):
        far.send(bytes(5_001), near.address, Reliability.SEQUENCED)
    with pytest.raises(MessageTooLarge, match="65536"):
        near.send(bytes(65_537), far.address, Reliability.SEQUENCED)
    error = near.send(bytes(5_001), far.address, Reliability.SEQUENCED).exception(WAIT_S)
    assert isinstance(error, MessageTooLarge)  # which only their limit forbids
    ours = near.open_stream(far.address, Reliability.SEQUENCED).result(WAIT_S)
    with pytest.raises(MessageTooLarge, match="5000"):
        ours.send(bytes(5_001))
    with pytest.raises(MessageTooLarge, match="5000"):
        ours.enqueue_message(bytes(5_001))
    ours.abort()


def test_a_stream_is_always_ready_and_tells_of_each_message(
    ends: Ends, no_path: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, our_recorder, _, their_recorder = ends
    assert ours.is_ready
    assert [ours.enqueue_message(b"%d" % number) for number in range(3)] == [1, 2, 3]
    assert ours.is_ready
    our_recorder.log.wait_until(lambda: (3, None) in our_recorder.log.of("enqueued"))
    ours.stats()  # all before has been transmitted
    no_path()
    assert ours.enqueue_message(b"x") == 4
    our_recorder.log.wait_until(lambda: our_recorder.log.of("enqueued")[-1][0] == 4)
    assert isinstance(our_recorder.log.of("enqueued")[-1][1], NoPath)
    error = ours.send(b"x").exception(WAIT_S)
    assert isinstance(error, NoPath)
    monkeypatch.undo()
    assert ours.send(b"on").result(WAIT_S) == 6
    pass_on(ours, their_recorder, b"through")
    assert ours.stats().dropped == {DropCause.NO_PATH: 2}
    assert not our_recorder.log.of("receipt")


def test_what_the_network_does_not_take_now_is_told(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, *_ = ends
    monkeypatch.setattr(Datagrams, "_transmit", lambda self, targets, plain: False)
    assert isinstance(ours.send(b"x", timeout=5.0).exception(WAIT_S), SendQueueFull)


def test_what_the_io_thread_has_not_seen_is_bounded(ends: Ends) -> None:
    ours, *_ = ends
    release, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(WAIT_S)

    ours._ground.io.post(hold)
    assert held.wait(WAIT_S)
    for _ in range(ours._ground.limits.send_queue_bytes_max // 65_536):
        ours.enqueue_message(bytes(65_472))
    with pytest.raises(SendQueueFull):
        ours.enqueue_message(b"one more")
    with pytest.raises(SendQueueFull):
        ours.send(bytes(60_000))
    ours.finish()
    with pytest.raises(StreamFinished):
        ours.enqueue_message(b"late")
    release.set()


def test_all_that_came_is_told_before_the_end(ends: Ends) -> None:
    ours, our_recorder, theirs, their_recorder = ends
    pass_on(ours, their_recorder, b"x")
    theirs.delegate = None  # so that more waits
    for _ in range(10):
        ours.send(b"y").result(WAIT_S)
    while theirs.stats().messages_received < ours.stats().messages_sent:
        pass  # the end may overtake what may be lost
    ours.finish()
    later = StreamRecorder()
    theirs.delegate = later
    later.log.wait("finished")
    heard = [word for word, *_ in later.log.all]
    assert heard[-1] == "finished"
    assert heard.count("message") >= 10
    theirs.close()
    assert our_recorder.log.wait("closed") is None
    assert later.log.wait("closed") is None


def test_a_stream_without_a_delegate_keeps_what_fits_and_tells_it_before_its_close(make_bus: MakeBus) -> None:
    recorder = BusRecorder()
    near = make_bus("near")
    far = make_bus("far", delegate=recorder, limits=Limits(unreliable_queue_bytes_max=10_640))
    near.wait_for_peer(reached_by_udp).result(WAIT_S)
    ours = near.open_stream(far.address, Reliability.SEQUENCED).result(WAIT_S)
    theirs, _ = recorder.wait_for_stream()
    theirs.delegate = None
    for number in range(50):
        ours.send(b"%1000d" % number).result(WAIT_S)
    while theirs.stats().messages_received < 50:
        pass
    assert theirs.stats().dropped == {DropCause.RECEIVE_QUEUE_FULL: 40}
    ours.abort(7)
    later = StreamRecorder()
    theirs.delegate = later
    error = later.log.wait("closed")
    assert isinstance(error, StreamReset)
    assert [int(message) for message in later.log.of("message")] == list(range(40, 50))


def test_a_closing_stream_tells_no_more_messages(ends: Ends) -> None:
    ours, our_recorder, theirs, _ = ends
    ours.delegate = None
    theirs.send(b"x").result(WAIT_S)
    while ours.stats().messages_received < theirs.stats().messages_sent:
        pass
    ours.close()
    ours.delegate = our_recorder
    our_recorder.log.wait("closed")
    assert not our_recorder.log.of("message")


def test_a_queue_rests_when_all_messages_of_a_stream_are_told(pair: Pair) -> None:
    near, far, recorder = pair
    queue, our_recorder = DispatchQueue.manual(), StreamRecorder()
    ours = near.open_stream(far.address, Reliability.UNRELIABLE).result(WAIT_S)
    ours.delegate_event_queue = queue
    ours.delegate = our_recorder
    theirs, _ = recorder.wait_for_stream()
    for _ in range(2):
        before = len(our_recorder.log.of("message"))
        theirs.send(b"x").result(WAIT_S)
        while len(our_recorder.log.of("message")) == before:
            queue.run_pending()
        runs = 0
        while queue.run_pending():
            runs += 1
            assert runs < 10, "it never rests"


def test_a_manual_queue_that_nobody_pumps_holds_little(make_bus: MakeBus) -> None:
    queue = DispatchQueue.manual()
    recorder = BusRecorder()
    near = make_bus("near")
    far = make_bus(
        "far",
        delegate=recorder,
        delegate_event_queue=queue,
        limits=Limits(unreliable_queue_bytes_max=10_000),
    )
    near.wait_for_peer(reached_by_udp).result(WAIT_S)
    for number in range(100):
        near.send(b"%1000d" % number, far.address, Reliability.SEQUENCED).result(WAIT_S)
    kept = 10_000 // (1000 + MESSAGE_COST_BYTES)
    while far.stats().dropped.get(DropCause.RECEIVE_QUEUE_FULL, 0) < 100 - kept:
        pass
    while not recorder.log.of("message"):
        queue.run_pending()
    queue.run_pending()
    messages = [int(message.data) for message in recorder.log.of("message")]
    assert messages == list(range(100 - kept, 100))
    assert recorder.log.all[0][0] == "peers"
    assert isinstance(far.peer_stats(near.address).datagrams_received, int)
    with pytest.raises(UnknownPeer):
        far.peer_stats(far.address)
