"""Whom to trust: the key that all members of a mesh share, and where it comes from.

================  ==========================================================  ========
given             the key is derived from                                     scope
================  ==========================================================  ========
a ``str``         the passphrase, stretched once with scrypt                  ``mesh``
``bytes``         these bytes                                                 ``mesh``
nothing           a key file that only this user can read, made when missing  ``host``
``trust="open"``  the name of the mesh alone: anybody may join                ``open``
================  ==========================================================  ========

In each case the name of the mesh goes into the derivation, so two meshes with one secret stay apart, and so
does the row of the table, so no passphrase is worth a key file.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import secrets
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from brokerless.config import SECRET_BYTES_MIN, require_trust, utf8
from brokerless.errors import ConfigError, StartError
from brokerless.private_files import make_private_directory, open_or_create_private_file, read_all

Scope = Literal["host", "mesh", "open"]

KEY_BYTES = 32
"""Of every key derived here: the size of an AEAD key, and of SHA-256, so that HKDF needs one block."""

HOST_KEY_FILE = "host-key"

_HOST_KEY_HEADER = b"dittobus host key 1"

_SCRYPT_COST = 2**15
"""scrypt's n; with r = 8 one guess takes 32 MiB and about 0.1 s, which a bus can afford at its start."""

_SCRYPT_BLOCK = 8
_SCRYPT_MEMORY_BYTES_MAX = 64 * 1024 * 1024
"""OpenSSL refuses at its default limit, which is exactly what the above needs without overhead."""

_STRETCHED_KEYS_MAX = 16
"""Remembered so that ten buses of one test harness stretch once; more secrets than this are unusual."""

_log = logging.getLogger("dittobus")
_warned_of_host_scope = False


@dataclass(frozen=True, slots=True)
class MeshTrust:
    """The key of a mesh, and how far it reaches."""

    key: bytes = field(repr=False)
    scope: Scope


def generate_secret() -> bytes:
    """Return a fresh secret for a mesh, for ``secret=``."""
    return secrets.token_bytes(SECRET_BYTES_MIN)


def mesh_key(
    mesh: str,
    secret: str | bytes | None = None,
    trust: str | None = None,
    key_directory: Path | None = None,
) -> MeshTrust:
    """Return the key that all members of ``mesh`` share.

    A passphrase takes about 0.1 s of computing the first time, with the interpreter's lock released.
    ``key_directory`` holds the key file that stands in for a secret; ``private_directory()`` if None.

    Raises:
        ConfigError: an argument is out of its range, or others can read the key file.
        StartError: the key file can be neither read nor made.
    """
    require_trust(mesh, secret, trust)
    name = utf8(mesh, "mesh")
    if trust == "open":
        return MeshTrust(derive_key(b"", b"mesh open", name), "open")
    if secret is None:
        directory = private_directory() if key_directory is None else key_directory
        return MeshTrust(derive_key(_host_key(directory), b"mesh host", name), "host")
    if isinstance(secret, str):
        stretched = _stretch(utf8(secret, "secret"), name)
        return MeshTrust(derive_key(stretched, b"mesh phrase", name), "mesh")
    return MeshTrust(derive_key(secret, b"mesh bytes", name), "mesh")


def derive_key(key: bytes, purpose: bytes, context: bytes = b"") -> bytes:
    """Return a key for one purpose, from which neither ``key`` nor that of another purpose can be told.

    ``purpose`` is a constant of ours without a zero byte; ``context`` is any bytes.
    """
    info = b"dittobus 1 " + purpose + b"\0" + context
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


@functools.lru_cache(maxsize=_STRETCHED_KEYS_MAX)
def _stretch(passphrase: bytes, name: bytes) -> bytes:
    return hashlib.scrypt(
        passphrase,
        salt=b"dittobus 1 passphrase\0" + name,
        n=_SCRYPT_COST,
        r=_SCRYPT_BLOCK,
        p=1,
        maxmem=_SCRYPT_MEMORY_BYTES_MAX,
        dklen=KEY_BYTES,
    )


def _host_key(directory: Path) -> bytes:
    path = make_private_directory(directory) / HOST_KEY_FILE
    with open_or_create_private_file(path, _fresh_host_key) as file:
        try:
            lines = read_all(file).splitlines()
        except OSError as error:
            raise StartError(f"cannot read {path}: {error.strerror}") from error
    try:
        if len(lines) != 2 or lines[0] != _HOST_KEY_HEADER or len(lines[1]) != 2 * KEY_BYTES:
            raise ValueError("not two lines that begin with the header")
        key = bytes.fromhex(lines[1].decode())
    except ValueError:  # not chained: its traceback would show the line
        raise ConfigError(f"{path} holds no key", hint="remove it, and a fresh one is made") from None
    _warn_of_host_scope(path)
    return key


def _fresh_host_key() -> bytes:
    return _HOST_KEY_HEADER + b"\n" + secrets.token_hex(KEY_BYTES).encode() + b"\n"


def _warn_of_host_scope(path: Path) -> None:
    global _warned_of_host_scope
    if _warned_of_host_scope:
        return
    _warned_of_host_scope = True
    _log.warning(
        "no secret was given, so only this user's processes on this host can join (their key is in %s). "
        "To reach further, give all members the same secret=, such as one made by generate_secret(), "
        'or let anybody in with trust="open".',
        path,
    )


def private_directory() -> Path:
    """Return this user's directory for what other users must not touch; make it if missing.

    It is ``$XDG_RUNTIME_DIR/dittobus`` where there is such a directory and it is ours, else a directory for
    the state of programs: ``$XDG_STATE_HOME/dittobus``, by default ``~/.local/state/dittobus``; on Windows
    ``%LOCALAPPDATA%\\dittobus``. Raises ``StartError`` if it cannot be made, or is open to others.
    """
    return make_private_directory(_user_directory() / "dittobus")


def _user_directory() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        return Path(local) if os.path.isabs(local) else _home() / "AppData" / "Local"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # After su or sudo the variable may still name another user's.
    if os.path.isabs(runtime) and _is_ours(Path(runtime)):
        return Path(runtime)
    state = os.environ.get("XDG_STATE_HOME", "")
    return Path(state) if os.path.isabs(state) else _home() / ".local" / "state"


def _is_ours(directory: Path) -> bool:
    try:
        found = directory.stat()
        return stat.S_ISDIR(found.st_mode) and sys.platform != "win32" and found.st_uid == os.geteuid()
    except OSError:
        return False


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise StartError("this user has no home directory", hint="set HOME, or directory=") from error
