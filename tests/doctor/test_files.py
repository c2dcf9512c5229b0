from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Identity, NodeConfig, generate_secret
from brokerless.doctor import files
from brokerless.doctor.files import Keys, examine_files, examine_registry_directory
from brokerless.doctor.findings import Finding, Verdict
from brokerless.trust import HOST_KEY_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")

PHRASE = "correct horse battery"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "bus"


@pytest.fixture
def keys() -> Iterator[list[Keys]]:
    taken: list[Keys] = []
    yield taken
    for each in taken:
        each.release()


def examined(taken: list[Keys], **options: Any) -> dict[str, Finding]:
    found, keys = examine_files(NodeConfig(**options))
    taken.append(keys)
    return {finding.name: finding for finding in found}


def test_all_is_well(directory: Path, keys: list[Keys]) -> None:
    found = examined(keys, directory=directory, secret=generate_secret())
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert list(found) == ["private directory", "mesh secret", "identity"]
    assert keys[0].directory == directory
    assert keys[0].trust is not None
    assert keys[0].identity is not None


@pytest.mark.parametrize("given", [{"secret": PHRASE}, {"trust": "open"}, {}])
def test_nothing_of_a_secret_is_shown(directory: Path, keys: list[Keys], given: dict[str, str]) -> None:
    found = examined(keys, directory=directory, identity=directory.parent / "identity", **given)
    trust, identity = keys[0].trust, keys[0].identity
    assert trust is not None
    assert identity is not None
    said = f"{found} {keys[0]}"
    secrets = [PHRASE, repr(trust.key), trust.key.hex(), repr(identity.secret), identity.secret.hex()]
    if not given:
        secrets.append((directory / HOST_KEY_FILE).read_text().splitlines()[1])
    assert not [secret for secret in secrets if secret in said]


@pytest.mark.parametrize(
    ("given", "said"), [({}, "only this user's processes"), ({"trust": "open"}, "anybody")]
)
def test_a_mesh_without_a_secret(directory: Path, keys: list[Keys], given: dict[str, str], said: str) -> None:
    finding = examined(keys, directory=directory, **given)["mesh secret"]
    assert finding.verdict is Verdict.WARNING
    assert said in finding.text
    assert finding.hint


@posix_only
def test_a_directory_that_is_open_to_others(directory: Path, keys: list[Keys]) -> None:
    directory.mkdir()
    directory.chmod(0o755)
    found = examined(keys, directory=directory)
    assert found["private directory"].verdict is Verdict.FAILURE
    assert found["private directory"].hint == f"chmod 700 {directory}"
    assert found["mesh secret"].verdict is Verdict.SKIPPED
    assert keys[0].directory is None


def test_a_directory_that_is_none(directory: Path, keys: list[Keys]) -> None:
    directory.touch()
    assert examined(keys, directory=directory)["private directory"].verdict is Verdict.FAILURE


@posix_only
@pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user(directory: Path, keys: list[Keys]) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, -1)
    finding = examined(keys, directory=directory)["private directory"]
    assert finding.verdict is Verdict.FAILURE
    assert "another user" in finding.text


def test_a_key_file_that_holds_no_key(directory: Path, keys: list[Keys]) -> None:
    directory.mkdir(mode=0o700)
    (directory / HOST_KEY_FILE).write_text("not a key but a secret\n")
    (directory / HOST_KEY_FILE).chmod(0o600)
    finding = examined(keys, directory=directory)["mesh secret"]
    assert finding.verdict is Verdict.FAILURE
    assert "holds no key" in finding.text
    assert "a secret" not in finding.text
    assert "remove it" in finding.hint


@posix_only
def test_a_key_file_that_others_can_read(directory: Path, keys: list[Keys]) -> None:
    examined(keys, directory=directory)
    (directory / HOST_KEY_FILE).chmod(0o644)
    finding = examined(keys, directory=directory)["mesh secret"]
    assert finding.verdict is Verdict.FAILURE
    assert finding.hint.startswith("chmod 600 ")


class TestIdentity:
    def test_given(self, directory: Path, keys: list[Keys]) -> None:
        identity = Identity.generate()
        finding = examined(keys, directory=directory, identity=identity)["identity"]
        assert identity.address.short in finding.text
        assert keys[0].identity is identity
        assert not keys[0].is_identity_ours

    def test_in_a_file(self, directory: Path, tmp_path: Path, keys: list[Keys]) -> None:
        path = tmp_path / "identity"
        Identity.load(path).release()
        assert examined(keys, directory=directory, identity=path)["identity"].verdict is Verdict.OK
        keys[0].release()
        Identity.load(path).release()

    def test_that_is_in_use(self, directory: Path, tmp_path: Path, keys: list[Keys]) -> None:
        path = tmp_path / "identity"
        running = Identity.load(path)
        finding = examined(keys, directory=directory, identity=path)["identity"]
        assert finding.verdict is Verdict.WARNING
        assert "in use" in finding.text
        assert keys[0].identity is not None
        assert keys[0].identity.address != running.address
        running.release()

    def test_that_is_not_there_yet_is_not_made(
        self, directory: Path, tmp_path: Path, keys: list[Keys]
    ) -> None:
        path = tmp_path / "identity"
        assert examined(keys, directory=directory, identity=path)["identity"].verdict is Verdict.OK
        assert not path.exists()

    def test_that_cannot_be_made(self, directory: Path, tmp_path: Path, keys: list[Keys]) -> None:
        path = tmp_path / "nowhere" / "identity"
        assert examined(keys, directory=directory, identity=path)["identity"].verdict is Verdict.FAILURE

    def test_that_is_garbage(self, directory: Path, tmp_path: Path, keys: list[Keys]) -> None:
        path = tmp_path / "identity"
        path.write_text("garbage")
        path.chmod(0o600)
        finding = examined(keys, directory=directory, identity=path)["identity"]
        assert finding.verdict is Verdict.FAILURE
        assert "holds no identity" in finding.text


class TestRegistryDirectory:
    def test_it_is_made_and_left_empty(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        finding, registry = examine_registry_directory(NodeConfig(), directory)
        assert finding.verdict is Verdict.OK
        assert registry == directory / "registry"
        assert not list(registry.iterdir())

    def test_it_is_not_wanted(self, directory: Path) -> None:
        finding, registry = examine_registry_directory(NodeConfig(discovery=("zeroconf",)), directory)
        assert (finding.verdict, registry) == (Verdict.SKIPPED, None)

    def test_there_is_no_directory_for_it(self) -> None:
        finding, registry = examine_registry_directory(NodeConfig(), None)
        assert (finding.verdict, registry) == (Verdict.SKIPPED, None)

    @posix_only
    def test_it_is_open_to_others(self, directory: Path) -> None:
        (directory / "registry").mkdir(parents=True)
        (directory / "registry").chmod(0o777)
        finding, registry = examine_registry_directory(NodeConfig(), directory)
        assert (finding.verdict, registry) == (Verdict.FAILURE, None)
        assert finding.hint.startswith("chmod 700 ")

    def test_locks_that_do_not_hold(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory.mkdir(mode=0o700)
        monkeypatch.setattr(files, "is_locked", lambda file: False)
        finding, registry = examine_registry_directory(NodeConfig(), directory)
        assert (finding.verdict, registry) == (Verdict.FAILURE, None)
        assert "local disk" in finding.hint
