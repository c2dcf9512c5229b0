from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from brokerless import (
    BusClosed,
    ConfigError,
    Limits,
    MessageTooLarge,
    PeerLost,
    SendQueueFull,
    SendTimeout,
    StreamClosed,
    StreamFinished,
    StreamNotReady,
    StreamReset,
    UsageError,
)
from dittobus import DispatchQueue, DittoBus, DittoBusStream, DittoBusStreamDelegate
from tests.dittobus.recording import WAIT_S, BusRecorder, Log, StreamRecorder

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from brokerless import Address, BusError

    MakeBus = Callable[..., DittoBus]
    Pair = tuple[DittoBus, DittoBus, BusRecorder]
    Ends = tuple[DittoBusStream, StreamRecorder, DittoBusStream, StreamRecorder]


@pytest.fixture
def ends(pair: Pair) -> Ends:
    """An open stream: our end with its recorder, their end with its."""
    near, far, recorder = pair
    ours = near.open_stream(far.address, name="test").result(WAIT_S)
    our_recorder = StreamRecorder()
    ours.delegate = our_recorder
    theirs, their_recorder = recorder.wait_for_stream()
    return ours, our_recorder, theirs, their_recorder


class Holding(StreamRecorder):
    """Does not return from a message until told to."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def stream_did_receive_message(self, stream: DittoBusStream, message: bytes) -> None:
        self.log.add("message", message)
        self.release.wait(WAIT_S)


# Sending


def test_messages_arrive_in_order_both_ways(ends: Ends) -> None:
    ours, our_recorder, theirs, their_recorder = ends
    sends = [ours.send(b"%d" % number) for number in range(500)]
    replies = [theirs.send(b"re %d" % number) for number in range(500)]
    assert [send.result(WAIT_S) for send in sends] == list(range(1, 501))
    assert [send.result(WAIT_S) for send in replies] == list(range(1, 501))
    their_recorder.log.wait("message", 500)
    our_recorder.log.wait("message", 500)
    assert their_recorder.log.of("message") == [b"%d" % number for number in range(500)]
    assert our_recorder.log.of("message") == [b"re %d" % number for number in range(500)]


def test_messages_are_enqueued_one_at_a_time(ends: Ends) -> None:
    ours, our_recorder, _, their_recorder = ends
    for number in range(1, 20):
        assert ours.is_ready
        assert ours.enqueue_message(b"%d" % number) == number
        assert our_recorder.log.wait("enqueued", number) == (number, None)
    their_recorder.log.wait("message", 19)
    our_recorder.log.wait_until(lambda: our_recorder.log.of("receipt")[-1:] == [19])
    assert our_recorder.log.of("receipt") == sorted(set(our_recorder.log.of("receipt")))
    for receipt in our_recorder.log.of("receipt"):
        heard = our_recorder.log.all
        assert heard.index(("enqueued", receipt, None)) < heard.index(("receipt", receipt))


def test_while_a_message_is_enqueued_the_next_is_refused(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = Silent()
    stream = near.open_stream(far.address).result(WAIT_S)
    stream.delegate = recorder = StreamRecorder()
    sequence = stream.enqueue_message(bytes(10_000))
    while stream.stats().send_queue_bytes < Limits().send_queue_bytes_max - 20_000:
        recorder.log.wait("enqueued", sequence)
        sequence = stream.enqueue_message(bytes(10_000))
    recorder.log.wait("enqueued", sequence)
    sequence = stream.enqueue_message(bytes(30_000))
    assert not stream.is_ready
    with pytest.raises(StreamNotReady):
        stream.enqueue_message(b"")
    stream.abort()
    number, error = recorder.log.wait("enqueued", sequence)
    assert number == sequence
    assert isinstance(error, StreamReset)
    recorder.log.wait("closed")


class Silent(BusRecorder):
    """Takes streams, and reads nothing."""

    def bus_did_receive_incoming_stream(self, bus: DittoBus, stream: DittoBusStream, peer: Address) -> None:
        self.log.add("stream", stream, None, peer)


def test_a_sender_waits_for_the_receiving_application(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = silent = Silent()
    stream = near.open_stream(far.address).result(WAIT_S)
    completions = Log()
    sends = fill(near, stream, lambda number, error: completions.add("done", number, error))
    assert not stream.is_ready
    assert not sends[-1].done()
    assert stream.stats().send_queue_bytes <= Limits().send_queue_bytes_max
    theirs, _ = silent.wait_for_stream()
    theirs.delegate = reader = StreamRecorder()  # what waited for it comes now, and the rest after it
    assert [send.result(WAIT_S) for send in sends] == list(range(1, len(sends) + 1))
    reader.log.wait("message", len(sends))
    completions.wait("done", len(sends))
    assert completions.of("done") == [(number, None) for number in range(1, len(sends) + 1)]
    stream.close()


def fill(
    bus: DittoBus,
    stream: DittoBusStream,
    completion: Callable[[int | None, BusError | None], object] | None = None,
) -> list[Future[int]]:
    """Send until no more may wait, in the stream's queue and before it."""
    sends: list[Future[int]] = []
    refused = 0
    while refused < 2:
        try:
            sends.append(stream.send(bytes(10_000), completion))
            refused = 0
        except SendQueueFull:
            refused += 1
            bus.wait_for_peers(0).result(WAIT_S)  # the I/O thread has seen to it
    return sends


def test_a_message_that_is_not_accepted_in_time_is_withdrawn(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = silent = Silent()
    stream = near.open_stream(far.address).result(WAIT_S)
    log = Log()
    sends = [stream.send(bytes(50_000))]
    while sends[-1].done() or len(sends) < 2:
        sends.append(stream.send(bytes(50_000)))
        near.wait_for_peers(0).result(WAIT_S)  # the I/O thread has seen to it
    late = stream.send(b"late", lambda *outcome: log.add("late", outcome), timeout=0.01)
    with pytest.raises(SendTimeout):
        late.result(WAIT_S)
    number, error = log.wait("late")
    assert number is None
    assert isinstance(error, SendTimeout)
    with pytest.raises(SendTimeout):
        stream.send(b"at once or never", timeout=0).result(WAIT_S)
    theirs, _ = silent.wait_for_stream()
    theirs.delegate = reader = StreamRecorder()
    reader.log.wait("message", len(sends))
    assert stream.send(b"next").result(WAIT_S) == len(sends) + 1
    reader.log.wait("message", len(sends) + 1)
    assert {len(message) for message in reader.log.of("message")} == {50_000, 4}
    stream.close()


def test_a_large_message_arrives(ends: Ends) -> None:
    ours, _, _, their_recorder = ends
    message = bytes(range(256)) * 20_000
    assert ours.send(memoryview(message)).result(WAIT_S) == 1
    assert their_recorder.log.wait("message") == message


def test_arguments_are_checked_at_the_call(ends: Ends) -> None:
    ours, _, _, _ = ends
    for command, kind, match in (
        (lambda: ours.enqueue_message("text"), TypeError, "data"),
        (lambda: ours.send(None), TypeError, "data"),
        (lambda: ours.send(bytes(64 * 1024 * 1024 + 1)), MessageTooLarge, "limit"),
        (lambda: ours.enqueue_message(bytes(64 * 1024 * 1024 + 1)), MessageTooLarge, "limit"),
        (lambda: ours.send(b"", timeout=-1), ConfigError, "timeout"),
        (lambda: ours.send(b"", 7), TypeError, "completion"),
        (lambda: ours.close(timeout=-1), ConfigError, "timeout"),
        (lambda: ours.abort(-1), ConfigError, "code"),
        (lambda: ours.abort("bad"), TypeError, "code"),
    ):
        with pytest.raises(kind, match=match):
            command()  # type: ignore[no-untyped-call]
    assert ours.is_ready


def test_what_is_larger_than_the_peer_allows_is_refused_and_takes_no_number(make_bus: MakeBus) -> None:
    limits = Limits(message_bytes_max=1000)
    near, far = make_bus("near"), make_bus("far", limits=limits, delegate=BusRecorder())
    stream = near.open_stream(near.wait_for_peer("far").result(WAIT_S)).result(WAIT_S)
    stream.delegate = recorder = StreamRecorder()
    assert stream.enqueue_message(bytes(1001)) == 1
    number, error = recorder.log.wait("enqueued")
    assert (number, type(error)) == (1, MessageTooLarge)
    assert isinstance(stream.send(bytes(1001)).exception(WAIT_S), MessageTooLarge)
    assert stream.send(bytes(1000)).result(WAIT_S) == 1
    assert far.address == stream.peer
    stream.close()


# Ending


def test_finishing_one_way_leaves_the_other_open(ends: Ends) -> None:
    ours, our_recorder, theirs, their_recorder = ends
    ours.send(b"last")
    ours.finish()
    ours.finish()
    with pytest.raises(StreamFinished):
        ours.send(b"later")
    with pytest.raises(StreamFinished):
        ours.enqueue_message(b"later")
    assert not ours.is_ready
    their_recorder.log.wait("finished")
    assert [heard[0] for heard in their_recorder.log.all if heard[0] in ("message", "finished")] == [
        "message",
        "finished",
    ]
    theirs.send(b"reply").result(WAIT_S)
    assert our_recorder.log.wait("message") == b"reply"
    theirs.finish()
    assert our_recorder.log.wait("closed") is None
    assert their_recorder.log.wait("closed") is None
    assert our_recorder.log.all[-1] == their_recorder.log.all[-1] == ("closed", None)


def test_a_close_says_that_all_was_consumed(ends: Ends) -> None:
    ours, our_recorder, _, their_recorder = ends
    for number in range(100):
        ours.send(b"%d" % number)
    ours.close()
    ours.close()
    assert our_recorder.log.wait("closed") is None
    assert their_recorder.log.wait("closed") is None
    assert their_recorder.log.of("message") == [b"%d" % number for number in range(100)]
    assert "closed" in repr(ours)
    ours.abort()
    ours.finish()


def test_a_close_that_runs_out_of_time_says_how_far_the_other_side_came(pair: Pair) -> None:
    near, far, _ = pair
    holding = Holding()

    class Accepting(BusRecorder):
        def bus_did_receive_incoming_stream(
            self, bus: DittoBus, stream: DittoBusStream, peer: Address
        ) -> None:
            stream.delegate = holding

    far.delegate = Accepting()
    stream = near.open_stream(far.address).result(WAIT_S)
    stream.delegate = recorder = StreamRecorder()
    for number in range(3):
        stream.send(b"%d" % number)
    holding.log.wait("message")
    stream.close(timeout=0.05)
    error = recorder.log.wait("closed")
    assert (type(error), error.last_consumed) == (StreamClosed, 0)
    holding.release.set()
    holding.log.wait("closed")


def test_what_waits_to_be_accepted_is_told_when_closing_runs_out_of_time(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = Silent()
    stream = near.open_stream(far.address).result(WAIT_S)
    stream.delegate = recorder = StreamRecorder()
    sends = fill(near, stream)
    stream.close(timeout=0.05)
    assert isinstance(recorder.log.wait("closed"), StreamClosed)
    outcomes = [send.exception(WAIT_S) for send in sends]
    refused = [error for error in outcomes if error is not None]
    assert refused
    assert outcomes == [None] * (len(sends) - len(refused)) + refused


def test_an_abort_resets(ends: Ends) -> None:
    ours, our_recorder, theirs, their_recorder = ends
    ours.abort(7, "enough")
    with pytest.raises(StreamFinished):
        ours.send(b"later")
    error = their_recorder.log.wait("closed")
    assert (type(error), error.code, error.reason) == (StreamReset, 7, "enough")
    assert isinstance(our_recorder.log.wait("closed"), StreamReset)
    with pytest.raises(StreamReset):
        theirs.send(b"later")
    theirs.close()


def test_a_lost_peer_ends_the_stream_before_it_is_told_of(pair: Pair) -> None:
    near, far, recorder = pair
    stream = near.open_stream(far.address).result(WAIT_S)
    theirs, their_recorder = recorder.wait_for_stream()
    heard = Log()
    their_recorder.log = recorder.log = heard
    near.close(timeout=0)
    heard.wait_until(lambda: any(peers == () for peers in heard.of("peers")))
    words = [entry[0] for entry in heard.all]
    assert words.index("closed") < heard.all.index(("peers", ()))
    assert isinstance(heard.of("closed")[0], PeerLost | StreamClosed | StreamReset)
    assert far.peer(theirs.peer) is None
    assert isinstance(stream, DittoBusStream)


def test_closing_the_bus_ends_its_streams(ends: Ends, pair: Pair) -> None:
    ours, our_recorder, _, their_recorder = ends
    ours.send(b"last")
    assert pair[0].close()
    assert our_recorder.log.of("closed")
    assert their_recorder.log.wait("message") == b"last"
    their_recorder.log.wait("closed")
    with pytest.raises((StreamFinished, BusClosed, StreamClosed)):
        ours.send(b"later")


def test_leaving_a_with_closes_and_an_exception_aborts(pair: Pair) -> None:
    near, far, recorder = pair
    with near.open_stream(far.address).result(WAIT_S) as stream:
        stream.send(b"hello")
    _, closed = recorder.wait_for_stream(1)
    assert closed.log.wait("closed") is None
    assert closed.log.of("message") == [b"hello"]
    with pytest.raises(RuntimeError), near.open_stream(far.address).result(WAIT_S):
        raise RuntimeError
    _, aborted = recorder.wait_for_stream(2)
    error = aborted.log.wait("closed")
    assert isinstance(error, StreamReset)
    assert error.reason == "an exception ended it there"


# Delegates, queues and lifetimes


def test_what_arrives_before_there_is_a_delegate_waits(pair: Pair) -> None:
    near, far, recorder = pair
    stream = near.open_stream(far.address).result(WAIT_S)
    theirs, their_recorder = recorder.wait_for_stream()
    for number in range(5):
        stream.send(b"%d" % number).result(WAIT_S)
        theirs.send(b"re %d" % number).result(WAIT_S)
    their_recorder.log.wait("message", 5)
    theirs.close()
    ours = StreamRecorder()
    stream.delegate = ours
    ours.log.wait("closed")
    assert ours.log.of("message") == [b"re %d" % number for number in range(5)]
    assert ours.log.of("receipt")[-1] == 5
    assert stream.delegate is ours


def test_the_delegate_can_be_changed_and_taken_away(ends: Ends) -> None:
    ours, our_recorder, theirs, first = ends
    ours.send(b"1")
    first.log.wait("message")
    theirs.delegate = None
    ours.send(b"2")
    ours.send(b"3")
    our_recorder.log.wait_until(lambda: our_recorder.log.of("receipt")[-1:] == [3])
    theirs.delegate = second = StreamRecorder()
    second.log.wait("message", 2)
    assert (first.log.of("message"), second.log.of("message")) == ([b"1"], [b"2", b"3"])
    ours.close()
    second.log.wait("closed")


def test_a_stream_with_a_queue_of_its_own_is_not_held_up(pair: Pair) -> None:
    near, far, _ = pair
    queue = DispatchQueue.serial("emergency")
    holding, urgent = Holding(), StreamRecorder()

    class Sorting(BusRecorder):
        def bus_did_receive_incoming_stream(
            self, bus: DittoBus, stream: DittoBusStream, peer: Address
        ) -> None:
            if stream.name == "video":
                stream.delegate = holding
            else:
                stream.delegate = urgent
                stream.delegate_event_queue = queue

    far.delegate = Sorting()
    stop = near.open_stream(far.address, name="stop").result(WAIT_S)
    stop.send(b"ready")
    urgent.log.wait("message")
    video = near.open_stream(far.address, name="video").result(WAIT_S)
    video.send(b"frame")
    holding.log.wait("message")
    stop.send(b"stop")
    assert urgent.log.wait("message", 2) == b"stop"
    holding.release.set()
    for stream in (video, stop):
        stream.close()
    urgent.log.wait("closed")
    holding.log.wait("closed")
    queue.close()


def test_the_queue_is_chosen_before_the_delegate(ends: Ends) -> None:
    ours, _, theirs, _ = ends
    for stream in (ours, theirs):
        with pytest.raises(UsageError, match="first event"):
            stream.delegate_event_queue = DispatchQueue.manual()
    with pytest.raises(TypeError, match="delegate_event_queue"):
        ours.delegate_event_queue = "main"  # type: ignore[assignment]
    ours.abort()


def test_an_open_with_a_completion_lets_it_choose(pair: Pair) -> None:
    near, far, _ = pair
    queue = DispatchQueue.manual()
    recorder = StreamRecorder()
    log = Log()

    def opened(stream: DittoBusStream | None, error: BusError | None) -> None:
        assert stream is not None
        stream.delegate = recorder
        stream.delegate_event_queue = queue
        assert stream.delegate_event_queue is queue
        log.add("opened", stream)

    near.open_stream(far.address, completion=opened)
    log.wait("opened").enqueue_message(b"hello")
    while not recorder.log.of("enqueued"):
        queue.run_pending()
    log.wait("opened").close()
    while not recorder.log.of("closed"):
        queue.run_pending()


def test_receipts_do_not_pile_up_in_a_queue_nobody_pumps(pair: Pair) -> None:
    near, far, told = pair
    queue = DispatchQueue.manual()
    stream = near.open_stream(far.address).result(WAIT_S)
    stream.delegate_event_queue = queue
    stream.delegate = recorder = StreamRecorder()
    for number in range(1, 101):
        assert stream.send(b"x").result(WAIT_S) == number
    stream.close()
    _, theirs = told.wait_for_stream()
    theirs.log.wait("closed")
    near.send(b"after the close", far.address).result(WAIT_S)
    while queue.run_pending():
        pass
    assert recorder.log.all == [("receipt", 100), ("closed", None)]


def test_a_stream_lives_as_long_as_it_has_a_delegate(pair: Pair) -> None:
    near, far, recorder = pair
    ours = StreamRecorder()
    stream = near.open_stream(far.address).result(WAIT_S)
    stream.delegate = ours
    life = weakref.ref(stream)
    del stream
    gc.collect()
    theirs, _ = recorder.wait_for_stream()
    theirs.send(b"still here?")
    assert ours.log.wait("message") == b"still here?"
    theirs.close()
    ours.log.wait("closed")
    all_is_told = threading.Event()
    near.send(b"", far.address, completion=lambda error: all_is_told.set())
    assert all_is_told.wait(WAIT_S)
    gc.collect()
    assert life() is None


def test_a_stream_that_nobody_keeps_is_aborted(pair: Pair) -> None:
    near, far, recorder = pair
    streams = [near.open_stream(far.address).result(WAIT_S)]
    _, theirs = recorder.wait_for_stream()
    near.stats()  # the I/O thread, too, has let go of it
    with pytest.warns(ResourceWarning, match="never closed"):
        streams.clear()
    error = theirs.log.wait("closed")
    assert isinstance(error, StreamReset)
    assert "let go of it without closing it" in error.reason


def test_a_delegate_is_no_class(ends: Ends) -> None:
    ours, _, _, _ = ends
    with pytest.raises(TypeError, match="the class DittoBusStreamDelegate; call it"):
        ours.delegate = DittoBusStreamDelegate


def test_streams_are_told_apart(ends: Ends, pair: Pair) -> None:
    ours, _, _, _ = ends
    near, far, _ = pair
    other = near.open_stream(far.address).result(WAIT_S)
    assert other.id != ours.id
    assert len({ours, other}) == 2
    ours.close()
    other.close()


def test_both_sides_may_open_at_once(pair: Pair) -> None:
    near, far, recorder = pair
    near.delegate = other = BusRecorder()
    opened = [near.open_stream(far.address), far.open_stream(near.address)]
    streams = [future.result(WAIT_S) for future in opened]
    recorder.wait_for_stream()
    other.wait_for_stream()
    for stream in streams:
        stream.close()


def test_many_streams_at_once(pair: Pair) -> None:
    near, far, recorder = pair
    opened = [near.open_stream(far.address, name=str(number)) for number in range(100)]
    streams = [future.result(WAIT_S) for future in opened]
    for stream in streams:
        stream.send(stream.name.encode())
        stream.close()
    recorder.log.wait("stream", 100)
    for stream, theirs, _ in recorder.log.of("stream"):
        assert theirs.log.wait("closed") is None
        assert theirs.log.of("message") == [stream.name.encode()]


def test_stats_count(ends: Ends) -> None:
    ours, _, theirs, their_recorder = ends
    ours.send(b"12345")
    their_recorder.log.wait("message")
    assert (ours.stats().messages_sent, ours.stats().bytes_sent) == (1, 5)
    assert (theirs.stats().messages_received, theirs.stats().bytes_received) == (1, 5)
    ours.close()
