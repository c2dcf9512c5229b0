"""The files that packets are kept in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from brokerless import now
from dittobus.testing.frames import HEAD_BYTES, SLOT_BYTES, SLOTS, FrameFile, Frames, read_all

if TYPE_CHECKING:
    from pathlib import Path

HEAD = {"pid": 7, "name": "näme", "address": "abcdefgh"}
PING = bytes.fromhex("00000000000000000000000000000005") + b"\x11\x00\x00\x00\x03\x92\x09\x04"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "7-1.frames"


def test_packets_are_read_as_they_were_written(path: Path) -> None:
    since = now()
    file = FrameFile(path, HEAD)
    file("->", "peer on link 1", PING)
    file("<-", "127.0.0.1:4000", b"")
    [frames] = read_all(path.parent)
    assert (frames.pid, frames.name, frames.address) == (7, "näme", "abcdefgh")
    assert [(one.number, one.direction, one.end) for one in frames.passages] == [
        (1, "->", "peer on link 1"),
        (2, "<-", "127.0.0.1:4000"),
    ]
    assert frames.passages[0].words == "#- ack 5 | PING 9, sent 4"
    assert frames.passages[1].words.startswith("malformed")
    assert since <= frames.passages[0].at <= frames.passages[1].at <= now()
    assert frames.text(frames.passages[0].at).startswith("   0.0000  -> peer on link 1  #- ack 5 | PING")
    file.close()


def test_what_is_too_large_for_a_slot_is_kept_in_words(path: Path) -> None:
    file = FrameFile(path, HEAD)
    packet = bytes(16) + b"\x04" + (20 + 3 + 60_000).to_bytes(4) + bytes(15) + b"\1" + bytes(4)
    file("->", "peer", packet + b"\xc5" + (60_000).to_bytes(2) + bytes(60_000))
    file("->", "peer", bytes(SLOT_BYTES))
    file.close()
    large, malformed = Frames(path).passages
    assert large.words == "#- ack 0 | DATA 0 (channel 0): 1, 60000 bytes"
    assert malformed.words.startswith("malformed")


def test_only_the_last_are_kept(path: Path) -> None:
    file = FrameFile(path, HEAD)
    for number in range(SLOTS + 5):
        file("->", f"peer {number}", PING)
    file.close()
    file("->", "nobody looks any more", PING)
    frames = Frames(path)
    assert [one.end for one in frames.passages] == [f"peer {number}" for number in range(5, SLOTS + 5)]
    lines = frames.text(0).splitlines()
    assert lines[0] == "… 5 before these"
    assert len(lines) == 1 + SLOTS
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_slot_that_was_interrupted_does_not_count(path: Path) -> None:
    file = FrameFile(path, HEAD)
    for end in ("first", "second"):
        file("->", end, PING)
    file.close()
    with path.open("r+b") as raw:
        raw.seek(HEAD_BYTES + SLOT_BYTES)
        raw.write(bytes(8))
    assert [one.end for one in Frames(path).passages] == ["first"]


def test_a_node_that_did_nothing_says_so(path: Path) -> None:
    FrameFile(path, HEAD).close()
    assert Frames(path).text(0) == "nothing sent, nothing received"
