"""What there is in this process of what a leak would leave: objects of ours, tasks, threads, descriptors."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter

from tests.conftest import open_descriptors

EXACT = frozenset({"descriptors", "threads", "Task"})
"""Of these there must not be a single one more."""

REMEMBERED = frozenset({"UdpPlace"})
"""What is kept for another time, up to a limit that has its own test (``tests/transport/test_udp.py``)."""

SPARE = 20
"""Of others so many may be there or not when somebody looks: snapshots of peers, what is under way."""


def census() -> Counter[str]:
    """How many there are of each kind."""
    gc.collect()
    there = Counter(
        type(found).__qualname__
        for found in gc.get_objects()
        if str(type(found).__module__).startswith(("brokerless.", "dittobus."))
        or (isinstance(found, asyncio.Task) and not found.done())
    )
    there["descriptors"] = len(open_descriptors())
    there["threads"] = threading.active_count()
    return there


def grown(before: Counter[str]) -> dict[str, int]:
    """What there is more of now, and by how much."""
    return {
        kind: count - before[kind]
        for kind, count in census().items()
        if kind not in REMEMBERED and count > before[kind] + (0 if kind in EXACT else SPARE)
    }
