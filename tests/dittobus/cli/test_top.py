"""``dittobus top``: what it shows, in a real terminal and elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dittobus.cli import exits
from dittobus.cli.picture import plot

if TYPE_CHECKING:
    from tests.dittobus.cli.processes import Commands, Running
    from tests.dittobus.cli.terminal import Terminal

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def ann(lasting: Commands) -> Running:
    """Somebody to look at."""
    return lasting.listen("listen", "--name", "ann")


@pytest.mark.usefixtures("ann")
class TestElsewhere:
    def test_as_json(self, commands: Commands) -> None:
        watching = commands.start("top", "-i", "0.1", "--json", "--name", "eye")
        while not (said := watching.object())["peers"] or said["peers"][0]["state"] != "alive":
            pass
        assert said["peers"][0]["name"] == "ann"
        assert said["node"]["links"] == 1
        assert commands.run("send", "eye", "x" * 1000).code == exits.OK
        while not (said := watching.object())["node"]["messages_in_per_s"]:
            pass
        assert said["node"]["bytes_in_per_s"] >= 1000
        watching.process.terminate()
        assert watching.end().code == exits.INTERRUPTED

    def test_for_people(self, commands: Commands) -> None:
        done = commands.run("top", "-i", "0.5", "-c", "2")
        assert (done.code, done.err) == (exits.OK, "")
        assert done.lines[0].startswith("PEER")
        assert sum(line.startswith("PEER") for line in done.lines) == 2

    def test_it_only_looks_on(self, commands: Commands) -> None:
        commands.start("top", "--json", "--name", "onlooker").object()
        done = commands.run("cat", "onlooker")
        assert (done.code, "only looks on" in done.complaint) == (exits.REFUSED, True)


@pytest.mark.usefixtures("ann")
def test_in_a_terminal(commands: Commands, terminal: Terminal) -> None:
    terminal.run(commands.line("top", "--interval", "0.2", "--name", "eye"))
    screen = terminal.until(lambda screen: "ann" in screen and "alive" in screen)
    head, *rest = screen.splitlines()
    assert head.startswith("DittoBus eye (")
    [heading] = [line for line in rest if line.startswith("PEER")]
    [row] = [line for line in rest if line.startswith("ann")]
    assert row.index("alive") == heading.index("STATE")
    # What comes is plotted: one bar stands out.
    assert commands.run("send", "eye", "hello").code == exits.OK
    screen = terminal.until(lambda screen: "█" in screen.partition("\nin ")[2].partition("\n")[0])
    terminal.tmux("send-keys", "q")
    screen = terminal.until(lambda screen: "exited: " in screen)
    assert screen.split() == ["exited:", "0"]  # and the screen is as it was before


def test_plots() -> None:
    assert plot([]) == ""
    assert plot([0, 0]) == "▁▁"
    assert plot([None, 1, 2, 4, 8]) == " ▂▃▅█"
