"""``dittobus top``: what it shows, in a real terminal and elsewhere."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from dittobus.cli import exits
from dittobus.cli.picture import EXPENDABLE, HEADINGS, Picture, plot

if TYPE_CHECKING:
    from tests.dittobus.cli.processes import Commands, Running
    from tests.dittobus.cli.terminal import Terminal

pytestmark = pytest.mark.timeout(90)

LARGE = "x" * 100_000
"""Counted as 1000 bytes a second, and more, however late a busy machine looks again."""


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
        while said["node"]["links"] != 1:  # both may have dialled
            said = watching.object()
        assert commands.run("send", "eye", LARGE).code == exits.OK
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
        assert "  BY " in done.lines[0]  # each column that a wide terminal shows

    def test_what_a_peer_tells(self, commands: Commands) -> None:
        """That is what others do with it, unlike what top does itself."""
        watching = commands.start("top", "an", "-i", "0.1", "--json", "--name", "eye")
        said = watching.object()
        assert said["node"]["name"] == "ann"
        assert [peer["name"] for peer in said["peers"] if peer["streams"]] == ["eye"]
        assert commands.run("send", "ann", LARGE, "--name", "ben").code == exits.OK
        while said["node"]["bytes_in_per_s"] < 1000:
            said = watching.object()
        watching.process.terminate()
        assert watching.end().code == exits.INTERRUPTED

    @pytest.mark.parametrize(
        "kind",
        ["listen --echo", "cat --listen", "copy --listen", "bench --listen", "tunnel expose localhost:1"],
    )
    def test_who_tells(self, commands: Commands, kind: str) -> None:
        commands.listen(*kind.split(), "--name", "teller")
        assert_tells(commands, "teller")

    def test_the_ends_that_find_others_tell_too(self, commands: Commands) -> None:
        commands.listen("cat", "--listen", "--name", "taker")
        commands.start("cat", "taker", "--name", "giver")
        commands.listen("tunnel", "expose", "localhost:1", "--name", "target")
        commands.start("tunnel", "-L", "0:target:localhost:1", "--name", "entrance").line()
        for name in ("giver", "entrance"):
            assert_tells(commands, name)

    def test_who_does_not_tell(self, commands: Commands) -> None:
        commands.start("top", "--json", "--name", "onlooker").object()
        done = commands.run("top", "onlooker")
        assert (done.code, "does not tell its statistics" in done.complaint) == (exits.REFUSED, True)
        done = commands.run("top", "nobody", "--timeout", "0.1")
        assert (done.code, "no peer 'nobody'" in done.complaint) == (exits.NOT_FOUND, True)

    def test_a_peer_that_goes(self, commands: Commands) -> None:
        teller = commands.listen("listen", "--name", "leaver")
        watching = commands.start("top", "leaver", "-i", "0.1")
        assert watching.line().startswith("PEER")
        teller.process.terminate()
        done = watching.end()
        assert (done.code, "leaver tells no more: " in done.complaint) == (exits.ERROR, True)

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


@pytest.mark.usefixtures("ann")
def test_a_peer_in_a_terminal(commands: Commands, terminal: Terminal) -> None:
    sending = commands.start("send", "ann", "--lines", "--name", "ben")
    terminal.run(commands.line("top", "ann", "--interval", "0.2", "--name", "eye"))
    screen = terminal.until(lambda screen: all(name in screen for name in ("DittoBus ann (", "ben ", "eye ")))
    sending.say(b"x" * 10_000 + b"\n")
    screen = terminal.until(lambda screen: "█" in screen.partition("\nin ")[2].partition("\n")[0])
    assert "1 stream " in screen
    terminal.tmux("send-keys", "q")
    assert terminal.until(lambda screen: "exited: " in screen).split() == ["exited:", "0"]


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(140, set()), (110, {"BY"}), (80, set(EXPENDABLE) - {"DROPS"}), (10, set(EXPENDABLE))],
)
def test_what_a_narrow_terminal_shows_is_whole(width: int, left_out: set[str]) -> None:
    named = {**ROW, "name": "a camera of a name that is longer than anybody reads"}
    heading, first, second = drawn([named, {**ROW, "address": 52 * "c"}], width=width)[-3:]
    if width > 10:
        assert set(heading.split()) == {name for name in " ".join(HEADINGS).split() if name not in left_out}
        assert "122 MB/s" in first
        assert "3.83 kB/s" in first
        assert second.startswith("cccccccc ")


@pytest.mark.parametrize("width", [140, 60])  # where the lines above the table are broken
def test_a_low_terminal_shows_who_converses(width: int) -> None:
    idle = [{**ROW, "name": f"idle{number}", "bytes_in_per_s": 0} for number in range(50)]
    shown = drawn([*idle, {**ROW, "name": "busy"}], width=width, height=20)
    assert len(shown) == 20
    [heading] = [number for number, line in enumerate(shown) if line.startswith("PEER")]
    first, *others, rest = [line.split(maxsplit=1) for line in shown[heading + 1 :]]
    assert first[0] == "busy"
    assert [name for name, _ in others] == [f"idle{number}" for number in range(len(others))]
    assert rest == ["and", f"{50 - len(others)} more peers"]
    # One more line, and there is room for all.
    assert len(drawn(idle[: len(others) + 2], width=width, height=20)) == 20
    assert drawn(idle[: len(others) + 2], width=width, height=20)[-1].startswith(f"idle{len(others) + 1} ")


ROW: dict[str, Any] = {
    "name": "",
    "address": 52 * "a",
    "state": "alive",
    "path": {"reliable": "ipc", "datagram": "udp"},
    **{"rtt_s": 0.00123, "jitter_s": 0.000456, "loss": 0.0},
    **{"bytes_in_per_s": 122e6, "bytes_out_per_s": 3830, "streams": 2, "dropped": {}},
}


def drawn(peers: list[dict[str, Any]], width: int, height: int = 24) -> list[str]:
    """Return the lines that a terminal of that size shows of these peers, after some time."""
    node = {
        **{"name": "ann", "address": 52 * "b", "links": 1, "streams": 2, "dropped": {}},
        **{"handshakes_refused": 0, "bytes_in_per_s": 0, "bytes_out_per_s": 0},
        **{"messages_in_per_s": 0, "messages_out_per_s": 0},
    }
    picture = Picture()
    for _ in range(50):
        picture.take({"node": node, "peers": peers})
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(picture.draw(console))
    return console.export_text().splitlines()


def assert_tells(commands: Commands, name: str) -> None:
    done = commands.run("top", name, "-i", "0.1", "-c", "1", "--json")
    assert (done.code, done.err) == (exits.OK, "")
    assert done.objects[0]["node"]["name"] == name


def test_plots() -> None:
    assert plot([]) == ""
    assert plot([0, 0]) == "▁▁"
    assert plot([None, 1, 2, 4, 8]) == " ▂▃▅█"
