"""What must not go on working in a forked child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from brokerless import ForkedProcessError


class InOneProcess:
    """Belongs to the process ``_pid``: in one that was forked off there is no I/O thread."""

    _pid: int

    @property
    def is_ours(self) -> bool:
        """False in a process that was forked off."""
        return self._pid == os.getpid()

    def check_process(self) -> None:
        """Raise ``ForkedProcessError`` in a process that was forked off. Call it before taking any lock."""
        if not self.is_ours:
            raise ForkedProcessError(
                f"this bus belongs to process {self._pid}",
                hint="make a new bus after fork, or start processes by spawn",
            )


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
