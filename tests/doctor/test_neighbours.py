from __future__ import annotations

import os
import secrets
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Beacon, Identity, NodeConfig, ZeroconfDiscovery, generate_secret
from brokerless.discovery.record import NONCE_BYTES, RECORD_BYTES, seal_record
from brokerless.doctor import neighbours as module
from brokerless.doctor.findings import Finding, Verdict
from brokerless.doctor.neighbours import (
    FOREIGN_HINT,
    Neighbours,
    examine_neighbours,
    examine_registry,
    examine_zeroconf,
)
from brokerless.private_files import create_locked_file, make_private_directory
from brokerless.trust import MeshTrust, mesh_key
from tests.witness import LOOPBACK, Mesh

if TYPE_CHECKING:
    import io
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

TRUST = mesh_key("ours", generate_secret())
OTHER = mesh_key("ours", generate_secret())


def record_of(trust: MeshTrust) -> bytes:
    beacon = Beacon(Identity.generate().address, ("tcp://127.0.0.1:4000",), 7, trust.key)
    return seal_record(beacon, secrets.token_bytes(NONCE_BYTES))


class Registry:
    """A directory, with files that are locked as long as they are wanted."""

    def __init__(self, directory: Path) -> None:
        self.directory = make_private_directory(directory)
        self.files: list[io.FileIO] = []
        self.known = Neighbours()

    def put(self, name: str, content: bytes) -> Path:
        self.files.append(create_locked_file(self.directory / name, content))
        return self.directory / name

    def close(self) -> None:
        for file in self.files:
            file.close()

    def examined(self) -> list[Finding]:
        return examine_registry(self.directory, TRUST, self.known)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path / "registry")
    yield made
    made.close()


class TestRegistry:
    def test_nobody(self, registry: Registry) -> None:
        [finding] = registry.examined()
        assert finding.verdict is Verdict.OK
        assert "0 of this mesh" in finding.text

    def test_a_member(self, registry: Registry) -> None:
        registry.put("a.node", record_of(TRUST))
        registry.put("a.doctor", b"not looked at")
        [finding] = registry.examined()
        assert finding.verdict is Verdict.OK
        assert finding.text.endswith("1 of this mesh")
        assert list(registry.known.places.values()) == [("tcp://127.0.0.1:4000",)]

    def test_a_node_with_another_secret(self, registry: Registry) -> None:
        registry.put("a.node", record_of(OTHER))
        [finding] = registry.examined()
        assert finding.verdict is Verdict.WARNING
        assert "1 of another mesh or with another secret" in finding.text
        assert finding.hint == FOREIGN_HINT
        assert not registry.known.places

    @pytest.mark.parametrize("garbage", [b"", b"garbage", bytes(RECORD_BYTES + 1)])
    def test_garbage(self, registry: Registry, garbage: bytes) -> None:
        path = registry.put("a.node", garbage)
        [finding] = registry.examined()
        assert finding.verdict is Verdict.WARNING
        assert "1 whose file is garbage" in finding.text
        assert path.exists()

    def test_a_stale_file_is_left_to_the_next_bus(self, registry: Registry) -> None:
        path = registry.put("a.node", record_of(TRUST))
        registry.close()
        [finding] = registry.examined()
        assert finding.verdict is Verdict.OK
        assert "1 that died" in finding.text
        assert "next bus" in finding.hint
        assert path.exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
    def test_a_file_that_is_open_to_others(self, registry: Registry) -> None:
        registry.put("a.node", record_of(TRUST)).chmod(0o644)
        found = registry.examined()
        assert [finding.verdict for finding in found] == [Verdict.OK, Verdict.FAILURE]
        assert found[1].name == "registry file a.node"
        assert "chmod 600" in found[1].hint

    @pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="only root can give a file away")
    def test_files_of_another_user(self, registry: Registry) -> None:
        for number in range(6):
            os.chown(registry.put(f"{number}.node", record_of(TRUST)), 65534, -1)
        found = registry.examined()
        assert all("another user" in finding.text for finding in found[1:5])
        assert found[5].text == "2 more like these"
        assert len(found) == 6


def of_loopback(**options: Any) -> NodeConfig:
    return NodeConfig(interfaces=LOOPBACK, **options)


@pytest.mark.asyncio
class TestZeroconf:
    """Others on this machine may speak, too, so what is heard is a part of what there is."""

    @staticmethod
    @asynccontextmanager
    async def announced(trust: MeshTrust) -> AsyncIterator[Beacon]:
        discovery = ZeroconfDiscovery(LOOPBACK)
        beacon = Beacon(Identity.generate().address, ("tcp://127.0.0.1:4000",), 7, trust.key)
        await discovery.start(beacon, lambda hint: None)
        try:
            yield beacon
        finally:
            await discovery.close()

    @pytest.fixture(autouse=True)
    def _listens_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "LISTEN_S", 3.0)  # on a busy machine everybody is late

    async def test_a_member(self) -> None:
        known = Neighbours()
        async with self.announced(TRUST) as beacon:
            finding = await examine_zeroconf(of_loopback(), LOOPBACK, TRUST, known)
        assert "1 of this mesh" in finding.text
        assert known.places == {beacon.address: beacon.endpoints}

    async def test_a_node_with_another_secret(self) -> None:
        known = Neighbours()
        async with self.announced(OTHER):
            finding = await examine_zeroconf(of_loopback(), LOOPBACK, TRUST, known)
        assert finding.verdict is Verdict.WARNING
        assert "0 of this mesh" in finding.text
        assert "another secret" in finding.text
        assert finding.hint == FOREIGN_HINT
        assert not known.places

    async def test_it_is_not_wanted(self) -> None:
        config = of_loopback(discovery=("registry",))
        assert (await examine_zeroconf(config, LOOPBACK, TRUST, Neighbours())).verdict is Verdict.SKIPPED

    async def test_it_does_not_start(self) -> None:
        finding = await examine_zeroconf(of_loopback(), ["192.0.2.77"], TRUST, Neighbours())
        assert finding.verdict is Verdict.FAILURE
        assert "192.0.2.77" in finding.text


@pytest.mark.asyncio
class TestNeighbours:
    async def test_nobody_is_known(self) -> None:
        [finding] = await examine_neighbours(of_loopback(), Identity.generate(), TRUST, Neighbours())
        assert finding.verdict is Verdict.SKIPPED

    async def test_a_member_takes_us(self, tmp_path: Path) -> None:
        secret = generate_secret()
        async with Mesh(tmp_path) as mesh:
            far = await mesh.start("far", secret=secret)
            config = of_loopback(secret=secret, peers=(str(far.node.ticket()),))
            trust = mesh_key(config.mesh, secret)
            [finding] = await examine_neighbours(config, Identity.generate(), trust, Neighbours())
            assert finding.verdict is Verdict.OK
            assert finding.name == f"neighbour {far.address.short}"
            assert not far.events  # its application is told nothing

    async def test_a_wrong_secret_seen_from_the_other_side(self, tmp_path: Path) -> None:
        async with Mesh(tmp_path) as mesh:
            far = await mesh.start("far")
            config = of_loopback(peers=(far.node.ticket(),))
            [finding] = await examine_neighbours(config, Identity.generate(), TRUST, Neighbours())
        assert finding.verdict is Verdict.FAILURE
        assert "different mesh secrets" in finding.text
        assert "same mesh, secret" in finding.hint

    async def test_somebody_who_does_not_want_us(self, tmp_path: Path) -> None:
        secret = generate_secret()
        async with Mesh(tmp_path) as mesh:
            far = await mesh.start("far", secret=secret, admit=(Identity.generate().address,))
            config = of_loopback(secret=secret, peers=(far.node.ticket(),))
            trust = mesh_key(config.mesh, secret)
            [finding] = await examine_neighbours(config, Identity.generate(), trust, Neighbours())
        assert finding.verdict is Verdict.FAILURE
        assert "not on the list" in finding.text
        assert "admit" in finding.hint

    async def test_somebody_who_is_not_there(self) -> None:
        known = Neighbours()
        known.meet(Identity.generate().address, ("tcp://127.0.0.1:1",))
        [finding] = await examine_neighbours(of_loopback(), Identity.generate(), TRUST, known)
        assert finding.verdict is Verdict.FAILURE
        assert "nobody listens there" in finding.text

    async def test_somebody_else_than_a_record_says(self, tmp_path: Path) -> None:
        """As a false record of multicast DNS leads to, or a ticket of an identity that is no more."""
        known = Neighbours()
        async with Mesh(tmp_path) as mesh:
            far = await mesh.start("far", discovery=())
            known.meet(Identity.generate().address, far.node.ticket().endpoints)
            [finding] = await examine_neighbours(of_loopback(), Identity.generate(), TRUST, known)
        assert finding.verdict is Verdict.FAILURE
        assert "not the peer we expect" in finding.text

    async def test_not_more_than_a_sample(self) -> None:
        known = Neighbours()
        for _ in range(module.NEIGHBOURS_MAX + 1):
            known.meet(Identity.generate().address, ("tcp://127.0.0.1:1",))
        found = await examine_neighbours(of_loopback(), Identity.generate(), TRUST, known)
        assert len(found) == module.NEIGHBOURS_MAX
