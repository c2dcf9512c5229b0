"""A mesh of its own for one test: buses and processes that see each other and nobody else."""

from __future__ import annotations

import contextlib
import random
import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from brokerless import BusClosed, now
from brokerless.testing import Chaos
from dittobus import DittoBus, Limits, UsageError, _node, aio, blocking, generate_secret
from dittobus._environment import OTHER_ARGUMENTS, environment_for
from dittobus.testing.frames import Recorder, read_all
from dittobus.testing.process import Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from types import TracebackType

    from brokerless import Node

LIVENESS_S = 10.0
"""Twice what a bus has: machines that run tests are busy, and a peer that is only slow is not to be lost."""

MEET_S = 30.0
"""How long buses of a mesh may take to see each other; only a failure waits for it."""

BUS_CLOSE_S = 1.0
"""How long a bus may drain when its test is over, and nobody needs what it still sends."""


class Kit:
    """A mesh of its own: buses and processes of one test, on loopback, that see each other and nobody else.

    The fixtures of the pytest plugin are its parts; elsewhere use it as a context manager::

        with Kit() as kit:
            bus = kit.bus("leader")
            worker = kit.process(work, 5)
            bus.wait_for_peer("worker")
            worker.kill()

    The name, secret and directory of the mesh are drawn for it alone, so tests may run side by side. Peers
    are found by a registry in that directory; nothing is multicast. Leaving closes all buses and kills all
    processes that are left. ``seed`` is that of every ``chaos`` and of ``random``. ``liveness_s`` is for how
    long a peer may be silent before it is lost: a killed process is missed after that time.
    """

    def __init__(self, *, seed: int | None = None, liveness_s: float = LIVENESS_S) -> None:
        self.seed = secrets.randbits(32) if seed is None else seed
        self.random = random.Random(self.seed)
        """For what a test leaves to chance."""
        self.bus = BusFactory(self)
        self.mesh = MeshFactory(self)
        self._liveness_s = liveness_s
        self._directory: Path | None = None
        self._arguments: dict[str, Any] = {}
        self._exits = contextlib.ExitStack()
        self._nodes: weakref.WeakSet[Node] = weakref.WeakSet()
        self._processes: list[Process] = []
        self._chaoses: list[Chaos] = []
        self._begun_at = 0.0

    # Life

    def __enter__(self) -> Self:
        if self._directory is not None:
            raise UsageError("a Kit is entered once; make a new one")
        self._begun_at = now()
        # A short path: that of a Unix socket has 103 characters at most.
        self._directory = Path(tempfile.mkdtemp(prefix="db-"))
        self._exits.callback(shutil.rmtree, self._directory, ignore_errors=True)
        frames = self._directory / "frames"
        frames.mkdir(mode=0o700)
        self._arguments = {
            "mesh": f"test-{secrets.token_hex(8)}",
            "secret": generate_secret(),
            "directory": str(self._directory / "bus"),
            "discovery": ("registry",),
            "interfaces": ("127.0.0.1",),
            "limits": Limits(liveness_s=self._liveness_s),
        }
        recorder = Recorder(frames)
        self._exits.callback(recorder.close)
        self._exits.enter_context(self._recording(recorder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _recording(self, record: Callable[[Node], None]) -> Iterator[None]:
        before = _node.on_made

        def on_made(node: Node) -> None:
            record(node)
            self._nodes.add(node)

        _node.on_made = on_made
        try:
            yield
        finally:
            _node.on_made = before

    def close(self) -> None:
        """Close all that is open still. Twice does no harm."""
        self._exits.close()

    def leaks(self) -> list[str]:
        """Return the buses of this process that run: after ``close``, those that the test had to close."""
        return [f"bus {node.name!r}" for node in self._nodes if _runs(node)]

    # What tests make

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for a bus of this mesh, for tests that make their own."""
        if self._directory is None:
            raise UsageError("a Kit is used within `with`")
        return dict(self._arguments)

    def environment(self, **arguments: Any) -> dict[str, str]:
        """Return the environment for a program in this mesh, whose bus is made with ``environment()``.

        For what ``process`` cannot start. Arguments of the bus that text can say are handed on, too.
        """
        chosen = self.arguments | arguments
        if unknown := chosen.keys() - OTHER_ARGUMENTS - {"mesh", "secret", "peers"}:
            raise TypeError(f"{min(unknown)}: cannot be handed to a process; its own program may choose it")
        return environment_for(chosen)

    def process(
        self,
        target: Callable[..., object] | str | Path,
        *arguments: Any,
        name: str = "",
        bus: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Process:
        """Start a process that runs a function, a ``.py`` file or a module, and return at once.

        A function gets the arguments and options; it must be one of a module, and they are pickled. A file or
        module gets the arguments in ``sys.argv``. Its buses are in this mesh if they are made with
        ``dittobus.environment()``, as in ``Bus("worker", **environment())``. ``bus`` has more arguments for
        them, such as ``chaos.far``; ``environment`` more variables. ``name`` is for reports.
        """
        variables = self.environment(**(bus or {})) | dict(environment or {})
        assert self._directory is not None
        process = Process(
            target,
            arguments,
            options,
            name=name,
            order_file=self._directory / f"order-{len(self._processes)}",
            frames=self._directory / "frames",
            environment=variables,
        )
        self._processes.append(process)
        self._exits.callback(process.close)
        return process

    def chaos(self) -> Chaos:
        """Return a ``Chaos`` that runs. Make one bus with ``**chaos.near``, another with ``**chaos.far``."""
        chaos = self._exits.enter_context(Chaos(seed=self.seed + len(self._chaoses)))
        self._chaoses.append(chaos)
        return chaos

    # What a report says

    def report(self) -> list[tuple[str, str]]:
        """Return headings and texts for whoever looks for what went wrong, without a payload or a secret."""
        sections = [("seed", f"{self.seed}")]
        sections += [("chaos", chaos.report()) for chaos in self._chaoses]
        sections += [("process", process.report()) for process in self._processes]
        if self._directory is not None and self._directory.exists():
            for frames in read_all(self._directory / "frames"):
                whose = f"{frames.name!r} ({frames.address}, process {frames.pid})"
                sections.append((f"packets of {whose}, after so many seconds", frames.text(self._begun_at)))
        return sections


class BusFactory:
    """Makes buses of a kit, of any face; all are closed with it."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for a bus of this mesh, for tests that make their own."""
        return self._kit.arguments

    def __call__(self, name: str = "", **arguments: Any) -> blocking.Bus:
        """Return a started ``dittobus.blocking.Bus``."""
        bus = blocking.Bus(name, **{**self.arguments, **arguments})
        self._start(bus)
        return bus

    def delegate(self, name: str = "", **arguments: Any) -> DittoBus:
        """Return a started ``DittoBus``; ``delegate=`` and ``delegate_event_queue=`` may be given."""
        bus = DittoBus(name, **{**self.arguments, **arguments})
        self._start(bus)
        return bus

    def aio(self, name: str = "", **arguments: Any) -> aio.Bus:
        """Return a ``dittobus.aio.Bus``, to be started, and closed in the same loop, by ``async with``."""
        return aio.Bus(name, **{**self.arguments, **arguments})

    def _start(self, bus: blocking.Bus | DittoBus) -> None:
        bus.start()
        self._kit._exits.callback(bus.close, BUS_CLOSE_S)


class MeshFactory:
    """Makes several buses of a kit at once, all of which see each other."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def __call__(self, count: int, **arguments: Any) -> list[blocking.Bus]:
        """Return so many started ``dittobus.blocking.Bus``, named "bus-1" and so on."""
        buses = [self._kit.bus(name, **arguments) for name in _names(count)]
        for bus in buses:
            bus.wait_for_peers(count - 1, timeout=MEET_S)
        return buses

    def delegate(self, count: int, **arguments: Any) -> list[DittoBus]:
        """Return so many started ``DittoBus``."""
        buses = [self._kit.bus.delegate(name, **arguments) for name in _names(count)]
        for bus in buses:
            bus.wait_for_peers(count - 1, timeout=MEET_S).result()
        return buses

    @contextlib.asynccontextmanager
    async def aio(self, count: int, **arguments: Any) -> AsyncIterator[list[aio.Bus]]:
        """Run so many ``dittobus.aio.Bus`` within ``async with``."""
        async with contextlib.AsyncExitStack() as stack:
            buses = [
                await stack.enter_async_context(self._kit.bus.aio(name, **arguments))
                for name in _names(count)
            ]
            for bus in buses:
                await bus.wait_for_peers(count - 1, timeout=MEET_S)
            yield buses


def _runs(node: Node) -> bool:
    try:
        node.ticket()
    except BusClosed:
        return False
    return True


def _names(count: int) -> list[str]:
    return [f"bus-{number}" for number in range(1, count + 1)]
