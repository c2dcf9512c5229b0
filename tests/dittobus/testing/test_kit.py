"""A mesh of its own, without pytest."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dittobus import (
    DeliveryUnknown,
    DittoBus,
    DittoBusDelegate,
    Limits,
    PeerState,
    UsageError,
    _node,
    aio,
    blocking,
)
from dittobus.testing import Kit
from tests.dittobus.testing import programs

ROOT = Path(__file__).parent.parent.parent.parent
SOON_S = 15.0


def test_two_kits_at_once_do_not_see_each_other() -> None:
    with Kit() as one, Kit() as other:
        for key in ("mesh", "secret", "directory"):
            assert one.arguments[key] != other.arguments[key]
        for kit in (one, other):
            first, second = kit.bus("first"), kit.bus("second")
            assert [peer.name for peer in first.wait_for_peers(1)] == ["second"]
            assert [peer.name for peer in second.wait_for_peers(1)] == ["first"]


def test_a_kit_leaves_nothing_behind() -> None:
    before = _node.on_made
    with Kit() as kit:
        directory = Path(kit.arguments["directory"]).parent
        buses = [kit.bus("blocking"), kit.bus.delegate("delegate")]
        process = kit.process(programs.echo)
        chaos = kit.chaos()
        assert directory.stat().st_mode & 0o777 == 0o700
    assert [repr(bus).endswith(", closed>") for bus in buses] == [True, True]
    assert process.returncode is not None
    with pytest.raises(UsageError):
        chaos.heal()
    assert not directory.exists()
    assert _node.on_made is before
    assert kit.leaks() == []
    assert kit.report()[0] == ("seed", str(kit.seed))
    with pytest.raises(UsageError, match="entered once"), kit:
        pass
    with pytest.raises(UsageError, match="within `with`"):
        Kit().bus("early")


def test_all_faces_meet() -> None:
    class Hearing(DittoBusDelegate):
        def bus_did_receive_single_message(self, bus: DittoBus, message: Any) -> None:
            bus.send(b"heard " + message.data, message.sender)

    async def ask(kit: Kit) -> bytes:
        async with kit.bus.aio("asking") as bus:
            assert isinstance(bus, aio.Bus)
            await bus.send(b"you", await bus.wait_for_peer("hearing"))
            async for message in bus.messages():
                return message.data
        raise AssertionError

    with Kit() as kit:
        assert isinstance(kit.bus("third"), blocking.Bus)
        assert isinstance(kit.bus.delegate("hearing", delegate=Hearing()), DittoBus)
        assert asyncio.run(ask(kit)) == b"heard you"


def test_all_of_a_mesh_see_each_other() -> None:
    async def meet(kit: Kit) -> list[int]:
        async with kit.mesh.aio(3) as buses:
            return [alive(bus) for bus in buses]

    def alive(bus: Any) -> int:
        return sum(peer.state is PeerState.ALIVE for peer in bus.peers)

    with Kit() as kit:
        buses = kit.mesh(3, metadata=b"same")
        assert [bus.name for bus in buses] == ["bus-1", "bus-2", "bus-3"]
        assert [alive(bus) for bus in buses] == [2, 2, 2]
        assert {bus.metadata for bus in buses} == {b"same"}
    with Kit() as kit:
        assert [alive(bus) for bus in kit.mesh.delegate(3)] == [2, 2, 2]
    with Kit() as kit:
        assert asyncio.run(meet(kit)) == [2, 2, 2]


def test_what_a_test_left_open_is_told() -> None:
    with Kit() as kit:
        forgotten = DittoBus("forgotten", **kit.arguments)
        forgotten.start()
        kit.bus("kept")
    assert kit.leaks() == ["bus 'forgotten'"]
    forgotten.close(0)
    assert kit.leaks() == []


def test_buses_lose_a_silent_peer_after_the_given_time() -> None:
    with Kit(liveness_s=7.5) as kit:
        assert kit.arguments["limits"] == Limits(liveness_s=7.5)
        variables = kit.environment(limits=Limits(streams_max=5))
        assert json.loads(variables["DITTOBUS_ARGUMENTS"])["limits"] == {"streams_max": 5}


def test_the_seed_decides_what_is_left_to_chance() -> None:
    with Kit(seed=5) as one, Kit(seed=5) as other:
        assert one.seed == 5
        assert one.random.random() == other.random.random()
        assert [one.chaos().seed, one.chaos().seed] == [other.chaos().seed, other.chaos().seed] == [5, 6]


def test_any_program_may_join_by_its_environment() -> None:
    with Kit() as kit:
        bus = kit.bus("test")
        variables = kit.environment(peers=[bus.ticket()], discovery=()) | {"PYTHONPATH": str(ROOT)}
        assert "DITTOBUS_SECRET_FILE" not in variables
        program = "from tests.dittobus.testing import programs; programs.echo()"
        with subprocess.Popen(
            [sys.executable, "-c", program], env=variables, stdout=subprocess.DEVNULL
        ) as echo:
            try:
                bus.wait_for_peer("echo", timeout=SOON_S)
            finally:
                echo.kill()
        with pytest.raises(TypeError, match="identity"):
            kit.environment(identity=os.devnull)


def test_two_processes_behind_one_chaos() -> None:
    with Kit() as kit:
        chaos = kit.chaos()
        kit.process(programs.echo, name="far", bus=chaos.far)
        near = kit.bus("near", **chaos.near)
        peer = near.wait_for_peer("echo", timeout=SOON_S)
        chaos.blackhole()
        with pytest.raises(DeliveryUnknown):
            near.send(b"x", peer, timeout=0.2)
        chaos.heal()
        near.send(b"y", peer)
        while near.receive_message(SOON_S).data != b"y":
            pass
        report = dict(kit.report())
        assert report["chaos"].startswith(f"seed {kit.seed}, ")
        assert "echo is up" in report["process"]
        [of_far] = [text for heading, text in report.items() if heading.startswith("packets of 'echo'")]
        assert "DATA 0 (channel 0): " in of_far
