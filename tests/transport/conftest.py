"""What several of these tests need."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory for sockets of this host; pytest's own is too long a path on some systems."""
    with tempfile.TemporaryDirectory(prefix="b") as name:
        yield Path(name)
