"""``dittobus tunnel`` as a process: what it prints, how it fails, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from dittobus.cli import exits, main
from tests.dittobus.tunnel.programs import SOON_S, TEST_S, Programs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest_asyncio.fixture
async def programs() -> AsyncIterator[Programs]:
    async with Programs() as programs:
        yield programs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "-L"),
        (["-L", "8080"], "[BIND:]PORT:PEER:HOST:PORT"),
        (["-L", "8080:web:127.0.0.1:0"], "port of 1 to 65535"),
        (["-L", "8080:web:/run/web.sock/udp", "--udp"], "no UDP"),
        (["expose"], "HOST:PORT"),
        (["expose", "127.0.0.1"], "HOST:PORT"),
        (["expose", "127.0.0.1:0"], "port of 1 to 65535"),
        (["--mesh", "here", "expose", "127.0.0.1:80"], "after 'expose'"),
        (["-L", "8080:web:127.0.0.1:80", "--idle", "0"], "--idle"),
    ],
)
def test_what_is_not_understood(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["tunnel", *arguments]) == exits.USAGE
    assert_one_line(capsys, said)


def assert_one_line(capsys: pytest.CaptureFixture[str], said: str) -> None:
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("dittobus: ")
    assert said in err


@pytest.fixture
def mesh(tmp_path: Path) -> list[str]:
    mesh = ["--trust=open", "--mesh=nobody", "--interface=127.0.0.1", "--discovery=registry"]
    return [*mesh, f"--directory={tmp_path}"]


@pytest.mark.parametrize(("kind", "suffix"), [(socket.SOCK_STREAM, ""), (socket.SOCK_DGRAM, "/udp")])
def test_a_port_in_use(capsys: pytest.CaptureFixture[str], mesh: list[str], kind: int, suffix: str) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        assert main(["tunnel", "-L", f"{port}:web:127.0.0.1:80{suffix}", *mesh]) == exits.ERROR
    assert_one_line(capsys, f"cannot listen on 127.0.0.1:{port}{suffix}: Address already in use")


def test_a_peer_that_is_not_there(capsys: pytest.CaptureFixture[str], mesh: list[str]) -> None:
    assert main(["tunnel", "-L", "0:web:127.0.0.1:80", "--timeout", "0.1", *mesh]) == exits.NOT_FOUND
    assert_one_line(capsys, "no peer 'web' within 0.1 s")


async def connect(place: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = place.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def received(place: str) -> bytes:
    """Connect there, and return what comes. A reset may come so soon that connecting is told of it."""
    reader, writer = await connect(place)
    with contextlib.closing(writer):
        return await reader.read()


@pytest.mark.asyncio
@pytest.mark.timeout(TEST_S)
async def test_what_people_are_told(programs: Programs) -> None:
    exposing = await programs.tunnel("expose", "127.0.0.1:9", "--name=server")
    assert (await exposing.says("exposing")).startswith("exposing 127.0.0.1:9 as server (")
    routes = ["-L", "0:server:127.0.0.1:9", "-L", "0:server:127.0.0.1:7"]
    listening = await programs.tunnel(*routes, f"--timeout={SOON_S}")
    lines = [await listening.says(f"leads to 127.0.0.1:{port} at server (") for port in (9, 7)]
    for place in [line.split()[0] for line in lines] * 2:
        with pytest.raises(ConnectionResetError):
            await received(place)
    heard: list[str] = []
    for side in (listening, exposing):
        status, errors = await side.end(signal.SIGINT)
        assert status == exits.INTERRUPTED
        heard += [line for line in errors.splitlines() if "; ticket " not in line]
        assert len(side.lines) == (2 if side is listening else 1)
    told, refused = heard[:2], heard[2:]
    assert [line.partition(": ")[0] for line in heard] == ["dittobus"] * 4, "each once, and nothing else"
    assert "the peer says: 127.0.0.1:9 cannot be reached: Connection refused" in told[0]
    assert "the peer does not expose 127.0.0.1:7: name it there" in told[1]
    assert "127.0.0.1:7 is not exposed" in refused[1]


@pytest.mark.asyncio
@pytest.mark.timeout(TEST_S)
async def test_what_programs_are_told(programs: Programs) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(2 * await reader.read())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        target = "{}:{}".format(*server.sockets[0].getsockname())
        exposing = await programs.expose(target)
        listening, place = await programs.listen(target)
        reader, writer = await connect(place)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hellohello"
        writer.close()
        address = (await exposing.tells("exposing", name="server"))["address"]
        began = await listening.tells("began", target=target, peer=address)
        ended = await listening.tells("ended", origin=began["origin"], error=None)
        assert (ended["bytes_sent"], ended["bytes_received"]) == (5, 10)
        ended = await exposing.tells("ended", target=target, error=None)
        assert (ended["bytes_sent"], ended["bytes_received"]) == (10, 5)
    for side in (exposing, listening):
        status, errors = await side.end(signal.SIGTERM)
        assert status == exits.INTERRUPTED
        assert all("ticket" in line for line in errors.splitlines())
