"""What a node's process may suffer from: no descriptors, a clock that jumps. And how much it uses."""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import time
from pathlib import Path
from typing import Any

from brokerless import Node, NodeConfig, StartError

_taken: list[int] = []
_real_time = time.time


def exhaust() -> int:
    """Take every descriptor that there is; return how many that was."""
    used = len(os.listdir("/proc/self/fd"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        while True:
            _taken.append(os.dup(0))
    except OSError:
        return len(_taken)


def relieve() -> None:
    """Give them back."""
    for descriptor in _taken:
        os.close(descriptor)
    _taken.clear()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def another(config: dict[str, Any]) -> str:
    """Try to start another node here; return what came of it."""
    try:
        node = Node(NodeConfig(**config), lambda events: None)
        await node.start()
    except StartError as error:
        return str(error)
    await node.close()
    return "started"


async def share_of_a_core(seconds: float) -> float:
    """What this process uses in so many seconds."""
    began, used = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - used) / (time.monotonic() - began)


def private_bytes() -> int:
    """What only this process has written to, and never gave back."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def jump(seconds: float) -> float:
    """Let the wall clock of this process say another time; return what it says."""
    if place := os.environ.get("JUMP_FILE"):  # then libraries are told it, too
        with open(place, "r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
            shared[:] = round(seconds).to_bytes(8, "little", signed=True)
    else:
        time.time = lambda: _real_time() + seconds
    return time.time()
