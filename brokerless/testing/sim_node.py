"""A simulated node: its core, the shell around it in virtual time, and an application that reads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brokerless.model import MessageReceived, Reliability, StreamMessages, StreamOffered, UnreliableWaiting
from brokerless.protocol.actions import Admit, Cut, Dial, Push
from brokerless.protocol.core import NodeCore
from brokerless.protocol.incarnation import Incarnation
from brokerless.testing.presence import Presence
from brokerless.testing.sim_datagrams import connect
from brokerless.testing.sim_link import LINK_BYTES_MAX, Sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.model import Event, Message, Peer
    from brokerless.protocol.actions import Action
    from brokerless.protocol.stream import Stream
    from brokerless.testing.sim_link import Item, SimLink
    from brokerless.testing.simulation import SimNetwork

STALL_SHARE = 0.5
"""A timer that fires later than this share of the liveness limit tells of a stall, as in the real shell."""


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
        self.label = f"n{len(network.nodes)}"
        """What a trace calls it."""
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
        self.turns = 0
        """How often it has done all that it had to do."""
        self._begin()

    def _begin(self) -> None:
        self.events: list[Event] = []
        self.presence = Presence()
        self.actions: list[Action] = []
        self.received: dict[Stream, list[bytes]] = {}
        self.singles: list[bytes] = []
        self.unreliable: list[Message] = []
        self.pushes: set[Address] = set()
        self._pumping = False
        self._timer_at: float | None = None
        self.core = NodeCore(
            address=self.address,
            incarnation=Incarnation(
                self.address.public_key, self.network.random.getrandbits(63) + 1, int(self.network.now * 1e6)
            ),
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

    def take(self, link: SimLink, item: Item) -> None:
        """Let the core take in what arrived."""
        number, now = link.number(self), self.network.now
        if self.network.trace is not None:
            self.network.trace.arrived(self, link, item)
        if item is Sign.CLOSED:
            if self.links.pop(number, None) is not None:
                self.core.link_closed(number, "closed", now)
        elif item is Sign.OPENED:
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
        self.turns += 1
        if self.network.after_turn is not None:
            self.network.after_turn(self)

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
        self.presence.take(event)
        if self.network.trace is not None:
            self.network.trace.told(self, event)
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
