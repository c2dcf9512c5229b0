"""``dittobus top``: the mesh as this node sees it, live."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dittobus.cli import exits
from dittobus.cli.options import AsJson, BusOptions, command_app, with_options
from dittobus.cli.output import (
    is_terminal,
    print_json,
    print_line,
    printable,
    seconds,
    share,
    size,
    table_lines,
)
from dittobus.cli.running import beside, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dittobus.aio import Bus

HEADINGS = ("PEER", "ADDRESS", "STATE", "ROUND TRIP", "JITTER", "LOSS", "IN", "OUT", "STREAMS", "DROPS")

STDIN = 0

app = command_app()


@app.command()
@with_options(BusOptions)
def top(
    options: BusOptions,
    interval: Annotated[
        float, typer.Option("--interval", "-i", metavar="SECONDS", min=0.1, help="Time between two looks.")
    ] = 1.0,
    count: Annotated[
        int, typer.Option("--count", "-c", metavar="NUMBER", min=0, help="End after so many; 0: go on.")
    ] = 0,
    as_json: AsJson = False,
) -> int:
    """Watch peers, round trips, rates, streams and drops, until q or Ctrl-C.

    It is a peer like any other, and shows its own conversations: with whom, by what way, how long round trips
    take, what comes and goes. Where stdout is no terminal, it prints a table after each interval.
    """
    return run(_top(options, interval, count, as_json))


async def _top(options: BusOptions, interval_s: float, count: int, as_json: bool) -> int:
    async with options.bus("top") as bus:
        if as_json or not is_terminal() or os.environ.get("TERM") == "dumb":
            watching = _print(bus, interval_s, count, print_json if as_json else _print_table)
        else:
            watching = _draw(bus, interval_s, count)
        await beside(watching, _take_messages(bus), _refuse_streams(bus))
    return exits.OK


async def _print(bus: Bus, interval_s: float, count: int, show: Callable[[dict[str, Any]], None]) -> None:
    from dittobus.cli.sampling import Sampler

    sampler = Sampler(bus)
    sampler.sample(monotonic())
    printed = 0
    while not count or printed < count:
        await asyncio.sleep(interval_s)
        show(sampler.sample(monotonic()))
        printed += 1


async def _draw(bus: Bus, interval_s: float, count: int) -> None:
    from rich.console import Console
    from rich.live import Live

    from dittobus.cli.picture import Picture
    from dittobus.cli.sampling import Sampler

    picture, sampler = Picture(), Sampler(bus)
    quitting = asyncio.Event()
    drawn = 0
    with _keys(quitting), Live(console=Console(), screen=True, auto_refresh=False) as live:
        while not quitting.is_set() and (not count or drawn < count):
            picture.take(sampler.sample(monotonic()))
            live.update(picture.draw(), refresh=True)
            drawn += 1
            try:
                async with asyncio.timeout(interval_s):
                    await quitting.wait()
            except TimeoutError:
                pass


@contextmanager
def _keys(quitting: asyncio.Event) -> Iterator[None]:
    """Set the event when q is pressed, where there are keys."""
    if sys.platform == "win32" or not os.isatty(STDIN):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(STDIN)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if b"q" in os.read(STDIN, 64).lower():
            quitting.set()

    tty.setcbreak(STDIN)
    loop.add_reader(STDIN, pressed)
    try:
        yield
    finally:
        loop.remove_reader(STDIN)
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


def _print_table(sample: dict[str, Any]) -> None:
    rows = [
        (
            printable(peer["name"]),
            peer["address"][:8],
            peer["state"],
            seconds(peer["rtt_s"]),
            seconds(peer["jitter_s"]),
            share(peer["loss"]),
            f"{size(peer.get('bytes_in_per_s', 0))}/s",
            f"{size(peer.get('bytes_out_per_s', 0))}/s",
            str(peer["streams"]),
            str(sum(peer["dropped"].values())),
        )
        for peer in sample["peers"]
    ]
    print_line("\n".join([*table_lines(HEADINGS, rows), ""]))


async def _take_messages(bus: Bus) -> None:
    async for _ in bus.messages():
        pass


async def _refuse_streams(bus: Bus) -> None:
    async for offer in bus.offers():
        await offer.reject(reason="'dittobus top' only looks on")
