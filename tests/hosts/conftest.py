from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.hosts.lab import Lab, obstacle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip where there can be none."""
    if reason := obstacle():
        pytest.skip(reason)


@pytest_asyncio.fixture
async def lab(namespaces: None, tmp_path: Path) -> AsyncIterator[Lab]:
    async with Lab(tmp_path) as lab:
        yield lab
