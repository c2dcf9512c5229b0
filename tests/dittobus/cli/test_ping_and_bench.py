"""``dittobus ping`` and ``dittobus bench``: what is measured."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from dittobus.cli import exits
from tests.dittobus.cli.processes import NEAR

if TYPE_CHECKING:
    from tests.dittobus.cli.processes import Commands, Running

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def echo(lasting: Commands) -> Running:
    """Somebody who answers."""
    return lasting.listen("listen", "--echo", "--name", "echo")


@pytest.fixture(scope="module")
def server(lasting: Commands) -> Running:
    """Somebody to measure with, and of whom nothing comes back by itself."""
    return lasting.listen("bench", "--listen", "--name", "server")


@pytest.mark.usefixtures("echo")
class TestPing:
    def test_messages_that_come_back(self, commands: Commands) -> None:
        done = commands.run("ping", "echo", "-c", "2", "-i", "0.05", "--wait", "30", "--json")
        assert (done.code, done.err) == (exits.OK, "")
        first, second, last = done.objects
        assert (first["sequence"], second["sequence"]) == (1, 2)
        assert set(first["rtt_s"]) == set(last["summary"]) == {"reliable", "unreliable", "sequenced"}
        assert last["summary"]["reliable"]["answered"] == 2
        assert first["path"]["reliable"] in NEAR
        assert 0 < last["summary"]["reliable"]["min_s"] <= last["summary"]["reliable"]["max_s"]

    def test_it_sums_up_when_interrupted(self, commands: Commands) -> None:
        pinging = commands.start("ping", "echo", "-i", "60", "-W", "30")
        assert pinging.line().startswith("echo (")
        pinging.process.send_signal(signal.SIGINT)
        done = pinging.end()
        assert (done.code, done.err) == (exits.INTERRUPTED, "")
        assert [line.split()[0] for line in done.lines] == ["reliable", "unreliable", "sequenced"]
        assert "1 of 1" in done.lines[0]

    @pytest.mark.usefixtures("server")
    def test_what_the_buses_measure_by_themselves(self, commands: Commands) -> None:
        [said] = commands.run("ping", "server", "-c", "1", "--json").objects
        assert said["measured"]["rtt_s"] > 0
        assert said["measured"]["path"] in NEAR
        assert said["measured"]["state"] == "alive"
        done = commands.run("ping", "server", "-c", "1")
        assert any(f" by {path}, jitter " in done.out for path in NEAR)

    @pytest.mark.parametrize("echo", [("--echo",), ()])
    def test_a_peer_that_goes(self, commands: Commands, echo: tuple[str, ...]) -> None:
        listener = commands.listen("listen", "--name", "leaver", *echo)
        pinging = commands.start("ping", "leaver", "-i", "0.05")
        assert pinging.line().startswith("leaver (")
        listener.process.terminate()
        done = pinging.end()
        assert done.code == exits.ERROR
        assert done.complaint.endswith(("answers no more", "has left", "is gone"))

    def test_nobody(self, commands: Commands) -> None:
        assert commands.run("ping", "nobody", "--timeout", "0").code == exits.NOT_FOUND


@pytest.mark.usefixtures("server")
class TestBench:
    @pytest.mark.parametrize("reliability", ["reliable", "unreliable"])
    def test_figures(self, commands: Commands, reliability: str) -> None:
        place = ("--duration", "0.2", "--size", "500", "--reliability", reliability, "--json")
        done = commands.run("bench", "server", *place)
        assert (done.code, done.err) == (exits.OK, "")
        [said] = done.objects
        assert (said["name"], said["size_bytes"], said["reliability"]) == ("server", 500, reliability)
        assert said["latency"]["tried"] >= said["latency"]["answered"]
        assert said["path"] in (NEAR if reliability == "reliable" else ("udp", "push", "none"))
        for way in ("up", "down"):
            assert said[way]["messages_sent"] >= said[way]["messages"]
            assert said[way]["bytes"] == 500 * said[way]["messages"]
            if reliability == "reliable":
                assert said["latency"]["loss"] == said[way]["loss"] == 0
                assert said[way]["bytes_per_s"] > 0

    def test_one_way_for_people(self, commands: Commands) -> None:
        done = commands.run("bench", "server", "--duration", "0.1", "--direction", "up", "--rate", "1")
        assert [line.split()[0] for line in done.lines[1:]] == ["round", "up", "path"]
        assert done.lines[0].endswith("reliable, messages of 1.02 kB")

    @pytest.mark.parametrize("arguments", [(), ("somebody", "--listen")])
    def test_one_side_or_the_other(self, commands: Commands, arguments: tuple[str, ...]) -> None:
        done = commands.run("bench", *arguments)
        assert (done.code, "either PEER, or --listen" in done.complaint) == (exits.USAGE, True)

    @pytest.mark.usefixtures("echo")
    def test_who_does_not_take_part(self, commands: Commands) -> None:
        done = commands.run("bench", "echo")
        assert done.code == exits.REFUSED
        assert "dittobus.bench" in done.complaint

    def test_a_server_that_goes(self, commands: Commands) -> None:
        server = commands.listen("bench", "--listen", "--name", "mortal")
        client = commands.start("bench", "mortal", "--duration", "60")
        while not client.line().startswith("  up "):  # who goes while a stream is being opened refuses it
            pass
        server.process.terminate()
        done = client.end()
        assert done.code == exits.ERROR
        assert done.complaint
