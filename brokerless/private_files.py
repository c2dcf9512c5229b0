"""Files and directories that only this user can read, made without a moment in which they are less.

A secret in a file is as good as the file's owner and mode, so both are looked at on the open descriptor and
never on a name, which may mean another file by the next call.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
import sys
import weakref
from typing import TYPE_CHECKING

from brokerless.errors import ConfigError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
OTHERS = 0o077
"""Everything that a group or the world could be allowed."""

READ_BYTES_MAX = 4_096
"""No file of ours is larger; more in one is garbage, and not worth the memory."""

_OPEN_FLAGS = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO in the place of a key would otherwise be waited for without end
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)

_LOCK_OFFSET = 1 << 20
"""Windows locks bytes, and nobody else can read what is locked: so lock one far behind the end."""

_CREATE_ATTEMPTS = 3
"""Between creating a file and opening it, somebody may remove it; not for ever, though."""

_locked_files: weakref.WeakSet[io.FileIO] = weakref.WeakSet()


def make_private_directory(path: Path) -> Path:
    """Make ``path`` unless it is there, and return it if nobody else can enter it; else ``StartError``."""
    try:
        # Parents too are private when made here (as the XDG rules ask); those already there stay as they are.
        for parent in reversed(path.parents):
            if not parent.exists():
                _mkdir(parent)
        _mkdir(path)
        found = path.lstat()  # not stat: a link could be pointed elsewhere after we looked
    except OSError as error:
        raise StartError(f"cannot make the directory {path}: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        raise StartError(f"{path} is not a directory", hint="remove it, or set directory=")
    if sys.platform != "win32":
        if found.st_uid != os.geteuid():
            raise StartError(f"{path} belongs to another user", hint="set directory= to one of your own")
        if found.st_mode & OTHERS:
            raise StartError(f"{path} is open to other users", hint=f"chmod 700 {path}")
    return path


def _mkdir(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=DIRECTORY_MODE)


def create_private_file(path: Path, content: bytes) -> bool:
    """Create ``path`` with ``content``, durably and all at once; return False if it is already there.

    Of several processes that do this at the same time exactly one gets True. Raises ``StartError``.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with _created(temporary) as file:
            file.write(content)
            os.fsync(file.fileno())
        if sys.platform == "win32":
            os.rename(temporary, path)  # fails there if the target exists
        else:
            os.link(temporary, path)  # a rename would replace what another process has made and uses already
            os.unlink(temporary)
            _sync_directory(path.parent)
    except FileExistsError:
        _unlink_if_there(temporary)
        return False
    except OSError as error:
        _unlink_if_there(temporary)
        raise StartError(f"cannot create {path}: {error.strerror}") from error
    return True


def create_locked_file(path: Path, content: bytes) -> io.FileIO:
    """Create ``path``, a name nobody has used, with ``content``, locked until what is returned is closed.

    It is complete and locked as soon as it can be seen, and not made to outlast a power failure. Raises
    ``StartError``.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        file = _created(temporary)
        try:
            file.write(content)
            if sys.platform == "win32":
                file.close()  # what is open cannot be renamed there; so it is seen unlocked, for a moment
                os.rename(temporary, path)
                file = open_private_file(path)
                _lock_fresh(file)
            else:
                _lock_fresh(file)
                os.rename(temporary, path)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        _unlink_if_there(temporary)
        if isinstance(error, StartError):
            raise
        raise StartError(f"cannot create {path}: {error.strerror}") from error
    return file


def _lock_fresh(file: io.FileIO) -> None:
    if not try_lock(file):
        raise StartError("a file just made is locked already", hint="does this file system know locks?")


def _created(path: Path) -> io.FileIO:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, FILE_MODE)
    if sys.platform != "win32":
        os.fchmod(descriptor, FILE_MODE)  # whatever the umask took away
    return io.FileIO(descriptor, "r+")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink_if_there(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def open_private_file(path: Path) -> io.FileIO:
    """Open ``path``, which must be a regular file of ours that nobody else can read.

    Raises ``FileNotFoundError`` if there is none, ``ConfigError`` if it is not private, and ``StartError`` if
    it cannot be opened.
    """
    mode = "r+"
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | _OPEN_FLAGS)
        except OSError:  # a key of mode 0400 or on a read-only mount; only a lock over NFS needs to write
            mode = "r"
            descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StartError(f"cannot open {path}: {error.strerror}") from error
    try:
        _require_private(path, os.fstat(descriptor))
        return io.FileIO(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def _require_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} is not a regular file")
    if sys.platform != "win32":
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{path} belongs to another user", hint="only its owner may use it")
        if found.st_mode & OTHERS:
            raise ConfigError(f"{path} is open to other users", hint=f"chmod 600 {path}")


def open_or_create_private_file(path: Path, content: Callable[[], bytes]) -> io.FileIO:
    """Open ``path`` as ``open_private_file`` does, after creating it with ``content()`` if there is none."""
    for _ in range(_CREATE_ATTEMPTS):
        try:
            return open_private_file(path)
        except FileNotFoundError:
            create_private_file(path, content())  # if another process is faster, its file is the one to use
    raise StartError(f"cannot create {path}: it disappears as soon as it is made")


def read_all(file: io.FileIO) -> bytes:
    """Return the content of a file of ours, cut behind ``READ_BYTES_MAX + 1``."""
    file.seek(0)
    return file.read(READ_BYTES_MAX + 1) or b""


def try_lock(file: io.FileIO) -> bool:
    """Lock the file until it is closed; return False if another process, or another opening, holds it."""
    try:
        if sys.platform == "win32":
            file.seek(_LOCK_OFFSET)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    _locked_files.add(file)
    return True


def is_locked(file: io.FileIO) -> bool:
    """Return whether another opening of the file holds the lock. Those who ask do not disturb each other."""
    if sys.platform == "win32":
        try:
            file.seek(_LOCK_OFFSET)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBRLCK, 1)
        except PermissionError:
            return True
        file.seek(_LOCK_OFFSET)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
    else:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _close_inherited() -> None:
    # A lock lives until the last copy of its descriptor is closed. Without this, a worker forked by an
    # application would keep the lock of a parent that has died, and its successor could not start.
    for file in list(_locked_files):
        file.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited)
