"""What a bus delivers to its delegate, each kind in its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dittobus._strand import Entry
from dittobus.peers import Peers

if TYPE_CHECKING:
    from brokerless import Message
    from dittobus._strand import Strand
    from dittobus.bus import DittoBus
    from dittobus.offer import DittoBusStreamOffer
    from dittobus.stream import DittoBusStream

LOST_MAX = 4_096
"""Losses that a snapshot tells of when nobody looks: as many as a roster holds. Older ones are left out."""


class SingleMessage(Entry):
    """A single message came."""

    __slots__ = ("_message",)

    def __init__(self, message: Message) -> None:
        super().__init__()
        self._message = message

    def step(self, strand: Strand, recipient: DittoBus) -> bool:
        delegate = recipient.delegate
        if delegate is None or not recipient.is_open:
            recipient.park(self)
            return False
        has_run = True
        try:
            has_run = strand.call(delegate.bus_did_receive_single_message, recipient, self._message)
        finally:
            if has_run:
                recipient._note_consumed(self._message)
        return False


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
        self._stream = stream

    def step(self, strand: Strand, recipient: DittoBus) -> bool:
        stream = self._stream
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
