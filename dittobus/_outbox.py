"""What a stream sends, on its way from any thread to the send queue of the core."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from brokerless import BusError, MessageTooLarge, SendQueueFull, SendTimeout
from dittobus._waiting import Sleeper, deadline_after
from dittobus.stream import MESSAGE_COST_BYTES

if TYPE_CHECKING:
    from brokerless import Stream
    from dittobus._io_thread import IoThread


class Refused(Exception):
    """The stream sends no more."""


class Outbox:
    """Accepts messages from any thread, as many as the send queue of the core has room for.

    Accepted is a message once it is here; the I/O thread then hands it to the core, together with those that
    have come meanwhile. Room is shared fairly: who waits for it is served first come, first served.

    A ``send`` that ends by Ctrl-C takes its message back, unless the I/O thread was quicker.
    """

    __slots__ = (
        "_core",
        "_flush_is_due",
        "_gate",
        "_io",
        "_lock",
        "_pending",
        "_queued",
        "_senders",
        "_size_max",
        "loss",
        "sequence",
    )

    def __init__(self, io: IoThread, core: Stream) -> None:
        """Begin with a stream that is open and has sent nothing. On the I/O thread."""
        self._io = io
        self._core = core
        self._size_max = core.room  # of an empty queue: what the other side takes as one message
        self._lock = threading.Lock()
        self._pending: list[bytes] = []
        self._queued = 0  # what waits here and in the core, as far as we know: since then it got less, if any
        self._gate = core.make_room(0)  # for how much there is room in all; -1: refuses
        self._flush_is_due = False
        self._senders: deque[tuple[Sleeper, int]] = deque()  # who waits for room, and for how much
        self.sequence = 0
        """Of the last message that was accepted."""
        self.loss: BusError | None = None
        """Why messages that were accepted did not get into the core; None if they all did."""

    # From any thread

    def accept(self, message: bytes) -> int:
        """Accept a message for which there is room as far as we know, else return 0."""
        cost = len(message) + MESSAGE_COST_BYTES
        sequence = 0
        try:
            with self._lock:
                queued = self._queued + cost
                fits = queued <= self._gate or self._has_room(cost)
                if fits and not self._senders and len(message) <= self._size_max:
                    # Without a call in between, Ctrl-C comes before all of these or after all.
                    self._queued = queued
                    self.sequence = sequence = self.sequence + 1
                    self._pending += (message,)
            if sequence and not self._flush_is_due:
                self._flush_is_due = True
                self._io.post(self.flush)
            return sequence
        except BaseException:
            self._take_back(sequence, cost)
            raise

    def send(self, message: bytes, timeout: float | None = None) -> int:
        """Accept one message, waiting for room; return its sequence number.

        Raises ``Refused``, ``MessageTooLarge``, ``SendTimeout``.
        """
        return self.accept(message) or self._send_in_turn(message, timeout)

    def send_nowait(self, message: bytes) -> int:
        """Accept one message, if there is room. Raises ``SendQueueFull``, too."""
        sequence = self.accept(message)
        if not sequence:
            self._require_takeable(message)
            # Learns how much room there is by now.
            self._io.call(self.flush, len(message) + MESSAGE_COST_BYTES)
            sequence = self.accept(message)
        if not sequence:
            self._require_takeable(message)
            raise SendQueueFull("there is no room now", peer=self._core.peer, hint="use send()")
        return sequence

    def refuse(self) -> None:
        """Accept nothing any more, also from those who wait for room."""
        with self._lock:
            self._gate = -1
            for sleeper, _ in self._senders:
                sleeper.wake()

    # On the I/O thread

    def flush(self, cost: int = 0) -> None:
        """Hand to the core what was accepted, and see how much room that leaves, as ``look_for_room``."""
        with self._lock:
            pending, self._pending = self._pending, []
            self._flush_is_due = False
        try:
            self._core.send_all(pending)
        except BusError as error:
            self.loss = self.loss or error
            self.refuse()
        self.look_for_room(cost)

    def look_for_room(self, cost: int = 0) -> None:
        """Some of the queue has been sent, or dropped for good: let those in who wait, or refuse them.

        Where nobody waits, have room for a message of that cost, if memory allows.
        """
        if self._core.send_error is not None:
            self.refuse()
        stats = self._core.stats()
        in_core = stats.send_queue_bytes + MESSAGE_COST_BYTES * stats.send_queue_messages
        with self._lock:
            self._queued = in_core + sum(map(len, self._pending)) + MESSAGE_COST_BYTES * len(self._pending)
            if self._queued and self._gate >= 0:
                wanted = self._queued + (self._senders[0][1] if self._senders else cost)
                self._gate = self._core.make_room(max(self._gate, wanted))
            self._admit_next()

    # In a forked child

    def refuse_forked(self) -> None:
        """Accept nothing: it is the parent's, and so is the thread that may hold the lock."""
        self._lock = threading.Lock()
        self._gate = -1

    # The rest is private

    def _send_in_turn(self, message: bytes, timeout: float | None) -> int:
        self._require_takeable(message)
        deadline = deadline_after(timeout)
        cost = len(message) + MESSAGE_COST_BYTES
        place = Sleeper(self._io), cost
        sequence = 0
        try:
            with self._lock:
                self._senders.append(place)
            self._io.call(self.flush)  # learns how much of the queue has been sent meanwhile
            while True:
                with self._lock:
                    if self._senders[0] is place and self._has_room(cost):
                        self._queued += cost
                        self.sequence = sequence = self.sequence + 1
                        self._pending += (message,)
                if sequence:
                    break
                self._require_takeable(message)
                if not place[0].sleep(deadline):
                    text = "the stream did not accept the message in time; it was not sent"
                    raise SendTimeout(text, peer=self._core.peer)
            self._leave(place)
            return sequence
        except BaseException:
            self._take_back(sequence, cost)
            self._leave(place)
            raise

    def _require_takeable(self, message: bytes) -> None:
        if self._gate < 0 or self._core.send_error is not None:
            raise Refused
        if len(message) > self._size_max:
            raise MessageTooLarge(
                f"a message of {len(message)} bytes, at most {self._size_max}", peer=self._core.peer
            )

    def _take_back(self, sequence: int, cost: int) -> None:
        with self._lock:
            if sequence and self.sequence == sequence and self._pending:
                del self._pending[-1]
                self.sequence -= 1
                self._queued -= cost
        self._io.post(self.flush)  # the one that is noted as due may not have been asked for

    def _leave(self, place: tuple[Sleeper, int]) -> None:
        with self._lock:
            if place in self._senders:
                self._senders.remove(place)
            self._admit_next()
        if self._pending or self._senders:
            self._io.post(self.flush)

    # With the lock held

    def _has_room(self, cost: int) -> bool:
        """Tell whether a message fits; one of any size does where nothing is queued."""
        return self._gate >= 0 and (not self._queued or self._queued + cost <= self._gate)

    def _admit_next(self) -> None:
        """Wake the first who waits if there is room, else ask the core to say when it has sent something."""
        if self._senders:
            sleeper, cost = self._senders[0]
            if self._has_room(cost):
                sleeper.wake()
            elif self._io.is_current:
                self._core.want_ready()
