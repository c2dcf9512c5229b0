"""Datagrams through a ``Chaos``: each client has a socket of its own towards the target, as behind a NAT."""

from __future__ import annotations

import contextlib
import heapq
import socket
from typing import TYPE_CHECKING, Any

from brokerless.errors import PortInUse
from brokerless.testing.chaos_direction import Datagram
from brokerless.testing.chaos_fate import Fates
from brokerless.testing.chaos_tcp import HOST, watch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from brokerless.testing.chaos_direction import Direction, Place

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

WAITING_S_MAX = 0.5
"""At a rate, a datagram that would stand in line for longer is lost, as in a router whose queue is full."""


class UdpDoor:
    """A port where clients send datagrams for its target."""

    def __init__(
        self,
        family: socket.AddressFamily,
        address: Any,
        up: Direction,
        down: Direction,
        seed: object,
        front: int,
    ) -> None:
        self.family = family
        self.address = address
        self.up = up
        self.down = down
        self.seed = seed
        self.front = front
        self.is_on = False
        self.replies_elsewhere = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._clients: dict[Place, _Client] = {}  # who was silent longest comes first
        self._clients_ever = 0
        self._elsewhere: dict[Place | None, socket.socket] = {}  # by client, None: the target

    @property
    def clients(self) -> dict[Place, Place]:
        """The address of each client, and the one by which the target knows it."""
        return {address: client.apparent for address, client in self._clients.items()}

    def bind(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        """Take the port and read from it. Raises ``PortInUse``."""
        self._loop = loop
        self._listener = bound_datagram(port)
        watch(loop, self._listener, self._on_clients_readable)
        self.is_on = True

    def close(self) -> None:
        """Drop what is under way, and let go of everything."""
        for client in tuple(self._clients.values()):
            self._forget(client)
        for watched in (self._listener, *self._elsewhere.values()):
            self._close(watched)
        self._listener = None
        self._elsewhere.clear()

    def rebind(self, client: Place | None) -> None:
        """Give one client, or all, a new address towards the target."""
        for one in tuple(self._clients.values()):
            if client is None or one.address == client:
                one.rebind()

    def replay(self, datagram: Datagram, is_to_target: bool, from_elsewhere: bool) -> None:
        """Send a datagram where it was going."""
        destination = None if is_to_target else datagram.client
        if from_elsewhere:
            if destination not in self._elsewhere:
                self._elsewhere[destination] = self._open_elsewhere(destination)
            hand_over(self._elsewhere[destination], datagram.data)
        elif is_to_target:
            self._client(datagram.client).send_up(datagram.data)
        else:
            self.send_down(datagram.client, datagram.data)
        (self.up if is_to_target else self.down).replayed += 1

    def connect(self, destination: Place | None) -> socket.socket:
        """Return a socket to the target, or to a client; nobody else is heard by it."""
        family = self.family if destination is None else socket.AF_INET
        connected = socket.socket(family, socket.SOCK_DGRAM)
        try:
            connected.setblocking(False)
            connected.connect(self.address if destination is None else destination)
        except OSError:
            connected.close()
            raise
        return enlarged(connected)

    def _open_elsewhere(self, destination: Place | None) -> socket.socket:
        elsewhere = self.connect(destination)

        def drop() -> None:
            for _ in received(elsewhere):
                self.replies_elsewhere += 1

        assert self._loop is not None
        watch(self._loop, elsewhere, drop)
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
            assert self._loop is not None
            client = _Client(self, self._loop, address, self._clients_ever + 1)
            self._clients_ever += 1
        self._clients[address] = client
        return client

    def _forget(self, client: _Client) -> None:
        self._clients.pop(client.address)
        client.stop()

    def send_down(self, client: Place, data: bytes) -> bool:
        """Send to a client; False if the system refused."""
        assert self._listener is not None
        with contextlib.suppress(OSError):
            self._listener.sendto(data, client)
            return True
        return False


class _Client:
    """A client, its socket towards the target, and a flow each way."""

    def __init__(self, door: UdpDoor, loop: asyncio.AbstractEventLoop, address: Place, number: int) -> None:
        self.address = address
        self._door = door
        self._loop = loop
        self._upstream = self._open()
        self.up = _Flow(self, door, loop, door.up, number, self.send_up)
        self.down = _Flow(self, door, loop, door.down, number, self._send_down)

    @property
    def apparent(self) -> Place:
        host, port, *_ = self._upstream.getsockname()
        return host, port

    def rebind(self) -> None:
        before, self._upstream = self._upstream, self._open()  # in this order, or the port could be the same
        self._door._close(before)

    def stop(self) -> None:
        self.up.stop()
        self.down.stop()
        self._door._close(self._upstream)

    def send_up(self, data: bytes) -> bool:
        return hand_over(self._upstream, data)

    def _open(self) -> socket.socket:
        upstream = self._door.connect(None)
        watch(self._loop, upstream, self._on_target_readable)
        return upstream

    def _on_target_readable(self) -> None:
        for data, _ in received(self._upstream):
            self.down.take(data)

    def _send_down(self, data: bytes) -> bool:
        return self._door.send_down(self.address, data)


class _Flow:
    """One direction of a client: what is under way, by when it is due."""

    def __init__(
        self,
        client: _Client,
        door: UdpDoor,
        loop: asyncio.AbstractEventLoop,
        direction: Direction,
        number: int,
        send: Callable[[bytes], bool],
    ) -> None:
        self._client = client.address
        self._door = door
        self._direction = direction
        self._fates = Fates(door.seed, direction.way, number)
        self._loop = loop
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
            direction.recorded.append(Datagram(direction.is_upward, self._client, data, self._door.front))
        fate = self._fates.next(disturbance)
        if disturbance.blackhole or not self._door.is_on:
            direction.swallowed += 1
        elif fate.is_lost:
            direction.lost += 1
        elif self._is_full(len(data) * len(fate.delays_s)):
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

    def _is_full(self, byte_count: int) -> bool:
        if self._waiting_bytes + byte_count > WAITING_BYTES_MAX:
            return True
        return self._direction.waits_s(self._loop.time()) > WAITING_S_MAX

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
            due = self._direction.through_at(len(data), now) + delay_s
            heapq.heappush(self._waiting, (due, self._count, data))

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


def bound_datagram(port: int) -> socket.socket:
    """Return a socket bound to that port on loopback. Raises ``PortInUse``."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.setblocking(False)
    try:
        bound.bind((HOST, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise PortInUse(f"cannot bind {HOST}:{port} for UDP: {error}") from error
    return enlarged(bound)


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
