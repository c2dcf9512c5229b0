"""A stream that a peer wants to open, as the delegate style knows it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from brokerless import BusError
from dittobus._arguments import checked_code, checked_metadata, checked_reason
from dittobus._offer import AnyOffer

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from brokerless import Node, Offer
    from dittobus._ground import Ground

_log = logging.getLogger("dittobus")


class DittoBusStreamOffer(AnyOffer):
    """A stream that a peer wants to open: accept or reject it, now or later, from any thread.

    What is neither is rejected when the opener's time is up.
    """

    def __init__(self, ground: Ground, node: Node, core: Offer) -> None:
        super().__init__(core)
        self._ground = ground
        self._node = node

    def accept(self, metadata: Buffer = b"") -> None:
        """Take the stream; ``bus_did_receive_incoming_stream`` follows, unless the opener has given up.

        ``metadata`` is what the opener sees as ``reply_metadata``. Raises ``UsageError`` when the offer has
        been answered.
        """
        self._ground.check_process()
        reply = checked_metadata(metadata, self._ground.limits)
        self._answer()
        self._ground.io.post(lambda: self._accept(reply))

    def reject(self, code: int = 0, reason: str = "") -> None:
        """Turn the stream down; the opener gets ``StreamRejected`` with both.

        Raises ``UsageError`` when the offer has been answered.
        """
        self._ground.check_process()
        checked_code(code)
        checked_reason(reason)
        self._answer()
        self._ground.io.post(lambda: self._reject(code, reason))

    def _accept(self, metadata: bytes) -> None:
        try:
            self._node.accept(self._core, metadata)
        except BusError as error:  # the opener has given up, or the bus is closed: there is no stream to give
            _log.debug("%r cannot be accepted any more: %s", self, error)

    def _reject(self, code: int, reason: str) -> None:
        try:
            self._node.reject(self._core, code, reason)
        except BusError as error:
            _log.debug("%r cannot be rejected any more: %s", self, error)
