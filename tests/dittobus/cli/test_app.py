"""The command line: what it prints, where, and how it exits."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dittobus.cli import exits, main
from dittobus.cli.app import COMMANDS
from tests.dittobus.cli.processes import RUN_S

if TYPE_CHECKING:
    from tests.dittobus.cli.processes import Commands

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "commands.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


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
        (["no-such-command"], "'no-such-command'. See dittobus --help."),
        (["versoin"], "Did you mean 'version'? See dittobus --help."),
        (["demo", "--no-such-option"], "--no-such-option. See dittobus demo --help."),
        (["version", "extra"], "(extra). See dittobus version --help."),
        (["send", "ann", "--reliability", "fast"], "for '--reliability': 'fast' is not one of 'reliable',"),
        (["doctor", "--port", "99999"], "port: 0 to 65535, got 99999"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    assert_one_line_that_says(capsys, said)


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
    for said in ("Exit codes: 0 ", *COMMANDS):
        assert said in out
    assert not [line for line in out.splitlines() if line.startswith("  ") and line.endswith("...")]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_prints_json_if_asked(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_purpose_on_one_line(command: str) -> None:
    """As wide as a terminal, beside the longest name and the spaces around it."""
    assert len(COMMANDS[command]) <= 80 - 4 - max(map(len, COMMANDS))
    assert COMMANDS[command].endswith(".")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: dittobus {command}")
    assert not err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_documented(command: str) -> None:
    assert f"dittobus {command}" in DOCUMENT.read_text()


def test_version_as_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (importlib.metadata.version("dittobus") + "\n", "")


@pytest.mark.parametrize(
    ("words", "completed"), [("dittobus vers", "version"), ("dittobus doctor --disc", "--discovery")]
)
def test_completion(words: str, completed: str) -> None:
    environment = {
        **os.environ,
        "_DITTOBUS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    asked = [sys.executable, "-m", "dittobus"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=RUN_S, check=True, env=environment)
    assert done.stdout.split() == [completed]


def test_closed_standard_descriptors_are_no_sockets() -> None:
    """What is written to one that is closed must not go to a connection that got its number."""
    asked = [sys.executable, "-m", "dittobus", "version"]
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *asked], capture_output=True, timeout=RUN_S, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("closed", "command", "code"),
    [
        (">&-", ("top", "--count", "1", "--interval", "0.1"), exits.OK),
        ("2>&-", ("peers", "--timeout", "0"), exits.OK),
        ("2>&-", ("send", "nobody", "x", "--timeout", "0.1"), exits.NOT_FOUND),
    ],
)
def test_closed_streams_are_as_good_as_unread(
    commands: Commands, closed: str, command: tuple[str, ...], code: int
) -> None:
    running = commands.start_line("sh", "-c", f'"$@" {closed}', "sh", *commands.line(*command))
    done = running.end()
    assert (done.code, done.out, done.err) == (code, "", "")


def test_nobody_reads() -> None:
    program = (
        "import os, sys; from dittobus.cli import main; from dittobus.cli.commands import version; "
        "reader, writer = os.pipe(); os.dup2(writer, 1); os.close(reader); sys.exit(main(['version']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=RUN_S, check=False)
    assert (done.returncode, done.stderr) == (exits.BROKEN_PIPE, b"")


def test_no_command_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Usage: dittobus" in err


def test_an_interrupt_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.metadata, "version", interrupt)
    assert main(["version"]) == exits.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_is_silent_while_all_else_is_being_imported() -> None:
    module, function = PROJECT["project"]["scripts"]["dittobus"].split(":")
    program = (
        "import os, signal, sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *_):\n"
        "        name == 'brokerless' and os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Impatient())\n"
        f"from {module} import {function} as main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (exits.INTERRUPTED, "", "")


def test_the_module_is_the_command() -> None:
    asked = [sys.executable, "-m", "dittobus", "version", "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=RUN_S, check=True)
    assert json.loads(done.stdout) == {"version": importlib.metadata.version("dittobus")}
    assert not done.stderr


def test_help_imports_little() -> None:
    """Each of these would make asking for help as slow as running something."""
    program = (
        "import sys; from dittobus.cli import main; main(['--help']); "
        "sys.exit(', '.join({'rich', 'zeroconf', 'dittobus.demo', 'dittobus.aio', "
        "'dittobus.cli.commands'} & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
