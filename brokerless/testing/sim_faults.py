"""What goes wrong in a simulated network: each fault is a method, and most heal after a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.testing.scenario import Scenario
    from brokerless.testing.sim_node import SimNode

LASTING_S = (0.01, 0.3, 2.0, 4.0, 8.0)
"""About how long a fault lasts: a hiccup, less than half the liveness limit, all of it, and more."""

LEAVE_S = 1.0
"""How long a node that leaves drains its streams."""

CUT_AGAIN_S = 0.6
"""Within so long links break three times: as it takes to dial and greet each other, on the slower roads."""

STORM = (0.5, 0.3, 0.5)
"""Shares of datagrams that are lost, doubled and held back."""


class Faults:
    """The faults of one scenario. ``kinds`` are the names of those that may happen in it."""

    KINDS = (
        "cut",
        "cut_all",
        "cut_again",
        "freeze",
        "part",
        "part_one_way",
        "pause",
        "crash",
        "leave",
        "rename",
        "slow",
        "storm",
        "block_udp",
        "block_push",
        "move",
    )
    HARMLESS = ("cut", "cut_all", "cut_again", "rename", "storm", "block_udp", "block_push", "move")
    """Those by which nobody may be lost, unless links are made so slowly that the next one breaks, too."""

    def __init__(self, world: Scenario, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self.drawn: set[str] = set()
        self.over_at = 0.0
        """When the last of them has healed."""
        self._world = world
        self._network = world.network
        self._random = world.random

    def happen(self) -> None:
        """Let one of them happen."""
        if self.kinds:
            kind = self._random.choice(self.kinds)
            self.drawn.add(kind)
            getattr(self, f"_{kind}")()

    def begin(self) -> None:
        """Let links break while the first ones are being made, if they may."""
        if "cut_again" in self.kinds:
            self._cut_again()

    def _say(self, text: str) -> None:
        if self._network.trace is not None:
            self._network.trace.say(f"** {text}")

    def _later(self, call: Callable[[], None]) -> None:
        at = self._network.now + self._random.choice(LASTING_S) * (0.5 + self._random.random())
        self.over_at = max(self.over_at, at)
        self._network.at(at, call)

    def _some_node(self) -> SimNode | None:
        """Draw a node whose process runs; None if the one drawn does not."""
        node = self._random.choice(self._world.nodes)
        return node if node.is_running and node.paused_since is None else None

    # Links and networks

    def _cut(self) -> None:
        if self._network.links:
            self._say("a link breaks")
            self._network.cut(self._random.choice(self._network.links))

    def _cut_all(self) -> None:
        self._say("all links break")
        self._network.cut_all()

    def _cut_again(self) -> None:
        """Break the links that are being made to replace others, too."""
        for _ in range(3):
            at = self._network.now + self._random.random() * CUT_AGAIN_S
            self._network.at(at, self._cut_all)
            self.over_at = max(self.over_at, at)

    def _freeze(self) -> None:
        self._say("links freeze")
        self._network.freeze()
        self._later(self._thaw)

    def _thaw(self) -> None:
        self._say("links thaw")
        self._network.freeze(False)

    def _part(self) -> None:
        one, other = self._random.sample(self._world.nodes, 2)
        self._say(f"{one.label} and {other.label} are parted")
        self._network.part(one, other)
        self._later(self._heal)

    def _part_one_way(self) -> None:
        one, other = self._random.sample(self._world.nodes, 2)
        self._say(f"nothing passes from {one.label} to {other.label}")
        self._network.part(one, other, one_way=True)
        self._later(self._heal)

    def _heal(self) -> None:
        self._say("all partitions heal")
        self._network.heal()

    def _slow(self) -> None:
        one, other = self._random.sample(self._world.nodes, 2)
        normal = self._world.conditions[one, other]
        slow = self._random.choice(self._world.slow)
        self._say(f"from {one.label} to {other.label}: {slow}")
        self._network.impose(one, other, slow)
        self._later(lambda: self._network.impose(one, other, normal))

    # Datagrams

    def _storm(self) -> None:
        self._say("a storm")
        self._world.set_weather(*STORM)
        self._later(self._clear_up)

    def _clear_up(self) -> None:
        self._say("the storm is over")
        self._world.set_weather(*self._world.weather)

    def _block_udp(self) -> None:
        self._say("UDP is blocked")
        self._network.datagrams.weather.is_udp_blocked = True
        self._later(self._unblock_udp)

    def _unblock_udp(self) -> None:
        self._network.datagrams.weather.is_udp_blocked = False

    def _block_push(self) -> None:
        self._say("PUSH is blocked")
        self._network.datagrams.weather.is_push_blocked = True
        self._later(self._unblock_push)

    def _unblock_push(self) -> None:
        self._network.datagrams.weather.is_push_blocked = False

    def _move(self) -> None:
        node = self._random.choice(self._world.nodes)
        self._say(f"{node.label} has another UDP address")
        self._network.datagrams.move(node)

    # Processes

    def _pause(self) -> None:
        if (node := self._some_node()) is not None:
            self._say(f"{node.label} is stopped")
            node.pause()
            self._later(lambda: self._resume(node))

    def _resume(self, node: SimNode) -> None:
        if node.is_running and node.paused_since is not None:
            self._say(f"{node.label} goes on")
            node.resume()

    def _crash(self) -> None:
        if (node := self._some_node()) is not None:
            self._say(f"{node.label} crashes")
            node.crash()
            self._later(lambda: self._restart(node))

    def _restart(self, node: SimNode) -> None:
        self._say(f"{node.label} is started again")
        node.restart()
        self._world.start(node)
        self._world.introduce()

    def _leave(self) -> None:
        if (node := self._some_node()) is not None and not self._world.running[node].is_leaving:
            self._world.running[node].leave(self._network.now + LEAVE_S)
            node.pump_soon()
            self._part_ways(node, [node.core.farewell, lambda now: self._exit(node)])

    def _part_ways(self, node: SimNode, steps: list[Callable[[float], None]]) -> None:
        """Take each step when it is time, unless the process has crashed before."""
        core = node.core

        def step() -> None:
            if not node.is_running or node.core is not core:
                return
            if node.paused_since is None:
                steps.pop(0)(self._network.now)
            if steps:
                self._part_ways(node, steps)

        self._network.at(self._network.now + LEAVE_S, step)
        self.over_at = max(self.over_at, self._network.now + LEAVE_S)

    def _exit(self, node: SimNode) -> None:
        self._say(f"{node.label} ends")
        node.crash()
        self._later(lambda: self._restart(node))

    def _rename(self) -> None:
        if (node := self._some_node()) is not None:
            node.core.announce(f"name {self._random.random():.4f}", b"", self._network.now)
