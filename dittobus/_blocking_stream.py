"""A stream as blocking code knows it."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, cast

from brokerless import BusError, EndOfStream, Reliability, StreamFinished, WaitTimeout
from dittobus._arguments import as_bytes, checked_code, checked_reason, checked_sequence, checked_timeout
from dittobus._exchange import UNWOUND, let_go
from dittobus._mailbox import Mailbox, Over
from dittobus._outbox import Outbox, Refused
from dittobus._transmitter import Transmitter, no_receipts
from dittobus._waiting import Sleeper, deadline_after

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Buffer

    from brokerless import Address, DatagramStream, StreamStats
    from brokerless import Stream as CoreStream
    from dittobus._blocking_exchange import BlockingExchange


class Stream:
    """A stream of messages to and from one peer: if it is RELIABLE, in the order sent, each exactly once.

    >>> with bus.open_stream(peer) as stream:
    ...     stream.send(b"hello")
    ...     print(stream.receive())

    May be used from several threads at once: each message goes to one of those who receive. Leaving ``with``
    closes it, or aborts it after an exception. A stream that is collected unclosed is aborted.
    """

    __slots__ = (
        "__weakref__",
        "_aborted",
        "_closing",
        "_core",
        "_end_error",
        "_end_told",
        "_ended",
        "_exchange",
        "_finished_by_peer",
        "_has_finished",
        "_id",
        "_inbox",
        "_outbox",
        "_watchers",
    )

    def __init__(self, exchange: BlockingExchange, core: CoreStream, stream_id: int) -> None:
        self._exchange = exchange
        self._core = core
        self._id = stream_id
        self._inbox: Mailbox[bytes]
        self._outbox: Outbox | Transmitter
        if core.reliability is Reliability.RELIABLE:
            self._inbox = Mailbox(exchange.io, "message", core.consume)
            self._outbox = Outbox(exchange.io, core)
        else:
            self._inbox = Mailbox(exchange.io, "message")
            self._inbox.look_into(cast("DatagramStream", core).unread)
            self._outbox = Transmitter(exchange.io, core)
        self._watchers: list[Sleeper] = []  # who waits for receipts, or for the end
        self._finished_by_peer = False
        self._has_finished = False
        self._closing = False
        self._aborted = False
        self._ended = False
        self._end_error: BusError | None = None
        self._end_told = False

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

    def stats(self) -> StreamStats:
        """Return the counters of this stream, as they are now."""
        self._exchange.check_process()
        return self._exchange.io.call(self._core.stats)

    def __repr__(self) -> str:
        state = "closed" if self._ended else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {self._id} {self.name!r} with {self.peer.short}, {state}>"

    # Sending

    def send(self, data: Buffer, timeout: float | None = None) -> int:
        """Send one message, waiting until it is accepted; return its sequence number, the first is 1.

        Accepted means: in the send queue, which has room as the receiving application consumes. Raises
        ``SendTimeout`` if there is no room within ``timeout`` seconds, ``MessageTooLarge``,
        ``StreamFinished``, or what ended the stream.

        On a stream that may lose messages it means: handed to the network. Raises ``NoPath``, and
        ``SendQueueFull`` if the network takes no more now; it waits for neither.
        """
        if timeout is not None:
            checked_timeout(timeout)
        try:
            return self._outbox.send(data if type(data) is bytes else as_bytes(data), timeout)
        except Refused:
            raise self._send_end() from None

    def send_nowait(self, data: Buffer) -> int:
        """Send one message if it is accepted at once, and return its sequence number.

        Raises ``SendQueueFull`` if there is no room, and what ``send`` raises.
        """
        try:
            return self._outbox.send_nowait(as_bytes(data))
        except Refused:
            raise self._send_end() from None

    def wait_acknowledged(self, sequence: int | None = None, timeout: float | None = None) -> None:
        """Wait until the remote bus has all messages up to ``sequence``; None means all sent so far.

        It says that they are in its memory, not that its application has processed them. Raises
        ``WaitTimeout``, what ended the stream before, ``StreamFinished`` for a message that ``finish`` came
        before, and ``UsageError`` on a stream that may lose messages, which has no receipts.
        """
        checked_timeout(timeout)
        self._exchange.check_process()
        if self.reliability is not Reliability.RELIABLE:
            raise no_receipts(self)
        wanted = self._outbox.sequence if sequence is None else checked_sequence(sequence)

        def is_settled() -> bool:
            if self._has_finished and wanted > self._outbox.sequence:
                return True
            return self._core.acknowledged_sequence >= wanted or self._ended

        if not self._watch(is_settled, timeout):
            raise WaitTimeout(f"message {wanted} was not acknowledged within {timeout} s", peer=self.peer)
        if self._core.acknowledged_sequence < wanted:
            raise self._end() or StreamFinished(f"message {wanted} was never sent", peer=self.peer)

    def finish(self) -> None:
        """End this side's sending, after what was accepted. The other side may still send."""
        self._exchange.check_process()
        self._outbox.refuse()
        self._has_finished = True
        self._exchange.io.post(self._finish_core)

    # Receiving

    def receive(self, timeout: float | None = None) -> bytes:
        """Return the next message, waiting for it; it counts as consumed then.

        Raises ``WaitTimeout`` if none comes within ``timeout`` seconds, ``EndOfStream`` once the other side
        has finished and everything was received, ``StreamFinished`` once this side has closed, or what ended
        the stream otherwise. When interrupted, no message is lost.
        """
        try:
            return self._inbox.take(timeout)
        except Over:
            raise self._receive_end() from None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        try:
            return self._inbox.take(None)
        except Over:
            error = self._receive_end()
            raise StopIteration if isinstance(error, EndOfStream) else error from None

    # Ending

    def close(self, timeout: float | None = 5.0) -> None:
        """End both directions: drain what was accepted, up to ``timeout`` seconds; discard what arrives.

        Returns when the other application has consumed all that was sent. Otherwise raises ``StreamClosed``,
        or what has ended the stream instead, unless it had ended before and another call has told so. When
        interrupted, the stream is aborted. Who waits in another thread gets ``StreamFinished``. Closing twice
        is harmless.
        """
        checked_timeout(timeout)
        exchange = self._exchange
        exchange.check_process()
        is_known = self._aborted or (self._ended and self._end_told)
        try:
            self._stop()
            if not self._ended:
                exchange.io.post(partial(self._close_core, deadline_after(timeout)))
                self._watch(lambda: self._ended, None)
        except BaseException:
            exchange.io.post(self._core.abort)
            raise
        if not is_known and (error := self._end()) is not None:
            raise error

    def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until both directions have ended, however that comes about.

        For who must know of the end although nobody receives: ``receive`` tells of it after what has come.
        Raises ``WaitTimeout``, or what ended the stream, if that was not the normal end.
        """
        checked_timeout(timeout)
        self._exchange.check_process()
        if not self._watch(lambda: self._ended, timeout):
            raise WaitTimeout(f"the stream was not closed within {timeout} s", peer=self.peer)
        if (error := self._end()) is not None:
            raise error

    def abort(self, code: int = 0, reason: str = "") -> None:
        """Drop everything now; the other side gets ``StreamReset`` with ``code`` and ``reason``."""
        checked_code(code)
        checked_reason(reason)
        self._exchange.check_process()
        if not self._ended:
            self._aborted = True
            self._stop()
            self._exchange.io.post(partial(_abort, self._inbox, self._core, code, reason))

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._exchange.is_ours:
            return
        if kind is None:
            self.close()
        else:
            self.abort(reason=UNWOUND)

    def __del__(self) -> None:
        # A constructor that failed leaves no _end_told; another process leaves the stream to its owner.
        if not hasattr(self, "_end_told") or self._ended or self._closing or not self._exchange.is_ours:
            return
        warnings.warn(f"{self!r} was never closed; it is aborted", ResourceWarning, source=self, stacklevel=2)
        self._exchange.io.post(partial(let_go, self._core))

    def _stop(self) -> None:
        self._closing = True
        self._outbox.refuse()
        self._inbox.drop()

    def _watch(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until the I/O thread has made ``condition`` true; return False if the time is up before."""
        if condition():
            return True
        deadline = deadline_after(timeout)
        watcher = Sleeper(self._exchange.io)
        try:
            self._watchers.append(watcher)
            is_late = False
            while True:
                if condition():
                    return True
                if is_late:
                    return False
                is_late = not watcher.sleep(deadline)
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    # Why it goes no further

    def _end(self) -> BusError | None:
        """Return what ended the stream, if it was not the normal end; now it has been told."""
        if self._end_error is None:
            return None
        self._end_told = True
        error = copy.copy(self._end_error)  # threads must not share a traceback
        error.__cause__ = self._end_error.__cause__
        return error

    def _send_end(self) -> BusError:
        self._exchange.check_process()
        error = self._core.send_error or StreamFinished(
            "this side of the stream sends no more", peer=self.peer
        )
        if not isinstance(error, StreamFinished):
            self._end_told = True
        return error

    def _receive_end(self) -> BusError:
        self._exchange.check_process()
        if not self._finished_by_peer:
            if (error := self._end()) is not None:
                return error
            if self._closing:
                return StreamFinished("this side has closed the stream", peer=self.peer)
        return EndOfStream("the other side has finished, and all was received", peer=self.peer)

    # On the I/O thread, called by the bus

    def _did_get_ready(self) -> None:
        self._outbox.look_for_room()

    def _did_receive(self, messages: list[bytes]) -> None:
        self._inbox.put(messages)

    def _did_receive_unreliable(self) -> None:
        self._inbox.look_into(cast("DatagramStream", self._core).unread)

    def _did_acknowledge(self, sequence: int) -> None:
        self._wake_watchers()

    def _did_finish_receiving(self) -> None:
        self._finished_by_peer = True
        self._inbox.end()

    def _did_end(self, error: BusError | None) -> None:
        self._outbox.flush()  # into a core that takes no more: what is still here is lost, and must be told
        self._end_error = error or self._outbox.loss
        self._ended = True
        self._outbox.refuse()
        self._inbox.end()
        self._wake_watchers()

    def _did_fork(self) -> None:
        self._inbox.refuse()
        self._outbox.refuse_forked()

    def _wake_watchers(self) -> None:
        for watcher in tuple(self._watchers):
            watcher.wake()

    def _finish_core(self) -> None:
        self._outbox.flush()
        self._core.finish()
        self._wake_watchers()

    def _close_core(self, deadline: float | None) -> None:
        self._outbox.flush()
        self._inbox.report()
        left_s = None if deadline is None else max(0.0, deadline - monotonic())
        self._exchange.node.close_stream(self._core, left_s)


def _abort(inbox: Mailbox[bytes], core: CoreStream, code: int, reason: str) -> None:
    inbox.report()
    core.abort(code, reason)
