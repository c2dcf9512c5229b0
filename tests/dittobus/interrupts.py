"""Ctrl-C at every point where Python lets it in, and at any."""

from __future__ import annotations

import dis
import queue
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

SWITCH_S = 0.0001
"""Within a storm: a fiftieth of what is usual."""


class Interruption:
    """Raises ``KeyboardInterrupt`` at the n-th place in these files where a signal might do so."""

    def __init__(self, number: int, *files: str | None) -> None:
        self._left = number
        self._files = files
        self._last: dict[FrameType, str] = {}
        self.has_come = False

    def run(self, action: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # or Python 3.12 shows opcodes only from the next time on
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
        frame.f_trace = self._step  # or Python 3.13 shows no opcodes
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
    """While within it, signals hit the main thread, one for each time that it is ready for one.

    Threads take turns much more often than usual, so that a signal comes soon.
    """

    def __init__(self) -> None:
        self._is_ready = False
        self._turns: queue.SimpleQueue[bool] = queue.SimpleQueue()  # may be used within a signal's handler
        self._thread = threading.Thread(target=self._blow)
        self._before: Any = None
        self.count = 0

    def let_one_in(self) -> None:
        """Be ready for one ``KeyboardInterrupt``, at any time from now on."""
        self._is_ready = True
        self._turns.put(True)

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._hit), sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ready = False
        self._turns.put(False)
        self._thread.join()
        signal.signal(signal.SIGINT, self._before[0])
        sys.setswitchinterval(self._before[1])

    def _hit(self, number: int, frame: FrameType | None) -> None:
        if self._is_ready:
            self._is_ready = False
            self.count += 1
            raise KeyboardInterrupt

    def _blow(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while self._turns.get():
            signal.pthread_kill(main, signal.SIGINT)
