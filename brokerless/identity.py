"""Who we are: a CURVE key pair, fresh for each run or kept in a file.

The file is text, two lines: ``dittobus identity 1``, then the secret key as 40 characters of Z85 (ZeroMQ's
RFC 32). The public key follows from the secret one, so the two cannot contradict each other. The file is
locked while it is in use, because two processes with one identity would take each other's peers away.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

import zmq
from zmq.utils import z85

from brokerless.address import Address
from brokerless.errors import ConfigError, IdentityInUse, StartError
from brokerless.private_files import open_or_create_private_file, read_all, try_lock

if TYPE_CHECKING:
    import io
    import os

KEY_BYTES = 32
"""A CURVE (Curve25519) key, public or secret."""

_HEADER = b"dittobus identity 1"


class Identity:
    """A CURVE key pair. Its public half is the node's address.

    ``Identity.generate()`` makes a fresh one; ``Identity.load(path)`` takes the one in a file and keeps the
    file locked until ``release()``. It cannot be pickled, and its repr does not show the secret.
    """

    __slots__ = ("__weakref__", "_address", "_file", "_secret")

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
            raise ConfigError(f"secret: a secret key is exactly {KEY_BYTES} bytes")
        self._secret = secret
        self._address = Address(z85.decode(zmq.curve_public(z85.encode(secret))))
        self._file: io.FileIO | None = None

    @classmethod
    def generate(cls) -> Identity:
        """Return a fresh identity, which nobody has had before."""
        _, secret = zmq.curve_keypair()
        return cls(z85.decode(secret))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Return the identity in the file at ``path``, made if missing, and locked until ``release``.

        Raises:
            IdentityInUse: the file is in use, by another process or in this one.
            ConfigError: others can read the file, or it holds no identity.
            StartError: the file can be neither read nor made.
        """
        path = Path(path)
        return cls._from(open_or_create_private_file(path, lambda: _encode(cls.generate())), path)

    @classmethod
    def _from(cls, file: io.FileIO, path: Path) -> Identity:
        try:
            if not try_lock(file):
                raise IdentityInUse(
                    f"the identity in {path} is in use", hint="give each process an identity of its own"
                )
            identity = _decode(read_all(file), path)
        except OSError as error:
            file.close()
            if isinstance(error, StartError):
                raise
            raise StartError(f"cannot lock or read {path}: {error.strerror}") from error
        except BaseException:
            file.close()
            raise
        identity._file = file
        return identity

    @property
    def address(self) -> Address:
        """What others know us by."""
        return self._address

    @property
    def public(self) -> bytes:
        """The 32 bytes of the public key."""
        return self._address.public_key

    @property
    def secret(self) -> bytes:
        """The 32 bytes of the secret key."""
        return self._secret

    def release(self) -> None:
        """Unlock the file, so that the identity may be loaded again. Does nothing the second time."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __repr__(self) -> str:
        return f"<Identity {self._address.short}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("an Identity cannot be pickled or copied: it is a secret; hand over a path instead")


def _encode(identity: Identity) -> bytes:
    return _HEADER + b"\n" + z85.encode(identity.secret) + b"\n"


def _decode(content: bytes, path: Path) -> Identity:
    lines = content.splitlines()
    try:
        if len(lines) != 2 or lines[0] != _HEADER:
            raise ValueError("not two lines that begin with the header")
        return Identity(z85.decode(lines[1]))
    except (ValueError, KeyError, struct.error):  # the last two are how z85 says what is not Z85
        # Without the cause: its traceback would show the line.
        raise ConfigError(f"{path} holds no identity", hint="remove it, and a fresh one is made") from None
