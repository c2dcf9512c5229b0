"""A node without I/O: peers come, go and are kept apart, sends and streams, several nodes, and a good end."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import pytest

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.errors import (
    BusClosed,
    ConfigError,
    DeliveryUnknown,
    MessageTooLarge,
    NoPath,
    PeerError,
    PeerLost,
    PeerRefused,
    SendQueueFull,
    SendTimeout,
    UnknownPeer,
)
from brokerless.model import (
    DatagramPath,
    DropCause,
    LossReason,
    MessageReceived,
    Peer,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    PeerState,
    Reliability,
    ReliablePath,
    SendDone,
    StreamEnded,
    StreamFinishedReceiving,
    StreamOffered,
    Traffic,
    UnreliableWaiting,
)
from brokerless.protocol import wire
from brokerless.protocol.actions import Confirm, Dial, Push, Refused, Superseded
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.handshake import Refusal
from brokerless.protocol.incarnation import Incarnation
from brokerless.protocol.links import LAST_WORD_S
from brokerless.protocol.stream_state import UNTAKEN
from brokerless.testing.simulation import SimNetwork, SimNode
from tests.protocol.datagram_ends import ELSEWHERE, DatagramEnd, Port
from tests.protocol.lone_node import (
    BEGAN_US,
    KEY,
    OTHERS,
    PLACE,
    SECRET,
    THEM,
    US,
    Node,
    Remote,
    T,
    encoded,
    info_fields,
)
from tests.protocol.operations import calls_of

# Links and strangers


def test_a_peer_dials_us_and_joins() -> None:
    node = Node()
    remote = Remote(node).greet()
    assert node.of_type(Confirm) == [Confirm(remote.link)]
    hello, info = remote.heard()
    assert hello.versions == (1,)
    assert isinstance(info, wire.Info)
    assert node.core.peers == ()  # nobody told of it
    remote.info()
    (joined,) = node.of_type(PeerJoined)
    assert joined.peer == node.core.peer(THEM)
    assert node.core.stats().peers == node.core.stats().links == 1
    node.wait(60.0)  # no deadline of the handshake is left; nobody answers, so the peer is lost
    assert node.cuts() == {remote.link: "done"}


def test_we_dial_a_peer_and_it_joins() -> None:
    node = Node()
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    node.wait(0)
    assert node.of_type(Dial) == [Dial(THEM, PLACE)]
    remote = Remote(node, dialled=True)
    assert remote.heard() == []  # not connected yet
    remote.raw(b"early")
    remote.join()
    assert [event.peer.state for event in node.of_type(PeerChanged)] == [PeerState.JOINING]
    assert len(node.of_type(PeerJoined)) == 1


def test_a_link_that_is_no_more_has_nothing_to_say() -> None:
    node = Node()
    remote = Remote(node).greet()
    node.core.link_closed(remote.link, "gone", node.now)
    assert node.core.next_message(remote.link, node.now) is None


def test_every_session_has_a_nonce_that_none_had_before() -> None:
    node = Node()
    epochs = []
    for epoch in (1, 2, 3):
        remote = Remote(node).join(epoch=epoch)
        epochs += [frame.epoch for frame in remote.heard() if isinstance(frame, wire.Info)]
        remote.say(wire.Goodbye(wire.Farewell.LEFT, ""))
    assert epochs == [1, 2, 3]


def test_a_dial_that_cannot_even_be_tried_is_tried_again() -> None:
    node = Node()
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    for _ in range(3):
        node.wait(1.0)
        node.core.dial_failed(THEM, PLACE, node.now)
    assert len(node.of_type(Dial)) == 3
    assert node.core.stats().dials_failed == 3


def test_who_is_not_on_the_list_is_neither_dialled_nor_taken() -> None:
    node = Node(allowed=[OTHERS[0]])
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    assert node.core.peers == ()
    (refuse,) = Remote(node).greet().heard()
    assert (refuse.code, refuse.reason) == (Refusal.NOT_ADMITTED, "this address is not on the list")
    Remote(node, OTHERS[0]).join()
    assert [peer.address for peer in node.core.peers] == [OTHERS[0]]


def test_the_peer_too_many_is_turned_away() -> None:
    node = Node(Limits(peers_max=2))
    for address in OTHERS[:2]:
        Remote(node, address).join()
    (refuse,) = Remote(node).greet().heard()
    assert (refuse.code, refuse.reason) == (Refusal.FULL, "2 peers are enough")
    Remote(node, OTHERS[0]).join(their_boot=7, their_epoch=1)  # who is in stays in
    assert node.core.stats().peers == 2


def test_packets_of_a_session_that_has_ended_are_passed_over_on_a_link_that_stays() -> None:
    node = Node()
    remote = Remote(node).greet()
    remote.say_numbered(wire.Grant(0, 1, 0)).say()
    assert node.cuts() == {}
    remote.info()
    assert len(node.of_type(PeerJoined)) == 1


# Those who refuse us


def test_who_will_not_have_us_is_left_alone_and_who_waits_is_told() -> None:
    node = Node()
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    node.wait(0)
    send_id = node.core.send(b"data", THEM, Reliability.RELIABLE, 0, None, node.now)
    remote = Remote(node, dialled=True, mesh_key=b"\1" * 32)
    node.core.link_opened(remote.link, THEM, node.now)
    (hello,) = remote.heard_bytes()
    (refuse,) = remote.handshake.receive(hello)
    remote.raw(refuse)
    (refused,) = node.of_type(Refused)
    assert type(refused.error) is PeerRefused
    (done,) = node.of_type(SendDone)
    assert done.send_id == send_id
    assert isinstance(done.error, PeerRefused)
    assert node.cuts() == {remote.link: str(refused.error)}
    node.wait(4.9)
    assert len(node.of_type(Dial)) == 1
    node.wait(0.2)
    assert len(node.of_type(Dial)) == 2
    assert node.of_type(PeerLeft) == []


def test_a_refusal_of_a_second_link_leaves_the_session_alone() -> None:
    node = Node()
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    dial = Remote(node, dialled=True, mesh_key=b"\1" * 32)
    node.core.link_opened(dial.link, THEM, node.now)
    (hello,) = dial.heard_bytes()
    session = Remote(node).join(boot=1)
    assert node.core.stats().links == 1  # the dial was needless
    second = Remote(node, dialled=True, mesh_key=b"\1" * 32)
    node.core.link_opened(second.link, THEM, node.now)
    second.raw(second.handshake.receive(second.heard_bytes()[0])[0])
    dial.raw(dial.handshake.receive(hello)[0])
    assert node.of_type(PeerLeft) == []
    assert node.session().links == (session.link,)


def test_a_refusal_by_nobody_we_know() -> None:
    node = Node()
    dial = Remote(node, dialled=True, mesh_key=b"\1" * 32)
    node.core.link_opened(dial.link, THEM, node.now)
    dial.raw(dial.handshake.receive(dial.heard_bytes()[0])[0])
    assert len(node.of_type(Refused)) == 1
    assert node.core.peers == ()


def test_what_a_dead_process_has_left_does_not_evict_its_successor() -> None:
    node = Node()
    before = Remote(node).greet()
    after = Remote(node).greet().info(boot=2000)
    before.info(boot=1000)
    assert before.link in node.cuts()
    assert node.of_type(PeerLeft) == []
    assert not any(isinstance(frame, wire.Goodbye) for frame in after.heard())
    Remote(node).join(boot=3000, claim=b"made by 3000")  # while who opens a link later is indeed the next
    assert [event.reason for event in node.of_type(PeerLeft)] == [LossReason.RESTARTED]
    (goodbye,) = after.heard()
    assert (goodbye.code, goodbye.claim) == (wire.Farewell.SUPERSEDED, b"made by 3000")


def test_a_node_asks_about_its_peers() -> None:
    network = SimNetwork(2)
    careful, welcome, unwelcome = network.add(asks_admission=True), network.add(), network.add()
    careful.admit = lambda peer: None if peer.address == welcome.address else "no room"
    for node in (welcome, unwelcome):
        node.learn(careful)
        careful.learn(node)
    network.run(3.0)
    assert [event.peer.address for event in careful.of_type(PeerJoined)] == [welcome.address]
    assert len(welcome.of_type(PeerJoined)) == 1
    assert unwelcome.core.session(careful.address) is None or not unwelcome.core.sessions[0].links


# Faults


FAULTS = [
    pytest.param(b"nonsense", id="no packet"),
    pytest.param(wire.encode_packet(9, 5, ()), id="acknowledges the future"),
    pytest.param(wire.encode_packet(1, 0, [wire.encode_control(wire.Ping(1, 1))]), id="numbered ping"),
    pytest.param(wire.encode_packet(1, 0, [wire.encode_control(wire.Finish(4, 0))]), id="no such stream"),
    pytest.param(
        wire.encode_packet(1, 0, [wire.encode_data(0, 1, 0, [bytes(1000)] * 64)]), id="over its credit"
    ),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_who_breaks_the_rules_is_expelled_with_the_reason_and_nobody_else(fault: bytes) -> None:
    node = Node()
    good, bad = Remote(node, OTHERS[0]).join(), Remote(node).join()
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    stream = node.core.open_stream(THEM, Reliability.RELIABLE, "", b"", None, node.now)
    bad.heard()
    bad.raw(fault)
    (goodbye,) = bad.heard()
    assert goodbye.code == wire.Farewell.FAULT
    (left,) = node.of_type(PeerLeft)
    assert (left.peer.address, left.reason) == (THEM, LossReason.EXPELLED)
    (ended,) = node.of_type(StreamEnded)
    assert ended.stream is stream
    assert isinstance(ended.error, PeerLost)
    assert goodbye.reason in str(ended.error.__cause__)
    good.say_numbered(wire.encode_data(0, 1, 0, [b"still here"]))
    assert [event.message.data for event in node.of_type(MessageReceived)] == [b"still here"]
    node.wait(4.9)
    assert node.of_type(Dial) == []  # left alone
    with pytest.raises(PeerLost, match="expelled"):
        node.core.send(b"", THEM, Reliability.RELIABLE, 0, None, node.now)


def test_an_impossible_info_is_a_fault_when_it_is_admitted() -> None:
    node = Node(asks_admission=True)
    remote = Remote(node).join(received=33)
    node.core.admitted(remote.link, None, node.now)
    assert remote.heard()[-1].code == wire.Farewell.FAULT
    assert node.of_type(PeerJoined) == []


# Who is known


def test_a_hint_makes_a_peer_known_once() -> None:
    node = Node(Limits(eager_dials_max=1))
    for address in OTHERS[:2]:
        node.core.learn(address, "test", (PLACE,), 1, node.now)
        node.core.learn(address, "test", (PLACE,), 1, node.now)
    changes = [(event.peer.address, event.peer.state) for event in node.of_type(PeerChanged)]
    assert changes == [
        (OTHERS[0], PeerState.JOINING),
        (OTHERS[0], PeerState.KNOWN),  # since there are two now, and only one is dialled unasked
        (OTHERS[1], PeerState.KNOWN),
    ]
    assert [peer.address for peer in node.core.peers] == OTHERS[:2]
    node.core.learn(OTHERS[0], "test", (), 0, node.now)
    assert [event.peer.address for event in node.of_type(PeerForgotten)] == [OTHERS[0]]
    assert node.of_type(PeerChanged)[3].peer == Peer(OTHERS[1], state=PeerState.JOINING)
    assert [peer.address for peer in node.core.peers] == OTHERS[1:2]
    node.core.learn(THEM, "test", (), 0, node.now)
    assert node.core.peer(THEM) is None
    assert node.core.session(THEM) is None


def test_somebody_known_is_dialled_when_wanted() -> None:
    node = Node(Limits(eager_dials_max=1))
    for address in OTHERS[:3]:
        node.core.learn(address, "test", (PLACE,), 1, node.now)
    node.wait(0)
    assert [dial.remote for dial in node.of_type(Dial)] == OTHERS[:1]
    node.core.want(OTHERS[2], node.now)
    node.core.want(THEM, node.now)  # never heard of
    node.wait(0)
    assert [dial.remote for dial in node.of_type(Dial)] == [OTHERS[0], OTHERS[2]]
    assert node.core.peers[2].state is PeerState.JOINING
    node.core.send(b"data", OTHERS[1], Reliability.RELIABLE, 0, None, node.now)
    node.wait(0)
    assert [dial.remote for dial in node.of_type(Dial)][2:] == [OTHERS[1]]
    assert node.core.peers[1].state is PeerState.JOINING
    joining = [e.peer.address for e in node.of_type(PeerChanged) if e.peer.state is PeerState.JOINING]
    assert joining == [OTHERS[0], OTHERS[2], OTHERS[1]]


def test_who_is_known_better_than_by_hearsay_is_told_of_as_being_dialled() -> None:
    node = Node()
    node.core.learn(THEM, "gossip:another", (PLACE,), 1, node.now)
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    states = [event.peer.state for event in node.of_type(PeerChanged)]
    assert states == [PeerState.KNOWN, PeerState.JOINING]


def test_who_dials_us_makes_a_mesh_large_and_leaves_it_small() -> None:
    node = Node(Limits(eager_dials_max=1))
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    guest = Remote(node, OTHERS[0]).join()
    node.turn()
    assert node.core.peers[0].state is PeerState.KNOWN
    guest.say(wire.Goodbye(wire.Farewell.LEFT, ""))
    node.turn()
    assert [peer.state for peer in node.core.peers] == [PeerState.JOINING]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_link_of_somebody_who_does_not_join_changes_nothing(is_known: bool) -> None:
    node = Node()
    if is_known:
        node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    before = node.core.peers
    told = node.of_type(PeerChanged)
    remote = Remote(node).greet()
    assert node.core.peers == before
    node.core.link_closed(remote.link, "gone", node.now)
    assert node.core.peers == before
    node.wait(3 * T)
    assert node.of_type(PeerChanged) == told


def test_who_has_left_is_absent_whatever_is_heard_of_it() -> None:
    node = Node()
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    Remote(node).join().say(wire.Goodbye(wire.Farewell.LEFT, ""))
    node.core.learn(THEM, "other", (PLACE,), 1, node.now)
    node.core.learn(THEM, "test", (), 0, node.now)
    Remote(node).greet()
    node.turn()
    assert [type(event) for event in node.events] == [PeerChanged, PeerJoined, PeerLeft]
    assert node.core.peers == ()


def test_who_is_lost_may_be_wanted_back_and_is_told_of_when_it_joins() -> None:
    node = Node(Limits(eager_dials_max=1))
    for address in (THEM, OTHERS[0]):
        node.core.learn(address, "test", (PLACE,), 1, node.now)
    Remote(node).join().say(wire.Goodbye(wire.Farewell.LEFT, ""))
    Remote(node, OTHERS[0]).join().say(wire.Goodbye(wire.Farewell.LEFT, ""))
    events = len(node.of_type(PeerChanged))
    node.wait(10.0)
    assert node.of_type(Dial) == []
    node.core.want(OTHERS[0], node.now)
    node.wait(0)
    assert node.of_type(Dial) == [Dial(OTHERS[0], PLACE)]
    assert len(node.of_type(PeerChanged)) == events
    assert node.core.peers == ()


def test_nobody_else_can_be_sent_to() -> None:
    node = Node()
    with pytest.raises(UnknownPeer) as caught:
        node.core.send(b"", THEM, Reliability.RELIABLE, 0, None, node.now)
    assert caught.value.peer == THEM
    with pytest.raises(UnknownPeer):
        node.core.open_stream(THEM, Reliability.RELIABLE, "", b"", None, node.now)


def test_who_talks_to_itself_is_told_so() -> None:
    node = Node()
    for call in (
        lambda: node.core.send(b"", US, Reliability.RELIABLE, 0, None, node.now),
        lambda: node.core.open_stream(US, Reliability.RELIABLE, "", b"", None, node.now),
    ):
        with pytest.raises(UnknownPeer, match="is this node itself") as caught:
            call()
        assert caught.value.peer == US


# Datagrams


UNRELIABLE = pytest.mark.parametrize("reliability", [Reliability.UNRELIABLE, Reliability.SEQUENCED])


class Datagrams:
    """A node that has a port for datagrams, and a peer that proves every path at once."""

    def __init__(self, **options: Any) -> None:
        self.port = Port(1)
        plane = DatagramPlane(self.port)
        plane.udp_places = str(self.port.place)
        self.node = Node(plane=plane, **options)
        self.peer = DatagramEnd(2, Limits(), has_pull=True)
        self.port.time = self.peer.port.time = self.node.now
        self.remote = Remote(self.node).greet()
        (ours,) = (frame for frame in self.remote.heard() if isinstance(frame, wire.Info))
        self.peer.datagrams.introduced(ours, self.node.now)
        theirs = self.peer.info()
        names = ("index", "key", "message_bytes_max")
        told = {f"datagram_{name}": getattr(theirs, f"datagram_{name}") for name in names}
        self.remote.info(udp_places=theirs.udp_places, pull_places=theirs.pull_places, **told)

    def carry(self) -> None:
        """Let the peer have what was sent, and the node what it answers."""
        self.node.core.expire(self.node.now)
        for datagram in self.port.taken():
            self.peer.take(datagram, self.port.place)
        for datagram in self.peer.port.taken():
            self.node.core.udp_received(self.peer.port.place, datagram, self.node.now)
        self.wait(0.0)  # the turn that follows

    def wait(self, seconds: float) -> None:
        self.node.wait(seconds)
        self.port.time = self.peer.port.time = self.node.now


@UNRELIABLE
def test_without_a_port_for_datagrams_there_is_no_path(reliability: Reliability) -> None:
    node = Node()
    Remote(node).join()
    send_id = node.core.send(b"x", THEM, reliability, 0, None, node.now)
    (done,) = node.of_type(SendDone)
    assert done.send_id == send_id
    assert isinstance(done.error, NoPath)
    with pytest.raises(NoPath):
        node.core.transmit(b"x", THEM, reliability, 0, node.now)
    assert node.core.stats().dropped == {DropCause.NO_PATH: 2}
    stream = node.core.open_stream(THEM, reliability, "game", b"", None, node.now)
    with pytest.raises(NoPath):
        stream.send(b"x")


@UNRELIABLE
def test_an_unreliable_message_is_transmitted_at_once_and_said_to_be(reliability: Reliability) -> None:
    both = Datagrams()
    both.carry()
    send_id = both.node.core.send(b"one", THEM, reliability, 3, None, both.node.now)
    both.node.core.transmit(b"two", THEM, reliability, 3, both.node.now)
    assert [(done.send_id, done.error) for done in both.node.of_type(SendDone)] == [(send_id, None)]
    both.carry()
    assert both.peer.data() == [b"one", b"two"]
    for call in (both.node.core.transmit, both.node.core.send):
        arguments = (both.node.now,) if call == both.node.core.transmit else (None, both.node.now)
        with pytest.raises(MessageTooLarge):
            call(bytes(64 * 1024 + 1), THEM, reliability, 0, *arguments)
        with pytest.raises(ConfigError):
            call(b"", THEM, reliability, -1, *arguments)


def test_what_comes_by_either_way_is_taken_and_told() -> None:
    both = Datagrams()
    both.carry()
    both.node.turn()
    both.node.core.next_deadline()
    for link in both.node.core.take_sendable():
        while both.node.core.next_message(link, both.node.now) is not None:
            pass
    both.node.core.next_deadline()
    both.peer.send(b"by udp")
    both.node.core.udp_received(both.peer.port.place, both.peer.port.taken()[-1], both.node.now)
    assert not both.node.core.has_work  # but to tell of the message
    both.peer.send(b"by push")
    both.node.core.push_received(both.peer.port.taken()[-1][3:], both.node.now)
    (waiting,) = both.node.of_type(UnreliableWaiting)
    assert [waiting.unread.take().data for _ in range(2)] == [b"by udp", b"by push"]


def test_a_path_that_is_proven_or_lost_is_told_in_the_same_turn() -> None:
    both = Datagrams()
    both.carry()
    assert [event.peer.path.datagram for event in both.node.of_type(PeerChanged)] == [DatagramPath.UDP]
    both.port.takes_udp = False
    with pytest.raises(SendQueueFull):
        both.node.core.transmit(b"x", THEM, Reliability.SEQUENCED, 0, both.node.now)
    both.wait(2.0)
    assert both.node.of_type(PeerChanged)[-1].peer.path.datagram is DatagramPath.NONE
    assert both.node.of_type(Push) == [Push(THEM, ("127.0.0.2:1",))]


def test_a_path_is_looked_for_without_a_message_when_that_is_wanted() -> None:
    both = Datagrams()
    both.node.core.expect_datagrams(OTHERS[0])
    both.wait(1.0)
    assert not both.node.of_type(Push)
    both.node.core.expect_datagrams(THEM)
    both.wait(1.0)
    assert both.node.of_type(Push) == [Push(THEM, ("127.0.0.2:1",))]
    assert not both.peer.messages()


def test_the_end_of_a_session_closes_its_push() -> None:
    both = Datagrams()
    with contextlib.suppress(NoPath):
        both.node.core.transmit(b"x", THEM, Reliability.UNRELIABLE, 0, both.node.now)
    both.wait(1.0)
    both.remote.say(wire.Goodbye(wire.Farewell.LEFT, ""))
    assert both.node.of_type(Push) == [Push(THEM, ("127.0.0.2:1",)), Push(THEM, ())]
    both.peer.send(b"too late")
    both.carry()
    assert both.node.core.stats().dropped[DropCause.UNAUTHENTICATED] > 0


def test_who_has_joined_may_push_and_nobody_else() -> None:
    node = Node()
    assert not node.core.permits_push(THEM)
    remote = Remote(node).greet()
    assert not node.core.permits_push(THEM)
    remote.info()
    assert node.core.permits_push(THEM)
    assert not node.core.permits_push(OTHERS[0])
    remote.say(wire.Goodbye(wire.Farewell.LEFT, ""))
    assert not node.core.permits_push(THEM)


def test_datagrams_of_nobody_are_counted() -> None:
    node = Node(plane=DatagramPlane(Port()))
    node.core.udp_received(ELSEWHERE, b"nonsense", node.now)
    node.core.push_received(b"nonsense", node.now)
    assert node.core.stats().dropped == {DropCause.MALFORMED: 2}


def test_keys_are_not_kept_for_passers_by() -> None:
    plane = DatagramPlane(Port())
    node = Node(plane=plane)
    for number in range(10):
        remote = Remote(node, Address(number.to_bytes(32, "big"))).greet()
        assert len(plane.readers) == number + 1
        node.core.link_closed(remote.link, "closed", node.now)
    node.wait(2 * T)
    assert plane.readers == {}


def test_a_session_that_a_peer_may_have_begun_outlives_the_link_it_was_told_on() -> None:
    node = Node()
    remote = Remote(node).greet()  # it found us, and hears of our session; its own word of it is lost
    told = next(frame for frame in remote.heard() if isinstance(frame, wire.Info))
    node.core.link_closed(remote.link, "closed", node.now)
    node.wait(1.0)
    back = Remote(node).greet()
    assert next(frame for frame in back.heard() if isinstance(frame, wire.Info)).epoch == told.epoch
    back.info(their_boot=told.boot, their_epoch=told.epoch)
    assert len(node.of_type(PeerJoined)) == 1
    node.core.link_closed(back.link, "closed", node.now)
    node.wait(2 * T)
    assert node.core._peers == {}


@pytest.mark.parametrize("places", ["udp_places", "pull_places"])
def test_a_peer_whose_places_are_none_is_at_fault(places: str) -> None:
    both = Datagrams()
    both.remote.info(datagram_index=5, datagram_key=bytes(32), **{places: "somewhere:1"})
    assert [event.reason for event in both.node.of_type(PeerLeft)] == [LossReason.EXPELLED]


# Sends to peers that are not there, and passers-by


def test_sends_to_a_peer_that_is_still_joining_wait_for_it() -> None:
    node = Node()
    remote = Remote(node).greet()  # it found us; we have no hint of it
    first = node.core.send(b"early", THEM, Reliability.RELIABLE, 0, None, node.now)
    second = node.core.send(b"later", THEM, Reliability.RELIABLE, 0, None, node.now)
    assert second > first
    remote.info()
    remote.heard()
    remote.say()
    assert [(done.send_id, done.error) for done in node.of_type(SendDone)] == [(first, None), (second, None)]


@pytest.mark.parametrize("stage", ["link", "hello", "info", "goodbye", "a send that ran out of time"])
def test_passers_by_cost_no_memory(stage: str) -> None:
    node = Node()
    for number in range(50):
        remote = Remote(node, Address(number.to_bytes(32, "big")))
        if stage != "link":
            remote.greet()
        if stage == "a send that ran out of time":
            node.core.send(b"", remote.address, Reliability.RELIABLE, 0, node.now + 1.0, node.now)
        if stage in ("info", "goodbye"):
            remote.info()
        assert node.core.next_deadline() is not None
        if stage == "goodbye":
            remote.say(wire.Goodbye(wire.Farewell.LEFT, ""))
        node.core.link_closed(remote.link, "closed", node.now)
    node.wait(2 * T)
    assert node.core.peers == ()
    assert node.core._peers == {}
    assert node.core.roster.addresses == ()


def test_the_thousandth_peer_costs_as_the_twentieth() -> None:
    node = Node()
    costs = []
    for number in range(1_000):
        remote = Remote(node, Address(number.to_bytes(32, "big")))
        remote.greet()
        info = encoded(0, 0, (wire.encode_info(wire.Info(**info_fields())),))
        node.turn()
        costs.append(calls_of(partial(remote.raw, info)))
    assert node.core.stats().peers == 1_000
    assert costs[999] <= costs[19] + 2


@pytest.mark.parametrize(("eager", "gossips"), [(64, True), (4_096, False)])
def test_to_hear_of_the_two_thousandth_costs_as_the_twentieth(eager: int, gossips: bool) -> None:
    node = Node(Limits(eager_dials_max=eager), gossips=gossips)
    costs = []
    for number in range(2_001):
        address = Address(b"\1" + number.to_bytes(31, "big"))
        costs.append(
            calls_of(partial(node.core.learn, address, "test", (PLACE,), 1, node.now))
            + calls_of(node.core.next_deadline)
            + calls_of(node.core.take_events)
        )
    assert costs[2_000] <= costs[19]


def test_what_time_a_stall_takes_is_not_looked_for_at_every_peer_each_time() -> None:
    node = Node()
    for number in range(100):
        Remote(node, Address(number.to_bytes(32, "big"))).join(liveness_ms=5000 - number)
    assert node.core.liveness_s == 4.901
    assert calls_of(lambda: node.core.liveness_s) < 10


def test_what_waits_for_somebody_who_passed_by_ends_in_time() -> None:
    node = Node()
    remote = Remote(node).greet()
    node.core.send(b"early", THEM, Reliability.RELIABLE, 0, node.now + 3.0, node.now)
    node.core.link_closed(remote.link, "closed", node.now)
    node.wait(3.0)
    (done,) = node.of_type(SendDone)
    assert isinstance(done.error, SendTimeout)


# Several links


def test_an_outage_is_ended_by_dialling_soon_and_often() -> None:
    node = Node()
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    remote = Remote(node).join()
    node.core.link_closed(remote.link, "closed", node.now)
    dials = []
    while node.core.stats().peers:
        node.now = node.core.next_deadline() or 0.0
        node.core.expire(node.now)
        if Dial(THEM, PLACE) in node.core.take_actions():
            dials.append(node.now - 100)
            node.core.dial_failed(THEM, PLACE, node.now)
        node.turn()
    assert dials[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.3])
    assert len(dials) >= 12
    assert [event.reason for event in node.of_type(PeerLeft)] == [LossReason.SILENT]


def test_a_suspect_gets_a_second_link_in_time() -> None:
    network = SimNetwork(4)
    lower, higher = network.pair()
    stream = lower.open_stream(higher)
    network.run(1.0)
    network.freeze()
    stream.send(b"across")
    network.run(4.5)
    assert list(higher.received.values()) == [[b"across"]]
    assert lower.of_type(PeerLeft) == higher.of_type(PeerLeft) == []


def test_a_second_link_that_hangs_gets_a_third_beside_it() -> None:
    network = SimNetwork(0)
    one, other = network.pair()
    network.freeze()
    since = network.now
    while network.now < since + 3.2:  # the peer is suspect since 2.0 to 2.5 s, and dialled
        network.run(0.001)
        network.freeze()
    network.run(3.0)
    for node in (one, other):
        assert node.of_type(PeerLeft) == []
        assert node.core.peers[0].state is PeerState.ALIVE


def test_a_peer_that_moves_is_followed() -> None:
    network = SimNetwork(4)
    lower, higher = network.add(), network.add()
    higher.learn(lower)
    network.run(1.0)
    network.freeze()  # its address has changed
    higher.core.learn(lower.address, "sim", ("sim://elsewhere",), 0, network.now)
    network.run(3.5)
    assert higher.core.peers[0].state is PeerState.SUSPECT
    higher.core.learn(lower.address, "sim", (f"sim://{lower.address}",), 0, network.now)
    higher.pump_soon()
    network.run(0.5)
    assert higher.core.peers[0].state is PeerState.ALIVE
    assert higher.of_type(PeerLeft) == lower.of_type(PeerLeft) == []


# Time


def test_a_core_with_nothing_to_do_has_no_deadline() -> None:
    node = Node()
    assert node.core.next_deadline() is None
    node.core.expire(node.now)
    assert not node.core.has_output
    assert node.core.is_drained
    assert node.core.has_parted


def test_the_shortest_limit_in_force_tells_what_a_stall_is() -> None:
    node = Node(Limits(liveness_s=9.0))
    assert node.core.liveness_s == 9.0
    remote = Remote(node).join(liveness_ms=3000)
    Remote(node, OTHERS[0]).join(liveness_ms=7000)
    assert node.core.liveness_s == 3.0
    remote.say(wire.Goodbye(wire.Farewell.LEFT, ""))
    assert node.core.liveness_s == 7.0


def test_after_a_stall_everybody_is_asked_anew() -> None:
    node = Node()
    remotes = [Remote(node).join(), Remote(node, OTHERS[0]).join()]
    for remote in remotes:
        remote.heard()
    node.now += 60.0
    node.core.stalled(node.now)
    assert node.core.next_deadline() == node.now
    node.wait(0)
    for remote in remotes:
        assert [type(frame) for frame in remote.heard()] == [wire.Ping]
    assert node.of_type(PeerLeft) == []


def test_what_sessions_dropped_is_counted_beyond_their_end() -> None:
    node = Node()
    remote = Remote(node).join()
    other = Remote(node, OTHERS[0]).join()
    for one in (remote, other):
        message = encoded(1, 0, (wire.encode_data(0, 1, 0, [b"data"]),))
        one.raw(message)
        one.raw(message)
    assert node.core.stats().dropped == {DropCause.DUPLICATE: 2}
    remote.say(wire.Goodbye(wire.Farewell.LEFT, ""))
    assert node.core.session(THEM) is None
    assert node.core.stats().dropped == {DropCause.DUPLICATE: 2}


# Commands


def test_accepting_what_is_over_does_nothing() -> None:
    node = Node()
    remote = Remote(node).join()
    remote.say_numbered(wire.Open(1, 0, "", b"", 1000), wire.Open(3, 0, "", b"", 1000))
    first, second = (event.offer.stream for event in node.of_type(StreamOffered))
    remote.say_numbered(wire.Reset(1, 0, "", 0))
    node.core.accept(first, b"")
    remote.say(wire.Goodbye(wire.Farewell.LEFT, ""))
    node.core.accept(second, b"")
    assert [type(event.error) for event in node.of_type(StreamEnded)] != []
    assert all(event.error is not None for event in node.of_type(StreamEnded))


def test_accepting_answers_with_metadata() -> None:
    node = Node()
    remote = Remote(node).join()
    remote.say_numbered(wire.Open(1, 0, "", b"", 1000))
    remote.heard()
    node.core.accept(node.of_type(StreamOffered)[0].offer.stream, b"reply")
    assert [frame.metadata for frame in remote.heard()] == [b"reply"]


def test_a_new_name_is_told_to_all_who_have_heard_the_old_one() -> None:
    node = Node(name="before")
    ready, greeting = Remote(node).join(), Remote(node, OTHERS[0]).greet()
    ready.heard()
    greeting.heard()
    node.core.announce("after", b"meta", node.now)
    for remote in (ready, greeting):
        (info,) = remote.heard()
        assert (info.name, info.metadata) == ("after", b"meta")


LATER = Incarnation(SECRET, boot=1, began_us=BEGAN_US + 1)


@pytest.mark.parametrize(
    ("claim", "is_believed"),
    [
        (LATER.claim, True),
        (b"", False),
        (LATER.claim[:-1] + bytes((LATER.claim[-1] ^ 1,)), False),
        (Incarnation(KEY, boot=1, began_us=BEGAN_US + 1).claim, False),
    ],
    ids=["a newer process", "no claim", "a forged one", "another identity"],
)
def test_that_a_newer_process_has_our_identity_is_believed_with_its_claim(
    claim: bytes, is_believed: bool
) -> None:
    node = Node()
    remote, friend = Remote(node).join(), Remote(node, OTHERS[0]).join()
    remote.say(wire.Goodbye(wire.Farewell.SUPERSEDED, "a newer process has this identity", claim))
    assert node.of_type(Superseded) == [Superseded()] * is_believed
    assert [event.reason for event in node.of_type(PeerLeft)] == [LossReason.EXPELLED]
    friend.say(wire.Ping(1, 0))
    assert wire.Pong(1) in friend.heard()


def test_a_node_says_its_claim_to_who_has_proven_the_secret() -> None:
    _, info = Remote(Node()).greet().heard()
    assert info.claim == Incarnation(SECRET, boot=7, began_us=BEGAN_US).claim


def test_a_link_within_the_host_is_seen_in_the_path() -> None:
    for is_local, path in ((True, ReliablePath.IPC), (False, ReliablePath.TCP)):
        node = Node()
        remote = Remote(node, is_local=is_local).join()
        assert node.core.peers[0].path.reliable is path
        assert node.session().links == (remote.link,)


def test_a_deadline_that_comes_nearer_wakes_the_shell() -> None:
    node = Node()
    before = node.wakes
    node.core.touch(THEM)
    assert node.wakes == before + 1


def test_whoever_waits_is_woken() -> None:
    node = Node()
    remote = Remote(node).join()
    remote.heard()
    for command in (
        lambda: node.core.send(b"data", THEM, Reliability.RELIABLE, 0, None, node.now),
        lambda: node.core.open_stream(THEM, Reliability.RELIABLE, "", b"", None, node.now),
        lambda: node.core.announce("name", b"", node.now),
        lambda: node.core.farewell(node.now),
    ):
        node.core.take_sendable()
        before = node.wakes
        command()
        assert node.wakes > before
        assert node.core.has_output
        assert node.core.take_sendable() == [remote.link]
        assert not node.core.has_output
        remote.heard()


# The end


def test_leaving_drains_and_says_goodbye() -> None:
    network = SimNetwork(6)
    lower, higher = network.pair()
    finished, unfinished = lower.open_stream(higher), lower.open_stream(higher)
    for number in range(100):
        finished.send(b"%d" % number)
        unfinished.send(b"%d" % number)
        lower.send(b"%d" % number, to=higher)
    finished.finish()
    lower.core.leave(network.now + 5.0)
    network.run_until(lambda: lower.core.is_drained, limit_s=5.0)
    network.run(0)
    assert list(higher.received.values()) == [[b"%d" % number for number in range(100)]] * 2
    assert higher.singles == [b"%d" % number for number in range(100)]
    assert [(event.stream, event.error) for event in lower.of_type(StreamEnded)] == [(finished, None)]
    lower.core.farewell(network.now)
    assert not lower.core.has_parted
    network.run_until(lambda: lower.core.has_parted, limit_s=LAST_WORD_S)
    assert [event.reason for event in higher.of_type(PeerLeft)] == [LossReason.LEFT]
    assert [event.reason for event in lower.of_type(PeerLeft)] == [LossReason.LEFT]
    assert isinstance(lower.of_type(StreamEnded)[-1].error, BusClosed)
    assert [event.stream.id for event in higher.of_type(StreamFinishedReceiving)] == [finished.id]
    assert [type(event.error) for event in higher.of_type(StreamEnded)] == [type(None), PeerLost]
    network.run(10.0)
    assert len(higher.of_type(PeerJoined)) == 1


def test_who_leaves_without_having_finished_ends_well_for_whom_it_had_read_to_the_end() -> None:
    network = SimNetwork(7)
    lower, higher = network.pair()
    stream = lower.open_stream(higher)
    stream.send(b"data")
    stream.close()
    network.run(0.5)
    assert list(higher.received.values()) == [[b"data"]]
    higher.core.leave(network.now + 5.0)
    network.run_until(lambda: higher.core.is_drained, limit_s=5.0)
    higher.core.farewell(network.now)
    network.run_until(lambda: lower.of_type(StreamEnded), limit_s=5.0)
    assert [event.error for event in lower.of_type(StreamEnded)] == [None]


def test_leaving_takes_no_more_streams_from_old_peers_or_new() -> None:
    node = Node()
    remote = Remote(node).join()
    node.core.leave(None)
    newcomer = Remote(node, OTHERS[0]).join()
    for one in (remote, newcomer):
        one.heard()
        one.say_numbered(wire.Open(1, 0, "", b"", 1000))
        assert [frame.code for frame in one.heard()] == [UNTAKEN]
    assert node.of_type(StreamOffered) == []


def test_who_is_leaving_dials_nobody_but_those_it_has_something_for() -> None:
    node = Node()
    remotes = [Remote(node, address).join() for address in OTHERS[:3]]
    for address in (*OTHERS[:3], THEM):
        node.core.learn(address, "test", (PLACE,), 1, node.now)
    node.core.send(b"data", OTHERS[0], Reliability.RELIABLE, 0, None, node.now)
    node.core.open_stream(OTHERS[1], Reliability.RELIABLE, "", b"", None, node.now)
    node.core.leave(None)
    for remote in remotes:
        node.core.link_closed(remote.link, "closed", node.now)
    node.wait(0.4)
    assert {dial.remote for dial in node.of_type(Dial)} == {OTHERS[0], OTHERS[1]}
    assert not node.core.is_drained


def test_drained_across_an_outage() -> None:
    network = SimNetwork(8)
    lower, higher = network.pair()
    stream = lower.open_stream(higher)
    network.run(0.5)
    stream.send(b"last words")
    network.cut_all()
    stream.finish()
    lower.core.leave(network.now + 5.0)
    network.run_until(lambda: lower.core.is_drained, limit_s=3.0)
    network.run(0)
    assert [event.error for event in lower.of_type(StreamEnded)] == [None]


def test_farewell_ends_everything_that_was_not_drained() -> None:
    node = Node()
    remote = Remote(node).join()
    node.core.send(b"data", THEM, Reliability.RELIABLE, 0, None, node.now)
    node.core.open_stream(THEM, Reliability.RELIABLE, "", b"", None, node.now)
    remote.heard()
    node.core.learn(OTHERS[0], "test", (PLACE,), 1, node.now)
    node.core.send(b"data", OTHERS[0], Reliability.RELIABLE, 0, None, node.now)
    node.core.farewell(node.now)
    node.core.farewell(node.now)  # one is enough
    assert remote.heard() == [wire.Goodbye(wire.Farewell.LEFT, "")]
    unknown, waiting = (done.error for done in node.of_type(SendDone))
    assert isinstance(unknown, DeliveryUnknown)
    assert isinstance(unknown.__cause__, BusClosed)
    assert isinstance(waiting, BusClosed)
    assert [type(event.error) for event in node.of_type(StreamEnded)] == [BusClosed]


# Nodes together


@pytest.mark.parametrize("seed", range(30))
def test_streams_and_singles_survive_links_that_break_at_any_moment(seed: int) -> None:
    network = SimNetwork(seed)
    lower, higher = network.pair()
    streams = [lower.open_stream(higher, "up"), higher.open_stream(lower, "down")]
    for turn in range(20):
        for number in range(network.random.randint(1, 30)):
            for stream in streams:
                stream.send(b"%d %d" % (turn, number) + bytes(network.random.randrange(2000)))
            lower.send(b"%d %d" % (turn, number), to=higher, timeout=None)
        network.run(network.random.random() * 0.1)
        network.cut_all()
        network.run(network.random.random() * 0.3)
    network.run(3.0)
    assert [len(messages) for messages in (*higher.received.values(), *lower.received.values())] == [
        stream.last_sequence for stream in streams
    ]
    assert all(done.error is None for done in lower.of_type(SendDone))
    assert len(higher.singles) == len(set(higher.singles)) == len(lower.of_type(SendDone))
    assert lower.of_type(PeerLeft) == higher.of_type(PeerLeft) == []


@pytest.mark.parametrize("seconds", [0.5, 2.0, 3.0])
def test_a_frozen_network_costs_time_and_nothing_else(seconds: float) -> None:
    network = SimNetwork(9)
    lower, higher = network.pair()
    stream = lower.open_stream(higher)
    network.run(0.5)
    network.freeze()
    for number in range(50):
        stream.send(b"%d" % number)
        lower.send(b"%d" % number, to=higher)
    network.run(seconds)
    network.freeze(False)
    network.run(3.0)
    assert list(higher.received.values()) == [[b"%d" % number for number in range(50)]]
    assert higher.singles == [b"%d" % number for number in range(50)]
    assert lower.of_type(PeerLeft) == higher.of_type(PeerLeft) == []
    assert len(network.links) == 1


@pytest.mark.parametrize("seed", range(10))
def test_a_partition_is_noticed_by_both_and_heals(seed: int) -> None:
    network = SimNetwork(seed)
    lower, higher = network.pair()
    network.run(network.random.random() * 3)
    stream = lower.open_stream(higher)
    stream.send(b"before")
    network.run(0.5)
    network.part(lower, higher)
    parted_at = network.now
    lower.send(b"into the void", to=higher, timeout=None)
    network.run_until(lambda: bool(lower.of_type(PeerLeft) and higher.of_type(PeerLeft)))
    assert network.now - parted_at <= T + 0.5 * T + 0.1
    for node in (lower, higher):
        assert node.of_type(PeerLeft)[0].reason is LossReason.SILENT
        assert [type(event.error) for event in node.of_type(StreamEnded)] == [PeerLost]
    assert [type(done.error) for done in lower.of_type(SendDone)] == [DeliveryUnknown]
    network.run(network.random.random() * 20)
    network.heal()
    network.run_until(
        lambda: all(node.core.stats().peers == 1 for node in (lower, higher)), limit_s=2 * T + 5.0
    )
    network.run(2.0)
    for node in (lower, higher):
        assert len(node.of_type(PeerJoined)) == 2
    assert higher.singles == []


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("deaf", ["lower", "higher"])
def test_a_way_that_is_one_way_is_a_loss_on_both_sides(seed: int, deaf: str) -> None:
    network = SimNetwork(seed)
    lower, higher = network.pair()
    network.run(network.random.random() * 5)
    parted_at = network.now
    sender, receiver = (higher, lower) if deaf == "lower" else (lower, higher)
    network.part(sender, receiver, one_way=True)
    for turn in range(30):  # the other way is open, and busy
        receiver.send(b"%d" % turn, to=sender)
        network.run(0.1)
    network.run_until(lambda: bool(lower.of_type(PeerLeft) and higher.of_type(PeerLeft)))
    assert network.now - parted_at <= T + 0.5 * T
    network.heal()
    network.run(10.0)
    for node in (lower, higher):
        assert len(node.of_type(PeerJoined)) == 2
        assert len(node.of_type(PeerLeft)) == 1


@pytest.mark.parametrize("seed", range(10))
def test_both_open_to_each_other_at_once(seed: int) -> None:
    network = SimNetwork(seed)
    lower, higher = sorted((network.add(), network.add()), key=lambda node: node.address)
    lower.learn(higher)
    higher.learn(lower)
    opened = [lower.open_stream(higher, "from lower"), higher.open_stream(lower, "from higher")]
    for stream in opened:
        stream.send(stream.name.encode())
    network.run(2.0)
    assert list(higher.received.values()) == [[b"from lower"]]
    assert list(lower.received.values()) == [[b"from higher"]]
    assert opened[0].id % 2 == 0
    assert opened[1].id % 2 == 1


def test_a_peer_that_is_stuck_holds_up_nobody_else() -> None:
    network = SimNetwork(10)
    hub, deaf, keen = network.add(), network.add(), network.add()
    for node in (deaf, keen):
        hub.learn(node)
        node.learn(hub)
    network.run(1.0)
    deaf.consumes = False
    slow, fast = hub.open_stream(deaf), hub.open_stream(keen)
    network.run(0.5)
    for _ in range(200):
        for stream in (slow, fast):
            if stream.room > 5000:
                stream.send(bytes(5000))
        network.run(0.02)
    assert fast.acknowledged_sequence == 200
    assert 0 < slow.acknowledged_sequence < 30
    assert not network.nodes[deaf.address].of_type(PeerLeft)
    network.run(30.0)
    assert hub.core.peer(deaf.address) is not None
    assert hub.core.peer(deaf.address).state is PeerState.ALIVE  # type: ignore[union-attr]


def test_a_large_message_across_links_that_break() -> None:
    network = SimNetwork(11, bytes_per_s=2e7)
    lower, higher = network.pair()
    stream = lower.open_stream(higher)
    data = network.random.randbytes(20 * 1024 * 1024)
    stream.send(data)
    for _ in range(8):
        network.run(0.15)
        network.cut_all()
    network.run(5.0)
    assert list(higher.received.values()) == [[data]]
    assert higher.core._budget.reserved < 2 * 1024 * 1024


def test_idle_nodes_say_little() -> None:
    network = SimNetwork(12)
    lower, higher = network.pair()
    said: list[SimNode] = []
    network.tap = lambda sender, receiver, message: said.append(sender)
    network.run(1000.0)
    assert len(said) < 2 * 1000 / 2 + 20
    assert lower.of_type(PeerChanged)[1:] == []
    assert higher.of_type(PeerLeft) == []


def test_errors_about_peers_name_them() -> None:
    network = SimNetwork(13)
    lower, higher = network.pair()
    higher.crash()
    network.run(10.0)
    with pytest.raises(PeerError) as caught:
        lower.send(b"", to=higher)
    assert caught.value.peer == higher.address
    assert caught.value.hint
    assert lower.core.peer(higher.address) is None
    assert lower.core.peers == ()


# Gossip


def gossiping(**options: Any) -> tuple[Node, Remote]:
    """A node that gossips, and a peer of it that says where it is."""
    node = Node(gossips=True, **options)
    return node, Remote(node).join(tcp_places="192.0.2.9:4000")


def met(address: Address, places: str = "192.0.2.1:4000") -> wire.Met:
    return wire.Met(address.public_key, places)


def test_a_node_says_where_it_may_be_dialled_and_says_it_again_when_that_changes() -> None:
    node, remote = gossiping()
    assert [frame.tcp_places for frame in remote.heard() if isinstance(frame, wire.Info)] == [""]
    for _ in range(2):
        node.core.tell_places("192.0.2.7:4000", node.now)
    (info,) = remote.heard()
    assert info.tcp_places == "192.0.2.7:4000"


def test_a_node_says_where_it_receives_datagrams_and_says_it_again_when_that_changes() -> None:
    node = Node(plane=DatagramPlane(Port(1)))
    remote = Remote(node).join()
    remote.heard()
    for places in (("192.0.2.7:4000", "192.0.2.7:4001"),) * 2 + (("192.0.2.8:4000", "192.0.2.7:4001"),):
        node.core.tell_datagram_places(*places, node.now)
    told = [frame for frame in remote.heard() if isinstance(frame, wire.Info)]
    assert [info.udp_places for info in told] == ["192.0.2.7:4000", "192.0.2.8:4000"]
    assert [info.pull_places for info in told] == ["192.0.2.7:4001"] * 2


def test_a_peer_is_told_of_another_and_that_it_is_gone() -> None:
    node, remote = gossiping()
    other = Remote(node, OTHERS[0]).join(tcp_places="192.0.2.10:4000")
    node.wait(1.0)
    assert [frame for frame in remote.heard() if isinstance(frame, wire.Met)] == [
        met(OTHERS[0], "192.0.2.10:4000")
    ]
    other.say(wire.Goodbye(wire.Farewell.LEFT, ""))
    node.wait(1.0)
    assert [frame for frame in remote.heard() if isinstance(frame, wire.Met)] == [met(OTHERS[0], "")]


def test_who_is_told_of_is_dialled_and_joins() -> None:
    node, remote = gossiping()
    remote.say_numbered(met(OTHERS[0]))
    node.wait(0)
    assert node.core.peer(OTHERS[0]).state is PeerState.KNOWN  # type: ignore[union-attr]
    assert node.of_type(Dial) == [Dial(OTHERS[0], "tcp://192.0.2.1:4000")]
    Remote(node, OTHERS[0]).join()
    node.wait(1.0)
    assert node.core.stats().hearsay_failed == 0
    assert node.core.stats().peers == 2


def test_who_is_told_of_and_not_there_is_counted() -> None:
    node = Node(Limits(liveness_s=60.0), gossips=True)
    remote = Remote(node).join(liveness_ms=60_000)
    remote.say_numbered(met(OTHERS[0]), met(US), met(OTHERS[1], "127.0.0.1:1"))
    node.wait(0)
    node.core.dial_failed(OTHERS[0], "tcp://192.0.2.1:4000", node.now)
    node.wait(6.5)
    assert (node.core.stats().rejected_records, node.core.stats().hearsay_failed) == (2, 1)
    assert len(node.of_type(Dial)) == 1


def test_who_is_not_on_the_list_is_not_tried_for_gossip() -> None:
    node, remote = gossiping(allowed=[THEM])
    remote.say_numbered(met(OTHERS[0]))
    node.wait(1.0)
    assert node.of_type(Dial) == []
    assert node.core.peer(OTHERS[0]) is None


def test_places_on_loopback_are_taken_from_who_is_on_this_host() -> None:
    for where in ({"is_local": True}, {"is_near": True}):
        node = Node(gossips=True)
        remote = Remote(node, THEM, **where).join()
        remote.say_numbered(met(OTHERS[0], "127.0.0.1:1"))
        node.wait(0)
        assert node.of_type(Dial) == [Dial(OTHERS[0], "tcp://127.0.0.1:1")]
    node = Node(gossips=True)
    dialled = Remote(node, dialled=True)
    node.core.link_opened(dialled.link, THEM, node.now, is_near=True)
    dialled.raw(dialled.handshake.receive(dialled.heard_bytes()[0])[0])
    dialled.info().say_numbered(met(OTHERS[0], "127.0.0.1:1"))
    node.wait(0)
    assert node.of_type(Dial) == [Dial(OTHERS[0], "tcp://127.0.0.1:1")]


def test_a_peer_that_was_lost_is_looked_for_one_that_left_is_not() -> None:
    for farewell, is_sought in ((wire.Farewell.SILENT, True), (wire.Farewell.LEFT, False)):
        node, remote = gossiping()
        remote.say(wire.Goodbye(farewell, ""))
        assert node.core.peers == ()
        node.wait(1.0)
        assert node.of_type(Dial) == ([Dial(THEM, "tcp://192.0.2.9:4000")] if is_sought else [])
        assert (THEM in node.core.roster) is is_sought


def test_a_node_that_does_not_gossip_neither_tells_nor_listens() -> None:
    node = Node()
    remote = Remote(node).join(tcp_places="192.0.2.9:4000")
    Remote(node, OTHERS[0]).join(tcp_places="192.0.2.10:4000")
    remote.say_numbered(met(OTHERS[1]))
    node.wait(1.0)
    assert not [frame for frame in remote.heard() if isinstance(frame, wire.Met)]
    assert node.core.peer(OTHERS[1]) is None
    assert node.core.stats().rejected_records == 0


def test_a_node_that_leaves_gossips_no_more() -> None:
    node, remote = gossiping()
    Remote(node, OTHERS[0]).join(tcp_places="192.0.2.10:4000")
    remote.say_numbered(met(OTHERS[1]))
    node.core.leave(None)
    node.wait(1.0)
    assert not [frame for frame in remote.heard() if isinstance(frame, wire.Met)]
    assert node.of_type(Dial) == []


def test_the_node_counts_the_messages_of_all_conversations_past_and_present() -> None:
    network = SimNetwork()
    hub, *others = (network.add(has_datagrams=True) for _ in range(3))
    for other in others:
        hub.learn(other)
        other.learn(hub)
    network.run_until(lambda: hub.core.stats().peers == 2)
    network.run(1.0)
    hub.consumes = False
    for other in others:
        other.send(bytes(10), hub)
        other.send(bytes(5), hub, reliability=Reliability.UNRELIABLE)
    network.run(1.0)
    arrived = Traffic(messages_received=4, bytes_received=30, unconsumed_messages=4, unconsumed_bytes=30)
    assert hub.core.stats().traffic == arrived
    assert others[0].core.stats().traffic == Traffic(messages_sent=2, bytes_sent=15)
    others[0].crash()
    network.run_until(lambda: hub.core.stats().peers == 1)
    one_is_past = Traffic(messages_received=4, bytes_received=30, unconsumed_messages=3, unconsumed_bytes=20)
    assert hub.core.stats().traffic == one_is_past
