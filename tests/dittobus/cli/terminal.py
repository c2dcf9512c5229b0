"""A terminal of tmux, whose screen can be read."""

from __future__ import annotations

import itertools
import subprocess
from typing import TYPE_CHECKING

from tests.dittobus.cli.processes import RUN_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.dittobus.cli.processes import Commands

WIDTH = 110

_NUMBERS = itertools.count()
"""A server that has just been told to end still answers on its socket: each terminal has another."""


class Terminal:
    """A real terminal, with a server of its own."""

    def __init__(self, commands: Commands) -> None:
        self._socket = commands.directory / f"tmux{next(_NUMBERS)}"
        self._environment = {**commands.environment, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        self._environment.pop("COLUMNS")

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", "/dev/null", "-u", *arguments],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            env=self._environment,
            check=False,
        )
        return done.stdout

    def run(self, command: list[str]) -> None:
        """Run a command there, and then say how it exited."""
        line = " ".join(command)
        self.tmux("new-session", "-d", "-x", str(WIDTH), "-y", "24", f"{line}; echo exited: $?; cat")

    def until(self, holds: Callable[[str], bool]) -> str:
        """Return the screen once that holds of it."""
        while not holds(screen := self.tmux("capture-pane", "-p")):
            pass
        return screen

    def close(self) -> None:
        """End what runs there."""
        self.tmux("kill-server")
