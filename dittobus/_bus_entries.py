"""What a bus delivers to its delegate, each kind in its own words."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from brokerless import Reliability, now
from dittobus._strand import Entry
from dittobus.peers import Peers

if TYPE_CHECKING:
    from brokerless import Message, Unread
    from dittobus._strand import Strand
    from dittobus.bus import DittoBus
    from dittobus.offer import DittoBusStreamOffer
    from dittobus.stream import DittoBusStream

LOST_MAX = 4_096
"""Losses that a snapshot tells of when nobody looks: as many as a roster holds. Older ones are left out."""


class Unseen:
    """Unreliable single messages that wait for the delegate, with a look at the first. On the strand."""

    def __init__(self, unread: Unread[Message]) -> None:
        self._unread = unread
        self._first: Message | None = None

    def __len__(self) -> int:
        return len(self._unread) + (self._first is not None)

    @property
    def first(self) -> Message | None:
        """The message that ``take`` will return. None: none waits, and the bus is told when one does."""
        if self._first is None:
            self._first = self._unread.take()
        return self._first

    def take(self) -> Message | None:
        """Take the first."""
        first, self._first = self.first, None
        return first


class SingleMessages(Entry):
    """Single messages came: some reliable ones, or others, which stay where the oldest gives way to newer.

    The latter are taken between the former, by the time at which they came; but none that came after what
    follows this entry, such as the news that its sender has joined. What is left then gets another entry.
    """

    __slots__ = ("_left", "_reliable", "_until")

    def __init__(self, *reliable: Message) -> None:
        super().__init__()
        self._reliable = deque(reliable)
        self._until = math.inf
        self._left: int | None = None  # how many unreliable ones it takes, so that others get their turn

    def step(self, strand: Strand, recipient: DittoBus) -> bool:
        delegate = recipient.delegate
        if delegate is None or not recipient.is_open:
            recipient.park(self)
            return False
        message = self._next(strand, recipient)
        if message is None:
            return False
        has_run = True
        try:
            has_run = strand.call(delegate.bus_did_receive_single_message, recipient, message)
        finally:
            if has_run and message.reliability is Reliability.RELIABLE:
                recipient._note_consumed(message)
        return True

    def _next(self, strand: Strand, recipient: DittoBus) -> Message | None:
        unseen = recipient._unseen
        if unseen is None:
            return self._reliable.popleft() if self._reliable else None
        if self._left is None:
            self._left = len(unseen)
        first = unseen.first
        takes_it = first is not None and self._left > 0 and first.received_at <= self._until
        if self._reliable:
            if first is None or not takes_it or self._reliable[0].received_at <= first.received_at:
                return self._reliable.popleft()
        if takes_it:
            self._left -= 1
            return unseen.take()
        if first is not None:
            strand.append(recipient, SingleMessages())
        return None

    def has_more(self) -> bool:
        return True  # perhaps: the next step sees

    def note_followed(self) -> None:
        self._until = min(self._until, now())

    def absorb(self, newer: Entry) -> bool:
        if not isinstance(newer, SingleMessages):
            return False
        self._reliable.extend(newer._reliable)
        self._until = newer._until
        return True


class Offered(Entry):
    """A peer wants to open a stream."""

    __slots__ = ("_offer",)

    def __init__(self, offer: DittoBusStreamOffer) -> None:
        super().__init__()
        self._offer = offer

    def step(self, strand: Strand, recipient: DittoBus) -> bool:
        offer = self._offer
        bindings = recipient._bindings
        delegate = recipient.delegate
        if offer._is_over:
            return False
        if bindings:
            if bindings.get(offer.name) is not None:
                offer.accept()
            else:
                offer.reject(bindings.REJECT_CODE, bindings.refusal(offer.name))
        elif delegate is None or not recipient.is_open:
            recipient.park(self)
        else:
            strand.call(delegate.bus_did_receive_stream_offer, recipient, offer)
        return False

    def is_void(self) -> bool:
        return self._offer._is_over


class Incoming(Entry):
    """An offered stream is open."""

    __slots__ = ("_stream",)

    def __init__(self, stream: DittoBusStream) -> None:
        super().__init__()
        self._stream: DittoBusStream | None = stream

    def step(self, strand: Strand, recipient: DittoBus) -> bool:
        stream = self._stream
        assert stream is not None, "delivered once"
        delegate = recipient.delegate
        handler = recipient._bindings.get(stream.name)
        if handler is not None:
            strand.call(handler, stream, stream.peer)
        elif delegate is None or not recipient.is_open:
            recipient.park(self)
            return False
        else:
            strand.call(delegate.bus_did_receive_incoming_stream, recipient, stream, stream.peer)
        stream._handed_over()
        self._stream = None  # the newest entry stays known; the stream is the application's to keep
        return False


class PeersChanged(Entry):
    """Somebody came, changed or went. Two of these in a row say no more than the later."""

    __slots__ = ("_peers",)

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self._peers = peers

    def step(self, strand: Strand, recipient: DittoBus) -> bool:
        delegate = recipient.delegate
        if delegate is not None:  # whoever becomes the delegate gets a fresh snapshot
            strand.call(delegate.bus_did_update_peers, recipient, self._peers)
        return False

    def absorb(self, newer: Entry) -> bool:
        if not isinstance(newer, PeersChanged):
            return False
        self._peers = Peers(newer._peers, (self._peers.lost + newer._peers.lost)[-LOST_MAX:])
        return True
