"""How one side of a tunnel asks the other for a connection: ``docs/guide/tunnel.md`` has it in words.

A connection is a stream named ``dittobus.tunnel``. Its metadata say to where, its acceptance that the
connection is made, its rejection why not.
"""

from __future__ import annotations

from enum import IntEnum

import msgpack

from brokerless import ConfigError, Reliability
from dittobus.tunnel.places import Kind, Place

STREAM_NAME = "dittobus.tunnel"

VERSION = 1
"""Of the opening. What follows the elements that are known is for later, and ignored."""

RESET_CODE = 1
"""A stream is aborted with it when the connection at that end was reset."""


class Refusal(IntEnum):
    """Codes of a rejection."""

    NOT_UNDERSTOOD = 1
    NOT_EXPOSED = 2
    UNREACHABLE = 3
    OTHER_STREAM = 404
    """Not of a tunnel at all; as a bus with bindings says it."""


class NotUnderstood(ValueError):
    """Metadata that are no opening, or one of another version; its text is for the other side."""


def reliability_of(target: Place) -> Reliability:
    """Return what a stream for that target promises."""
    return Reliability.UNRELIABLE if target.kind is Kind.UDP else Reliability.RELIABLE


def encode(target: Place) -> bytes:
    """Return the metadata that ask for a connection to ``target``."""
    packed: bytes = msgpack.packb([VERSION, str(target)])
    return packed


def decode(metadata: bytes, reliability: Reliability) -> Place:
    """Return the target that is asked for by a stream of that reliability. Raises ``NotUnderstood``."""
    try:
        asked = msgpack.unpackb(metadata)
    except ValueError:  # all that msgpack raises is one
        asked = None
    match asked:
        case [int(version), str(text), *_] if version == VERSION:
            target = _target(text)
        case [int(version), *_] if version != VERSION:
            raise NotUnderstood(f"this side speaks version {VERSION} of the tunnel, not {version}")
        case _:
            raise NotUnderstood("the metadata are no opening of a tunnel")
    if reliability_of(target) is not reliability:
        raise NotUnderstood(f"{target} was asked for by a stream that is {reliability.value}")
    return target


def _target(text: str) -> Place:
    try:
        return Place.parse(text).reachable()
    except ConfigError as error:
        raise NotUnderstood(str(error)) from None
