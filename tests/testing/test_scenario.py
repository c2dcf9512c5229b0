"""A thousand worlds in which everything goes wrong, and every promise holds; one number repeats each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import get_args

import pytest

from brokerless.model import Event, LossReason
from brokerless.protocol.core import NodeCore
from brokerless.testing.__main__ import main
from brokerless.testing.scenario import Scenario, ScenarioFailed
from brokerless.testing.sim_faults import Faults
from brokerless.testing.sim_trace import Trace

pytestmark = pytest.mark.timeout(600)  # worlds have a clock of their own; here many of them are run at once

SEEDS, CHUNK = 1_000, 250

MUST_HAPPEN = (
    *Faults.KINDS,
    *(kind.__name__ for kind in get_args(Event)),
    *(reason.value for reason in LossReason),
    *"BusClosed DeliveryUnknown OpenTimeout PeerLost SendTimeout".split(),
    *"StreamClosed StreamRejected StreamReset".split(),
)
"""In each quarter of the worlds: every kind of fault, event, loss, and bad end. Worlds without prove less.

Some come in one world of ten, and each change of the core draws all worlds anew: fewer would miss one."""


def happenings(world: Scenario) -> Counter[str]:
    """Return what happened in a world, and how often."""
    counter = Counter(world.faults.drawn)
    for application in world.applications:
        counter.update(reason.value for reason in application.losses)
        endings = [side.ends for side in application.sides.values()]
        endings += [single.ends for single in application.singles.values() if single is not None]
        counter.update(type(error).__name__ for ends in endings for error in ends)
    for node in world.nodes:
        counter.update(type(event).__name__ for event in node.events)
    return counter


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_holds_whatever_fails(first: int) -> None:
    counter: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        world = Scenario(seed)
        world.run()
        counter.update(happenings(world))
    assert [what for what in MUST_HAPPEN if not counter[what]] == []


@pytest.mark.parametrize("kind", Faults.KINDS)
def test_each_fault_by_itself_breaks_nothing(kind: str) -> None:
    for seed in range(2):
        world = Scenario(seed)
        world.faults.kinds, world.fault_share, world.seconds = (kind,), 0.2, 4.0
        world.run()


def digest(seed: int) -> str:
    world = Scenario(seed)
    trace = Trace(world.network)
    world.run()
    return trace.digest


def test_a_seed_repeats_its_world_to_the_byte() -> None:
    digests = [digest(seed) for seed in range(5)]
    assert [digest(seed) for seed in range(5)] == digests
    assert len(set(digests)) == 5


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_command_repeats_it_in_any_process(hash_seed: str) -> None:
    replay = subprocess.run(
        [sys.executable, "-m", "brokerless.testing", "7", "--last", "3"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, last = replay.stdout.splitlines()
    assert len(lines) == 3
    assert last.startswith("seed 7: ")
    assert last.endswith(digest(7))


def test_the_command_shows_all_that_happens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["12"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"seed 12: {len(lines)} lines, digest ")
    times = [float(line[:11]) for line in lines]
    assert times == sorted(times)
    story = "\n".join(lines)
    for words in ("n1 dials n0", "HELLO, versions 1", "PeerJoined n0", "DATA", "** ", "StreamEnded", "~>"):
        assert words in story


def test_a_failure_names_its_seed_and_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(NodeCore, "farewell", lambda self, now: None)  # so nobody hears that all leave
    with pytest.raises(
        ScenarioFailed, match=r"seed 12, at [\d.]+ s (.|\n)*python -m brokerless\.testing 12$"
    ) as failed:
        Scenario(12).run()
    assert isinstance(failed.value.__cause__, AssertionError)
    assert main(["12", "--last", "5"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 6
    assert "AssertionError" in err
    assert "python -m brokerless.testing 12" in err
