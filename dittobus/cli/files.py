"""A file over a stream: its name and size at the opening, its bytes, its SHA-256, and the receiver's answer.

The receiver believes nothing: the name must be one for a file of its directory, the bytes as many as were
said, and their hash the one that came. Until all is there the file has another name, and so it is never seen
half; if it does not all come, it is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dittobus import BusError, StreamRejected, StreamReset
from dittobus.cli import exits
from dittobus.cli.output import printable
from dittobus.cli.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from dittobus import Peer
    from dittobus.aio import Bus, Offer, Stream

STREAM = "dittobus.copy"

CHUNK_BYTES = 256 * 1024
"""Large enough that hops between threads cost nothing beside it, small beside the window."""

NAME_BYTES_MAX = 255
"""What file systems take for a name."""

REFUSED = 403
EXISTS = 409
BROKEN = 422
NO_SPACE = 507
"""Codes of rejections and resets, as HTTP has taught them."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A file that has arrived whole."""

    name: str
    bytes: int
    sha256: str


OnProgress: TypeAlias = "Callable[[str, int, int], None]"
"""Is told a file's name, how many bytes have passed, and its size."""


class Refusal(Exception):
    """What the receiver will not do, or cannot."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


# Sending


async def send_file(
    bus: Bus,
    peer: Peer,
    path: Path,
    timeout: float,  # noqa: ASYNC109 - it is told to the peer
    on_progress: OnProgress,
) -> Copied:
    """Copy the file at ``path`` to ``peer``; ``on_progress`` is told how far it is.

    Raises ``OSError``, ``BusError``, and ``Failed`` when the other side does not end up with the same file.
    """
    worker = Worker("copy-reader")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            metadata = json.dumps({"name": path.name, "size": size}).encode()
            stream = await bus.open_stream(peer, name=STREAM, metadata=metadata, timeout=timeout)
            try:
                copied = await _send_content(stream, worker, file, path, size, on_progress)
                await stream.close()
            except BaseException:
                stream.abort(BROKEN, "the other side was interrupted")
                raise
            return copied
    finally:
        worker.close()


async def _send_content(
    stream: Stream, worker: Worker, file: BinaryIO, path: Path, size: int, on_progress: OnProgress
) -> Copied:
    digest = hashlib.sha256()

    def read() -> bytes:
        chunk = file.read(CHUNK_BYTES)
        digest.update(chunk)
        return chunk

    sent = 0
    while chunk := await worker(read):
        sent += len(chunk)
        if sent > size:
            break
        await stream.send(chunk)
        on_progress(path.name, sent, size)
    if sent != size:
        stream.abort(BROKEN, "the file changed while it was copied")
        raise exits.Failed(f"{path}: it changed while it was copied; copy it again")
    await stream.send(digest.digest())
    await stream.finish()
    answer = _object(await stream.receive())
    if answer.get("sha256") != digest.hexdigest():
        raise exits.Failed(f"{path}: the other side has something else; copy it again")
    return Copied(path.name, size, digest.hexdigest())


# Receiving


async def receive_file(offer: Offer, directory: Path, overwrite: bool, on_progress: OnProgress) -> Copied:
    """Take an offered file into ``directory``; ``on_progress`` is told how far it is.

    Raises ``Refusal``, of which the other side is told, or a ``BusError``.
    """
    try:
        name, size = _announced(offer.metadata)
        partial = _Partial(target_of(directory, name), overwrite)
    except Refusal as refusal:
        await offer.reject(refusal.code, str(refusal))
        raise
    try:
        stream = await offer.accept()
        try:
            copied = await _receive_content(stream, partial, name, size, on_progress)
            partial.keep()
        except BaseException as error:
            if isinstance(error, Refusal):
                stream.abort(error.code, str(error))
            stream.abort(BROKEN, "the other side was interrupted")
            raise
    finally:
        partial.close()
    with suppress(BusError):  # it has arrived, even if its sender has gone by now
        async with stream:
            await stream.send(json.dumps({"sha256": copied.sha256}).encode())
            await stream.finish()
    return copied


async def _receive_content(
    stream: Stream, partial: _Partial, name: str, size: int, on_progress: OnProgress
) -> Copied:
    received = 0
    on_progress(name, 0, size)
    async for message in stream:
        if received == size:
            if message != partial.digest.digest():
                raise Refusal(BROKEN, f"{name!r} did not arrive as it was sent: its SHA-256 differs")
            return Copied(name, size, partial.digest.hexdigest())
        received += len(message)
        if received > size or not message:
            raise Refusal(BROKEN, f"{name!r} has not the size that was said")
        await partial.write(message)
        on_progress(name, received, size)
    raise Refusal(BROKEN, f"{name!r} ended too early")


def target_of(directory: Path, name: str) -> Path:
    """Return where a file of that name belongs. Raises ``Refusal`` if it is no name for one."""
    if (
        name in ("", ".", "..")
        or not name.isprintable()
        or any(separator in name for separator in "/\\:")
        or len(os.fsencode(name)) > NAME_BYTES_MAX
    ):
        raise Refusal(REFUSED, f"{printable(name)[:NAME_BYTES_MAX]!r} is no name for a file here")
    return directory / name


class _Partial:
    """A file that is not all there, under a name that nobody takes for it."""

    def __init__(self, target: Path, overwrite: bool) -> None:
        if not overwrite and os.path.lexists(target):
            raise Refusal(EXISTS, f"{target.name!r} is there already; 'copy --listen --overwrite' replaces")
        self._target = target
        self._overwrite = overwrite
        self.digest = hashlib.sha256()
        self._worker = Worker("copy-writer")
        try:
            descriptor, path = tempfile.mkstemp(prefix=".dittobus-", suffix=".part", dir=target.parent)
        except OSError as error:
            self._worker.close()
            raise Refusal(NO_SPACE, f"cannot write here: {error.strerror}") from error
        self._path = Path(path)
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    async def write(self, data: bytes) -> None:
        """Append ``data``. Raises ``Refusal``."""
        try:
            await self._worker(self._write, data)
        except OSError as error:
            raise Refusal(NO_SPACE, f"cannot write {self._target.name!r}: {error.strerror}") from error

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.digest.update(data)

    def keep(self) -> None:
        """Give the file its name, which nobody else may have taken meanwhile. Raises ``Refusal``."""
        try:
            self._path.chmod(0o666 & ~_umask())  # as of any new file; until now it was nobody else's business
            self._file.close()
            if self._overwrite:
                self._path.replace(self._target)
            else:
                os.link(self._path, self._target)  # unlike a rename, it replaces nothing
        except FileExistsError as error:
            raise Refusal(EXISTS, f"{self._target.name!r} is there already") from error
        except OSError as error:
            raise Refusal(NO_SPACE, f"cannot keep {self._target.name!r}: {error.strerror}") from error

    def close(self) -> None:
        """Remove what is left under the other name."""
        self._worker.close()
        self._file.close()
        with suppress(FileNotFoundError):
            self._path.unlink()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _announced(metadata: bytes) -> tuple[str, int]:
    said = _object(metadata)
    name, size = said.get("name"), said.get("size")
    if not isinstance(name, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Refusal(REFUSED, "a copy begins with the file's name and size")
    return name, size


def _object(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def reason_of(error: Exception) -> str:
    """Return what the other side said of a rejection or a reset, or else what happened."""
    if not isinstance(error, (StreamRejected, StreamReset)):
        return printable(str(error))
    return printable(error.reason) or "it was dropped"
