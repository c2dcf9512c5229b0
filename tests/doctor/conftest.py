"""What all these tests need."""

from __future__ import annotations

import pytest

from brokerless.doctor import listening, network, path
from tests.witness import SOON_S


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer than a user would for what comes in milliseconds: a busy machine is no finding here."""
    for module, limit in ((listening, "UDP_S"), (network, "HEAR_S"), (path, "DATAGRAMS_S")):
        monkeypatch.setattr(module, limit, SOON_S)
