"""Delegates that remember what they hear, so that a test can wait for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dittobus import DittoBusDelegate, DittoBusStreamDelegate

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless import Address, BusError, Message
    from dittobus import DittoBus, DittoBusStream, DittoBusStreamOffer
    from dittobus.peers import Peers

WAIT_S = 30.0
"""How long something may take that must happen."""


class Log:
    """What was heard, in order: tuples that begin with a word."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # its lock is reentrant
        self._heard: list[tuple[Any, ...]] = []

    def add(self, *heard: Any) -> None:
        with self._changed:
            self._heard.append(heard)
            self._changed.notify_all()

    @property
    def all(self) -> list[tuple[Any, ...]]:
        with self._changed:
            return list(self._heard)

    def of(self, word: str) -> list[Any]:
        """What followed that word, each time."""
        return [heard[1] if len(heard) == 2 else heard[1:] for heard in self.all if heard[0] == word]

    def wait(self, word: str, count: int = 1) -> Any:
        """Wait until ``word`` was heard ``count`` times; return what followed it the last time."""
        self.wait_until(lambda: len(self.of(word)) >= count)
        return self.of(word)[count - 1]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, WAIT_S):
                raise AssertionError(f"not heard within {WAIT_S} s; only {self._heard}")


class StreamRecorder(DittoBusStreamDelegate):
    """Remembers what a stream tells."""

    def __init__(self) -> None:
        self.log = Log()

    def stream_did_enqueue(
        self, stream: DittoBusStream, message_sequence: int, error: BusError | None
    ) -> None:
        self.log.add("enqueued", message_sequence, error)

    def stream_did_receive_message(self, stream: DittoBusStream, message: bytes) -> None:
        self.log.add("message", message)

    def stream_did_acknowledge_receipt(self, stream: DittoBusStream, message_sequence: int) -> None:
        self.log.add("receipt", message_sequence)

    def stream_did_finish_receiving(self, stream: DittoBusStream) -> None:
        self.log.add("finished")

    def stream_did_close(self, stream: DittoBusStream, error: BusError | None) -> None:
        self.log.add("closed", error)


class BusRecorder(DittoBusDelegate):
    """Remembers what a bus tells, and gives each incoming stream a ``StreamRecorder``."""

    def __init__(self) -> None:
        self.log = Log()

    def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
        self.log.add("message", message)

    def bus_did_receive_stream_offer(self, bus: DittoBus, offer: DittoBusStreamOffer) -> None:
        self.log.add("offer", offer)
        super().bus_did_receive_stream_offer(bus, offer)

    def bus_did_receive_incoming_stream(self, bus: DittoBus, stream: DittoBusStream, peer: Address) -> None:
        recorder = StreamRecorder()
        stream.delegate = recorder
        self.log.add("stream", stream, recorder, peer)

    def bus_did_update_peers(self, bus: DittoBus, peers: Peers) -> None:
        self.log.add("peers", peers)

    def wait_for_stream(self, count: int = 1) -> tuple[DittoBusStream, StreamRecorder]:
        """Return the incoming stream of that number, and who hears from it."""
        stream, recorder, _ = self.log.wait("stream", count)
        return stream, recorder
