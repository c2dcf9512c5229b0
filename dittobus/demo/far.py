"""The demo's second peer: a process that is told what to do on stdin, and tells on stdout what it sees.

Lines of JSON, both ways. It ends when its stdin does, so nothing stays behind, whatever becomes of the demo.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import sys
import threading
import time
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from dittobus import DispatchQueue, DittoBus, DittoBusDelegate, DittoBusStreamDelegate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dittobus import (
        BusError,
        DittoAddress,
        DittoBusMessage,
        DittoBusStream,
        DittoBusStreamOffer,
        Peers,
    )

HEAD = struct.Struct("!Qd")
"""How each message of a stream begins: its number, and when it was sent, by the clock of this machine."""

ANSWER = b"hello, near"

PAUSE_S = 0.02
"""How long the slow reader rests …"""

PAUSE_MESSAGES = 100
"""… after so many messages: some 4,000 a second, where a bus moves hundreds of thousands."""

READ_TIMEOUT_S = 30.0
"""How long the slow reader waits to be told to read: for ever would hide that the demo forgot to."""


def reply_to(metadata: bytes) -> bytes:
    """Return what the acceptor of a stream says to the opener's ``metadata``."""
    return b"ready for " + metadata


def furthest_ahead(sent_at: Sequence[float], read_at: Sequence[float]) -> int:
    """Return how many messages the sender was ahead of the reader at most.

    The times at which each message was sent, and taken by the reader, in their order.
    """
    return max((bisect_right(sent_at, at) - read for read, at in enumerate(read_at)), default=0)


class Reader(DittoBusStreamDelegate):
    """Takes what arrives, keeps the sum of it, and tells how it was when all has come."""

    def __init__(self, tell: Callable[..., None], messages: int, may_read: threading.Event | None) -> None:
        self._tell = tell
        self._expected = messages
        self._may_read = may_read
        """Set: read, slowly. None: read as fast as it comes."""
        self._sum = hashlib.sha256()
        self._in_order = True
        self._sent_at: list[float] = []
        self._read_at: list[float] = []

    def stream_did_receive_message(self, stream: DittoBusStream, message: bytes) -> None:
        if self._may_read is not None:
            self._may_read.wait(READ_TIMEOUT_S)
        self._read_at.append(time.monotonic())
        number, sent_at = HEAD.unpack_from(message)
        self._sent_at.append(sent_at)
        self._sum.update(message)
        count = len(self._read_at)
        self._in_order = self._in_order and number == count
        if count == self._expected:
            self._tell(
                "read",
                stream=stream.name,
                messages=count,
                in_order=self._in_order,
                sha256=self._sum.hexdigest(),
                ahead_max=furthest_ahead(self._sent_at, self._read_at),
            )
        elif self._may_read is not None and count % PAUSE_MESSAGES == 0:
            time.sleep(PAUSE_S)

    def stream_did_close(self, stream: DittoBusStream, error: BusError | None) -> None:
        messages = len(self._read_at)
        self._tell(
            "closed", stream=stream.name, messages=messages, error=None if error is None else str(error)
        )


class Far(DittoBusDelegate):
    """Accepts and answers, and tells all that it sees."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self.may_read = threading.Event()
        self._tell = tell
        self._slow_queue = DispatchQueue.serial("slow-reader")
        self._joined: set[DittoAddress] = set()

    def bus_did_update_peers(self, bus: DittoBus, peers: Peers) -> None:
        for peer in peers:
            if peer.has_joined and peer.address not in self._joined:
                self._joined.add(peer.address)
                self._tell("joined", address=str(peer.address), name=peer.name)

    def bus_did_receive_single_message(self, bus: DittoBus, message: DittoBusMessage) -> None:
        self._tell("message", sender=str(message.sender), text=message.data.decode())
        bus.send(ANSWER, message.sender)

    def bus_did_receive_stream_offer(self, bus: DittoBus, offer: DittoBusStreamOffer) -> None:
        self._tell("offer", stream=offer.name, metadata=offer.metadata.decode())
        offer.accept(reply_to(offer.metadata))

    def bus_did_receive_incoming_stream(
        self, bus: DittoBus, stream: DittoBusStream, peer: DittoAddress
    ) -> None:
        about = json.loads(stream.metadata)
        if about["slow"]:
            stream.delegate_event_queue = self._slow_queue
        stream.delegate = Reader(self._tell, about["messages"], self.may_read if about["slow"] else None)


class Teller:
    """Writes reports to stdout, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, event: str, **facts: object) -> None:
        with self._lock:
            print(json.dumps({"event": event, **facts}), flush=True)


def start(options: dict[str, Any], far: Far) -> DittoBus:
    """Return the running bus."""
    bus = DittoBus(
        "far",
        mesh=options["mesh"],
        secret=bytes.fromhex(options["secret"]),
        discovery=("zeroconf",),
        interfaces=(options["host"],),
        port=options["port"],
        advertise=(options["advertise"],),
        directory=options["directory"],
        delegate=far,
    )
    bus.start()
    return bus


def main() -> None:
    """Run until stdin ends."""
    tell = Teller()
    far = Far(tell)
    options = json.loads(sys.stdin.readline())
    try:
        bus = start(options, far)
    except Exception as error:  # the demo decides what to do about it
        tell("start", error=type(error).__name__, text=str(error))
    else:
        tell("start", error=None, address=str(bus.address))
    for line in sys.stdin:
        if json.loads(line)["command"] == "read":
            far.may_read.set()
    # The demo was killed; otherwise it would have killed us first. So it is up to us to tidy up.
    shutil.rmtree(options["directory"], ignore_errors=True)
    os._exit(0)  # at once, whatever callbacks are doing


if __name__ == "__main__":
    main()
