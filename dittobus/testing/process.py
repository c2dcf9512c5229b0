"""A program under test in a process of its own: to be killed, paused, continued and listened to."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from dittobus import UsageError, WaitTimeout
from dittobus.testing.child import FunctionOrder, Order, ProgramOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

END_S = 10.0
"""What the system may take to end a process that was killed; only a failure waits for it."""

OUTPUT_BYTES_MAX = 16 * 1024 * 1024
"""Kept of what a process writes: its end. A program that writes more is not tested by its output."""

SHOWN_LINES = 50
"""Of the output, in a report."""


BEGIN = """
import sys
sys.path[:] = {path!r}
from dittobus.testing.child import main
main({order_file!r})
"""
"""Modules of the test run, this one among them, are found where it finds them."""


class Process:
    """A program in a process of its own, in the mesh of the test. Made by ``Kit.process``."""

    def __init__(
        self,
        target: Callable[..., object] | str | Path,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        *,
        name: str,
        order_file: Path,
        frames: Path,
        environment: Mapping[str, str],
    ) -> None:
        work = _work(target, arguments, options)
        self.name = name or _name(work)
        order_file.write_bytes(pickle.dumps(Order(frames, work)))
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", BEGIN.format(path=sys.path, order_file=str(order_file))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the test run; and children of its own end with it
        )
        self._output = bytearray()
        self._came = threading.Condition()
        self._has_ended = False
        self._is_paused = False
        self._reader = threading.Thread(target=self._read, name=f"output of {self.name}", daemon=True)
        self._reader.start()

    # What it says

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it has written so far, to stdout and stderr."""
        with self._came:
            return self._output.decode(errors="replace")

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._process.poll()

    def wait_for_output(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait until what it has written matches a regular expression; return the match.

        Raises ``WaitTimeout``, at once if the process ends without having written that.
        """
        expression, deadline = re.compile(pattern, re.MULTILINE), monotonic() + timeout
        with self._came:
            while True:
                if found := expression.search(self._output.decode(errors="replace")):
                    return found
                if self._has_ended:
                    with contextlib.suppress(subprocess.TimeoutExpired):  # it may go on without its output
                        self._process.wait(max(0.0, deadline - monotonic()))
                    raise WaitTimeout(
                        f"{self} closed its output without writing {pattern!r}; it wrote:\n{self._tail()}"
                    )
                if not self._came.wait(max(0.0, deadline - monotonic())) and monotonic() >= deadline:
                    raise WaitTimeout(
                        f"{self} did not write {pattern!r} within {timeout:g} s; it wrote:\n{self._tail()}"
                    )

    def wait(self, timeout: float = 10.0) -> int:
        """Wait until it has ended; return its exit code, or minus the signal. Raises ``WaitTimeout``."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WaitTimeout(f"{self} did not end within {timeout:g} s; it wrote:\n{self._tail()}") from None
        self._reader.join(timeout)  # unless a child of its own holds the pipe, all it wrote is here now
        return code

    # What is done to it

    def kill(self) -> None:
        """End it at once, without a chance to say goodbye (SIGKILL), and wait until it is gone."""
        self._process.kill()
        self._process.wait(END_S)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM). Follow with ``wait``."""
        self._process.terminate()

    def interrupt(self) -> None:
        """Do what Ctrl-C does (SIGINT). Follow with ``wait``."""
        self._process.send_signal(signal.SIGINT)

    def pause(self) -> None:
        """Stop it where it is (SIGSTOP), until ``resume``. To its peers it is silent."""
        self._signal("SIGSTOP")
        self._is_paused = True

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal("SIGCONT")
        self._is_paused = False

    def _signal(self, name: str) -> None:
        if not hasattr(signal, name):
            raise UsageError(f"this system has no {name}")
        if self.returncode is not None:
            raise UsageError(f"{self} has ended")
        self._process.send_signal(getattr(signal, name))

    def close(self) -> None:
        """Kill what is left of it, its children too, and let go of everything. Twice does no harm."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left in its session
                os.killpg(self.pid, signal.SIGKILL)
        if self.returncode is None:
            self.kill()
        self._reader.join(END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not (pipe is self._process.stdout and self._reader.is_alive()):
                pipe.close()

    def report(self) -> str:
        """Return how it is, and the end of what it wrote."""
        return f"{self}\n{self._tail()}"

    def _tail(self) -> str:
        text = self._output.decode(errors="replace")
        return "\n".join(text.splitlines()[-SHOWN_LINES:]) or "nothing"

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        while data := os.read(pipe.fileno(), 65536):
            with self._came:
                self._output += data
                del self._output[:-OUTPUT_BYTES_MAX]
                self._came.notify_all()
        with self._came:
            self._has_ended = True
            self._came.notify_all()

    def __str__(self) -> str:
        code = self.returncode
        state = "paused" if self._is_paused else "running"
        if code is not None:
            state = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
        return f"process {self.name!r} ({self.pid}, {state})"


def _work(
    target: Callable[..., object] | str | Path, arguments: tuple[Any, ...], options: dict[str, Any]
) -> FunctionOrder | ProgramOrder:
    if not callable(target):
        if options:
            raise TypeError("a program takes no keywords")
        is_module = isinstance(target, str) and not target.endswith(".py")
        program = target if isinstance(target, str) and is_module else str(Path(target).absolute())
        if not is_module and not Path(program).is_file():
            raise FileNotFoundError(f"target: there is no file {program}")
        return ProgramOrder(program, is_module, tuple(map(str, arguments)))
    module, name = getattr(target, "__module__", ""), getattr(target, "__qualname__", "")
    if not module or not name or "<" in name:
        raise TypeError(f"target: a process needs a function of a module, {target!r:.80} is none")
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None and module == "__main__":
        raise TypeError("target: a function typed into the interpreter cannot be found by a process")
    return FunctionOrder(module, file, name, pickle.dumps((arguments, options)))


def _name(work: FunctionOrder | ProgramOrder) -> str:
    return work.qualified_name if isinstance(work, FunctionOrder) else Path(work.program).name
