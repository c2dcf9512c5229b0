"""``dittobus peers``: who is there."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from dittobus import PeerChanged, PeerForgotten, PeerJoined, PeerLeft, WaitTimeout
from dittobus.cli import exits
from dittobus.cli.options import AsJson, BusOptions, command_app, with_options
from dittobus.cli.output import (
    label,
    print_json,
    print_line,
    printable,
    seconds,
    share,
    table_lines,
)
from dittobus.cli.running import run
from dittobus.statistics import peer_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dittobus import Peer
    from dittobus.peers import PeerEvent

LOOK_S = 2.0
"""Somebody who was there before is heard of within 1.2 s at worst by multicast, and met in milliseconds."""

HEADINGS = ("ADDRESS", "STATE", "RELIABLE", "DATAGRAMS", "ROUND TRIP", "LOSS", "NAME")

_WORDS = {PeerJoined: "joined", PeerChanged: "changed", PeerForgotten: "forgotten", PeerLeft: "left"}

app = command_app()


@app.command()
@with_options(BusOptions)
def peers(
    options: BusOptions,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, and print what changes.")] = False,
    count: Annotated[
        int,
        typer.Option("--count", "-c", metavar="NUMBER", min=0, help="Look until so many are there."),
    ] = 0,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="How long to look for peers.")
    ] = LOOK_S,
    as_json: AsJson = False,
) -> int:
    """Show who is there.

    With --count, fewer than that end it with exit code 3. With --watch it prints a line for who is there
    and for each change, until it is interrupted.
    """
    return run(_watch(options, as_json) if watch else _list(options, count, timeout, as_json))


async def _list(options: BusOptions, count: int, timeout: float, as_json: bool) -> int:  # noqa: ASYNC109
    code = exits.OK
    async with options.bus("peers") as bus:
        if count:
            try:
                await bus.wait_for_peers(count, timeout)
            except WaitTimeout as error:
                code = exits.complain(str(error), exits.TIMEOUT)
        else:
            await asyncio.sleep(timeout)
        found = sorted(bus.peers, key=lambda peer: (peer.name, peer.address))
        if as_json:
            print_json({"peers": [peer_object(peer) for peer in found]})
        elif found:
            print_line("\n".join(table_lines(HEADINGS, [_row(peer) for peer in found])))
        elif not code:
            exits.complain("nobody is there; 'dittobus doctor' says why peers do not see each other")
    return code


async def _watch(options: BusOptions, as_json: bool) -> int:
    async with options.bus("peers") as bus:
        async for event in bus.peer_changes():
            if as_json:
                print_json(_event_object(event))
            else:
                print_line(f"{time.strftime('%H:%M:%S')}  {_event_line(event)}")
    return exits.OK


def _row(peer: Peer) -> Sequence[str]:
    return (
        peer.address.short,
        peer.state.value,
        peer.path.reliable.value,
        peer.path.datagram.value,
        seconds(peer.rtt_s),
        share(peer.loss),
        printable(peer.name),
    )


def _event_line(event: PeerEvent) -> str:
    peer = event.peer
    if isinstance(event, PeerLeft):
        how = event.reason.value
    else:
        how = f"{peer.state.value} by {peer.path.reliable.value}, datagrams by {peer.path.datagram.value}"
    return f"{_WORDS[type(event)]:9}  {peer.address.short}  {label(peer)} ({how})"


def _event_object(event: PeerEvent) -> dict[str, object]:
    said: dict[str, object] = {"event": _WORDS[type(event)], "peer": peer_object(event.peer)}
    if isinstance(event, PeerLeft):
        said["reason"] = event.reason.value
    return said
