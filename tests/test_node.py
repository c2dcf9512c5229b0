"""Nodes that find each other, talk, and tell what happens; several in one process, on loopback."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ifaddr
import pytest

from brokerless import (
    Limits,
    LossReason,
    OpenTimeout,
    PeerChanged,
    PeerJoined,
    PeerLeft,
    PeerState,
    Reliability,
    ReliablePath,
    SendTimeout,
    StartError,
    StreamAcknowledged,
    StreamFinishedReceiving,
    StreamOffered,
    StreamRejected,
    StreamReset,
    Ticket,
)
from tests.transport.support import turns
from tests.witness import Log, Mesh, Stubborn, files, reserved_port

if TYPE_CHECKING:
    from brokerless import Beacon

pytestmark = pytest.mark.asyncio


# Finding each other


async def test_two_nodes_find_each_other_by_the_registry(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first = await mesh.start("first", metadata=b"1")
        second = await mesh.start("second", metadata=b"2")
        await first.joined(second)
        await second.joined(first)
        for one, other, name, metadata in ((first, second, "second", b"2"), (second, first, "first", b"1")):
            [joined] = one.of(PeerJoined)
            assert joined.peer.address == other.address
            assert (joined.peer.name, joined.peer.metadata) == (name, metadata)
            [peer] = one.node.peers
            assert peer == one.node.peer(other.address)
            assert peer.state is PeerState.ALIVE
            assert one.node.stats().peers == 1


async def test_on_the_same_host_they_meet_by_ipc(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        paths = {node.of(PeerJoined)[0].peer.path.reliable for node in (first, second)}
        assert paths == {ReliablePath.IPC}


async def test_a_directory_may_be_named_from_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair(directory="bus")
        assert first.node.peer(second.address).path.reliable is ReliablePath.IPC


async def test_where_the_directory_is_too_long_a_path_for_sockets_they_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("d" * 100)
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        async with Mesh(tmp_path) as mesh:
            first, second = await mesh.pair(directory=long)
            assert first.node.peer(second.address).path.reliable is ReliablePath.IPC
            assert len(files(Path(short) / "dittobus" / "ipc")) == 2
            longer = tmp_path / ("e" * 100)  # where that is too long as well, TCP serves
            longer.mkdir()
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(longer))
            third = await mesh.start("third", directory=long)
            await third.joined(first, second)
            assert third.node.peer(first.address).path.reliable is not ReliablePath.NONE
        assert files(Path(short)) == []


async def test_a_ticket_that_only_one_side_has_joins_both(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first = await mesh.start("first", discovery=())
        second = await mesh.start("second", discovery=(), peers=(str(first.node.ticket()),))
        await second.joined(first)
        await first.joined(second)
        assert first.node.peer(second.address).path.reliable is ReliablePath.TCP


async def test_two_nodes_find_each_other_by_zeroconf(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair(discovery=("zeroconf",))
        assert first.of(PeerJoined)[0].peer.path.reliable is ReliablePath.TCP
        assert second.node.stats().rejected_records >= 0


async def test_many_that_start_at_once_end_up_with_one_link_each(tmp_path: Path) -> None:
    """Where both dial, one link is needless; it may be cut at any moment of its making."""
    async with Mesh(tmp_path) as mesh:
        limits = Limits(handshake_timeout_s=60.0)  # what is left over would be there for that long
        nodes = [mesh.make(limits=limits) for _ in range(10)]
        await asyncio.gather(*(node.node.start() for node in nodes))
        for node in nodes:
            await node.joined(*(other for other in nodes if other is not node))
        async for _ in turns():
            if all(node.node.stats().links == len(nodes) - 1 for node in nodes):
                break
        assert all(len(node.of(PeerJoined)) == len(nodes) - 1 for node in nodes)
        assert all(node.of(PeerLeft) == [] for node in nodes)


async def test_a_peer_may_be_used_before_it_answers(tmp_path: Path) -> None:
    """Once heard of, by a ticket here, it can be sent to; what is sent waits for it."""
    async with Mesh(tmp_path) as mesh:
        with reserved_port() as port:
            late = mesh.make("late", discovery=(), port=port)
            ticket = Ticket(late.address, (f"tcp://127.0.0.1:{port}",))
            early = await mesh.start("early", discovery=(), peers=(ticket,))
            send_id = early.send(b"hello", late)
            stream = early.open(late, "waiting")
            stream.send(b"already")
            await late.node.start()
        assert await early.done(send_id) is None
        assert (await late.incoming("waiting")).peer == early.address
        await late.until(lambda: [b"already"] in late.received.values())
        assert [message.data for message in late.messages] == [b"hello"]


async def test_wildcards_are_announced_as_places_that_can_be_dialled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [ifaddr.Adapter("lo", "lo", [ifaddr.IP("127.0.0.1", 8, "lo")])]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
    async with Mesh(tmp_path) as mesh:
        first = await mesh.start("first", discovery=(), interfaces=("0.0.0.0",))
        [place] = first.node.ticket().endpoints
        assert place.startswith("tcp://127.0.0.1:")
        second = await mesh.start("second", discovery=(), peers=(first.node.ticket(),))
        await second.joined(first)


async def test_a_ticket_of_a_host_with_many_addresses_names_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ips = [ifaddr.IP(f"127.0.0.{number}", 8, "lo") for number in range(1, 30)]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [ifaddr.Adapter("lo", "lo", ips)])
    async with Mesh(tmp_path) as mesh:
        node = (await mesh.start(discovery=(), interfaces=("0.0.0.0",))).node
        hosts = [place.removeprefix("tcp://").rpartition(":")[0] for place in node.ticket().endpoints]
        assert hosts == [f"127.0.0.{number}" for number in range(1, 17)]


class Announcements(Stubborn):
    """A discovery that remembers what it is to announce, and may be unable to."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.announced: asyncio.Queue[str] = asyncio.Queue()
        self.failure = error

    async def start(self, beacon: Beacon, report: Any) -> None:
        await self.announce(beacon)

    async def announce(self, beacon: Beacon) -> None:
        [place] = [endpoint for endpoint in beacon.endpoints if endpoint.startswith("tcp:")]
        self.announced.put_nowait(place)
        if self.failure is not None:
            raise self.failure


async def test_new_addresses_are_announced_by_every_discovery_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_at(ip: str) -> None:
        adapters = [ifaddr.Adapter("eth0", "eth0", [ifaddr.IP(ip, 24, "eth0")])]
        monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)

    be_at("192.0.2.1")
    monkeypatch.setattr("brokerless.interfaces.LOOK_S", 0.01)
    unable = [Announcements(StartError("no way")), Announcements(RuntimeError("worse"))]
    discoveries = (*unable, Announcements(), "gossip")
    async with Mesh(tmp_path) as mesh:
        with Log() as log:
            node = (await mesh.start(discovery=discoveries, interfaces=("0.0.0.0",))).node
            [first] = node.ticket().endpoints
            be_at("192.0.2.7")
            second = first.replace("192.0.2.1", "192.0.2.7")
            for discovery in discoveries[:3]:
                assert isinstance(discovery, Announcements)
                assert [await discovery.announced.get() for _ in range(2)] == [first, second]
            assert node.ticket().endpoints == (second,)
            for error in ("no way", "worse"):
                assert log.having(f"stubborn cannot tell the new addresses: {error}")


@pytest.mark.parametrize(
    ("interfaces", "asked"),
    [(("127.0.0.1",), ("127.0.0.1",)), (("0.0.0.0",), None), (("127.0.0.1", "::"), None), (("*",), None)],
)
async def test_who_listens_everywhere_looks_for_peers_everywhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interfaces: tuple[str, ...],
    asked: tuple[str, ...] | None,
) -> None:
    chosen: list[Any] = []

    def discovery(interfaces: Any) -> Stubborn:
        chosen.append(interfaces)
        return Stubborn(StartError("this is enough"))

    monkeypatch.setattr("brokerless.discovery.zeroconf.ZeroconfDiscovery", discovery)
    async with Mesh(tmp_path) as mesh:
        with Log():
            await mesh.start(discovery=("zeroconf",), interfaces=interfaces)
    assert chosen == [asked]


async def test_what_is_advertised_takes_the_place_of_what_is_bound(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        node = (await mesh.start(discovery=(), advertise=("tcp://bus.example.net:7000",))).node
        assert node.ticket() == Ticket(node.address, ("tcp://bus.example.net:7000",))


async def test_a_port_may_be_chosen(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        with reserved_port() as port:
            for _ in range(2):
                node = (await mesh.start(discovery=(), port=port)).node
                assert node.ticket().endpoints == (f"tcp://127.0.0.1:{port}",)
                await node.close()


async def test_without_a_secret_this_user_s_processes_on_this_host_meet(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair(secret=None, interfaces=None)
        for node in (first.node, second.node):
            assert all(place.startswith("tcp://127.0.0.1:") for place in node.ticket().endpoints)


async def test_an_open_mesh_needs_no_secret(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        await mesh.pair(secret=None, trust="open")


async def test_meshes_of_other_names_never_meet(tmp_path: Path) -> None:
    """They share secret, host and directory; a third node that meets one of them shows that it works."""
    async with Mesh(tmp_path) as mesh:
        red = await mesh.start("red", mesh="red")
        blue = await mesh.start("blue", mesh="blue")
        other = await mesh.start("other", mesh="blue")
        await other.joined(blue)
        await blue.joined(other)
        assert other.node.stats().rejected_records == 1
        assert red.events == []
        assert {peer.address for peer in blue.node.peers} == {other.address}


# Talking


async def test_messages_arrive_in_order_each_once_and_are_acknowledged(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        sent = [b"%d" % number for number in range(500)] + [b"", bytes(300_000)]
        ids = [first.send(data, second, channel=7) for data in sent]
        assert await first.done(ids[-1]) is None
        assert [await first.done(send_id) for send_id in ids] == [None] * len(sent)
        assert [message.data for message in second.messages] == sent
        assert {(message.sender, message.channel) for message in second.messages} == {(first.address, 7)}
        back = second.send(b"thanks", first)
        assert await second.done(back) is None
        assert [message.data for message in first.messages] == [b"thanks"]


async def test_a_stream_is_offered_accepted_used_both_ways_and_ends_cleanly(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        second.accepts = False
        stream = first.open(second, "video", b"1080p")
        stream.send(b"early")
        offer = (await second.event(StreamOffered)).offer
        assert (offer.name, offer.metadata, offer.peer) == ("video", b"1080p", first.address)
        assert offer.reliability is Reliability.RELIABLE
        assert second.received == {}
        other = second.node.accept(offer, b"720p")
        last = stream.send(b"late")
        await first.event(StreamAcknowledged, lambda event: event.sequence == last)
        assert stream.reply_metadata == b"720p"
        assert second.received[other] == [b"early", b"late"]
        stream.finish()
        await second.event(StreamFinishedReceiving)
        other.send(b"back")
        other.finish()
        assert await first.ended(stream) is None
        assert await second.ended(other) is None
        assert first.received[stream] == [b"back"]


async def test_both_may_open_at_once(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        ours, theirs = first.open(second, "ours"), second.open(first, "theirs")
        ours.send(b"1")
        theirs.send(b"2")
        await second.until(lambda: [b"1"] in second.received.values())
        await first.until(lambda: [b"2"] in first.received.values())
        assert ours.id != theirs.id


async def test_an_offer_may_be_turned_down(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        second.accepts = False
        stream = first.open(second, "no")
        second.node.reject((await second.event(StreamOffered)).offer, 7, "not today")
        error = await first.ended(stream)
        assert isinstance(error, StreamRejected)
        assert (error.code, error.reason, error.peer) == (7, "not today", second.address)


async def test_an_offer_that_nobody_takes_ends_at_its_timeout(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        second.accepts = False
        while not second.of(StreamOffered):  # where the machine is busy, its time is over before it leaves
            stream = first.open(second, "unheard", timeout=0.05)
            assert isinstance(await first.ended(stream), OpenTimeout)
            assert await first.done(first.send(b"", second)) is None
        assert isinstance(await second.ended(await second.incoming("unheard")), StreamReset)


async def test_an_aborted_stream_tells_the_other_side_why(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        stream = await first.opened(second, "cut short")
        stream.abort(5, "enough")
        error = await second.ended(await second.incoming("cut short"))
        assert isinstance(error, StreamReset)
        assert (error.code, error.reason) == (5, "enough")


async def test_closing_one_stream_lets_the_others_be(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        brief, lasting = await first.opened(second, "brief"), await first.opened(second, "lasting")
        brief.send(b"x")
        first.node.close_stream(brief, 5.0)
        assert await first.ended(brief) is None
        lasting.send(b"y")
        await second.until(lambda: [b"y"] in second.received.values())


async def test_a_send_whose_time_runs_out_before_anything_left_was_not_sent(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        nobody = Ticket(mesh.make().address, ("tcp://127.0.0.1:1",))
        node = await mesh.start(discovery=(), peers=(nobody,))
        send_id = node.node.send(b"x", nobody.address, Reliability.RELIABLE, timeout=0.05)
        assert isinstance(await node.done(send_id), SendTimeout)


# What peers are told of a node


async def test_a_change_of_name_or_metadata_is_seen(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        first.node.name = "renamed"
        changed = await second.event(PeerChanged, lambda event: event.peer.name == "renamed")
        assert changed.peer.address == first.address
        first.node.metadata = b"new"
        await second.event(PeerChanged, lambda event: event.peer.metadata == b"new")
        assert (first.node.name, first.node.metadata) == ("renamed", b"new")
        third = await mesh.start("third")
        joined = await third.event(PeerJoined, lambda event: event.peer.address == first.address)
        assert (joined.peer.name, joined.peer.metadata) == ("renamed", b"new")


async def test_name_and_metadata_may_be_set_before_the_start(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first = mesh.make("old")
        first.node.name, first.node.metadata = "new", b"m"
        second = await mesh.start("second")
        await first.node.start()
        joined = await second.event(PeerJoined)
        assert (joined.peer.name, joined.peer.metadata) == ("new", b"m")


async def test_a_peer_that_leaves_is_gone_and_may_come_back_as_another(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        first, second = await mesh.pair()
        await second.node.close()
        assert (await first.lost(second)).reason is LossReason.LEFT
        assert first.node.peers == ()
        assert first.node.peer(second.address) is None
        assert first.node.peer_stats(second.address) is None
        third = await mesh.start("third")
        await first.joined(third)
