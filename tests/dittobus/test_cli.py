"""The command line: what it prints, where, and how it exits."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import sys

import pytest

from dittobus import cli
from dittobus.cli import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr() == (importlib.metadata.version("dittobus") + "\n", "")


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": importlib.metadata.version("dittobus")}


def test_what_is_not_installed_has_no_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert main(["version"]) == 1
    assert_one_line_that_says(capsys, "pip install")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-command"], "no-such-command"),
        (["demo", "--no-such-option"], "--no-such-option"),
        (["version", "extra"], "extra"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    assert_one_line_that_says(capsys, said, "See dittobus --help.")


def assert_one_line_that_says(capsys: pytest.CaptureFixture[str], *said: str) -> None:
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("dittobus: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert all(words in err for words in said)


def test_help_names_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert not err
    for said in ("demo", "version", "Exit codes: 0 "):
        assert said in out


def test_no_command_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Usage: dittobus" in err


def test_an_interrupt_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(name: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.metadata, "version", interrupt)
    assert main(["version"]) == cli.INTERRUPTED
    assert_one_line_that_says(capsys, "interrupted")


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with cli._ended_like_interrupted():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is before[1]
    finally:
        signal.signal(signal.SIGHUP, before[0])


def test_the_module_is_the_command() -> None:
    asked = [sys.executable, "-m", "dittobus", "version", "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(done.stdout) == {"version": importlib.metadata.version("dittobus")}
    assert not done.stderr


def test_help_imports_little() -> None:
    """Each of these would make asking for help as slow as running something."""
    program = (
        "import sys; from dittobus.cli import main; main(['--help']); "
        "sys.exit(', '.join({'rich', 'zeroconf', 'dittobus.demo'} & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
