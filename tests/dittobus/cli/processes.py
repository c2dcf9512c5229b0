"""Commands as their users run them: as processes, with what they print and how they exit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DITTOBUS = (sys.executable, "-m", "dittobus")

RUN_S = 60
"""Each takes a second; a busy machine may need many times as long."""


NEAR = ("ipc", "tcp")
"""What commands meet by: where a busy machine takes a second for the first, the other is tried beside it."""


class Done:
    """A command that has ended."""

    def __init__(self, code: int, out: bytes | None, err: bytes) -> None:
        self.code = code
        self.data = out or b""
        self.out = self.data.decode(errors="replace")
        self.err = err.decode()

    @property
    def lines(self) -> list[str]:
        """What it printed."""
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What it printed, each line being JSON."""
        return [json.loads(line) for line in self.lines]

    @property
    def complaint(self) -> str:
        """The one line that it said on stderr."""
        [line] = self.err.splitlines()
        assert line.startswith("dittobus: ")
        return line.removeprefix("dittobus: ")


class Running:
    """A command that is running."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.ticket = ""

    def until_listening(self) -> Self:
        """Wait until it says that it listens."""
        said = self.line(self.process.stderr)
        found = re.search(r"listening as .*; ticket (\S+)$", said)
        assert found, said
        self.ticket = found[1]
        return self

    def line(self, output: IO[bytes] | None = None) -> str:
        """Return the next line that it prints, when it comes."""
        output = output or self.process.stdout
        assert output is not None
        return output.readline().decode().removesuffix("\n")

    def object(self) -> dict[str, Any]:
        """Return the next line that it prints, which is JSON."""
        line = self.line()
        assert line, self.end().err  # why it has ended
        said: dict[str, Any] = json.loads(line)
        return said

    def say(self, data: bytes) -> None:
        """Write to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def close_input(self) -> None:
        """Write no more to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None

    def end(self, data: bytes | None = None) -> Done:
        """Wait until it has ended, its stdin being closed."""
        out, err = self.process.communicate(data, timeout=RUN_S)
        return Done(self.process.returncode, out, err)


class Commands:
    """Runs commands in one mesh on loopback without multicast; none outlives this."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        place = {
            "interfaces": ["127.0.0.1"],
            "discovery": ["registry"],
            "directory": str(directory / "bus"),
        }
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("DITTOBUS_")
        } | {"DITTOBUS_ARGUMENTS": json.dumps(place), "COLUMNS": "200", "TERM": "dumb"}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *how: object) -> None:
        self._stack.close()

    def run(self, *arguments: object, data: bytes = b"") -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            self.line(*arguments),
            input=data,
            capture_output=True,
            timeout=RUN_S,
            env=self.environment,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object, **options: Any) -> Running:
        """Start a command."""
        return self.start_line(*self.line(*arguments), **options)

    def start_line(self, *line: str, **options: Any) -> Running:
        """Start what a command line of another program says."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(line, env=self.environment, **{**pipes, **options})
        self._stack.callback(_end, process)
        return Running(process)

    def listen(self, *arguments: object) -> Running:
        """Start a command that others are to find."""
        return self.start(*arguments).until_listening()

    @contextmanager
    def pumped(self, running: Running, data: bytes) -> Iterator[Callable[[], bytes]]:
        """Write to its stdin and read its stdout meanwhile; yields what gives what was read."""
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(running.end, data)
            yield lambda: ended.result(RUN_S).data

    @staticmethod
    def line(*arguments: object) -> list[str]:
        """Return the command line."""
        return [*DITTOBUS, *map(str, arguments)]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # what was not written to it is lost with it
                pass
