"""Numbers of many measurements, and what a bus' counters say."""

from __future__ import annotations

import pytest

from dittobus.cli.figures import Distribution
from dittobus.cli.load import Load


def test_a_distribution() -> None:
    trips = Distribution()
    assert (trips.lost, trips.as_object()) == (None, {"tried": 0, "answered": 0, "loss": None})
    trips.tried = 200
    for hundredth in range(100):
        trips.add(hundredth / 100)
    said = trips.as_object()
    assert (said["loss"], said["min_s"], said["max_s"]) == (0.5, 0, 0.99)
    assert (said["p50_s"], said["p95_s"], said["p99_s"]) == (0.5, 0.95, 0.99)
    assert said["mean_s"] == pytest.approx(0.495)
    assert trips.line().startswith("100 of 200, 50 % lost; least 0 µs, mean 495.00 ms, half 500.00 ms, ")


def test_nothing_came_back() -> None:
    trips = Distribution()
    trips.tried = 3
    assert trips.line() == "0 of 3, 100 % lost"


@pytest.mark.parametrize("load", [(0, 1), (1, -1), (1, 4000), (1, 1, -1), (1, float("nan"))])
def test_what_nobody_is_made_to_send(load: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match=r"a load|a rate"):
        Load(*load).check()
