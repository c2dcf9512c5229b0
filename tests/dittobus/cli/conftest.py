"""What commands are tried in."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dittobus.cli.processes import Commands
from tests.dittobus.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable says where a bus belongs."""
    for name in [name for name in os.environ if name.startswith("DITTOBUS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Commands]:
    """Commands as processes, in a mesh of this module's own, that run until all its tests are done."""
    directory = Path(tempfile.mkdtemp(prefix="db-"))  # short: a Unix socket's path is at most 103 characters
    with Commands(directory) as commands:
        yield commands
    shutil.rmtree(directory)


@pytest.fixture
def commands(lasting: Commands) -> Iterator[Commands]:
    """Commands in the same mesh, none of which outlives the test."""
    with Commands(lasting.directory) as commands:
        yield commands


@pytest.fixture
def terminal(commands: Commands) -> Iterator[Terminal]:
    """A real terminal, whose screen can be read."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Terminal(commands)
    yield terminal
    terminal.close()
