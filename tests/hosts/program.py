"""A node on a host of its own. Beside what any in a process says, it says what becomes of what it pours."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

from brokerless import (
    Address,
    Event,
    PeerChanged,
    PeerJoined,
    Reliability,
    SendDone,
    SendQueueFull,
    Stream,
    StreamFinishedReceiving,
    StreamMessages,
    UnreliableWaiting,
)
from tests.processes.child import Application, main, say

PROGRESS_S = 0.1
"""How often at most it says how far a stream has come."""

TALK_S = 0.05
"""Between two of the unreliable messages of somebody who talks."""


class Sum:
    """Of all messages of a stream in one direction: any that is lost, doubled or out of order changes it."""

    def __init__(self) -> None:
        self.count = 0
        self.said_at = 0.0
        self._hash = hashlib.sha256()

    def add(self, message: bytes) -> None:
        self.count += 1
        self._hash.update(message)

    def told(self) -> dict[str, Any]:
        return {"count": self.count, "sum": self._hash.hexdigest()}


class OnHost(Application):
    """Pours numbered pieces; sums up what comes."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.poured: dict[Stream, Sum] = {}
        self.received: dict[Stream, Sum] = {}
        self.talked = 0
        self._talking: asyncio.Task[None] | None = None

    def _tell(self, event: Event) -> None:
        match event:
            case PeerJoined(peer) | PeerChanged(peer):
                say("path", peer=str(peer.address), datagram=peer.path.datagram.value)
                super()._tell(event)
            case SendDone() if self._talking is not None:
                pass  # what it says may be lost
            case StreamMessages(stream, _, messages):
                received = self.received.setdefault(stream, Sum())
                for message in messages:
                    received.add(message)
                stream.consume(len(messages))
                if time.monotonic() - received.said_at > PROGRESS_S:
                    received.said_at = time.monotonic()
                    say("progress", stream=stream.id, count=received.count)
            case StreamFinishedReceiving(stream):
                say("received", stream=stream.id, **self.received.setdefault(stream, Sum()).told())
            case UnreliableWaiting(_, unread):
                while (message := unread.take()) is not None:
                    say("unreliable", peer=str(message.sender), data=message.data.decode())
            case _:
                super()._tell(event)

    def _pour(self, stream: Stream) -> None:
        poured = self.poured.setdefault(stream, Sum())
        try:
            while stream in self.floods:
                piece = b"%01024d" % poured.count
                stream.send(piece)
                poured.add(piece)
        except SendQueueFull:
            stream.want_ready()

    async def _talk(self, to: Address) -> None:
        """Say numbers, one after the other, whether they arrive or not."""
        while True:
            self.talked += 1
            self.node.send(str(self.talked).encode(), to, Reliability.UNRELIABLE)
            await asyncio.sleep(TALK_S)

    async def do(self, order: dict[str, Any]) -> None:
        """Obey one line."""
        match order["do"]:
            case "ticket":
                say("ticket", ticket=str(self.node.ticket()))
            case "talk":
                self._talking = asyncio.create_task(self._talk(Address.parse(order["to"])))
            case "mark":
                say("mark", number=self.talked)
            case "finish":
                stream = self.streams[order["stream"]]
                say("poured", stream=stream.id, **self.poured[stream].told())
                await super().do(order)
            case _:
                await super().do(order)


if __name__ == "__main__":
    asyncio.run(main(OnHost))
