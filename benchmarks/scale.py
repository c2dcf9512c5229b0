"""What a mesh of fifty processes on this machine costs, and how soon everybody sees everybody and misses one.

Found by the same-host registry, then by zeroconf on loopback: ``python benchmarks/scale.py [--count 50]
[--idle 20] [--discovery registry zeroconf] [--json]``. Exits with 1 when a bar is missed. See README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brokerless import Address, Limits
from brokerless.protocol.core import NodeCore
from brokerless.protocol.incarnation import Incarnation
from pair import machine

if TYPE_CHECKING:
    from collections.abc import Iterable

DISCOVERIES = {
    "registry": ("registry",),
    "zeroconf": ("zeroconf",),
    "default": ("zeroconf", "registry", "gossip"),
}

SEEN_S = 10.0
"""By then everybody sees all others, from when the last one had started."""

IDLE_CORES = 0.5
"""Of one core, what all of them together may take when nothing happens. It grows with their square."""

PRIVATE_MIB = 45.0
"""Memory that a process shares with none."""

LOST_S = 6.0
"""By then who was killed is lost to all others: the liveness limit of 5 s and one for everything else."""

SETTLE_S = 5.0
"""From when all are seen to when idleness is measured: needless dials end, and what was kept for them."""

RUN_S = 150.0
"""No mesh takes longer; one that would is stuck, and says so."""

SPAWN_S = 60.0
"""Of that for fifty interpreters to start on a few cores, which is none of the product's time."""

END_S = 10.0
"""For all of them to close, before they are killed."""

ROSTER_SIZES = (20, 2_000)
"""Peers in the roster before those whose joining is timed."""

ROSTER_BATCH = 20
ROSTER_BATCHES = 10
"""So many measurements of so many peers each. The cheapest counts: what others do can only add to it."""


class MeshFailed(Exception):
    """A process ended early, or something never came."""


class NodeProcess:
    """A child that runs ``scale_node.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""
        self.said: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def spawn(cls) -> NodeProcess:
        """Start an interpreter; it waits for its first line."""
        script = Path(__file__).with_name("scale_node.py")
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, script, stdin=pipe, stdout=pipe, start_new_session=True
            )
        )

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))
            self._news.set()
        self._news.set()

    def tell(self, **line: Any) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")

    async def says(self, event: str, count: int = 1, **details: Any) -> dict[str, Any]:
        """Return what it says of that event, with those details, for the ``count``-th time."""
        while len(heard := self.heard(event, **details)) < count:
            if self._reading.done():
                raise MeshFailed("a process ended early")
            self._news.clear()
            await self._news.wait()
        return heard[count - 1]

    def heard(self, event: str, **details: Any) -> list[dict[str, Any]]:
        """Return what it has said so far of that event, with those details."""
        return [
            said
            for said in self.said
            if said["event"] == event and all(said[key] == value for key, value in details.items())
        ]

    async def end(self) -> None:
        """Let it close."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()
        await self._reading

    def kill(self) -> None:
        """End it without a word; it need not be there any more."""
        if self.process.returncode is None:
            self.process.kill()

    def private_kib(self) -> int:
        """Return the memory that it shares with no other process; 0 where the system does not tell."""
        path = Path(f"/proc/{self.process.pid}/smaps_rollup")
        lines = path.read_text().splitlines() if path.exists() else []
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    def descriptors(self) -> int:
        """Return how many descriptors it has open; 0 where the system does not tell."""
        path = Path(f"/proc/{self.process.pid}/fd")
        return len(os.listdir(path)) if path.exists() else 0


@dataclass
class Figures:
    """Of one mesh. Seconds, cores (CPU time by time, of all processes), MiB."""

    discovery: str
    count: int
    start_s: float = 0.0
    """From the word to start, which all are given at once, until the last one had."""
    seen_s: float = 0.0
    """From then until everybody saw all others."""
    meeting_cpu_s: float = 0.0
    """CPU time of all from the word to start until they have settled."""
    idle_cores: float = 0.0
    idle_cores_worst: float = 0.0
    """Of the process that takes most."""
    private_mib_median: float = 0.0
    private_mib_max: float = 0.0
    descriptors_median: int = 0
    descriptors_max: int = 0
    links: int = 0
    """Of all together; each has two ends."""
    false_losses: int = 0
    """How often somebody was lost who was there."""
    lost_s: float = 0.0
    """From when one was killed until it was lost to the last of the others."""
    failure: str = ""
    missed: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Say which bars were missed."""
        if self.failure:
            self.missed = [f"{self.discovery}: {self.failure}"]
            return
        bars = (
            (self.seen_s <= SEEN_S, f"all seen after {self.seen_s:.1f} s, more than {SEEN_S:g}"),
            (
                self.idle_cores < IDLE_CORES,
                f"idle at {self.idle_cores:.2f} of a core, not less than {IDLE_CORES:g}",
            ),
            (
                self.private_mib_max <= PRIVATE_MIB,
                f"{self.private_mib_max:.1f} MiB in one process, more than {PRIVATE_MIB:g}",
            ),
            (self.false_losses == 0, f"{self.false_losses} losses of peers that were there"),
            (self.lost_s <= LOST_S, f"one killed was lost to all after {self.lost_s:.1f} s, not {LOST_S:g}"),
        )
        self.missed = [f"{self.discovery}: {what}" for reached, what in bars if not reached]


class Mesh:
    """Processes that find each other in one way only."""

    def __init__(self, figures: Figures, directory: Path, idle_s: float) -> None:
        self._figures = figures
        self._idle_s = idle_s
        self._nodes: list[NodeProcess] = []
        self._measurements = 0
        self._config = {
            "mesh": "scale",
            "secret": secrets.token_hex(32),
            "interfaces": ["127.0.0.1"],
            "discovery": DISCOVERIES[figures.discovery],
            "directory": str(directory),
            "expected": figures.count - 1,
        }

    async def measure(self) -> None:
        """Run it from its start to its end, within ``RUN_S`` and whatever happens."""
        step = self._spawn
        try:
            async with asyncio.timeout(RUN_S):
                for step in (self._spawn, self._meet, self._idle, self._miss_one, self._end):
                    await step()
        except TimeoutError:
            self._figures.failure = f"it came to no end of: {step.__doc__}"
        except MeshFailed as error:
            self._figures.failure = str(error)
        finally:
            for node in self._nodes:
                node.kill()
            await asyncio.gather(*(node.end() for node in self._nodes))

    async def _spawn(self) -> None:
        """starting all processes"""
        async with asyncio.timeout(SPAWN_S):
            for number in range(self._figures.count):
                self._nodes.append(await NodeProcess.spawn())
                self._nodes[-1].tell(name=f"node {number}", **self._config)
            await self._all("ready")

    async def _all(self, event: str, count: int = 1, **details: Any) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(node.says(event, count, **details) for node in self._nodes)))

    async def _meet(self) -> None:
        """seeing all others"""
        figures = self._figures
        before = await self._measured()
        word_at = time.monotonic()
        for node in self._nodes:
            node.tell(do="start")
        started = await self._all("started")
        for node, said in zip(self._nodes, started, strict=True):
            node.address = said["address"]
        started_at = max(said["at"] for said in started)
        complete_at = max(said["at"] for said in await self._all("complete"))
        figures.start_s = round(started_at - word_at, 2)
        figures.seen_s = round(max(0.0, complete_at - started_at), 2)
        await asyncio.sleep(SETTLE_S)
        after = await self._measured()
        figures.meeting_cpu_s = round(sum(_cpu_s(before, after)), 1)

    async def _idle(self) -> None:
        """watching them idle"""
        figures = self._figures
        before = await self._measured()
        await asyncio.sleep(self._idle_s)
        after = await self._measured()
        length_s = statistics.mean(end["at"] - begin["at"] for begin, end in zip(before, after, strict=True))
        shares = [cpu_s / length_s for cpu_s in _cpu_s(before, after)]
        figures.idle_cores = round(sum(shares), 3)
        figures.idle_cores_worst = round(max(shares), 4)
        private = [node.private_kib() / 1024 for node in self._nodes]
        figures.private_mib_median = round(statistics.median(private), 1)
        figures.private_mib_max = round(max(private), 1)
        descriptors = [node.descriptors() for node in self._nodes]
        figures.descriptors_median = int(statistics.median(descriptors))
        figures.descriptors_max = max(descriptors)
        figures.links = sum(said["links"] for said in after) // 2

    async def _measured(self) -> list[dict[str, Any]]:
        """Ask all what they have taken so far."""
        self._measurements += 1
        for node in self._nodes:
            node.tell(do="measure")
        return await self._all("measured", self._measurements)

    async def _miss_one(self) -> None:
        """losing one that was killed"""
        self._figures.false_losses = sum(len(node.heard("left")) for node in self._nodes)
        victim = self._nodes[len(self._nodes) // 2]
        killed_at = time.monotonic()
        victim.kill()
        await victim.end()
        self._nodes.remove(victim)
        lost = await self._all("left", peer=victim.address)
        self._figures.lost_s = round(max(said["at"] for said in lost) - killed_at, 2)
        losses = sum(len(node.heard("left")) for node in self._nodes)
        self._figures.false_losses += losses - len(lost)

    async def _end(self) -> None:
        """closing all"""
        async with asyncio.timeout(END_S):
            await asyncio.gather(*(node.end() for node in self._nodes))


def _cpu_s(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[float]:
    return [end["cpu_s"] - begin["cpu_s"] for begin, end in zip(before, after, strict=True)]


def roster_us() -> dict[int, float]:
    """Return what it costs to hear of one more peer, in microseconds, by how many are known already."""
    # All are to be dialled, so that the same is to be done for each.
    core = NodeCore(
        address=Address(bytes(32)),
        incarnation=Incarnation(bytes(32), boot=1, began_us=0),
        mesh_key=bytes(32),
        limits=Limits(eager_dials_max=Limits().peers_max),
        wake=lambda: None,
    )
    known, costs = 0, dict[int, float]()
    gc.disable()
    try:
        for size in ROSTER_SIZES:
            while known < size:
                known += _hear(core, known)
            batches = []
            for _ in range(ROSTER_BATCHES):
                began = time.thread_time()
                for _ in range(ROSTER_BATCH):
                    known += _hear(core, known)
                batches.append((time.thread_time() - began) / ROSTER_BATCH)
            costs[size] = round(min(batches) * 1e6, 1)
    finally:
        gc.enable()
    return costs


def _hear(core: NodeCore, number: int) -> int:
    address = Address(b"\1" + number.to_bytes(31, "big"))
    core.learn(address, "registry", (f"tcp://192.0.2.1:{number + 1}",), 1, 1.0)
    core.next_deadline()
    core.take_events()
    return 1


def print_table(results: Iterable[Figures], roster: dict[int, float]) -> None:
    print(
        f"{'':10}{'start':>8}{'all seen':>10}{'CPU':>8}{'idle':>8}{'worst':>8}{'MiB each':>10}{'most':>7}"
        f"{'descr.':>8}{'most':>6}{'links':>7}{'lost to all':>13}"
    )
    for one in results:
        print(
            f"{one.discovery:10}{one.start_s:>6.2f} s{one.seen_s:>8.2f} s{one.meeting_cpu_s:>6.1f} s"
            f"{one.idle_cores:>8.3f}{one.idle_cores_worst:>8.4f}{one.private_mib_median:>10.1f}"
            f"{one.private_mib_max:>7.1f}{one.descriptors_median:>8}{one.descriptors_max:>6}{one.links:>7}"
            f"{one.lost_s:>11.2f} s"
        )
    print(
        "to hear of one more peer:", *(f"{us} us with {size} known" for size, us in roster.items()), sep="  "
    )


async def measure(discoveries: Iterable[str], count: int, idle_s: float) -> list[Figures]:
    results = []
    for discovery in discoveries:
        figures = Figures(discovery, count)
        with tempfile.TemporaryDirectory(prefix="dittobus-") as directory:
            await Mesh(figures, Path(directory), idle_s).measure()
        figures.judge()
        results.append(figures)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=50, help="how many processes")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds for which they are watched idle")
    parser.add_argument(
        "--discovery",
        nargs="+",
        choices=DISCOVERIES,
        default=["registry", "zeroconf"],
        help="how they find each other, one mesh after the other; default: all that a bus has by default",
    )
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    options = parser.parse_args()
    results = asyncio.run(measure(options.discovery, options.count, options.idle))
    roster = roster_us()
    if options.json:
        meshes = [asdict(one) for one in results]
        print(json.dumps({"machine": machine(), "roster_us": roster, "results": meshes}, indent=1))
    else:
        print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
        print_table(results, roster)
    missed = [what for one in results for what in one.missed]
    for what in missed:
        print(f"missed: {what}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
