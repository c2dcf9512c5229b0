"""How results are printed."""

from __future__ import annotations

import io

import pytest

from dittobus import DittoAddress, Peer
from dittobus.cli import output

PEER = Peer(DittoAddress(bytes(32)), "ann", b"\xff")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï", "plain ünï"),
        ("\x1b[31mred\n", r"\x1b[31mred\n"),
        ("\u202eevil", r"\u202eevil"),
        ("", ""),
        (output.PIECE * "a\n" + "b", output.PIECE * r"a\n" + "b"),  # which is longer than one piece
    ],
    ids=["plain", "colour", "direction", "empty", "long"],
)
def test_nothing_that_a_terminal_obeys(text: str, shown: str) -> None:
    assert output.printable(text) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (99_940_000, "99.9 MB"),
        (2e8, "200 MB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes(count: float, shown: str) -> None:
    assert output.size(count) == shown


@pytest.mark.parametrize(
    ("duration_s", "shown"), [(None, "-"), (0.000_042, "42 µs"), (0.0012, "1.20 ms"), (61.5, "61.50 s")]
)
def test_times(duration_s: float | None, shown: str) -> None:
    assert output.seconds(duration_s) == shown


def test_shares() -> None:
    assert (output.share(None), output.share(0.0), output.share(0.0123)) == ("-", "0 %", "1.23 %")


def test_peers() -> None:
    assert output.label(PEER) == "ann"
    assert output.label(Peer(PEER.address)) == "00000000"


def test_what_is_closed_is_no_terminal() -> None:
    closed = io.StringIO()
    closed.close()
    assert not output.is_terminal(closed)
    assert not output.is_terminal(io.StringIO())


def test_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": "ü\n"})
    assert capsys.readouterr().out == '{"name": "\\u00fc\\n"}\n'
