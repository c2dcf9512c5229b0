"""``dittobus listen``: the single messages that come."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from dittobus import DittoBusReliability as Reliability
from dittobus import statistics
from dittobus.cli import echo as echoing
from dittobus.cli import exits, offers
from dittobus.cli.options import AsJson, BusOptions, command_app, with_options
from dittobus.cli.output import printable
from dittobus.cli.running import beside, run
from dittobus.cli.worker import Writer
from dittobus.statistics import text_or_base64

if TYPE_CHECKING:
    from dittobus import DittoAddress
    from dittobus import DittoBusMessage as Message
    from dittobus.aio import Bus

NAMES_MAX = 4_096
"""As many as there are peers in a roster."""

ONLY_MESSAGES = "'dittobus listen' takes single messages only"

app = command_app()


@app.command()
@with_options(BusOptions)
def listen(
    options: BusOptions,
    echo: Annotated[bool, typer.Option("--echo", help="Answer 'dittobus ping', too.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the bytes of messages alone.")] = False,
    count: Annotated[
        int, typer.Option("--count", "-c", metavar="NUMBER", min=0, help="End after so many messages.")
    ] = 0,
    as_json: AsJson = False,
) -> int:
    """Print the single messages that peers send, until interrupted.

    Each is printed on a line: who sent it, and its text, in which what is not printable is escaped.
    """
    if raw and as_json:
        raise exits.Failed("--raw and --json: choose one", exits.USAGE)
    return run(_listen(options, echo, raw, count, as_json))


async def _listen(options: BusOptions, echo: bool, raw: bool, count: int, as_json: bool) -> int:
    metadata = echoing.METADATA if echo else b""
    async with options.listening(metadata=metadata) as bus:
        names = Names()
        others = [names.follow(bus)]
        if echo:  # beside bindings, other names are refused anyway
            bus.on_stream(echoing.STREAM, echoing.answer)
            bus.on_stream(statistics.STREAM, statistics.answers(bus))
        else:
            others.append(offers.refuse(offers.other_offers(bus), ONLY_MESSAGES))
        await beside(_print(bus, names, raw, count, as_json), *others)
    return exits.OK


class Names:
    """What peers are, or were, called: of a message whose sender has left by now, too."""

    def __init__(self) -> None:
        self._names: dict[DittoAddress, str] = {}

    async def follow(self, bus: Bus) -> None:
        """Take note of names until cancelled."""
        async for event in bus.peer_changes():
            if not event.peer.has_joined:  # it has not said yet what it is called
                continue
            self._names.pop(event.peer.address, None)  # so that the latest are last
            self._names[event.peer.address] = event.peer.name
            if len(self._names) > NAMES_MAX:
                del self._names[next(iter(self._names))]

    def of(self, address: DittoAddress) -> str:
        """Return the name of that peer, empty if there is none."""
        return self._names.get(address, "")


async def _print(bus: Bus, names: Names, raw: bool, count: int, as_json: bool) -> None:
    writer = Writer()
    printed = 0
    try:
        async for message in bus.messages():
            if raw:
                await writer.write(message.data)
            else:
                form = _json_line if as_json else _line
                await writer.write_made(partial(form, names.of(message.sender), message))
            printed += 1
            if printed == count:
                return
    finally:
        writer.close()


def _line(name: str, message: Message) -> bytes:
    try:
        text = printable(message.data.decode())
    except UnicodeDecodeError:
        text = f"{len(message.data)} bytes: {message.data.hex()}"
    how = "" if message.reliability is Reliability.RELIABLE else f" ({message.reliability.value})"
    line = f"{printable(name) or message.sender.short}{how}: {text}\n"
    return line.encode(errors="backslashreplace")


def _json_line(name: str, message: Message) -> bytes:
    content = {
        "sender": str(message.sender),
        "name": name,
        "reliability": message.reliability.value,
        "channel": message.channel,
        "bytes": len(message.data),
        **text_or_base64(message.data),
    }
    return f"{json.dumps(content)}\n".encode()
