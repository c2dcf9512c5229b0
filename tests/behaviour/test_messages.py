"""What a stream carries: contract, sections 1 and 3: order, buffers, limits, receipts."""

from __future__ import annotations

import array
import ctypes
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Limits, MessageTooLarge
from tests.behaviour.conftest import connect, introduce
from tests.behaviour.face import AnyBus, AnyStream, error_of, feed, get, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Ends = tuple[AnyStream, AnyStream]
    MakeBus = Callable[..., AnyBus]

KIB = 1024


def test_messages_arrive_in_the_order_sent_each_exactly_once(ends: Ends) -> None:
    count = 1000
    sends = [
        [end.send(b"%d of %d" % (number, side)) for number in range(count)] for side, end in enumerate(ends)
    ]
    for side, end in enumerate(ends):
        received = [get(end.receive()) for _ in range(count)]
        assert received == [b"%d of %d" % (number, 1 - side) for number in range(count)]
    for numbers in sends:
        assert [get(outcome) for outcome in numbers] == list(range(1, count + 1))
    for end in ends:
        get(end.finish())
    assert [end.receive_all() for end in ends] == [[], []]


def test_order_does_not_depend_on_size(ends: Ends) -> None:
    ours, theirs = ends
    sizes = [0, 1, 100_000, 0, 63 * KIB, 64 * KIB, 65 * KIB, 1, 200_000, 0, 3, 31 * KIB]
    sends = [ours.send(bytes([number]) * size) for number, size in enumerate(sizes)]
    assert [get(theirs.receive()) for _ in sizes] == [bytes([n]) * size for n, size in enumerate(sizes)]
    assert [get(outcome) for outcome in sends] == list(range(1, len(sizes) + 1))


def test_an_empty_message_is_a_message(ends: Ends) -> None:
    ours, theirs = ends
    for _ in range(1500):  # free of payload, not of credit
        ours.send(b"")
    assert [get(theirs.receive()) for _ in range(1500)] == [b""] * 1500


class Buffer(bytearray):
    """A buffer of a class of its own."""


@pytest.mark.parametrize(
    "make_buffer",
    [
        bytearray,
        Buffer,
        lambda data: memoryview(bytearray(data)),
        lambda data: memoryview(bytearray(b".." + data + b".."))[2:-2],
        lambda data: array.array("B", data),
        lambda data: (ctypes.c_ubyte * len(data))(*data),
    ],
    ids=["bytearray", "subclass", "memoryview", "slice", "array", "ctypes"],
)
def test_a_buffer_is_copied_at_the_call(ends: Ends, make_buffer: Callable[[bytes], Any]) -> None:
    ours, theirs = ends
    buffer = make_buffer(b"before")
    for _ in range(8):
        get(ours.send(bytes(10 * KIB)))  # more than the window: the rest stays with the sender
    get(ours.send(buffer))
    memoryview(buffer).cast("B")[:] = b"after!"
    for _ in range(8):
        get(theirs.receive())
    received = get(theirs.receive())
    assert received == b"before"
    assert type(received) is bytes


def test_a_buffer_of_other_items_travels_as_its_raw_bytes(ends: Ends) -> None:
    ours, theirs = ends
    numbers = array.array("d", [1.5, -2.5])  # as a numpy array is: items of several bytes, and a shape
    table = memoryview(bytes(range(12))).cast("B", (3, 4))
    for buffer in (numbers, table):
        get(ours.send(buffer))
        assert get(theirs.receive()) == memoryview(buffer).tobytes()


@pytest.mark.parametrize("data", ["text", None, 7, [b"list"], memoryview(b"abcdef")[::2]])
def test_what_is_no_buffer_is_refused_and_takes_no_number(ends: Ends, data: Any) -> None:
    ours, theirs = ends
    error = error_of(ours.send(data))
    assert isinstance(error, TypeError)
    assert "data" in str(error)
    assert get(ours.send(b"first")) == 1
    assert get(theirs.receive()) == b"first"


@pytest.mark.parametrize("small", ["near", "far"])
def test_a_message_over_either_sides_limit_is_refused_before_anything_is_sent(
    make_bus: MakeBus, small: str
) -> None:
    limits = {small: {"limits": Limits(message_bytes_max=1000)}}
    near, far = introduce(*(make_bus(name, **limits.get(name, {})) for name in ("near", "far")))
    ours, theirs = connect(near, far)
    for size in (1001, 100_000):
        assert isinstance(error_of(ours.send(bytes(size))), MessageTooLarge)
        assert isinstance(error_of(theirs.send(bytes(size))), MessageTooLarge)
    assert (ours.stats().bytes_sent, ours.stats().send_queue_bytes) == (0, 0)
    assert get(ours.send(bytes(1000))) == 1
    assert get(theirs.receive()) == bytes(1000)
    assert get(theirs.send(bytes(1000))) == 1
    assert get(ours.receive()) == bytes(1000)


def test_the_limit_is_64_mib(ends: Ends) -> None:
    error = error_of(ends[0].send(bytes(64 * KIB * KIB + 1)))
    assert isinstance(error, MessageTooLarge)
    assert "67108864" in str(error)


def test_a_message_larger_than_the_window_is_announced_and_granted(ends: Ends) -> None:
    ours, theirs = ends
    large = bytes(range(256)) * 20_000  # 5 MB, and the window is 64 KiB
    messages = [b"before", large, b"between", large[::-1], b"after"]
    sending = feed(ours, messages)
    assert [get(theirs.receive()) for _ in messages] == messages
    assert get(sending) == [1, 2, 3, 4, 5]


def test_large_messages_of_several_streams_both_ways_get_their_turns(make_bus: MakeBus) -> None:
    near, far = introduce(make_bus("near"), make_bus("far"))
    pairs = [connect(near, far) for _ in range(4)] + [connect(far, near) for _ in range(4)]
    for number, (ours, theirs) in enumerate(pairs):
        ours.send(bytes([number]) * 700_000)
        theirs.send(bytes([100 + number]) * 700_000)
    for number, (ours, theirs) in enumerate(reversed(pairs)):
        assert get(ours.receive()) == bytes([107 - number]) * 700_000
        assert get(theirs.receive()) == bytes([7 - number]) * 700_000


# Receipts


def test_a_receipt_says_that_the_other_bus_has_it_and_not_that_it_was_consumed(ends: Ends) -> None:
    ours, theirs = ends
    for _ in range(10):
        get(ours.send(b"unread"))
    get(ours.acknowledged(10))
    get(ours.acknowledged(3))  # and all before
    assert theirs.stats().messages_received == 10
    assert theirs.stats().unconsumed_messages == 10
    later = ours.acknowledged(11)
    assert not later.done()
    get(ours.send(b"the eleventh"))
    get(later)


def test_receipts_are_of_messages_within_the_window_only(ends: Ends) -> None:
    ours, theirs = ends
    for _ in range(20):
        get(ours.send(bytes(10 * KIB)))
    get(ours.acknowledged(6))
    beyond = ours.acknowledged(20)
    until(lambda: theirs.stats().messages_received == 6)  # 6 of 10 KiB fit in 64
    assert not beyond.done()
    for _ in range(20):
        get(theirs.receive())
    get(beyond)


def test_receipts_that_came_stand_when_the_stream_is_over(ends: Ends) -> None:
    ours, theirs = ends
    get(ours.send(b"unread"))
    get(ours.acknowledged(1))
    get(theirs.abort())
    get(ours.acknowledged(1))
