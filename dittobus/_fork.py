"""What must not go on working in a forked child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something whose fast paths cannot afford to look at the process id."""

    def _did_fork(self) -> None: ...


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(thing: Forkable) -> None:
    """Tell ``thing`` when it finds itself in a forked child."""
    _watched.add(thing)


def _tell() -> None:
    for thing in _watched:
        thing._did_fork()


if hasattr(os, "register_at_fork"):  # where there is fork
    os.register_at_fork(after_in_child=_tell)
