"""A stream as asyncio knows it."""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from typing import TYPE_CHECKING

from brokerless import BusError, EndOfStream, ForkedProcessError, SendQueueFull, StreamFinished, UsageError
from dittobus._arguments import (
    checked_code,
    checked_message,
    checked_reason,
    checked_sequence,
    checked_timeout,
)
from dittobus._exchange import UNWOUND

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from brokerless import Address, Reliability, StreamStats
    from brokerless import Stream as CoreStream
    from dittobus._aio_exchange import AioExchange


class Stream:
    """A stream of messages to and from one peer: if it is RELIABLE, in the order sent, each exactly once.

    >>> async with await bus.open_stream(peer) as stream:
    ...     await stream.send(b"hello")
    ...     print(await stream.receive())

    Belongs to the loop of its bus. Leaving ``async with`` closes it, or aborts it after an exception. A
    stream that is collected unclosed is aborted.
    """

    __slots__ = (
        "__weakref__",
        "_aborted",
        "_batch",
        "_batch_size",
        "_closing",
        "_core",
        "_end_error",
        "_end_told",
        "_ended",
        "_exchange",
        "_finished_by_peer",
        "_has_finished",
        "_id",
        "_later",
        "_loop",
        "_port",
        "_receipts",
        "_receivers",
        "_report_is_due",
        "_send",
        "_senders",
    )

    def __init__(self, exchange: AioExchange, core: CoreStream, stream_id: int) -> None:
        self._exchange = exchange
        self._core = core
        self._port = exchange.port(core)
        self._id = stream_id
        self._loop = asyncio.get_running_loop()
        # Sending
        self._send = self._port.send
        # Few wait, and mostly nobody does: an empty deque would cost as much as all the rest of a stream.
        self._senders: list[asyncio.Future[None]] = []  # who waits for room, first come, first served
        self._receipts: dict[asyncio.Future[None], int] = {}
        self._has_finished = False
        # Receiving. Messages are taken from the end of a reversed list: nothing in Python is faster.
        self._batch: list[bytes] = []
        self._batch_size = 0  # messages of the batch whose consumption has not been reported, taken or not
        self._later: deque[list[bytes]] | None = None
        self._receivers: list[asyncio.Future[None]] = []
        self._report_is_due = False
        self._finished_by_peer = False
        # The end
        self._closing = False
        self._aborted = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
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
        return self._exchange.call(self._core.stats)

    def __repr__(self) -> str:
        state = "closed" if self._ended.done() else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {self._id} {self.name!r} with {self.peer.short}, {state}>"

    # Sending

    async def send(self, data: Buffer) -> int:
        """Send one message, waiting until it is accepted; return its sequence number, the first is 1.

        Accepted means: in the send queue, which has room as the receiving application consumes; on a stream
        that may lose messages: handed to the network, or not (``NoPath``, ``SendQueueFull``). When cancelled,
        nothing was sent. Raises ``MessageTooLarge``, ``StreamFinished``, or what ended the stream.
        """
        if type(data) is bytes and not self._senders:
            try:
                return self._send(data)
            except SendQueueFull:
                pass
            except BusError as error:
                self._note_told(error)
                raise
        return await self._send_in_turn(checked_message(data, self._exchange.limits))

    def send_nowait(self, data: Buffer) -> int:
        """Send one message if it is accepted at once, and return its sequence number.

        Raises ``SendQueueFull`` if there is no room, and what ``send`` raises. On a stream that may lose
        messages it does as ``send``, without a chance for other tasks to run.
        """
        message = checked_message(data, self._exchange.limits, self.reliability)
        if self._senders:
            raise SendQueueFull("others wait to send on this stream", peer=self.peer, hint="use send()")
        try:
            return self._send(message)
        except BusError as error:
            self._note_told(error)
            raise

    async def wait_acknowledged(self, sequence: int | None = None) -> None:
        """Wait until the remote bus has all messages up to ``sequence``; None means all sent so far.

        It says that they are in its memory, not that its application has processed them. Raises what ended
        the stream before, ``StreamFinished`` for a message that ``finish`` came before, and ``UsageError`` on
        a stream that may lose messages, which has no receipts.
        """
        self._check_place()
        wanted = self._port.last_sequence if sequence is None else checked_sequence(sequence)
        if self._core.acknowledged_sequence >= wanted:
            return
        if self._ended.done():
            raise self._failure()
        if self._has_finished and wanted > self._port.last_sequence:
            raise self._never_sent(wanted)
        receipt: asyncio.Future[None] = self._loop.create_future()
        self._receipts[receipt] = wanted
        try:
            await receipt
        finally:
            self._receipts.pop(receipt, None)

    async def finish(self) -> None:
        """End this side's sending, after what was accepted. The other side may still send."""
        self._check_place()
        self._port.finish()
        self._has_finished = True
        for receipt, wanted in self._receipts.items():
            if wanted > self._port.last_sequence and not receipt.done():
                receipt.set_exception(self._never_sent(wanted))

    def _never_sent(self, sequence: int) -> StreamFinished:
        return StreamFinished(f"message {sequence} was never sent", peer=self.peer)

    async def _send_in_turn(self, message: bytes) -> int:
        self._check_place()
        turn: asyncio.Future[None] = self._loop.create_future()
        self._senders.append(turn)
        if len(self._senders) == 1:
            turn.set_result(None)
        try:
            while True:
                await turn
                try:
                    return self._send(message)
                except SendQueueFull:  # the core will say StreamReady
                    turn = self._senders[0] = self._loop.create_future()
                except BusError as error:
                    self._note_told(error)
                    raise
        finally:
            self._senders.remove(turn)
            self._did_get_ready()

    def _note_told(self, error: BusError) -> None:
        """What ended the stream need not be told again by ``close``; a wrong use is not what ended it."""
        if not isinstance(error, UsageError):
            self._end_told = True

    # Receiving

    async def receive(self) -> bytes:
        """Return the next message, waiting for it; it counts as consumed then. When cancelled, none is lost.

        Raises ``EndOfStream`` once the other side has finished and everything was received,
        ``StreamFinished`` once this side has closed, or what ended the stream otherwise.
        """
        if batch := self._batch:
            message = batch.pop()
            if not batch:
                self._report_consumed()
            return message
        return await self._receive_later()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        if batch := self._batch:
            message = batch.pop()
            if not batch:
                self._report_consumed()
            return message
        try:
            return await self._receive_later()
        except EndOfStream:
            raise StopAsyncIteration from None

    async def _receive_later(self) -> bytes:
        self._check_place()
        arrival: asyncio.Future[None] | None = None
        try:
            while (message := self._take()) is None:
                if self._finished_by_peer or self._closing or self._ended.done():
                    raise self._end()
                following: asyncio.Future[None] = self._loop.create_future()
                if arrival is None:
                    self._receivers.append(following)
                else:  # somebody who did not wait was quicker: it keeps its place
                    self._receivers[self._receivers.index(arrival)] = following
                arrival = following
                await arrival
            return message
        finally:
            if arrival is not None:
                self._receivers.remove(arrival)
            if self._has_more:
                self._wake_receiver()

    def _take(self) -> bytes | None:
        if not self._batch and not self._load():
            return None
        message = self._batch.pop()
        if not self._batch:
            self._report_consumed()
        return message

    @property
    def _has_more(self) -> bool:
        return bool(self._batch or self._later)

    def _load(self) -> bool:
        """Make the next run of messages the batch, if there is one."""
        later = self._later
        if not later:
            return False
        self._batch = later.popleft()
        if not later:
            self._later = None
        self._batch_size = len(self._batch)
        if not self._report_is_due:
            self._report_is_due = True
            self._loop.call_soon(self._report_in_passing)
        return True

    def _report_in_passing(self) -> None:
        """Once per turn of the loop at most, so that no credit waits for the rest of a batch to be taken."""
        self._report_is_due = False
        if rest := self._batch:
            self._report_consumed()
            self._batch = []
            if self._later is None:
                self._later = deque()
            self._later.appendleft(rest)  # taking it again asks for the next report

    def _report_consumed(self) -> None:
        taken = self._batch_size - len(self._batch)
        self._batch_size = 0
        if taken:
            self._port.consume(taken)

    # Ending

    async def close(self, timeout: float | None = 5.0) -> None:  # noqa: ASYNC109 - time to drain, no limit
        """End both directions: drain what was accepted, up to ``timeout`` seconds; discard what arrives.

        Returns when the other application has consumed all that was sent. Otherwise raises ``StreamClosed``,
        or what has ended the stream instead, unless it had ended before and another call has told so, or this
        side has aborted it. When cancelled, the stream is aborted. Closing twice is harmless.
        """
        checked_timeout(timeout)
        self._check_place()
        is_known = self._aborted or (self._ended.done() and self._end_told)
        if not self._ended.done():
            try:
                if not self._aborted:
                    self._stop_receiving()
                    self._exchange.close_stream(self._core, timeout)
                await asyncio.shield(self._ended)
            except asyncio.CancelledError:
                self._aborted = True
                self._exchange.abandon(self._core)
                raise
        if self._end_error is not None and not is_known:
            raise self._failure()

    async def wait_closed(self) -> None:
        """Wait until both directions have ended, however that comes about; when cancelled, nothing changes.

        For who must know of the end although nobody receives: ``receive`` tells of it after what has come.
        Raises what ended the stream, if that was not the normal end.
        """
        self._check_place()
        await asyncio.shield(self._ended)
        if self._end_error is not None:
            raise self._failure()

    def abort(self, code: int = 0, reason: str = "") -> None:
        """Drop everything now; the other side gets ``StreamReset`` with ``code`` and ``reason``."""
        checked_code(code)
        checked_reason(reason)
        self._check_place()
        if not self._ended.done():
            self._stop_receiving()
            self._aborted = True
            self._port.abort(code, reason)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_in_fork:
            return
        if kind is None:
            await self.close()
        else:
            self.abort(reason=UNWOUND)

    def __del__(self) -> None:
        ended = getattr(self, "_ended", None)  # missing if the constructor failed
        if ended is None or ended.done() or self._closing or self._is_in_fork:
            return
        warnings.warn(f"{self!r} was never closed; it is aborted", ResourceWarning, source=self, stacklevel=2)
        self._exchange.abandon(self._core)

    def _end(self) -> BusError:
        """Return why nothing can be received, or waited for, any more."""
        if self._finished_by_peer or (self._end_error is None and not self._closing):
            return EndOfStream("the other side has finished, and all was received", peer=self.peer)
        if self._end_error is not None:
            self._end_told = True
            return self._end_error.with_traceback(None)
        return StreamFinished("this side has closed the stream", peer=self.peer)

    def _failure(self) -> BusError:
        """Return what kept the stream from going on; for receiving alone, all may have come nonetheless."""
        if self._end_error is None:
            return self._end()
        self._end_told = True
        return self._end_error.with_traceback(None)

    def _stop_receiving(self) -> None:
        self._report_consumed()
        self._closing = True
        self._batch = []
        self._later = None
        self._wake_all_receivers()

    # Called by the bus

    def _did_get_ready(self) -> None:
        if self._senders and not self._senders[0].done():
            self._senders[0].set_result(None)

    def _did_receive(self, messages: list[bytes]) -> None:
        if not self._closing:
            messages.reverse()
            if self._later is None:
                self._later = deque()
            self._later.append(messages)
            self._wake_receiver()

    def _did_receive_unreliable(self) -> None:
        self._wake_receiver()

    def _did_acknowledge(self, sequence: int) -> None:
        for receipt, wanted in self._receipts.items():
            if wanted <= sequence and not receipt.done():
                receipt.set_result(None)

    def _did_finish_receiving(self) -> None:
        self._finished_by_peer = True
        self._wake_all_receivers()

    def _did_end(self, error: BusError | None) -> None:
        self._end_error = error
        if not self._ended.done():
            self._ended.set_result(None)
        self._did_get_ready()  # each sender learns the end from the core, and wakes the next
        self._wake_all_receivers()
        for receipt, wanted in self._receipts.items():
            if not receipt.done():
                if self._core.acknowledged_sequence >= wanted:
                    receipt.set_result(None)
                else:
                    receipt.set_exception(self._failure())

    def _did_fork(self) -> None:
        self._send = _refuse_in_fork

    @property
    def _is_in_fork(self) -> bool:
        return self._send is _refuse_in_fork

    def _check_place(self) -> None:
        """Raise in a forked process or another loop; messages that need not wait pass without such a look."""
        if self._is_in_fork:
            _refuse_in_fork(b"")
        self._exchange.check_loop()

    def _wake_receiver(self) -> None:
        """Wake the first; who has taken something, or gives up, wakes the next."""
        if self._receivers and not self._receivers[0].done():
            self._receivers[0].set_result(None)

    def _wake_all_receivers(self) -> None:
        for arrival in self._receivers:
            if not arrival.done():
                arrival.set_result(None)


def _refuse_in_fork(data: bytes) -> int:
    raise ForkedProcessError(
        "this stream belongs to another process",
        hint="make a new bus after fork, or start processes by spawn",
    )
