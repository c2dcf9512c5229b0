from __future__ import annotations

import gc
import itertools
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    BusError,
    ConfigError,
    EndOfStream,
    Limits,
    MessageTooLarge,
    PeerLost,
    SendQueueFull,
    StreamClosed,
    StreamFinished,
    StreamReset,
    WaitTimeout,
)
from dittobus.blocking import Bus
from tests.dittobus.blocking_pair import Ends, Pair, open_ends, open_pair, until
from tests.dittobus.interrupts import Storm
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

    from dittobus.blocking import Stream


@pytest.fixture
def pair(mesh: dict[str, Any]) -> Iterator[Pair]:
    with open_pair(mesh) as pair:
        yield pair


@pytest.fixture
def ends(threads: ThreadPoolExecutor, pair: Pair) -> Iterator[Ends]:
    """Both ends of an open stream. Whoever waits on one is woken in the end."""
    ours, theirs = open_ends(pair, threads)
    yield ours, theirs
    ours.abort()
    theirs.abort()


def fill(stream: Stream) -> int:
    """Send until there is no room, and none can come by itself; return the last number."""
    number, is_without_credit = 0, False
    while True:
        try:
            number = stream.send_nowait(bytes(10_000))
        except SendQueueFull:
            if is_without_credit:
                return number
            is_without_credit = stream.stats().send_credit_bytes < 10_000


# Sending and receiving


def test_messages_arrive_in_order_both_ways(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends

    def send_all(stream: Stream) -> list[int]:
        numbers = [stream.send(b"%d" % number) for number in range(1, 5001)]
        stream.finish()
        return numbers

    sending = [threads.submit(send_all, stream) for stream in ends]
    here = threads.submit(list[bytes], ours)
    assert list(theirs) == here.result() == [b"%d" % number for number in range(1, 5001)]
    assert [each.result() for each in sending] == [list(range(1, 5001))] * 2
    ours.close()
    theirs.close()


def test_buffers_are_copied_and_large_messages_arrive(ends: Ends) -> None:
    ours, theirs = ends
    large = bytes(range(256)) * 10_000
    data = bytearray(b"before")
    ours.send(data)
    data[:] = b"after!"
    ours.send_nowait(bytearray(b"at once"))
    ours.send(memoryview(large))
    assert [theirs.receive(WAIT_S) for _ in range(3)] == [b"before", b"at once", large]
    assert (ours.stats().messages_sent, theirs.stats().messages_received) == (3, 3)


def test_arguments_are_checked(ends: Ends) -> None:
    ours, _ = ends
    too_large = bytes(64 * 1024 * 1024 + 1)
    commands: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: ours.send("text"), TypeError, "data"),  # type: ignore[arg-type]
        (lambda: ours.send_nowait(7), TypeError, "data"),  # type: ignore[arg-type]
        (lambda: ours.send(too_large), MessageTooLarge, "at most"),
        (lambda: ours.send_nowait(too_large), MessageTooLarge, "at most"),
        (lambda: ours.send(b"", timeout=-1), ConfigError, "timeout"),
        (lambda: ours.receive(timeout=-1), ConfigError, "timeout"),
        (lambda: ours.wait_acknowledged(timeout=-1), ConfigError, "timeout"),
        (lambda: ours.close(timeout=-1), ConfigError, "timeout"),
        (lambda: ours.abort(-1), ConfigError, "code"),
        (lambda: ours.abort(0, "x" * 2000), ConfigError, "reason"),
    ]
    for command, kind, match in commands:
        with pytest.raises(kind, match=match):
            command()
    assert ours.send(b"still open") == 1


def test_the_smaller_limit_holds(mesh: dict[str, Any], threads: ThreadPoolExecutor) -> None:
    limits = Limits(message_bytes_max=1000)
    with open_pair(mesh) as (near, _), Bus("small", **mesh, limits=limits) as small:
        opening = threads.submit(near.open_stream, near.wait_for_peer("small"))
        with small.receive_offer(WAIT_S).accept() as theirs, opening.result() as ours:
            with pytest.raises(MessageTooLarge, match="at most 1000"):
                ours.send(bytes(1001))
            for number in range(1, 101):
                assert ours.send(bytes(1000)) == number
                assert theirs.receive(WAIT_S) == bytes(1000)
            ours.finish()
            theirs.finish()


def test_a_timeout_consumes_nothing(ends: Ends) -> None:
    ours, theirs = ends
    for timeout in (0, 0.01):
        with pytest.raises(WaitTimeout, match=f"no message within {timeout} s"):
            theirs.receive(timeout)
    ours.send(b"hello")
    assert theirs.receive(WAIT_S) == b"hello"
    with pytest.raises(WaitTimeout, match="message 7 was not acknowledged within 0 s"):
        ours.wait_acknowledged(7, timeout=0)


def test_a_sender_waits_for_the_receiving_application(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    last = fill(ours)
    limits = Limits()
    bound = limits.send_queue_bytes_max + limits.stream_window_bytes
    assert last * 10_000 <= bound
    with pytest.raises(SendQueueFull):
        ours.send_nowait(bytes(10_000))
    waiting = threads.submit(ours.send, b"x" * 10_000, WAIT_S)
    until_waiting(ours, 1)
    assert not waiting.done()
    for _ in range(last):
        theirs.receive(WAIT_S)
    assert waiting.result() == last + 1
    assert theirs.receive(WAIT_S)[:1] == b"x"


def until_waiting(stream: Stream, senders: int) -> None:
    while len(stream._outbox._senders) < senders:
        stream.stats()


def test_several_threads_receive_each_message_once(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    receiving = [threads.submit(list[bytes], theirs) for _ in range(3)]
    for number in range(5000):
        ours.send(b"%d" % number)
    ours.finish()
    received = [each.result(WAIT_S) for each in receiving]
    assert sorted(map(int, itertools.chain(*received))) == list(range(5000))
    assert all(list(map(int, each)) == sorted(map(int, each)) for each in received)


def test_several_threads_send(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends

    def send_all(sender: int) -> list[int]:
        return [ours.send(b"%d" % sender) for _ in range(1000)]

    sending = [threads.submit(send_all, sender) for sender in range(3)]
    received = [theirs.receive(WAIT_S) for _ in range(3000)]
    for sender, each in enumerate(sending):
        assert all(received[number - 1] == b"%d" % sender for number in each.result())


def test_what_receive_returned_is_consumed_and_no_more(ends: Ends, pair: Pair) -> None:
    ours, theirs = ends
    for number in range(10):
        ours.send(b"%d" % number)
    ours.wait_acknowledged(timeout=WAIT_S)
    until(pair[1], lambda: theirs.stats().unconsumed_messages == 10)
    for number in range(3):
        assert theirs.receive(WAIT_S) == b"%d" % number
    assert theirs.stats().unconsumed_messages == 7
    assert [theirs.receive(WAIT_S) for _ in range(7)] == [b"%d" % number for number in range(3, 10)]
    assert theirs.stats().unconsumed_messages == 0


def test_receipts(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    ours.wait_acknowledged()
    ours.send(b"1")
    ours.send(b"2")
    ours.wait_acknowledged(1, timeout=WAIT_S)
    ours.wait_acknowledged(timeout=WAIT_S)
    later = threads.submit(ours.wait_acknowledged, 3, WAIT_S)
    never = threads.submit(ours.wait_acknowledged, 7, WAIT_S)
    ours.send(b"3")
    later.result()
    theirs.abort(7)
    assert isinstance(never.exception(), StreamReset)
    with pytest.raises(StreamReset):
        ours.wait_acknowledged(7)
    ours.wait_acknowledged(3)
    assert not ours._watchers


# Ends


def test_no_receipt_is_awaited_of_what_will_never_be_sent(
    threads: ThreadPoolExecutor, pair: Pair, ends: Ends
) -> None:
    ours, theirs = ends
    ours.send(b"the only one")
    waiting = threads.submit(ours.wait_acknowledged, 2)
    until(pair[0], lambda: ours._watchers)
    ours.finish()
    with pytest.raises(StreamFinished, match="message 2 was never sent"):
        waiting.result(WAIT_S)
    with pytest.raises(StreamFinished, match="message 3 was never sent"):
        ours.wait_acknowledged(3)
    ours.wait_acknowledged()
    for sequence, kind in (("1", TypeError), (True, TypeError), (-1, ConfigError)):
        with pytest.raises(kind, match="sequence: expected"):
            ours.wait_acknowledged(sequence)  # type: ignore[arg-type]
    assert theirs.receive(WAIT_S) == b"the only one"


def test_the_normal_end(ends: Ends) -> None:
    ours, theirs = ends
    ours.send(b"last")
    ours.finish()
    ours.finish()
    for send in (ours.send, ours.send_nowait):
        with pytest.raises(StreamFinished):
            send(b"later")
    assert theirs.receive(WAIT_S) == b"last"
    for _ in range(2):
        with pytest.raises(EndOfStream):
            theirs.receive(WAIT_S)
    theirs.send(b"reply")
    assert ours.receive(WAIT_S) == b"reply"
    theirs.close()
    assert list(ours) == []
    ours.close()
    ours.close()
    assert "closed" in repr(ours)


def test_an_end_wakes_those_who_wait(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    receivers = [threads.submit(theirs.receive) for _ in range(3)]
    ours.finish()
    assert all(isinstance(each.exception(WAIT_S), EndOfStream) for each in receivers)


def test_an_abort_resets(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    fill(ours)
    sending = [threads.submit(ours.send, b"x" * 10_000) for _ in range(3)]
    until_waiting(ours, 3)
    theirs.abort(7, "enough")
    assert all(isinstance(each.exception(WAIT_S), StreamReset) for each in sending)
    with pytest.raises(StreamReset) as caught:
        ours.receive()
    assert (caught.value.code, caught.value.reason) == (7, "enough")
    with pytest.raises(StreamReset):
        ours.send(b"later")
    ours.close()  # the error was told
    theirs.close()
    with pytest.raises(BusError):
        theirs.receive()


def test_an_error_is_another_object_each_time(ends: Ends) -> None:
    """So that no traceback grows, and none is shared by threads."""
    ours, theirs = ends
    theirs.abort(7)
    errors = []
    for _ in range(2):
        with pytest.raises(StreamReset) as caught:
            ours.receive()
        errors.append(caught.value)
    assert errors[0] is not errors[1]


def test_an_end_nobody_was_told_of_is_told_by_close(ends: Ends, pair: Pair) -> None:
    ours, theirs = ends
    ours.send(b"hello")
    theirs.abort(7)
    until(pair[0], lambda: ours._ended)
    with pytest.raises(StreamReset):
        ours.close()
    ours.close()


def test_what_the_other_side_closed_before_is_told(ends: Ends) -> None:
    """No message that was accepted is dropped without a word, however late the closing is noticed."""
    ours, theirs = ends
    ours.send(b"1")
    assert theirs.receive(WAIT_S) == b"1"
    theirs.close()
    with pytest.raises(StreamClosed) as caught:
        send_for_ever(ours)
    assert caught.value.last_consumed == 1
    if ours._outbox.sequence > 1:
        with pytest.raises(StreamClosed):
            ours.close()


def send_for_ever(stream: Stream) -> None:
    while True:
        stream.send(b"in vain")


def test_a_close_waits_until_all_was_consumed(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    for number in range(10):
        ours.send(b"%d" % number)
    receiving = threads.submit(ours.receive)
    closing = threads.submit(ours.close)
    assert isinstance(receiving.exception(WAIT_S), StreamFinished)
    assert [theirs.receive(WAIT_S) for _ in range(9)] == [b"%d" % number for number in range(9)]
    theirs.stats()
    assert not closing.done()
    assert theirs.receive(WAIT_S) == b"9"
    closing.result(WAIT_S)


def test_a_close_ends_the_waits_of_other_threads(ends: Ends, pair: Pair, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    fill(ours)
    waits = [
        threads.submit(ours.receive),
        threads.submit(ours.send, bytes(10_000)),
        threads.submit(ours.wait_acknowledged, 10_000),
    ]
    until_waiting(ours, 1)
    until(pair[0], lambda: ours._inbox._sleepers and ours._watchers)
    with pytest.raises(StreamClosed):
        ours.close(timeout=0.05)
    errors = [each.exception(WAIT_S) for each in waits]
    assert [type(error) for error in errors] == [StreamFinished, StreamFinished, StreamClosed]
    assert theirs.receive(WAIT_S)


def test_a_close_that_runs_out_of_time_says_how_far_the_other_side_came(ends: Ends) -> None:
    ours, theirs = ends
    theirs.finish()  # which is no reason to call it the normal end
    for number in range(10):
        ours.send(b"%d" % number)
    ours.wait_acknowledged(timeout=WAIT_S)
    for _ in range(3):
        theirs.receive(WAIT_S)
    with pytest.raises(StreamClosed) as caught:
        ours.close(timeout=0.05)
    assert caught.value.last_consumed <= 3  # as far as it was told


def test_a_message_too_large_does_not_hide_the_end(ends: Ends, pair: Pair) -> None:
    ours, theirs = ends
    with pytest.raises(MessageTooLarge):
        ours.send(bytes(64 * 1024 * 1024 + 1))
    theirs.abort(7)
    until(pair[0], lambda: ours._ended)
    with pytest.raises(StreamReset):
        ours.close()


def test_leaving_with(pair: Pair, threads: ThreadPoolExecutor) -> None:
    for error in (None, RuntimeError()):
        ours, theirs = open_ends(pair, threads)
        if error is None:
            ours.send(b"hello")
            leaving = threads.submit(leave_by, error, ours)
            assert theirs.receive(WAIT_S) == b"hello"
            assert list(theirs) == []
            leaving.result(WAIT_S)
        else:
            leave_by(error, ours)
            with pytest.raises(StreamReset):
                theirs.receive(WAIT_S)
        theirs.close()


def leave_by(error: Exception | None, stream: Stream) -> None:
    try:
        with stream:
            if error is not None:
                raise error
    except RuntimeError:
        pass


def test_a_stream_that_nobody_keeps_is_aborted(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    opening = threads.submit(near.open_stream, far.address)
    theirs = far.receive_offer(WAIT_S).accept()
    stream = opening.result(WAIT_S)
    stream.send(b"not worth keeping it for")
    assert theirs.receive(WAIT_S)
    del opening
    gc.disable()  # it must not take the collector of cycles
    try:
        with pytest.warns(ResourceWarning, match="never closed"):
            del stream
    finally:
        gc.enable()
    with pytest.raises(StreamReset, match="let go of it without closing it"):
        theirs.receive(WAIT_S)


def test_a_lost_peer_ends_the_stream(ends: Ends, pair: Pair, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    near, _ = pair
    waiting = threads.submit(theirs.receive)
    near.close(timeout=0)
    assert isinstance(waiting.exception(WAIT_S), PeerLost | StreamReset | StreamClosed)
    for command in (lambda: ours.send(b"later"), ours.receive):
        with pytest.raises(BusError):
            command()


# Ctrl-C


INTERRUPTS = 200
"""Most places are hit by one of so many."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of this kind are POSIX's")
def test_a_storm_of_interrupts_loses_no_message(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    is_over = threading.Event()

    def send_until_over() -> None:
        for number in itertools.count():
            if is_over.is_set():
                break
            ours.send(b"%d" % number)
        ours.finish()

    sending = threads.submit(send_until_over)
    received: list[bytes] = []
    with Storm() as storm:
        while storm.count < INTERRUPTS:
            try:
                storm.let_one_in()
                while True:  # a condition would jump back outside of the try, from Python 3.12 on
                    if storm.count >= INTERRUPTS:
                        break
                    received.append(theirs.receive(WAIT_S))
            except KeyboardInterrupt:
                pass
    is_over.set()
    received.extend(theirs)
    sending.result()
    assert received == [b"%d" % number for number in range(len(received))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of this kind are POSIX's")
def test_a_storm_of_interrupts_leaves_no_gap_in_what_is_sent(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    receiving = threads.submit(list[bytes], theirs)
    numbers: dict[int, bytes] = {}
    sent = 0
    with Storm() as storm:
        while storm.count < INTERRUPTS:
            try:
                storm.let_one_in()
                while True:
                    if storm.count >= INTERRUPTS:
                        break
                    sent += 1
                    numbers[ours.send(b"%d" % sent, WAIT_S)] = b"%d" % sent
            except KeyboardInterrupt:
                pass
    ours.finish()
    received = receiving.result(WAIT_S)
    assert len(numbers) <= len(received) <= sent
    assert all(received[number - 1] == data for number, data in numbers.items())


def test_the_end_is_told_at_once_to_who_waits_for_it_alone(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    ours.send(b"not taken")
    ours.wait_acknowledged()
    with pytest.raises(WaitTimeout, match="not closed within 0 s"):
        theirs.wait_closed(timeout=0)
    waiting = threads.submit(theirs.wait_closed)
    ours.abort(7, "gone")
    with pytest.raises(StreamReset, match="gone"):
        waiting.result(WAIT_S)
    assert theirs.receive() == b"not taken"


def test_who_waits_for_the_normal_end_is_told_of_nothing_else(
    ends: Ends, threads: ThreadPoolExecutor
) -> None:
    waiting = [threads.submit(end.wait_closed) for end in ends]
    for end in ends:
        end.finish()
    for end in ends:
        with pytest.raises(EndOfStream):
            end.receive()
    assert [future.result(WAIT_S) for future in waiting] == [None, None]


def test_many_streams_at_once(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair

    def echo(stream: Stream, peer: Any) -> None:
        with stream:
            for message in stream:
                stream.send(message)

    def ask(number: int) -> bytes:
        with near.open_stream(far.address, name="echo") as stream:
            stream.send(b"%d" % number)
            reply = stream.receive(WAIT_S)
            stream.finish()
            return reply

    far.on_stream("echo", echo)
    assert list(threads.map(ask, range(50))) == [b"%d" % number for number in range(50)]
