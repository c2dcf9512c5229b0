"""From data frames to messages: order, credit, joining of chunks, and what waits for the application."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from brokerless.errors import RemoteProtocolError
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.outbound import CHUNK_BYTES_MIN

if TYPE_CHECKING:
    from brokerless.protocol import wire
    from brokerless.protocol.credit import ReceiveWindow
    from brokerless.protocol.stream_host import StreamHost


class _Partial:
    """A large message of which some chunks have come. Memory is taken as they come, not as they declare."""

    __slots__ = ("offset", "parts", "sequence", "total")

    def __init__(self, sequence: int, total: int) -> None:
        self.sequence = sequence
        self.total = total
        self.offset = 0
        self.parts: list[bytes] = []


class Arrivals:
    """Checks what comes on a stream, and joins it to messages.

    *Queries* ``received`` (last complete sequence), ``received_cost``, ``is_partial``; *inputs* ``run``,
    ``chunk``, which raise ``RemoteProtocolError`` for what an honest sender cannot have sent; *commands*
    ``forget_partial``.
    """

    __slots__ = ("_host", "_partial", "_stream_id", "_window", "received", "received_cost")

    def __init__(self, host: StreamHost, stream_id: int, window: ReceiveWindow) -> None:
        self._host = host
        self._stream_id = stream_id
        self._window = window
        self._partial: _Partial | None = None
        self.received = 0
        self.received_cost = 0

    @property
    def is_partial(self) -> bool:
        """Whether a large message has come in part."""
        return self._partial is not None

    def run(self, frame: wire.Data) -> int:
        """Take a run of messages; return their cost."""
        messages = frame.messages
        if self._partial is not None or frame.first_sequence != self.received + 1:
            raise self._violation(f"message {frame.first_sequence} out of order")
        size = sum(map(len, messages))
        size_max = self._host.message_bytes_max
        if size > size_max and max(map(len, messages)) > size_max:
            raise self._violation(f"a message above {size_max} bytes")
        cost = size + MESSAGE_COST_BYTES * len(messages)
        self._window.arrive(cost)
        self._window.landed()
        self.received += len(messages)
        self.received_cost += cost
        return cost

    def chunk(self, frame: wire.Chunk, *, discard: bool) -> bytes | None:
        """Take a chunk; return the message it completes (an empty one if it is to be discarded), or None."""
        partial = self._partial
        if partial is None:
            partial = self._begin(frame)
        if (frame.sequence, frame.total, frame.offset) != (partial.sequence, partial.total, partial.offset):
            raise self._violation(f"a chunk of message {frame.sequence} out of order")
        partial.offset += len(frame.payload)
        if not discard:
            partial.parts.append(frame.payload)
        if partial.offset < partial.total:
            if len(frame.payload) < CHUNK_BYTES_MIN:
                raise self._violation(f"a chunk of {len(frame.payload)} bytes")
            return None
        self._partial = None
        self.received += 1
        self.received_cost += partial.total + MESSAGE_COST_BYTES
        self._window.landed()
        return b"".join(partial.parts)

    def forget_partial(self) -> None:
        """Drop the chunks that came so far; those that follow are still checked."""
        if self._partial is not None:
            self._partial.parts.clear()

    def _begin(self, frame: wire.Chunk) -> _Partial:
        if frame.sequence != self.received + 1:
            raise self._violation(f"message {frame.sequence} out of order")
        if frame.total > self._host.message_bytes_max:
            raise self._violation(f"a message of {frame.total} bytes")
        self._window.arrive(frame.total + MESSAGE_COST_BYTES)
        self._partial = _Partial(frame.sequence, frame.total)
        return self._partial

    def _violation(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"stream {self._stream_id}: {what}, after {self.received}", peer=self._host.remote
        )


class Unconsumed:
    """Runs that the application has been given and has not consumed.

    *Queries* ``messages``, ``cost``; *commands* ``add``, ``take``, ``clear``. Whole runs are taken in O(1), a
    part of one by summing its lengths in C.
    """

    __slots__ = ("_front_cost", "_front_taken", "_runs", "cost", "messages")

    def __init__(self) -> None:
        self._runs: deque[tuple[list[bytes], int]] | None = None  # a deque takes 600 bytes even when empty
        self._front_taken = 0  # messages of the first run
        self._front_cost = 0  # and their cost
        self.messages = 0
        self.cost = 0

    def add(self, run: list[bytes], cost: int) -> None:
        """Note a run that is handed up. The list that went up belongs to the application, so it is copied."""
        if self._runs is None:
            self._runs = deque()
        self._runs.append((run.copy(), cost))
        self.messages += len(run)
        self.cost += cost

    def take(self, count: int) -> int:
        """Return what the first ``count`` messages cost, which are consumed now; there are so many."""
        if count == self.messages:
            cost = self.cost
            self.clear()
            return cost
        assert self._runs is not None
        cost, left = 0, count
        while left:
            run, run_cost = self._runs[0]
            begin, end = self._front_taken, self._front_taken + left
            if end >= len(run):
                left = end - len(run)
                cost += run_cost - self._front_cost
                self._runs.popleft()
                self._front_taken = self._front_cost = 0
            else:
                part = sum(map(len, run[begin:end])) + left * MESSAGE_COST_BYTES
                cost += part
                self._front_taken = end
                self._front_cost += part
                left = 0
        self.messages -= count
        self.cost -= cost
        return cost

    def clear(self) -> None:
        """Forget everything."""
        self._runs = None
        self._front_taken = self._front_cost = 0
        self.messages = self.cost = 0
