"""``dittobus doctor``: what it asks, what it prints, and how it exits."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from brokerless.doctor import Finding, Verdict
from dittobus import generate_secret
from dittobus.blocking import Bus
from dittobus.cli import main
from dittobus.cli.diagnosis import as_lines, as_object, failures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FINDINGS = [
    Finding("libzmq", Verdict.OK, "new enough", "not shown"),
    Finding("mesh secret", Verdict.WARNING, "none", "give one"),
    Finding("tcp port", Verdict.FAILURE, "taken", "choose another"),
    Finding("udp port", Verdict.SKIPPED, "not looked at"),
]


class TestPrinted:
    def test_as_lines(self) -> None:
        assert as_lines(FINDINGS) == [
            "ok       libzmq       new enough",
            "warning  mesh secret  none",
            "                      -> give one",
            "FAILED   tcp port     taken",
            "                      -> choose another",
            "skipped  udp port     not looked at",
            "",
            "4 examinations: 1 ok, 1 warning, 1 FAILED, 1 skipped",
        ]

    def test_as_object(self) -> None:
        said = json.loads(json.dumps(as_object(FINDINGS)))
        assert said["ok"] is False
        assert said["findings"][2] == {
            "name": "tcp port",
            "verdict": "failure",
            "text": "taken",
            "hint": "choose another",
        }

    def test_only_failures_fail(self) -> None:
        assert failures(FINDINGS) == ["tcp port"]
        assert as_object(FINDINGS[:2])["ok"] is True


@pytest.fixture
def options(tmp_path: Path) -> dict[str, str]:
    """Of a bus that stays on loopback and meets nobody else."""
    secret = tmp_path / "secret"
    secret.write_text("hex:" + generate_secret().hex())
    return {
        "--interface": "127.0.0.1",
        "--discovery": "registry",
        "--directory": str(tmp_path / "bus"),
        "--secret-file": str(secret),
    }


def arguments(options: dict[str, str], *more: str) -> list[str]:
    return ["doctor", *(part for option in options.items() for part in option), *more]


@pytest.fixture
def far(options: dict[str, str], tmp_path: Path) -> Iterator[Bus]:
    """A peer of the same mesh that nobody finds without its ticket."""
    secret = bytes.fromhex((tmp_path / "secret").read_text().removeprefix("hex:"))
    with Bus(
        "far", secret=secret, interfaces=("127.0.0.1",), discovery=(), directory=tmp_path / "far"
    ) as bus:
        yield bus


@pytest.mark.usefixtures("bare_environment")
class TestCommand:
    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"--discovery": "pigeons"}, "pigeons"),
            ({"--port": "70000"}, "port: 0 to 65535"),
            ({"--secret-file": "/nowhere/secret"}, "--secret-file: cannot read"),
        ],
    )
    def test_what_cannot_be_examined(
        self,
        options: dict[str, str],
        wrong: dict[str, str],
        said: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(arguments({**options, **wrong})) == 2
        out, err = capsys.readouterr()
        assert not out
        assert said in err
        assert err.count("\n") == 1

    def test_a_port_that_is_taken(self, options: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            assert main(arguments({**options, "--port": str(holder.getsockname()[1])})) == 1
        out, err = capsys.readouterr()
        assert "FAILED   tcp port" in out
        assert err == "dittobus: failed: tcp port\n"

    def test_what_the_library_warns_of_is_found_and_not_logged(
        self, options: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        del options["--secret-file"]
        handlers = list(logging.getLogger("dittobus").handlers)
        assert main(arguments(options)) == 0
        out, err = capsys.readouterr()
        assert "warning  mesh secret" in out
        assert not err
        assert logging.getLogger("dittobus").handlers == handlers


@pytest.mark.usefixtures("bare_environment")
@pytest.mark.timeout(60)
class TestProcess:
    """The command as somebody runs it."""

    @staticmethod
    def run(arguments: list[str]) -> tuple[int, dict[str, Any], str]:
        done = subprocess.run(
            [sys.executable, "-m", "dittobus", *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return done.returncode, json.loads(done.stdout), done.stderr

    def test_all_well(self, options: dict[str, str], tmp_path: Path) -> None:
        code, said, err = self.run(arguments(options))
        assert (code, said["ok"], err) == (0, True, "")
        assert {finding["verdict"] for finding in said["findings"]} <= {"ok", "skipped"}
        assert (tmp_path / "secret").read_text().removeprefix("hex:") not in json.dumps(said)

    def test_the_way_to_a_peer(self, options: dict[str, str], far: Bus) -> None:
        code, said, err = self.run(arguments(options, "--peer", str(far.ticket())))
        assert (code, said["ok"], err) == (0, True, "")
        way = [finding for finding in said["findings"] if finding["name"].startswith("peer: ")]
        others = {finding["verdict"] for finding in way if finding["name"] != "peer: gossip"}
        assert (len(way), others) == (9, {"ok"})  # and gossip is not among the discoveries asked for

    def test_another_secret(self, options: dict[str, str], far: Bus, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("hex:" + generate_secret().hex())
        code, said, err = self.run(arguments(options, "--peer", str(far.ticket())))
        assert (code, said["ok"]) == (1, False)
        [failed] = [finding for finding in said["findings"] if finding["verdict"] == "failure"]
        assert failed["name"] == "peer: hello"
        assert "same mesh, secret and trust" in failed["hint"]
        assert err == "dittobus: failed: peer: hello\n"
