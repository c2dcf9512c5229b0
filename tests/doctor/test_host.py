from __future__ import annotations

import itertools
import sys

import pytest
import zmq

from brokerless.config import Limits
from brokerless.doctor.findings import Verdict
from brokerless.doctor.host import examine_clock, examine_descriptors, examine_libzmq

if sys.platform != "win32":
    import resource


def test_libzmq() -> None:
    finding = examine_libzmq()
    assert finding.verdict is Verdict.OK
    assert zmq.zmq_version() in finding.text


@pytest.mark.parametrize(
    ("name", "instead"), [("has", lambda feature: False), ("zmq_version_info", lambda: (4, 3, 2))]
)
def test_a_libzmq_that_will_not_do(name: str, instead: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, name, instead)
    finding = examine_libzmq()
    assert finding.verdict is Verdict.FAILURE
    assert "4.3.3 or newer with CURVE" in finding.text
    assert "pyzmq" in finding.hint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
class TestDescriptors:
    @pytest.mark.parametrize(
        ("limit", "verdict"), [(4096, Verdict.OK), (256, Verdict.WARNING), (24, Verdict.FAILURE)]
    )
    def test_a_limit(self, limit: int, verdict: Verdict) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < limit:
            pytest.skip("this user may not have so many")
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            finding = examine_descriptors(Limits())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert finding.verdict is verdict
        assert str(limit) in finding.text
        assert bool(finding.hint) is (verdict is not Verdict.OK)


@pytest.mark.asyncio
class TestClock:
    async def test_the_clock_of_a_node(self) -> None:
        assert (await examine_clock()).verdict is Verdict.OK

    @pytest.mark.parametrize(
        ("step_s", "verdict"), [(0.0, Verdict.FAILURE), (-1.0, Verdict.FAILURE), (3600.0, Verdict.WARNING)]
    )
    async def test_a_clock_that_does_not_go_as_it_should(self, step_s: float, verdict: Verdict) -> None:
        readings = itertools.count(1000.0, step_s)
        finding = await examine_clock(lambda: next(readings))
        assert finding.verdict is verdict
        assert finding.hint
