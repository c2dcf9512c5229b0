"""What the seed decides, without sockets."""

from __future__ import annotations

from typing import Any

import pytest

from brokerless.errors import ConfigError
from brokerless.testing.chaos_fate import Disturbance, Fate, Fates

ROUGH = Disturbance(loss=0.2, reordering=0.3, duplication=0.1, latency_s=0.5, jitter_s=0.25)


def fates(
    count: int, disturbance: Disturbance, seed: int = 1, way: str = "up", client: int = 1
) -> list[Fate]:
    drawn = Fates(seed, way, client)
    return [drawn.next(disturbance) for _ in range(count)]


def test_nothing_happens_by_default() -> None:
    assert set(fates(1000, Disturbance())) == {Fate(False, False, (0.0,))}


def test_everything_may_happen_to_all() -> None:
    everything = Disturbance(loss=1, reordering=1, duplication=1, latency_s=2)
    assert set(fates(1000, everything)) == {Fate(True, True, (2.0, 2.0))}


def test_shares_are_those_that_were_asked_for() -> None:
    drawn = fates(10_000, ROUGH)
    lost, held = sum(fate.is_lost for fate in drawn), sum(fate.is_held for fate in drawn)
    doubled = sum(len(fate.delays_s) == 2 for fate in drawn)
    # Of seed 1, always. Six standard deviations are 240, 275 and 180.
    assert (lost, held, doubled) == (1953, 2977, 975)
    delays = [delay for fate in drawn for delay in fate.delays_s]
    assert 0.5 <= min(delays) < 0.501
    assert 0.749 < max(delays) < 0.75


def test_a_fate_hangs_on_the_seed_the_way_and_the_client() -> None:
    assert fates(100, ROUGH) == fates(100, ROUGH)
    others = [fates(100, ROUGH, **other) for other in ({"seed": 2}, {"way": "down"}, {"client": 2})]
    assert all(other != fates(100, ROUGH) for other in others)


def test_a_fate_does_not_hang_on_what_was_set_before() -> None:
    drawn = Fates(1, "up", 1)
    for _ in range(50):
        drawn.next(Disturbance(duplication=1))
    assert [drawn.next(ROUGH) for _ in range(50)] == fates(100, ROUGH)[50:]


@pytest.mark.parametrize("name", ["loss", "reordering", "duplication"])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "0.5", None])
def test_a_bad_share_is_named(name: str, share: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        Disturbance(**{name: share})


@pytest.mark.parametrize("name", ["latency_s", "jitter_s", "held_s_max"])
@pytest.mark.parametrize("seconds", [-0.1, float("inf"), float("nan"), "1", None])
def test_a_bad_time_is_named(name: str, seconds: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        Disturbance(**{name: seconds})
