"""From messages to data frames: runs of small messages, chunks of large ones, within room and credit.

The hot path is ``Outbound.next_frame``: it does no Python work per message. As a rule it takes the whole
queue, because the totals are known; otherwise it sums lengths in C until something no longer fits. A message
that fits no room as a whole is cut, so nothing waits for a packet of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES, SendCredit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brokerless.protocol.stream_host import StreamHost

CHUNK_BYTES_MIN = 1024
"""A chunk below this must be its message's last: many tiny ones would cost more memory than their bytes."""

ROOM_BYTES_MIN = wire.CHUNK_OVERHEAD_BYTES + CHUNK_BYTES_MIN
"""In this room there is a frame for whatever there is to send."""

QUEUE_BYTES_MIN = 64 * 1024
"""What a stream may hold for sending, whatever others hold: a packet full. As much as its first window."""

QUEUE_GROWTH = 4
"""By what factor the space for a queue grows: each step is a reservation; two of them make a mebibyte."""

_SAVED_BYTES = MESSAGE_COST_BYTES - wire.MESSAGE_OVERHEAD_BYTES
"""A message's cost in credit less this is the most that it takes in a run."""


def run_room(room: int) -> int:
    """Return how many bytes of packed messages a data frame may hold within a frame of ``room`` bytes."""
    return min(room - wire.DATA_OVERHEAD_BYTES, wire.RUN_BYTES_MAX)


def run_length(lengths: Iterable[int], packed_max: int, cost_max: int) -> tuple[int, int]:
    """Return how many of the first messages fit in both bounds, and their cost."""
    costs = list(accumulate(lengths))
    count = bisect_left(
        range(1, len(costs) + 1),
        True,
        key=lambda n: (
            costs[n - 1] + n * wire.MESSAGE_OVERHEAD_BYTES > packed_max
            or costs[n - 1] + n * MESSAGE_COST_BYTES > cost_max
        ),
    )
    return count, costs[count - 1] + count * MESSAGE_COST_BYTES if count else 0


class QueueSpace:
    """How much of a stream may wait to be sent: a little always, more while the peer's budget has it.

    Without the budget a thousand streams that nobody reads at the other end would hold a thousand times
    ``send_queue_bytes_max`` here. *Queries* ``size``; *commands* ``make``, ``give_back``.
    """

    __slots__ = ("_host", "_least", "size")

    def __init__(self, host: StreamHost) -> None:
        self._host = host
        self._least = self.size = min(QUEUE_BYTES_MIN, host.limits.send_queue_bytes_max)

    def make(self, wanted: int) -> int:
        """Have space for so much, if that may be; return for how much there is."""
        most = self._host.limits.send_queue_bytes_max
        while self.size < wanted <= most:
            growth = min((QUEUE_GROWTH - 1) * self.size, most - self.size)
            if not self._host.reserve(growth):
                break
            self.size += growth
        return self.size

    def give_back(self) -> None:
        """Keep the least only: the queue is empty."""
        reserved = self.size - self._least
        if reserved:
            self.size = self._least
            self._host.release(reserved)


class Cutter:
    """Cuts one message into chunk frames, each as large as its room allows."""

    __slots__ = ("_channel", "_data", "_offset", "_sequence", "_stream_id")

    def __init__(self, stream_id: int, sequence: int, channel: int, data: bytes) -> None:
        self._stream_id = stream_id
        self._sequence = sequence
        self._channel = channel
        self._data = data
        self._offset = 0

    @property
    def cost(self) -> int:
        """What the message costs in credit."""
        return len(self._data) + MESSAGE_COST_BYTES

    @property
    def is_done(self) -> bool:
        """Whether the last chunk has been cut."""
        return self._offset == len(self._data)

    def next_frame(self, room: int) -> bytes:
        """Return the next chunk. ``room`` is at least ``ROOM_BYTES_MIN``."""
        end = self._offset + min(room - wire.CHUNK_OVERHEAD_BYTES, wire.CHUNK_BYTES_MAX)
        payload = self._data[self._offset : end]
        chunk = wire.Chunk(
            self._stream_id, self._sequence, self._channel, len(self._data), self._offset, payload
        )
        self._offset += len(payload)
        return wire.encode_chunk(chunk)


class Outbound:
    """The send queue of a stream, and its credit.

    *Queries* ``queued_cost``, ``queued_messages``, ``sent_cost``, ``sent_sequence``, ``last_sequence``,
    ``head_cost``, ``is_cutting``; *commands* ``drop``, and what ``Stream.send`` does in place; *output*
    ``next_frame``.
    """

    __slots__ = (
        "_cutter",
        "_stream_id",
        "credit",
        "last_sequence",
        "queue",
        "queued_cost",
        "sent_cost",
        "sent_sequence",
    )

    def __init__(self, stream_id: int, send_limit: int) -> None:
        self._stream_id = stream_id
        self.credit = SendCredit(send_limit)
        self.queue: list[bytes] = []
        self.queued_cost = 0  # of the queue, and of a message that is being cut
        self.last_sequence = 0
        self.sent_sequence = 0
        self.sent_cost = 0
        self._cutter: Cutter | None = None

    @property
    def queued_messages(self) -> int:
        """Messages that have not left completely."""
        return len(self.queue) + self.is_cutting

    @property
    def is_cutting(self) -> bool:
        """Whether a message has left in part."""
        return self._cutter is not None

    @property
    def head_cost(self) -> int:
        """What the first message of the queue costs."""
        return len(self.queue[0]) + MESSAGE_COST_BYTES

    def drop(self) -> None:
        """Forget what has not left."""
        self.queue = []
        self.queued_cost = 0
        self._cutter = None

    def next_frame(self, room: int) -> bytes | None:
        """Return one data or chunk frame of at most ``room`` bytes; None if there is no credit for any.

        ``room`` is at least ``ROOM_BYTES_MIN``, and the queue is not empty unless a message is being cut.
        """
        if self._cutter is not None:
            return self._next_chunk(self._cutter, room)
        queue = self.queue
        count, cost, credit = len(queue), self.queued_cost, self.credit.remaining
        packed, packed_max = cost - count * _SAVED_BYTES, run_room(room)
        if cost <= credit and packed <= packed_max:
            run = queue
            self.queue = []
        else:
            # Look at no more lengths than fit on average: the queue may hold many runs.
            some = 16 + packed_max * count // packed
            count, cost = run_length(map(len, islice(queue, some)), packed_max, credit)
            if not count:
                return self._first_chunk(room)
            run = queue[:count]
            del queue[:count]
        frame = wire.encode_data(self._stream_id, self.sent_sequence + 1, 0, run)
        self.credit.spend(cost)
        self._left(count, cost)
        return frame

    def _first_chunk(self, room: int) -> bytes | None:
        cost = self.head_cost
        if cost > self.credit.remaining:
            return None
        self.credit.spend(cost)
        self._cutter = Cutter(self._stream_id, self.sent_sequence + 1, 0, self.queue.pop(0))
        return self._next_chunk(self._cutter, room)

    def _next_chunk(self, cutter: Cutter, room: int) -> bytes:
        frame = cutter.next_frame(room)
        if cutter.is_done:
            self._cutter = None
            self._left(1, cutter.cost)
        return frame

    def _left(self, count: int, cost: int) -> None:
        self.queued_cost -= cost
        self.sent_cost += cost
        self.sent_sequence += count
