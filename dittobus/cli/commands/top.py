"""``dittobus top``: the mesh as this node sees it, live."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dittobus.cli import exits, offers
from dittobus.cli.columns import COLUMNS, cells
from dittobus.cli.options import AsJson, BusOptions, Timeout, command_app, with_options
from dittobus.cli.output import is_terminal, print_json, print_line, table_lines
from dittobus.cli.running import beside, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dittobus.aio import Bus
    from dittobus.cli.looking import Look

STDIN = 0

ONLOOKER = "'dittobus top' only looks on"

app = command_app()


@app.command()
@with_options(BusOptions)
def top(
    options: BusOptions,
    wanted: Annotated[
        str, typer.Argument(metavar="PEER", help="Whose statistics to show.", show_default=False)
    ] = "",
    interval: Annotated[
        float, typer.Option("--interval", "-i", metavar="SECONDS", min=0.1, help="Time between two looks.")
    ] = 1.0,
    count: Annotated[
        int, typer.Option("--count", "-c", metavar="NUMBER", min=0, help="End after so many; 0: go on.")
    ] = 0,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> int:
    """Watch peers, round trips, rates, streams and drops, until q or Ctrl-C.

    Without PEER it shows the conversations of this command itself: who is there, by what way, and how long
    round trips take. With PEER it shows those of that peer, which must tell its statistics; all commands that
    listen do, and programs that bind 'dittobus.statistics'. Where stdout is no terminal, it prints a table
    after each interval.
    """
    return run(_top(options, wanted, interval, count, timeout, as_json))


async def _top(
    options: BusOptions,
    wanted: str,
    interval_s: float,
    count: int,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
    as_json: bool,
) -> int:
    from dittobus.cli.looking import looking

    async with options.bus("top") as bus, looking(bus, wanted, timeout) as look:
        if as_json or not is_terminal() or os.environ.get("TERM") == "dumb":
            watching = _print(look, interval_s, count, print_json if as_json else _print_table)
        else:
            watching = _draw(look, interval_s, count)
        await beside(watching, _take_messages(bus), offers.refuse(bus.offers(), ONLOOKER))
    return exits.OK


async def _print(look: Look, interval_s: float, count: int, show: Callable[[dict[str, Any]], None]) -> None:
    await look()  # rates are those since the look before
    printed = 0
    while not count or printed < count:
        await asyncio.sleep(interval_s)
        show(await look())
        printed += 1


async def _draw(look: Look, interval_s: float, count: int) -> None:
    from rich.console import Console
    from rich.live import Live

    from dittobus.cli.picture import Picture

    picture = Picture()
    quitting = asyncio.Event()

    async def redraw() -> None:
        drawn = 0
        while not count or drawn < count:
            picture.take(await look())
            live.update(picture.draw(live.console), refresh=True)
            drawn += 1
            await asyncio.sleep(interval_s)
        quitting.set()

    with _keys(quitting), Live(console=Console(), screen=True, auto_refresh=False) as live:
        await beside(quitting.wait(), redraw())  # a peer that is asked may take its time, a key may not


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
    rows = [list(cells(peer).values()) for peer in sample["peers"]]
    print_line("\n".join([*table_lines(COLUMNS, rows), ""]))


async def _take_messages(bus: Bus) -> None:
    async for _ in bus.messages():
        pass
