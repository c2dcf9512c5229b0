from __future__ import annotations

import hashlib
import hmac
import logging
import os
import pathlib
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from brokerless import trust
from brokerless.errors import ConfigError, StartError
from brokerless.trust import HOST_KEY_FILE, derive_key, generate_secret, mesh_key, private_directory

if TYPE_CHECKING:
    from pathlib import Path

SECRET = bytes(range(32))

HOST_KEYS = """
import pathlib, sys
from brokerless.trust import mesh_key
print("ready", flush=True)
for directory in sys.stdin:
    print(mesh_key("m", key_directory=pathlib.Path(directory.strip())).key.hex(), flush=True)
"""
"""A process that derives the key of this host, from the directory that it is told."""


@pytest.fixture(autouse=True)
def not_yet_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_warned_of_host_scope", False)


@pytest.fixture
def user_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Make a home, and nothing but a home, for this test."""
    directories = {"HOME": tmp_path / "home", "runtime": tmp_path / "runtime", "state": tmp_path / "state"}
    for directory in directories.values():
        directory.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(directories["HOME"]))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return directories


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt and one block, written out."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# Which key


def test_bytes_are_used_as_they_are() -> None:
    found = mesh_key("demo", SECRET)
    assert found.scope == "mesh"
    assert found.key == hkdf(SECRET, b"dittobus 1 mesh bytes\0demo")


def test_a_passphrase_is_stretched() -> None:
    stretched = hashlib.scrypt(
        b"correct horse", salt=b"dittobus 1 passphrase\0demo", n=2**15, r=8, p=1, maxmem=2**26, dklen=32
    )
    found = mesh_key("demo", "correct horse")
    assert found.scope == "mesh"
    assert found.key == hkdf(stretched, b"dittobus 1 mesh phrase\0demo")


def test_an_open_mesh_has_a_key_that_anybody_can_tell() -> None:
    found = mesh_key("demo", trust="open")
    assert found.scope == "open"
    assert found.key == hkdf(b"", b"dittobus 1 mesh open\0demo")


def test_a_passphrase_is_stretched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stretched = []
    scrypt = hashlib.scrypt

    def counted(password: bytes, **parameters: int) -> bytes:
        stretched.append(password)
        return scrypt(password, **{**parameters, "n": 2})  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "scrypt", counted)
    trust._stretch.cache_clear()
    keys = {mesh_key("demo", "correct horse").key for _ in range(3)}
    trust._stretch.cache_clear()  # what it holds now is not for others
    assert len(keys) == len(stretched) == 1


def test_whatever_differs_gives_another_key(tmp_path: Path) -> None:
    found = [
        mesh_key("demo", SECRET),
        mesh_key("demo2", SECRET),
        mesh_key("demo", SECRET + b"\0"),
        mesh_key("demo", SECRET.decode()),
        mesh_key("demo", SECRET.decode() + " "),
        mesh_key("demo2", SECRET.decode()),
        mesh_key("demo", trust="open"),
        mesh_key("demo2", trust="open"),
        mesh_key("demo", key_directory=tmp_path / "one"),
        mesh_key("demo2", key_directory=tmp_path / "one"),
        mesh_key("demo", key_directory=tmp_path / "other"),
    ]
    assert len({each.key for each in found}) == len(found)
    assert all(len(each.key) == 32 for each in found)


def test_it_does_not_matter_how_an_accent_was_typed() -> None:
    assert mesh_key("caf\u00e9", "na\u00efvet\u00e9s") == mesh_key("cafe\u0301", "nai\u0308vete\u0301s")


def test_secrets_are_fresh_and_serve() -> None:
    assert generate_secret() != generate_secret()
    assert mesh_key("demo", generate_secret()).scope == "mesh"


def test_keys_for_different_purposes_differ() -> None:
    keys = {derive_key(SECRET, b"a"), derive_key(SECRET, b"b"), derive_key(SECRET, b"a", b"b")}
    assert len(keys) == 3


# What is refused


@pytest.mark.parametrize(
    ("mesh", "secret", "trusted", "message"),
    [
        ("demo", "7 chars", None, r"secret: at least 8 characters, got 7"),
        ("demo", "", None, r"secret: at least 8 characters, got 0"),
        ("demo", b"x" * 31, None, r"secret: at least 32 bytes, got 31"),
        ("demo", bytearray(32), None, r"secret: expected str, bytes or None, got bytearray"),
        ("demo", 12345678, None, r"secret: expected str, bytes or None, got int"),
        ("demo", "\ud800" * 8, None, r"secret: .*surrogate"),
        ("", SECRET, None, r"mesh: 1 to 64 bytes in UTF-8, got 0"),
        ("x" * 65, SECRET, None, r"mesh: 1 to 64 bytes in UTF-8, got 65"),
        ("é" * 33, SECRET, None, r"mesh: 1 to 64 bytes in UTF-8, got 66"),
        (b"demo", SECRET, None, r"mesh: expected str, got bytes"),
        ("demo", None, "closed", r"trust: expected None or 'open', got 'closed'"),
        ("demo", None, True, r"trust: expected None or 'open', got True"),
        ("demo", SECRET, "open", r"trust: 'open' lets anybody in"),
    ],
)
def test_what_is_out_of_range_is_named(mesh: str, secret: str, trusted: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mesh_key(mesh, secret, trusted)


def test_no_secret_is_shown() -> None:
    shown = [repr(mesh_key("demo", SECRET))]
    for mesh, secret, trusted in (("", "correct horse", None), ("demo", "correct horse", "open")):
        with pytest.raises(ConfigError) as caught:
            mesh_key(mesh, secret, trusted)
        shown.append(str(caught.value))
    with pytest.raises(ConfigError) as caught:
        mesh_key("demo", "correct horse\ud800")
    assert caught.value.__suppress_context__
    shown.append(str(caught.value))
    assert not any("horse" in text or repr(mesh_key("demo", SECRET).key) in text for text in shown)


# The key of this user on this host


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    found = mesh_key("demo", key_directory=tmp_path / "keys")
    assert found.scope == "host"
    assert mesh_key("demo", key_directory=tmp_path / "keys") == found
    path = tmp_path / "keys" / HOST_KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    header, key = path.read_text().splitlines()
    assert header == "dittobus host key 1"
    assert found.key == hkdf(bytes.fromhex(key), b"dittobus 1 mesh host\0demo")


def test_processes_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOST_KEYS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for number in range(20):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{tmp_path / str(number)}\n")
                process.stdin.flush()
            keys = [process.stdout.readline().strip() for process in processes if process.stdout]
            assert keys == [mesh_key("m", key_directory=tmp_path / str(number)).key.hex()] * 2
    finally:
        for process in processes:
            process.communicate()


@pytest.mark.parametrize(
    "content",
    [b"", b"dittobus host key 1\n", b"dittobus host key 1\n" + b"g" * 64, b"\xff" * 99, b"x\n" * 99],
)
def test_a_key_file_of_garbage_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / HOST_KEY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="holds no key") as caught:
        mesh_key("demo", key_directory=tmp_path)
    assert caught.value.__suppress_context__


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    mesh_key("demo", key_directory=tmp_path / "keys")
    (tmp_path / "keys" / HOST_KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        mesh_key("demo", key_directory=tmp_path / "keys")


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(StartError, match="chmod 700"):
        mesh_key("demo", key_directory=tmp_path / "keys")


def test_host_scope_warns_once_and_says_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for mesh in ("one", "other"):
        mesh_key(mesh, key_directory=tmp_path / "keys")
    [record] = caplog.records
    assert (record.name, record.levelno) == ("dittobus", logging.WARNING)
    path = tmp_path / "keys" / HOST_KEY_FILE
    for word in ("secret=", 'trust="open"', str(path)):
        assert word in record.getMessage()
    assert path.read_text().splitlines()[1] not in record.getMessage()


def test_other_scopes_do_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    mesh_key("demo", SECRET)
    mesh_key("demo", trust="open")
    assert not caplog.records


# This user's directory


def test_the_runtime_directory_comes_first(
    user_directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(user_directories["runtime"]))
    monkeypatch.setenv("XDG_STATE_HOME", str(user_directories["state"]))
    assert private_directory() == user_directories["runtime"] / "dittobus"
    assert stat.S_IMODE(private_directory().stat().st_mode) == 0o700


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere/at/all", os.devnull])
def test_a_runtime_directory_that_is_none_is_passed_over(
    user_directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setenv("XDG_STATE_HOME", str(user_directories["state"]))
    assert private_directory() == user_directories["state"] / "dittobus"


def test_a_runtime_directory_of_another_user_is_passed_over(
    user_directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(user_directories["runtime"]))
    is_ours = trust._is_ours
    monkeypatch.setattr(trust, "_is_ours", lambda path: False)
    assert private_directory() == user_directories["HOME"] / ".local" / "state" / "dittobus"
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    assert not is_ours(user_directories["runtime"])


def test_without_any_directory_it_is_in_the_home(
    user_directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert private_directory() == user_directories["HOME"] / ".local" / "state" / "dittobus"


def test_a_link_in_its_place_is_refused(
    user_directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(user_directories["runtime"]))
    (user_directories["runtime"] / "dittobus").symlink_to(user_directories["state"])
    with pytest.raises(StartError, match="not a directory"):
        private_directory()


def test_a_user_without_a_home_is_told(
    user_directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", homeless)
    with pytest.raises(StartError, match="no home directory"):
        private_directory()
