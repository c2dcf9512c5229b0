"""A stream that a peer wants to open, as the delegate style knows it."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from brokerless import BusError, UsageError
from dittobus._arguments import checked_code, checked_metadata

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from brokerless import Address, Node, Offer, Reliability
    from dittobus._ground import Ground

_log = logging.getLogger("dittobus")


class DittoBusStreamOffer:
    """A stream that a peer wants to open: accept or reject it, now or later, from any thread.

    What is neither is rejected when the opener's time is up.
    """

    def __init__(self, ground: Ground, node: Node, offer: Offer) -> None:
        self._ground = ground
        self._node = node
        self._offer = offer
        self._lock = threading.Lock()
        self._answered = False
        self.is_over = False
        """True when there is nothing to answer any more."""

    @property
    def peer(self) -> Address:
        """Who offers."""
        return self._offer.peer

    @property
    def name(self) -> str:
        """What the opener named it."""
        return self._offer.name

    @property
    def metadata(self) -> bytes:
        """What the opener sent along, at most 4 KiB."""
        return self._offer.metadata

    @property
    def reliability(self) -> Reliability:
        """What the opener asked for."""
        return self._offer.reliability

    def accept(self, metadata: Buffer = b"") -> None:
        """Take the stream; ``bus_did_receive_incoming_stream`` follows, unless the opener has given up.

        ``metadata`` is what the opener sees as ``reply_metadata``. Raises ``UsageError`` when the offer has
        been answered.
        """
        reply = checked_metadata(metadata, self._ground.limits)
        self._answer()
        self._ground.io.post(lambda: self._accept(reply))

    def reject(self, code: int = 0, reason: str = "") -> None:
        """Turn the stream down; the opener gets ``StreamRejected`` with both.

        Raises ``UsageError`` when the offer has been answered.
        """
        checked_code(code)
        self._answer()
        self._ground.io.post(lambda: self._reject(code, reason))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.peer.short}>"

    def _answer(self) -> None:
        self._ground.check_process()
        with self._lock:
            if self._answered:
                raise UsageError(f"the offer {self.name!r} has been answered already", peer=self.peer)
            self._answered = self.is_over = True

    def _accept(self, metadata: bytes) -> None:
        try:
            self._node.accept(self._offer, metadata)
        except BusError as error:  # the opener has given up, or the bus is closed: there is no stream to give
            _log.debug("%r cannot be accepted any more: %s", self, error)

    def _reject(self, code: int, reason: str) -> None:
        try:
            self._node.reject(self._offer, code, reason)
        except BusError as error:
            _log.debug("%r cannot be rejected any more: %s", self, error)
