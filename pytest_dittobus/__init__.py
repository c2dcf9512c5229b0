"""The pytest plugin of DittoBus: fixtures for tests of programs that use a bus, as ``docs/testing.md`` shows.

It stands beside the package, and imports that only when a fixture is used, so it costs nothing where none is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from dittobus.testing import BusFactory, Chaos, Kit, MeshFactory, Process

_KIT = pytest.StashKey["Kit"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a failure be repeated with its seed."""
    group = parser.getgroup("dittobus", "DittoBus")
    group.addoption(
        "--dittobus-seed", type=int, metavar="SEED", help="seed of every test; else one is drawn for each"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Explain the marker."""
    config.addinivalue_line(
        "markers",
        "dittobus(seed=None, liveness_s=10.0): the seed of this test's chaos, and the seconds of silence "
        "after which its buses lose a peer.",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Let the report of a failure say what the nodes told each other."""
    report: pytest.TestReport = (yield).get_result()
    kit = item.stash.get(_KIT, None)
    if kit is not None and report.failed:
        (_, seed), *sections = kit.report()
        report.sections.append(("DittoBus seed", f"{seed}, which --dittobus-seed={seed} repeats"))
        report.sections += [(f"DittoBus {heading}", text) for heading, text in sections]


@pytest.fixture
def dittobus_kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """A mesh of this test's own; the other fixtures are its parts. All is closed in the end."""
    from dittobus.testing import Kit

    marker = request.node.get_closest_marker("dittobus")
    options = dict(marker.kwargs) if marker is not None else {}
    if (marker is not None and marker.args) or options.keys() - {"seed", "liveness_s"}:
        pytest.fail("@pytest.mark.dittobus takes seed= and liveness_s= only", pytrace=False)
    seed = request.config.getoption("--dittobus-seed")
    if seed is not None:
        options["seed"] = seed
    with Kit(**options) as kit:
        request.node.stash[_KIT] = kit
        yield kit
    if leaks := kit.leaks():
        pytest.fail(f"left open by the test: {', '.join(leaks)}", pytrace=False)


@pytest.fixture
def dittobus_bus(dittobus_kit: Kit) -> BusFactory:
    """Call it for a started ``dittobus.blocking.Bus``; ``.delegate`` and ``.aio`` make others."""
    return dittobus_kit.bus


@pytest.fixture
def dittobus_mesh(dittobus_kit: Kit) -> MeshFactory:
    """Call it with a number for so many buses that see each other; ``.delegate``, ``.aio`` likewise."""
    return dittobus_kit.mesh


@pytest.fixture
def dittobus_process(dittobus_kit: Kit) -> Callable[..., Process]:
    """Call it with a function, a ``.py`` file or a module, to run that in a process of the same mesh."""
    return dittobus_kit.process


@pytest.fixture
def dittobus_chaos(dittobus_kit: Kit) -> Chaos:
    """A bad network between two buses: make one with ``**dittobus_chaos.near``, the other with ``.far``."""
    return dittobus_kit.chaos()
