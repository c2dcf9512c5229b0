"""The table of commands, and what is the same for all of them: how they are found, run and ended."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dittobus import BusError
from dittobus.cli import exits

COMMANDS = {
    "peers": "Show who is there.",
    "listen": "Print the single messages that peers send.",
    "send": "Send a single message to a peer.",
    "cat": "Connect stdin and stdout to a peer by a stream, like netcat.",
    "copy": "Copy files to a peer, checked by SHA-256.",
    "top": "Watch peers, round trips, rates, streams and drops, live.",
    "ping": "Measure round trips to a peer, by each way there is.",
    "bench": "Measure throughput and latency between two hosts.",
    "keygen": "Make a file with a new identity, or with a new secret.",
    "ticket": "Print the ticket by which others reach a bus, or explain one.",
    "demo": "Show what the bus promises, with two peers in two processes.",
    "doctor": "Say why peers do not see each other, and what to do about it.",
    "tunnel": "Reach ports and Unix sockets of a peer as if they were here.",
    "version": "Print the version of DittoBus.",
}
"""Name and purpose of each; ``dittobus.cli.commands`` has a module for it, with a typer ``app``."""

# The root of what typer raises for a command line that it does not understand; it has no public name.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """Imports a command when it is asked for, so that the others cost nothing."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if self.commands.get(cmd_name) is None:
            module = importlib.import_module(f"dittobus.cli.commands.{cmd_name}")
            command = typer.main.get_command(module.app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As ever; a command that was mistyped is compared with all there are."""
        for name in COMMANDS:
            self.commands.setdefault(name, None)  # type: ignore[arg-type]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # typer would make an error of it
            raise typer.Exit(exits.end_of_pipe()) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    name="dittobus",
    cls=Commands,
    help="Messages and streams between processes, without a broker.",
    epilog=exits.EXPLAINED,
    rich_markup_mode=None,  # plain help needs no rich, which takes longer to import than all else together
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    _have_standard_streams()
    try:
        return app(arguments, prog_name="dittobus", standalone_mode=False) or exits.OK
    except _USAGE_ERROR as error:
        asked = error.ctx.command_path if error.ctx else "dittobus"
        said = error.format_message().replace("Value error, ", "")  # which is pydantic's word for itself
        return exits.complain(f"{_ended(said)} See {asked} --help.", exits.USAGE)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except (exits.Failed, BusError, OSError) as error:
        return exits.complain(exits.line_of(error), exits.code_of(error))


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith(("?", ".")) else f"{sentence}."


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    wants_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if wants_version:
        from dittobus.cli.commands.version import version

        raise typer.Exit(version())
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(exits.USAGE)


def _have_standard_streams() -> None:
    """Open those that are closed: else a socket gets the number of one, and is written to."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Its number is the lowest that is free, so this gets it.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
