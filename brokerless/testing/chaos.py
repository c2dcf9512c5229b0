"""A proxy for TCP and UDP that misbehaves on command: what networks do to those who trust them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from brokerless.address import Address, Ticket
from brokerless.errors import ConfigError, PortInUse, StartError, UsageError
from brokerless.testing.chaos_direction import Datagram, Direction, Place
from brokerless.testing.chaos_fate import Disturbance, check_seconds
from brokerless.testing.chaos_target import PORT_MAX, PORTS_TRIED_MAX, place_of, reserved_port, resolved
from brokerless.testing.chaos_tcp import HOST, TcpDoor
from brokerless.testing.chaos_udp import UdpDoor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from brokerless.testing.chaos_target import Target

T = TypeVar("T")

COMMAND_TIMEOUT_S = 10.0
"""The loop has little to do; it answers at once, or something is wrong."""


class _Front(NamedTuple):
    """What stands before one target: a door for links, one on the next port for PULL, one for UDP."""

    links: TcpDoor
    pull: TcpDoor
    udp: UdpDoor


class Chaos:
    """A stretch of bad network: everything passes through it, TCP and UDP, and is disturbed as you say.

    Between two buses, so that they reach each other only through it::

        with Chaos(seed=7) as chaos:
            near = Bus("near", **chaos.near, ...)
            far = Bus("far", **chaos.far, ...)
            chaos.upstream.latency_s = 0.1  # what near sends to far
            chaos.blackhole()  # a pulled cable
            chaos.heal()
            chaos.reset()  # TCP RST, at both ends

    Or before one target, which may be a port, ``host:port``, ``tcp://host:port`` or a ticket. Clients connect
    to ``endpoint``, other buses by ``ticket``; a bus that is started on the target's port with
    ``advertise=[chaos.endpoint]`` sends everybody this way::

        async with Chaos(4000) as chaos:
            bus = Bus("client", peers=[chaos.ticket(server)], ...)

    ``upstream`` is the direction to the target, or to far; ``downstream`` the other one. Both begin
    undisturbed, may be changed at any time, and count what passes. What is random comes from ``seed``: the
    n-th datagram of the m-th client has the same fate in every run, and the m-th connection breaks at the
    same byte.

    ``with`` gives it a thread of its own; ``async with`` runs it on your loop, which must have
    ``add_reader`` then. Its commands may be called from any thread, and have taken effect when they return.
    It listens on 127.0.0.1, and refuses targets elsewhere unless ``loopback_only`` is False. ``port`` is
    where it listens for TCP and UDP, and for TCP on the next; 0: any.

    A target that does not read, or a black hole, is felt by a TCP sender as backpressure, since the proxy
    holds little. Where the target refuses a connection, its client is reset.
    """

    def __init__(
        self, target: Target | None = None, *, port: int = 0, seed: int = 0, loopback_only: bool = True
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < PORT_MAX:
            raise ConfigError(f"port: expected 0 to {PORT_MAX - 1}, got {port!r:.80}")
        self.seed = seed
        self._target = None if target is None else place_of(target)
        self._loopback_only = loopback_only
        self._port = port
        self.upstream = Direction(self._change, is_upward=True)
        """What goes to the target, or from near to far."""
        self.downstream = Direction(self._change, is_upward=False)
        """What goes to clients, or from far to near."""
        self._fronts: list[_Front] = []
        self._reserved = contextlib.ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._running = False
        self._flapping: asyncio.TimerHandle | None = None

    # Life

    async def __aenter__(self) -> Self:
        await self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def __enter__(self) -> Self:
        self._require_fresh()
        loop = asyncio.SelectorEventLoop()  # Windows' default has no add_reader
        self._thread = threading.Thread(target=loop.run_forever, name="chaos", daemon=True)
        self._thread.start()
        try:
            self._run(loop, self._enter())
        except BaseException:
            self._stop(loop)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = self._running_loop()
        try:
            self._do(self._leave)
        finally:
            self._stop(loop)

    def _run(self, loop: asyncio.AbstractEventLoop, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(COMMAND_TIMEOUT_S)

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._thread is not None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(COMMAND_TIMEOUT_S)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    async def _enter(self) -> None:
        self._require_fresh()
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        try:
            if self._target is None:
                for is_first in (True, False):
                    port = reserved_port(self._reserved)
                    self._open(socket.AF_INET, (HOST, port), (HOST, port + 1), is_first)
            else:
                family, links = await resolved(*self._target, self._loopback_only)
                host, port, *rest = links
                self._open(family, links, (host, min(port + 1, PORT_MAX), *rest), True)
        except BaseException:
            self._close()
            raise
        self._running = True

    def _require_fresh(self) -> None:
        if self._loop is not None:
            raise UsageError("a Chaos is entered once; make a new one")

    def _open(self, family: socket.AddressFamily, links: Any, pull: Any, is_first: bool) -> None:
        """Open a front before that target; the second is passed the other way round."""
        assert self._loop is not None
        up, down = self.upstream, self.downstream
        seed: object = self.seed
        if not is_first:
            up, down, seed = down, up, f"{self.seed} near"
        for _ in range(PORTS_TRIED_MAX):
            front = _Front(
                TcpDoor(family, links, up, down, seed),
                TcpDoor(family, pull, up, down, f"{seed} pull"),
                UdpDoor(family, links, up, down, seed, len(self._fronts)),
            )
            try:
                front.links.bind(self._loop, self._port if is_first else 0)
                if abs(front.links.port - links[1]) <= 1 and not self._port:
                    raise PortInUse("the target may yet want one of these ports for itself")
                front.pull.bind(self._loop, front.links.port + 1)
                front.udp.bind(self._loop, front.links.port)
                front.links.listen()
                front.pull.listen()
            except PortInUse:
                _close(front)
                if self._port and is_first:
                    raise
            except BaseException:
                _close(front)
                raise
            else:
                self._fronts.append(front)
                return
        raise StartError("found no port that is free together with the next one")

    def _leave(self) -> None:
        self._running = False
        self._close()

    def _close(self) -> None:
        if self._flapping is not None:
            self._flapping.cancel()
        for front in self._fronts:
            _close(front)
        self._reserved.close()

    # Who goes through it

    @property
    def port(self) -> int:
        """Where clients connect, on 127.0.0.1, by TCP and UDP; the same for as long as the context lasts."""
        return self._entered()[0].links.port

    @property
    def place(self) -> str:
        """The same as ``127.0.0.1:port``."""
        return f"{HOST}:{self.port}"

    @property
    def endpoint(self) -> str:
        """The same as ``tcp://127.0.0.1:port``: what a bus behind it advertises."""
        return f"tcp://{self.place}"

    def ticket(self, bus: Any) -> Ticket:
        """Return a ticket for the target: a bus, a peer, its address, or its own ticket, as text or not.

        It leads links here. Datagrams go where the target itself tells, see ``advertise``.
        """
        if isinstance(bus, str):
            bus = Ticket.parse(bus) if "://" in bus else Address.parse(bus)
        address = bus if isinstance(bus, Address) else getattr(bus, "address", None)
        if not isinstance(address, Address):
            raise ConfigError(f"bus: expected a bus, a peer, an address or a ticket, got {bus!r:.80}")
        return Ticket(address, (self.endpoint,))

    @property
    def far(self) -> dict[str, Any]:
        """Arguments (``port``, ``advertise``) for the bus that ``upstream`` leads to."""
        return self._arguments(0)

    @property
    def near(self) -> dict[str, Any]:
        """Arguments (``port``, ``advertise``) for the bus that ``downstream`` leads to."""
        return self._arguments(1)

    def _arguments(self, number: int) -> dict[str, Any]:
        if self._target is not None:
            raise UsageError("this Chaos has a target", hint="make one without, to stand between two buses")
        front = self._entered()[number]
        return {"port": front.links.address[1], "advertise": (f"tcp://{HOST}:{front.links.port}",)}

    # What it does to them

    def set(self, **settings: Any) -> None:
        """Assign settings of both directions, as ``chaos.set(latency_s=0.1, loss=0.01)``."""
        for direction in (self.upstream, self.downstream):
            direction.set(**settings)

    def disturb(self, disturbance: Disturbance) -> None:
        """Disturb both directions in this way; ``Disturbance()`` leaves both in peace."""
        self.upstream.disturbance = self.downstream.disturbance = disturbance

    def blackhole(self) -> None:
        """Let nothing pass, in both directions, as if a cable were pulled. Connections stay open.

        What waits in TCP passes after ``heal``; datagrams are gone.
        """
        self.set(blackhole=True)

    def reset(self) -> int:
        """Reset all connections at both ends (TCP RST); return how many. What is under way is lost."""

        def reset() -> int:
            count = self.connections_open
            for door in self._doors():
                door.reset()
            return count

        return self._do(reset)

    def reset_after(self, byte_count: int | None) -> None:
        """Reset each connection when that many bytes have passed in it, both directions together.

        They are counted from now in present connections, from the start in later ones. Exactly that many are
        handed to the receiving sockets. None ends it.
        """
        if byte_count is not None and (not isinstance(byte_count, int) or byte_count < 1):
            raise ConfigError(f"byte_count: expected 1 or more, or None, got {byte_count!r:.80}")

        def reset_after() -> None:
            for door in self._doors():
                door.reset_after(byte_count)

        self._do(reset_after)

    def off(self) -> None:
        """Reset connections, refuse new ones and swallow datagrams, as a host does whose service is gone."""
        self._do(self._off)

    def on(self) -> None:
        """Accept connections and datagrams again, at the same port."""
        self._do(self._on)

    def flap(self, on_s: float, off_s: float, *, refuses: bool = True) -> None:
        """Be on for ``on_s`` seconds, off for ``off_s``, and so on until ``heal``.

        Off means what ``off`` does; unless ``refuses``, what ``blackhole`` does.
        """
        check_seconds("on_s", on_s)
        check_seconds("off_s", off_s)

        def turn(goes_off: bool) -> None:
            if refuses:
                (self._off if goes_off else self._on)()
            else:
                self.set(blackhole=goes_off)
            wait_s = off_s if goes_off else on_s
            self._flapping = self._running_loop().call_later(wait_s, turn, not goes_off)

        def begin() -> None:
            self._end_flapping()
            turn(False)

        self._do(begin)

    def heal(self) -> None:
        """End every disturbance: from now on all passes as it comes. What was lost stays lost."""

        def heal() -> None:
            self._end_flapping()
            for door in self._doors():
                door.reset_after(None)
            self._on()
            self.disturb(Disturbance())

        self._do(heal)

    def _off(self) -> None:
        for door in self._doors():
            door.refuse()
        for front in self._fronts:
            front.udp.is_on = False

    def _on(self) -> None:
        for door in self._doors():
            door.listen()
        for front in self._fronts:
            front.udp.is_on = True

    def _end_flapping(self) -> None:
        if self._flapping is not None:
            self._flapping.cancel()
            self._flapping = None

    # Datagrams that come again, or from elsewhere

    def rebind(self, client: Place | None = None) -> None:
        """Give one client of UDP, or all, a new address towards the target. What comes to the old is lost."""

        def rebind() -> None:
            for front in self._fronts:
                front.udp.rebind(client)

        self._do(rebind)

    def replay(self, datagram: Datagram, *, from_elsewhere: bool = False) -> None:
        """Send a datagram where it was going, at once, undisturbed, as often as this is called.

        It comes from where the first came from, as the receiver sees it now, or from an address that the
        receiver has not heard of; what is replied to that is counted in ``replies_elsewhere`` and dropped.
        """
        is_to_target = datagram.is_upward == (datagram.front == 0)
        self._do(lambda: self._fronts[datagram.front].udp.replay(datagram, is_to_target, from_elsewhere))

    # What came of it

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return sum(door.connections for door in self._doors())

    @property
    def connections_open(self) -> int:
        """Connections open now."""
        return sum(len(door.open) for door in self._doors())

    @property
    def resets(self) -> int:
        """Connections that ended in a reset so far, whoever began it."""
        return sum(door.resets for door in self._doors())

    @property
    def clients(self) -> dict[Place, Place]:
        """The address of each client of UDP, and the one by which the target knows it."""
        if not self._running:
            return {}
        return self._do(lambda: {at: as_ for front in self._fronts for at, as_ in front.udp.clients.items()})

    @property
    def replies_elsewhere(self) -> int:
        """Datagrams that came to where ``replay`` sends from elsewhere."""
        return sum(front.udp.replies_elsewhere for front in self._fronts)

    def report(self) -> str:
        """Return in a few lines what it did so far, and does now."""
        return (
            f"seed {self.seed}, {self.connections} connections, {self.connections_open} of them open, "
            f"{self.resets} reset\nup:   {self.upstream}\ndown: {self.downstream}"
        )

    # The rest is private

    def _doors(self) -> list[TcpDoor]:
        return [door for front in self._fronts for door in (front.links, front.pull)]

    def _entered(self) -> list[_Front]:
        if not self._fronts:
            raise UsageError("the proxy has no port before it is entered with `with` or `async with`")
        return self._fronts

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or not self._running:
            raise UsageError("the proxy runs within `with` or `async with`")
        return self._loop

    def _change(self, change: Callable[[], None]) -> None:
        """Change a direction's settings, and let pass what may pass then."""
        if not self._running:  # nothing passes yet, or any more
            change()
            return

        def change_and_run() -> None:
            change()
            for door in self._doors():
                door.run()

        self._do(change_and_run)

    def _do(self, command: Callable[[], T]) -> T:
        """Run a command on the loop, whichever thread calls; return or raise what it does."""
        loop = self._running_loop()
        if threading.get_ident() == self._thread_id:
            return command()
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                outcome.set_result(command())
            except BaseException as error:
                outcome.set_exception(error)

        loop.call_soon_threadsafe(run)
        return outcome.result(COMMAND_TIMEOUT_S)


def _close(front: _Front) -> None:
    for door in front:
        door.close()
