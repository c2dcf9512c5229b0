"""Programs in processes of their own: both sides of a tunnel, servers behind it, and who uses them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

SOON_S = 60.0
"""More than enough for what takes a second, on any machine; only a failure waits for it."""

TEST_S = 120
"""A test starts several processes, each of which takes seconds on a machine that does other things."""

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where servers are, which is not in everybody's path."""


def path_of(program: str) -> str:
    """Where a program is. A test that needs one that is not installed is skipped."""
    path = shutil.which(program) or shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


class Program:
    """A process, and the lines that it has written."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = asyncio.Event()
        self._errors: list[str] = []
        self._reading = [
            asyncio.create_task(self._read(process.stdout, self.lines)),
            asyncio.create_task(self._read(process.stderr, self._errors)),
        ]

    async def _read(self, pipe: asyncio.StreamReader | None, lines: list[str]) -> None:
        assert pipe is not None
        while line := await pipe.readline():
            lines.append(line.decode())
            self._news.set()
        self._news.set()

    async def says(self, text: str) -> str:
        """Wait for a line with that text, on stdout or stderr."""
        return await self._until(
            lambda: next((line for line in (*self.lines, *self._errors) if text in line), None)
        )

    async def tells(self, event: str, **details: Any) -> dict[str, Any]:
        """Wait for a side of a tunnel to tell of that event."""

        def told() -> dict[str, Any] | None:
            for line in self.lines:
                notice: dict[str, Any] = json.loads(line)
                if notice["event"] == event and all(notice[key] == value for key, value in details.items()):
                    return notice
            return None

        return await self._until(told)

    async def _until(self, found: Callable[[], Any]) -> Any:
        async with asyncio.timeout(SOON_S):
            while (value := found()) is None:
                if all(task.done() for task in self._reading):
                    raise AssertionError(f"it ended, after {self.lines[-5:]} and {self._errors[-5:]}")
                self._news.clear()
                await self._news.wait()
        return value

    async def end(self, number: int = signal.SIGKILL) -> tuple[int, str]:
        """End it by that signal, unless it has ended; return its status and what it wrote to stderr."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(SOON_S):
            status = await self.process.wait()
            await asyncio.wait(self._reading)
        return status, "".join(self._errors)


class Programs:
    """Starts programs, and kills them all in the end. The two sides of a tunnel meet only each other."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="db-"))  # short: paths of Unix sockets are
        self._programs: list[Program] = []
        (self.directory / "bus").mkdir(mode=0o700)
        secret = self.directory / "secret"
        secret.write_text(f"hex:{secrets.token_hex(32)}\n")
        self.mesh = [f"--secret-file={secret}", f"--directory={self.directory / 'bus'}"]
        self.mesh += ["--mesh=tests", "--interface=127.0.0.1", "--discovery=registry"]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._programs:
            await program.end()
        shutil.rmtree(self.directory)

    async def start(self, *command: str | Path, ready: str = "") -> Program:
        """Start a program, and wait until it says that it is ready."""
        pipe = asyncio.subprocess.PIPE
        program = Program(
            await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=self.directory
            )
        )
        self._programs.append(program)
        if ready:
            await program.says(ready)
        return program

    async def run(self, *command: str | Path, given: bytes | None = None, status: int = 0) -> bytes:
        """Run a program to its end, which must have that status; return what it wrote to stdout."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.directory
        )
        try:
            async with asyncio.timeout(SOON_S):
                output, errors = await process.communicate(given)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert process.returncode == status, errors.decode() + output.decode(errors="replace")
        return output

    async def tunnel(self, *arguments: str) -> Program:
        """Start a side of a tunnel by the command line."""
        command = [sys.executable, "-m", "dittobus", "tunnel", *arguments, *self.mesh]
        return await self.start("env", f"PYTHONPATH={os.pathsep.join(sys.path)}", *command)

    async def expose(self, *targets: str, name: str = "server") -> Program:
        """Start the side that has the targets."""
        side = await self.tunnel("expose", *targets, f"--name={name}", "--json")
        await side.tells("exposing")
        return side

    async def listen(self, target: str, local: str = "0") -> tuple[Program, str]:
        """Start the side that listens; return it, and where that is."""
        side = await self.tunnel("-L", f"{local}:server:{target}", f"--timeout={SOON_S}", "--json")
        listening = await side.tells("listening")
        return side, listening["listen"].removesuffix("/udp")

    async def through(self, target: str) -> str:
        """Start both sides; return where one connects to for that target."""
        await self.expose(target)
        return (await self.listen(target))[1]
