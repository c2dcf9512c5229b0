from __future__ import annotations

import copy
import errno
import os
import pickle
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import zmq
from zmq.utils import z85

from brokerless.address import Address
from brokerless.errors import ConfigError, IdentityInUse, StartError
from brokerless.identity import Identity

if TYPE_CHECKING:
    from pathlib import Path

HOLDER = """
import sys
from brokerless.errors import IdentityInUse
from brokerless.identity import Identity
print("ready", flush=True)
for path in sys.stdin:
    try:
        identity = Identity.load(path.strip())
    except IdentityInUse:
        print("in use", flush=True)
    else:
        print(identity.address, flush=True)
"""
"""A process that loads the identity at each path it is told, keeps it, and says what came of it."""


class Holder:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "ready"

    def load(self, path: Path) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_generated_identities_differ_and_are_curve_key_pairs() -> None:
    one, other = Identity.generate(), Identity.generate()
    assert one.secret != other.secret
    assert one.address == Address(one.public) != other.address
    assert z85.encode(one.public) == zmq.curve_public(z85.encode(one.secret))


def test_an_identity_follows_from_its_secret() -> None:
    identity = Identity.generate()
    assert Identity(identity.secret).address == identity.address


@pytest.mark.parametrize("secret", [b"", b"x" * 31, b"x" * 33, "x" * 32, None])
def test_a_secret_key_is_32_bytes(secret: bytes) -> None:
    with pytest.raises(ConfigError, match=r"secret.*32 bytes"):
        Identity(secret)


def test_a_missing_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "key")
    identity.release()
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert mode(tmp_path / "key") == 0o600
    header, secret = (tmp_path / "key").read_bytes().splitlines()
    assert header == b"dittobus identity 1"
    assert z85.decode(secret) == identity.secret


def test_the_umask_neither_opens_nor_closes_the_file(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        Identity.load(tmp_path / "key").release()
    finally:
        os.umask(before)
    assert mode(tmp_path / "key") == 0o600


def test_a_file_keeps_its_identity(tmp_path: Path) -> None:
    first = Identity.load(tmp_path / "key")
    first.release()
    again = Identity.load(str(tmp_path / "key"))
    again.release()
    assert again.secret == first.secret


def test_a_read_only_file_serves(tmp_path: Path) -> None:
    Identity.load(tmp_path / "key").release()
    (tmp_path / "key").chmod(0o400)
    Identity.load(tmp_path / "key").release()


def test_an_identity_is_in_use_until_it_is_released(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "key")
    with pytest.raises(IdentityInUse, match=str(tmp_path / "key")):
        Identity.load(tmp_path / "key")
    identity.release()
    identity.release()
    Identity.load(tmp_path / "key").release()


def test_an_identity_is_in_use_while_another_process_lives(tmp_path: Path) -> None:
    holder = Holder()
    holder.load(tmp_path / "key")
    address = Address.parse(holder.answer())
    with pytest.raises(IdentityInUse):
        Identity.load(tmp_path / "key")
    holder.kill()
    identity = Identity.load(tmp_path / "key")
    identity.release()
    assert identity.address == address


def test_of_two_processes_at_once_one_gets_the_identity(tmp_path: Path) -> None:
    holders = [Holder(), Holder()]
    try:
        for number in range(20):
            for holder in holders:
                holder.load(tmp_path / str(number))
            answers = [holder.answer() for holder in holders]
            assert sorted(answer == "in use" for answer in answers) == [False, True]
    finally:
        for holder in holders:
            holder.kill()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_identity(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path / "key")
    child_ready, parent_done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(child_ready[1], b".")
        os.read(parent_done[0], 1)
        os._exit(0)
    try:
        os.read(child_ready[0], 1)
        identity.release()
        Identity.load(tmp_path / "key").release()
    finally:
        os.write(parent_done[1], b".")
        os.waitpid(child, 0)
        for descriptor in (*child_ready, *parent_done):
            os.close(descriptor)


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o004, 0o001])
def test_a_file_open_to_others_is_refused(tmp_path: Path, bits: int) -> None:
    Identity.load(tmp_path / "key").release()
    (tmp_path / "key").chmod(0o600 | bits)
    with pytest.raises(ConfigError, match="chmod 600"):
        Identity.load(tmp_path / "key")


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Identity.load(tmp_path / "key").release()
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    with pytest.raises(ConfigError, match="another user"):
        Identity.load(tmp_path / "key")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"dittobus identity 1\n",
        b"dittobus identity 2\n" + b"0" * 40 + b"\n",
        b"dittobus identity 1\n" + b"0" * 35 + b"\n",
        b"dittobus identity 1\n" + b"0" * 45 + b"\n",
        b"dittobus identity 1\n" + b"0" * 39 + b"~\n",
        b"dittobus identity 1\n" + b"#" * 40 + b"\n",
        b"dittobus identity 1\n" + b"0" * 40 + b"\nmore\n",
        b"\xff" * 10_000,
    ],
)
def test_garbage_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigError, match="holds no identity") as caught:
        Identity.load(tmp_path / "key")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert (tmp_path / "key").read_bytes() == content


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("directory", "fifo"):
        with pytest.raises(ConfigError, match="not a regular file"):
            Identity.load(tmp_path / name)


def test_a_missing_directory_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot create"):
        Identity.load(tmp_path / "missing" / "key")


def test_a_dangling_link_is_a_start_error(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "missing")
    with pytest.raises(StartError, match="cannot create"):
        Identity.load(tmp_path / "key")


def test_a_full_disk_is_a_start_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StartError, match="No space left"):
        Identity.load(tmp_path / "key")
    assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_be_opened_is_a_start_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*arguments: object, **options: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    Identity.load(tmp_path / "key").release()
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StartError, match="Permission denied"):
        Identity.load(tmp_path / "key")


def test_the_secret_is_not_shown() -> None:
    identity = Identity.generate()
    shown = f"{identity} {identity!r}"
    assert identity.address.short in shown
    for secret in (z85.encode(identity.secret).decode(), identity.secret.hex(), repr(identity.secret)):
        assert secret not in shown


def test_an_identity_is_neither_pickled_nor_copied() -> None:
    identity = Identity.generate()
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            duplicate(identity)
