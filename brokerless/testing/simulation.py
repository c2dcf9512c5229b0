"""A network of nodes' pure cores on a virtual clock, every decision drawn from one seed.

No sockets, no threads, no waiting: an hour of keepalives passes in milliseconds, and a run is repeated
exactly by its seed. ``SimNetwork`` moves packets between ``SimNode``s over links that keep order, as TCP
does, and that can be cut or frozen; nodes can be paused, crashed and restarted.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import TYPE_CHECKING

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.model import MessageReceived, Reliability, StreamMessages, StreamOffered
from brokerless.protocol.actions import Cut, Dial
from brokerless.protocol.core import NodeCore

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.model import Event
    from brokerless.protocol.actions import Action
    from brokerless.protocol.stream import Stream

LINK_BYTES_MAX = 256 * 1024
"""What one direction of a link holds before it is busy: a socket buffer and ZeroMQ's queue."""

STALL_SHARE = 0.5
"""A pause of more than this share of the liveness limit is a stall, as the real shell judges it."""


class SimLink:
    """One connection between two nodes, each knowing it under a number of its own. Keeps order."""

    def __init__(self, network: SimNetwork, dialler: SimNode, acceptor: SimNode) -> None:
        self.ends: dict[SimNode, tuple[SimNode, int]] = {
            dialler: (acceptor, network.number()),
            acceptor: (dialler, network.number()),
        }
        self.is_cut = False
        self.is_frozen = False
        self.under_way: dict[SimNode, deque[bytes]] = {dialler: deque(), acceptor: deque()}
        self.bytes_under_way: dict[SimNode, int] = {dialler: 0, acceptor: 0}

    def number(self, node: SimNode) -> int:
        """Return the number under which ``node`` knows this link."""
        return self.ends[node][1]


class SimNode:
    """One node: its core, what it has said upward, and an application that consumes at once.

    ``events`` collects everything; ``received`` and ``singles`` the messages, by stream and in order.
    Set ``consumes`` to False for an application that does not read, ``accepts`` for one that does not accept.
    """

    def __init__(self, network: SimNetwork, address: Address, limits: Limits, mesh_key: bytes) -> None:
        self.network = network
        self.address = address
        self.limits = limits
        self.mesh_key = mesh_key
        self.consumes = True
        self.accepts = True
        self.is_running = True
        self.paused_since: float | None = None
        self.events: list[Event] = []
        self.actions: list[Action] = []
        self.received: dict[Stream, list[bytes]] = {}
        self.singles: list[bytes] = []
        self.links: dict[int, SimLink] = {}
        self._inputs: deque[Callable[[], None]] = deque()  # what came while paused
        self._blocked: dict[int, bytes] = {}
        self._pumping = False
        self.core = self._new_core()

    def _new_core(self) -> NodeCore:
        return NodeCore(
            address=self.address,
            boot=self.network.random.getrandbits(63) + 1,
            mesh_key=self.mesh_key,
            limits=self.limits,
            wake=self.pump_soon,
        )

    # What a test does with it

    def learn(self, other: SimNode) -> None:
        """Tell this node where the other is."""
        self.core.learn(other.address, "sim", (f"sim://{other.address}",), other.core.boot, self.network.now)
        self.pump_soon()

    def send(self, data: bytes, to: SimNode, timeout: float | None = 10.0, channel: int = 0) -> int:
        """Send a reliable single message."""
        now = self.network.now
        deadline = None if timeout is None else now + timeout
        return self.core.send(data, to.address, Reliability.RELIABLE, channel, deadline, now)

    def open_stream(
        self, to: SimNode, name: str = "", metadata: bytes = b"", timeout: float | None = 10.0
    ) -> Stream:
        """Open a reliable stream."""
        now = self.network.now
        deadline = None if timeout is None else now + timeout
        return self.core.open_stream(to.address, Reliability.RELIABLE, name, metadata, deadline, now)

    def of_type(self, kind: type) -> list[Event]:
        """Return the events of that type."""
        return [event for event in self.events if isinstance(event, kind)]

    def pause(self) -> None:
        """Stop the process: nothing is read, no timer runs, the sockets stay open."""
        self.paused_since = self.network.now

    def resume(self) -> None:
        """Let it go on, as the real shell does: a long stall is told to the core before anything is read."""
        assert self.paused_since is not None
        stalled_s = self.network.now - self.paused_since
        self.paused_since = None
        if stalled_s > STALL_SHARE * self.limits.liveness_s:
            self.core.stalled(self.network.now)
        while self._inputs:
            self._inputs.popleft()()
        self.pump_soon()

    def crash(self) -> None:
        """Kill the process: its connections break, nothing is said."""
        self.is_running = False
        for link in list(self.links.values()):
            self.network.cut(link, by=self)
        self.links.clear()

    def restart(self) -> None:
        """Start a new process with the same identity after a crash."""
        assert not self.is_running
        self.is_running = True
        self.events, self.received, self.singles = [], {}, []
        self._inputs.clear()
        self._blocked.clear()
        self.core = self._new_core()

    # The shell

    def input(self, call: Callable[[], None]) -> None:
        """Let the core take something in, now or when the process is no longer paused."""
        if not self.is_running:
            return
        if self.paused_since is not None:
            self._inputs.append(call)
            return
        call()
        self.pump_soon()

    def pump_soon(self) -> None:
        """Drain the outputs at this instant, after what runs now."""
        if not self._pumping:
            self._pumping = True
            self.network.at(self.network.now, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if not self.is_running or self.paused_since is not None:
            return
        core, now = self.core, self.network.now
        deadline = core.next_deadline()
        if deadline is not None and deadline <= now:
            core.expire(now)
        for link in core.take_sendable():
            self._send_all(link)
        for action in core.take_actions():
            self._act(action)
        for event in core.take_events():
            self._deliver(event)
        deadline = core.next_deadline()
        if deadline is not None:
            self.network.at(max(deadline, now), self.pump_soon)

    def _send_all(self, number: int) -> None:
        link = self.links.get(number)
        while link is not None and not link.is_cut:
            if link.bytes_under_way[self] >= LINK_BYTES_MAX:
                self.network.when_drained(link, self, number)
                return
            message = self.core.next_message(number, self.network.now)
            if message is None:
                return
            self.network.transmit(link, self, message)

    def writable(self, number: int) -> None:
        """A busy link has room again."""
        if self.is_running and self.paused_since is None:
            self._send_all(number)
            self.pump_soon()
        else:
            self._inputs.append(lambda: self.writable(number))

    def _act(self, action: Action) -> None:
        self.actions.append(action)
        if isinstance(action, Dial):
            self.network.dial(self, action)
        elif isinstance(action, Cut) and action.link in self.links:
            self.network.cut(self.links[action.link], by=self)

    def _deliver(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StreamOffered) and self.accepts:
            self.core.accept(event.offer.stream, b"")
        elif isinstance(event, StreamMessages):
            self.received.setdefault(event.stream, []).extend(event.messages)
            if self.consumes:
                event.stream.consume(len(event.messages))
        elif isinstance(event, MessageReceived):
            self.singles.append(event.message.data)
            if self.consumes:
                event.message.origin.consume(1, len(event.message.data))


class SimNetwork:
    """Nodes, links and the clock. Everything random comes from ``seed``."""

    def __init__(self, seed: int = 0, *, latency_s: float = 0.001) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.latency_s = latency_s
        self.now = 1000.0
        self.nodes: dict[Address, SimNode] = {}
        self.links: list[SimLink] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._parted: set[frozenset[SimNode]] = set()

    def number(self) -> int:
        """Return a number never given before."""
        self._count += 1
        return self._count

    def add(self, limits: Limits | None = None, mesh_key: bytes = bytes(32)) -> SimNode:
        """Add a node that knows nobody."""
        node = SimNode(self, Address(self.random.randbytes(32)), limits or Limits(), mesh_key)
        self.nodes[node.address] = node
        return node

    def pair(self, limits: Limits | None = None) -> tuple[SimNode, SimNode]:
        """Add two nodes that know each other, the lower address first, and run until they have joined."""
        one, other = sorted((self.add(limits), self.add(limits)), key=lambda node: node.address)
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
        self.now = max(self.now, when)
        call()

    # Links

    def dial(self, dialler: SimNode, action: Dial) -> None:
        """Connect two nodes, or fail as a refused or swallowed dial does."""
        target = self.nodes.get(action.remote)
        if target is None or action.endpoint != f"sim://{target.address}":
            dialler.core.dial_failed(action.remote, action.endpoint, self.now)
            return
        link = SimLink(self, dialler, target)
        number = link.number(dialler)
        dialler.links[number] = link
        dialler.core.dialled(number, action.remote, action.endpoint, self.now)
        if not target.is_running:
            self.at(self.now + 2 * self.latency_s, lambda: self._closed(link, dialler))
        elif not self.is_parted(dialler, target):  # otherwise silence: the core's own deadline ends it
            self.links.append(link)
            self.at(self.now + 2 * self.latency_s, lambda: self._opened(link, dialler, target))

    def _opened(self, link: SimLink, dialler: SimNode, target: SimNode) -> None:
        if link.is_cut or not target.is_running or not dialler.is_running:
            self._closed(link, dialler)
            return
        ours, theirs = link.number(dialler), link.number(target)
        target.links[theirs] = link
        target.input(lambda: target.core.link_opened(theirs, dialler.address, self.now))
        dialler.input(lambda: dialler.core.link_opened(ours, target.address, self.now))

    def _closed(self, link: SimLink, node: SimNode) -> None:
        number = link.number(node)
        if node.links.pop(number, None) is not None:
            node.input(lambda: node.core.link_closed(number, "closed", self.now))

    def cut(self, link: SimLink, by: SimNode | None = None) -> None:
        """Break a link; what is under way is lost. ``by`` is not told, it knows."""
        if link.is_cut:
            return
        link.is_cut = True
        if link in self.links:
            self.links.remove(link)
        for node in link.ends:
            if node is by:
                node.links.pop(link.number(node), None)
            elif not self.is_parted(*link.ends):  # across a partition nobody hears of it
                self.at(self.now + self.latency_s, lambda node=node: self._closed(link, node))  # type: ignore[misc]

    def cut_all(self) -> None:
        """Break every link."""
        for link in list(self.links):
            self.cut(link)

    def freeze(self, frozen: bool = True) -> None:
        """Let nothing pass on present links any more, or let it pass again."""
        for link in list(self.links):
            link.is_frozen = frozen
            if not frozen:
                for node in link.ends:
                    self._arrive_soon(link, node)

    def part(self, one: SimNode, other: SimNode) -> None:
        """Let nothing pass between two nodes, and no new link be made."""
        self._parted.add(frozenset((one, other)))

    def heal(self) -> None:
        """Undo all partitions. Connections that lived through them go on."""
        self._parted.clear()
        for link in list(self.links):
            for node in link.ends:
                self._arrive_soon(link, node)

    def is_parted(self, one: SimNode, other: SimNode) -> bool:
        """True when nothing passes between the two."""
        return frozenset((one, other)) in self._parted

    def transmit(self, link: SimLink, sender: SimNode, message: bytes) -> None:
        """Put a message on its way."""
        link.under_way[sender].append(message)
        link.bytes_under_way[sender] += len(message)
        self._arrive_soon(link, sender)

    def _arrive_soon(self, link: SimLink, sender: SimNode) -> None:
        jitter = 1 + self.random.random()
        self.at(self.now + self.latency_s * jitter, lambda: self._arrive(link, sender))

    def _arrive(self, link: SimLink, sender: SimNode) -> None:
        """Deliver the first message under way; order is the queue's, whatever the jitter."""
        receiver = link.ends[sender][0]
        number = link.number(receiver)
        if link.is_cut or link.is_frozen or self.is_parted(sender, receiver) or not link.under_way[sender]:
            return
        if receiver.paused_since is not None and link.bytes_under_way[sender] >= LINK_BYTES_MAX:
            self.at(self.now + self.latency_s, lambda: self._arrive(link, sender))  # its buffers are full
            return
        while link.under_way[sender]:
            message = link.under_way[sender].popleft()
            link.bytes_under_way[sender] -= len(message)
            receiver.input(lambda m=message: receiver.core.link_message(number, m, self.now))  # type: ignore[misc]

    def when_drained(self, link: SimLink, node: SimNode, number: int) -> None:
        """Tell the node when its busy link has room."""
        if link.is_cut:
            return
        if link.bytes_under_way[node] < LINK_BYTES_MAX // 2:
            node.writable(number)
        else:
            self.at(self.now + self.latency_s, lambda: self.when_drained(link, node, number))
