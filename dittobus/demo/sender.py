"""The sending end of the demo's streams."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from dittobus import DittoBusStreamDelegate
from dittobus.demo.far import HEAD
from dittobus.demo.steps import require
from dittobus.demo.waiting import outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from dittobus import BusError, DittoBusStream

MESSAGE_COST_BYTES = 64
"""What a message counts in windows and queues besides its own bytes."""

STILL_S = 0.3
"""A sender that may go on does so within microseconds; after this it stands still."""


class Sender(DittoBusStreamDelegate):
    """Sends numbered messages on a stream; keeps the sum of them, the receipts, and how the stream ended."""

    def __init__(self, stream: DittoBusStream, messages: int, message_bytes: int) -> None:
        self.stream = stream
        self.receipts: list[int] = []
        self.all_received = threading.Event()
        self.closed: Future[BusError | None] = Future()
        self._messages = messages
        self._filling = os.urandom(message_bytes - HEAD.size)
        self._sum = hashlib.sha256()
        stream.delegate = self

    def stream_did_acknowledge_receipt(self, stream: DittoBusStream, message_sequence: int) -> None:
        self.receipts.append(message_sequence)
        if message_sequence >= self._messages:
            self.all_received.set()

    def stream_did_close(self, stream: DittoBusStream, error: BusError | None) -> None:
        self.closed.set_result(error)

    def send(self, number: int, on_still: Callable[[], None] | None = None) -> None:
        """Send message ``number``, and wait until the stream has taken it, so that the next may follow.

        ``on_still`` is called when it is not taken at once.
        """
        message = HEAD.pack(number, time.monotonic()) + self._filling
        self._sum.update(message)
        taken = self.stream.send(message)
        if on_still is not None and not wait((taken,), STILL_S).done:
            on_still()
        outcome(taken, f"the stream did not take message {number:,}")

    def require_complete(self, report: dict[str, Any]) -> None:
        """Check what the other end says that it has read."""
        self.require_count(report["messages"])
        require(report["in_order"], "messages came out of order, or twice")
        require(report["sha256"] == self._sum.hexdigest(), "what came is not what was sent")

    def require_count(self, messages: int) -> None:
        """Check how many messages the other end has read."""
        require(messages == self._messages, f"{self._messages:,} messages were sent, and {messages:,} came")

    def require_clean_close(self) -> None:
        """Check that the stream was closed without an error."""
        error = outcome(self.closed, f"stream {self.stream.name!r} was not closed")
        require(error is None, f"stream {self.stream.name!r} closed at near's end with {error!r}")
