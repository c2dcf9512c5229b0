"""``dittobus send``: single messages to a peer."""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 - typer looks at it
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from dittobus import DittoBusReliability as Reliability
from dittobus import Limits
from dittobus.cli import exits
from dittobus.cli.options import (
    AsJson,
    BusOptions,
    PeerName,
    ReliabilityName,
    Timeout,
    command_app,
    with_options,
)
from dittobus.cli.output import label, print_json, print_line, seconds, size
from dittobus.cli.peer import find_peer
from dittobus.cli.running import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from dittobus import Peer

app = command_app()


@app.command()
@with_options(BusOptions)
def send(
    options: BusOptions,
    wanted: PeerName,
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="The message; else it is read from stdin.", show_default=False),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="Send this file.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Send each line as a message of its own.")] = False,
    reliability: ReliabilityName = Reliability.RELIABLE,
    channel: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="The channel of the messages.")] = 0,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> int:
    """Send a single message, or one for each line, to a peer.

    Waits until the peer's bus has acknowledged it; what is not reliable is only transmitted, and may be lost.
    """
    if text is not None and (file is not None or lines):
        raise exits.Failed("the message is either TEXT, or in a file or stdin", exits.USAGE)
    with file.open("rb") if file is not None else _stdin() as source:
        messages = iter([os.fsencode(text)]) if text is not None else _messages(source, lines)
        return run(_send(options, wanted, messages, reliability, channel, timeout, as_json))


async def _send(
    options: BusOptions,
    wanted: str,
    messages: Iterator[bytes],
    reliability: Reliability,
    channel: int,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
    as_json: bool,
) -> int:
    count = total = 0
    # The network has a thread of its own, since reading may block.
    async with options.bus("send", io_thread=True) as bus:
        peer = await find_peer(bus, wanted, timeout)
        begun = perf_counter()
        for message in messages:
            await bus.send(message, peer, reliability, channel=channel, timeout=timeout)
            count, total = count + 1, total + len(message)
        took_s = perf_counter() - begun
    done = "acknowledged" if reliability is Reliability.RELIABLE else "transmitted"
    if as_json:
        print_json(
            {"peer": str(peer.address), "outcome": done, "messages": count, "bytes": total, "seconds": took_s}
        )
    else:
        print_line(_sentence(peer, done, count, total, took_s))
    return exits.OK


def _sentence(peer: Peer, done: str, count: int, total: int, took_s: float) -> str:
    by = "by" if done == "acknowledged" else "to"
    what = size(total) if count == 1 else f"{count:,} messages, {size(total)}"
    return f"{done} {by} {label(peer)} ({peer.address.short}): {what} in {seconds(took_s)}"


def _stdin() -> BinaryIO:
    return open(0, "rb", closefd=False)


def _messages(source: BinaryIO, lines: bool) -> Iterator[bytes]:
    """Iterate over what is to be sent, as it can be read."""
    if lines:
        yield from (line.removesuffix(b"\n") for line in source)
        return
    limit = Limits().message_bytes_max
    message = source.read(limit + 1)
    if len(message) > limit:
        hint = "send it with 'dittobus copy' or 'dittobus cat'"
        raise exits.Failed(f"more than {limit} bytes are too many for one message; {hint}", exits.USAGE)
    yield message
