"""The end of the interpreter, with buses still open."""

from __future__ import annotations

import atexit
from time import monotonic
from typing import Protocol


class Open(Protocol):
    """Something with a node in a thread of its own."""

    @property
    def _is_ours(self) -> bool: ...

    def _begin_exit(self, deadline: float) -> None:
        """Begin to close, so as to be done at monotonic time ``deadline``."""

    def _end_exit(self, deadline: float) -> None:
        """Wait until it is closed, or the time is up."""


_open: dict[Open, float] = {}


def remember(bus: Open, timeout_s: float) -> None:
    """Close ``bus`` when the interpreter exits, within that time."""
    _open[bus] = timeout_s


def forget(bus: Open) -> None:
    """The bus is closed."""
    _open.pop(bus, None)


# By atexit, which runs once all threads but daemons have ended: who still works keeps the bus till then.
@atexit.register
def _close_all() -> None:
    buses = {bus: timeout_s for bus, timeout_s in _open.copy().items() if bus._is_ours}
    if buses:
        deadline = monotonic() + min(buses.values())
        for bus in buses:
            bus._begin_exit(deadline)
        for bus in buses:
            bus._end_exit(deadline)
