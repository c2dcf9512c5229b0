"""Ctrl-C at every point where Python lets it in, and at any."""

from __future__ import annotations

import dis
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType
    from typing import Self

ENTRANCES = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")
"""Instructions after which CPython may look for signals; after no other does it."""


class Interruption:
    """Raises ``KeyboardInterrupt`` at the n-th place in these files where a signal might do so."""

    def __init__(self, number: int, *files: str | None) -> None:
        self._left = number
        self._files = files
        self._last: dict[FrameType, str] = {}
        self.has_come = False

    def run(self, action: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            action()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
            self._last.clear()

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and not self.has_come:
            last = self._last.get(frame, "")
            self._last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if last.startswith(ENTRANCES):
                self._left -= 1
                if self._left == 0:
                    self.has_come = True
                    raise KeyboardInterrupt
        return self._step


def everywhere(action: Callable[[], object], *files: str | None) -> Iterator[int]:
    """Run ``action`` again and again, each time interrupted one place later, until it comes through.

    Yields after each time but the last.
    """
    for number in range(1, 1000):
        interruption = Interruption(number, *files)
        interruption.run(action)
        if not interruption.has_come:
            return
        yield number
    raise AssertionError("it never came through")


class Storm:
    """While within it, signals hit the main thread at any time. ``armed`` lets one of them interrupt."""

    def __init__(self) -> None:
        self._armed = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._blow)
        self._before: Any = None
        self.count = 0

    def arm(self) -> None:
        """Let the next signal raise ``KeyboardInterrupt``, one time."""
        self._armed.set()

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._hit)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._armed.set()
        self._thread.join()
        self._armed.clear()
        signal.signal(signal.SIGINT, self._before)

    def _hit(self, number: int, frame: FrameType | None) -> None:
        if self._armed.is_set() and not self._over:
            self._armed.clear()
            self.count += 1
            raise KeyboardInterrupt

    def _blow(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while not self._over:
            self._armed.wait()
            signal.pthread_kill(main, signal.SIGINT)
