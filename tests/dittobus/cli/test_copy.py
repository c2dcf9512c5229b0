"""``dittobus copy``: files, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dittobus.cli import exits, main

if TYPE_CHECKING:
    from tests.dittobus.cli.processes import Commands, Running
    from tests.dittobus.cli.terminal import Terminal

pytestmark = pytest.mark.timeout(90)

BULK = random.Random(7).randbytes(3_000_000)


@pytest.fixture(scope="module")
def box(lasting: Commands) -> Running:
    """Somebody who takes files."""
    (lasting.directory / "box").mkdir()
    return lasting.listen("copy", "--listen", "--to", lasting.directory / "box", "--name", "box", "--json")


@pytest.fixture
def taken(commands: Commands) -> Path:
    """Where the files of the box are."""
    return commands.directory / "box"


@pytest.fixture
def sent(tmp_path: Path) -> list[Path]:
    """Files of several sizes."""
    sizes = {"bulk": len(BULK), "empty": 0, "small with spaces": 3}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(BULK[:size])
    return [tmp_path / name for name in sizes]


def test_files_and_those_that_are_there(
    commands: Commands, box: Running, taken: Path, sent: list[Path]
) -> None:
    done = commands.run("copy", *sent, "box:", "--json")
    assert (done.code, done.err) == (exits.OK, "")
    for path, said in zip(sent, done.objects, strict=True):
        heard = box.object()
        copied = taken / path.name
        assert copied.read_bytes() == path.read_bytes()
        assert heard["sha256"] == said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (heard["file"], heard["bytes"]) == (said["file"], said["bytes"])
        assert copied.stat().st_mode == path.stat().st_mode
    # Once more: they are there, and stay as they are; what is not is copied.
    sent[0].write_bytes(b"something else")
    (sent[0].parent / "new").touch()
    done = commands.run("copy", sent[0], sent[0].parent / "new", "box:")
    assert done.code == exits.REFUSED
    assert "'bulk' is there already; 'copy --listen --overwrite'" in done.complaint
    assert done.out.startswith("new to box: 0 B in ")
    assert (taken / "bulk").read_bytes() == BULK
    assert sorted(path.name for path in taken.iterdir()) == ["bulk", "empty", "new", "small with spaces"]


def test_overwriting(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "file").write_text("old and longer")
    (tmp_path / "file").write_text("new")
    place = ("--to", tmp_path / "to", "--name", "over", "--overwrite", "--count", 1)
    taker = commands.listen("copy", "--listen", *place)
    assert commands.run("copy", tmp_path / "file", "over:").code == exits.OK
    done = taker.end()
    assert (done.code, done.err) == (exits.OK, "")
    assert done.out.startswith("file from copy@")
    assert [path.read_text() for path in (tmp_path / "to").iterdir()] == ["new"]


@pytest.mark.parametrize("killed", ["sender", "receiver"])
def test_nothing_is_left_of_a_copy_that_ends_early(commands: Commands, tmp_path: Path, killed: str) -> None:
    (tmp_path / "to").mkdir()
    taker = commands.listen("copy", "--listen", "--to", tmp_path / "to", "--name", killed)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no space, and longer than anybody waits
    sender = commands.start("copy", tmp_path / "large", f"{killed}:")
    while not any((tmp_path / "to").iterdir()):
        assert sender.process.poll() is None
    if killed == "sender":
        sender.process.kill()
        assert "was not heard for" in taker.line(taker.process.stderr)
    else:
        taker.process.terminate()
        done = sender.end()
        assert done.code == exits.ERROR
        assert done.complaint.endswith(("receiver says: the other side was interrupted", "has left"))
        assert taker.end().code == exits.INTERRUPTED
    assert not list((tmp_path / "to").iterdir())


def test_no_space(commands: Commands, sent: list[Path], tmp_path: Path) -> None:
    """The shell's limit of what a file may hold stands in for a disk that is full."""
    (tmp_path / "to").mkdir()
    line = commands.line("copy", "--listen", "--to", tmp_path / "to", "--name", "full")
    taker = commands.start_line("sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *line).until_listening()
    done = commands.run("copy", sent[0], "full:")
    assert done.code == exits.ERROR
    assert "full says: cannot write 'bulk': File too large" in done.complaint
    assert "was not taken: cannot write 'bulk'" in taker.line(taker.process.stderr)
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.usefixtures("box")
def test_a_bar_in_a_terminal(commands: Commands, terminal: Terminal, taken: Path, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    terminal.run(commands.line("copy", tmp_path / "large", "box:"))
    screen = terminal.until(lambda screen: "/s" in screen)
    [bar] = screen.split("\n\n")[0].strip().splitlines()
    assert bar.startswith("large ")
    assert "1.1 TB" in bar
    terminal.tmux("send-keys", "C-c")
    screen = terminal.until(lambda screen: "exited: " in screen)
    assert "exited: 130" in screen
    assert "large " not in screen.replace("^C", "")
    assert not (taken / "large").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x:",), "say what to copy"),
        (("/etc/passwd", "box"), "say what to copy"),
        (("/nowhere", "box:"), "/nowhere: no such file"),
        (("/etc", "box:"), "a directory can be packed"),
        (("/etc/passwd", "box:", "--overwrite"), "go with --listen"),
        (("--listen", "x:"), "files come from others"),
        (("--listen", "--to", "/nowhere"), "/nowhere: no directory"),
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    assert main(["copy", *arguments]) == exits.USAGE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_no_ordinary_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert main(["copy", str(tmp_path / "fifo"), "box:"]) == exits.USAGE
    assert "fifo: no ordinary file" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="there is no file that says a wrong size")
def test_a_file_that_changes_does_not_stop_the_others(
    commands: Commands, box: Running, sent: list[Path]
) -> None:
    """What the system tells in files has no size until it is read."""
    sent[2].rename(sent[2].with_name("after it"))
    done = commands.run("copy", "/proc/version", sent[2].with_name("after it"), "box:")
    assert done.code == exits.ERROR
    assert done.complaint == "/proc/version: it changed while it was copied; copy it again"
    assert done.out.startswith("after it to box: ")
    while box.object()["file"] != "after it":  # it has taken those of other tests, too
        pass


def test_nothing_to_copy(commands: Commands) -> None:
    done = commands.run("copy")
    assert (done.code, "say what to copy" in done.complaint) == (exits.USAGE, True)


def test_only_a_name_is_a_name(commands: Commands, box: Running, tmp_path: Path) -> None:
    (tmp_path / "a:b").touch()
    done = commands.run("copy", tmp_path / "a:b", "box:")
    assert done.code == exits.REFUSED
    assert "'a:b' is no name for a file here" in done.complaint
