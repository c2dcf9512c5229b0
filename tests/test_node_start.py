"""Nodes that start, and those that do not: everything undone, and bad arguments refused at the call."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    BusClosed,
    ConfigError,
    IdentityInUse,
    Limits,
    MessageTooLarge,
    NodeConfig,
    PortInUse,
    Reliability,
    StartError,
    UnknownPeer,
    ZeroconfDiscovery,
)
from tests.witness import LOOPBACK, Log, Mesh, Stubborn, Witness, commands, files

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio


async def test_a_port_that_is_taken_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        with socket.socket() as taken:
            taken.bind((LOOPBACK[0], 0))
            taken.listen()
            identity = tmp_path / "identity"
            discovery = Stubborn()
            late = mesh.make(
                port=taken.getsockname()[1], identity=identity, discovery=("registry", discovery)
            )
            with pytest.raises(PortInUse, match=str(taken.getsockname()[1])):
                await late.node.start()
        assert not discovery.starting.is_set()
        assert files(tmp_path) == [identity]
        with pytest.raises(BusClosed):
            await late.node.start()
        again = await mesh.start(identity=identity)  # it is not locked any more
        assert again.address == late.address


async def test_an_identity_in_a_file_serves_one_node_at_a_time(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first = await mesh.start(identity=tmp_path / "identity")
        with pytest.raises(IdentityInUse, match="identity"):
            mesh.make(identity=tmp_path / "identity")
        await first.node.close()
        assert (await mesh.start(identity=tmp_path / "identity")).address == first.address


async def test_what_is_no_file_holds_no_identity(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        with pytest.raises(ConfigError, match=r"^identity: .* is not a regular file"):
            mesh.make(identity=tmp_path)


async def test_a_node_that_was_never_started_lets_go_of_its_identity(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        assert await mesh.make(identity=tmp_path / "identity").node.close()
        mesh.make(identity=tmp_path / "identity")


@pytest.mark.parametrize("error", [StartError("no multicast here"), ZeroDivisionError("a bug of its own")])
async def test_a_discovery_that_does_not_start_is_done_without(tmp_path: Path, error: Exception) -> None:
    async with Mesh(tmp_path) as mesh:
        with Log() as log:
            first, second = await mesh.pair(discovery=(Stubborn(error), "registry"))
        assert len(log.having("discovery stubborn does not work here")) == 2
        assert first.node.stats().peers == second.node.stats().peers == 1


async def test_multicast_where_there_is_none_is_done_without(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        with Log() as log:
            await mesh.pair(discovery=(ZeroconfDiscovery(("192.0.2.7",)), "registry"))
        assert len(log.having("discovery zeroconf does not work here")) == 2


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        discovery = Stubborn()
        node = mesh.make(discovery=("registry", discovery), identity=tmp_path / "identity").node
        starting = asyncio.create_task(node.start())
        await asyncio.wait_for(discovery.starting.wait(), 10)
        assert len(files(tmp_path / "bus")) > 0
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert discovery.closes == 1
        assert files(tmp_path / "bus") == []
        mesh.make(identity=tmp_path / "identity")


async def test_a_node_starts_once(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        node = (await mesh.start()).node
        with pytest.raises(BusClosed):
            await node.start()


async def test_before_the_start_there_is_nothing_to_be_had(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        node = mesh.make().node
        assert node.peers == ()
        assert node.peer(node.address) is None
        assert node.peer_stats(node.address) is None
        for command in commands(node):
            with pytest.raises(BusClosed):
                command()


# Bad arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "x" * 65}, "name: at most 64 bytes"),
        ({"name": 5}, "name: expected str, got int"),
        ({"metadata": bytes(4097)}, "metadata: bytes, at most 4096"),
        ({"metadata": "text"}, "metadata: bytes"),
        ({"port": 65536}, "port: 0 to 65535, got 65536"),
        ({"port": -1}, "port: 0 to 65535, got -1"),
        ({"secret": "short"}, "secret: at least 8 characters, got 5"),
        ({"secret": bytes(31)}, "secret: at least 32 bytes, got 31"),
        ({"mesh": ""}, "mesh: 1 to 64 bytes"),
        ({"peers": ("dittobus://nobody",)}, "ticket: expected"),
        ({"advertise": ("tcp://*:5",)}, "advertise: endpoint: expected"),
        ({"discovery": "registry"}, "discovery: expected a sequence"),
        ({"discovery": ("carrier pigeon",)}, "discovery: expected zeroconf, registry"),
        ({"interfaces": ("",)}, "interfaces: expected addresses"),
        ({"trust": "everybody"}, "trust: expected None or 'open'"),
        ({"admit": 5}, "admit: expected a callable or addresses"),
    ],
)
async def test_a_bad_configuration_is_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")):
        NodeConfig(**options)


async def test_a_machine_without_that_address_cannot_listen_there(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        with pytest.raises(StartError, match=r"cannot listen on any tcp port of 192\.0\.2\.7"):
            await mesh.start(interfaces=("192.0.2.7",))


async def test_what_a_running_node_is_told_is_checked_too(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        node = (await mesh.start("good")).node
        with pytest.raises(ConfigError, match="name: at most 64"):
            node.name = "é" * 33
        with pytest.raises(ConfigError, match="metadata: bytes, at most 4096"):
            node.metadata = bytes(4097)
        assert (node.name, node.metadata) == ("good", b"")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": "text"}, TypeError, "bytes, not str"),
        ({"data": bytearray(5)}, TypeError, "bytes, not bytearray"),
        ({"data": bytes(1025)}, MessageTooLarge, "1025 bytes, at most 1024"),
        ({"channel": -1}, ConfigError, "channel: expected 0 to 4294967295, got -1"),
        ({"channel": 2**32}, ConfigError, "channel: expected 0 to 4294967295"),
        (
            {"reliability": Reliability.UNRELIABLE, "data": bytes(64 * 1024 + 1)},
            MessageTooLarge,
            "an unreliable message of 65537 bytes, at most 65536",
        ),
        ({"reliability": Reliability.SEQUENCED, "data": "text"}, TypeError, "bytes, not str"),
        ({"reliability": Reliability.SEQUENCED, "channel": 2**32}, ConfigError, "channel: expected 0 to"),
    ],
)
async def test_a_bad_send_is_refused_at_the_call(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair(limits=Limits(message_bytes_max=1024))
        good = {"data": b"", "to": second.address, "reliability": Reliability.RELIABLE}
        with pytest.raises(error, match=message):
            first.node.send(**{**good, **arguments})
        assert await first.done(first.send(b"good", second)) is None
        assert [message.data for message in second.messages] == [b"good"]


async def test_the_smaller_limit_of_both_sides_holds(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        roomy = await mesh.start("roomy")
        tight = await mesh.start("tight", limits=Limits(message_bytes_max=1024))
        await roomy.joined(tight)
        with pytest.raises(MessageTooLarge, match="at most 1024"):
            roomy.send(bytes(1025), tight)
        stream = await roomy.opened(tight)
        with pytest.raises(MessageTooLarge, match="at most 1024"):
            stream.send(bytes(1025))


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [("x" * 65, b"", "name: at most 64 bytes"), ("", bytes(4097), "metadata: at most 4096 bytes")],
)
async def test_a_bad_stream_is_refused_at_the_call(
    tmp_path: Path, name: str, metadata: bytes, message: str
) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        with pytest.raises(ConfigError, match=message):
            first.open(second, name, metadata)


async def test_who_was_never_heard_of_cannot_be_spoken_to(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        node = await mesh.start()
        stranger = Witness(NodeConfig())
        with pytest.raises(UnknownPeer, match=stranger.address.short):
            node.send(b"", stranger)
        with pytest.raises(UnknownPeer, match=stranger.address.short):
            node.open(stranger)
