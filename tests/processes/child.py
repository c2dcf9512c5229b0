"""A node in a process of its own. Lines of JSON tell it what to do, and in such lines it says what happens.

The first line is its configuration. Times are of the monotonic clock, which all processes of a host share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brokerless import (
    Address,
    BusError,
    DropCause,
    Event,
    Limits,
    MessageReceived,
    Node,
    NodeConfig,
    Peer,
    PeerChanged,
    PeerJoined,
    PeerLeft,
    Reliability,
    SendDone,
    SendQueueFull,
    Stream,
    StreamEnded,
    StreamMessages,
    StreamOffered,
    StreamOpened,
    StreamReady,
)
from tests.processes import strains

if TYPE_CHECKING:
    from collections.abc import Sequence

PIECE = bytes(1024)
"""What a flood is made of."""


def say(event: str, **what: Any) -> None:
    """One line to whoever started us."""
    print(json.dumps({"event": event, "at": time.monotonic(), **what}), flush=True)


def named(error: BusError | None) -> dict[str, Any]:
    """An error by its class, with its cause's."""
    cause = None if error is None else error.__cause__
    return {
        "error": None if error is None else type(error).__name__,
        "cause": None if cause is None else type(cause).__name__,
        "reason": getattr(error, "reason", None),
    }


def hang(peer: Peer) -> bool:
    """Decide never."""
    say("asked", peer=str(peer.address))
    threading.Event().wait()
    return True


class Application:
    """Accepts streams, consumes what comes, says everything; floods when told to."""

    def __init__(self, config: dict[str, Any]) -> None:
        config["secret"] = bytes.fromhex(config["secret"])
        config["limits"] = Limits(**config.pop("limits", {}))
        if config.pop("admit_hangs", False):
            config["admit"] = hang
        self.config = config
        self.consumes = True
        self.node = Node(NodeConfig(**config), self._on_events)
        self.streams: dict[int, Stream] = {}
        self.floods: list[Stream] = []
        self.is_running = True

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event:
            case PeerJoined(peer):
                say("joined", peer=str(peer.address), name=peer.name, path=peer.path.reliable.value)
            case PeerChanged(peer):
                say("changed", peer=str(peer.address), state=peer.state.value)
            case PeerLeft(peer, reason):
                say("left", peer=str(peer.address), reason=reason.value)
            case MessageReceived(message):
                say("message", peer=str(message.sender), data=message.data.decode())
                self.node.consume(message)
            case SendDone(send_id, error):
                say("done", id=send_id, **named(error))
            case StreamOffered(offer):
                self.streams[offer.stream.id] = self.node.accept(offer)
            case StreamOpened(stream):
                say("opened", stream=stream.id, name=stream.name)
            case StreamMessages(stream, first, messages):
                say("messages", stream=stream.id, first=first, count=len(messages))
                if self.consumes:
                    stream.consume(len(messages))
            case StreamReady(stream):
                self._pour(stream)
            case StreamEnded(stream, error):
                say("ended", stream=stream.id, **named(error))

    def _pour(self, stream: Stream) -> None:
        """Fill the stream's queue; go on when there is room again."""
        try:
            while stream in self.floods:
                stream.send(PIECE[:-1] + b"x")  # each its own, as those of an application are
        except SendQueueFull:
            stream.want_ready()

    async def do(self, order: dict[str, Any]) -> None:
        """Obey one line."""
        to = Address.parse(order["to"]) if "to" in order else self.node.address
        match order["do"]:
            case "send":
                timeout, reliability = order.get("timeout", 10.0), order.get("reliability", "reliable")
                data = order["data"].encode()
                say("sent", id=self.node.send(data, to, Reliability(reliability), 0, timeout))
            case "open":
                stream = self.node.open_stream(to, Reliability.RELIABLE, order["name"], b"")
                self.streams[stream.id] = stream
                say("offered", stream=stream.id)
            case "flood":
                self.floods.append(self.streams[order["stream"]])
                self._pour(self.floods[-1])
            case "finish":
                self.floods.clear()
                self.streams[order["stream"]].finish()
            case "stats":
                stats = self.node.stats()
                stale = stats.dropped.get(DropCause.STALE, 0)
                say("stats", peers=stats.peers, links=stats.links, stale=stale)
            case "close":
                say("closed", acknowledged=await self.node.close(order.get("timeout", 5.0)))
                self.is_running = False
            case "consume":
                self.consumes = order["consumes"]
            case "usage":
                share = await strains.share_of_a_core(order["seconds"])
                say("usage", share=share)
            case "memory":
                say("memory", private_bytes=strains.private_bytes())
            case "exhaust":
                say("exhausted", taken=strains.exhaust())
            case "relieve":
                strains.relieve()
            case "another":
                config = self.config | {"identity": None, "discovery": []}
                say("another", outcome=await strains.another(config))
            case "jump":
                say("jumped", time=strains.jump(order["seconds"]))
            case "block":  # as a callback that takes its time does: until somebody writes to that FIFO
                say("blocking")
                Path(order["until"]).read_bytes()  # noqa: ASYNC240
            case "exit":  # without a word to the node
                say("exiting")
                self.is_running = False


async def main(kind: type[Application] = Application) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    application = kind(json.loads(await lines.readline()))
    started_at = time.monotonic()
    await application.node.start()
    node = application.node
    say("started", address=str(node.address), ticket=str(node.ticket()), since=started_at)
    while application.is_running and (line := await lines.readline()):
        await application.do(json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
