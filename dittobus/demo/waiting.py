"""Waiting for what should come soon, and saying what did not."""

from __future__ import annotations

import queue
from concurrent.futures import wait
from typing import TYPE_CHECKING, TypeVar

from dittobus.demo.steps import StepFailed

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

WAIT_S = 10.0
"""How long anything may take that should take far less: nothing is waited for without end."""


def outcome(future: Future[T], otherwise: str, within_s: float = WAIT_S) -> T:
    """Return the result of ``future``, or raise its error; ``StepFailed`` if there is neither in time."""
    if not wait((future,), within_s).done:
        raise StepFailed(f"{otherwise} within {within_s:.0f} s")
    return future.result()


def take(arrivals: queue.Queue[T], otherwise: str) -> T:
    """Return what arrives next; raise ``StepFailed`` if nothing does in time."""
    try:
        return arrivals.get(timeout=WAIT_S)
    except queue.Empty:
        raise StepFailed(f"{otherwise} within {WAIT_S:.0f} s") from None
