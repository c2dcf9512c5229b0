"""Where I/O meets protocol: one pump, one timer.

Everything runs on one asyncio loop. Sockets and commands put work into the core; the pump drains what came
of it to the sockets and upward, once per turn of the loop, however much that was.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from brokerless.clock import now as read_clock

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from brokerless.address import Address
    from brokerless.model import Event
    from brokerless.protocol.actions import Action
    from brokerless.protocol.core import NodeCore
    from brokerless.protocol.paths import UdpPlace
    from brokerless.transport import Transport

_log = logging.getLogger("dittobus")

STALL_SHARE = 0.5
"""A turn that comes later than this share of the liveness limit is a stall of this process: it was stopped,
its host was suspended, or something blocked the loop. Peers may have given us up meanwhile. A pause that
began long before the timer was due passes for less; sessions notice it by themselves."""

LATE_S = 0.05
"""No liveness limit is so short that a turn this late matters; it need not be looked at."""

ROUNDS_MAX = 8
"""Times that one turn follows up on what its own events caused, before sockets and timers get theirs."""

FLUSH_BYTES = 256 * 1024
"""What one link sends before other callbacks get their turn: some half a millisecond. A datagram that one of
these reads or sends would wait for it; ZeroMQ takes ten times as much at once."""


class Pump:
    """Moves bytes between a core and a transport, and events upward. It is the transport's ``LinkSink``."""

    def __init__(
        self,
        core: NodeCore,
        on_events: Callable[[Sequence[Event]], None],
        on_action: Callable[[Action], None],
    ) -> None:
        self._core = core
        self._on_events = on_events
        self._on_action = on_action
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._scheduled = False
        self._receiving = False  # a batch from the sockets is coming in; its end wakes us
        self._packets_came = False  # and there was more in it than datagrams
        self._held: dict[int, bytes] = {}  # what a busy link would not take, or one that gives way
        self._giving_way: set[int] = set()  # links with more to send after others had their turn

    def start(self, loop: asyncio.AbstractEventLoop, transport: Transport) -> None:
        """Begin on that loop, with sockets that are open."""
        self._loop, self._transport = loop, transport
        self.wake()

    def stop(self) -> None:
        """Do nothing any more, whatever comes."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def now(self) -> float:
        """Return the time, after telling the core if this process stood still since it last looked."""
        now = read_clock()
        late_s = 0.0 if self._timer_at is None else now - self._timer_at
        if late_s > LATE_S and late_s > STALL_SHARE * self._core.liveness_s:
            self._timer_at = None
            _log.warning("this process stood still for %.1f s; peers may have given it up", late_s)
            self._core.stalled(now)
        return now

    def wake(self) -> None:
        """There is something to drain: do it on the next turn of the loop."""
        if self._scheduled or self._receiving or self._loop is None or self._transport is None:
            return
        self._scheduled = True
        self._loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._scheduled = False
        self.turn()

    def turn(self) -> None:
        """Drain the core: to the sockets, to the actions, upward; set the timer."""
        core = self._core
        for _ in range(ROUNDS_MAX):
            if self._transport is None:
                return
            now = self.now()
            deadline = core.next_deadline()
            if deadline is not None and deadline <= now:
                core.expire(now)
            for link in core.take_sendable():
                if link not in self._giving_way:
                    self._flush(link, now)
            for action in core.take_actions():
                self._on_action(action)
            events = core.take_events()
            if events:
                self._tell(events)
            elif not core.has_output:
                break
        else:
            self.wake()
        self._arm()

    def _tell(self, events: list[Event]) -> None:
        try:
            self._on_events(events)
        except Exception:  # a defect above must not stop the node
            _log.exception("an event handler failed")

    def _arm(self) -> None:
        deadline = self._core.next_deadline()
        if deadline == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = deadline
        if deadline is not None and self._loop is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - read_clock()), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.turn()

    def _flush(self, link: int, now: float) -> None:
        core, transport = self._core, self._transport
        message = self._held.pop(link, None) or core.next_message(link, now)
        sent_bytes = 0
        while message is not None and transport is not None:
            if sent_bytes >= FLUSH_BYTES and self._loop is not None:
                self._held[link] = message
                self._giving_way.add(link)
                self._loop.call_soon(self._go_on, link)
                return
            if not transport.send(link, message):
                if link in transport.links:
                    self._held[link] = message
                return
            sent_bytes += len(message)
            message = core.next_message(link, now)

    def _go_on(self, link: int) -> None:
        if link in self._giving_way:
            self._giving_way.discard(link)
            self._flush(link, self.now())

    # LinkSink

    def link_opened(self, link: int, remote: Address) -> None:
        """A link is connected, by our dial or theirs."""
        transport = self._transport
        is_local = transport is not None and transport.is_local(link)
        is_near = transport is not None and transport.is_near(link)
        self._core.link_opened(link, remote, self.now(), is_local, is_near)

    def link_message(self, link: int, packet: bytes) -> None:
        """A ZeroMQ message came."""
        self._receiving = self._packets_came = True
        try:
            self._core.link_message(link, packet, self.now())
        except Exception:  # a defect of ours must cost this link, not the node
            _log.exception("a packet of link %d could not be taken in; cutting it", link)
            if self._transport is not None:
                self._transport.cut(link)
            self.link_closed(link, "a defect of this node")

    def link_closed(self, link: int, reason: str) -> None:
        """A link failed, or was cut at the other end."""
        _log.debug("link %d closed: %s", link, reason)
        self._held.pop(link, None)
        self._giving_way.discard(link)
        self._core.link_closed(link, reason, self.now())
        self.wake()

    def link_writable(self, link: int) -> None:
        """A busy link may be tried again."""
        self._flush(link, self.now())

    def turn_done(self) -> None:
        """A batch of the above is over: tell of it now, and send on the next turn of the loop.

        By then whoever was woken has run and answered, and the answer takes the acknowledgement along: for an
        echo that is one packet instead of two. Datagrams alone seldom leave anything to be done, and a turn
        would keep their answers.
        """
        self._receiving = False
        packets_came, self._packets_came = self._packets_came, False
        if self._transport is None:
            return
        events = self._core.take_events()
        if events:
            self._tell(events)
        if packets_came or self._core.has_work:
            self.wake()

    def datagram(self, place: UdpPlace, data: bytes) -> None:
        """A UDP packet came, from anybody."""
        self._receiving = True
        try:
            self._core.udp_received(place, data, self.now())
        except Exception:  # a defect of ours must cost this packet, not those behind it
            _log.exception("a datagram could not be taken in")

    def push_received(self, remote: Address, data: bytes) -> None:
        """A datagram came over TCP; whose it is, its seal tells."""
        self._receiving = True
        try:
            self._core.push_received(data, self.now())
        except Exception:
            _log.exception("a datagram could not be taken in")

    def permits_push(self, remote: Address) -> bool:
        """Whether that peer may push datagrams to us."""
        return self._core.permits_push(remote)
