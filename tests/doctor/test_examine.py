"""All examinations together, as a bus of that configuration would fare."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import zmq

from brokerless import Identity, NodeConfig, Ticket, generate_secret
from brokerless.doctor import Finding, Verdict, examine
from tests.witness import LOOPBACK, Mesh

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio

PHRASE = "correct horse battery"


def by_name(found: list[Finding]) -> dict[str, Finding]:
    named = {finding.name: finding for finding in found}
    assert len(named) == len(found)
    return named


def of(verdict: Verdict, found: list[Finding]) -> list[str]:
    return [finding.name for finding in found if finding.verdict is verdict]


async def test_alone(tmp_path: Path) -> None:
    config = NodeConfig(secret=generate_secret(), interfaces=LOOPBACK, directory=tmp_path / "bus")
    found = by_name(await examine(config))
    assert not [finding for finding in found.values() if finding.verdict is Verdict.FAILURE]
    assert found["multicast 127.0.0.1"].verdict is Verdict.OK
    assert found["neighbours"].verdict is Verdict.SKIPPED


async def test_without_a_secret_all_stays_on_loopback(tmp_path: Path) -> None:
    found = by_name(await examine(NodeConfig(discovery=("registry",), directory=tmp_path / "bus")))
    assert found["mesh secret"].verdict is Verdict.WARNING
    assert found["interfaces"].text == "127.0.0.1"
    assert {name for name in found if name.startswith(("tcp 1", "udp 1"))} == {
        name for name in found if name.startswith(("tcp 127.0.0.1:", "udp 127.0.0.1:"))
    }


async def test_beside_a_member_and_a_stranger(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        far = await mesh.start("far", secret=PHRASE)
        await mesh.start("stranger")
        config = NodeConfig(
            secret=PHRASE, interfaces=LOOPBACK, discovery=("registry",), directory=tmp_path / "bus"
        )
        found = await examine(config)
        assert not of(Verdict.FAILURE, found)
        assert of(Verdict.WARNING, found) == ["registry"]
        assert by_name(found)[f"neighbour {far.address.short}"].verdict is Verdict.OK
        assert PHRASE not in repr(found)
        assert not far.events


async def test_everything_fails_at_once_and_is_said(tmp_path: Path) -> None:
    """Nothing that is wrong keeps the rest from being examined, or raises."""
    (tmp_path / "bus").touch()
    identity = tmp_path / "identity"
    identity.write_text("garbage")
    identity.chmod(0o600)
    config = NodeConfig(interfaces=("192.0.2.77",), directory=tmp_path / "bus", identity=identity, peers=())
    found = await examine(config, Ticket(Identity.generate().address, ("tcp://127.0.0.1:1",)))
    assert of(Verdict.FAILURE, found) == ["private directory", "identity", "interfaces"]
    assert all(finding.hint for finding in found if finding.verdict is Verdict.FAILURE)


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK[0], 0)) as holder:
        config = NodeConfig(
            secret=generate_secret(),
            interfaces=LOOPBACK,
            discovery=("registry",),
            directory=tmp_path / "bus",
            port=holder.getsockname()[1],
        )
        assert of(Verdict.FAILURE, await examine(config)) == ["tcp port"]


async def test_without_a_library_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    found = await examine(NodeConfig())
    assert of(Verdict.FAILURE, found) == ["libzmq"]
    assert found[-1].verdict is Verdict.SKIPPED


async def test_the_identity_is_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    Identity.load(path).release()
    config = NodeConfig(
        secret=generate_secret(),
        interfaces=LOOPBACK,
        discovery=("registry",),
        directory=tmp_path / "bus",
        identity=path,
    )
    assert not of(Verdict.FAILURE, await examine(config))
    Identity.load(path).release()
