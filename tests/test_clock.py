from __future__ import annotations

import runpy
import time

import pytest

from brokerless import clock


def test_it_never_goes_back() -> None:
    times = [clock.now() for _ in range(1000)]
    assert times == sorted(times)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system does not count suspended time")
def test_it_counts_the_time_that_the_host_was_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = clock.now()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_where_nothing_counts_that_it_is_monotonic_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert runpy.run_path(clock.__file__)["now"] is time.monotonic


def test_setting_the_wall_clock_does_not_touch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 3600.0)
    assert 0 <= clock.now() - before < 3600
