"""A stream that a peer wants to open, as asyncio knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dittobus._arguments import checked_code, checked_metadata

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from brokerless import Address, Reliability
    from brokerless import Offer as CoreOffer
    from dittobus._aio_exchange import AioExchange
    from dittobus._aio_stream import Stream


class Offer:
    """A stream that a peer wants to open: accept or reject it. Untaken, it is rejected in the end."""

    def __init__(self, exchange: AioExchange, offer: CoreOffer) -> None:
        self._exchange = exchange
        self._offer = offer

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

    async def accept(self, metadata: Buffer = b"") -> Stream:
        """Take the stream and return it; the opener sees ``metadata`` as ``reply_metadata``.

        When cancelled, the stream is reset. Raises what ended the offer; ``UsageError`` if it was answered.
        """
        reply = checked_metadata(metadata, self._exchange.limits)
        return await self._exchange.accept(self._offer, reply)

    async def reject(self, code: int = 0, reason: str = "") -> None:
        """Turn the stream down; the opener gets ``StreamRejected`` with both."""
        checked_code(code)
        self._exchange.node.reject(self._offer, code, reason)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.peer.short}>"
