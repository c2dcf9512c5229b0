"""From messages to frames."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.config import Limits
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.outbound import (
    CHUNK_BYTES_MIN,
    QUEUE_BYTES_MIN,
    QUEUE_GROWTH,
    ROOM_BYTES_MIN,
    Outbound,
    QueueSpace,
    run_length,
    run_room,
)
from tests.protocol.two_ends import ROOM_BYTES

PLENTY = 2**30


def filled(*messages: bytes, credit: int = PLENTY) -> Outbound:
    """Return a queue with these messages, put there as ``Stream.send`` does."""
    outbound = Outbound(2, credit)
    for message in messages:
        outbound.queue.append(message)
        outbound.queued_cost += len(message) + MESSAGE_COST_BYTES
        outbound.last_sequence += 1
    return outbound


def decoded(frame: bytes | None) -> wire.Data | wire.Chunk:
    assert frame is not None
    (decoded,) = wire.decode_packet(wire.encode_packet(1, 0, [frame])).frames
    assert isinstance(decoded, wire.Data | wire.Chunk)
    return decoded


def test_the_whole_queue_leaves_in_one_frame() -> None:
    outbound = filled(b"a", b"", b"ccc")
    assert outbound.queued_messages == 3
    assert outbound.head_cost == 1 + MESSAGE_COST_BYTES
    assert decoded(outbound.next_frame(ROOM_BYTES)) == wire.Data(2, 1, 0, [b"a", b"", b"ccc"])
    assert (outbound.sent_sequence, outbound.queued_cost, outbound.queued_messages) == (3, 0, 0)
    assert outbound.credit.used == outbound.sent_cost == 4 + 3 * MESSAGE_COST_BYTES


def test_only_what_credit_covers_leaves() -> None:
    outbound = filled(b"a", b"b", b"c", credit=2 * (1 + MESSAGE_COST_BYTES))
    assert decoded(outbound.next_frame(ROOM_BYTES)) == wire.Data(2, 1, 0, [b"a", b"b"])
    assert outbound.next_frame(ROOM_BYTES) is None
    outbound.credit.raise_to(outbound.credit.limit + outbound.head_cost)
    assert decoded(outbound.next_frame(ROOM_BYTES)) == wire.Data(2, 3, 0, [b"c"])


def test_a_queue_of_many_runs_leaves_in_full_frames() -> None:
    outbound = filled(*[bytes(100)] * 5000)
    counts = []
    while outbound.queue:
        frame = outbound.next_frame(ROOM_BYTES)
        assert frame is not None
        assert len(frame) <= ROOM_BYTES
        counts.append(len(decoded(frame).messages))  # type: ignore[union-attr]
    assert sum(counts) == 5000
    assert counts[0] == wire.RUN_BYTES_MAX // (100 + wire.MESSAGE_OVERHEAD_BYTES)
    assert len(set(counts[:-1])) == 1


def test_a_run_is_never_longer_than_a_run_may_be() -> None:
    outbound = filled(*[bytes(1000)] * 100)
    frame = outbound.next_frame(10 * wire.RUN_BYTES_MAX)
    assert frame is not None
    assert len(frame) <= wire.RUN_BYTES_MAX + wire.DATA_OVERHEAD_BYTES


def test_a_large_message_is_cut_to_its_rooms() -> None:
    data = bytes(range(256)) * 40
    outbound = filled(data, b"next")
    first = decoded(outbound.next_frame(ROOM_BYTES_MIN))
    assert first == wire.Chunk(2, 1, 0, len(data), 0, data[:1024])
    assert outbound.is_cutting
    assert outbound.queued_messages == 2
    assert outbound.credit.used == len(data) + MESSAGE_COST_BYTES, "all of it, before the first chunk"
    assert outbound.sent_cost == 0
    second = decoded(outbound.next_frame(ROOM_BYTES))
    assert second == wire.Chunk(2, 1, 0, len(data), 1024, data[1024:])
    assert not outbound.is_cutting
    assert (outbound.sent_sequence, outbound.queued_messages) == (1, 1)
    assert decoded(outbound.next_frame(ROOM_BYTES)) == wire.Data(2, 2, 0, [b"next"])
    assert outbound.queued_cost == 0


def test_a_chunk_is_never_larger_than_a_chunk_may_be() -> None:
    outbound = filled(bytes(3 * wire.CHUNK_BYTES_MAX))
    chunk = decoded(outbound.next_frame(10 * wire.CHUNK_BYTES_MAX))
    assert isinstance(chunk, wire.Chunk)
    assert len(chunk.payload) == wire.CHUNK_BYTES_MAX


def test_messages_before_a_large_one_go_first() -> None:
    outbound = filled(b"small", bytes(100_000))
    assert decoded(outbound.next_frame(ROOM_BYTES)) == wire.Data(2, 1, 0, [b"small"])
    assert isinstance(decoded(outbound.next_frame(ROOM_BYTES)), wire.Chunk)


def test_a_large_message_without_credit_is_not_begun() -> None:
    outbound = filled(bytes(100_000), credit=100_000)
    assert outbound.next_frame(ROOM_BYTES) is None
    assert not outbound.is_cutting


def test_what_is_dropped_is_gone() -> None:
    outbound = filled(bytes(100_000), b"x")
    outbound.next_frame(ROOM_BYTES)
    outbound.drop()
    assert (outbound.queued_messages, outbound.queued_cost, outbound.is_cutting) == (0, 0, False)
    assert outbound.sent_sequence == 0


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_530, 65_531, 65_532, 65_535, 65_536, 65_537])
def test_every_size_fits_its_frame(size: int) -> None:
    outbound = filled(bytes(size))
    received = b""
    while outbound.queued_cost:
        frame = outbound.next_frame(ROOM_BYTES)
        assert frame is not None
        assert len(frame) <= ROOM_BYTES
        piece = decoded(frame)
        received += piece.messages[0] if isinstance(piece, wire.Data) else piece.payload
    assert received == bytes(size)


def test_run_length_fills_both_bounds_exactly() -> None:
    both = 20 + 2 * MESSAGE_COST_BYTES
    assert run_length([10, 10, 10], 30, 1000) == (2, both)
    assert run_length([10, 10, 10], 29, 1000) == (1, both // 2)
    assert run_length([10, 10, 10], 1000, both) == (2, both)
    assert run_length([10, 10, 10], 1000, both - 1) == (1, both // 2)


LENGTHS = st.lists(st.integers(0, 100), max_size=20)


@given(LENGTHS, st.integers(0, 1000), st.integers(0, 2000))
def test_run_length_is_the_longest_that_fits(lengths: list[int], packed_max: int, cost_max: int) -> None:
    count, cost = run_length(lengths, packed_max, cost_max)

    def fits(n: int) -> bool:
        packed = sum(lengths[:n]) + n * wire.MESSAGE_OVERHEAD_BYTES
        return packed <= packed_max and sum(lengths[:n]) + n * MESSAGE_COST_BYTES <= cost_max

    assert count == 0 or fits(count)
    assert count == len(lengths) or not fits(count + 1)
    assert cost == sum(lengths[:count]) + count * MESSAGE_COST_BYTES


SIZES = st.integers(0, 300) | st.integers(0, 5000)
ROOMS = st.integers(ROOM_BYTES_MIN, 9000)


@given(st.lists(SIZES, max_size=30), st.lists(ROOMS, min_size=1), st.lists(st.integers(64, 4000), min_size=1))
def test_messages_come_out_whole_in_order_and_within_bounds(
    sizes: list[int], rooms: list[int], grants: list[int]
) -> None:
    messages = [bytes([i]) * size for i, size in enumerate(sizes)]
    outbound = filled(*messages, credit=0)
    received: list[bytes] = []
    partial = b""
    room, grant = itertools.cycle(rooms), itertools.cycle(grants)
    while outbound.queued_cost:
        room_now = next(room)
        frame = outbound.next_frame(room_now)
        if frame is None:
            assert outbound.head_cost > outbound.credit.remaining
            outbound.credit.raise_to(outbound.credit.limit + next(grant))
            continue
        assert len(frame) <= room_now
        assert outbound.credit.used <= outbound.credit.limit
        piece = decoded(frame)
        if isinstance(piece, wire.Data):
            assert piece.first_sequence == len(received) + 1
            received += piece.messages
        else:
            assert (piece.sequence, piece.offset) == (len(received) + 1, len(partial))
            partial += piece.payload
            if len(partial) == piece.total:
                received.append(partial)
                partial = b""
            else:
                assert len(piece.payload) >= CHUNK_BYTES_MIN
        assert outbound.sent_sequence == len(received)
    assert received == messages
    assert outbound.sent_cost == outbound.credit.used == sum(sizes) + MESSAGE_COST_BYTES * len(sizes)


class Memory:
    """A host that has only so much to give."""

    def __init__(self, free: int, queue_max: int) -> None:
        self.free = free
        self.limits = Limits(send_queue_bytes_max=queue_max)

    def reserve(self, byte_count: int) -> bool:
        assert byte_count > 0
        if byte_count > self.free:
            return False
        self.free -= byte_count
        return True

    def release(self, byte_count: int) -> None:
        assert byte_count > 0
        self.free += byte_count


def test_the_space_of_a_queue_grows_in_steps_and_is_given_back_exactly() -> None:
    memory = Memory(free=2**20, queue_max=2**20)
    space = QueueSpace(memory)  # type: ignore[arg-type]
    assert (space.size, memory.free) == (QUEUE_BYTES_MIN, 2**20)  # the least is nobody's to give
    assert space.make(QUEUE_BYTES_MIN) == QUEUE_BYTES_MIN
    assert space.make(QUEUE_BYTES_MIN + 1) == QUEUE_GROWTH * QUEUE_BYTES_MIN
    assert memory.free == 2**20 - (QUEUE_GROWTH - 1) * QUEUE_BYTES_MIN
    assert space.make(2**20) == 2**20
    assert space.make(2**20 + 1) == 2**20
    assert memory.free == QUEUE_BYTES_MIN
    for _ in range(2):
        space.give_back()
        assert (space.size, memory.free) == (QUEUE_BYTES_MIN, 2**20)


def test_space_that_is_not_to_be_had_is_not_taken() -> None:
    memory = Memory(free=(QUEUE_GROWTH - 1) * QUEUE_BYTES_MIN, queue_max=2**20)
    first, second = QueueSpace(memory), QueueSpace(memory)  # type: ignore[arg-type]
    assert first.make(2**20) == QUEUE_GROWTH * QUEUE_BYTES_MIN
    assert second.make(2**20) == QUEUE_BYTES_MIN
    first.give_back()
    assert second.make(QUEUE_BYTES_MIN + 1) == QUEUE_GROWTH * QUEUE_BYTES_MIN


def test_a_queue_with_a_small_limit_needs_no_budget() -> None:
    space = QueueSpace(Memory(free=0, queue_max=10_000))  # type: ignore[arg-type]
    assert space.size == space.make(10_000) == space.make(10_001) == 10_000
    space.give_back()


def test_room_of_a_run() -> None:
    assert run_room(1000) == 1000 - wire.DATA_OVERHEAD_BYTES
    assert run_room(10**6) == wire.RUN_BYTES_MAX
