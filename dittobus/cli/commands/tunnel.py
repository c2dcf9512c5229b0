"""``dittobus tunnel``: ports and sockets of one host, reached at another."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dittobus.cli import exits, offers
from dittobus.cli.options import AsJson, BusOptions, Timeout, command_app, with_options
from dittobus.cli.output import label, print_json, print_line, printable
from dittobus.cli.running import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dittobus import DittoAddress
    from dittobus.aio import Bus
    from dittobus.tunnel import Forward, Notice, Place, Route

app = command_app()

FIND_TIMEOUT_S = 10.0
"""For a peer that is not there when somebody connects: it may be about to come back."""

REPEATED_AFTER_S = 60.0
"""The same trouble is told once in so long: a browser tries again many times a second."""

TOLD_MAX = 1_000
"""Troubles remembered as told."""

AsUdp = Annotated[bool, typer.Option("--udp", help="UDP, where the end of an argument does not say /tcp.")]


@app.callback(invoke_without_command=True)
@with_options(BusOptions)
def tunnel(
    options: BusOptions,
    context: typer.Context,
    local: Annotated[
        list[str] | None,
        typer.Option(
            "-L",
            metavar="[BIND:]PORT:PEER:HOST:PORT",
            help="Listen on PORT, and connect to HOST:PORT at PEER; may be repeated. "
            "A path in place of a port, or of a host and port, is a Unix socket.",
        ),
    ] = None,
    udp: AsUdp = False,
    idle: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.001, help="How long a UDP client may be silent."),
    ] = 120.0,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> int:
    """Reach ports and sockets of a peer as if they were here.

    The peer runs 'dittobus tunnel expose HOST:PORT', and serves what it exposes and nothing else. Listens on
    127.0.0.1 unless BIND says otherwise. Port 0 takes any that is free, and prints it. UDP is written as
    PORT:PEER:HOST:PORT/udp, or chosen with --udp.
    """
    from dittobus.tunnel import Kind, Route

    if context.invoked_subcommand is not None:
        given = [name for name in context.params if _is_given(context, name)]
        if given:
            raise exits.Failed(f"write options after {context.invoked_subcommand!r}", exits.USAGE)
        return exits.OK
    if not local:
        raise exits.Failed("nothing to do: give -L, or 'expose'. See dittobus tunnel --help", exits.USAGE)
    routes = [Route.parse(text, Kind.UDP if udp else Kind.TCP) for text in local]
    return run(_listen(options, routes, idle, timeout, _Teller(as_json)))


@app.command()
@with_options(BusOptions)
def expose(
    options: BusOptions,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="HOST:PORT...", help="What peers may connect to; or a path.", show_default=False
        ),
    ],
    udp: AsUdp = False,
    as_json: AsJson = False,
) -> int:
    """Let peers connect to these ports and sockets.

    Whoever is in the mesh may use these, and no others. They are asked for just as they are written here.
    """
    from dittobus.tunnel import Kind, Place

    places = [Place.parse(text, Kind.UDP if udp else Kind.TCP).reachable() for text in targets]
    return run(_expose(options, places, _Teller(as_json)))


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


async def _expose(options: BusOptions, targets: Sequence[Place], teller: _Teller) -> int:
    from dittobus.tunnel import Exposure

    _allow_descriptors()
    async with options.listening() as bus:
        teller.exposing(bus, targets)
        await Exposure(bus, targets, teller.tell).run(offers.other_offers(bus))
        return _ended(bus)


async def _listen(
    options: BusOptions,
    routes: Sequence[Route],
    idle_s: float,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
    teller: _Teller,
) -> int:
    from dittobus.cli.peer import find_peer
    from dittobus.tunnel import Forward

    _allow_descriptors()
    async with options.bus("tunnel") as bus, contextlib.AsyncExitStack() as stack:
        forwards = []
        for route in routes:
            finder = _Finder(bus, route.peer)
            forward = Forward(bus, route.listen, finder.find, route.target, teller.tell, idle_s=idle_s)
            await _start(stack, forward)
            forwards.append(forward)
        for route, forward in zip(routes, forwards, strict=True):
            peer = await find_peer(bus, route.peer, timeout)
            teller.listening(forward.place, label(peer), peer.address, route.target)
        await offers.refuse(offers.other_offers(bus), "this is the end of a tunnel that listens")
        return _ended(bus)


async def _start(stack: contextlib.AsyncExitStack, forward: Forward) -> None:
    from dittobus.tunnel.exposure import said_by_system

    try:
        await stack.enter_async_context(forward)
    except OSError as error:
        raise exits.Failed(f"cannot listen on {forward.place}: {said_by_system(error)}") from None


def _ended(bus: Bus) -> int:
    """Say why the bus is closed, though nobody has closed it. Raises what has."""
    bus.stats()
    return exits.ERROR


class _Finder:
    """Finds the peer of a route again for each connection: the same one while it is there."""

    def __init__(self, bus: Bus, wanted: str) -> None:
        self._bus = bus
        self._wanted = wanted
        self._found: DittoAddress | None = None

    async def find(self) -> DittoAddress:
        from dittobus import UnknownPeer
        from dittobus.cli.peer import find_peer

        if self._found is not None:
            peer = self._bus.peer(self._found)
            if peer is not None and peer.has_joined:
                return self._found
        try:
            self._found = (await find_peer(self._bus, self._wanted, FIND_TIMEOUT_S)).address
        except exits.Failed as failure:
            raise UnknownPeer(str(failure)) from None
        return self._found


class _Teller:
    """Prints what becomes of a tunnel: where it begins; troubles for people, and everything as JSON."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._told: dict[str, float] = {}

    def exposing(self, bus: Bus, targets: Sequence[Place]) -> None:
        if self._as_json:
            content = {"name": bus.name, "address": str(bus.address), "ticket": str(bus.ticket())}
            print_json({"event": "exposing", "targets": [str(target) for target in targets], **content})
            return
        listed = ", ".join(map(str, targets))
        print_line(f"exposing {listed} as {printable(bus.name)} ({bus.address.short})")

    def listening(self, place: Place, peer: str, address: DittoAddress, target: Place) -> None:
        if self._as_json:
            content = {"listen": str(place), "peer": str(address), "target": str(target)}
            print_json({"event": "listening", **content})
        else:
            print_line(f"{place} leads to {target} at {peer} ({address.short})")

    def tell(self, notice: Notice) -> None:
        """Print a notice, unless it is none for people, or was told just now."""
        if self._as_json:
            print_json(_as_object(notice))
        elif (trouble := _trouble(notice)) and self._is_new(trouble):
            exits.complain(trouble)

    def _is_new(self, trouble: str) -> bool:
        now = time.monotonic()
        if now - self._told.get(trouble, -REPEATED_AFTER_S) < REPEATED_AFTER_S:
            return False
        if len(self._told) >= TOLD_MAX:
            self._told.clear()
        self._told[trouble] = now
        return True


def _as_object(notice: Notice) -> dict[str, Any]:
    from dittobus.tunnel import Began, Dropped, Ended, Failed, Refused

    match notice:
        case Began(way, peer):
            content: dict[str, Any] = {"peer": str(peer)}
        case Ended(way, error, sent, received):
            content = {"bytes_sent": sent, "bytes_received": received, "error": _why(error)}
        case Failed(way, error) | Dropped(way, error):
            content = {"error": _why(error)}
        case Refused(peer, reason):
            return {"event": "refused", "peer": str(peer), "reason": reason}
    event = type(notice).__name__.lower()
    return {"event": event, "origin": way.origin, "target": str(way.target), **content}


def _trouble(notice: Notice) -> str:
    """Return what people are told of; that connections begin, end and are reset is no trouble."""
    from dittobus import PeerLost, StreamRejected
    from dittobus.tunnel import Dropped, Ended, Failed, Refusal, Refused

    match notice:
        case Failed(way, StreamRejected(code=Refusal.NOT_EXPOSED)):
            return f"the peer does not expose {way.target}: name it there, after 'dittobus tunnel expose'"
        case Failed(_, StreamRejected() as error):
            return f"the peer says: {_why(error)}"
        case Failed(way, error):
            return f"no connection to {way.target}: {_why(error)}"
        case Ended(way, PeerLost() as error):
            return f"connections to {way.target} were reset: {error}"
        case Dropped(way, error):
            return f"datagrams for {way.target} were dropped: {_why(error)}"
        case Refused(peer, reason):
            return f"refused {peer.short}: {printable(reason)}"
    return ""


def _why(error: Exception | None) -> str | None:
    from dittobus import StreamRejected

    if error is None:
        return None
    if isinstance(error, StreamRejected):
        return printable(error.reason)
    return exits.line_of(error)


def _allow_descriptors() -> None:
    """Let this process have as many connections as it may, and not as many as is usual."""
    try:
        import resource
    except ImportError:  # where descriptors are not counted so
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
