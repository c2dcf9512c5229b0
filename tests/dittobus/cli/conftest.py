"""What commands are tried in."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable says where a bus belongs."""
    for name in [name for name in os.environ if name.startswith("DITTOBUS_")]:
        monkeypatch.delenv(name)
