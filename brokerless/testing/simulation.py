"""A network of nodes' pure cores on a virtual clock, every decision drawn from one seed.

No sockets, no threads, no waiting: an hour of keepalives passes in milliseconds, and a run is repeated
exactly by its seed. ``SimNetwork`` moves messages between ``SimNode``s over links that keep order, as TCP
does, hold a bounded amount, and can be slowed, cut, frozen or parted; nodes can be paused, crashed and
restarted. Datagrams are lost, repeated and reordered; see ``sim_datagrams``.
"""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Any

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.testing.sim_datagrams import SimDatagrams
from brokerless.testing.sim_link import LINK_BYTES_MAX, Conditions, Sign, SimLink
from brokerless.testing.sim_node import SimNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.protocol.actions import Dial
    from brokerless.testing.sim_link import Item
    from brokerless.testing.sim_trace import Trace

__all__ = ["SimLink", "SimNetwork", "SimNode"]

CONNECT_AGAIN_S = 1.0
"""After this time a connection across a partition is tried again, as TCP does with its first segment."""

STEPS_AT_ONCE_MAX = 50_000
"""More than this at one instant is a core that spins: it asks to be called, and then does nothing."""


class SimNetwork:
    """Nodes, links and the clock. Everything random comes from ``seed``.

    ``latency_s`` and ``bytes_per_s`` hold wherever ``impose`` has said nothing else; None: no limit. ``tap``,
    if set, sees every message that is sent: sender, receiver and bytes; ``trace`` puts everything into words;
    ``after_turn`` is called with a node when it has done all that it had to do.
    """

    def __init__(self, seed: int = 0, *, latency_s: float = 0.001, bytes_per_s: float | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.latency_s = latency_s
        self.bytes_per_s = bytes_per_s
        self.tap: Callable[[SimNode, SimNode, bytes], None] | None = None
        self.trace: Trace | None = None
        self.after_turn: Callable[[SimNode], None] | None = None
        self.now = 1000.0
        self.nodes: dict[Address, SimNode] = {}
        self.links: list[SimLink] = []
        self.datagrams = SimDatagrams(self)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._steps_now = 0
        self._count = 0
        self._parted: set[tuple[SimNode, SimNode]] = set()  # from, to
        self._imposed: dict[tuple[SimNode, SimNode], Conditions] = {}  # from, to
        self._lingering: dict[SimLink, None] = {}  # cut, and the news of it still under way

    def number(self) -> int:
        """Return a number never given before."""
        self._count += 1
        return self._count

    def add(
        self,
        limits: Limits | None = None,
        mesh_key: bytes = bytes(32),
        *,
        has_datagrams: bool = False,
        **options: Any,
    ) -> SimNode:
        """Add a node that knows nobody. ``options`` go to its core."""
        address = Address(self.random.randbytes(32))
        node = SimNode(self, address, limits or Limits(), mesh_key, has_datagrams, options)
        self.nodes[node.address] = node
        return node

    def pair(self, limits: Limits | None = None, **options: Any) -> tuple[SimNode, SimNode]:
        """Add two nodes that know each other, the lower address first, and run until they have joined."""
        one, other = sorted((self.add(limits, **options) for _ in range(2)), key=lambda node: node.address)
        one.learn(other)
        other.learn(one)
        self.run_until(lambda: all(node.core.stats().peers == 1 for node in (one, other)))
        return one, other

    # Time

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Do something at that time."""
        heapq.heappush(self._agenda, (when, self.number(), call))

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Let time pass until the condition holds; ``AssertionError`` if it does not within the limit."""
        end = self.now + limit_s
        while not condition():
            if not self._agenda or self._agenda[0][0] > end:
                raise AssertionError(f"not within {limit_s} s of virtual time (seed {self.seed})")
            self._step()

    def _step(self) -> None:
        when, _, call = heapq.heappop(self._agenda)
        if when > self.now:
            self.now, self._steps_now = when, 0
        self._steps_now += 1
        assert self._steps_now < STEPS_AT_ONCE_MAX, f"somebody spins (seed {self.seed})"
        call()

    # What a test does to the links

    def impose(self, sender: SimNode, receiver: SimNode, conditions: Conditions | None) -> None:
        """Let one direction between two nodes be like that; None: like all others again."""
        if conditions is None:
            self._imposed.pop((sender, receiver), None)
        else:
            self._imposed[sender, receiver] = conditions

    def conditions(self, sender: SimNode, receiver: SimNode) -> Conditions:
        """Return what that direction is like now."""
        imposed = self._imposed.get((sender, receiver))
        return imposed or Conditions(latency_s=self.latency_s, bytes_per_s=self.bytes_per_s)

    def cut(self, link: SimLink, by: SimNode | None = None) -> None:
        """Break a link. ``by`` is not told, it knows. Of what has not reached the other end, some is lost."""
        if link.is_cut:
            return
        link.is_cut = True
        if self.trace is not None:
            self.trace.cut(link, by)
        if link in self.links:
            self.links.remove(link)
        for node in link.ends:
            if node is by:
                node.links.pop(link.number(node), None)
            else:
                sender = link.other(node)
                items = link.ways[sender].items
                is_held = link.is_frozen or self.is_parted(sender, node)
                for _ in range(self.random.randint(0, len(items))):
                    if is_held or items[-1][0] > self.now:
                        items.pop()
                self._put(link, sender, Sign.CLOSED)
        if by is not None:
            link.ways[link.other(by)].items.clear()

    def cut_all(self) -> None:
        """Break every link."""
        for link in list(self.links):
            self.cut(link)

    def freeze(self, frozen: bool = True) -> None:
        """Let nothing pass on present links any more, not even the news of their end; or let it again."""
        for link in self._all_links():
            link.is_frozen = frozen
        if not frozen:
            self.arrive_again()

    def part(self, one: SimNode, other: SimNode, *, one_way: bool = False) -> None:
        """Let nothing pass between two nodes, or only from ``other`` to ``one``, and no new link be made."""
        self._parted.add((one, other))
        if not one_way:
            self._parted.add((other, one))

    def heal(self) -> None:
        """Undo all partitions. Connections that lived through them go on."""
        self._parted.clear()
        self.arrive_again()

    def is_parted(self, sender: SimNode, receiver: SimNode) -> bool:
        """True when nothing passes from the one to the other."""
        return (sender, receiver) in self._parted

    def forge(self, link: SimLink, sender: SimNode, message: bytes) -> None:
        """Put a message on its way as if the sender had sent it."""
        self._put(link, sender, message)

    # What nodes do with links

    def dial(self, dialler: SimNode, action: Dial) -> None:
        """Connect two nodes, or fail as a refused or swallowed dial does."""
        target = self.nodes.get(action.remote)
        places = () if target is None else (f"sim://{target.address}", f"tcp://{target.place}")
        if target is None or action.endpoint not in places:
            dialler.core.dial_failed(action.remote, action.endpoint, self.now)
            return
        link = SimLink(self, dialler, target)
        number = link.number(dialler)
        dialler.links[number] = link
        dialler.core.dialled(number, action.remote, action.endpoint, self.now)
        if self.trace is not None:
            self.trace.dialled(link)
        ways = (self.conditions(dialler, target), self.conditions(target, dialler))
        self.at(self.now + sum(way.latency_s for way in ways), lambda: self._connect(link, target))

    def _connect(self, link: SimLink, target: SimNode) -> None:
        if link.is_cut:
            return
        ends = ((link.dialler, target), (target, link.dialler))
        if any(self.is_parted(*way) or self._loses(*way) for way in ends):
            self.at(self.now + CONNECT_AGAIN_S, lambda: self._connect(link, target))
        elif target.is_running:
            self.links.append(link)
            self._put(link, link.dialler, Sign.OPENED)
        else:
            self._put(link, target, Sign.CLOSED)

    def _loses(self, sender: SimNode, receiver: SimNode) -> bool:
        loss = self.conditions(sender, receiver).loss
        return loss > 0 and self.random.random() < loss

    def send(self, link: SimLink, sender: SimNode, message: bytes) -> None:
        """Put a message on its way."""
        if self.trace is not None:
            self.trace.sent(sender, link, message)
        if self.tap is not None:
            self.tap(sender, link.other(sender), message)
        self._put(link, sender, message)

    def answer(self, link: SimLink, sender: SimNode) -> None:
        """Let the acceptor answer a connection."""
        self._put(link, sender, Sign.OPENED)

    def _put(self, link: SimLink, sender: SimNode, item: Item) -> None:
        way = link.ways[sender]
        size = len(item) if isinstance(item, bytes) else 0
        way.byte_count += size
        conditions = self.conditions(sender, link.other(sender))
        rate = conditions.bytes_per_s
        way.free_at = max(way.free_at, self.now) + (size / rate if rate else 0.0)
        arrives_at = way.free_at + conditions.delay_s(self.random)
        if way.items:
            arrives_at = max(arrives_at, way.items[-1][0])  # the order is the queue's, whatever the jitter
        way.items.append((arrives_at, item))
        if link.is_cut:
            self._lingering[link] = None
        self.at(arrives_at, lambda: self._arrive(link, sender))

    def _arrive(self, link: SimLink, sender: SimNode) -> None:
        """Let the receiver take what is there by now."""
        receiver, way = link.other(sender), link.ways[sender]
        if link.is_frozen or self.is_parted(sender, receiver) or receiver.paused_since is not None:
            return
        while way.items and way.items[0][0] <= self.now:
            _, item = way.items.popleft()
            if isinstance(item, bytes):
                way.byte_count -= len(item)
            if receiver.is_running:
                receiver.take(link, item)
        if not way.items:
            self._lingering.pop(link, None)
        if way.is_busy and way.byte_count <= LINK_BYTES_MAX // 2:
            way.is_busy = False
            sender.writable(link)

    def arrive_again(self, receiver: SimNode | None = None) -> None:
        """Something no longer holds up what is under way, to that node or to all."""
        for link in self._all_links():
            for sender in link.ends:
                if receiver is None or link.other(sender) is receiver:
                    self._arrive(link, sender)

    def _all_links(self) -> list[SimLink]:
        return [*self.links, *self._lingering]
