"""What an examination found, in words for somebody who wants it to work."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokerless.errors import BusError, PeerRefused

if TYPE_CHECKING:
    from collections.abc import Iterable


class Verdict(enum.Enum):
    """How an examination ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as far or as well as one may expect."""
    FAILURE = "failure"
    SKIPPED = "skipped"
    """Not examined: what it builds upon failed, or there is nothing to examine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one examination. ``hint`` says what to do, and is empty when there is nothing to do."""

    name: str
    verdict: Verdict
    text: str
    hint: str = ""


def ok(name: str, text: str, hint: str = "") -> Finding:
    """It works."""
    return Finding(name, Verdict.OK, text, hint)


def warning(name: str, text: str, hint: str = "") -> Finding:
    """It works in part."""
    return Finding(name, Verdict.WARNING, text, hint)


def failure(name: str, text: str, hint: str = "") -> Finding:
    """It does not work."""
    return Finding(name, Verdict.FAILURE, text, hint)


def skipped(name: str, text: str, hint: str = "") -> Finding:
    """It was not examined."""
    return Finding(name, Verdict.SKIPPED, text, hint)


def failed_by(name: str, error: Exception, hint: str = "") -> Finding:
    """It does not work, as that error says; its own hint comes before the given one."""
    if isinstance(error, BusError):
        return failure(name, said_by(error), error.hint or hint)
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return failure(name, str(words), hint)


def said_by(error: BusError) -> str:
    """What the error says, without its hint."""
    if isinstance(error, PeerRefused):
        return error.reason
    return str(error.args[0]) if error.args else type(error).__name__


def listed(things: Iterable[object]) -> str:
    """Return them with commas in between."""
    return ", ".join(map(str, things))
