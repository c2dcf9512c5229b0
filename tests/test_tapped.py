"""A node that shows its packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from brokerless import DatagramPath, NodeConfig, Reliability
from brokerless.pump import Pump
from brokerless.testing import Chaos, describe
from brokerless.transport import Transport
from tests.witness import Mesh, Witness

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio


class Log:
    """All that a node shows."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.packets: list[bytes] = []

    def __call__(self, direction: str, end: str, packet: bytes) -> None:
        self.lines.append((direction, end, describe(packet)))
        self.packets.append(packet)

    def saw(self, direction: str, end: str, words: str) -> bool:
        return any(way == direction and end in other and words in line for way, other, line in self.lines)


async def tapped(mesh: Mesh, name: str, **options: object) -> tuple[Witness, Log]:
    witness = mesh.make(name, **options)
    log = witness.node.tap = Log()
    await witness.node.start()
    return witness, log


def path(one: Witness, other: Witness) -> DatagramPath:
    peer = one.node.peer(other.address)
    assert peer is not None
    return peer.path.datagram


async def test_what_is_sent_and_what_comes_is_shown_at_both_ends(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, its = await tapped(mesh, "first")
        second, theirs = await tapped(mesh, "second")
        await first.joined(second)
        await second.joined(first)
        first.send(b"secret words", second)
        await second.until(lambda: bool(second.messages))
        await first.until(lambda: path(first, second) is DatagramPath.UDP)
        first.node.transmit(b"a datagram", second.address, Reliability.UNRELIABLE)
        await second.until(lambda: bool(second.unreliable))
    for words in ("HELLO", "INFO", "DATA 0 (channel 0): 1, 12 bytes"):
        assert its.saw("->", second.address.short, words)
        assert theirs.saw("<-", first.address.short, words)
    assert its.saw("->", "127.0.0.1:", "datagram")
    assert theirs.saw("<-", "127.0.0.1:", "datagram")
    assert theirs.saw("->", first.address.short, "GOODBYE LEFT") or its.saw(
        "->", second.address.short, "GOODBYE LEFT"
    )
    assert any(b"secret words" in packet for packet in its.packets)
    assert {end for _, end, _ in its.lines if "on link" not in end and ":" not in end} == set()


async def test_datagrams_over_tcp_are_shown_too(tmp_path: Path) -> None:
    async with Chaos() as chaos, Mesh(tmp_path) as mesh:
        chaos.set(loss=1)
        first, its = await tapped(mesh, "first", **chaos.far)
        second, theirs = await tapped(mesh, "second", **chaos.near)
        await second.joined(first)
        second.node.expect_datagrams(first.address)
        await second.until(lambda: path(second, first) is DatagramPath.PUSH)
        second.node.transmit(b"x", first.address, Reliability.UNRELIABLE)
        await first.until(lambda: bool(first.unreliable))
    assert theirs.saw("->", f"{first.address.short} by PUSH", "datagram")
    assert its.saw("<-", f"{second.address.short} by PUSH", "datagram")


async def test_without_a_tap_nothing_stands_in_between(tmp_path: Path) -> None:
    """So that it can cost nothing."""
    witness = Witness(NodeConfig(discovery=(), directory=tmp_path, interfaces=("127.0.0.1",)))
    await witness.node.start()
    assert type(witness.node._pump) is Pump
    assert type(witness.node._transport) is Transport
    await witness.node.close(0)
