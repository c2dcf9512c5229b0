"""How much of the same a test does: what every change can afford, or, in ``make soak``, much more."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

MINUTES = float(os.environ.get("DITTOBUS_SOAK") or 0)
"""About how long a long run may take; 0: this is none."""

SOAK = MINUTES > 0

T = TypeVar("T", int, float)


def amount(every_change: T, in_an_hour: T) -> T:
    """As many, or as long, as this run has time for."""
    return max(every_change, type(in_an_hour)(in_an_hour * MINUTES / 60))


only_in_soak = pytest.mark.skipif(not SOAK, reason="waits for longer than every change can afford: make soak")
