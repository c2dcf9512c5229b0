from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING

import pytest

from brokerless.errors import ConfigError, StartError
from brokerless.private_files import (
    READ_BYTES_MAX,
    create_locked_file,
    create_private_file,
    is_locked,
    make_private_directory,
    open_or_create_private_file,
    open_private_file,
    read_all,
    try_lock,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_directory_is_made_with_its_parents_for_this_user_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b" / "c"
    assert make_private_directory(directory) == directory
    assert make_private_directory(directory) == directory
    for made in (directory, directory.parent, directory.parent.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_directory_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(StartError, match="chmod 700"):
        make_private_directory(tmp_path / "open")


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_private_directory(tmp_path / "theirs")
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    with pytest.raises(StartError, match="another user"):
        make_private_directory(tmp_path / "theirs")


def test_a_link_or_a_file_is_no_directory(tmp_path: Path) -> None:
    make_private_directory(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(StartError, match="not a directory"):
            make_private_directory(tmp_path / name)
    with pytest.raises(StartError, match="cannot make"):
        make_private_directory(tmp_path / "file" / "below")


def test_a_file_is_created_once(tmp_path: Path) -> None:
    assert create_private_file(tmp_path / "file", b"first")
    assert not create_private_file(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_keeps_disappearing_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "missing")
    with pytest.raises(StartError, match="disappears"):
        open_or_create_private_file(path, lambda: b"")


def test_a_missing_file_is_told_from_one_that_is_not_private(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_private_file(tmp_path / "missing")
    (tmp_path / "file").touch(mode=0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_private_file(tmp_path / "file")


def test_no_more_is_read_than_any_file_of_ours_has(tmp_path: Path) -> None:
    assert create_private_file(tmp_path / "file", b"x" * (2 * READ_BYTES_MAX))
    with open_private_file(tmp_path / "file") as file:
        assert len(read_all(file)) == READ_BYTES_MAX + 1


def test_a_lock_lasts_until_its_file_is_closed(tmp_path: Path) -> None:
    with create_locked_file(tmp_path / "file", b"content"):
        with open_private_file(tmp_path / "file") as other:
            assert is_locked(other)
            assert not try_lock(other)
            assert read_all(other) == b"content"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with open_private_file(tmp_path / "file") as other:
        assert not is_locked(other)
        assert try_lock(other)


def test_those_who_ask_for_a_lock_do_not_disturb_each_other(tmp_path: Path) -> None:
    create_locked_file(tmp_path / "file", b"").close()
    with open_private_file(tmp_path / "file") as one, open_private_file(tmp_path / "file") as other:
        fcntl.flock(one, fcntl.LOCK_SH)  # as far as is_locked gets before it lets go
        assert not is_locked(other)
        fcntl.flock(one, fcntl.LOCK_UN)
        assert not is_locked(one)
        assert try_lock(other)


def test_a_locked_file_that_cannot_be_created_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(StartError, match="cannot create"):
        create_locked_file(tmp_path / "file", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
