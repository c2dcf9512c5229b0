"""The options that commands share: where the bus of a command is, and how it prints.

What no option says, the environment variables ``DITTOBUS_…`` say. A secret has no option of its own, since
everybody on a host can read command lines.
"""

from __future__ import annotations

import inspect
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - typer looks at it
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from dittobus import DittoBusReliability as Reliability
from dittobus._environment import environment, read_secret_file
from dittobus.cli.output import note, printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dittobus.aio import Bus

P = ParamSpec("P")
Options = TypeVar("Options", bound="MeshOptions")

NAME_BYTES_MAX = 64
"""A longer one is no name of a peer."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PeerName = Annotated[
    str,
    typer.Argument(metavar="PEER", help="A name, an address, or the beginning of one.", show_default=False),
]
StreamName = Annotated[str, typer.Option("--stream", metavar="NAME", help="The name of the stream.")]
ReliabilityName = Annotated[
    Reliability, typer.Option("--reliability", help="What is promised of delivery.", case_sensitive=False)
]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.0, help="How long to wait for the other side.")
]


def command_app() -> typer.Typer:
    """Return what a command, or a group of commands, is registered with."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """Which mesh, and where in it."""

    mesh: Annotated[str, typer.Option(metavar="NAME", help="The name of the mesh.")] = ""
    secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file that holds the secret of the mesh.")
    ] = None
    trust: Annotated[
        str, typer.Option(metavar="open", help="'open' lets anybody join, without a secret.")
    ] = ""
    identity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file that holds the identity of the bus.")
    ] = None
    interface: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="An IP address to listen on; may be repeated.")
    ] = None
    port: Annotated[int, typer.Option(metavar="PORT", help="The port of the bus; 0: any.")] = 0
    directory: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Where registry and sockets are.")
    ] = None
    discovery: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A discovery to use; may be repeated.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a bus: what is given, else the environment's. ``ConfigError``."""
        arguments = environment()
        if self.trust:
            arguments.pop("secret", None)
        if self.secret_file is not None:
            arguments.pop("trust", None)
            arguments["secret"] = read_secret_file(self.secret_file, "--secret-file")
        given = {
            "mesh": self.mesh,
            "trust": self.trust,
            "identity": self.identity,
            "interfaces": self.interface,
            "port": self.port,
            "directory": self.directory,
            "discovery": self.discovery,
        }
        return arguments | {name: value for name, value in given.items() if value}


@dataclass(frozen=True, kw_only=True)
class BusOptions(MeshOptions):
    """What a command that joins the mesh is told of its bus."""

    name: Annotated[str, typer.Option(metavar="NAME", help="What peers see as the name of this one.")] = ""
    peer: Annotated[
        list[str] | None, typer.Option(metavar="TICKET", help="A peer to dial; may be repeated.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        given = {"name": self.name, "peers": self.peer}
        return super().arguments() | {name: value for name, value in given.items() if value}

    def bus(self, command: str, **more: Any) -> Bus:
        """Return a bus of these options, not started, by default under a name that tells the command.

        Raises ``ConfigError``.
        """
        return self._bus(**{"name": f"{command}@{_host_name()}"[:NAME_BYTES_MAX], **more})

    def _bus(self, **more: Any) -> Bus:
        from dittobus.aio import Bus

        return Bus(**{**more, **self.arguments()})

    @asynccontextmanager
    async def listening(self, **more: Any) -> AsyncIterator[Bus]:
        """Start a bus that others are to find, by default under the name of this host; say how on stderr."""
        async with self._bus(name=_host_name(), **more) as bus:
            given = self.arguments()
            reach = "" if "secret" in given or "trust" in given else ", on this host only without a secret"
            note(f"listening as {printable(bus.name)!r}{reach}; ticket {bus.ticket()}")
            yield bus


def _host_name() -> str:
    return socket.gethostname()[:NAME_BYTES_MAX]


def with_options(
    kind: type[Options],
) -> Callable[[Callable[Concatenate[Options, P], int]], Callable[..., int]]:
    """Give a command the options of ``kind``, after its own; it gets them as its first argument."""
    shared = inspect.signature(kind, eval_str=True).parameters

    def decorate(command: Callable[Concatenate[Options, P], int]) -> Callable[..., int]:
        def with_shared(**given: Any) -> int:
            options = kind(**{name: given.pop(name) for name in shared})
            return command(options, **given)  # type: ignore[call-arg]

        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(signature.parameters.values())[1:]
        ]
        with_shared.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
        with_shared.__annotations__ = {}  # typer would evaluate these, too, without need
        with_shared.__name__, with_shared.__doc__ = command.__name__, command.__doc__
        return with_shared

    return decorate
