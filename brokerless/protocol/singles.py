"""Single messages to and from one peer: stream 0, which is always open and needs no handshake.

Unlike those of a stream, each message has its own channel, deadline and end, and one that has not left can
still be dropped; so sequence numbers are given when messages leave.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from brokerless.errors import (
    BusError,
    ConfigError,
    DeliveryUnknown,
    MessageTooLarge,
    SendQueueFull,
    SendTimeout,
    UsageError,
)
from brokerless.model import Message, MessageReceived, Reliability, SendDone, Traffic
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES, ReceiveWindow, SendCredit
from brokerless.protocol.inbound import Arrivals
from brokerless.protocol.outbound import Cutter, run_room
from brokerless.protocol.stream import again

if TYPE_CHECKING:
    from brokerless.protocol.stream_host import StreamHost

SPARE_DEADLINES = 64
"""Deadlines of messages that are done stay until they pass, or outnumber the others by this and double."""


class _Single:
    """One message on its way. ``data`` is let go when it has left."""

    __slots__ = ("channel", "data", "deadline", "is_done", "send_id")

    def __init__(self, channel: int, data: bytes, send_id: int, deadline: float | None) -> None:
        self.channel = channel
        self.data = data
        self.send_id = send_id
        self.deadline = deadline
        self.is_done = False

    @property
    def cost(self) -> int:
        return len(self.data) + MESSAGE_COST_BYTES


class Singles:
    """The single messages of a session, both directions.

    *Queries* ``id``, ``has_output``, ``is_idle``, ``next_deadline``, ``traffic``; *commands* ``send``,
    ``consume``, ``take_unsent``; *inputs* ``established``, ``on_data``, ``on_chunk``, ``on_grant``,
    ``on_blocked``, ``acknowledged``, ``grant_oversized``, ``expire``, ``session_ended``; *output*
    ``next_frame``.
    """

    __slots__ = (
        "_acknowledged",
        "_arrivals",
        "_consumed",
        "_credit",
        "_cutter",
        "_deadlines",
        "_host",
        "_left",
        "_queued_cost",
        "_sent",
        "_waiting",
        "_window",
        "has_output",
    )

    id = 0

    def __init__(self, host: StreamHost) -> None:
        self._host = host
        self.has_output = False
        self._credit = SendCredit(0)
        self._waiting: OrderedDict[int, _Single] = OrderedDict()
        self._queued_cost = 0
        self._left: deque[_Single] = deque()  # without acknowledgement, in order of their sequence
        self._sent = 0
        self._acknowledged = 0
        self._cutter: Cutter | None = None  # of the last one of those
        self._deadlines: list[tuple[float, int, _Single]] = []
        self._window = ReceiveWindow(host, self, host.limits.stream_window_initial_bytes)
        self._arrivals = Arrivals(host, 0, self._window)
        self._consumed = 0

    # Queries

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be sent or acknowledged."""
        return not self._waiting and not self._left

    def traffic(self) -> Traffic:
        """Return the counters."""
        # A message that is being cut has spent its credit, and has not left.
        cutting = 0 if self._cutter is None else self._cutter.cost
        sent_cost = self._credit.used - cutting
        arrivals, unconsumed = self._arrivals, self._arrivals.received - self._consumed
        queued = len(self._waiting) + bool(cutting)
        return Traffic(
            messages_sent=self._sent,
            bytes_sent=sent_cost - self._sent * MESSAGE_COST_BYTES,
            messages_received=arrivals.received,
            bytes_received=arrivals.received_cost - arrivals.received * MESSAGE_COST_BYTES,
            send_queue_messages=queued,
            send_queue_bytes=self._queued_cost + cutting - queued * MESSAGE_COST_BYTES,
            unconsumed_messages=unconsumed,
            unconsumed_bytes=arrivals.received_cost - self._window.consumed - unconsumed * MESSAGE_COST_BYTES,
        )

    def next_deadline(self) -> float | None:
        """Return when ``expire`` has something to do."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].is_done:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    # Commands

    def send(self, channel: int, data: bytes, send_id: int, deadline: float | None) -> None:
        """Queue one message; ``SendDone`` with its id follows."""
        if type(data) is not bytes:
            raise TypeError(f"a message is bytes, not {type(data).__name__}")
        if not 0 <= channel <= wire.U32_MAX:
            raise ConfigError(f"channel: expected 0 to {wire.U32_MAX}, got {channel}")
        if len(data) > self._host.message_bytes_max:
            raise self._too_large(data)
        single = _Single(channel, data, send_id, deadline)
        if self._waiting and self._queued_cost + single.cost > self._host.limits.peer_memory_bytes_max:
            raise SendQueueFull(f"{len(self._waiting)} messages are queued", peer=self._host.remote)
        self._waiting[send_id] = single
        self._queued_cost += single.cost
        if deadline is not None:
            self._add_deadline(deadline, single)
        if len(self._waiting) == 1:
            self._wake()

    def consume(self, count: int, byte_count: int) -> None:
        """Say that the application is done with ``count`` messages of ``byte_count`` bytes in all."""
        cost = byte_count + count * MESSAGE_COST_BYTES
        window, received = self._window, self._arrivals.received
        if count < 1 or self._consumed + count > received or window.consumed + cost > window.arrived:
            raise UsageError("consume: more than was received", peer=self._host.remote)
        self._consumed += count
        self._grant(window.consume(cost))

    def take_unsent(self) -> list[tuple[int, bytes, int, float | None]]:
        """Give up the messages of which nothing has left, as arguments of ``send``, in order."""
        unsent = [(s.channel, s.data, s.send_id, s.deadline) for s in self._waiting.values()]
        for single in self._waiting.values():
            single.is_done = True
        self._waiting.clear()
        self._queued_cost = 0
        self._wake()
        return unsent

    # Inputs

    def established(self, send_limit: int) -> None:
        """The other side's limits are known: what waited may leave, or is too large."""
        size_max = self._host.message_bytes_max
        for single in [s for s in self._waiting.values() if len(s.data) > size_max]:
            self._drop(single, self._too_large(single.data))
        self._credit.raise_to(send_limit)
        self._wake()

    def on_data(self, frame: wire.Data, now: float) -> None:
        """Take a run of messages."""
        self._arrivals.run(frame)
        for data in frame.messages:
            self._receive(frame.channel, data, now)

    def on_chunk(self, frame: wire.Chunk, now: float) -> None:
        """Take a chunk of a large message."""
        data = self._arrivals.chunk(frame, discard=False)
        if data is not None:
            self._receive(frame.channel, data, now)

    def on_grant(self, frame: wire.Grant) -> None:
        """Take credit."""
        self._credit.raise_to(frame.limit)
        self._wake()

    def on_blocked(self, frame: wire.Blocked) -> None:
        """Take note of a message that waits for credit, or take back the credit of one that was given up."""
        if frame.limit:
            self._window.blocked(frame.limit)
            self._grant(self._window.regrant())
        else:
            limit = self._window.take_back()
            self._grant(0)
            self._grant(limit)

    def acknowledged(self, sequence: int) -> None:
        """Take note that the other bus has all messages up to this one."""
        sequence = min(sequence, self._sent)
        while self._acknowledged < sequence:
            self._acknowledged += 1
            self._finish(self._left.popleft(), None)

    def grant_oversized(self) -> bool:
        """Grant the message that is larger than the window; False: the budget does not allow it now."""
        limit = self._window.grant_oversized()
        self._grant(limit)
        return limit is not None

    def expire(self, now: float) -> None:
        """Give up the messages whose deadline has passed."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            single = heappop(deadlines)[2]
            if single.send_id in self._waiting:
                unsent = "nothing of it was sent before its timeout"
                self._drop(single, SendTimeout(unsent, peer=self._host.remote))
            elif not single.is_done:
                timeout = SendTimeout("not acknowledged in time", peer=self._host.remote)
                self._finish(single, self._unknown(timeout))
        self._wake()

    def session_ended(self, error: BusError) -> None:
        """Everything that is under way ends with the session."""
        for single in self._left:
            self._finish(single, self._unknown(error))
        for single in self._waiting.values():
            self._finish(single, again(error))
        self._left.clear()
        self._waiting.clear()
        self._deadlines.clear()
        self._cutter = None
        self.has_output = False
        self._window.stop()

    # Output

    def next_frame(self, room: int) -> tuple[bytes, int] | None:
        """Return one frame of at most ``room`` bytes and the last message that has left whole by now.

        None: nothing may be sent now. ``room`` is at least ``ROOM_BYTES_MIN``, so that there is always one
        while ``has_output`` is true.
        """
        frame = None
        if self._cutter is not None:
            frame = self._next_chunk(self._cutter, room)
        elif self._waiting:
            frame = self._next_run(room)
        self._settle()
        return None if frame is None else (frame, self._sent)

    # The rest is private.

    def _next_run(self, room: int) -> bytes | None:
        packed_max, credit = run_room(room), self._credit.remaining
        run: list[bytes] = []
        cost = packed = 0
        head = next(iter(self._waiting.values()))
        for single in self._waiting.values():
            cost += single.cost
            packed += len(single.data) + wire.MESSAGE_OVERHEAD_BYTES
            if single.channel != head.channel or packed > packed_max or cost > credit:
                break
            run.append(single.data)
        if not run:
            return self._first_chunk(head, room) if head.cost <= credit else None
        frame = wire.encode_data(0, self._sent + 1, head.channel, run)
        for _ in run:
            self._leave()
        self._sent += len(run)
        return frame

    def _first_chunk(self, head: _Single, room: int) -> bytes:
        self._cutter = Cutter(0, self._sent + 1, head.channel, head.data)
        self._leave()
        return self._next_chunk(self._cutter, room)

    def _next_chunk(self, cutter: Cutter, room: int) -> bytes:
        frame = cutter.next_frame(room)
        if cutter.is_done:
            self._cutter = None
            self._sent += 1
        return frame

    def _leave(self) -> None:
        single = self._waiting.popitem(last=False)[1]
        self._queued_cost -= single.cost
        self._credit.spend(single.cost)
        single.data = b""
        self._left.append(single)

    def _settle(self) -> None:
        """See whether there is something that may leave; if credit is all that lacks, say so."""
        if self._cutter is not None:
            self.has_output = True
            return
        cost = next(iter(self._waiting.values())).cost if self._waiting else 0
        self.has_output = 0 < cost <= self._credit.remaining
        if not self.has_output:
            limit = self._credit.announce(cost)
            if limit is not None:
                self._host.control(wire.Blocked(0, limit))

    def _wake(self) -> None:
        if not self.has_output:
            self._settle()
            if self.has_output:
                self._host.schedule(self)

    def _add_deadline(self, deadline: float, single: _Single) -> None:
        deadlines = self._deadlines
        heappush(deadlines, (deadline, single.send_id, single))
        if len(deadlines) > 2 * (len(self._waiting) + len(self._left)) + SPARE_DEADLINES:
            self._deadlines = deadlines = [entry for entry in deadlines if not entry[2].is_done]
            heapify(deadlines)
        if deadlines[0][2] is single:
            self._host.deadline_changed(self)

    def _receive(self, channel: int, data: bytes, now: float) -> None:
        message = Message(self._host.remote, data, Reliability.RELIABLE, channel, now, origin=self)
        self._host.emit(MessageReceived(message))

    def _grant(self, limit: int | None) -> None:
        if limit is not None:
            self._host.control(wire.Grant(0, limit, self._consumed))

    def _drop(self, single: _Single, error: BusError) -> None:
        del self._waiting[single.send_id]
        self._queued_cost -= single.cost
        self._finish(single, error)

    def _finish(self, single: _Single, error: BusError | None) -> None:
        if not single.is_done:
            single.is_done = True
            self._host.emit(SendDone(single.send_id, error))

    def _unknown(self, cause: BusError) -> DeliveryUnknown:
        error = DeliveryUnknown(
            f"sent to {self._host.remote.short}, and not acknowledged",
            peer=self._host.remote,
            hint="it may have arrived: ask the other application, or make a second arrival harmless",
        )
        error.__cause__ = cause
        return error

    def _too_large(self, data: bytes) -> MessageTooLarge:
        size_max = self._host.message_bytes_max
        return MessageTooLarge(f"a message of {len(data)} bytes, at most {size_max}", peer=self._host.remote)
