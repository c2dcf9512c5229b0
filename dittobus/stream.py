"""A stream as the delegate style knows it."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, cast

from brokerless import (
    BusError,
    MessageTooLarge,
    Reliability,
    SendQueueFull,
    SendTimeout,
    StreamFinished,
    StreamNotReady,
    UsageError,
)
from dittobus._arguments import (
    checked_code,
    checked_delegate,
    checked_message,
    checked_reason,
    checked_timeout,
)
from dittobus._exchange import UNWOUND, let_go
from dittobus._futures import BusFuture
from dittobus._ground import checked_completion
from dittobus._strand import Recipient, Unpark
from dittobus._stream_entries import Closed, Finished, Messages, Progress, UnreadMessages
from dittobus.dispatch import as_dispatch_queue

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Buffer

    from brokerless import Address, DatagramStream, Node, Stream, StreamStats
    from dittobus._ground import Ground
    from dittobus._strand import Entry, Strand
    from dittobus.delegates import DittoBusStreamDelegate
    from dittobus.dispatch import EventQueue

MESSAGE_COST_BYTES = 64
"""What a waiting message counts besides its data, so that many empty ones are bounded, too."""

REPORT_BYTES = 8 * 1024
"""Consumption is reported no later than after this: an eighth of the smallest window."""


class _Waiting:
    """A message, or a last command, that the stream's send queue has not accepted yet."""

    __slots__ = ("command", "completion", "cost", "data", "future", "sequence")

    def __init__(
        self,
        data: bytes = b"",
        future: BusFuture[int] | None = None,
        completion: Callable[[int | None, BusError | None], object] | None = None,
        command: Callable[[], None] | None = None,
    ) -> None:
        self.data = data
        self.future = future
        self.completion = completion
        self.command = command
        self.cost = len(data) + MESSAGE_COST_BYTES
        self.sequence = 0  # 0: the core will say


class DittoBusStream(Recipient):
    """A stream of messages to and from one peer: if it is RELIABLE, in the order sent, each exactly once.

    Comes from ``open_stream`` or ``bus_did_receive_incoming_stream``. Set ``delegate`` to hear from it; what
    arrives before waits, within the window. May be used from any thread, and as a context manager that closes
    it, or aborts it when left by an exception. A stream that is collected unclosed is aborted.
    """

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_added_bytes",
        "_closing",
        "_consumed",
        "_consumed_reported",
        "_core",
        "_delegate",
        "_end_error",
        "_ended",
        "_event_queue",
        "_finishing",
        "_flush_posted",
        "_ground",
        "_handing_over",
        "_held",
        "_id",
        "_is_reliable",
        "_lock",
        "_node",
        "_numbered",
        "_report_posted",
        "_size_max",
        "_strand",
        "_taken_bytes",
        "_telling",
        "_unread",
        "_unreported_bytes",
        "_waiting",
    )

    def __init__(self, ground: Ground, node: Node, core: Stream, *, handing_over: bool) -> None:
        super().__init__(is_open=True)
        self._ground = ground
        self._node = node
        self._core = core
        self._id = next(ground.stream_ids)
        self._lock = threading.RLock()  # an executor may run callbacks within submit
        self._delegate: DittoBusStreamDelegate | None = None
        self._event_queue: EventQueue | None = None
        self._strand: Strand | None = None  # unknown until there is a delegate
        self._held: list[Entry] = []  # what comes until then
        self._handing_over = handing_over  # within the callback that hands the stream to the application
        self._waiting: deque[_Waiting] = deque()  # under the lock other threads add, without it ours takes
        self._added_bytes = 0
        self._taken_bytes = 0
        self._flush_posted = False
        self._telling = False  # the delegate has not heard yet that a message was enqueued
        self._accepted = 0  # sequence of the last message that the send queue took
        self._is_reliable = core.reliability is Reliability.RELIABLE
        self._numbered = 0  # unreliable messages that were given a sequence
        self._size_max = core.room or ground.limits.message_bytes_max  # what both sides allow, if unreliable
        self._unread = None if self._is_reliable else cast("DatagramStream", core).unread
        self._finishing = False
        self._closing = False
        self._ended = False
        self._end_error: BusError | None = None
        self._consumed = 0
        self._consumed_reported = 0
        self._unreported_bytes = 0
        self._report_posted = False

    # What it is

    @property
    def id(self) -> int:
        """Number of the stream, unique on this bus."""
        return self._id

    @property
    def peer(self) -> Address:
        """Who is at the other end."""
        return self._core.peer

    @property
    def name(self) -> str:
        """What the opener named it."""
        return self._core.name

    @property
    def metadata(self) -> bytes:
        """What the opener sent along."""
        return self._core.metadata

    @property
    def reply_metadata(self) -> bytes:
        """What the acceptor sent along."""
        return self._core.reply_metadata

    @property
    def reliability(self) -> Reliability:
        """What is promised of delivery."""
        return self._core.reliability

    @property
    def is_ready(self) -> bool:
        """True when ``enqueue_message`` would take a message: the delegate, if any, has heard of the last.

        A stream that may lose messages is always ready while it is open.
        """
        if not self._is_reliable:
            return not (self._finishing or self._ended)
        telling = self._telling and self._delegate is not None
        return not (self._waiting or telling or self._finishing or self._ended)

    def stats(self) -> StreamStats:
        """Return the counters of this stream, as they are now."""
        self._ground.check_process()
        return self._ground.io.call(self._core.stats)

    def __repr__(self) -> str:
        state = "closed" if self._ended else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {self._id} {self.name!r} with {self.peer.short}, {state}>"

    # Who hears from it

    @property
    def delegate(self) -> DittoBusStreamDelegate | None:
        """Who hears from this stream. Held strongly, and keeps the stream alive until it is closed."""
        return self._delegate

    @delegate.setter
    def delegate(self, delegate: DittoBusStreamDelegate | None) -> None:
        self._ground.check_process()
        checked_delegate(delegate)
        with self._lock:
            self._delegate = delegate
            if delegate is None:
                self._ground.kept.discard(self)
                return
            if not self._ended:
                self._ground.kept.add(self)
            if self._strand is not None:
                self._strand.append(self, Unpark())
            elif not self._handing_over:
                self._bind()

    @property
    def delegate_event_queue(self) -> EventQueue:
        """Where this stream's callbacks run: the bus's queue, unless set to another.

        Set it before the delegate, or within the callback that hands the stream over; later it raises.
        """
        return self._event_queue if self._event_queue is not None else self._ground.strand.event_queue

    @delegate_event_queue.setter
    def delegate_event_queue(self, event_queue: EventQueue) -> None:
        as_dispatch_queue(event_queue)
        self._ground.check_process()
        with self._lock:
            if self._strand is not None:
                raise UsageError(
                    "delegate_event_queue: can be set before the first event only",
                    hint="set it before the delegate, or within the callback that hands the stream over",
                )
            self._event_queue = event_queue

    # Sending

    def enqueue_message(self, data: Buffer) -> int:
        """Enqueue one message and return its sequence number; the first is 1.

        Enqueue the next when ``stream_did_enqueue`` says so. Raises ``StreamNotReady`` before that,
        ``MessageTooLarge``, ``StreamFinished``, or what ended the stream.

        On a stream that may lose messages, ``stream_did_enqueue`` tells that it was transmitted, or why not;
        nothing waits for it. Raises ``SendQueueFull`` if ``limits.send_queue_bytes_max`` wait for the I/O
        thread.
        """
        self._ground.check_process()
        message = _Waiting(checked_message(data, self._ground.limits, self.reliability))
        with self._lock:
            self._require_sending()
            if not self._is_reliable:
                self._require_room(message)
                self._wait(message)
                return message.sequence
            if not self.is_ready:
                raise StreamNotReady(
                    "a message is still being enqueued", peer=self.peer, hint="wait for stream_did_enqueue"
                )
            sequence = self._accepted + 1
            self._wait(message)
        return sequence

    def send(
        self,
        data: Buffer,
        completion: Callable[[int | None, BusError | None], object] | None = None,
        timeout: float | None = None,
    ) -> concurrent.futures.Future[int]:
        """Queue one message; the future, and ``completion(sequence, error)``, tell when it was accepted.

        Does not wait for those before it. Those that wait for acceptance are bounded by
        ``limits.send_queue_bytes_max``; beyond it this raises ``SendQueueFull``. After ``timeout`` seconds
        without acceptance the message is withdrawn, and ends in ``SendTimeout``. Raises ``MessageTooLarge``,
        ``StreamFinished``, or what ended the stream.

        On a stream that may lose messages, they tell that it was transmitted, or fail with ``NoPath`` or
        ``SendQueueFull`` at once.
        """
        ground = self._ground
        ground.check_process()
        checked_completion(completion)
        checked_timeout(timeout)
        future: BusFuture[int] = BusFuture(ground.io)
        message = _Waiting(checked_message(data, ground.limits, self.reliability), future, completion)
        with self._lock:
            self._require_sending()
            self._require_room(message)
            self._wait(message)
        if timeout is not None and self._is_reliable:
            ground.io.post(partial(self._arm, message, timeout))
        return future

    # Ending

    def finish(self) -> None:
        """End this side's sending, after what was enqueued. The other side may still send."""
        self._ground.check_process()
        with self._lock:
            if not (self._finishing or self._ended):
                self._finishing = True
                self._wait(_Waiting(command=self._core.finish))

    def close(self, timeout: float | None = 5.0) -> None:
        """End both directions: drain what was enqueued, up to ``timeout`` seconds; discard what arrives.

        ``stream_did_close`` follows, with None if the other application consumed all that was sent. Closing
        twice is harmless.
        """
        self._ground.check_process()
        checked_timeout(timeout)
        with self._lock:
            if self._closing or self._ended:
                return
            self._closing = self._finishing = True
            deadline = None if timeout is None else monotonic() + timeout
            closing = _Waiting(command=partial(self._close_core, deadline))
            self._wait(closing)
        if timeout is not None:
            self._ground.io.post(partial(self._arm, closing, timeout))

    def abort(self, code: int = 0, reason: str = "") -> None:
        """Drop everything now; the other side gets ``StreamReset`` with ``code`` and ``reason``."""
        self._ground.check_process()
        checked_code(code)
        checked_reason(reason)
        with self._lock:
            if self._ended:
                return
            self._closing = self._finishing = True
        self._ground.io.post(partial(self._abort_core, code, reason))

    def __enter__(self) -> DittoBusStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ground.is_ours:
            return
        if kind is None:
            self.close()
        else:
            self.abort(reason=UNWOUND)

    def __del__(self) -> None:
        # A constructor that failed leaves no _ended; another process leaves the stream to its owner.
        if getattr(self, "_ended", True) or self._closing or not self._ground.is_ours:
            return
        warnings.warn(f"{self!r} was never closed; it is aborted", ResourceWarning, source=self, stacklevel=2)
        self._ground.io.post(partial(let_go, self._core))

    # From here on it is called by the bus. First by whoever hands the stream to the application.

    def _handed_over(self) -> None:
        with self._lock:
            self._handing_over = False
            if self._delegate is not None and self._strand is None:
                self._bind()

    def _bind(self) -> None:
        self._strand = strand = self._ground.strand_on(self._event_queue)
        held, self._held = self._held, []
        for entry in held:
            strand.append(self, entry)

    # On the strand

    def _note_consumed(self, byte_count: int, is_last: bool) -> None:
        """The application is done with a message; tell the core in batches."""
        self._consumed += 1
        self._unreported_bytes += byte_count + MESSAGE_COST_BYTES
        if is_last or self._unreported_bytes >= REPORT_BYTES:
            self._unreported_bytes = 0
            if not self._report_posted:
                self._report_posted = True
                self._ground.io.post(self._report_consumed)

    def _note_taken(self) -> None:
        """The application is done with a message that had no credit to give back."""
        self._consumed += 1
        self._consumed_reported += 1

    # On the I/O thread

    def _did_receive(self, messages: list[bytes]) -> None:
        self._deliver(Messages(messages))

    def _did_receive_unreliable(self) -> None:
        self._deliver(UnreadMessages())

    def _did_acknowledge(self, sequence: int) -> None:
        self._deliver(Progress(receipt=sequence))

    def _did_finish_receiving(self) -> None:
        self._deliver(Finished())

    def _did_end(self, error: BusError | None) -> None:
        with self._lock:
            self._ended = True
            self._end_error = error
            waiting, self._waiting = self._waiting, deque()
            self._ground.kept.discard(self)
        reason = error or StreamFinished(
            "the stream was closed before this message was accepted", peer=self.peer
        )
        sequence = self._accepted
        for message in waiting:
            sequence += 1
            self._settle(message, message.sequence or sequence, reason)
        self._deliver(Closed(error))

    def _did_get_ready(self) -> None:
        """Give the core what waits, as far as it takes it; the rest follows when it is ready again."""
        self._flush_posted = False  # what is added from here on is either seen below, or posted again
        while self._waiting:
            message = self._waiting[0]
            error = None
            try:
                if message.command is None:
                    self._accepted = self._core.send(message.data)
                else:
                    message.command()
            except BusError as failure:
                if self._is_reliable and isinstance(failure, SendQueueFull):
                    self._flush_posted = True  # the core tells when it has room; until then nobody need try
                    return
                error = failure
            sequence = message.sequence or self._accepted + (error is not None)
            # As long as it waits no other is enqueued: so the delegate is to be told before it leaves.
            self._telling |= message.future is None and message.command is None
            if self._waiting:  # a command may have ended the stream, and with it those who wait
                self._waiting.popleft()
                self._taken_bytes += message.cost
            self._settle(message, sequence, error)

    def _deliver(self, entry: Entry) -> None:
        with self._lock:
            if self._strand is not None:
                self._strand.append(self, entry)
            elif not (self._held and self._held[-1].absorb(entry)):
                self._held.append(entry)
        self._ground.watch()

    def _settle(self, message: _Waiting, sequence: int, error: BusError | None) -> None:
        if message.command is not None:
            return
        if message.future is None:
            self._deliver(Progress(enqueued=(sequence, error)))
        elif error is None:
            message.future.succeed(sequence)
            self._ground.complete(message.completion, sequence, None)
        else:
            message.future.fail(error)
            self._ground.complete(message.completion, None, error)

    def _arm(self, message: _Waiting, timeout: float) -> None:
        """Give the message, or the closing, only so much time to be accepted."""
        with self._lock:
            if message in self._waiting:
                self._ground.io.loop.call_later(timeout, self._expire, message)

    def _expire(self, message: _Waiting) -> None:
        with self._lock:
            if message not in self._waiting:
                return
            if message.command is None:
                self._waiting.remove(message)
                self._taken_bytes += message.cost
        if message.command is not None:
            message.command()  # closes the core, which has no time left, either, and so fails what waits
            return
        text = "the stream did not accept the message in time; it was not sent"
        self._settle(message, 0, SendTimeout(text, peer=self.peer))

    def _report_consumed(self) -> None:
        self._report_posted = False
        count = self._consumed - self._consumed_reported
        self._consumed_reported += count
        if count and not self._ended:
            self._core.consume(count)

    def _close_core(self, deadline: float | None) -> None:
        self._report_consumed()
        self._node.close_stream(self._core, None if deadline is None else max(0.0, deadline - monotonic()))

    def _abort_core(self, code: int, reason: str) -> None:
        self._report_consumed()
        self._core.abort(code, reason)

    # With the lock held

    def _require_sending(self) -> None:
        if self._end_error is not None and not self._finishing:
            raise self._end_error.with_traceback(None)
        if self._finishing or self._ended:
            raise StreamFinished("this side of the stream sends no more", peer=self.peer)

    def _require_room(self, message: _Waiting) -> None:
        if not self._is_reliable and len(message.data) > self._size_max:
            raise MessageTooLarge(
                f"an unreliable message of {len(message.data)} bytes, at most {self._size_max}",
                peer=self.peer,
            )
        waiting_bytes = self._added_bytes - self._taken_bytes
        if self._waiting and waiting_bytes + message.cost > self._ground.limits.send_queue_bytes_max:
            raise SendQueueFull(
                f"{len(self._waiting)} messages wait to be accepted",
                peer=self.peer,
                hint="wait for the futures of earlier ones",
            )

    def _wait(self, message: _Waiting) -> None:
        if not self._is_reliable and message.command is None:
            self._numbered = message.sequence = self._numbered + 1
        self._waiting.append(message)
        self._added_bytes += message.cost
        if not self._flush_posted:
            self._flush_posted = True
            self._ground.io.post(self._did_get_ready)
