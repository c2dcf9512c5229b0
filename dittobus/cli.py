"""The command ``dittobus``.

Results go to stdout, errors to stderr, in one line that says what to do. What a command needs is imported
when it runs, so that asking for help takes no time.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - typer looks at it when the command runs
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = 0
ERROR = 1
USAGE = 2
INTERRUPTED = 130
"""As shells say it: 128 and the number of SIGINT."""

EXIT_CODES = "Exit codes: 0 all went well, 1 it did not, 2 the command was not understood, 130 interrupted."

# The root of what typer raises for a command line that it does not understand; it has no public name.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="dittobus",
    help="Messages and streams between processes, without a broker.",
    epilog=EXIT_CODES,
    add_completion=False,
    rich_markup_mode=None,  # plain help needs no rich, which takes longer to import than all else together
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        code = app(arguments, prog_name="dittobus", standalone_mode=False) or OK
    except _USAGE_ERROR as error:
        return _complain(f"{error.format_message()} See dittobus --help.", USAGE)
    return _complain("interrupted", code) if code == INTERRUPTED else code


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE)


@app.command()
def demo(as_json: AsJson = False) -> int:
    """Show what the bus promises, with two peers in two processes.

    Each step is checked and timed. The demo fails, and says why, when one does not hold. Nothing leaves this
    machine.
    """
    from dittobus.demo.scenario import Scenario
    from dittobus.demo.show import shown
    from dittobus.demo.steps import as_object, failure, run_steps

    with _ended_like_interrupted(), Scenario() as scenario:
        steps = scenario.steps
        if as_json:
            run_steps(steps, lambda step: None)
        else:
            with shown(steps, sys.stdout) as on_change:
                run_steps(steps, on_change)
    if as_json:
        print(json.dumps(as_object(steps)))
    failed = failure(steps)
    return OK if failed is None else _complain(f"step {failed.name!r} failed: {failed.detail}", ERROR)


@app.command()
def doctor(
    as_json: AsJson = False,
    peer: Annotated[str, typer.Option(metavar="TICKET", help="Go the way to this peer, step by step.")] = "",
    mesh: Annotated[str, typer.Option(metavar="NAME", help="The name of the mesh.")] = "",
    secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file that holds the secret of the mesh.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file that holds the identity of the bus.")
    ] = None,
    interface: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="An IP address to listen on; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(help="The port of the bus; 0: any.")] = 0,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Where registry and sockets are.")
    ] = None,
    discovery: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A discovery to use; may be repeated.")
    ] = None,
) -> int:
    """Say why peers do not see each other: try what a bus needs, and the way to one.

    What no option says, the environment variables DITTOBUS_... say. No application gets a message; that of
    the peer of --peer sees a peer join and leave.
    """
    from brokerless import ConfigError
    from dittobus._diagnosis import as_lines, as_object, configuration, diagnosed, failures

    try:
        config = configuration(
            mesh=mesh,
            secret_file=secret_file,
            identity=identity,
            interfaces=interface,
            port=port,
            directory=directory,
            discovery=discovery,
        )
    except ConfigError as error:
        return _complain(str(error), USAGE)
    with _ended_like_interrupted():
        findings = diagnosed(config, peer or None)
    print(json.dumps(as_object(findings)) if as_json else "\n".join(as_lines(findings)))
    failed = failures(findings)
    return _complain(f"failed: {', '.join(failed)}", ERROR) if failed else OK


@app.command()
def version(as_json: AsJson = False) -> int:
    """Print the version of DittoBus."""
    import importlib.metadata

    try:
        installed = importlib.metadata.version("dittobus")
    except importlib.metadata.PackageNotFoundError:
        return _complain("not installed, so it has no version; install it with pip install .", ERROR)
    print(json.dumps({"version": installed}) if as_json else installed)
    return OK


def _complain(words: str, code: int) -> int:
    print(f"dittobus: {' '.join(words.split())}", file=sys.stderr)
    return code


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, do what Ctrl-C does, so that everything is let go of."""
    endings = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {ending: signal.getsignal(ending) for ending in endings}
    heeded = [ending for ending in endings if before[ending] is not signal.SIG_IGN]  # nohup has its reasons
    for ending in heeded:
        signal.signal(ending, signal.default_int_handler)
    try:
        yield
    finally:
        for ending in heeded:
            signal.signal(ending, before[ending])
