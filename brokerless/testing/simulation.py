"""A network of nodes' pure cores on a virtual clock, every decision drawn from one seed.

No sockets, no threads, no waiting: an hour of keepalives passes in milliseconds, and a run is repeated
exactly by its seed. ``SimNetwork`` moves messages between ``SimNode``s over links that keep order, as TCP
does, hold a bounded amount, and can be cut, frozen or parted; nodes can be paused, crashed and restarted.
"""

from __future__ import annotations

import enum
import heapq
import random
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.model import MessageReceived, Reliability, StreamMessages, StreamOffered, UnreliableWaiting
from brokerless.protocol.actions import Admit, Cut, Dial, Push
from brokerless.protocol.core import NodeCore
from brokerless.testing.sim_datagrams import SimDatagrams, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.model import Event, Message, Peer
    from brokerless.protocol.actions import Action
    from brokerless.protocol.stream import Stream

LINK_BYTES_MAX = 256 * 1024
"""What one direction of a link holds before it is busy: a socket buffer and ZeroMQ's queue."""

STALL_SHARE = 0.5
"""A timer that fires later than this share of the liveness limit tells of a stall, as in the real shell."""

CONNECT_AGAIN_S = 1.0
"""After this time a connection across a partition is tried again, as TCP does with its first segment."""

STEPS_AT_ONCE_MAX = 50_000
"""More than this at one instant is a core that spins: it asks to be called, and then does nothing."""


class _Sign(enum.Enum):
    """What arrives on a link beside messages."""

    OPENED = enum.auto()
    CLOSED = enum.auto()


_Item: TypeAlias = "bytes | _Sign"


class _Way:
    """One direction of a link: what is under way, each with the time when it may arrive."""

    def __init__(self) -> None:
        self.items: deque[tuple[float, _Item]] = deque()
        self.byte_count = 0
        self.free_at = 0.0
        self.is_busy = False


class SimLink:
    """One connection between two nodes, each knowing it under a number of its own. Keeps order."""

    def __init__(self, network: SimNetwork, dialler: SimNode, acceptor: SimNode) -> None:
        self.dialler = dialler
        self.ends: dict[SimNode, tuple[SimNode, int]] = {
            dialler: (acceptor, network.number()),
            acceptor: (dialler, network.number()),
        }
        self.ways: dict[SimNode, _Way] = {dialler: _Way(), acceptor: _Way()}  # by sender
        self.is_cut = False
        self.is_frozen = False

    def number(self, node: SimNode) -> int:
        """Return the number under which ``node`` knows this link."""
        return self.ends[node][1]

    def other(self, node: SimNode) -> SimNode:
        """Return the node at the other end."""
        return self.ends[node][0]


class SimNode:
    """One node: its core, what it has said upward, and an application that consumes at once.

    ``events`` collects everything; ``received`` and ``singles`` the messages, by stream and in order. Set
    ``consumes`` to False for an application that does not read, ``accepts`` for one that does not accept,
    ``on_event`` to let another one hear of everything, and ``admit`` for one that is asked about its peers:
    it returns None for yes, or why not.
    """

    def __init__(
        self,
        network: SimNetwork,
        address: Address,
        limits: Limits,
        mesh_key: bytes,
        has_datagrams: bool,
        options: dict[str, Any],
    ) -> None:
        self.network = network
        self.address = address
        self.place = f"10.0.{len(network.nodes) >> 8}.{len(network.nodes) & 255}:4000"
        """Where it may be dialled as well, and what it tells of itself if it gossips."""
        self.limits = limits
        self.mesh_key = mesh_key
        self.has_datagrams = has_datagrams
        self.options = options
        self.consumes = True
        self.accepts = True
        self.admit: Callable[[Peer], str | None] | None = None
        self.on_event: Callable[[Event], None] | None = None
        self.is_running = True
        self.paused_since: float | None = None
        self.links: dict[int, SimLink] = {}
        self._begin()

    def _begin(self) -> None:
        self.events: list[Event] = []
        self.actions: list[Action] = []
        self.received: dict[Stream, list[bytes]] = {}
        self.singles: list[bytes] = []
        self.unreliable: list[Message] = []
        self.pushes: set[Address] = set()
        self._pumping = False
        self._timer_at: float | None = None
        self.core = NodeCore(
            address=self.address,
            boot=self.network.random.getrandbits(63) + 1,
            mesh_key=self.mesh_key,
            limits=self.limits,
            wake=self.pump_soon,
            plane=self.network.datagrams.plane(self) if self.has_datagrams else None,
            **self.options,
        )
        if self.options.get("gossips"):
            self.core.tell_places(self.place, self.network.now)

    # What a test does with it

    def learn(self, other: SimNode) -> None:
        """Tell this node where the other is."""
        self.core.learn(other.address, "sim", (f"sim://{other.address}",), other.core.boot, self.network.now)
        self.pump_soon()

    def send(
        self,
        data: bytes,
        to: SimNode,
        timeout: float | None = 10.0,
        channel: int = 0,
        reliability: Reliability = Reliability.RELIABLE,
    ) -> int:
        """Send a single message."""
        now = self.network.now
        deadline = None if timeout is None else now + timeout
        return self.core.send(data, to.address, reliability, channel, deadline, now)

    def open_stream(
        self,
        to: SimNode,
        name: str = "",
        metadata: bytes = b"",
        timeout: float | None = 10.0,
        reliability: Reliability = Reliability.RELIABLE,
    ) -> Stream:
        """Open a stream."""
        now = self.network.now
        deadline = None if timeout is None else now + timeout
        return self.core.open_stream(to.address, reliability, name, metadata, deadline, now)

    def of_type(self, kind: type) -> list[Any]:
        """Return the events of that type."""
        return [event for event in self.events if isinstance(event, kind)]

    def link_to(self, other: SimNode) -> SimLink:
        """Return the link that carries numbered packets to the other node."""
        session = self.core.session(other.address)
        assert session is not None
        assert session.current_link is not None
        return self.links[session.current_link]

    def pause(self) -> None:
        """Stop the process: nothing is read, no timer runs, the sockets stay open."""
        self.paused_since = self.network.now

    def resume(self) -> None:
        """Let it go on, as the real shell does: a stall is told to the core before anything is read."""
        self.paused_since = None
        now = self.network.now
        late_s = 0.0 if self._timer_at is None else now - self._timer_at
        self._timer_at = None
        if late_s > STALL_SHARE * self.core.liveness_s:
            self.core.stalled(now)
        self.network.datagrams.arrive_again(self)
        self.network.arrive_again(self)
        for number in list(self.links):
            self._send_all(number)
        self.pump_soon()

    def crash(self) -> None:
        """Kill the process: its connections break, nothing is said."""
        self.is_running = False
        self.paused_since = None
        for link in [*self.links.values(), *self.network.links]:
            if self in link.ends:
                self.network.cut(link, by=self)

    def restart(self) -> None:
        """Start a new process with the same identity after a crash. What it collects begins anew."""
        assert not self.is_running
        self.is_running = True
        self._begin()

    # The shell

    def take(self, link: SimLink, item: _Item) -> None:
        """Let the core take in what arrived."""
        number, now = link.number(self), self.network.now
        if item is _Sign.CLOSED:
            if self.links.pop(number, None) is not None:
                self.core.link_closed(number, "closed", now)
        elif item is _Sign.OPENED:
            if link.dialler is not self:
                self.links[number] = link
                self.network.answer(link, self)
            self.core.link_opened(number, link.other(self).address, now)
        else:
            assert isinstance(item, bytes)
            self.core.link_message(number, item, now)
        self.pump_soon()

    def pump_soon(self) -> None:
        """Drain the outputs at this instant, after what runs now."""
        if not self._pumping:
            self._pumping = True
            self.network.at(self.network.now, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        core, now = self.core, self.network.now
        if not self.is_running or self.paused_since is not None:
            return
        deadline = core.next_deadline()
        if deadline is not None and deadline <= now:
            core.expire(now)
        for link in core.take_sendable():
            self._send_all(link)
        for action in core.take_actions():
            self._act(action)
        for event in core.take_events():
            self._deliver(event)
        self._arm(core.next_deadline())

    def _arm(self, deadline: float | None) -> None:
        if deadline != self._timer_at:
            self._timer_at = deadline
            if deadline is not None:
                self.network.at(max(deadline, self.network.now), lambda: self._fire(deadline))

    def _fire(self, deadline: float) -> None:
        if self._timer_at == deadline and self.paused_since is None:
            self._timer_at = None
            self.pump_soon()

    def _send_all(self, number: int) -> None:
        link = self.links.get(number)
        while link is not None and not link.is_cut:
            if link.ways[self].byte_count >= LINK_BYTES_MAX:
                link.ways[self].is_busy = True
                return
            message = self.core.next_message(number, self.network.now)
            if message is None:
                return
            self.network.send(link, self, message)

    def writable(self, link: SimLink) -> None:
        """A busy link has room again."""
        if self.is_running and self.paused_since is None:
            self._send_all(link.number(self))
            self.pump_soon()

    def _act(self, action: Action) -> None:
        self.actions.append(action)
        if isinstance(action, Dial):
            self.network.dial(self, action)
        elif isinstance(action, Cut) and action.link in self.links:
            self.network.cut(self.links[action.link], by=self)
        elif isinstance(action, Admit) and self.admit is not None:
            self.core.admitted(action.link, self.admit(action.peer), self.network.now)
        elif isinstance(action, Push):
            connect(self, action)

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
        elif isinstance(event, UnreliableWaiting) and self.consumes:
            while (item := event.unread.take()) is not None:
                if event.stream is None:
                    self.unreliable.append(item)
                else:
                    self.received.setdefault(event.stream, []).append(item)
        if self.on_event is not None:
            self.on_event(event)


class SimNetwork:
    """Nodes, links and the clock. Everything random comes from ``seed``.

    ``bytes_per_s`` is the rate of each direction of a link, None for no limit. ``tap``, if set, sees every
    message that is sent: sender, receiver and bytes.
    """

    def __init__(self, seed: int = 0, *, latency_s: float = 0.001, bytes_per_s: float | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.latency_s = latency_s
        self.bytes_per_s = bytes_per_s
        self.tap: Callable[[SimNode, SimNode, bytes], None] | None = None
        self.now = 1000.0
        self.nodes: dict[Address, SimNode] = {}
        self.links: list[SimLink] = []
        self.datagrams = SimDatagrams(self)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._steps_now = 0
        self._count = 0
        self._parted: set[tuple[SimNode, SimNode]] = set()  # from, to
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

    def cut(self, link: SimLink, by: SimNode | None = None) -> None:
        """Break a link. ``by`` is not told, it knows. Of what has not reached the other end, some is lost."""
        if link.is_cut:
            return
        link.is_cut = True
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
                self._put(link, sender, _Sign.CLOSED)
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
        self.at(self.now + 2 * self.latency_s, lambda: self._connect(link, target))

    def _connect(self, link: SimLink, target: SimNode) -> None:
        if link.is_cut:
            return
        if self.is_parted(link.dialler, target) or self.is_parted(target, link.dialler):
            self.at(self.now + CONNECT_AGAIN_S, lambda: self._connect(link, target))
        elif target.is_running:
            self.links.append(link)
            self._put(link, link.dialler, _Sign.OPENED)
        else:
            self._put(link, target, _Sign.CLOSED)

    def send(self, link: SimLink, sender: SimNode, message: bytes) -> None:
        """Put a message on its way."""
        if self.tap is not None:
            self.tap(sender, link.other(sender), message)
        self._put(link, sender, message)

    def answer(self, link: SimLink, sender: SimNode) -> None:
        """Let the acceptor answer a connection."""
        self._put(link, sender, _Sign.OPENED)

    def _put(self, link: SimLink, sender: SimNode, item: _Item) -> None:
        way = link.ways[sender]
        size = len(item) if isinstance(item, bytes) else 0
        way.byte_count += size
        way.free_at = max(way.free_at, self.now) + (size / self.bytes_per_s if self.bytes_per_s else 0.0)
        arrives_at = way.free_at + self.latency_s * (1 + self.random.random())
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
