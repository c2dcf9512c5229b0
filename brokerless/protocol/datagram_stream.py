"""A stream whose messages travel as datagrams: opened, finished and closed like any other, by the session.

Only the data differ. There is no credit and no send queue: a message leaves at once or not at all. What
arrives waits in a bounded queue that drops its oldest. FINISH and CLOSE are reliable, and so may come before
datagrams that were sent earlier; those are late then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.errors import BusError
from brokerless.model import DropCause, Reliability, StreamStats, UnreliableWaiting
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.datagram import Kind
from brokerless.protocol.datagram_plane import payload_bytes
from brokerless.protocol.stream import Stream
from brokerless.protocol.stream_state import Receiving, StreamState, violation
from brokerless.protocol.unread import Unread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokerless.protocol import wire
    from brokerless.protocol.datagrams import Datagrams
    from brokerless.protocol.stream_host import StreamHost

KINDS = {Reliability.UNRELIABLE: Kind.UNRELIABLE, Reliability.SEQUENCED: Kind.SEQUENCED}
"""How messages of each are marked on the wire."""


class DatagramStream(Stream):
    """One stream of unreliable or sequenced messages, either end.

    As ``Stream``, except: ``send`` transmits at once, and raises ``NoPath`` or ``SendQueueFull`` where that
    is not possible; messages are taken from ``unread``, told of by ``UnreliableWaiting``, and not consumed;
    there are no receipts. *Input* besides: ``arrived``.
    """

    __slots__ = (
        "_bytes_received",
        "_bytes_sent",
        "_datagrams",
        "_dropped",
        "_received",
        "_sequence",
        "_transmitted",
        "kind",
        "unread",
    )

    def __init__(
        self,
        host: StreamHost,
        datagrams: Datagrams,
        stream_id: int,
        opener: bool,
        reliability: Reliability,
        name: str,
        metadata: bytes,
        deadline: float | None,
    ) -> None:
        # No credit in either direction: on such a stream a reliable message would overrun it.
        super().__init__(
            host,
            stream_id,
            opener,
            reliability,
            name,
            metadata,
            send_limit=0,
            receive_window=0,
            deadline=deadline,
        )
        self.kind = KINDS[reliability]
        self.unread: Unread[bytes] = Unread(host.limits.unreliable_queue_bytes_max)
        self._datagrams = datagrams
        self._sequence = self._transmitted = self._bytes_sent = 0
        self._received = self._bytes_received = 0
        self._dropped: dict[DropCause, int] = {}

    # Queries

    @property
    def last_sequence(self) -> int:
        """Last message that ``send`` was called for, whatever came of it."""
        return self._sequence

    @property
    def sent_sequence(self) -> int:
        """The same: none waits here."""
        return self._sequence

    @property
    def room(self) -> int:
        """Bytes that a message may have; always the same, since none waits here."""
        return self._datagrams.message_bytes_max if self._takes else 0

    @property
    def _takes(self) -> bool:
        return self._send_error is None and self.state in (StreamState.OFFERING, StreamState.OPEN)

    def stats(self) -> StreamStats:
        """Return the counters."""
        dropped = dict(self._dropped)
        if self.unread.dropped:
            dropped[DropCause.RECEIVE_QUEUE_FULL] = self.unread.dropped
        return StreamStats(
            messages_sent=self._transmitted,
            bytes_sent=self._bytes_sent,
            messages_received=self._received,
            bytes_received=self._bytes_received,
            unconsumed_messages=len(self.unread),
            unconsumed_bytes=payload_bytes(self.unread),
            dropped=dropped,
        )

    # Commands

    def send(self, data: bytes) -> int:
        """Transmit one message; return its sequence number, which counts failed ones, too.

        Raises ``NoPath``, ``SendQueueFull`` or ``MessageTooLarge``, or what ended the stream.
        """
        if type(data) is not bytes:
            raise TypeError(f"a message is bytes, not {type(data).__name__}")
        if not self._takes:
            self._require_taken("send")
            error = self.send_error
            assert error is not None  # it takes no messages because something ended that
            raise error
        self._sequence += 1
        drop = self._datagrams.send(self.kind, self.id, 0, data)
        if drop is not None:
            cause, error = drop
            self._dropped[cause] = self._dropped.get(cause, 0) + 1
            raise error
        self._transmitted += 1
        self._bytes_sent += len(data)
        return self._sequence

    def send_all(self, messages: Sequence[bytes]) -> None:
        """Transmit messages that a face has accepted some time ago; what cannot be is counted as dropped."""
        for message in messages:
            try:
                self.send(message)
            except BusError:  # counted, and nobody is left to tell
                continue

    def make_room(self, queue_bytes: int) -> int:
        """Return what a face may accept before it hands that over; -1: nothing is taken."""
        return self._space.size if self._takes else -1

    # Inputs

    def arrived(self, data: bytes) -> bool:
        """Take a message; False: it came too late, or too early."""
        if self._receiver.state is not Receiving.RECEIVING:
            return False
        self._received += 1
        self._bytes_received += len(data)
        told = self.unread.put(data, len(data) + MESSAGE_COST_BYTES)
        if told and self.state is StreamState.OPEN:
            self._host.emit(UnreliableWaiting(self, self.unread))
        return True

    def on_blocked(self, frame: wire.Blocked) -> None:
        """Refuse: there is no credit to ask for."""
        if self._arrive("BLOCKED"):
            raise violation(self, f"BLOCKED on a stream that is {self.reliability.value}")

    # The rest is private.

    def _open(self, word: str) -> None:
        super()._open(word)
        if len(self.unread):
            self._host.emit(UnreliableWaiting(self, self.unread))
