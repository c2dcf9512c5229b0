"""What a stream delivers to its delegate, each kind in its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dittobus._strand import Entry

if TYPE_CHECKING:
    from brokerless import BusError
    from dittobus._strand import Strand
    from dittobus.delegates import DittoBusStreamDelegate
    from dittobus.stream import DittoBusStream


class StreamEntry(Entry):
    """Waits for a delegate, then is delivered to it."""

    __slots__ = ()

    def step(self, strand: Strand, recipient: DittoBusStream) -> bool:
        delegate = recipient.delegate
        if delegate is None or not recipient.is_open:
            recipient.park(self)
            return False
        return self.deliver(strand, recipient, delegate)

    def deliver(self, strand: Strand, stream: DittoBusStream, delegate: DittoBusStreamDelegate) -> bool:
        """Run one callback; return whether there is another."""
        raise NotImplementedError


class Progress(StreamEntry):
    """Messages were accepted, or received by the remote bus.

    Two of these in a row become one: receipts are cumulative, and so is what became of messages, if it is the
    same. Where a stream is reliable, a message can be enqueued before the last one was told of only if there
    is no delegate to be told.
    """

    __slots__ = ("_enqueued", "_receipt")

    def __init__(self, *, enqueued: tuple[int, BusError | None] | None = None, receipt: int = 0) -> None:
        super().__init__()
        self._enqueued = enqueued
        self._receipt = receipt

    def deliver(self, strand: Strand, stream: DittoBusStream, delegate: DittoBusStreamDelegate) -> bool:
        enqueued, self._enqueued = self._enqueued, None
        if enqueued is not None:
            stream._telling = False
            strand.call(delegate.stream_did_enqueue, stream, *enqueued)
        elif self._receipt:
            receipt, self._receipt = self._receipt, 0
            strand.call(delegate.stream_did_acknowledge_receipt, stream, receipt)
        return self.has_more()

    def has_more(self) -> bool:
        return self._receipt > 0

    def absorb(self, newer: Entry) -> bool:
        if not isinstance(newer, Progress):
            return False
        if self._enqueued is not None and newer._enqueued is not None:
            if type(self._enqueued[1]) is not type(newer._enqueued[1]):
                return False
        self._enqueued = newer._enqueued or self._enqueued
        self._receipt = max(self._receipt, newer._receipt)
        return True


class Messages(StreamEntry):
    """A run of messages came."""

    __slots__ = ("_messages", "_next")

    def __init__(self, messages: list[bytes]) -> None:
        super().__init__()
        self._messages = messages
        self._next = 0

    def deliver(self, strand: Strand, stream: DittoBusStream, delegate: DittoBusStreamDelegate) -> bool:
        if stream._closing:  # a closed stream discards what still arrives
            return False
        messages = self._messages
        message = messages[self._next]
        messages[self._next] = b""  # the application alone decides how long it lives
        self._next += 1
        has_run = True
        try:
            has_run = strand.call(delegate.stream_did_receive_message, stream, message)
        finally:
            if has_run:
                stream._note_consumed(len(message), self._next == len(messages))
        return self._next < len(messages)

    def has_more(self) -> bool:
        return self._next < len(self._messages)


class UnreadMessages(StreamEntry):
    """Unreliable messages wait, where the oldest gives way to newer ones.

    It takes what waits when it begins, and looks at least once; what has come by then has an entry of its
    own, so that others on the same queue get their turn.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        super().__init__()
        self._left: int | None = None

    def deliver(self, strand: Strand, stream: DittoBusStream, delegate: DittoBusStreamDelegate) -> bool:
        if self._left is None:  # only a look into an empty queue makes it tell of the next message
            self._left = max(1, len(stream._unread or ()))
        if self._left > 0:
            self._left -= 1
            return deliver_unread(strand, stream, delegate)
        if not stream._closing:
            strand.append(stream, UnreadMessages())
        return False

    def has_more(self) -> bool:
        return True  # perhaps: the next step sees

    def absorb(self, newer: Entry) -> bool:
        return isinstance(newer, UnreadMessages)


def deliver_unread(strand: Strand, stream: DittoBusStream, delegate: DittoBusStreamDelegate) -> bool:
    """Deliver one unreliable message; False: there is none, and the stream is told when there is."""
    unread = stream._unread
    if unread is None:
        return False
    if stream._closing:
        unread.close()
    message = unread.take()
    if message is None:
        return False
    try:
        strand.call(delegate.stream_did_receive_message, stream, message)
    finally:
        stream._note_taken()
    return True


class Finished(StreamEntry):
    """The other side sends no more."""

    __slots__ = ("_is_told",)

    def __init__(self) -> None:
        super().__init__()
        self._is_told = False

    def deliver(self, strand: Strand, stream: DittoBusStream, delegate: DittoBusStreamDelegate) -> bool:
        if deliver_unread(strand, stream, delegate):
            return True
        self._is_told = True
        if not stream._closing:
            strand.call(delegate.stream_did_finish_receiving, stream)
        return False

    def has_more(self) -> bool:
        return not self._is_told


class Closed(StreamEntry):
    """The stream is over; nothing comes after this."""

    __slots__ = ("_error", "_is_told")

    def __init__(self, error: BusError | None) -> None:
        super().__init__()
        self._error = error
        self._is_told = False

    def has_more(self) -> bool:
        return not self._is_told

    def deliver(self, strand: Strand, stream: DittoBusStream, delegate: DittoBusStreamDelegate) -> bool:
        if deliver_unread(strand, stream, delegate):
            return True
        self._is_told = True
        strand.call(delegate.stream_did_close, stream, self._error)
        stream._ground.drop_strand(strand)
        return False
