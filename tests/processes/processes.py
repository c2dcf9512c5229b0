"""Starts nodes in processes of their own, and talks with them in lines of JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING, Any, Self

from brokerless import generate_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

SOON_S = 45.0
"""Enough for what takes a second, even to start an interpreter where dozens of others want to run; only a
failure waits for it."""

Said = dict[str, Any]


class Process:
    """A child that runs ``child.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[Said] = []
        self._by_event: dict[str, list[Said]] = {}
        self.address = ""
        self.ticket = ""

    def do(self, order: str, **details: Any) -> None:
        """Tell it to do something."""
        self._write({"do": order, **details})

    def _write(self, line: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the child ended, after saying {self.said[-5:]}")
        said = json.loads(line)
        self.said.append(said)
        self._by_event.setdefault(said["event"], []).append(said)

    def heard(self, event: str, **details: Any) -> list[Said]:
        """What was read so far of that event, with those details."""
        # By event, for this is asked after each line, and one that says much would be understood ever later.
        heard = self._by_event.get(event, [])
        return [said for said in heard if all(said[key] == value for key, value in details.items())]

    async def until(self, condition: Callable[[], Any], soon_s: float = SOON_S) -> Any:
        """Read until the condition gives something true."""
        async with asyncio.timeout(soon_s):
            while not (value := condition()):
                await self._read()
        return value

    async def says(self, event: str, **details: Any) -> Said:
        """The first of what it says of that event, with those details."""
        return (await self.until(lambda: self.heard(event, **details)))[0]

    async def says_next(self, event: str, **details: Any) -> Said:
        """The same, of what has not been read yet."""
        before = len(self.heard(event, **details))
        return (await self.until(lambda: self.heard(event, **details)[before:]))[0]

    async def begin(self, config: dict[str, Any]) -> None:
        """Configure it, and wait until it has started."""
        self._write(config)
        started = await self.says("started")
        self.address, self.ticket = started["address"], started["ticket"]

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def end(self, number: int | None = None) -> tuple[int, str]:
        """Let it end, by a signal if given; return its status and what it wrote to stderr."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(SOON_S):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


class Processes:
    """Makes processes of one mesh, and kills them all in the end."""

    def __init__(self, directory: Path, **defaults: Any) -> None:
        self.defaults: dict[str, Any] = {
            "secret": generate_secret().hex(),
            "interfaces": ["127.0.0.1"],
            "discovery": ["registry"],
            "directory": str(directory / "bus"),
            **defaults,
        }
        self._processes: list[Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            if process.process.returncode is None:
                await process.end(signal.SIGKILL)

    async def spawn(self, *prefix: str, program: str = "tests.processes.child") -> Process:
        """A process that waits for its configuration; ``prefix`` are words of a command that starts it."""
        pipe = asyncio.subprocess.PIPE
        process = Process(
            await asyncio.create_subprocess_exec(
                *prefix, sys.executable, "-m", program, stdin=pipe, stdout=pipe, stderr=pipe
            )
        )
        self._processes.append(process)
        return process

    async def start(self, name: str, **options: Any) -> Process:
        """A process whose node runs."""
        process = await self.spawn()
        await process.begin(self.config(name, **options))
        return process

    def config(self, name: str, **options: Any) -> dict[str, Any]:
        """What a process of this mesh is told first."""
        return {"name": name, **self.defaults, **options}

    async def pair(self, **options: Any) -> tuple[Process, Process]:
        """Two processes whose nodes have joined."""
        first, second = [await self.start(name, **options) for name in ("first", "second")]
        await first.says("joined", peer=second.address)
        await second.says("joined", peer=first.address)
        return first, second
