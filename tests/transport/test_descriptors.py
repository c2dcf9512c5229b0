"""Hanging up on a connection, and on no other."""

from __future__ import annotations

import os
import resource
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from brokerless.errors import StartError
from brokerless.transport.descriptors import (
    RESERVE_DESCRIPTORS,
    Reserve,
    borrowed,
    fingerprint,
    is_near,
    peer_user,
    received_bytes,
    require_descriptors,
    shut_down,
)
from tests.conftest import open_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The accepted end of a connection, and the other."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as accepted,
    ):
        client.settimeout(10)
        yield accepted, client


def fingerprint_of(descriptor: int) -> tuple[object, ...]:
    with borrowed(descriptor) as connection:
        return fingerprint(connection)


def test_the_expected_connection_is_shut_down(ends: tuple[socket.socket, socket.socket]) -> None:
    accepted, client = ends
    before = open_descriptors()
    assert shut_down(accepted.fileno(), fingerprint_of(accepted.fileno()))
    assert client.recv(1) == b""
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("family", "remote", "is_here"),
    [
        (socket.AF_INET, ("127.0.0.9", 1), True),
        (socket.AF_INET, ("192.0.2.1", 1), False),
        (socket.AF_INET6, ("::1", 1, 0, 0), True),
        (socket.AF_INET6, ("::ffff:127.0.0.1", 1, 0, 0), True),
        (socket.AF_INET6, ("::ffff:192.0.2.1", 1, 0, 0), False),
        (socket.AF_INET6, ("fe80::1%eth0", 1, 0, 2), False),
        (socket.AF_UNIX, "", True),
    ],
)
def test_who_connects_from_this_host_is_near(family: int, remote: object, is_here: bool) -> None:
    assert is_near((family, "ours", remote, 5)) is is_here


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_how_much_has_come(ends: tuple[socket.socket, socket.socket]) -> None:
    accepted, client = ends
    before = open_descriptors()
    assert received_bytes(accepted.fileno()) == 0
    for count in (1, 2):
        client.sendall(bytes(100_000))
        left = 100_000
        while left:
            left -= len(accepted.recv(left))
        assert received_bytes(accepted.fileno()) == count * 100_000
    assert open_descriptors() == before


def test_how_much_has_come_is_not_told_of_everything() -> None:
    one, other = socket.socketpair()
    with one, other, open(os.devnull) as nothing:
        other.send(b"x")
        assert received_bytes(one.fileno()) == 0
        assert received_bytes(nothing.fileno()) == 0
    assert received_bytes(10_000) == 0


def test_another_one_with_its_number_is_not(ends: tuple[socket.socket, socket.socket]) -> None:
    accepted, client = ends
    expected = fingerprint_of(accepted.fileno())
    number = accepted.detach()
    one, two = socket.socketpair()
    with one, two:
        os.dup2(one.fileno(), number)  # closes the connection; its number is the pair's now
        try:
            assert client.recv(1) == b""
            assert not shut_down(number, expected)
            two.send(b"alive")
            assert one.recv(5) == b"alive"
        finally:
            os.close(number)


def test_the_same_addresses_once_more_are_another_connection(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    first, second = (fingerprint_of(end.fileno()) for end in ends)
    assert first != second
    assert first == fingerprint_of(ends[0].fileno())


def test_a_number_that_is_nobodys() -> None:
    unused = os.dup(0)
    os.close(unused)
    assert not shut_down(unused, ())
    with pytest.raises(OSError, match="Bad file descriptor"), borrowed(unused):
        pass


def test_something_that_is_no_socket() -> None:
    reading, writing = os.pipe()
    try:
        assert not shut_down(reading, ())
        os.write(writing, b"alive")
        assert os.read(reading, 5) == b"alive"
    finally:
        os.close(reading)
        os.close(writing)


def test_the_user_at_the_other_end(short_directory: Path, ends: tuple[socket.socket, socket.socket]) -> None:
    assert peer_user(ends[0]) is None
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(short_directory / "socket"))
        listener.listen()
        client.connect(str(short_directory / "socket"))
        with listener.accept()[0] as accepted:
            assert peer_user(accepted) == os.getuid()


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """No more descriptors than are open now."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(number for number, _ in open_descriptors())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    taken = []
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("few_descriptors")
def test_no_descriptors_left() -> None:
    with pytest.raises(StartError, match="ulimit"):
        require_descriptors(1)


def test_hanging_up_needs_no_free_descriptor(
    ends: tuple[socket.socket, socket.socket], request: pytest.FixtureRequest
) -> None:
    accepted, client = ends
    expected = fingerprint_of(accepted.fileno())
    request.getfixturevalue("few_descriptors")
    assert shut_down(accepted.fileno(), expected)
    assert client.recv(1) == b""


def test_enough_descriptors_left() -> None:
    before = open_descriptors()
    require_descriptors(8)
    assert open_descriptors() == before


def test_a_reserve_is_given_and_taken_back(request: pytest.FixtureRequest) -> None:
    reserve = Reserve()
    request.getfixturevalue("few_descriptors")
    assert not reserve.spent
    reserve.release()
    assert reserve.spent
    stolen = [os.dup(0) for _ in range(RESERVE_DESCRIPTORS)]
    reserve.refill()
    assert reserve.spent
    for descriptor in stolen:
        os.close(descriptor)
    reserve.refill()
    assert not reserve.spent
    reserve.release()
