"""A bus' place in its mesh, handed to another process in environment variables.

=======================  =====================================================================================
``DITTOBUS_MESH``        the name of the mesh
``DITTOBUS_SECRET``      its secret: a passphrase as it is, bytes as ``hex:`` and their hexadecimal digits. A
                         passphrase that itself begins with ``hex:`` or ``text:`` is written after ``text:``
``DITTOBUS_SECRET_FILE`` instead, a file that holds the same; an end of line after it does not count
``DITTOBUS_IDENTITY``    the file of this process' identity
``DITTOBUS_PEERS``       tickets of peers to dial, with white space or commas in between
``DITTOBUS_ARGUMENTS``   other arguments, as an object in JSON: ``advertise``, ``directory``, ``discovery``,
                         ``interfaces``, ``limits`` (an object), ``port``, ``trust``: how a test harness puts
                         programs into its mesh, and how children are where their parent is
=======================  =====================================================================================

A variable that is empty counts as not set.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brokerless import ConfigError, Limits, NodeConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brokerless import Ticket

MESH = "DITTOBUS_MESH"
SECRET = "DITTOBUS_SECRET"
SECRET_FILE = "DITTOBUS_SECRET_FILE"
IDENTITY = "DITTOBUS_IDENTITY"
PEERS = "DITTOBUS_PEERS"
ARGUMENTS = "DITTOBUS_ARGUMENTS"

VARIABLES = (MESH, SECRET, SECRET_FILE, IDENTITY, PEERS, ARGUMENTS)

OTHER_ARGUMENTS = frozenset({"advertise", "directory", "discovery", "interfaces", "limits", "port", "trust"})
"""What ``DITTOBUS_ARGUMENTS`` may hold: all that text can say and no other variable does."""

SECRET_FILE_BYTES_MAX = 4_096
"""A secret is a line; a larger file is another one than was meant."""

_AS_BYTES = "hex:"
_AS_TEXT = "text:"

# A ticket may hold commas itself, between its places.
_BETWEEN_TICKETS = re.compile(r"[\s,]+(?=dittobus://)")


def environment() -> dict[str, Any]:
    """Return the keyword arguments for a bus that the environment variables ``DITTOBUS_…`` ask for.

    >>> bus = DittoBus("camera", **environment())

    They are ``mesh``, ``secret``, ``identity`` and ``peers``, each where its variable is set:
    ``DITTOBUS_MESH``, ``DITTOBUS_SECRET`` or ``DITTOBUS_SECRET_FILE``, ``DITTOBUS_IDENTITY``,
    ``DITTOBUS_PEERS``. A secret of bytes is written as ``hex:`` and their digits. ``DITTOBUS_ARGUMENTS`` adds
    others, as an object in JSON. Raises ``ConfigError``, which names the variable.
    """
    arguments = _other_arguments()
    if mesh := os.environ.get(MESH):
        _check(MESH, mesh=mesh)
        arguments["mesh"] = mesh
    if secret := _secret():
        arguments["secret"] = secret
    if identity := os.environ.get(IDENTITY):
        arguments["identity"] = identity
    if tickets := os.environ.get(PEERS, "").strip(" \t\r\n,"):
        arguments["peers"] = _BETWEEN_TICKETS.split(tickets)
        _check(PEERS, peers=arguments["peers"])
    return arguments


def child_environment(config: NodeConfig, ticket: Ticket) -> dict[str, str]:
    """Return this process' environment, with the variables of a child of the bus that has this ticket."""
    defaults = NodeConfig()
    places = {
        "trust": config.trust,
        "directory": None if config.directory is None else Path(config.directory).absolute(),
        "discovery": tuple(name for name in config.discovery if isinstance(name, str)),
        "interfaces": None if config.interfaces is None else tuple(config.interfaces),
    }
    return environment_for(
        {
            **{name: value for name, value in places.items() if value != getattr(defaults, name)},
            "mesh": config.mesh,
            "secret": config.secret,
            "peers": (ticket, *config.peers),
            "limits": config.limits,
        }
    )


def environment_for(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return this process' environment, with variables of which ``environment`` makes these arguments."""
    variables = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    variables[MESH] = arguments["mesh"]
    if arguments["secret"] is not None:
        variables[SECRET] = secret_as_text(arguments["secret"])
    if peers := arguments.get("peers"):
        variables[PEERS] = " ".join(map(str, peers))
    others = {name: value for name, value in arguments.items() if name in OTHER_ARGUMENTS}
    if limits := _changed_limits(others.pop("limits")):
        others["limits"] = limits
    if others:
        variables[ARGUMENTS] = json.dumps(others, default=str)
    for name in VARIABLES:
        if "\0" in variables.get(name, ""):
            raise ConfigError(f"{name}: holds a NUL, which no environment can carry")
    return variables


def _changed_limits(limits: Limits) -> dict[str, float]:
    defaults = Limits()
    return {
        field.name: value
        for field in dataclasses.fields(Limits)
        if (value := getattr(limits, field.name)) != getattr(defaults, field.name)
    }


def _other_arguments() -> dict[str, Any]:
    text = os.environ.get(ARGUMENTS)
    try:
        arguments = json.loads(text) if text else {}
    except ValueError as error:
        raise ConfigError(f"{ARGUMENTS}: no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ConfigError(f"{ARGUMENTS}: expected an object in JSON, got {type(arguments).__name__}")
    if unknown := arguments.keys() - OTHER_ARGUMENTS:
        raise ConfigError(f"{ARGUMENTS}: {min(unknown)} is none of {', '.join(sorted(OTHER_ARGUMENTS))}")
    if "limits" in arguments:
        try:
            arguments["limits"] = Limits(**arguments["limits"])
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"{ARGUMENTS}: limits: {error}") from None
    _check(ARGUMENTS, **arguments)
    return arguments


def _secret() -> str | bytes | None:
    secret, path = os.environ.get(SECRET), os.environ.get(SECRET_FILE)
    if secret and path:
        raise ConfigError(f"{SECRET}, {SECRET_FILE}: only one of them can say what the secret is")
    if path:
        return read_secret_file(Path(path), SECRET_FILE)
    return _checked_secret(SECRET, secret) if secret else None


def read_secret_file(path: Path, asked_by: str) -> str | bytes:
    """Return the secret in that file. Raises ``ConfigError``, in the name of who asked for it."""
    return _checked_secret(asked_by, _content(path, asked_by))


def _checked_secret(asked_by: str, text: str) -> str | bytes:
    secret = _from_text(asked_by, text)
    _check(asked_by, secret=secret)
    return secret


def _content(path: Path, asked_by: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{asked_by}: cannot read {path}: {error.strerror}") from error
    if len(content) > SECRET_FILE_BYTES_MAX:
        raise ConfigError(f"{asked_by}: {path} is larger than {SECRET_FILE_BYTES_MAX} bytes")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:  # not chained, since the cause shows the content
        raise ConfigError(
            f"{asked_by}: {path} is no text in UTF-8", hint=f"write bytes as {_AS_BYTES} and their digits"
        ) from None


def _from_text(variable: str, text: str) -> str | bytes:
    if text.startswith(_AS_TEXT):
        return text.removeprefix(_AS_TEXT)
    if not text.startswith(_AS_BYTES):
        return text
    try:
        return bytes.fromhex(text.removeprefix(_AS_BYTES))
    except ValueError:  # not chained, since the cause may show the text
        raise ConfigError(
            f"{variable}: what follows {_AS_BYTES} is not hexadecimal",
            hint=f"write a passphrase that begins so after {_AS_TEXT}",
        ) from None


def secret_as_text(secret: str | bytes) -> str:
    """Return the secret as its variable has it."""
    if isinstance(secret, bytes):
        return _AS_BYTES + secret.hex()
    return _AS_TEXT + secret if secret.startswith((_AS_BYTES, _AS_TEXT)) else secret


def _check(variable: str, **argument: Any) -> None:
    """Raise what a bus would, but in the name of the variable."""
    try:
        NodeConfig(**argument)
    except ConfigError as error:
        raise ConfigError(f"{variable}: {error.args[0]}", hint=error.hint) from None
