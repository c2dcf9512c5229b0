"""Bars on stderr for transfers that last, where somebody looks on."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Self

from dittobus.cli.output import is_terminal, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

AFTER_S = 0.5
"""What takes no longer needs no bar."""


class Bars:
    """A bar for each transfer that is under way; nothing at all where stderr is no terminal."""

    def __init__(self) -> None:
        self._wanted = is_terminal(sys.stderr)
        self._begun: dict[object, float] = {}
        self._bars: dict[object, TaskID] = {}
        self._progress: Progress | None = None

    def update(self, key: object, name: str, done: int, total: int) -> None:
        """Say how far the transfer ``key`` is, in bytes."""
        if not self._wanted:
            return
        begun = self._begun.setdefault(key, monotonic())
        if key in self._bars:
            assert self._progress is not None
            self._progress.update(self._bars[key], completed=done)
        elif monotonic() - begun >= AFTER_S:
            self._bars[key] = self._shown().add_task(printable(name), completed=done, total=total)

    def end(self, key: object) -> None:
        """The transfer is over; its bar goes."""
        self._begun.pop(key, None)
        if (bar := self._bars.pop(key, None)) is not None and self._progress is not None:
            self._progress.remove_task(bar)

    def _shown(self) -> Progress:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,
            )
            self._progress.start()
        return self._progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *how: object) -> None:
        if self._progress is not None:
            self._progress.stop()
