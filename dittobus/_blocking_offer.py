"""A stream that a peer wants to open, as blocking code knows it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from dittobus._arguments import checked_code, checked_metadata, checked_reason
from dittobus._offer import AnyOffer

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from brokerless import Offer as CoreOffer
    from dittobus._blocking_exchange import BlockingExchange
    from dittobus._blocking_stream import Stream


class Offer(AnyOffer):
    """A stream that a peer wants to open: accept or reject it. Untaken, it is rejected in the end."""

    def __init__(self, exchange: BlockingExchange, core: CoreOffer) -> None:
        super().__init__(core)
        self._exchange = exchange

    def accept(self, metadata: Buffer = b"") -> Stream:
        """Take the stream and return it; the opener sees ``metadata`` as ``reply_metadata``.

        When interrupted, the stream is reset. Raises what ended the offer; ``UsageError`` if it was answered.
        """
        exchange = self._exchange
        exchange.check_process()
        reply = checked_metadata(metadata, exchange.limits)
        if self._end_error is not None and not self._answered:
            raise copy.copy(self._end_error)  # threads must not share a traceback
        self._answer()
        return exchange.outcome(exchange.accept, self._core, reply)

    def reject(self, code: int = 0, reason: str = "") -> None:
        """Turn the stream down; the opener gets ``StreamRejected`` with both.

        Raises ``UsageError`` if the offer was answered.
        """
        self._exchange.check_process()
        checked_code(code)
        checked_reason(reason)
        self._answer()
        self._exchange.io.post(lambda: self._exchange.reject(self._core, code, reason))
