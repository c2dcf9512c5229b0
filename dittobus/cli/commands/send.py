"""``dittobus send``: single messages to a peer."""

from __future__ import annotations

import os
from contextlib import ExitStack
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
from dittobus.cli.output import label, note, print_json, print_line, seconds, size
from dittobus.cli.peer import find_peer
from dittobus.cli.running import run
from dittobus.cli.worker import read_chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dittobus import Peer

STDIN = 0

DASH = "-"
"""Stands for stdin, as it does for all who know pipes."""

app = command_app()


@app.command()
@with_options(BusOptions)
def send(
    options: BusOptions,
    wanted: PeerName,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT", help="The message; '-', or nothing: it is read from stdin.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Send this file; '-' is stdin.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Send each line as a message of its own.")] = False,
    reliability: ReliabilityName = Reliability.RELIABLE,
    channel: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="The channel of the messages.")] = 0,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> int:
    """Send a single message, or one for each line, to a peer.

    Waits until the peer's bus has acknowledged it; what is not reliable is only transmitted, and may be lost.
    """
    if text == DASH and file is None:
        text = None
    if text is not None and (file is not None or lines):
        raise exits.Failed("the message is either TEXT, or in a file or stdin", exits.USAGE)
    with ExitStack() as stack:
        if file is None or str(file) == DASH:
            source = STDIN
        else:
            source = stack.enter_context(file.open("rb", buffering=0)).fileno()
        messages = _text(text) if text is not None else _lines(source) if lines else _whole(source)
        return run(_send(options, wanted, messages, reliability, channel, timeout, as_json))


async def _send(
    options: BusOptions,
    wanted: str,
    messages: AsyncIterator[bytes],
    reliability: Reliability,
    channel: int,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
    as_json: bool,
) -> int:
    count = total = 0
    async with options.bus("send") as bus:
        peer = await find_peer(bus, wanted, timeout)
        begun = perf_counter()
        async for message in messages:
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


async def _text(text: str) -> AsyncIterator[bytes]:
    yield os.fsencode(text)  # as it was on the command line, whatever that is


async def _whole(source: int) -> AsyncIterator[bytes]:
    """Give everything as one message."""
    _prompt(source, "reading the message from the terminal, until Ctrl-D")
    message = bytearray()
    async for chunk in read_chunks(source):
        message += chunk
        _check(message)
    yield bytes(message)


async def _lines(source: int) -> AsyncIterator[bytes]:
    """Give each line, as soon as it is there."""
    _prompt(source, "sending each line from the terminal, until Ctrl-D")
    begun = bytearray()
    async for chunk in read_chunks(source):
        first, *rest = chunk.split(b"\n")
        for following in rest:
            yield bytes(begun + first)
            begun.clear()
            first = following
        begun += first
        _check(begun)
    if begun:
        yield bytes(begun)


def _prompt(source: int, words: str) -> None:
    """Tell whoever is to type the message that it is waited for."""
    if os.isatty(source):
        note(words)


def _check(message: bytearray) -> None:
    limit = Limits().message_bytes_max
    if len(message) > limit:
        hint = "send it with 'dittobus copy' or 'dittobus cat'"
        raise exits.Failed(f"more than {limit} bytes are too many for one message; {hint}", exits.USAGE)
