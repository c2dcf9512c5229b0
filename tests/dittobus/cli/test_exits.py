"""Which error ends a command with which code."""

from __future__ import annotations

import pytest

from dittobus import (
    AmbiguousPeer,
    ConfigError,
    DeliveryUnknown,
    OpenTimeout,
    PeerLost,
    PeerRefused,
    PortInUse,
    StreamRejected,
    StreamReset,
    UnknownPeer,
    WaitTimeout,
)
from dittobus.cli import exits


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exits.Failed("so", 77), 77),
        (ConfigError("port"), exits.USAGE),
        (AmbiguousPeer("two"), exits.USAGE),
        (WaitTimeout("late"), exits.TIMEOUT),
        (OpenTimeout("late"), exits.TIMEOUT),
        (PeerRefused(reason="no"), exits.REFUSED),
        (StreamRejected(404), exits.REFUSED),
        (UnknownPeer("who"), exits.NOT_FOUND),
        (PeerLost(reason="silent"), exits.ERROR),
        (StreamReset(1), exits.ERROR),
        (PortInUse("taken"), exits.ERROR),
        (DeliveryUnknown("perhaps"), exits.ERROR),
        (OSError(2, "no such file"), exits.ERROR),
    ],
)
def test_codes(error: Exception, code: int) -> None:
    assert exits.code_of(error) == code


def test_what_is_unknown_for_lack_of_time() -> None:
    error = DeliveryUnknown("perhaps")
    error.__cause__ = WaitTimeout("late")
    assert exits.code_of(error) == exits.TIMEOUT


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "a.txt: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ConfigError("port: no", hint="take another"), "port: no (take another)"),
        (PortInUse("port 4000 is taken", hint="take another"), "port 4000 is taken (take another)"),
        (StreamRejected(3, "not today"), "the peer did not take the stream: not today"),
        (StreamRejected(3), "stream rejected with code 3, for no reason that was given"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_lines(error: Exception, line: str) -> None:
    assert exits.line_of(error) == line


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits.complain("one\n  and two", 5) == 5
    assert capsys.readouterr() == ("", "dittobus: one and two\n")
