from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from brokerless.address import Address
from brokerless.discovery import Beacon, Discovery, Hint, registry
from brokerless.discovery.record import RECORD_BYTES
from brokerless.discovery.registry import UNFINISHED_S, RegistryDiscovery
from brokerless.discovery.sightings import Sightings
from brokerless.errors import StartError
from brokerless.private_files import create_locked_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio

KEY = bytes(range(32))
SOON_S = 10.0
"""More than enough for what takes milliseconds, on any machine."""

NODE = """
import asyncio, pathlib, sys
from brokerless.address import Address
from brokerless.discovery import Beacon
from brokerless.discovery.registry import RegistryDiscovery

async def main():
    discovery = RegistryDiscovery(pathlib.Path(sys.argv[1]))
    beacon = Beacon(Address(b"p" * 32), ("tcp://127.0.0.1:4000",), 7, bytes(range(32)))
    await discovery.start(beacon, lambda hint: None)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
"""A process that is in the registry until it is killed."""


class Node:
    """A discovery, its beacon and what it reports."""

    def __init__(self, directory: Path, number: int, *, key: bytes = KEY, interval_s: float = 60.0) -> None:
        self.registry = RegistryDiscovery(directory, scan_interval_s=interval_s)
        self.discovery: Discovery = self.registry
        self.beacon = Beacon(
            Address(bytes([number] * 32)), (f"tcp://127.0.0.1:{4000 + number}",), number, key
        )
        self.hints: asyncio.Queue[Hint] = asyncio.Queue()

    @property
    def hint(self) -> Hint:
        """What others ought to hear of it."""
        return Hint(self.beacon.address, self.beacon.endpoints, self.beacon.boot, "registry")

    @property
    def gone(self) -> Hint:
        return Hint(self.beacon.address, (), self.beacon.boot, "registry")

    async def start(self) -> Node:
        await self.discovery.start(self.beacon, self.hints.put_nowait)
        return self

    async def looks_again(self) -> list[Hint]:
        """Look as if for the first time."""
        heard: list[Hint] = []
        await self.registry._scan(self.beacon, Sightings(heard.append))
        return heard

    async def move(self, *endpoints: str) -> None:
        self.beacon = Beacon(self.beacon.address, endpoints, self.beacon.boot, self.beacon.mesh_key)
        await self.discovery.announce(self.beacon)

    async def heard(self) -> Hint:
        return await asyncio.wait_for(self.hints.get(), SOON_S)

    def heard_so_far(self) -> list[Hint]:
        return [self.hints.get_nowait() for _ in range(self.hints.qsize())]


class Nodes:
    """Makes nodes that share a directory, and closes them."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.directory = directory
        self._stack = stack

    async def __call__(self, number: int, *, key: bytes = KEY, interval_s: float = 60.0) -> Node:
        node = Node(self.directory, number, key=key, interval_s=interval_s)
        self._stack.push_async_callback(node.discovery.close)
        return await node.start()

    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir())


@pytest_asyncio.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        yield Nodes(tmp_path / "registry", stack)


async def test_a_newcomer_finds_all_at_its_start(nodes: Nodes) -> None:
    one, two = await nodes(1), await nodes(2)
    three = await nodes(3)
    assert sorted(three.heard_so_far(), key=lambda hint: hint.boot) == [one.hint, two.hint]
    assert two.heard_so_far() == [one.hint]
    assert one.heard_so_far() == []  # nobody looks again so soon: the newcomers dial


@pytest.mark.parametrize(("older_s", "ours"), [(60, True), (0, None), (-60, False)])
async def test_of_two_the_one_whose_file_came_second_is_to_dial(
    nodes: Nodes, older_s: int, ours: bool | None
) -> None:
    one, two = await nodes(1), await nodes(2)
    (file_of_one,) = [nodes.directory / name for name in two.registry._names()]
    (file_of_two,) = [nodes.directory / name for name in one.registry._names()]
    written_at = file_of_two.stat().st_mtime_ns - older_s * 10**9
    os.utime(file_of_one, ns=(written_at, written_at))
    assert [hint.ours for hint in await two.looks_again()] == [ours]
    await two.move()  # it announces nothing, so nobody can dial it
    assert [hint.ours for hint in await two.looks_again()] == [True]


async def test_the_elder_sees_newcomers_in_time(nodes: Nodes) -> None:
    elder = await nodes(1, interval_s=0.01)
    for number in (2, 3):
        newcomer = await nodes(number)
        assert await elder.heard() == newcomer.hint


async def test_a_change_within_one_tick_of_the_clock_is_seen(nodes: Nodes) -> None:
    elder = await nodes(1, interval_s=0.1)
    scanned_at = nodes.directory.stat().st_mtime_ns
    second = await nodes(2)
    os.utime(nodes.directory, ns=(scanned_at, scanned_at))
    assert await elder.heard() == second.hint
    third = await nodes(3)
    assert await elder.heard() == third.hint
    scanned_at = nodes.directory.stat().st_mtime_ns
    fourth = await nodes(4)
    os.utime(nodes.directory, ns=(scanned_at, scanned_at))
    assert await elder.heard() == fourth.hint


async def test_a_node_that_closes_is_withdrawn(nodes: Nodes) -> None:
    elder = await nodes(1, interval_s=0.01)
    newcomer = await nodes(2)
    assert await elder.heard() == newcomer.hint
    await newcomer.discovery.close()
    await newcomer.discovery.close()
    assert await elder.heard() == newcomer.gone
    await elder.discovery.close()
    assert nodes.files() == []


async def test_new_endpoints_replace_the_old_without_a_gap(nodes: Nodes) -> None:
    elder = await nodes(1, interval_s=0.01)
    newcomer = await nodes(2)
    assert await elder.heard() == newcomer.hint
    await newcomer.move("tcp://127.0.0.2:9", "ipc:///tmp/a.sock")
    assert await elder.heard() == newcomer.hint
    assert len(nodes.files()) == 2


async def test_without_endpoints_there_is_nothing_to_announce(nodes: Nodes) -> None:
    elder = await nodes(1, interval_s=0.01)
    newcomer = await nodes(2)
    assert await elder.heard() == newcomer.hint
    await newcomer.move()
    assert await elder.heard() == newcomer.gone
    await newcomer.move("tcp://127.0.0.1:1")
    assert await elder.heard() == newcomer.hint


async def test_what_a_file_shows(nodes: Nodes) -> None:
    await nodes(1)
    assert stat.S_IMODE(nodes.directory.stat().st_mode) == 0o700
    [file] = nodes.files()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stat().st_size == RECORD_BYTES
    assert b"127.0.0.1" not in file.read_bytes()


async def test_two_meshes_in_one_directory_do_not_see_each_other(nodes: Nodes) -> None:
    elder = await nodes(1, interval_s=0.01)
    stranger = await nodes(2, key=bytes(32))
    friend = await nodes(3)
    assert await elder.heard() == friend.hint
    other_friend = await nodes(4)
    assert await elder.heard() == other_friend.hint
    assert elder.discovery.rejected == 1  # however often it is looked at
    assert stranger.discovery.rejected == 1
    assert stranger.heard_so_far() == []


async def test_a_killed_process_leaves_no_trace(nodes: Nodes) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NODE, str(nodes.directory), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    found = await nodes(1)
    assert await found.heard() == Hint(Address(b"p" * 32), ("tcp://127.0.0.1:4000",), 7, "registry")
    process.kill()
    await process.wait()
    newcomer = await nodes(2)
    assert newcomer.heard_so_far() == [found.hint]
    assert len(nodes.files()) == 2
    assert newcomer.discovery.rejected == 0


async def test_garbage_is_counted_and_passed_over(nodes: Nodes) -> None:
    friend = await nodes(1)
    held = [
        create_locked_file(nodes.directory / "garbage.node", bytes(RECORD_BYTES)),
        create_locked_file(nodes.directory / "short.node", b""),
        create_locked_file(nodes.directory / "long.node", bytes(10 * RECORD_BYTES)),
        create_locked_file(nodes.directory / "open.node", nodes.files()[0].read_bytes()),
    ]
    (nodes.directory / "open.node").chmod(0o644)
    (nodes.directory / "directory.node").mkdir()
    (nodes.directory / "link.node").symlink_to("/dev/zero")
    (nodes.directory / "dangling.node").symlink_to(nodes.directory / "missing")
    os.mkfifo(nodes.directory / "fifo.node", 0o600)
    (nodes.directory / "README").write_text("not ours")
    newcomer = await nodes(2)
    assert newcomer.heard_so_far() == [friend.hint]
    assert newcomer.discovery.rejected == 7
    for file in held:
        file.close()


@pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="only root can give a file away")
async def test_a_file_of_another_user_is_counted_and_left_alone(nodes: Nodes) -> None:
    friend = await nodes(1)
    true = nodes.files()[0].read_bytes()
    held = create_locked_file(nodes.directory / "theirs.node", true)
    create_locked_file(nodes.directory / "stale.node", true).close()
    for name in ("theirs.node", "stale.node"):
        os.chown(nodes.directory / name, 65534, -1)
    newcomer = await nodes(2)
    assert newcomer.heard_so_far() == [friend.hint]
    assert newcomer.discovery.rejected == 2
    assert {"theirs.node", "stale.node"} <= {file.name for file in nodes.files()}
    held.close()


async def test_what_was_never_finished_is_removed_when_it_is_old(nodes: Nodes) -> None:
    await nodes(1)
    for name, age_s in ((".old.node", UNFINISHED_S + 10), (".young.node", 0)):
        create_locked_file(nodes.directory / name, b"").close()
        os.utime(nodes.directory / name, (time.time() - age_s,) * 2)
    newcomer = await nodes(2)
    names = [file.name for file in nodes.files()]
    assert ".young.node" in names
    assert ".old.node" not in names
    assert newcomer.discovery.rejected == 0


async def test_a_registry_that_was_cleaned_away_is_made_again(nodes: Nodes) -> None:
    elder = await nodes(1, interval_s=0.01)
    friend = await nodes(2)
    assert await elder.heard() == friend.hint
    for file in nodes.files():
        file.unlink()
    nodes.directory.rmdir()
    assert await elder.heard() == friend.gone
    newcomer = await nodes(3, interval_s=0.01)
    assert await newcomer.heard() == elder.hint
    assert await elder.heard() == newcomer.hint


async def test_no_more_files_are_looked_at_than_a_roster_needs(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "FILES_MAX", 3)
    for number in range(6):
        newcomer = await nodes(number)
    assert 2 <= len(newcomer.heard_so_far()) <= 3


async def test_a_directory_open_to_others_is_refused(nodes: Nodes) -> None:
    nodes.directory.mkdir(mode=0o755)
    node = Node(nodes.directory, 1)
    with pytest.raises(StartError, match="chmod 700"):
        await node.start()
    await node.discovery.close()
    assert nodes.files() == []


async def test_closing_before_the_start_is_harmless(tmp_path: Path) -> None:
    await Node(tmp_path, 1).discovery.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_neither_keeps_nor_removes_its_parents_file(nodes: Nodes) -> None:
    parent = await nodes(1)
    child = os.fork()
    if child == 0:
        parent.discovery._withdraw()  # type: ignore[attr-defined]
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    newcomer = await nodes(2)
    assert newcomer.heard_so_far() == [parent.hint]
