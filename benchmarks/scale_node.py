"""One node of the mesh that ``scale.py`` measures: a process with a bus, and nothing else in it.

It is told what to do in lines of JSON, the first of which is its configuration, and says in such lines what
happened. Times are of the system's monotonic clock. It ends when its input does, so it outlives nobody.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from dittobus import PeerJoined, PeerLeft
from dittobus.aio import Bus


def say(event: str, at: float | None = None, **what: Any) -> None:
    line = json.dumps({"event": event, "at": time.monotonic() if at is None else at, **what})
    os.write(1, line.encode() + b"\n")  # short, so that a pipe takes it at once and whole


async def watch(bus: Bus, expected: int) -> None:
    """Say when everybody is there, and who goes."""
    seen: set[str] = set()
    complete_at = None
    async for event in bus.peer_changes():
        address = str(event.peer.address)
        if isinstance(event, PeerJoined):
            seen.add(address)
            if len(seen) == expected and complete_at is None:
                complete_at = time.monotonic()
                say("complete", complete_at)
        elif isinstance(event, PeerLeft):
            seen.discard(address)
            say("left", peer=address, reason=event.reason.value)


async def main() -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    config = json.loads(await lines.readline())
    config["secret"] = bytes.fromhex(config["secret"])
    expected = config.pop("expected")
    bus = Bus(**config)
    watching = None
    say("ready")
    while line := await lines.readline():
        if json.loads(line)["do"] == "start":
            await bus.start()
            watching = asyncio.create_task(watch(bus, expected))
            say("started", address=str(bus.address))
        else:
            say("measured", cpu_s=time.process_time(), links=bus.stats().links if watching else 0)
    await bus.close(timeout=0)
    if watching is not None:
        await watching


if __name__ == "__main__":
    asyncio.run(main())
