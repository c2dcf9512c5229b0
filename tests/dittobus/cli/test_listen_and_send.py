"""``dittobus listen`` and ``dittobus send``: single messages."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from dittobus.cli import exits, main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.dittobus.cli.processes import Commands, Running
    from tests.dittobus.cli.terminal import Terminal

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def ear(lasting: Commands) -> Running:
    """Somebody who prints JSON."""
    return lasting.listen("listen", "--name", "ear", "--json")


class TestSend:
    def test_a_text(self, commands: Commands, ear: Running) -> None:
        done = commands.run("send", "ear", "héllo")
        assert (done.code, done.err) == (exits.OK, "")
        assert done.out.startswith("acknowledged by ear (")
        heard = ear.object()
        assert heard.pop("name").startswith("send@")
        assert len(heard.pop("sender")) == 52
        assert heard == {"reliability": "reliable", "channel": 0, "bytes": 6, "text": "héllo"}

    def test_what_comes_on_stdin(self, commands: Commands, ear: Running) -> None:
        done = commands.run("send", "ear", "--channel", 7, "--json", data=b"\xff\x00")
        [said] = done.objects
        assert (said["outcome"], said["messages"], said["bytes"]) == ("acknowledged", 1, 2)
        assert ear.ticket.removeprefix("dittobus://").startswith(said["peer"])
        heard = ear.object()
        assert (heard["base64"], heard["channel"]) == ("/wA=", 7)

    @pytest.mark.parametrize("dash", [("-",), ("--file", "-"), ("-", "--lines")])
    def test_a_dash_is_stdin(self, commands: Commands, ear: Running, dash: tuple[str, ...]) -> None:
        assert commands.run("send", "ear", *dash, data=b"piped").code == exits.OK
        assert ear.object()["text"] == "piped"

    @pytest.mark.parametrize(("lines", "invited"), [((), "reading"), (("--lines",), "sending each line")])
    def test_what_is_typed_is_asked_for(
        self, commands: Commands, ear: Running, terminal: Terminal, lines: tuple[str, ...], invited: str
    ) -> None:
        terminal.run(commands.line("send", "ear", *lines))
        assert invited in terminal.until(lambda screen: "until Ctrl-D" in screen)
        terminal.tmux("send-keys", "typed", "Enter", "C-d")
        assert ear.object()["text"].rstrip() == "typed"
        assert "exited: 0" in terminal.until(lambda screen: "exited: " in screen)

    def test_a_file_line_by_line(self, commands: Commands, ear: Running, tmp_path: Path) -> None:
        (tmp_path / "lines").write_bytes(b"one\n\nthree")
        done = commands.run("send", "ea", "--lines", "--file", tmp_path / "lines", "--name", "me")
        assert done.code == exits.OK, done.err
        assert "3 messages" in done.out
        heard = [ear.object() for _ in range(3)]
        assert [message["text"] for message in heard] == ["one", "", "three"]
        assert {message["name"] for message in heard} == {"me"}

    def test_what_may_be_lost_is_transmitted(self, commands: Commands, ear: Running) -> None:
        done = commands.run("send", "ear", "soon", "--reliability", "sequenced", "--json")
        assert done.objects[0]["outcome"] == "transmitted"

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (("nobody", "x", "--timeout", "0.1"), exits.NOT_FOUND, "no peer 'nobody' within 0.1 s"),
            (("ear", "x", "--lines"), exits.USAGE, "either TEXT"),
            (("ear", "-", "--file", "-"), exits.USAGE, "either TEXT"),
            (("ear", "--file", "/nowhere"), exits.ERROR, "/nowhere: No such file"),
            (("ear", "x", "--secret-file", "/nowhere"), exits.USAGE, "cannot read /nowhere"),
        ],
    )
    def test_errors(self, commands: Commands, arguments: tuple[str, ...], code: int, said: str) -> None:
        done = commands.run("send", *arguments)
        assert (done.code, done.out) == (code, "")
        assert said in done.complaint

    @pytest.mark.usefixtures("bare_environment")
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("ear", "x", "--reliability", "perhaps"), "perhaps"),
            (("ear", "x", "--peer", "dittobus://nonsense"), "ticket: expected"),
            (("ear", "x", "--trust", "them"), "trust: expected None or 'open'"),
        ],
    )
    def test_usage(self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
        assert main(["send", *arguments]) == exits.USAGE
        assert said in capsys.readouterr().err

    def test_lines_go_as_they_come(self, commands: Commands, ear: Running) -> None:
        """And an interrupt does not wait for the next."""
        sending = commands.start("send", "ear", "--lines")
        sending.say(b"first\n")
        while ear.object()["text"] != "first":  # what was sent before may have been lost, and may not
            pass
        sending.process.send_signal(signal.SIGINT)
        assert sending.process.wait(60) == exits.INTERRUPTED
        assert sending.end().err == ""

    def test_a_message_that_is_too_large(self, commands: Commands, ear: Running) -> None:
        done = commands.run("send", "ear", "--reliability", "unreliable", data=bytes(65_537))
        assert done.code == exits.USAGE
        assert "65537 bytes are over the limit" in done.complaint

    def test_a_wrong_secret_is_a_refusal(self, commands: Commands, ear: Running, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("not that of the others")
        address = ear.ticket.removeprefix("dittobus://").partition("@")[0]
        place = ("--peer", ear.ticket, "--secret-file", tmp_path / "secret", "--timeout", "40")
        done = commands.run("send", address, "x", *place)
        assert done.code == exits.REFUSED
        assert "refused: the two sides hold different mesh secrets" in done.complaint


class TestListen:
    def test_lines_hold_nothing_that_a_terminal_obeys(self, commands: Commands) -> None:
        listener = commands.listen("listen", "--name", "lines", "--count", "2")
        commands.run("send", "lines", "\x1b[31mred", "--name", "an\tn")
        commands.run("send", "lines", data=b"\xff")
        assert listener.end().lines[0] == r"an\tn: \x1b[31mred"
        assert listener.process.returncode == exits.OK

    def test_raw(self, commands: Commands) -> None:
        listener = commands.listen("listen", "--name", "raw", "--raw", "-c", "2")
        commands.run("send", "raw", "--lines", data=b"\xff\x00\nsecond")
        assert listener.end().data == b"\xff\x00second"

    def test_only_one_form(self, commands: Commands) -> None:
        done = commands.run("listen", "--raw", "--json")
        assert (done.code, "choose one" in done.complaint) == (exits.USAGE, True)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_is_silent(self, commands: Commands, number: signal.Signals) -> None:
        listener = commands.listen("listen")
        listener.process.send_signal(number)
        done = listener.end()
        assert (done.code, done.out, done.err) == (exits.INTERRUPTED, "", "")

    def test_it_ends_when_nobody_reads(self, commands: Commands) -> None:
        """At once, not only when the next message comes, of which there may be none."""
        reader, writer = os.pipe()
        listener = commands.start("listen", stdout=writer)
        os.close(writer)
        listener.until_listening()
        os.close(reader)
        done = listener.end()
        assert (done.code, done.err) == (exits.BROKEN_PIPE, "")

    def test_streams_are_refused(self, commands: Commands, ear: Running) -> None:
        done = commands.run("cat", "ear")
        assert done.code == exits.REFUSED
        assert "takes single messages only" in done.complaint

    def test_an_identity_that_is_in_use(self, commands: Commands, tmp_path: Path) -> None:
        commands.listen("listen", "--identity", tmp_path / "identity")
        done = commands.run("listen", "--identity", tmp_path / "identity")
        assert done.code == exits.ERROR
        assert "is in use" in done.complaint


def test_it_goes_into_head(commands: Commands, ear: Running) -> None:
    """A pipe that is closed early ends the command without a word."""
    line = " ".join(commands.line("peers", "--watch"))
    done = subprocess.run(
        ["bash", "-c", f"{line} | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        env=commands.environment,
        check=True,
    )
    first, code = done.stdout.splitlines()
    assert " joined " in first or " changed " in first  # it may be known before it is met
    assert (int(code), done.stderr) == (exits.BROKEN_PIPE, "")
