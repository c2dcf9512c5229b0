"""The last packets of a node in a file, so that they outlive its process, however that ended.

One file for each node, mapped into memory: a head that says whose it is, then a ring of slots of one size. A
slot's number is written last, so one that was interrupted counts as not written.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import struct
from typing import TYPE_CHECKING, Literal, NamedTuple

from brokerless import now
from brokerless.testing import describe

if TYPE_CHECKING:
    from pathlib import Path

    from brokerless import Node

SLOTS = 200
"""Packets that are kept of each node."""

SLOT_BYTES = 4096
"""A larger packet is put into words at once, so that 200 of them take 0.8 MiB."""

HEAD_BYTES = 4096
"""Process, address, and a name of at most 64 bytes, as JSON."""

SUFFIX = ".frames"

_NUMBER = struct.Struct("<Q")
_SLOT = struct.Struct("<d?H?I")  # when, sent?, bytes of the other end's name, in words?, bytes of the packet


class Passage(NamedTuple):
    """One packet that a node sent or got."""

    number: int
    at: float
    direction: Literal["->", "<-"]
    end: str
    words: str


class FrameFile:
    """Writes the ring of one node."""

    def __init__(self, path: Path, head: dict[str, object]) -> None:
        size = HEAD_BYTES + SLOTS * SLOT_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        text = json.dumps(head).encode()
        self._map[: len(text)] = text
        self._numbers = itertools.count(1)

    def __call__(self, direction: Literal["->", "<-"], end: str, packet: bytes) -> None:
        """Write a packet. This is a ``Tap``."""
        with contextlib.suppress(ValueError, TypeError):  # closed, maybe right now: nobody looks any more
            self._write(direction, end, packet)

    def close(self) -> None:
        """Write no more."""
        self._map.close()

    def _write(self, direction: Literal["->", "<-"], end: str, packet: bytes) -> None:
        number = next(self._numbers)
        start = HEAD_BYTES + (number - 1) % SLOTS * SLOT_BYTES
        name = end.encode()
        head_bytes = _NUMBER.size + _SLOT.size + len(name)
        is_words = head_bytes + len(packet) > SLOT_BYTES
        body = describe(packet).encode()[: SLOT_BYTES - head_bytes] if is_words else packet
        _NUMBER.pack_into(self._map, start, 0)
        _SLOT.pack_into(
            self._map, start + _NUMBER.size, now(), direction == "->", len(name), is_words, len(body)
        )
        self._map[start + head_bytes - len(name) : start + head_bytes + len(body)] = name + body
        _NUMBER.pack_into(self._map, start, number)


class Frames:
    """What a file holds."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        head = json.loads(data[:HEAD_BYTES].rstrip(b"\0") or b"{}")
        self.pid: int = head.get("pid", 0)
        self.name: str = head.get("name", "")
        self.address: str = head.get("address", "")
        self.passages = sorted(
            passage
            for start in range(HEAD_BYTES, len(data), SLOT_BYTES)
            if (passage := _passage(data[start : start + SLOT_BYTES])) is not None
        )

    def text(self, since: float) -> str:
        """Return a line for each packet, with the seconds since then."""
        lines = [
            f"{passage.at - since:9.4f}  {passage.direction} {passage.end}  {passage.words}"
            for passage in self.passages
        ]
        if self.passages and (before := self.passages[0].number - 1):
            lines.insert(0, f"… {before:,} before these")
        return "\n".join(lines) or "nothing sent, nothing received"


def _passage(slot: bytes) -> Passage | None:
    (number,) = _NUMBER.unpack_from(slot)
    if not number:
        return None
    at, is_sent, name_bytes, is_words, body_bytes = _SLOT.unpack_from(slot, _NUMBER.size)
    start = _NUMBER.size + _SLOT.size + name_bytes
    body = slot[start : start + body_bytes]
    end = slot[start - name_bytes : start].decode()
    words = body.decode(errors="replace") if is_words else describe(body)
    return Passage(number, at, "->" if is_sent else "<-", end, words)


class Recorder:
    """Makes each node write its packets into a file in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[FrameFile] = []

    def __call__(self, node: Node) -> None:
        """Do so with a node that has not started."""
        head = {"pid": os.getpid(), "name": node.name, "address": node.address.short}
        path = self._directory / f"{os.getpid()}-{len(self._files) + 1}{SUFFIX}"
        node.tap = file = FrameFile(path, head)
        self._files.append(file)

    def close(self) -> None:
        """Write no more."""
        for file in self._files:
            file.close()


def read_all(directory: Path) -> list[Frames]:
    """Return what all nodes of all processes have written there."""
    return [Frames(path) for path in sorted(directory.glob(f"*{SUFFIX}"))]
