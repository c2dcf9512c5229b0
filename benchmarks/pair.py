"""Two processes that play rounds with each other, while this one calls the rounds and keeps the score.

All pairs of a benchmark stay up for its whole time, and their rounds take turns. So whatever else the machine
does meanwhile is shared fairly, and start-up is in no figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import platform
import secrets
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

RUN_S = 55.0
"""No benchmark runs longer; one that would is stuck, and says so."""

COUNT_MAX = 5_000_000
"""Of one round, however fast the pair is."""

STATUS = Path("/proc/self/status")
SMAPS = Path("/proc/self/smaps_rollup")


class PairFailed(Exception):
    """One of the two processes failed, or did not answer in time."""


@dataclass(frozen=True)
class Memory:
    """Of a process, in KiB; 0 where the system does not tell."""

    resident: int
    resident_peak: int
    private_dirty: int

    @classmethod
    def now(cls) -> Memory:
        lines = [line for path in (STATUS, SMAPS) if path.exists() for line in path.read_text().splitlines()]
        amounts = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
        return cls(*(int(amounts.get(name, 0)) for name in ("VmRSS", "VmHWM", "Private_Dirty")))


@dataclass(frozen=True)
class Report:
    """What one side says of a round. Times are of the system's monotonic clock, in seconds."""

    start: float
    end: float
    memory: Memory
    detail: Any


@dataclass(frozen=True)
class Setting:
    """What both sides of a pair know beforehand."""

    size_bytes: int
    directory: Path
    secret: bytes


class Control:
    """How a side of a pair hears of its rounds."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._start = 0.0

    def ready(self, where: Any = None) -> None:
        """Say that rounds may begin; ``where`` is handed to the other side."""
        self._connection.send((where, Memory.now()))

    def next_round(self) -> int:
        """Wait for a round; return how many messages it has, or 0 when all is over."""
        try:
            count: int = self._connection.recv()
        except EOFError:
            return 0
        self._connection.send(None)
        self._start = time.monotonic()
        return count

    async def next_round_async(self) -> int:
        """Do the same, while the event loop goes on."""
        count = await asyncio.get_running_loop().run_in_executor(None, self.next_round)
        self._start = time.monotonic()
        return count

    def done(self, detail: Any = None) -> None:
        """Say that this side of the round is over."""
        self._connection.send(Report(self._start, time.monotonic(), Memory.now(), detail))


def _run_side(side: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    try:
        side(Control(connection), *arguments)
    except Exception as error:
        connection.send(PairFailed("".join(traceback.format_exception(error))))


class InLoop:
    """A coroutine function as one that a process can run by itself."""

    def __init__(self, side: Callable[..., Coroutine[Any, Any, None]]) -> None:
        self._side = side

    def __call__(self, *arguments: Any) -> None:
        asyncio.run(self._side(*arguments))


@dataclass(frozen=True)
class Round:
    """A round that was played; both reports are of the same ``count`` messages."""

    count: int
    receiver: Report
    sender: Report

    @property
    def length_s(self) -> float:
        """From the first send to the last receipt."""
        return max(self.receiver.end, self.sender.end) - self.sender.start


@dataclass
class Pair:
    """A contender: ``receive(control, setting)`` and ``send(control, setting, where)``, in a process each."""

    name: str
    size_bytes: int
    receive: Callable[[Control, Setting], None]
    send: Callable[[Control, Setting, Any], None]
    optional: bool = False
    failure: str = ""
    rounds: list[Round] = field(default_factory=list)
    _until: float = 0.0
    _sides: list[_Side] = field(default_factory=list)

    def start(self, directory: Path, until: float) -> None:
        """Start both processes and let them meet."""
        self._until = until
        directory.mkdir(mode=0o700)
        setting = Setting(self.size_bytes, directory, secrets.token_bytes(32))
        where = self._start_side(self.receive, setting)
        self._start_side(self.send, setting, where)

    def _start_side(self, run: Callable[..., None], *arguments: Any) -> Any:
        ours, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=_run_side, args=(run, theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        side = _Side(process, ours)
        self._sides.append(side)
        where, side.memory_before = side.answer(self._until)
        return where

    def play(self, count: int) -> Round:
        """Play a round of so many messages; the receiver is told first."""
        for side in self._sides:
            side.connection.send(count)
            side.answer(self._until)
        return Round(count, *(side.answer(self._until) for side in self._sides))

    def stop(self) -> None:
        """End both processes, the sender first."""
        for side in reversed(self._sides):
            side.connection.close()
            side.process.join(3.0)
            side.process.kill()
            side.process.join()

    @property
    def memory_before(self) -> tuple[Memory, ...]:
        """Return what each side had when it was ready, the receiver first."""
        return tuple(side.memory_before for side in self._sides)

    def memory_growth_kib(self) -> dict[str, dict[str, int]]:
        """Return by how much each side grew after it was ready: the peak, and its own pages at the end."""
        reports = (self.rounds[-1].receiver, self.rounds[-1].sender)
        return {
            name: {
                "resident_peak": report.memory.resident_peak - side.memory_before.resident,
                "private_dirty": report.memory.private_dirty - side.memory_before.private_dirty,
            }
            for name, report, side in zip(("receiver", "sender"), reports, self._sides, strict=True)
        }


@dataclass
class _Side:
    process: SpawnProcess
    connection: Connection
    memory_before: Memory = Memory(0, 0, 0)

    def answer(self, until: float) -> Any:
        if not self.connection.poll(max(0.0, until - time.monotonic())):
            raise PairFailed(f"no answer within {RUN_S:.0f} s of the run")
        try:
            answer = self.connection.recv()
        except EOFError:
            raise PairFailed("a process ended early") from None
        if isinstance(answer, PairFailed):
            raise answer
        return answer


def play_all(pairs: Sequence[Pair], *, warm_up_count: int, rounds: int, round_s: float) -> None:
    """Start all pairs, then let their rounds take turns. A pair that fails keeps why.

    The warm-up fills every buffer once, and its rate tells how many messages make up a round of ``round_s``.
    """
    until = time.monotonic() + RUN_S
    counts: dict[int, int] = {}
    with tempfile.TemporaryDirectory(prefix="dittobus-") as directory:
        try:
            for number, pair in enumerate(pairs):
                with _failure_noted(pair):
                    pair.start(Path(directory) / str(number), until)
                    warm_up_s = pair.play(warm_up_count).length_s
                    counts[number] = min(COUNT_MAX, max(1, int(warm_up_count / warm_up_s * round_s)))
            for _ in range(rounds):
                for number, pair in enumerate(pairs):
                    if not pair.failure:
                        with _failure_noted(pair):
                            pair.rounds.append(pair.play(counts[number]))
        finally:
            for pair in pairs:
                pair.stop()


@contextlib.contextmanager
def _failure_noted(pair: Pair) -> Iterator[None]:
    try:
        yield
    except (PairFailed, OSError) as error:
        pair.failure = str(error).strip() or repr(error)


def machine() -> dict[str, str]:
    """Return what the figures hang on."""
    return {
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
