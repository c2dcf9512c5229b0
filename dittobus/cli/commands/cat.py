"""``dittobus cat``: stdin and stdout over a stream, like netcat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dittobus.cli import exits, offers
from dittobus.cli.options import BusOptions, StreamName, Timeout, command_app, with_options
from dittobus.cli.peer import find_peer
from dittobus.cli.running import beside, run, together
from dittobus.cli.worker import Writer, read_chunks

if TYPE_CHECKING:
    from dittobus.aio import Stream

ONE_ONLY = "'dittobus cat' takes one stream only"

app = command_app()


@app.command()
@with_options(BusOptions)
def cat(
    options: BusOptions,
    wanted: Annotated[
        str, typer.Argument(metavar="PEER", help="Whom to open a stream to.", show_default=False)
    ] = "",
    listen: Annotated[bool, typer.Option("--listen", "-l", help="Take the first stream that comes.")] = False,
    stream: StreamName = "cat",
    timeout: Timeout = 10.0,
) -> int:
    """Send stdin to a peer over a stream, and print what comes back.

    The end of stdin ends this side's sending only; it is over when the other side has ended, too. There is
    'dittobus cat --listen', or a program that takes streams of that name.
    """
    if listen == bool(wanted):
        raise exits.Failed("either PEER, or --listen to be the peer of another", exits.USAGE)
    return run(_take(options, stream) if listen else _open(options, wanted, stream, timeout))


async def _open(options: BusOptions, wanted: str, name: str, timeout: float) -> int:  # noqa: ASYNC109
    async with options.bus("cat") as bus:
        peer = await find_peer(bus, wanted, timeout)
        stream = await bus.open_stream(peer, name=name, timeout=timeout)
        await beside(_converse(stream), offers.refuse(offers.other_offers(bus), ONE_ONLY))
    return exits.OK


async def _take(options: BusOptions, name: str) -> int:
    async with options.listening() as bus:
        offered = offers.other_offers(bus)
        async for offer in offered:
            if offer.name == name:
                await beside(_converse(await offer.accept()), offers.refuse(offered, ONE_ONLY))
                break
            await offer.reject(reason=f"only streams named {name!r} are taken here")
    return exits.OK


async def _converse(stream: Stream) -> None:
    """Carry everything both ways, until both sides have ended."""
    async with stream:
        await together(_send_input(stream), _print_output(stream))


async def _send_input(stream: Stream) -> None:
    async for chunk in read_chunks():
        await stream.send(chunk)
    await stream.finish()


async def _print_output(stream: Stream) -> None:
    writer = Writer()
    try:
        async for message in stream:
            await writer.write(message)
    finally:
        writer.close()
