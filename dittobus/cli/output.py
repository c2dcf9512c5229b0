"""How results are printed: JSON for programs, words and numbers for people, colours for terminals only."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dittobus import Peer

PIECE = 64 * 1024
"""So many characters are escaped at a time: in between, other threads run, such as that of the bus."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def is_terminal(output: TextIO | None = None) -> bool:
    """Tell whether somebody looks on while ``output`` (by default stdout) is written."""
    output = output or sys.stdout
    try:
        return output.isatty()
    except ValueError:  # it is closed
        return False


def print_line(line: str) -> None:
    """Print a line of a result, at once: its reader may wait for it."""
    print(line, flush=True)


def print_json(content: Any) -> None:
    """Print one JSON object on one line."""
    print_line(json.dumps(content))


def note(line: str) -> None:
    """Say something that is no result, on stderr, in one line."""
    print(f"dittobus: {printable(' '.join(line.split()))}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return ``text`` on one line and with nothing that a terminal would obey: peers choose their names."""
    if text.isprintable():
        return text
    escapes = _Escapes()
    pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
    return "".join(piece.translate(escapes) for piece in pieces)


class _Escapes(dict[int, str]):
    """What stands for each character: made once for all that are the same, of which there may be millions."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        shown = character if character.isprintable() else character.encode("unicode_escape").decode()
        self[code] = shown
        return shown


def label(peer: Peer) -> str:
    """Return what to call a peer: its name if it has one, else the beginning of its address."""
    return printable(peer.name) or peer.address.short


def size(count: float) -> str:
    """Return a number of bytes, for people."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return (
        f"{count:.0f} {unit}"
        if unit == "B"
        else f"{count:.3g} {unit}"
        if count < 100
        else f"{count:.0f} {unit}"
    )


def seconds(duration_s: float | None) -> str:
    """Return a time, for people."""
    if duration_s is None:
        return "-"
    if duration_s >= 1:
        return f"{duration_s:.2f} s"
    return f"{duration_s * 1e3:.2f} ms" if duration_s >= 1e-3 else f"{duration_s * 1e6:.0f} µs"


def share(part: float | None) -> str:
    """Return a share of 1 in percent."""
    return "-" if part is None else f"{part * 100:.3g} %"


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its columns as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    ]
