"""``dittobus cat``: stdin and stdout over a stream."""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from dittobus.cli import exits

if TYPE_CHECKING:
    from tests.dittobus.cli.processes import Commands

pytestmark = pytest.mark.timeout(90)

BULK = random.Random(7).randbytes(3_000_000)
"""More than window, send queue and pipes hold together."""


def test_both_ways(commands: Commands) -> None:
    far = commands.listen("cat", "--listen", "--name", "far")
    near = commands.start("cat", "far")
    near.say(b"ping\n")
    assert far.line() == "ping"
    far.say(b"pong\n")
    assert near.line() == "pong"
    # The end of one side's input ends one direction only.
    near.close_input()
    far.say(b"still here\n")
    assert near.line() == "still here"
    assert (far.end().code, near.process.wait(60), near.line()) == (exits.OK, exits.OK, "")


def test_messages_as_json(commands: Commands) -> None:
    far = commands.listen("cat", "--listen", "--name", "far", "--json")
    near = commands.start("cat", "far", "--json")
    near.say(b"ping\n")
    assert far.object() == {"bytes": 5, "text": "ping\n"}
    far.say(b"\xff")
    assert near.object() == {"bytes": 1, "base64": "/w=="}


def test_bulk_both_ways(commands: Commands) -> None:
    far = commands.listen("cat", "--listen", "--name", "bulk", "--stream", "tar")
    near = commands.start("cat", "bulk", "--stream", "tar", stdin=subprocess.PIPE)
    with commands.pumped(far, BULK[::-1]) as received:
        assert near.end(BULK).data == BULK[::-1]
    assert received() == BULK
    assert (near.process.returncode, far.process.returncode) == (exits.OK, exits.OK)


def test_no_input_at_all(commands: Commands) -> None:
    """With stdin closed, and into a pipe that nobody reads further."""
    far = commands.listen("cat", "--listen", "--name", "closed")
    far.close_input()
    near = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *commands.line("cat", "closed")],
        capture_output=True,
        timeout=60,
        env=commands.environment,
        check=False,
    )
    assert (near.returncode, near.stderr) == (exits.OK, b"")
    assert far.end().code == exits.OK


def test_only_streams_of_that_name(commands: Commands) -> None:
    commands.listen("cat", "--listen", "--name", "named", "--stream", "this")
    done = commands.run("cat", "named", "--stream", "that")
    assert done.code == exits.REFUSED
    assert "only streams named 'this' are taken here" in done.complaint


def test_a_peer_that_is_killed(commands: Commands) -> None:
    far = commands.listen("cat", "--listen", "--name", "killed")
    near = commands.start("cat", "killed")
    near.say(b"x")
    assert far.process.stdout is not None
    assert far.process.stdout.read(1) == b"x"
    far.process.kill()
    # Its stdin stays open: it is the loss that ends it.
    assert near.process.wait(60) == exits.ERROR
    assert "was not heard for" in near.end().complaint


@pytest.mark.parametrize("arguments", [(), ("somebody", "--listen")])
def test_one_side_or_the_other(commands: Commands, arguments: tuple[str, ...]) -> None:
    done = commands.run("cat", *arguments)
    assert (done.code, "either PEER, or --listen" in done.complaint) == (exits.USAGE, True)
