"""Programs that nobody here wrote, through a tunnel between processes."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import os
import random
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.dittobus.tunnel.programs import TEST_S, Programs, path_of
from tests.soak import amount
from tests.witness import reserved_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(TEST_S)]

REQUESTS = 200

PRIVILEGES = Path("/run/sshd")
"""Where an sshd that is run by root goes, as an empty place."""


@pytest_asyncio.fixture
async def programs() -> AsyncIterator[Programs]:
    async with Programs() as programs:
        yield programs


def random_file(path: Path, size: int) -> str:
    """Make a file, and return its SHA-256."""
    path.write_bytes(random.Random(size).randbytes(size))
    return sha256(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# HTTP


@pytest.mark.soak
async def test_a_large_file_from_a_web_server(programs: Programs) -> None:
    curl = path_of("curl")
    files = programs.directory / "files"
    files.mkdir()
    sent = random_file(files / "large", amount(50_000_000, 200_000_000))
    web = await programs.start(
        sys.executable, "-u", "-m", "http.server", "--bind=127.0.0.1", f"--directory={files}", "0"
    )
    port = (await web.says("Serving HTTP")).split()[5]
    place = await programs.through(f"127.0.0.1:{port}")
    received = programs.directory / "received"
    await programs.run(curl, "--silent", "--fail", "--output", received, f"http://{place}/large")
    assert sha256(received) == sent


async def test_many_requests_at_once_to_a_web_server(programs: Programs) -> None:
    curl, nginx = path_of("curl"), path_of("nginx")
    directory = programs.directory
    sent = random_file(directory / "file", 100_000)
    (directory / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid nginx.pid; worker_rlimit_nofile 1024;
        error_log stderr notice;
        events {{ worker_connections 512; }}
        http {{
            access_log off; client_body_temp_path a; proxy_temp_path b;
            fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
            server {{ listen unix:{directory}/web.sock; root {directory}; }}
        }}
        """
    )
    await programs.start(
        nginx, "-p", directory, "-c", directory / "nginx.conf", "-e", "stderr", ready="epoll"
    )
    place = await programs.through(f"{directory}/web.sock")
    urls = [
        f"--output {directory}/received.{number}\nurl = http://{place}/file" for number in range(REQUESTS)
    ]
    config = "\n".join(urls).encode()
    many = ["--parallel", "--parallel-immediate", "--parallel-max", str(REQUESTS), "--no-keepalive"]
    await programs.run(curl, "--silent", "--fail", *many, "--config", "-", given=config)
    assert {sha256(directory / f"received.{number}") for number in range(REQUESTS)} == {sent}


# Redis


@pytest.mark.parametrize("by", ["tcp", "unix"])
async def test_a_redis_server_and_its_own_benchmark(programs: Programs, by: str) -> None:
    server, benchmark, client = map(path_of, ("redis-server", "redis-benchmark", "redis-cli"))
    path = f"{programs.directory}/redis.sock"
    with reserved_port() as port:
        settings = ["--port", str(port) if by == "tcp" else "0", "--bind", "127.0.0.1", "--unixsocket", path]
        await programs.start(
            server, *settings, "--save", "", "--dir", programs.directory, ready="eady to accept connections"
        )
        target = f"127.0.0.1:{port}" if by == "tcp" else path
        await programs.expose(target)
        if by == "tcp":
            _, place = await programs.listen(target)
            where = ["-h", place.partition(":")[0], "-p", place.partition(":")[2]]
        else:
            _, place = await programs.listen(target, f"{programs.directory}/here.sock")
            where = ["-s", place]
        work = ["-t", "set,get,lrange_100", "-n", "2000", "-c", "50", "-d", "100"]
        report = await programs.run(benchmark, *where, *work, "--csv")
        assert {line.split(",")[0] for line in report.decode().splitlines()} >= {'"SET"', '"GET"'}
        await programs.run(client, *where, "-x", "set", "large", given=bytes(5_000_000))
        assert await programs.run(client, *where, "strlen", "large") == b"5000000\n"


# SSH


async def test_an_ssh_server(programs: Programs) -> None:
    server, client, keygen = map(path_of, ("sshd", "ssh", "ssh-keygen"))
    if os.geteuid() == 0 and not os.access(PRIVILEGES, os.X_OK):
        pytest.skip(f"sshd wants {PRIVILEGES} when it is run by root")
    directory = programs.directory
    for key in ("host", "user"):
        await programs.run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", directory / key)
    with reserved_port() as port:
        (directory / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {directory}/user.pub\nStrictModes no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        await programs.start(
            server, "-D", "-e", "-f", directory / "sshd_config", ready="Server listening on 127.0.0.1"
        )
        place = await programs.through(f"127.0.0.1:{port}")
        host, _, tunnel_port = place.partition(":")
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ]
        ssh = [client, "-F", "none", "-i", f"{directory}/user", "-p", tunnel_port, "-l", getpass.getuser()]
        ssh += [word for option in options for word in ("-o", option)]
        sent = random.Random(7).randbytes(5_000_000)
        assert await programs.run(*ssh, host, "cat", given=sent) == sent
        assert await programs.run(*ssh, host, "echo no; exit 3", status=3) == b"no\n"


# DNS


def free_port() -> int:
    """A port that nobody has, neither by TCP nor by UDP; it may be gone before it is used."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, suppress(OSError):
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            udp.bind(("127.0.0.1", port))
            return port


async def name_server(programs: Programs, *settings: str) -> int:
    """Start a name server; return its port."""
    server = path_of("dnsmasq")
    own = ["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]
    own += ["--listen-address=127.0.0.1", "--pid-file=", f"--user={getpass.getuser()}"]
    for _ in range(10):
        port = free_port()
        program = await programs.start(server, *own, f"--port={port}", *settings)
        try:
            await program.says("started")
        except AssertionError:  # somebody was quicker
            continue
        return port
    raise AssertionError("no port is free for long enough")


async def test_a_name_server_over_udp(programs: Programs) -> None:
    dig = path_of("dig")
    large = f"--txt-record=large.test,{','.join(12 * ['x' * 200])}"
    known = "--address=/example.test/192.0.2.7"
    port = await name_server(programs, known, large, "--edns-packet-max=4096")
    place = await programs.through(f"127.0.0.1:{port}/udp")
    host, _, tunnel_port = place.partition(":")
    ask = [dig, f"@{host}", "-p", tunnel_port, "+notcp", "+ignore", "+tries=3", "+time=3"]
    names = [f"host{number}.example.test" for number in range(20)]
    answers = await asyncio.gather(*(programs.run(*ask, "+short", name) for name in names))
    assert set(answers) == {b"192.0.2.7\n"}
    answer = (await programs.run(*ask, "+bufsize=4096", "large.test", "TXT")).decode()
    assert answer.count(200 * "x") == 12
    size = re.search(r"MSG SIZE  rcvd: (\d+)", answer)
    assert size is not None
    assert int(size[1]) > 2_400  # in one datagram, larger than a packet
