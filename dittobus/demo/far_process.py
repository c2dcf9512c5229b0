"""The process of the second peer, as the first one sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from dittobus.demo.steps import StepFailed
from dittobus.demo.waiting import WAIT_S

if TYPE_CHECKING:
    from pathlib import Path

END_TIMEOUT_S = 5.0
"""A killed process is gone at once, unless the system is in trouble."""


class FarProcess:
    """Runs ``dittobus.demo.far``, in a process group of its own; to be killed in any case."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "far.log"
        self._reports: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._has_ended = False
        # The same import path as here, and -P: a file in the working directory must not pass for a module.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTHONUTF8": "1",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dittobus.demo.far"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                encoding="utf-8",
                start_new_session=True,
            )
        self._listener = threading.Thread(target=self._listen, name="demo-far-reports", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def say(self, **something: object) -> None:
        """Tell it something: first the options of its bus, then commands."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(something) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise StepFailed(f"the second process ended{self._last_words()}") from None

    def hears(self, event: str, **facts: object) -> dict[str, Any]:
        """Wait for a report of that event and with those facts, take it and return it."""
        deadline = monotonic() + WAIT_S
        with self._changed:
            while True:
                for position, report in enumerate(self._reports):
                    if report["event"] == event and facts.items() <= report.items():
                        return self._reports.pop(position)
                if self._has_ended:
                    raise StepFailed(f"the second process ended{self._last_words()}")
                left = deadline - monotonic()
                if left <= 0:
                    raise StepFailed(f"the second process did not report {event!r} within {WAIT_S:.0f} s")
                self._changed.wait(left)

    def kill(self) -> None:
        """Kill it with all that may have come of it, and wait until it is gone. Twice is harmless."""
        if self._process.returncode is None:  # not waited for, so the id is still its own
            if sys.platform == "win32":
                self._process.kill()
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(END_TIMEOUT_S)
        self._listener.join(END_TIMEOUT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = json.loads(line)
            with self._changed:
                self._reports.append(report)
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        return f"; its last words: {said[-1]}" if said else ""
