"""A stream that may lose messages, as asyncio knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from brokerless import BusError, EndOfStream, NoPath
from dittobus._aio_stream import Stream
from dittobus._arguments import checked_message
from dittobus._transmitter import no_receipts

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from brokerless import DatagramStream, Unread
    from brokerless import Stream as CoreStream
    from dittobus._aio_exchange import AioExchange


class UnreliableStream(Stream):
    """A stream of messages that may be lost; if SEQUENCED, none comes after one that was sent later.

    As ``Stream``, except: a message is transmitted at once, or not at all; what is received waits in a
    bounded queue that drops its oldest; there are no receipts.
    """

    __slots__ = ("_transmit", "_unread")

    def __init__(self, exchange: AioExchange, core: CoreStream, stream_id: int) -> None:
        super().__init__(exchange, core, stream_id)
        self._transmit = core.send  # where the node is
        self._unread: Unread[bytes] = cast("DatagramStream", core).unread

    # Sending

    async def send(self, data: Buffer) -> int:
        """Transmit one message; return its sequence number, the first is 1.

        Transmitted means: handed to the network; it may not arrive. Raises ``NoPath``, ``SendQueueFull`` if
        the network takes no more now, ``MessageTooLarge``, ``StreamFinished``, or what ended the stream.
        """
        message = checked_message(data, self._exchange.limits, self.reliability)
        self._check_place()
        try:
            return await self._exchange.transmit(self._transmit, message)
        except BusError as error:
            self._note_told(error)
            raise

    async def wait_acknowledged(self, sequence: int | None = None) -> None:
        """Raise ``UsageError``: nobody acknowledges what may be lost."""
        raise no_receipts(self)

    def _note_told(self, error: BusError) -> None:
        if not isinstance(error, NoPath):  # which ends nothing
            super()._note_told(error)

    # Receiving

    async def receive(self) -> bytes:
        """Return the next message, waiting for it. When cancelled, none is lost.

        Raises ``EndOfStream`` once the other side has finished and all that came was received,
        ``StreamFinished`` once this side has closed, or what ended the stream otherwise.
        """
        message = self._unread.take()
        return message if message is not None else await self._receive_later()

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except EndOfStream:
            raise StopAsyncIteration from None

    def _take(self) -> bytes | None:
        return self._unread.take()

    @property
    def _has_more(self) -> bool:
        return True  # perhaps: only a look into an empty queue makes it tell of the next message

    # Ending

    def _stop_receiving(self) -> None:
        self._unread.close()
        super()._stop_receiving()

    def _did_fork(self) -> None:
        super()._did_fork()
        self._transmit = self._send
