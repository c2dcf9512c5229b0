"""What a stream that may lose sends, from any thread to the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless import MessageTooLarge, UsageError
from dittobus._outbox import Refused

if TYPE_CHECKING:
    from brokerless import BusError, Stream
    from dittobus._io_thread import IoThread


class Transmitter:
    """Has the I/O thread transmit each message, and waits until it has: who sends is told what became of it.

    In place of an ``Outbox``, which would accept a message whose transmission then fails with nobody to tell.
    """

    __slots__ = ("_core", "_io", "_refuses", "_size_max", "loss", "sequence")

    def __init__(self, io: IoThread, core: Stream) -> None:
        """Begin with a stream that is open. On the I/O thread."""
        self._io = io
        self._core = core
        self._size_max = core.room  # what both sides allow
        self._refuses = False
        self.sequence = 0
        """Of the last message that was transmitted."""
        self.loss: BusError | None = None
        """Always None, as nothing that was accepted is ever still here."""

    # From any thread

    def accept(self, message: bytes) -> int:
        """Return 0: only the core knows whether it takes a message."""
        return 0

    def send(self, message: bytes, timeout: float | None = None) -> int:
        """Transmit one message, and return its sequence number.

        Raises ``Refused``, ``MessageTooLarge``, ``NoPath``, ``SendQueueFull``; no time can run out.
        """
        if self._refuses or self._core.send_error is not None:
            raise Refused
        if len(message) > self._size_max:
            text = f"an unreliable message of {len(message)} bytes, at most {self._size_max}"
            raise MessageTooLarge(text, peer=self._core.peer)
        self.sequence = sequence = self._io.call(self._core.send, message)
        return sequence

    def send_nowait(self, message: bytes) -> int:
        """Do the same."""
        return self.send(message)

    def refuse(self) -> None:
        """Transmit nothing any more."""
        self._refuses = True

    # On the I/O thread

    def flush(self, cost: int = 0) -> None:
        """Nothing is ever left to hand over."""

    def look_for_room(self, cost: int = 0) -> None:
        """Nobody ever waits for room."""

    # In a forked child

    def refuse_forked(self) -> None:
        """Transmit nothing: the stream is the parent's."""
        self._refuses = True


def no_receipts(stream: object) -> UsageError:
    """Return what to raise for who waits for receipts there."""
    return UsageError(
        f"{stream!r} may lose messages, and has no receipts",
        hint="open it RELIABLE, or let the other side answer",
    )
