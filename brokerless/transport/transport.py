"""The links of a node, by number: what the rest of the node sees of its sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING

import zmq

from brokerless.errors import BusClosed, ConfigError, ForkedProcessError, StartError
from brokerless.transport.binding import bind, ipc_path
from brokerless.transport.descriptors import require_descriptors
from brokerless.transport.dialer import Dialer
from brokerless.transport.links import LinkSink, LinkTable
from brokerless.transport.listener import Listener
from brokerless.transport.push import Pull, Push
from brokerless.transport.udp import UdpSockets
from brokerless.transport.zap import ZapHandler

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.identity import Identity
    from brokerless.protocol.paths import UdpPlace

_log = logging.getLogger("dittobus")

START_DESCRIPTORS = 40
"""A context with its threads, the ROUTER, its monitor, the ZAP handler and the reserve take 14, the PULL with
its own 8, UDP 2; binding a few more, for a moment."""

SOCKETS_PER_PEER = 4
"""A DEALER, the two ends of its monitor, and a PUSH; an accepted link takes none."""

SOCKETS_BESIDE_PEERS = 32
"""The ROUTER and the PULL, the ends of their monitors and of the ZAP handler, and room for links that are
being closed and PUSHes that are being tried."""

PORT_MAX = 65535

TERM_TIMEOUT_S = 5.0
"""Closing a context takes milliseconds, since nothing lingers; a machine may be busy."""


class Transport:
    """Binds one ROUTER, dials with one DEALER each, and carries packets over the links that come of it.

    Beside them it carries datagrams: by UDP, and over TCP from a PUSH for each peer to that peer's one PULL.

    It lives on the loop it is started on, and belongs to that loop's thread and process. Commands: ``start``,
    ``dial``, ``send``, ``cut``, ``confirm``, ``send_datagram``, ``open_push``, ``send_push``, ``close_push``,
    ``close``. What happens is told to the ``sink``, from the loop.
    """

    def __init__(self, identity: Identity, sink: LinkSink, *, limits: Limits, packet_bytes_max: int) -> None:
        self._identity = identity
        self._limits = limits
        self._packet_bytes_max = packet_bytes_max
        self._sink = sink
        self._table = LinkTable(sink)
        self._process: int | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._zap: ZapHandler | None = None
        self._listener: Listener | None = None
        self._dialer: Dialer | None = None
        self._udp = UdpSockets(sink)
        self._pull: Pull | None = None
        self._pushes: dict[Address, Push] = {}
        self._ipc_path: str | None = None
        self.udp_places: tuple[str, ...] = ()
        self.pull_places: tuple[str, ...] = ()

    async def start(self, hosts: Sequence[str], port: int, ipc_directory: Path | None) -> tuple[str, ...]:
        """Listen on every host, on one port (0: any), and within this machine; return the endpoints of links.

        Where datagrams are received, ``udp_places`` (the same port) and ``pull_places`` (the next port) then
        say, as ``host:port``. Where UDP does not work, there are no such places, and a warning says why.

        A host is an IP address, "*" for all, or a wildcard; wildcards come back as such. ``ipc_directory``
        is one that only this user can enter. On an error everything is undone.

        Raises:
            PortInUse: another process holds the port.
            StartError: the machine has no such address, or no descriptors left, or libzmq has no CURVE.
            ConfigError: the loop cannot watch descriptors, or the path of the directory is too long.
        """
        if self._process is not None:
            raise BusClosed("a transport starts once", hint="make a new one")
        require_curve()
        self._process = os.getpid()
        try:
            return self._open(asyncio.get_running_loop(), hosts, port, ipc_directory)
        except BaseException:
            await self.close()
            raise

    def _open(
        self, loop: asyncio.AbstractEventLoop, hosts: Sequence[str], port: int, ipc_directory: Path | None
    ) -> tuple[str, ...]:
        require_descriptors(START_DESCRIPTORS)
        # One I/O thread: the order of its events and messages is what the listener builds on.
        context = self._context = zmq.Context(io_threads=1)
        sockets = SOCKETS_PER_PEER * self._limits.peers_max + SOCKETS_BESIDE_PEERS
        context.set(zmq.MAX_SOCKETS, min(sockets, context.get(zmq.SOCKET_LIMIT)))
        parts = (loop, context, self._identity, self._table, self._limits, self._packet_bytes_max)
        try:
            self._zap = ZapHandler(loop, context, self._sink.permits_push)
            self._listener = Listener(*parts)
            self._pull = Pull(loop, context, self._identity, self._sink, self._limits)
            self._dialer = Dialer(*parts)
        except NotImplementedError as error:
            raise ConfigError(
                f"{type(loop).__name__} cannot watch sockets", hint="use a selector event loop"
            ) from error
        except zmq.ZMQError as error:
            raise StartError(f"cannot open sockets: {error.strerror}") from error
        endpoints = bind(self._listener.socket, hosts, port, ipc_directory)
        self._ipc_path = next(filter(None, map(ipc_path, endpoints)), None)
        self._open_datagrams(self._pull, loop, hosts, port)
        return endpoints

    def _open_datagrams(
        self, pull: Pull, loop: asyncio.AbstractEventLoop, hosts: Sequence[str], port: int
    ) -> None:
        self.pull_places = pull.bind(hosts, port + 1 if 0 < port < PORT_MAX else 0)
        try:
            self.udp_places = self._udp.open(hosts, port, loop)
        except StartError as error:
            _log.warning("no UDP: %s; datagrams go over TCP, where they may be late", error)

    @property
    def links(self) -> Collection[int]:
        """The numbers of the living links, those being dialled among them."""
        return self._table.numbers

    def is_local(self, link: int) -> bool:
        """True for a living link within this host, by ipc."""
        holder = self._table.get(link)
        return holder is not None and holder.is_local

    def is_near(self, link: int) -> bool:
        """True for a living link within this host, by ipc or to an address on loopback."""
        holder = self._table.get(link)
        return holder is not None and holder.is_near

    def dial(self, endpoint: str, server: Address) -> int:
        """Begin to connect to that peer, and return the number of the link that is to be.

        ``link_opened`` follows if the peer proves to hold the key, else ``link_closed`` with a reason, within
        the handshake timeout. Raises ``StartError`` when no descriptors are left, ``ConfigError`` for an
        endpoint that is none, ``BusClosed`` and ``ForkedProcessError``.
        """
        self._check_process()
        if self._dialer is None:
            raise BusClosed("the transport is not open")
        return self._dialer.dial(endpoint, server)

    def send(self, link: int, packet: bytes) -> bool:
        """Hand a packet to the link; True says that libzmq has it, not that it arrives.

        False: the link is busy, and ``link_writable`` follows; do not try before. Or it is dead: then
        ``link_closed`` follows, unless it came already or the link was cut.
        """
        holder = self._table.get(link)
        return holder is not None and holder.send(packet)

    def cut(self, link: int) -> None:
        """Break the link at once; nothing more is told of it. What was just sent may be lost."""
        holder = self._table.remove(link)
        if holder is not None:
            holder.cut()

    def confirm(self, link: int) -> None:
        """The other end said HELLO properly. Otherwise an accepted link is cut at the handshake timeout."""
        holder = self._table.get(link)
        if holder is not None:
            holder.confirm()

    # Datagrams

    def send_datagram(self, place: UdpPlace, data: bytes) -> bool:
        """Send by UDP, or drop; False if there was no room. True says nothing about its arrival."""
        return self._udp.send(place, data)

    def open_push(self, remote: Address, places: Sequence[str]) -> None:
        """Begin to connect to one of these places of that peer's PULL (``host:port``, addresses only).

        Done already for the same places, this does nothing. Once connected, the connection is kept up until
        ``close_push``; whether it stands, only ``send_push`` tells. Raises ``BusClosed``,
        ``ForkedProcessError``.
        """
        self._check_process()
        if self._context is None:
            raise BusClosed("the transport is not open")
        known = self._pushes.get(remote)
        if known is not None:
            if known.places == tuple(places):
                return
            known.close()
        loop = asyncio.get_running_loop()
        self._pushes[remote] = Push(loop, self._context, self._identity, remote, places)

    def send_push(self, remote: Address, data: bytes) -> bool:
        """Send over that peer's PUSH, or drop; False if it has no room, or no connection. Never waits."""
        push = self._pushes.get(remote)
        return push is not None and push.send(data)

    def close_push(self, remote: Address) -> None:
        """Hang up on that peer's PULL, if there is a connection. What was not sent is lost."""
        push = self._pushes.pop(remote, None)
        if push is not None:
            push.close()

    async def close(self) -> None:
        """Hang up on everybody and let go of everything. From now on nothing is told. Twice does no harm."""
        self._table.clear()
        context, self._context = self._context, None
        if context is None or self._process != os.getpid():
            return  # the sockets of a forked child are its parent's
        # The handler came first and goes last, so that nobody is at the door without it.
        for part in (*self._pushes.values(), self._udp, self._dialer, self._pull, self._listener, self._zap):
            if part is not None:
                part.close()
        self._pushes.clear()
        self._dialer = self._pull = self._listener = self._zap = None
        await _terminate(context)
        _remove(self._ipc_path)

    def _check_process(self) -> None:
        if self._process is not None and self._process != os.getpid():
            raise ForkedProcessError(
                "the transport was opened in another process", hint="make a new one after fork()"
            )


def require_curve() -> None:
    """Raise ``StartError`` unless this libzmq will do."""
    if not zmq.has("curve") or zmq.zmq_version_info() < (4, 3, 3):
        raise StartError(
            f"libzmq {zmq.zmq_version()} does not serve: 4.3.3 or newer with CURVE is needed",
            hint="install pyzmq from PyPI",
        )


def _remove(path: str | None) -> None:
    """Remove the file of an ipc endpoint, if libzmq has left it."""
    if path is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)


async def _terminate(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """End the context's threads. That can wait, and so must not happen on the loop."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def terminate() -> None:
        context.term()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=terminate, name="brokerless-terminate", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # from Python 3.12 on, the exit of the interpreter allows no new thread
        context.term()
        return
    try:
        async with asyncio.timeout(TERM_TIMEOUT_S):
            await done.wait()
    except TimeoutError:
        _log.warning("ZeroMQ did not let go within %g s", TERM_TIMEOUT_S)
    else:
        thread.join()  # it has nothing left to do
