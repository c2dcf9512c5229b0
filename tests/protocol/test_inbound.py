"""From frames to messages, and what of them has not been consumed."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.errors import RemoteProtocolError
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES, ReceiveWindow
from brokerless.protocol.inbound import Arrivals, Unconsumed
from brokerless.protocol.outbound import CHUNK_BYTES_MIN
from tests.protocol.two_ends import SMALL, End

TOTAL = 5000
LARGE = bytes(range(250)) * 20
HOST = End(1, 2, SMALL)


class Owner:
    id = 2


@pytest.fixture
def arrivals() -> Arrivals:
    return arrivals_with(40_000)


def arrivals_with(window: int) -> Arrivals:
    return Arrivals(HOST, 2, ReceiveWindow(HOST, cast("Any", Owner()), window))


def run(first: int, *messages: bytes) -> wire.Data:
    return wire.Data(2, first, 0, list(messages))


def chunk(sequence: int, offset: int, size: int, total: int = TOTAL) -> wire.Chunk:
    return wire.Chunk(2, sequence, 0, total, offset, LARGE[offset : offset + size])


# Arrivals


def test_runs_come_in_order(arrivals: Arrivals) -> None:
    assert arrivals.run(run(1, b"a", b"bb")) == 3 + 2 * MESSAGE_COST_BYTES
    assert arrivals.run(run(3, b"")) == MESSAGE_COST_BYTES
    assert arrivals.received == 3
    assert arrivals.received_cost == 3 + 3 * MESSAGE_COST_BYTES


def test_chunks_are_joined(arrivals: Arrivals) -> None:
    arrivals.run(run(1, b"a"))
    assert arrivals.chunk(chunk(2, 0, 2000), discard=False) is None
    assert arrivals.is_partial
    assert arrivals.received == 1
    assert arrivals.chunk(chunk(2, 2000, 2999), discard=False) is None
    assert arrivals.chunk(chunk(2, 4999, 1), discard=False) == LARGE
    assert not arrivals.is_partial
    assert arrivals.received == 2
    assert arrivals.received_cost == 1 + TOTAL + 2 * MESSAGE_COST_BYTES


def test_one_chunk_may_be_all(arrivals: Arrivals) -> None:
    assert arrivals.chunk(chunk(1, 0, 10, total=10), discard=False) == LARGE[:10]


@pytest.mark.parametrize("first", [2, 4, 9])
def test_a_run_out_of_order_is_the_peers_fault(arrivals: Arrivals, first: int) -> None:
    arrivals.run(run(1, b"a", b"b"))
    with pytest.raises(
        RemoteProtocolError, match=f"stream 2: message {first} out of order, after 2"
    ) as caught:
        arrivals.run(run(first, b"c"))
    assert caught.value.peer == HOST.remote


def test_a_run_within_a_chunked_message_is_the_peers_fault(arrivals: Arrivals) -> None:
    arrivals.chunk(chunk(1, 0, 2000), discard=False)
    with pytest.raises(RemoteProtocolError, match="message 1 out of order"):
        arrivals.run(run(1, b"a"))


@pytest.mark.parametrize(
    "wrong", [chunk(2, 2000, 2000), chunk(1, 2000, 2000, total=4999), chunk(1, 1999, 2000), chunk(1, 0, 2000)]
)
def test_a_chunk_out_of_order_is_the_peers_fault(arrivals: Arrivals, wrong: wire.Chunk) -> None:
    arrivals.chunk(chunk(1, 0, 2000), discard=False)
    with pytest.raises(RemoteProtocolError, match=f"a chunk of message {wrong.sequence} out of order"):
        arrivals.chunk(wrong, discard=False)


def test_a_message_does_not_begin_in_its_middle(arrivals: Arrivals) -> None:
    with pytest.raises(RemoteProtocolError, match="a chunk of message 1 out of order"):
        arrivals.chunk(chunk(1, 2000, 2000), discard=False)


def test_a_chunked_message_does_not_skip(arrivals: Arrivals) -> None:
    with pytest.raises(RemoteProtocolError, match="message 2 out of order"):
        arrivals.chunk(chunk(2, 0, 2000), discard=False)


def test_tiny_chunks_are_the_peers_fault(arrivals: Arrivals) -> None:
    assert arrivals.chunk(chunk(1, 0, CHUNK_BYTES_MIN), discard=False) is None
    with pytest.raises(RemoteProtocolError, match="a chunk of 1023 bytes"):
        arrivals.chunk(chunk(1, CHUNK_BYTES_MIN, CHUNK_BYTES_MIN - 1), discard=False)


def test_a_message_above_the_limit_is_the_peers_fault() -> None:
    arrivals = arrivals_with(100_000)
    size_max = HOST.message_bytes_max
    arrivals.run(run(1, bytes(size_max), bytes(1)))
    with pytest.raises(RemoteProtocolError, match=f"a message above {size_max} bytes"):
        arrivals.run(run(3, bytes(size_max + 1)))
    with pytest.raises(RemoteProtocolError, match=f"a message of {size_max + 1} bytes"):
        arrivals.chunk(wire.Chunk(2, 3, 0, size_max + 1, 0, bytes(2000)), discard=False)


def test_a_message_at_the_limit_is_taken() -> None:
    arrivals = arrivals_with(100_000)
    size_max = HOST.message_bytes_max
    assert arrivals.chunk(wire.Chunk(2, 1, 0, size_max, 0, bytes(size_max)), discard=False) == bytes(size_max)
    arrivals.run(run(2, bytes(size_max)))


def test_credit_is_charged_before_the_first_chunk_is_kept() -> None:
    arrivals = arrivals_with(TOTAL + MESSAGE_COST_BYTES - 1)
    with pytest.raises(RemoteProtocolError, match="5064 bytes sent, 5063 granted"):
        arrivals.chunk(chunk(1, 0, 2000), discard=False)
    assert not arrivals.is_partial


def test_a_run_above_the_credit_is_the_peers_fault() -> None:
    arrivals = arrivals_with(100)
    with pytest.raises(RemoteProtocolError, match="granted"):
        arrivals.run(run(1, bytes(37)))
    assert arrivals.received == 0


def test_what_is_discarded_is_still_counted(arrivals: Arrivals) -> None:
    arrivals.chunk(chunk(1, 0, 2000), discard=False)
    arrivals.forget_partial()
    assert arrivals.chunk(chunk(1, 2000, 3000), discard=True) == b""
    assert arrivals.received == 1
    arrivals.forget_partial()


# Unconsumed


RUNS = st.lists(st.lists(st.binary(max_size=5), min_size=1, max_size=6), max_size=6)


@given(RUNS, st.lists(st.integers(1, 12)))
def test_what_is_taken_costs_what_it_did_when_it_came(runs: list[list[bytes]], takes: list[int]) -> None:
    unconsumed = Unconsumed()
    messages = list(itertools.chain.from_iterable(runs))
    for run in runs:
        unconsumed.add(run, sum(len(m) + MESSAGE_COST_BYTES for m in run))
        run.clear()  # the list is the application's own
    for take in takes:
        count = min(take, len(messages))
        assert unconsumed.messages == len(messages)
        assert unconsumed.cost == sum(len(m) + MESSAGE_COST_BYTES for m in messages)
        taken, messages = messages[:count], messages[count:]
        assert unconsumed.take(count) == sum(len(m) + MESSAGE_COST_BYTES for m in taken)


def test_a_part_of_a_run_then_the_rest() -> None:
    unconsumed = Unconsumed()
    assert unconsumed.take(0) == 0
    unconsumed.add([b"a", b"bb", b"ccc"], 6 + 3 * MESSAGE_COST_BYTES)
    unconsumed.add([b"dddd", b"eeeee"], 9 + 2 * MESSAGE_COST_BYTES)
    assert unconsumed.take(1) == 1 + MESSAGE_COST_BYTES
    assert unconsumed.take(1) == 2 + MESSAGE_COST_BYTES
    assert unconsumed.take(2) == 7 + 2 * MESSAGE_COST_BYTES
    assert unconsumed.take(1) == 5 + MESSAGE_COST_BYTES
    assert (unconsumed.messages, unconsumed.cost) == (0, 0)


def test_cleared_it_is_empty() -> None:
    unconsumed = Unconsumed()
    unconsumed.clear()
    unconsumed.add([b"a", b"b"], 2 + 2 * MESSAGE_COST_BYTES)
    unconsumed.take(1)
    unconsumed.clear()
    unconsumed.add([b"cc", b"dd"], 4 + 2 * MESSAGE_COST_BYTES)
    assert unconsumed.take(1) == 2 + MESSAGE_COST_BYTES
