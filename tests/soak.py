"""How much of the same a test does: what every change can afford, or, in ``make soak``, much more."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

SOAK = bool(os.environ.get("DITTOBUS_SOAK"))

T = TypeVar("T", int, float)


def amount(every_change: T, long_run: T) -> T:
    """As many, or as long, as this run is for."""
    return long_run if SOAK else every_change


only_in_soak = pytest.mark.skipif(not SOAK, reason="waits for longer than every change can afford: make soak")
