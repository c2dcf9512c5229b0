"""A node: the asyncio shell around ``NodeCore``, the transport and the discoveries.

Authors of other faces build on this; users hold ``dittobus``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from brokerless.address import TICKET_ENDPOINTS_MAX, Ticket
from brokerless.admission import Admission
from brokerless.clock import now as read_clock
from brokerless.datagram_port import TransportPort, told_places
from brokerless.discovery import Beacon
from brokerless.discovery.several import Several, choose
from brokerless.errors import BusClosed, ConfigError, ForkedProcessError, IdentityInUse, StartError
from brokerless.identity import Identity
from brokerless.interfaces import AddressWatch, expand_wildcards
from brokerless.private_files import make_private_directory
from brokerless.protocol import actions, wire
from brokerless.protocol.core import NodeCore
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.incarnation import Incarnation
from brokerless.pump import Pump
from brokerless.transport import Transport, fits_ipc
from brokerless.trust import MeshTrust, mesh_key, private_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from brokerless.address import Address
    from brokerless.config import Limits, NodeConfig
    from brokerless.discovery import Hint
    from brokerless.errors import PeerRefused
    from brokerless.model import Event, Message, NodeStats, Offer, Peer, PeerStats, Reliability
    from brokerless.protocol.actions import Action
    from brokerless.protocol.stream import Stream
    from brokerless.tapped import Tap

_log = logging.getLogger("dittobus")

LOOPBACK = ("127.0.0.1",)
"""Where a bus without a secret listens: it serves this user's processes on this host."""

FLUSH_S = 0.2
"""How long the goodbyes may take at close: who hears one hangs up, mostly within a millisecond. A peer that
does not will notice by itself."""

REFUSAL_INTERVAL_S = 60.0
"""Between two warnings of the same refusal by the same peer, which is dialled every few seconds."""

REFUSALS_MAX = 1024
"""Refusals remembered for that; with more of them the log is not what needs care."""

DRAIN_LOOK_S = 0.005
"""How often a closing node looks whether it is done."""


class Node:
    """One node of a mesh, on the running asyncio loop; never blocks, and is not thread safe.

    ``on_events`` gets everything that happens, in order, a batch per turn of the loop. ``on_closed``, if set,
    is called when the node had to close by itself; ``failure`` then says why.

    >>> node = Node(NodeConfig(name="camera"), on_events=print)
    >>> await node.start()
    >>> await node.close()
    """

    def __init__(self, config: NodeConfig, on_events: Callable[[Sequence[Event]], None]) -> None:
        """Check the configuration; nothing is opened yet. Raises ``ConfigError``, ``IdentityInUse``."""
        self._config = config
        self._on_events = on_events
        self.on_closed: Callable[[], None] | None = None
        self.tap: Tap | None = None
        """Shown every packet, as ``brokerless.tapped.Tap`` says. Set it before ``start``."""
        self.failure: StartError | None = None
        self._owns_identity = not isinstance(config.identity, Identity)
        if isinstance(config.identity, Identity):
            self._identity = config.identity
        else:
            self._identity = Identity.generate() if config.identity is None else _load(config.identity)
        self.address: Address = self._identity.address
        self._core: NodeCore | None = None
        self._pump: Pump | None = None
        self._transport: Transport | None = None
        self._trust: MeshTrust | None = None
        self._discovery: Several | None = None
        self._watch: AddressWatch | None = None
        self._following = asyncio.Lock()  # one change of the network after the other
        self._endpoints: tuple[str, ...] = ()
        self._name, self._metadata = config.name, config.metadata
        self._admission: Admission | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusals: dict[tuple[Address | None, str], float] = {}  # when they were warned of
        self._pid = os.getpid()
        self._started = False
        self._closed = False
        self._acknowledged = True
        self._gone = asyncio.Event()  # nothing is left of it

    # Life

    async def start(self) -> None:
        """Bind, listen and announce. Raises ``StartError`` (``PortInUse``, …) with everything undone."""
        self._check_process()
        if self._started or self._closed:
            raise BusClosed("a node starts once", hint="make a new one")
        self._started = True
        try:
            await self._open(asyncio.get_running_loop())
        except BaseException:
            await _to_its_end(self._abandon(asyncio.current_task()))
            raise

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        directory = await self._derive_trust(loop)
        self._require_open()
        assert self._trust is not None
        config = self._config
        self._discovery = choose(config, self._hosts, directory)
        port = TransportPort()
        plane = DatagramPlane(port, config.limits.unreliable_queue_bytes_max)
        self._core = NodeCore(
            address=self.address,
            incarnation=Incarnation(
                self._identity.secret, boot=secrets.randbits(63) + 1, began_us=time.time_ns() // 1000
            ),
            mesh_key=self._trust.key,
            limits=config.limits,
            wake=self._wake,
            name=self._name,
            metadata=self._metadata,
            asks_admission=callable(config.admit),
            allowed=None if config.admit is None or callable(config.admit) else frozenset(config.admit),
            plane=plane,
            gossips=self._discovery.gossips,
        )
        if callable(config.admit):
            self._admission = Admission(config.admit, config.limits.admit_timeout_s)
        self._pump, self._transport = self._shell(self._core)
        place = _ipc_directory(directory)
        self._endpoints = await self._transport.start(self._hosts, config.port, place)
        port.transport = self._transport
        self._tell_datagram_places()
        self._pump.start(loop, self._transport)
        self._watch = AddressWatch(self._hosts, self._network_changed)
        self._watch.start(loop)
        self._lend_sessions(self._core, self._pump)
        async with self._following:
            await self._discovery.start(self._beacon(), self._learn)
        self._require_open()

    def _shell(self, core: NodeCore) -> tuple[Pump, Transport]:
        """Make what moves the core's packets; a tap costs nothing where there is none."""
        limits, bytes_max = self._config.limits, wire.PACKET_BYTES_MAX
        if self.tap is None:
            pump = Pump(core, self._deliver, self._act)
            return pump, Transport(self._identity, pump, limits=limits, packet_bytes_max=bytes_max)
        from brokerless.tapped import TappedPump, TappedTransport

        tapped = TappedPump(core, self._deliver, self._act, self.tap)
        return tapped, TappedTransport(
            tapped, self.tap, self._identity, tapped, limits=limits, packet_bytes_max=bytes_max
        )

    def _require_open(self) -> None:
        if self._closed:
            raise BusClosed("the bus was closed while it started")

    async def _derive_trust(self, loop: asyncio.AbstractEventLoop) -> Path:
        config = self._config

        def derive() -> tuple[MeshTrust, Path]:
            # Keys first: a passphrase costs 0.1 s of hashing, and files may be slow; not on the loop.
            given = config.directory
            if given is not None:  # absolute, since others have to find what is in it
                given = make_private_directory(Path(given).absolute())
            trust = mesh_key(config.mesh, config.secret, config.trust, given)
            return trust, given or private_directory()

        self._trust, directory = await loop.run_in_executor(None, derive)
        return directory

    @property
    def _hosts(self) -> Sequence[str]:
        if self._config.interfaces is not None:
            return self._config.interfaces
        assert self._trust is not None
        return LOOPBACK if self._trust.scope == "host" else ("*",)

    def _lend_sessions(self, core: NodeCore, pump: Pump) -> None:
        """Let gossip travel in them."""
        assert self._discovery is not None

        def tell_places(places: str) -> None:
            core.tell_places(places, pump.now())
            pump.wake()

        self._discovery.carry(tell_places, lambda: core.stats().rejected_records)

    def _tell_datagram_places(self) -> None:
        """Say where datagrams are received, now that we know, or anew."""
        assert self._core is not None
        assert self._pump is not None
        assert self._transport is not None
        advertised = self._config.advertise
        udp_places = told_places(self._transport.udp_places, advertised)
        pull_places = told_places(self._transport.pull_places, advertised, ports_on=1)
        self._core.tell_datagram_places(udp_places, pull_places, self._pump.now())

    def _network_changed(self) -> None:
        self._start_task(self._follow_network())

    async def _follow_network(self) -> None:
        """Addresses of this host have come or gone: tell who talks with us, and who looks for us.

        What listens goes on: sockets that are bound to all addresses serve the new ones, too, and those bound
        to one serve it again when it is back. A link whose address is gone is found dead by its session,
        which dials anew.
        """
        assert self._discovery is not None
        async with self._following:
            self._tell_datagram_places()
            _log.info("addresses of this host have changed; others may try %s", ", ".join(self._places))
            await self._discovery.announce(self._beacon())

    def _beacon(self) -> Beacon:
        assert self._core is not None
        assert self._trust is not None
        return Beacon(self.address, self._places, self._core.boot, self._trust.key)

    @property
    def _places(self) -> tuple[str, ...]:
        """Where others may try us."""
        return tuple(self._config.advertise) or expand_wildcards(self._endpoints)

    async def close(self, timeout: float | None = 5.0) -> bool:  # noqa: ASYNC109 - it drains, never raises
        """Finish what is under way, say goodbye, and let go of everything.

        Returns True if everything sent was acknowledged within ``timeout`` seconds (None: no limit). Streams
        that were finished or closed are drained to their end. Of all others, too, the peer gets what was
        sent; then they end in ``PeerLost`` there and in ``BusClosed`` here: nobody has said that it was all.
        Closing twice is harmless: who comes later waits for the first. Where that is cancelled, what is under
        way is dropped. After it returns no event is delivered.
        """
        if os.getpid() != self._pid:
            return True  # in a forked child all belongs to the parent
        if self._closed:
            await self._gone.wait()
            return self._acknowledged
        self._closed = True
        try:
            await self._drain(timeout)
        finally:
            await _to_its_end(self._part(asyncio.current_task()))
        return self._acknowledged

    async def _drain(self, timeout: float | None) -> None:  # noqa: ASYNC109 - it never raises
        core = self._core
        if core is None or self._pump is None:
            return
        deadline = None if timeout is None else read_clock() + timeout
        core.leave(deadline)
        self._acknowledged = False
        self._acknowledged = await self._until(lambda: core.is_drained, deadline)

    async def _part(self, spared: asyncio.Task[None] | None) -> None:
        """Say goodbye, and let go of everything."""
        core, pump = self._core, self._pump
        try:
            if core is not None and pump is not None:
                core.farewell(pump.now())
                await self._until(lambda: core.has_parted, read_clock() + FLUSH_S)
        finally:
            await self._abandon(spared)

    async def _until(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        """Turn the pump until the condition holds; False if the time is up first."""
        assert self._pump is not None
        self._pump.turn()
        while not condition():
            await asyncio.sleep(DRAIN_LOOK_S)
            # The clock first: a last turn ends what is given up at the deadline, and leaves nothing to await.
            is_late = deadline is not None and read_clock() >= deadline
            self._pump.turn()
            if is_late:
                return False
        return True

    async def _abandon(self, spared: asyncio.Task[None] | None) -> None:
        """Let go of everything, whatever state it is in; the spared task is the one that waits for this."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()
        if self._pump is not None:
            self._pump.stop()
        tasks = self._tasks - {spared}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=FLUSH_S)
        if self._discovery is not None:
            await self._discovery.close()
        if self._transport is not None:
            await self._transport.close()
        if self._owns_identity:
            self._identity.release()
        self._gone.set()

    # Queries

    @property
    def limits(self) -> Limits:
        """The limits that the node was made with."""
        return self._config.limits

    @property
    def name(self) -> str:
        """What peers see as our name; may be set while running."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._announce(dataclasses.replace(self._config, name=name).name, self._metadata)

    @property
    def metadata(self) -> bytes:
        """What peers see beside the name; may be set while running."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: bytes) -> None:
        self._announce(self._name, dataclasses.replace(self._config, metadata=metadata).metadata)

    def _announce(self, name: str, metadata: bytes) -> None:
        self._name, self._metadata = name, metadata
        if self._core is not None and self._pump is not None and not self._closed:
            self._core.announce(name, metadata, self._pump.now())

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Snapshots of everybody known and not lost."""
        return () if self._core is None or self._closed else self._core.peers

    def peer(self, address: Address) -> Peer | None:
        """Return a snapshot of that peer, or None."""
        return None if self._core is None or self._closed else self._core.peer(address)

    def peer_stats(self, address: Address) -> PeerStats | None:
        """Return the counters of the present conversation with that peer, or None."""
        session = None if self._core is None else self._core.session(address)
        return None if session is None else session.stats()

    def ticket(self) -> Ticket:
        """Return what another node needs to dial this one. Raises ``BusClosed`` before ``start``."""
        self._running()
        places = [place for place in self._places if place.startswith("tcp:")]
        return Ticket(self.address, tuple(places[:TICKET_ENDPOINTS_MAX]))

    def stats(self) -> NodeStats:
        """Return the counters of the node."""
        stats = self._running()[0].stats()
        assert self._discovery is not None
        return dataclasses.replace(stats, rejected_records=self._discovery.rejected)

    # Commands

    def send(
        self,
        data: bytes,
        to: Address,
        reliability: Reliability,
        channel: int = 0,
        timeout: float | None = 10.0,
    ) -> int:
        """Send a single message; ``SendDone`` with the returned id follows exactly once.

        An unreliable one is transmitted at once or not at all: ``timeout`` is not for it. Raises
        ``MessageTooLarge``, ``SendQueueFull``, ``UnknownPeer``, ``PeerLost``, ``BusClosed``.
        """
        core, now = self._running()
        return core.send(data, to, reliability, channel, None if timeout is None else now + timeout, now)

    def transmit(self, data: bytes, to: Address, reliability: Reliability, channel: int = 0) -> None:
        """Send a single unreliable message, now or not at all; no event follows.

        For whoever can be told at once, which ``send`` would take a turn of the loop for. Raises ``NoPath``,
        ``SendQueueFull``, and what ``send`` does.
        """
        core, now = self._running()
        core.transmit(data, to, reliability, channel, now)

    def open_stream(
        self, to: Address, reliability: Reliability, name: str, metadata: bytes, timeout: float | None = 10.0
    ) -> Stream:
        """Offer a stream; ``StreamOpened`` or ``StreamEnded`` follows. It takes messages at once."""
        core, now = self._running()
        if len(name.encode()) > self._config.limits.name_bytes_max:
            raise ConfigError(f"name: at most {self._config.limits.name_bytes_max} bytes in UTF-8")
        if len(metadata) > self._config.limits.metadata_bytes_max:
            raise ConfigError(f"metadata: at most {self._config.limits.metadata_bytes_max} bytes")
        deadline = None if timeout is None else now + timeout
        return core.open_stream(to, reliability, name, metadata, deadline, now)

    def accept(self, offer: Offer, metadata: bytes = b"") -> Stream:
        """Take an offered stream; ``StreamOpened`` and what it has received follow."""
        core, _ = self._running()
        core.accept(offer.stream, metadata)
        return offer.stream

    def reject(self, offer: Offer, code: int = 0, reason: str = "") -> None:
        """Turn an offered stream down; its opener gets ``StreamRejected`` with both."""
        self._running()
        offer.stream.reject(code, reason)

    def close_stream(self, stream: Stream, timeout: float | None) -> None:
        """Close a stream, draining what it holds for at most ``timeout`` seconds; ``StreamEnded`` follows.

        Also while the node is being closed, until it has said goodbye.
        """
        self._check_process()
        if self._pump is not None:
            stream.close(None if timeout is None else self._pump.now() + timeout)

    def consume(self, message: Message) -> None:
        """The application is done with a single message: its sender may send more."""
        if not self._closed and message.origin is not None:
            message.origin.consume(1, len(message.data))

    def want(self, address: Address) -> None:
        """Dial a known peer, even where the mesh is too large to dial everybody."""
        core, now = self._running()
        core.want(address, now)

    def expect_datagrams(self, address: Address) -> None:
        """Find out which path takes datagrams to that peer, as a message would; ``PeerChanged`` tells it.

        Unasked, only UDP is tried when a peer joins: a connection for datagrams beside it costs both sides.
        """
        self._running()[0].expect_datagrams(address)

    def _running(self) -> tuple[NodeCore, float]:
        self._check_process()
        if self._core is None or self._pump is None or self._closed:
            raise BusClosed("the bus is not running", hint="start() it, or make a new one")
        return self._core, self._pump.now()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcessError(
                "this bus was made in another process", hint="make a new one after fork()"
            )

    # What the pump and the discoveries call

    def _wake(self) -> None:
        if self._pump is not None:
            self._pump.wake()

    def _deliver(self, events: Sequence[Event]) -> None:
        self._on_events(events)

    def _learn(self, hint: Hint) -> None:
        if self._core is None or self._pump is None or self._closed:
            return
        now = self._pump.now()
        self._core.learn(hint.address, hint.source, hint.endpoints, hint.boot, now, hint.ours)
        self._pump.wake()

    def _act(self, action: Action) -> None:
        assert self._transport is not None
        assert self._core is not None
        assert self._pump is not None
        match action:
            case actions.Dial(remote, endpoint):
                self._dial(remote, endpoint)
            case actions.Cut(link, reason):
                _log.debug("cutting link %d: %s", link, reason)
                self._transport.cut(link)
            case actions.Confirm(link):
                self._transport.confirm(link)
            case actions.Admit(link, peer):
                self._start_task(self._ask_admission(link, peer))
            case actions.Refused(error):
                self._warn_of_refusal(error, self._pump.now())
            case actions.Push(remote, places):
                if places:
                    self._transport.open_push(remote, places)
                else:
                    self._transport.close_push(remote)
            case actions.Superseded():
                self.failure = IdentityInUse(
                    "another live process has this identity", hint="give each process an identity of its own"
                )
                _log.error("closing: %s", self.failure)
                self._start_task(self._close_superseded())

    def _warn_of_refusal(self, error: PeerRefused, now: float) -> None:
        refusal = (error.peer, error.reason)
        if now - self._refusals.get(refusal, -REFUSAL_INTERVAL_S) >= REFUSAL_INTERVAL_S:
            if len(self._refusals) >= REFUSALS_MAX:
                self._refusals.clear()
            self._refusals[refusal] = now
            _log.warning("%s", error)

    def _dial(self, remote: Address, endpoint: str) -> None:
        assert self._transport is not None
        assert self._core is not None
        assert self._pump is not None
        try:
            link = self._transport.dial(endpoint, remote)
        except OSError as error:  # no descriptor left, an address that cannot be
            _log.debug("cannot dial %s: %s", endpoint, error)
            self._core.dial_failed(remote, endpoint, self._pump.now())
        else:
            self._core.dialled(link, remote, endpoint, self._pump.now())

    def _start_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_superseded(self) -> None:
        await self.close(timeout=0)
        if self.on_closed is not None:
            self.on_closed()

    async def _ask_admission(self, link: int, peer: Peer) -> None:
        assert self._admission is not None
        refusal = await self._admission.refusal(peer)
        if self._core is not None and self._pump is not None and not self._closed:
            self._core.admitted(link, refusal, self._pump.now())
            self._pump.wake()


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Wait until ``work`` is done, even if that is cancelled meanwhile: it takes effect afterwards."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _ipc_directory(directory: Path) -> Path | None:
    """Where sockets within the host are: with the rest, or, if that is too long a path, in the user's own."""
    if not fits_ipc(directory / "ipc"):
        directory = private_directory()
    return make_private_directory(directory / "ipc") if fits_ipc(directory / "ipc") else None


def _load(path: str | os.PathLike[str]) -> Identity:
    try:
        return Identity.load(path)
    except ConfigError as error:
        raise ConfigError(f"identity: {error.args[0]}", hint=error.hint) from None
