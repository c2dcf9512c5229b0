"""The receiving half of a stream: what comes, what the application consumes, and what may still come.

``RECEIVING`` in ``stream_state`` says what may happen when. Of the handshake this half knows only whether the
stream is open: what comes before is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.errors import UsageError
from brokerless.model import StreamFinishedReceiving, StreamMessages
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES, ReceiveWindow
from brokerless.protocol.inbound import Arrivals, Unconsumed
from brokerless.protocol.stream_state import RECEIVING, Receiving, step, violation

if TYPE_CHECKING:
    from brokerless.protocol.stream import Stream
    from brokerless.protocol.stream_host import StreamHost

# Before Python 3.12 it takes 80 ns to look up a member of an enumeration: too much where every run passes.
_DISCARDING = Receiving.DISCARDING
_FINISHED = Receiving.FINISHED


class Receiver:
    """The direction from the other end to our application.

    *Queries* ``state``, ``consumed_sequence``, and the counters of ``arrivals`` and ``unconsumed``; *inputs*
    ``data``, ``chunk``, ``blocked``, ``finish``, which raise ``RemoteProtocolError``; *commands* ``open``,
    ``consume``, ``grant_oversized``, ``close``, ``end``.
    """

    __slots__ = (
        "_held",
        "_host",
        "_is_open",
        "_stream",
        "_window",
        "arrivals",
        "consumed_sequence",
        "state",
        "unconsumed",
    )

    def __init__(self, host: StreamHost, stream: Stream, window: int) -> None:
        self._host = host
        self._stream = stream
        self.state = Receiving.RECEIVING
        self.consumed_sequence = 0
        self._window = ReceiveWindow(host, stream, window)
        self.arrivals = Arrivals(host, stream.id, self._window)
        self.unconsumed = Unconsumed()
        self._is_open = False
        self._held: list[tuple[StreamMessages, int]] = []  # came before, with their cost

    @property
    def limit(self) -> int:
        """What the other end has been granted."""
        return self._window.limit

    # Inputs

    def data(self, frame: wire.Data) -> None:
        """Take a run of messages."""
        self._step("DATA")
        cost = self.arrivals.run(frame)
        self._receive(StreamMessages(self._stream, frame.first_sequence, frame.messages), cost)

    def chunk(self, frame: wire.Chunk) -> None:
        """Take a chunk of a large message."""
        self._step("DATA")
        message = self.arrivals.chunk(frame, discard=self.state is _DISCARDING)
        if message is not None:
            cost = frame.total + MESSAGE_COST_BYTES
            self._receive(StreamMessages(self._stream, frame.sequence, [message]), cost)

    def blocked(self, frame: wire.Blocked) -> None:
        """Take note of a message that waits for credit."""
        self._step("BLOCKED")
        self._window.blocked(frame.limit)
        if self._is_open:  # an offer that is not taken gets no more memory
            self._grant(self._window.regrant())

    def finish(self, frame: wire.Finish) -> None:
        """Take note that the other end sends no more."""
        discarding = self.state is _DISCARDING
        self._step("FINISH")
        received = self.arrivals.received
        # A message cut off in its middle is what our CLOSE asked for; otherwise nothing can be missing.
        if frame.last_sequence != received or (self.arrivals.is_partial and not discarding):
            raise violation(self._stream, f"FINISH at {frame.last_sequence}, after {received}")
        if self._is_open and not discarding:
            self._host.emit(StreamFinishedReceiving(self._stream))
            self._close_if_consumed()

    # Commands

    def open(self) -> None:
        """Hand up what came before the stream was open, and what comes from now on."""
        self._is_open = True
        self._grant(self._window.regrant())
        held, self._held = self._held, []
        for event, cost in held:
            self._receive(event, cost)
        if self.state is _FINISHED:
            self._host.emit(StreamFinishedReceiving(self._stream))
            self._close_if_consumed()

    def consume(self, count: int) -> bool:
        """The application is done with ``count`` more messages; True: with all that there are."""
        unconsumed = self.unconsumed
        if not 0 < count <= unconsumed.messages:
            self._check_count(count)
            return False
        cost = unconsumed.take(count)
        self.consumed_sequence += count
        limit = self._window.consume(cost)
        if not unconsumed.messages and self._close_if_consumed():
            return True
        self._grant(limit)
        return False

    def grant_oversized(self) -> bool:
        """Grant the message that is larger than the window; False: the budget does not allow it now."""
        limit = self._window.grant_oversized()
        self._grant(limit)
        return limit is not None

    def close(self) -> None:
        """Take nothing more."""
        stopping = self.state in (Receiving.RECEIVING, Receiving.FINISHED)
        self._step("close")
        if stopping:
            self._say_close()

    def end(self) -> None:
        """The stream is over: forget everything, and give back its memory."""
        self.state = Receiving.DONE
        self._forget()

    # The rest is private.

    def _step(self, word: str) -> None:
        self.state = step(self._stream, RECEIVING, self.state, word)

    def _receive(self, event: StreamMessages, cost: int) -> None:
        if self.state is _DISCARDING:
            return
        if self._is_open:
            self.unconsumed.add(event.messages, cost)
            self._host.emit(event)
        else:
            self._held.append((event, cost))

    def _grant(self, limit: int | None) -> None:
        if limit is not None:
            self._host.control(wire.Grant(self._stream.id, limit, self.consumed_sequence))

    def _check_count(self, count: int) -> None:
        """Let ``consume`` say nothing, or anything once nothing is expected of it, or raise."""
        if count and self.state in (Receiving.RECEIVING, Receiving.FINISHED):
            text = f"consume: expected 0 to {self.unconsumed.messages} messages, got {count}"
            raise UsageError(text, peer=self._stream.peer)

    def _close_if_consumed(self) -> bool:
        """Answer their FINISH if nothing is left to consume."""
        if self.state is not _FINISHED or self.unconsumed.messages:
            return False
        self._step("all consumed")
        self._say_close()
        return True

    def _say_close(self) -> None:
        self._host.control(wire.Close(self._stream.id, self.consumed_sequence))
        self._forget()

    def _forget(self) -> None:
        self._held = []
        self.unconsumed.clear()
        self.arrivals.forget_partial()
        self._window.stop()
