"""Connections through a ``Chaos``: each a client's socket, the target's, and a flow each way."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from brokerless.errors import PortInUse, StartError
from brokerless.testing.chaos_fate import FlowFates

if TYPE_CHECKING:
    import asyncio

    from brokerless.testing.chaos_direction import Direction

logger = logging.getLogger("dittobus")

HOST = "127.0.0.1"
"""Where proxies listen: nobody else is to come by."""

CHUNK_BYTES = 64 * 1024
"""Read at a time: few system calls, and yet a cut or a black hole falls between small pieces."""

CHUNK_S = 0.02
"""What is read at a time of a direction with a rate, so that it flows evenly."""

BUFFER_BYTES_MAX = 1024 * 1024
"""Held in each direction of a connection: 10 MB/s at a delay of 100 ms. The rest waits in the sender."""

BUFFER_S_MAX = 0.1
"""The same where there is a rate: a router's queue, which delays what comes last by so much."""

BACKLOG = 128
"""Connections waiting to be accepted; what most systems allow."""

ABORTIVE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER, 0 s: ``close`` sends RST and forgets what was not sent."""


class TcpDoor:
    """A port where clients connect, and the connections to its target that came of it."""

    def __init__(
        self, family: socket.AddressFamily, address: Any, up: Direction, down: Direction, seed: object
    ) -> None:
        self.family = family
        self.address = address
        self.up = up
        self.down = down
        self.seed = seed
        self.port = 0
        self.connections = 0
        """Accepted so far."""
        self.resets = 0
        """Connections that ended in a reset, whoever began it."""
        self.open: set[_Connection] = set()
        self.reset_after_bytes: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None

    def bind(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        """Take the port (0: any), and do not listen yet. Raises ``PortInUse``."""
        self._loop = loop
        self._listener = bound_stream(port)
        self.port = self._listener.getsockname()[1]

    def listen(self) -> None:
        """Accept connections."""
        assert self._loop is not None
        if self._listener is None:
            self._listener = bound_stream(self.port)
        self._listener.listen(BACKLOG)
        watch(self._loop, self._listener, self._accept)

    def refuse(self) -> None:
        """Reset connections, and refuse new ones."""
        self.close()
        self._listener = bound_stream(
            self.port
        )  # bound and not listening: it refuses, and nobody else gets it

    def close(self) -> None:
        """Reset connections, and let go of the port."""
        self.reset()
        if self._loop is not None and self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def reset(self) -> None:
        """Reset all connections at both ends."""
        for connection in tuple(self.open):
            connection.reset()

    def reset_after(self, byte_count: int | None) -> None:
        """Reset each connection when so many bytes have passed in it from now on."""
        self.reset_after_bytes = byte_count
        for connection in self.open:
            connection.bytes_left = byte_count

    def run(self) -> None:
        """Let pass what may pass now."""
        for connection in tuple(self.open):
            connection.run()

    def _accept(self) -> None:
        assert self._loop is not None
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors, most likely: to try again at once would spin
            logger.warning("chaos proxy at port %d is off, since it cannot accept: %s", self.port, error)
            self.refuse()
            return
        self.connections += 1
        connection = _Connection(self, self._loop, client, self.connections)
        connection.bytes_left = self.reset_after_bytes
        self.open.add(connection)
        connection.dial()


class _Connection:
    """A client's socket, the target's, and a flow each way."""

    def __init__(
        self, door: TcpDoor, loop: asyncio.AbstractEventLoop, client: socket.socket, number: int
    ) -> None:
        self.door = door
        self.loop = loop
        self.is_open = True
        self.bytes_left: int | None = None
        self._number = number
        self._sockets = [client]
        self._flows: tuple[_Flow, ...] = ()

    def dial(self) -> None:
        try:
            target = socket.socket(self.door.family, socket.SOCK_STREAM)
            self._sockets.append(target)
            for end in self._sockets:
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            outcome = target.connect_ex(self.door.address)
        except OSError:
            self.reset()
            return
        if outcome in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self.loop.add_writer(target, self._dialled)
        else:
            self.reset()

    def _dialled(self) -> None:
        client, target = self._sockets
        self.loop.remove_writer(target)
        if target.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.reset()
            return
        self._flows = (
            _Flow(self, self.door.up, self._number, client, target),
            _Flow(self, self.door.down, self._number, target, client),
        )
        self.run()

    def run(self) -> None:
        for flow in self._flows:
            flow.run()

    def passed(self, byte_count: int) -> None:
        if self.bytes_left is not None:
            self.bytes_left -= byte_count
            if self.bytes_left == 0:
                self.reset()

    def flow_ended(self) -> None:
        if all(flow.ended for flow in self._flows):
            self._close()

    def reset(self) -> None:
        self.door.resets += 1
        for end in self._sockets:
            with contextlib.suppress(OSError):  # macOS: the other end has reset it already
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORTIVE)
        self._close()

    def _close(self) -> None:
        self.is_open = False
        for flow in self._flows:
            flow.stop()
        for end in self._sockets:
            self.loop.remove_reader(end)
            self.loop.remove_writer(end)
            end.close()
        self.door.open.discard(self)


class _Flow:
    """One direction of a connection: what was read waits until it is due and the other socket takes it."""

    def __init__(
        self,
        connection: _Connection,
        direction: Direction,
        number: int,
        source: socket.socket,
        sink: socket.socket,
    ) -> None:
        self.ended = False
        self._connection = connection
        self._direction = direction
        self._fates = FlowFates(connection.door.seed, direction.way, number)
        self._loop = connection.loop
        self._source = source
        self._sink = sink
        self._source_ended = False
        self._waiting: deque[tuple[float, bytes]] = deque()  # when due, what; b"" is the end
        self._waiting_bytes = 0
        self._last_due = 0.0
        self._blocked = False  # the sink takes no more for now
        self._sliced = False  # a piece was just sent: the next waits a turn, or it would be one with it
        self._watching = (False, False)  # the source for reading, the sink for writing
        self._timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        """Pass on what is due, then watch for whatever lets more pass."""
        while self._connection.is_open and self._may_send():
            self._send()
        if self._connection.is_open:
            self._watch()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _may_send(self) -> bool:
        if self._blocked or self._sliced or not self._waiting or self._direction.disturbance.blackhole:
            return False
        due = self._waiting[0][0]
        if due <= self._loop.time():
            return True
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._on_time)
        return False

    def _send(self) -> None:
        due, data = self._waiting.popleft()
        sent = 0
        try:
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                self.ended = True
                self._connection.flow_ended()
                return
            size = self._size_of_next(len(data))
            if not size:
                self._direction.segments_lost += 1
                self._connection.reset()
                return
            sent = self._sink.send(data[:size])
        except BlockingIOError:
            self._blocked = True
        except OSError:
            self._connection.reset()
            return
        self._waiting_bytes -= sent
        if sent < len(data):
            self._waiting.appendleft((due, data[sent:]))
        self._fates.passed(sent)
        self._direction.tcp_bytes += sent
        self._connection.passed(sent)

    def _size_of_next(self, size: int) -> int:
        """How many of so many bytes are handed on together; 0: the next is lost."""
        disturbance = self._direction.disturbance
        to_loss = self._fates.bytes_to_loss(disturbance)
        if to_loss is not None:
            size = min(size, to_loss)
        piece = self._fates.slice_bytes(disturbance)
        if piece is not None:
            size = min(size, piece)
            self._sliced = True
            self._loop.call_soon(self._on_turn)
        left = self._connection.bytes_left
        return size if left is None else min(size, left)

    def _watch(self) -> None:
        disturbance = self._direction.disturbance
        rate, bytes_max = disturbance.rate_bytes_s, BUFFER_BYTES_MAX
        if rate is not None:
            bytes_max = min(bytes_max, 1 + int(rate * BUFFER_S_MAX))
        passes = not disturbance.blackhole
        read = passes and not self._source_ended and self._waiting_bytes < bytes_max
        write = self._blocked and passes
        if (read, write) == self._watching:
            return
        if read:
            self._loop.add_reader(self._source, self._on_readable)
        else:
            self._loop.remove_reader(self._source)
        if write:
            self._loop.add_writer(self._sink, self._on_writable)
        else:
            self._loop.remove_writer(self._sink)
        self._watching = (read, write)

    def _on_readable(self) -> None:
        disturbance = self._direction.disturbance
        rate = disturbance.rate_bytes_s
        size = CHUNK_BYTES if rate is None else min(CHUNK_BYTES, 1 + int(rate * CHUNK_S))
        try:
            data = self._source.recv(size)
        except BlockingIOError:
            return
        except OSError:
            self._connection.reset()
            return
        self._source_ended = not data
        through_at = self._direction.through_at(len(data), self._loop.time())
        # A stream keeps its order, whatever was set meanwhile.
        self._last_due = max(self._last_due, through_at + self._fates.delay_s(disturbance))
        self._waiting.append((self._last_due, data))
        self._waiting_bytes += len(data)
        self.run()

    def _on_writable(self) -> None:
        self._blocked = False
        self.run()

    def _on_turn(self) -> None:
        self._sliced = False
        if self._connection.is_open:
            self.run()

    def _on_time(self) -> None:
        self._timer = None
        self.run()


def bound_stream(port: int) -> socket.socket:
    """Return a socket bound to that port on loopback, which does not listen. Raises ``PortInUse``."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise PortInUse(f"cannot bind {HOST}:{port}: {error}") from error
    return bound


def watch(loop: asyncio.AbstractEventLoop, readable: socket.socket, callback: Any) -> None:
    """Have ``callback`` called whenever there is something to read. Raises ``StartError``."""
    try:
        loop.add_reader(readable, callback)
    except NotImplementedError:
        readable.close()
        raise StartError(
            "this event loop has no add_reader",
            hint="use a SelectorEventLoop, or `with` instead of `async with`",
        ) from None
