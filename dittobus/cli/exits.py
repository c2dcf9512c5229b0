"""How a command ends: its exit code, and the one line that says what to do."""

from __future__ import annotations

import os

from dittobus import (
    AmbiguousPeer,
    BusTimeout,
    ConfigError,
    DeliveryUnknown,
    MessageTooLarge,
    PeerRefused,
    StreamRejected,
    UnknownPeer,
)
from dittobus.cli.output import note

OK = 0
ERROR = 1
USAGE = 2
TIMEOUT = 3
REFUSED = 4
NOT_FOUND = 5
INTERRUPTED = 130
"""As shells say it: 128 and the number of SIGINT. Nothing is printed: who interrupts knows it."""
BROKEN_PIPE = 141
"""128 and the number of SIGPIPE: who read our output has gone, as ``head`` does."""

EXPLAINED = (
    "Exit codes: 0 all went well, 1 it did not, 2 the command was not understood, 3 time ran out, 4 refused, "
    "5 peer not found, 130 interrupted."
)

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (ConfigError, USAGE),
    (MessageTooLarge, USAGE),
    (AmbiguousPeer, USAGE),
    (UnknownPeer, NOT_FOUND),
    (BusTimeout, TIMEOUT),
    (PeerRefused, REFUSED),
    (StreamRejected, REFUSED),
)


class Failed(Exception):
    """A command that ends with this line and exit code."""

    def __init__(self, line: str, code: int = ERROR) -> None:
        super().__init__(line)
        self.code = code


def code_of(error: BaseException) -> int:
    """Return the exit code of a command that ends in ``error``."""
    if isinstance(error, Failed):
        return error.code
    if isinstance(error, DeliveryUnknown) and error.__cause__ is not None:
        return code_of(error.__cause__)
    return next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)


def line_of(error: BaseException) -> str:
    """Return what to say of ``error``."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, StreamRejected) and error.reason:
        return f"the peer did not take the stream: {error.reason}"
    return str(error) or type(error).__name__


def complain(words: str, code: int = ERROR) -> int:
    """Say what went wrong, in one line on stderr; return the exit code."""
    note(words)
    return code


def end_of_pipe() -> int:
    """Write no more to stdout, where nobody reads any more; return the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what is still in the buffer goes there when the interpreter exits
    os.close(nowhere)
    return BROKEN_PIPE
