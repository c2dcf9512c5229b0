"""Who is let in: by the secret of the mesh, by ``admit``, by a list of addresses."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    DeliveryUnknown,
    Identity,
    Limits,
    LossReason,
    Peer,
    PeerJoined,
    PeerRefused,
    generate_secret,
)
from brokerless.pump import Pump
from tests.witness import Log, Mesh, Witness

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from brokerless import Ticket

pytestmark = pytest.mark.asyncio

QUICK_REDIALS = Limits(redial_min_s=0.02, redial_max_s=0.05)
"""So that the same refusal comes again and again within a test."""


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything that any node of this process receives."""
    received: list[bytes] = []
    take_in = Pump.link_message

    def link_message(pump: Pump, link: int, packet: bytes) -> None:
        received.append(packet)
        take_in(pump, link, packet)

    monkeypatch.setattr(Pump, "link_message", link_message)
    return received


async def refusals(node: Witness, count: int) -> None:
    """Wait until the node has turned that many links away. Each is cut, which it says at DEBUG."""
    with Log(logging.DEBUG) as log:
        await log.until(lambda: node.node.stats().handshakes_refused >= count)


# The secret


async def test_a_wrong_secret_lets_nobody_in_and_tells_nothing(tmp_path: Path, packets: list[bytes]) -> None:
    async with Mesh(tmp_path) as mesh:
        host = await mesh.start("private-name", discovery=(), metadata=b"private-metadata")
        with Log() as log:
            stranger = await mesh.start(
                "strange-name",
                discovery=(),
                metadata=b"strange-metadata",
                secret=generate_secret(),
                peers=(host.node.ticket(),),
                limits=QUICK_REDIALS,
            )
            refusal = await log.line("different mesh secrets")
            await refusals(host, 4)
            assert log.lines == [refusal]  # once, however often it tries
        assert host.events == []
        assert host.node.peers == ()
        assert stranger.of(PeerJoined) == []
        [peer] = stranger.node.peers
        assert (peer.name, peer.metadata) == ("", b"")
        assert stranger.node.stats().handshakes_refused > 0
        assert packets
        for packet in packets:
            assert b"private" not in packet
            assert b"strange" not in packet


async def test_who_waits_for_a_peer_that_refuses_is_told(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        host = await mesh.start(discovery=())
        options = {"discovery": (), "secret": generate_secret(), "peers": (host.node.ticket(),)}
        stranger = await mesh.start(**options)
        send_id = stranger.send(b"x", host)
        stream = stranger.open(host)
        error = await stranger.done(send_id)
        assert isinstance(error, PeerRefused)
        assert (error.peer, error.reason) == (host.address, "the two sides hold different mesh secrets")
        assert isinstance(await stranger.ended(stream), PeerRefused)


async def test_a_mesh_of_another_name_lets_nobody_in(tmp_path: Path) -> None:
    """Even one that knows the secret and where to find it."""
    async with Mesh(tmp_path) as mesh:
        red = await mesh.start("red", mesh="red", discovery=())
        blue = await mesh.start("blue", mesh="blue", discovery=(), peers=(red.node.ticket(),))
        await refusals(red, 1)
        assert red.events == []
        assert blue.of(PeerJoined) == []


async def test_an_open_mesh_and_a_closed_one_do_not_meet(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        closed = await mesh.start("closed", discovery=())
        ticket = closed.node.ticket()
        await mesh.start("open", secret=None, trust="open", discovery=(), peers=(ticket,))
        await refusals(closed, 1)
        assert closed.events == []


async def test_a_false_key_for_a_true_place_is_not_believed(tmp_path: Path) -> None:
    """A ticket, or a record, that names another address than the one that listens there."""
    async with Mesh(tmp_path) as mesh:
        host = await mesh.start(discovery=())
        false = Identity.generate().address
        ticket = str(host.node.ticket()).replace(str(host.address), str(false))
        with Log(logging.DEBUG) as log:
            dialler = await mesh.start(discovery=(), peers=(ticket, host.node.ticket()), limits=QUICK_REDIALS)
            await dialler.joined(host)
            await log.until(lambda: dialler.node.stats().dials_failed > 0)
        assert [event.peer.address for event in dialler.of(PeerJoined)] == [host.address]
        assert dialler.node.peer(false) is None or dialler.node.peer(false).name == ""


# admit


def says(answer: Any) -> Callable[[Peer], Any]:
    return lambda peer: answer


def raises(peer: Peer) -> bool:
    raise ZeroDivisionError("admit is broken")


def ponders(released: threading.Event) -> Callable[[Peer], bool]:
    return lambda peer: released.wait()


async def agrees(peer: Peer) -> bool:
    await asyncio.sleep(0)
    return True


async def declines(peer: Peer) -> str:
    await asyncio.sleep(0)
    return "members only"


async def raises_later(peer: Peer) -> bool:
    await asyncio.sleep(0)
    raise ZeroDivisionError("admit is broken")


async def ponders_for_ever(peer: Peer) -> bool:
    await asyncio.Event().wait()
    return True


class Doorkeeper:
    """An object that is called, and answers later."""

    async def __call__(self, peer: Peer) -> bool:
        return await agrees(peer)


@pytest.mark.parametrize("admit", [says(True), agrees, Doorkeeper(), lambda peer: agrees(peer)])
@pytest.mark.parametrize("asked_dials", [True, False])
async def test_whom_admit_takes_joins(
    tmp_path: Path, admit: Callable[[Peer], Any], asked_dials: bool
) -> None:
    async with Mesh(tmp_path) as mesh:
        options: list[dict[str, Any]] = [{"admit": admit}, {"metadata": b"please"}]
        if asked_dials:
            options.reverse()
        first = await mesh.start("first", discovery=(), **options[0])
        second = await mesh.start("second", discovery=(), peers=(first.node.ticket(),), **options[1])
        await first.joined(second)
        await second.joined(first)
        assert await first.done(first.send(b"x", second)) is None
        assert await second.done(second.send(b"y", first)) is None


async def test_admit_is_told_who_asks(tmp_path: Path) -> None:
    asked: list[tuple[Peer, threading.Thread]] = []

    def admit(peer: Peer) -> bool:
        asked.append((peer, threading.current_thread()))
        return True

    async with Mesh(tmp_path) as mesh:
        host = await mesh.start("host", discovery=(), admit=admit)
        ticket = host.node.ticket()
        guest = await mesh.start("guest", discovery=(), metadata=b"please", peers=(ticket,))
        await host.joined(guest)
        [(peer, thread)] = asked
        assert (peer.address, peer.name, peer.metadata) == (guest.address, "guest", b"please")
        assert thread is not threading.main_thread()  # it may take its time without holding up the loop


@pytest.mark.parametrize(
    ("admit", "reason"),
    [
        (says(False), "not admitted"),
        (says(None), "not admitted"),
        (says(1), "not admitted"),  # only True is a yes
        (says(""), "not admitted"),
        (says("members only"), "members only"),
        (declines, "members only"),
        (raises, "not admitted"),
        (raises_later, "not admitted"),
        (ponders_for_ever, "nobody decided in time"),
    ],
)
async def test_whom_admit_refuses_stays_outside(
    tmp_path: Path, admit: Callable[[Peer], Any], reason: str
) -> None:
    async with Mesh(tmp_path) as mesh:
        with Log():
            limits = Limits(admit_timeout_s=0.05 if admit is ponders_for_ever else 10.0)
            host = await mesh.start("host", discovery=(), admit=admit, limits=limits)
            guest = await mesh.start("guest", discovery=(), peers=(host.node.ticket(),))
            send_id = guest.send(b"let me in", host)
            stream = guest.open(host, "let me in")
            error = await guest.done(send_id)
            ended = await guest.ended(stream)
        for refusal in (error.__cause__ if isinstance(error, DeliveryUnknown) else error, ended):
            assert isinstance(refusal, PeerRefused)
            assert refusal.reason == reason
        assert host.of(PeerJoined) == []
        assert host.messages == []
        assert host.received == {}
        assert host.node.stats().handshakes_refused == 1
        assert all(left.reason is LossReason.EXPELLED for left in [await guest.lost(host)])


async def test_an_admit_that_hangs_is_taken_for_a_no_and_holds_up_nothing(tmp_path: Path) -> None:
    released = threading.Event()
    try:
        async with Mesh(tmp_path) as mesh:
            limits = Limits(admit_timeout_s=0.05)
            host = await mesh.start("host", discovery=(), admit=ponders(released), limits=limits)
            guest = await mesh.start("guest", discovery=(), peers=(host.node.ticket(),))
            send_id = guest.send(b"let me in", host)
            assert await guest.done(send_id) is not None
            assert host.of(PeerJoined) == []
            await host.node.close()  # while it still ponders
    finally:
        released.set()


async def test_what_comes_before_admit_has_decided_waits(tmp_path: Path) -> None:
    decided = asyncio.Event()

    async def admit(peer: Peer) -> bool:
        await decided.wait()
        return True

    async with Mesh(tmp_path) as mesh:
        host = await mesh.start("host", admit=admit)
        guest = await mesh.start("guest")
        await guest.joined(host)
        send_id = guest.send(b"early", host)
        second = await mesh.start("second")
        await second.joined(guest)  # others go on meanwhile
        assert host.of(PeerJoined) == []
        assert host.messages == []
        decided.set()
        await host.joined(guest)
        assert await guest.done(send_id) is None
        assert [message.data for message in host.messages] == [b"early"]


async def test_a_node_that_closes_asks_no_more(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def admit(peer: Peer) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    async with Mesh(tmp_path) as mesh:
        host = await mesh.start("host", admit=admit)
        await mesh.start("guest")
        await asyncio.wait_for(asked.wait(), 10)
        await host.node.close()  # and leaves no task behind


# A list of addresses


async def test_a_list_of_addresses_takes_those_and_no_others(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        member, other = Identity.generate(), Identity.generate()
        host = await mesh.start("host", discovery=(), admit=[member.address])

        def ticket() -> Ticket:
            return host.node.ticket()

        with Log() as log:
            stranger = await mesh.start(
                "other", discovery=(), identity=other, peers=(ticket(),), limits=QUICK_REDIALS
            )
            refusal = await log.line("not on the list")
            await refusals(host, 3)
            assert log.lines == [refusal]
        guest = await mesh.start("guest", discovery=(), identity=member, peers=(ticket(),))
        await host.joined(guest)
        await guest.joined(host)
        assert stranger.of(PeerJoined) == []
        assert [event.peer.address for event in host.of(PeerJoined)] == [guest.address]
        assert [peer.address for peer in host.node.peers] == [guest.address]


async def test_who_is_on_no_list_is_not_even_dialled(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        stranger = await mesh.start("stranger")
        member = await mesh.start("member")
        host = await mesh.start("host", admit={member.address})
        await host.joined(member)
        assert {peer.address for peer in host.node.peers} == {member.address}
        assert all(event.peer.address != host.address for event in stranger.of(PeerJoined))
