"""Blocking buses that know each other, and threads to wait in."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dittobus.blocking import Bus
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

    from dittobus.blocking import Stream

Pair = tuple[Bus, Bus]
Ends = tuple["Stream", "Stream"]


@contextmanager
def open_pair(mesh: dict[str, Any]) -> Iterator[Pair]:
    """Buses "near" and "far" that know each other."""
    near, far = Bus("near", **mesh), Bus("far", **mesh)
    try:
        near.start()
        far.start()
        near.wait_for_peer("far")
        far.wait_for_peer("near")
        yield near, far
    finally:
        near.close(timeout=0)
        far.close(timeout=0)


def open_ends(pair: Pair, threads: ThreadPoolExecutor) -> Ends:
    """Both ends of an open stream: of the near bus, and of the far."""
    near, far = pair
    opening = threads.submit(near.open_stream, far.address, name="test")
    theirs = far.receive_offer(WAIT_S).accept()
    return opening.result(WAIT_S), theirs


def until(bus: Bus, condition: Callable[[], object]) -> None:
    """Ask until it is so. Each question goes through the I/O thread of the bus, which works between them."""
    while not condition():
        bus.stats()
