"""The options that commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dittobus import ConfigError
from dittobus.cli.options import BusOptions, MeshOptions

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("bare_environment")
class TestArguments:
    def test_an_option_takes_the_place_of_a_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DITTOBUS_MESH", "of the environment")
        monkeypatch.setenv("DITTOBUS_SECRET", "passphrase of the environment")
        given = MeshOptions().arguments()
        assert given == {"mesh": "of the environment", "secret": "passphrase of the environment"}
        assert MeshOptions(mesh="given").arguments()["mesh"] == "given"

    def test_what_is_open_has_no_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DITTOBUS_SECRET", "passphrase of the environment")
        assert MeshOptions(trust="open").arguments() == {"trust": "open"}

    def test_a_secret_in_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DITTOBUS_SECRET", "passphrase of the environment")
        path = tmp_path / "secret"
        path.write_text("hex:" + "ab" * 32 + "\n")
        assert MeshOptions(secret_file=path).arguments()["secret"] == b"\xab" * 32

    def test_a_file_without_a_secret(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^--secret-file: cannot read"):
            MeshOptions(secret_file=tmp_path / "missing").arguments()
        (tmp_path / "short").write_text("short")
        with pytest.raises(ConfigError, match=r"^--secret-file: secret: at least 8"):
            MeshOptions(secret_file=tmp_path / "short").arguments()

    def test_those_of_a_bus(self) -> None:
        options = BusOptions(name="ann", port=4000, interface=["127.0.0.1"])
        assert options.arguments() == {"name": "ann", "port": 4000, "interfaces": ["127.0.0.1"]}
        assert options.bus("cat").name == "ann"
        assert BusOptions().bus("cat").name.startswith("cat@")
