"""``dittobus peers``, ``keygen`` and ``ticket``: who there is, and what brings them together."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from dittobus.cli import exits
from tests.dittobus.cli.processes import NEAR
from tests.witness import reserved_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.dittobus.cli.processes import Commands, Running

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def ann(lasting: Commands) -> Running:
    """Somebody whose name a terminal would obey."""
    return lasting.listen("listen", "--name", "ann\x1b[31m")


class TestPeers:
    def test_as_json(self, commands: Commands, ann: Running) -> None:
        done = commands.run("peers", "-c", "1", "--timeout", "30", "--json")
        [said] = done.objects
        [peer] = [peer for peer in said["peers"] if peer["name"] == "ann\x1b[31m"]
        assert ann.ticket.startswith(f"dittobus://{peer['address']}@")
        assert (done.code, peer["state"], peer["path"]["reliable"] in NEAR) == (exits.OK, "alive", True)

    def test_for_people(self, commands: Commands, ann: Running) -> None:
        done = commands.run("peers", "-c", "1", "--timeout", "30")
        assert done.lines[0].startswith("ADDRESS   STATE")
        assert any(line.endswith(r"  ann\x1b[31m") for line in done.lines[1:])

    def test_fewer_than_asked_for(self, commands: Commands) -> None:
        done = commands.run("peers", "-c", "1", "--timeout", "0", "--mesh", "another")
        assert (done.code, done.out) == (exits.TIMEOUT, "")
        assert done.complaint.startswith("fewer than 1 peers within 0")

    def test_nobody_at_all(self, commands: Commands) -> None:
        done = commands.run("peers", "--timeout", "0", "--mesh", "another")
        assert (done.code, done.out) == (exits.OK, "")
        assert done.complaint.startswith("nobody is there")

    def test_what_changes(self, commands: Commands) -> None:
        watching = commands.start("peers", "--watch", "--json", "--mesh", "changing")
        ben = commands.listen("listen", "--name", "ben", "--mesh", "changing")
        while (joined := watching.object())["event"] == "changed":  # it may be known before it is met
            pass
        assert (joined["event"], joined["peer"]["name"]) == ("joined", "ben")
        ben.process.terminate()
        while (said := watching.object())["event"] == "changed":
            pass
        assert (said["event"], said["reason"], said["peer"]["name"]) == ("left", "left", "ben")


class TestKeygen:
    def test_both(self, commands: Commands, tmp_path: Path) -> None:
        identity, secret = tmp_path / "identity", tmp_path / "secret"
        [made] = commands.run("keygen", "--identity", identity, "--secret-file", secret, "--json").objects
        assert [stat.S_IMODE(path.stat().st_mode) for path in (identity, secret)] == [0o600, 0o600]
        place = ("--identity", identity, "--secret-file", secret)
        listener = commands.listen("listen", *place, "--name", "known")
        assert listener.ticket.startswith(f"dittobus://{made['address']}@127.0.0.1:")
        assert commands.run("send", made["address"], "x", "--secret-file", secret).code == exits.OK
        assert listener.line().endswith(": x")
        # Once more: what is there stays.
        before = identity.read_bytes()
        done = commands.run("keygen", "--identity", identity)
        assert (done.code, "is there already" in done.complaint) == (exits.ERROR, True)
        assert identity.read_bytes() == before

    def test_for_people(self, commands: Commands, tmp_path: Path) -> None:
        done = commands.run("keygen", "--identity", tmp_path / "a", "--secret-file", tmp_path / "b")
        first, second = done.lines
        assert first.startswith(f"{tmp_path / 'a'}: the identity of ")
        assert "a secret" in second
        assert (tmp_path / "b").read_text().strip().removeprefix("hex:") not in done.out

    def test_nothing(self, commands: Commands) -> None:
        done = commands.run("keygen")
        assert (done.code, "say what to make" in done.complaint) == (exits.USAGE, True)


class TestTicket:
    def test_it_is_that_of_the_bus(self, commands: Commands, tmp_path: Path) -> None:
        identity = tmp_path / "identity"
        address = commands.run("keygen", "--identity", identity, "--json").objects[0]["address"]
        with reserved_port() as port:
            done = commands.run("ticket", "--identity", identity, "--port", port)
        assert done.out == f"dittobus://{address}@127.0.0.1:{port}\n", done.err
        shown = commands.run("ticket", "--show", done.out.strip())
        assert shown.lines == [f"address  {address}", f"place    127.0.0.1:{port}"]
        [said] = commands.run("ticket", "--show", done.out.strip(), "--json").objects
        assert said == {"ticket": done.out.strip(), "address": address, "places": [f"127.0.0.1:{port}"]}

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [((), "--identity FILE and --port"), (("--show", "x"), "ticket: expected")],
    )
    def test_errors(self, commands: Commands, arguments: tuple[str, ...], said: str) -> None:
        done = commands.run("ticket", *arguments)
        assert (done.code, said in done.complaint) == (exits.USAGE, True)
