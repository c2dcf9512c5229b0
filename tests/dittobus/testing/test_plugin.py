"""The pytest plugin, as its users have it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent.parent.parent
RUN_S = 120
"""Half a minute on a machine with forty busy processes, seconds on an idle one."""

OPTIONS = (
    "-p",
    "pytest_dittobus",
    "-p",
    "no:cacheprovider",
    "-W",
    "error",
    "-o",
    "asyncio_default_fixture_loop_scope=function",
)

TESTS = """
import time
import pytest
import dittobus
from dittobus.blocking import Bus

def echo():
    with Bus("echo", **dittobus.environment()) as bus:
        print("echo is up", flush=True)
        for message in bus.messages():
            bus.send(message.data, message.sender)

def exchange(bus):
    peer = bus.wait_for_peer("echo", timeout=30)
    bus.send(b"a secret payload", peer)
    assert bus.receive_message(timeout=30).data == b"a secret payload"
    return peer

def test_passes(dittobus_bus, dittobus_process, dittobus_chaos):
    bus = dittobus_bus("test", **dittobus_chaos.near)
    dittobus_process(echo, bus=dittobus_chaos.far)
    exchange(bus)

@pytest.mark.dittobus(seed=7, liveness_s=1.5)
def test_fails(dittobus_bus, dittobus_process, dittobus_chaos):
    bus = dittobus_bus("test", **dittobus_chaos.near)
    process = dittobus_process(echo, bus=dittobus_chaos.far)
    peer = exchange(bus)
    process.kill()
    with bus.open_stream(peer, timeout=None) as stream:
        stream.receive()

def test_leaks(dittobus_bus):
    bus = Bus("forgotten", **dittobus_bus.arguments)
    bus.start()

def test_meets(dittobus_mesh):
    one, other = dittobus_mesh(2)
    one.send(b"x", other.address)

@pytest.mark.asyncio
async def test_awaits(dittobus_mesh):
    async with dittobus_mesh.aio(2) as (one, other):
        await one.send(b"x", other.address)
"""


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed or not, the plugin is that of this tree."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.timeout(RUN_S + 10)
def test_a_failure_says_what_the_nodes_told_each_other(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_users=TESTS)
    run = pytester.runpytest_subprocess(*OPTIONS, timeout=RUN_S)
    run.assert_outcomes(passed=4, failed=1, errors=1)
    out = run.stdout.str()
    run.stdout.fnmatch_lines(["*left open by the test: bus 'forgotten'"])
    failure = re.search(r"_ test_fails _.*?(?=\n_{10,}|\n={10,})", out, re.DOTALL)
    assert failure is not None
    report = failure[0]
    assert "PeerLost" in report
    assert re.search(r"^-+ DittoBus seed -+\n7, which --dittobus-seed=7 repeats$", report, re.MULTILINE)
    assert re.search(r"^-+ DittoBus chaos -+\nseed 7, ", report, re.MULTILINE)
    assert re.search(r"^process 'echo' \(\d+, ended by SIGKILL\)\necho is up$", report, re.MULTILINE)
    of_test, of_echo = re.findall(
        r"-+ DittoBus packets of '(?:test|echo)' .*?-\n(.*?)(?=\n-+ DittoBus|\Z)", report, re.DOTALL
    )
    for packets in (of_test, of_echo):
        assert "HELLO, versions" in packets
        assert "DATA 0 (channel 0): 1, 16 bytes" in packets
    assert "liveness 1500 ms" in of_test
    assert "secret payload" not in of_test + of_echo


@pytest.mark.timeout(RUN_S + 10)
def test_the_seed_of_the_command_line_is_that_of_every_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        def test_one(dittobus_chaos, dittobus_kit):
            assert dittobus_chaos.seed == dittobus_kit.seed == 99
        @pytest.mark.dittobus(seed=7)
        def test_other(dittobus_kit):
            assert dittobus_kit.seed == 99
        """
    )
    run = pytester.runpytest_subprocess(*OPTIONS, "--strict-markers", "--dittobus-seed=99", timeout=RUN_S)
    run.assert_outcomes(passed=2)


@pytest.mark.timeout(RUN_S + 10)
@pytest.mark.parametrize("options", ["liveness=2", "2"])
def test_an_option_that_is_none_says_which_are(pytester: pytest.Pytester, options: str) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.mark.dittobus({options})
        def test_one(dittobus_kit):
            pass
        """
    )
    run = pytester.runpytest_subprocess(*OPTIONS, timeout=RUN_S)
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines(["*@pytest.mark.dittobus takes seed= and liveness_s= only*"])


ALONE = """
from pathlib import Path
def test_alone(dittobus_mesh):
    one, other = dittobus_mesh(2)
    Path("{own}").touch()
    while not Path("{their}").exists():
        one.send(b"x", other.address)
        other.receive_message(10)
    for bus in (one, other):
        assert [peer.name for peer in bus.peers] == [{{"bus-1": "bus-2", "bus-2": "bus-1"}}[bus.name]]
"""


@pytest.mark.timeout(RUN_S + 10)
def test_two_runs_at_once_do_not_see_each_other(tmp_path: Path) -> None:
    """As two workers of pytest-xdist do."""
    runs = []
    for own, their in (("a", "b"), ("b", "a")):
        file = tmp_path / f"test_{own}.py"
        file.write_text(ALONE.format(own=tmp_path / own, their=tmp_path / their))
        runs.append(
            subprocess.Popen([sys.executable, "-m", "pytest", *OPTIONS, "-q", str(file)], cwd=tmp_path)
        )
    assert [run.wait(RUN_S) for run in runs] == [0, 0]


def test_it_costs_nothing_until_a_fixture_is_used() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import pytest_dittobus; "
        "print(*set(sys.modules) - before - {'pytest_dittobus'})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "\n"
