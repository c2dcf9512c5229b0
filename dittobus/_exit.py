"""The end of the interpreter, with buses still open."""

from __future__ import annotations

import atexit
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dittobus.bus import DittoBus

_open: set[DittoBus] = set()


def remember(bus: DittoBus) -> None:
    """Close ``bus`` when the interpreter exits."""
    _open.add(bus)


def forget(bus: DittoBus) -> None:
    """The bus is closed."""
    _open.discard(bus)


# By atexit, which runs once all threads but daemons have ended: who still works keeps the bus till then.
@atexit.register
def _close_all() -> None:
    buses = [bus for bus in _open if bus._is_ours]
    if buses:
        deadline = monotonic() + min(bus._limits.exit_timeout_s for bus in buses)
        for bus in buses:
            bus._begin_exit(deadline)
        for bus in buses:
            bus._end_exit(deadline)
