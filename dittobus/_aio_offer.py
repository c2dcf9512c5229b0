"""A stream that a peer wants to open, as asyncio knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dittobus._arguments import checked_code, checked_metadata, checked_reason
from dittobus._offer import AnyOffer

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from brokerless import Offer as CoreOffer
    from dittobus._aio_exchange import AioExchange
    from dittobus._aio_stream import Stream


class Offer(AnyOffer):
    """A stream that a peer wants to open: accept or reject it. Untaken, it is rejected in the end."""

    def __init__(self, exchange: AioExchange, core: CoreOffer) -> None:
        super().__init__(core)
        self._exchange = exchange

    async def accept(self, metadata: Buffer = b"") -> Stream:
        """Take the stream and return it; the opener sees ``metadata`` as ``reply_metadata``.

        When cancelled, the stream is reset. Raises what ended the offer; ``UsageError`` if it was answered.
        """
        reply = checked_metadata(metadata, self._exchange.limits)
        self._exchange.check_loop()
        if self._end_error is not None and not self._answered:
            raise self._end_error.with_traceback(None)
        self._answer()
        return await self._exchange.accept(self._core, reply)

    async def reject(self, code: int = 0, reason: str = "") -> None:
        """Turn the stream down; the opener gets ``StreamRejected`` with both.

        Raises ``UsageError`` if the offer was answered.
        """
        checked_code(code)
        checked_reason(reason)
        self._exchange.check_loop()
        self._answer()
        if self._end_error is None:
            self._exchange.reject(self._core, code, reason)
