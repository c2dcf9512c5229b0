"""A TCP proxy that misbehaves on command: it cuts, freezes and delays what passes through it."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from brokerless.errors import ConfigError
from brokerless.testing.chaos_proxy import HOST, Proxy, check_seconds

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("dittobus")

CHUNK_BYTES = 64 * 1024
"""Read at a time: few system calls, and yet a cut or freeze falls between small pieces."""

BUFFER_BYTES_MAX = 1024 * 1024
"""Held in each direction of a connection: 10 MB/s at a delay of 100 ms. The rest waits in the sender."""

BACKLOG = 128
"""Connections waiting to be accepted; what most systems allow."""

ABORTIVE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER, 0 s: ``close`` sends RST and forgets what was not sent."""


class Chaos(Proxy):
    """Stand between TCP clients and their target, and disturb what passes.

    Let clients connect to ``endpoint``. Everything takes effect at once; leaving the context resets what is
    still connected. Use it on one event loop, which must have ``add_reader``::

        async with Chaos("127.0.0.1", port) as chaos:
            connect(chaos.endpoint)
            chaos.freeze()

    The proxy holds little, so a target that does not read, or a freeze, is felt by the sender as TCP's
    backpressure. Where the target refuses a connection, its client is reset. ``port`` is that of the proxy;
    0: any.
    """

    _kind = socket.SOCK_STREAM

    def __init__(self, target_host: str, target_port: int, *, port: int = 0) -> None:
        super().__init__(target_host, target_port, port=port)
        self.bytes_up = 0
        """Bytes handed to the target so far."""
        self.bytes_down = 0
        """Bytes handed to clients so far."""
        self.connections = 0
        """Connections accepted so far."""
        self._listener: socket.socket | None = None
        self._open: set[_Connection] = set()
        self._delay_s = 0.0
        self._frozen = False
        self._reset_after_bytes: int | None = None

    @property
    def endpoint(self) -> str:
        """The same as ``tcp://127.0.0.1:port``."""
        return f"tcp://{HOST}:{self.port}"

    @property
    def connections_open(self) -> int:
        """Connections open now."""
        return len(self._open)

    @property
    def frozen(self) -> bool:
        """Between ``freeze`` and ``thaw``."""
        return self._frozen

    @property
    def delay_s(self) -> float:
        """Seconds that bytes take through the proxy, each way. May be set at any time, for bytes to come."""
        return self._delay_s

    @delay_s.setter
    def delay_s(self, delay_s: float) -> None:
        check_seconds("delay_s", delay_s)
        self._delay_s = delay_s

    def reset(self) -> None:
        """Reset all present connections at both ends (TCP RST). What is under way in them is lost."""
        for connection in tuple(self._open):
            connection.reset()

    def reset_after(self, byte_count: int | None) -> None:
        """Reset each connection when that many bytes have passed in it, both directions together.

        They are counted from now in present connections, from the start in later ones. Exactly that many are
        handed to the receiving sockets. None ends it.
        """
        if byte_count is not None and (not isinstance(byte_count, int) or byte_count < 1):
            raise ConfigError(f"byte_count: expected 1 or more, or None, got {byte_count!r:.80}")
        self._reset_after_bytes = byte_count
        for connection in self._open:
            connection.bytes_left = byte_count

    def freeze(self) -> None:
        """Let nothing pass, in present and new connections, as if a cable were pulled. Sockets stay open."""
        self._frozen = True
        self._run()

    def thaw(self) -> None:
        """Let bytes pass again, first those that waited: a freeze loses nothing."""
        self._frozen = False
        self._run()

    def off(self) -> None:
        """Reset present connections and refuse new ones, as a host does whose service is gone."""
        self._running_loop()
        self.reset()
        self._close_listener()
        self._listener = self._bind()  # bound and not listening: the port refuses, and nobody else gets it

    def on(self) -> None:
        """Accept connections again, at the same port."""
        self._running_loop()
        if self._listener is None:
            self._listener = self._bind()
        self._listener.listen(BACKLOG)
        self._watch(self._listener, self._accept)

    def _open_up(self) -> None:
        self.on()

    def _close_down(self) -> None:
        self.reset()
        self._close_listener()

    def _close_listener(self) -> None:
        if self._loop is not None and self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._loop is not None
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors, most likely: to try again at once would spin
            logger.warning("chaos proxy at port %d is off, since it cannot accept: %s", self._port, error)
            self.off()
            return
        self.connections += 1
        connection = _Connection(self, self._loop, client)
        connection.bytes_left = self._reset_after_bytes
        self._open.add(connection)
        connection.dial(self._family, self._address)

    def _run(self) -> None:
        for connection in tuple(self._open):
            connection.run()

    def _forget(self, connection: _Connection) -> None:
        self._open.discard(connection)


class _Connection:
    """A client's socket, the target's, and a flow each way."""

    def __init__(self, chaos: Chaos, loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
        self.chaos = chaos
        self.loop = loop
        self.is_open = True
        self.bytes_left: int | None = None
        self._sockets = [client]
        self._flows: tuple[_Flow, ...] = ()

    def dial(self, family: socket.AddressFamily, address: Any) -> None:
        try:
            target = socket.socket(family, socket.SOCK_STREAM)
            self._sockets.append(target)
            for end in self._sockets:
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            outcome = target.connect_ex(address)
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
        self._flows = (_Flow(self, client, target), _Flow(self, target, client))
        self.run()

    def run(self) -> None:
        for flow in self._flows:
            flow.run()

    def passed(self, flow: _Flow, byte_count: int) -> None:
        if flow is self._flows[0]:
            self.chaos.bytes_up += byte_count
        else:
            self.chaos.bytes_down += byte_count
        if self.bytes_left is not None:
            self.bytes_left -= byte_count
            if self.bytes_left == 0:
                self.reset()

    def flow_ended(self) -> None:
        if all(flow.ended for flow in self._flows):
            self._close()

    def reset(self) -> None:
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
        self.chaos._forget(self)


class _Flow:
    """One direction of a connection: what was read waits until it is due and the other socket takes it."""

    def __init__(self, connection: _Connection, source: socket.socket, sink: socket.socket) -> None:
        self.ended = False
        self._connection = connection
        self._loop = connection.loop
        self._source = source
        self._sink = sink
        self._source_ended = False
        self._waiting: deque[tuple[float, bytes]] = deque()  # when due, what; b"" is the end
        self._waiting_bytes = 0
        self._blocked = False  # the sink takes no more for now
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
        if self._blocked or not self._waiting or self._connection.chaos.frozen:
            return False
        due = self._waiting[0][0]
        if due <= self._loop.time():
            return True
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._on_time)
        return False

    def _send(self) -> None:
        due, data = self._waiting.popleft()
        try:
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                self.ended = True
                self._connection.flow_ended()
                return
            sent = self._sink.send(data[: self._connection.bytes_left])
        except BlockingIOError:
            sent = 0
            self._blocked = True
        except OSError:
            self._connection.reset()
            return
        self._waiting_bytes -= sent
        if sent < len(data):
            self._waiting.appendleft((due, data[sent:]))
        self._connection.passed(self, sent)

    def _watch(self) -> None:
        frozen = self._connection.chaos.frozen
        read = not (frozen or self._source_ended or self._waiting_bytes >= BUFFER_BYTES_MAX)
        write = self._blocked and not frozen
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
        try:
            data = self._source.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._connection.reset()
            return
        self._source_ended = not data
        self._waiting.append((self._loop.time() + self._connection.chaos.delay_s, data))
        self._waiting_bytes += len(data)
        self.run()

    def _on_writable(self) -> None:
        self._blocked = False
        self.run()

    def _on_time(self) -> None:
        self._timer = None
        self.run()
