"""``dittobus cat``: stdin and stdout over a stream, like netcat."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from dittobus.cli import exits, offers
from dittobus.cli.options import AsJson, BusOptions, StreamName, Timeout, command_app, with_options
from dittobus.cli.peer import find_peer
from dittobus.cli.running import beside, run, together
from dittobus.cli.worker import Writer, read_chunks
from dittobus.statistics import text_or_base64

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
    as_json: AsJson = False,
) -> int:
    """Send stdin to a peer over a stream, and print what comes back.

    The end of stdin ends this side's sending only; it is over when the other side has ended, too. There is
    'dittobus cat --listen', or a program that takes streams of that name. With --json, each message that
    comes is a line.
    """
    if listen == bool(wanted):
        raise exits.Failed("either PEER, or --listen to be the peer of another", exits.USAGE)
    if listen:
        return run(_take(options, stream, as_json))
    return run(_open(options, wanted, stream, timeout, as_json))


async def _open(
    options: BusOptions,
    wanted: str,
    name: str,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
    as_json: bool,
) -> int:
    async with options.bus("cat") as bus:
        peer = await find_peer(bus, wanted, timeout)
        stream = await bus.open_stream(peer, name=name, timeout=timeout)
        await beside(_converse(stream, as_json), offers.refuse(offers.other_offers(bus), ONE_ONLY))
    return exits.OK


async def _take(options: BusOptions, name: str, as_json: bool) -> int:
    async with options.listening() as bus:
        offered = offers.other_offers(bus)
        async for offer in offered:
            if offer.name == name:
                conversation = _converse(await offer.accept(), as_json)
                await beside(conversation, offers.refuse(offered, ONE_ONLY))
                break
            await offer.reject(reason=f"only streams named {name!r} are taken here")
    return exits.OK


async def _converse(stream: Stream, as_json: bool) -> None:
    """Carry everything both ways, until both sides have ended."""
    async with stream:
        await together(_send_input(stream), _print_output(stream, as_json))


async def _send_input(stream: Stream) -> None:
    async for chunk in read_chunks():
        await stream.send(chunk)
    await stream.finish()


async def _print_output(stream: Stream, as_json: bool) -> None:
    writer = Writer()
    try:
        async for message in stream:
            if as_json:
                await writer.write_made(partial(_line, message))
            else:
                await writer.write(message)
    finally:
        writer.close()


def _line(message: bytes) -> bytes:
    content = {"bytes": len(message), **text_or_base64(message)}
    return f"{json.dumps(content)}\n".encode()
