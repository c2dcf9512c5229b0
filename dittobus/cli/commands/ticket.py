"""``dittobus ticket``: how others reach a bus that no discovery leads to."""

from __future__ import annotations

from typing import Annotated

import typer

from dittobus import Ticket
from dittobus.cli import exits
from dittobus.cli.options import AsJson, MeshOptions, command_app, with_options
from dittobus.cli.output import print_json, print_line
from dittobus.cli.running import run

app = command_app()


@app.command()
@with_options(MeshOptions)
def ticket(
    options: MeshOptions,
    show: Annotated[str, typer.Option(metavar="TICKET", help="Say what is in this ticket.")] = "",
    as_json: AsJson = False,
) -> int:
    """Print the ticket of a bus with this identity and port, for --peer and DITTOBUS_PEERS of others.

    A bus without an identity and a port of its own has another ticket each time. One that is running says its
    ticket itself: its identity and port cannot be had twice.
    """
    if show:
        return _print(Ticket.parse(show), explained=True, as_json=as_json)
    arguments = options.arguments()
    if "identity" not in arguments or "port" not in arguments:
        raise exits.Failed(
            "a ticket lasts as long as identity and port: give --identity FILE and --port PORT", exits.USAGE
        )
    return _print(run(_made(arguments)), explained=False, as_json=as_json)


async def _made(arguments: dict[str, object]) -> Ticket:
    from dittobus.aio import Bus

    # Nobody is to meet a bus that is there for a moment only.
    async with Bus(**{**arguments, "discovery": (), "peers": ()}) as bus:  # type: ignore[arg-type]
        return bus.ticket()


def _print(ticket: Ticket, *, explained: bool, as_json: bool) -> int:
    places = [endpoint.removeprefix("tcp://") for endpoint in ticket.endpoints]
    if as_json:
        print_json({"ticket": str(ticket), "address": str(ticket.address), "places": places})
    elif explained:
        print_line(f"address  {ticket.address}")
        print_line("\n".join(f"place    {place}" for place in places))
    else:
        print_line(str(ticket))
    return exits.OK
