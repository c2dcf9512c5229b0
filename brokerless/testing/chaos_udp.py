"""A UDP proxy that misbehaves on command: it loses, doubles, delays and reorders what passes through it."""

from __future__ import annotations

import contextlib
import heapq
import socket
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from brokerless.testing.chaos_fate import Disturbance, Fates
from brokerless.testing.chaos_proxy import HOST, Proxy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

Place: TypeAlias = tuple[str, int]
"""Where datagrams come from and go to."""

DATAGRAM_BYTES_MAX = 65_535
"""More than any datagram has: UDP counts its bytes with 16 bits."""

READS_A_TURN_MAX = 64
"""Datagrams read from one socket before others have their turn."""

SOCKET_BYTES = 4 * 1024 * 1024
"""Asked for each way of a socket; the system gives what it allows. What exceeds it is lost uncounted."""

CLIENTS_MAX = 256
"""A socket each. The one that was silent longest is forgotten for a new one, as a NAT does."""

WAITING_BYTES_MAX = 8 * 1024 * 1024
"""Under way in one direction of a client: 10 MB/s at a latency of 0.8 s. What does not fit is lost."""

RECORDED_MAX = 20_000
"""Datagrams that a direction remembers, the latest."""


class Datagram(NamedTuple):
    """A datagram that came by. To replay something else in its place: ``datagram._replace(data=…)``."""

    is_upward: bool
    client: Place
    data: bytes


class Direction:
    """All that goes up to the target, or down to clients: how it is disturbed, and what came of it.

    ``received + duplicated`` is ``passed + lost + swallowed + failed``, and what is still under way.
    """

    def __init__(self, *, is_upward: bool) -> None:
        self.is_upward = is_upward
        self.disturbance = Disturbance()
        """May be set at any time, for datagrams to come."""
        self.is_recording = False
        """While set, ``recorded`` gets what comes, whatever its fate."""
        self.recorded: deque[Datagram] = deque(maxlen=RECORDED_MAX)
        self.received = 0
        """Datagrams that came to the proxy so far."""
        self.passed = 0
        """Handed on, second copies among them."""
        self.passed_bytes = 0
        self.lost = 0
        self.held = 0
        """Held back, to be overtaken."""
        self.duplicated = 0
        """Second copies that were made."""
        self.swallowed = 0
        self.failed = 0
        """Refused by the system, or in excess, or under way to a client that was forgotten."""
        self.replayed = 0
        """Sent by ``replay``; in no other counter."""


class UdpChaos(Proxy):
    """Stand between UDP clients and their target, as a NAT does, and disturb what passes.

    Let clients send to ``place``. Each gets a socket of its own towards the target, which knows it by that
    socket's address. ``up`` is the direction to the target, ``down`` that to clients. Everything takes effect
    at once; leaving the context drops what is under way. Use it on one event loop, which must have
    ``add_reader``::

        async with UdpChaos("127.0.0.1", port, seed=1) as chaos:
            send_to(chaos.place)
            chaos.disturb(Disturbance(loss=0.2, reordering=0.3, duplication=0.1))

    What is random comes from ``seed``: the n-th datagram of the m-th client has the same fate in every run.
    ``port`` is that of the proxy, for one that stands beside a TCP proxy; 0: any.
    """

    _kind = socket.SOCK_DGRAM

    def __init__(self, target_host: str, target_port: int, *, port: int = 0, seed: int = 0) -> None:
        super().__init__(target_host, target_port, port=port)
        self.seed = seed
        self.up = Direction(is_upward=True)
        self.down = Direction(is_upward=False)
        self.replies_elsewhere = 0
        """Datagrams that came to where ``replay`` sends from elsewhere."""
        self._listener: socket.socket | None = None
        self._clients: dict[Place, _Client] = {}  # who was silent longest comes first
        self._clients_ever = 0
        self._elsewhere: dict[Place | None, socket.socket] = {}  # by client, None: the target

    @property
    def place(self) -> str:
        """The same as ``127.0.0.1:port``."""
        return f"{HOST}:{self.port}"

    @property
    def clients(self) -> dict[Place, Place]:
        """The address of each client, and the one by which the target knows it."""
        return {address: client.apparent for address, client in self._clients.items()}

    def disturb(self, disturbance: Disturbance) -> None:
        """Disturb both directions in this way; ``Disturbance()`` leaves both in peace."""
        self.up.disturbance = self.down.disturbance = disturbance

    def rebind(self, client: Place | None = None) -> None:
        """Give one client, or all, a new address towards the target. What comes to the old one is lost."""
        self._running_loop()
        for one in tuple(self._clients.values()) if client is None else (self._clients[client],):
            one.rebind()

    def replay(self, datagram: Datagram, *, from_elsewhere: bool = False) -> None:
        """Send a datagram where it was going, at once, undisturbed, as often as this is called.

        It comes from where the first came from, as the receiver sees it now, or from an address that the
        receiver has not heard of; what is replied to that is counted in ``replies_elsewhere`` and dropped.
        """
        self._running_loop()
        destination = None if datagram.is_upward else datagram.client
        if from_elsewhere:
            if destination not in self._elsewhere:
                self._elsewhere[destination] = self._open_elsewhere(destination)
            hand_over(self._elsewhere[destination], datagram.data)
        elif datagram.is_upward:
            self._client(datagram.client).send_up(datagram.data)
        else:
            self._send_down(datagram.client, datagram.data)
        (self.up if datagram.is_upward else self.down).replayed += 1

    def _open_up(self) -> None:
        self._listener = enlarged(self._bind())
        self._watch(self._listener, self._on_clients_readable)

    def _close_down(self) -> None:
        for client in tuple(self._clients.values()):
            self._forget(client)
        for watched in (self._listener, *self._elsewhere.values()):
            self._close(watched)

    def _connect(self, destination: Place | None) -> socket.socket:
        """Return a socket to the target, or to a client; nobody else is heard by it."""
        connected = socket.socket(self._family if destination is None else socket.AF_INET, self._kind)
        try:
            connected.setblocking(False)
            connected.connect(self._address if destination is None else destination)
        except OSError:
            connected.close()
            raise
        return enlarged(connected)

    def _open_elsewhere(self, destination: Place | None) -> socket.socket:
        elsewhere = self._connect(destination)

        def drop() -> None:
            for _ in received(elsewhere):
                self.replies_elsewhere += 1

        self._watch(elsewhere, drop)
        return elsewhere

    def _close(self, watched: socket.socket | None) -> None:
        if watched is not None and self._loop is not None:
            self._loop.remove_reader(watched)
            watched.close()

    def _on_clients_readable(self) -> None:
        assert self._listener is not None
        for data, address in received(self._listener):
            try:
                client = self._client(address)
            except OSError:  # no descriptor, or no way to the target: the network has lost it
                self.up.received += 1
                self.up.failed += 1
                continue
            client.up.take(data)

    def _client(self, address: Place) -> _Client:
        client = self._clients.pop(address, None)
        if client is None:
            if len(self._clients) >= CLIENTS_MAX:
                self._forget(next(iter(self._clients.values())))
            client = _Client(self, address, self._clients_ever + 1)
            self._clients_ever += 1
        self._clients[address] = client
        return client

    def _forget(self, client: _Client) -> None:
        self._clients.pop(client.address)
        client.stop()

    def _send_down(self, client: Place, data: bytes) -> bool:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            self._listener.sendto(data, client)
            return True
        return False


class _Client:
    """A client, its socket towards the target, and a flow each way."""

    def __init__(self, chaos: UdpChaos, address: Place, number: int) -> None:
        self.address = address
        self._chaos = chaos
        self._upstream = self._open()
        loop = chaos._running_loop()
        self.up = _Flow(chaos.up, Fates(chaos.seed, "up", number), loop, address, self.send_up)
        self.down = _Flow(chaos.down, Fates(chaos.seed, "down", number), loop, address, self._send_down)

    @property
    def apparent(self) -> Place:
        host, port, *_ = self._upstream.getsockname()
        return host, port

    def rebind(self) -> None:
        before, self._upstream = self._upstream, self._open()  # in this order, or the port could be the same
        self._chaos._close(before)

    def stop(self) -> None:
        self.up.stop()
        self.down.stop()
        self._chaos._close(self._upstream)

    def send_up(self, data: bytes) -> bool:
        return hand_over(self._upstream, data)

    def _open(self) -> socket.socket:
        upstream = self._chaos._connect(None)
        self._chaos._watch(upstream, self._on_target_readable)
        return upstream

    def _on_target_readable(self) -> None:
        for data, _ in received(self._upstream):
            self.down.take(data)

    def _send_down(self, data: bytes) -> bool:
        return self._chaos._send_down(self.address, data)


class _Flow:
    """One direction of a client: what is under way, by when it is due."""

    def __init__(
        self,
        direction: Direction,
        fates: Fates,
        loop: asyncio.AbstractEventLoop,
        client: Place,
        send: Callable[[bytes], bool],
    ) -> None:
        self._direction = direction
        self._fates = fates
        self._loop = loop
        self._client = client
        self._send = send
        self._waiting: list[tuple[float, int, bytes]] = []  # a heap: when due, in which order, what
        self._waiting_bytes = 0
        self._count = 0
        self._held: dict[int, tuple[asyncio.TimerHandle, tuple[float, ...], bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, data: bytes) -> None:
        """Let a datagram meet its fate."""
        direction, disturbance = self._direction, self._direction.disturbance
        direction.received += 1
        if direction.is_recording:
            direction.recorded.append(Datagram(direction.is_upward, self._client, data))
        fate = self._fates.next(disturbance)
        if disturbance.swallow:
            direction.swallowed += 1
        elif fate.is_lost:
            direction.lost += 1
        elif self._waiting_bytes + len(data) * len(fate.delays_s) > WAITING_BYTES_MAX:
            direction.failed += 1
        else:
            direction.duplicated += len(fate.delays_s) - 1
            self._waiting_bytes += len(data) * len(fate.delays_s)
            if fate.is_held:
                self._hold(fate.delays_s, data, disturbance.held_s_max)
            else:
                self._put(fate.delays_s, data)
                for number in tuple(self._held):
                    self._let_go(number)
                self._run()

    def stop(self) -> None:
        for timer, _, _ in self._held.values():
            timer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._direction.failed += len(self._waiting)
        self._direction.failed += sum(len(delays_s) for _, delays_s, _ in self._held.values())

    def _hold(self, delays_s: tuple[float, ...], data: bytes, held_s_max: float) -> None:
        self._direction.held += 1
        self._count += 1
        timer = self._loop.call_later(held_s_max, self._let_go_alone, self._count)
        self._held[self._count] = (timer, delays_s, data)

    def _let_go(self, number: int) -> None:
        timer, delays_s, data = self._held.pop(number)
        timer.cancel()
        self._put(delays_s, data)

    def _let_go_alone(self, number: int) -> None:
        self._let_go(number)
        self._run()

    def _put(self, delays_s: tuple[float, ...], data: bytes) -> None:
        now = self._loop.time()
        for delay_s in delays_s:
            self._count += 1
            heapq.heappush(self._waiting, (now + delay_s, self._count, data))

    def _run(self) -> None:
        """Pass on what is due, and come back for the rest."""
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            _, _, data = heapq.heappop(self._waiting)
            self._waiting_bytes -= len(data)
            if self._send(data):
                self._direction.passed += 1
                self._direction.passed_bytes += len(data)
            else:
                self._direction.failed += 1
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._waiting[0][0], self._run) if self._waiting else None


def received(readable: socket.socket) -> list[tuple[bytes, Place]]:
    """Read what is there, up to a turn's worth."""
    datagrams = []
    for _ in range(READS_A_TURN_MAX):
        try:
            datagrams.append(readable.recvfrom(DATAGRAM_BYTES_MAX))
        except ConnectionError:  # an earlier datagram found nobody: that is its sender's business
            continue
        except OSError:  # mostly: no more is there
            break
    return datagrams


def hand_over(connected: socket.socket, data: bytes) -> bool:
    """Send; once more if the system only used the occasion to say that an earlier datagram found nobody."""
    for _ in range(2):
        try:
            connected.send(data)
        except ConnectionError:
            continue
        except OSError:
            return False
        return True
    return False


def enlarged(opened: socket.socket) -> socket.socket:
    """Ask for room for bursts."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with contextlib.suppress(OSError):  # macOS refuses what it does not allow
            opened.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
    return opened
