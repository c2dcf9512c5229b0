"""A file over a stream, and what the receiver does not believe."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from dittobus import BusError, StreamRejected, StreamReset
from dittobus.cli import files
from dittobus.cli.exits import Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dittobus.aio import Bus, Stream

DATA = b"twelve bytes"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../up",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:x",
        "a\x00b",
        "a\nb",
        "\x1b[2J",
        "\u202ea",
        "a" * 256,
    ],
)
def test_what_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(files.Refusal, match="is no name for a file here"):
        files.target_of(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "...", ".hidden", "ünï code.txt", "a" * 255, "-rf"])
def test_what_is_a_name(tmp_path: Path, name: str) -> None:
    assert files.target_of(tmp_path, name) == tmp_path / name


def contents(directory: Path) -> dict[str, str]:
    """Return the files in a directory."""
    return {path.name: path.read_text() for path in directory.iterdir()}


class Receiver:
    """Takes what is offered, and knows how each attempt ended."""

    def __init__(self, bus: Bus, directory: Path) -> None:
        self.bus = bus
        self.directory = directory
        self.ends: asyncio.Queue[Any] = asyncio.Queue()

    async def run(self) -> None:
        async for offer in self.bus.offers():
            try:
                self.ends.put_nowait(await files.receive_file(offer, self.directory, False, lambda *_: None))
            except (files.Refusal, BusError) as error:
                self.ends.put_nowait(error)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (b"no JSON", "begins with"),
        (b"[]", "begins with"),
        (b'{"name": "a"}', "begins with"),
        (b'{"name": "a", "size": -1}', "begins with"),
        (b'{"name": "a", "size": true}', "begins with"),
        (b'{"name": "../a", "size": 1}', "no name"),
        (b'{"name": "there", "size": 1}', "there already"),
    ],
)
async def test_what_is_not_taken(
    aio_pair: tuple[Bus, Bus], tmp_path: Path, metadata: bytes, said: str
) -> None:
    near, far = aio_pair
    (tmp_path / "there").touch()
    receiving = asyncio.create_task(Receiver(far, tmp_path).run())
    with pytest.raises(StreamRejected, match=said):
        await near.open_stream(far.address, name=files.STREAM, metadata=metadata)
    receiving.cancel()
    assert contents(tmp_path) == {"there": ""}


async def too_much(stream: Stream) -> None:
    await stream.send(DATA + b"!")


async def another_hash(stream: Stream) -> None:
    await stream.send(DATA)
    await stream.send(hashlib.sha256(b"something else").digest())


async def nothing_in_a_message(stream: Stream) -> None:
    await stream.send(b"")


async def too_little(stream: Stream) -> None:
    await stream.send(DATA[:-1])
    await stream.finish()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("send", "said"),
    [
        (too_much, "not the size"),
        (another_hash, "SHA-256 differs"),
        (nothing_in_a_message, "not the size"),
        (too_little, "ended too early"),
    ],
)
async def test_what_does_not_arrive_as_it_should(
    aio_pair: tuple[Bus, Bus], tmp_path: Path, send: Callable[[Stream], Awaitable[None]], said: str
) -> None:
    near, far = aio_pair
    receiver = Receiver(far, tmp_path)
    receiving = asyncio.create_task(receiver.run())
    metadata = json.dumps({"name": "file", "size": len(DATA)}).encode()
    stream = await near.open_stream(far.address, name=files.STREAM, metadata=metadata)
    await send(stream)
    with pytest.raises(StreamReset, match=said):
        await stream.receive()
    assert isinstance(await receiver.ends.get(), files.Refusal)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    assert not contents(tmp_path)


@pytest.mark.asyncio
async def test_a_file_that_changes_meanwhile(aio_pair: tuple[Bus, Bus], tmp_path: Path) -> None:
    near, far = aio_pair
    path, taken = tmp_path / "file", tmp_path / "taken"
    path.write_bytes(DATA)
    taken.mkdir()
    receiver = Receiver(far, taken)
    receiving = asyncio.create_task(receiver.run())
    grown = False

    def grow(name: str, done: int, size: int) -> None:
        nonlocal grown
        if not grown:
            grown = True
            with path.open("ab") as file:
                file.write(b"more")

    peer = near.peer(far.address)
    assert peer is not None
    with pytest.raises(Failed, match="changed while it was copied"):
        await files.send_file(near, peer, path, 10, grow)
    assert "changed while" in files.reason_of(await receiver.ends.get())
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    assert not contents(taken)


@pytest.mark.asyncio
async def test_a_name_that_is_taken_meanwhile(aio_pair: tuple[Bus, Bus], tmp_path: Path) -> None:
    """Nothing is replaced that was not there when the copy began."""
    near, far = aio_pair
    receiver = Receiver(far, tmp_path)
    receiving = asyncio.create_task(receiver.run())
    metadata = json.dumps({"name": "file", "size": len(DATA)}).encode()
    stream = await near.open_stream(far.address, name=files.STREAM, metadata=metadata)
    (tmp_path / "file").write_text("of somebody else")
    await stream.send(DATA)
    await stream.send(hashlib.sha256(DATA).digest())
    with pytest.raises(StreamReset, match="there already"):
        await stream.receive()
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    assert contents(tmp_path) == {"file": "of somebody else"}
