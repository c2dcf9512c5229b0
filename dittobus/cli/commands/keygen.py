"""``dittobus keygen``: files that hold what must not be shown."""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 - typer looks at it
from typing import Annotated

import typer

from dittobus.cli import exits
from dittobus.cli.options import AsJson, command_app
from dittobus.cli.output import print_json, print_line

app = command_app()


@app.command()
def keygen(
    identity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make an identity: an address that stays the same.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make a secret, for all members of a mesh.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make a file with a new identity, or with a new secret of a mesh, or both.

    Only this user can read them. Files that are there already stay as they are. Both are for the options of
    the same names, and for DITTOBUS_IDENTITY and DITTOBUS_SECRET_FILE.
    """
    if identity is None and secret_file is None:
        raise exits.Failed("say what to make: --identity FILE, --secret-file FILE, or both", exits.USAGE)
    for path in (identity, secret_file):
        if path is not None and os.path.lexists(path):
            raise exits.Failed(f"{path}: is there already; remove it, or choose another name")
    made: dict[str, str] = {}
    if identity is not None:
        made["address"] = _make_identity(identity)
        made["identity"] = str(identity)
    if secret_file is not None:
        _make_secret(secret_file)
        made["secret_file"] = str(secret_file)
    if as_json:
        print_json(made)
    else:
        _print(made)
    return exits.OK


def _print(made: dict[str, str]) -> None:
    if "identity" in made:
        print_line(f"{made['identity']}: the identity of {made['address']}")
    if "secret_file" in made:
        print_line(f"{made['secret_file']}: a secret; give all members of the mesh a copy, and nobody else")


def _make_identity(path: Path) -> str:
    from dittobus import Identity

    identity = Identity.load(path)  # which makes it
    identity.release()
    return str(identity.address)


def _make_secret(path: Path) -> None:
    from dittobus import generate_secret

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"hex:{generate_secret().hex()}\n")
