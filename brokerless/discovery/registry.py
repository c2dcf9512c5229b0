"""Peers of the same user on the same host: a directory with one small file for each node.

A node writes its file, then looks at those of the others; so of two that start at once at least one sees the
other, and dials. That is why nobody needs to look often. A file counts while its lock is held: the kernel
releases it when the process ends, however it ends, while process ids lie across containers. Each file holds a
sealed record, so several meshes can share one directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING

from brokerless.discovery.record import NONCE_BYTES, open_record, seal_record
from brokerless.discovery.sightings import Sightings
from brokerless.errors import ConfigError, StartError
from brokerless.private_files import (
    create_locked_file,
    is_locked,
    make_private_directory,
    open_private_file,
    read_all,
)

if TYPE_CHECKING:
    import io
    from collections.abc import Callable
    from pathlib import Path

    from brokerless.discovery import Beacon, Hint

SCAN_INTERVAL_S = 2.0
"""Newcomers dial, so this only finds those who cannot. No shorter than a tick of any file system's clock."""

FILES_MAX = 8_192
"""Files looked at in one scan: two for each peer of a full roster."""

FILES_PER_SLICE = 32
"""Looked at before others get their turn on the loop: some 0.5 ms."""

UNFINISHED_S = 60.0
"""Age at which a file without a lock cannot be one that its maker is about to lock."""

SUFFIX = ".node"


class RegistryDiscovery:
    """Finds the nodes of this user on this host, by files in ``directory``, which is made if missing."""

    name = "registry"

    def __init__(self, directory: Path, *, scan_interval_s: float = SCAN_INTERVAL_S) -> None:
        self.rejected = 0
        self._directory = directory
        self._scan_interval_s = scan_interval_s
        self._beacon: Beacon | None = None
        self._sightings: Sightings | None = None
        self._refused: set[str] = set()  # names of files that `rejected` counts
        self._own_file: io.FileIO | None = None
        self._own_name = ""
        self._watching: asyncio.Task[None] | None = None

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        """Write the file, then report everybody who is there already. Raises ``StartError``."""
        self._sightings = Sightings(report)
        await self.announce(beacon)
        scanned_mtime_ns = self._mtime_ns()
        await self._scan(beacon, self._sightings)
        self._watching = asyncio.create_task(self._watch(scanned_mtime_ns))

    async def announce(self, beacon: Beacon) -> None:
        """Write a new file, then remove the old one: a name is never used twice, so removing one is safe."""
        self._beacon = beacon
        if not beacon.endpoints:
            self._withdraw()
            return
        make_private_directory(self._directory)
        name = secrets.token_hex(16) + SUFFIX
        file = create_locked_file(
            self._directory / name, seal_record(beacon, secrets.token_bytes(NONCE_BYTES))
        )
        self._withdraw()
        self._own_file, self._own_name = file, name

    async def close(self) -> None:
        """Remove the file, and stop."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        self._withdraw()

    def _withdraw(self) -> None:
        # In a forked child the file is closed already, and still announces the parent.
        if self._own_file is not None and not self._own_file.closed:
            self._remove(self._own_name)
            self._own_file.close()
        self._own_file, self._own_name = None, ""

    async def _watch(self, scanned_mtime_ns: int) -> None:
        settled = False
        while True:
            await asyncio.sleep(self._scan_interval_s)
            assert self._beacon is not None
            assert self._sightings is not None
            mtime_ns = self._mtime_ns()
            if settled and mtime_ns == scanned_mtime_ns:
                continue
            # What is written within the same tick of the clock after a scan leaves the time as it is; so a
            # directory that has changed is scanned once more a whole interval later.
            settled = mtime_ns == scanned_mtime_ns
            scanned_mtime_ns = mtime_ns
            if self._own_name and not (self._directory / self._own_name).exists():
                with contextlib.suppress(
                    StartError
                ):  # somebody cleans up here; what is lost can be made again
                    await self.announce(self._beacon)
            await self._scan(self._beacon, self._sightings)

    def _mtime_ns(self) -> int:
        try:
            return self._directory.stat().st_mtime_ns
        except OSError:
            return 0

    async def _scan(self, beacon: Beacon, sightings: Sightings) -> None:
        names = self._names()
        for count, name in enumerate(names, 1):
            self._look(name, beacon, sightings)
            if count % FILES_PER_SLICE == 0:
                await asyncio.sleep(0)
        for name in set(sightings).difference(names):  # last, since what has gone may just have been replaced
            sightings.lose(name)
        self._refused.intersection_update(names)

    def _names(self) -> list[str]:
        names: list[str] = []
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if len(names) == FILES_MAX:
                    break
                if entry.name.endswith(SUFFIX) and entry.name != self._own_name:
                    names.append(entry.name)
        return names

    def _look(self, name: str, beacon: Beacon, sightings: Sightings) -> None:
        try:
            with open_private_file(self._directory / name) as file:
                if not is_locked(file):
                    sightings.lose(name)
                    age_s = time.time() - os.fstat(file.fileno()).st_mtime
                    finished = (
                        not name.startswith(".") and sys.platform != "win32"
                    )  # locked before it was named
                    if finished or age_s > UNFINISHED_S:
                        self._remove(name)
                    return
                if name in sightings or name in self._refused:  # what is in a file never changes
                    return
                hint = open_record(read_all(file), beacon.mesh_key, self.name)
                if hint is not None:
                    hint = dataclasses.replace(hint, ours=self._is_ours(file))
        except FileNotFoundError:
            sightings.lose(name)
            return
        except (ConfigError, OSError):  # not private, or not readable
            hint = None
        if hint is None or (hint.address != beacon.address and not sightings.see(name, hint)):
            self._refuse(name)

    def _is_ours(self, file: io.FileIO) -> bool | None:
        """Whose turn it is to dial: of two, whose file came second has looked since, and seen the other's.

        None for files of the same tick of the file system's clock.
        """
        if self._own_file is None:
            return True
        theirs_ns, ours_ns = (os.fstat(one.fileno()).st_mtime_ns for one in (file, self._own_file))
        return None if theirs_ns == ours_ns else theirs_ns < ours_ns

    def _refuse(self, name: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            self.rejected += 1

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._directory / name)
