"""One peer across its incarnations: which session its links are of, and what is told of it upward."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.errors import BusError, PeerLost, PeerRefused, RemoteProtocolError
from brokerless.model import (
    DatagramPath,
    DropCause,
    Event,
    LossReason,
    Peer,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    PeerState,
    Reliability,
    ReliablePath,
    StreamEnded,
)
from brokerless.protocol import wire
from brokerless.protocol.association import Nonce
from brokerless.protocol.budget import Budget
from brokerless.protocol.datagram import Kind
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.handshake import Handshake, Role
from brokerless.protocol.links import Link, LinkPhase
from brokerless.protocol.peering import LOSSES, Peering
from brokerless.protocol.session import Session, SessionState
from brokerless.testing.simulation import SimNetwork, SimNode
from tests.protocol.datagram_ends import Port
from tests.protocol.talk import packet

US = Address(b"\x10" * 32)
THEM = Address(b"\x90" * 32)
T = 5.0
OUR_BOOT, THEIR_BOOT = 7, 100


class Host:
    """A node and its links: writes down what a peering asks of them, and does what concerns the peering."""

    def __init__(self) -> None:
        self.name, self.metadata, self.asks_admission = "us", b"", False
        self.tcp_places = "192.0.2.7:4000"
        self.claim = b"our claim"
        self.peering = Peering(self, self, THEM)
        self.events: list[Event] = []
        self.said: list[tuple[int, Any]] = []
        self.last_words: list[tuple[int, wire.Goodbye]] = []
        self.cuts: list[tuple[int, str]] = []
        self.asked: list[tuple[int, Peer]] = []
        self.calls: list[str] = []
        self.over: list[Session] = []
        self.introductions: list[tuple[int, wire.Info]] = []
        self.partings: list[LossReason] = []
        self.plane = DatagramPlane()
        self.pushes: list[str] = []
        self._epoch = 0
        self._links = 0

    def new_session(self, remote: Address, now: float) -> Session:
        self._epoch += 1
        return Session(
            local=US,
            remote=remote,
            nonce=Nonce(OUR_BOOT, self._epoch),
            limits=Limits(),
            budget=Budget(10**9),
            plane=self.plane,
            emit=self.emit,
            wake=lambda link: None,
            touch=lambda: None,
            now=now,
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def say(self, link: Link, message: bytes) -> None:
        self.said += [(link.id, frame) for frame in wire.decode_packet(message).frames]

    def cut(self, link: Link, reason: str, now: float) -> None:
        self.cuts.append((link.id, reason))
        self.peering.link_gone(link, now)

    def end(self, link: Link, last_word: bytes, now: float) -> None:
        (goodbye,) = wire.decode_packet(last_word).frames
        assert isinstance(goodbye, wire.Goodbye)
        self.last_words.append((link.id, goodbye))
        link.phase = LinkPhase.ENDING

    def ask_admission(self, link: Link, peer: Peer, now: float) -> None:
        link.phase = LinkPhase.ADMISSION
        self.asked.append((link.id, peer))

    def await_info(self, link: Link, now: float) -> None:
        link.phase = LinkPhase.INFO
        self.calls.append("await info")

    def introduced(self, link: Link, info: wire.Info, now: float) -> None:
        self.introductions.append((link.id, info))

    def parted(self, remote: Address, reason: LossReason, now: float) -> None:
        self.partings.append(reason)

    def connected(self, link: Link, now: float) -> None:
        self.calls.append("connected")

    def disconnected(self, remote: Address, now: float) -> None:
        self.calls.append("disconnected")

    def doubted(self, remote: Address, is_suspect: bool, now: float) -> None:
        self.calls.append("doubted" if is_suspect else "trusted")

    def rest(self, remote: Address, now: float) -> None:
        self.calls.append("rest")

    def superseded(self, claim: bytes) -> None:
        self.calls.append(f"superseded by {claim!r}")

    def ended(self, session: Session) -> None:
        self.over.append(session)

    def push(self, remote: Address, places: str) -> None:
        self.pushes.append(places)

    def touch(self, remote: Address) -> None:
        pass

    # What a test does with it

    def link(self, endpoint: str = "") -> Link:
        """Make a link that has proven itself; we have said our INFO on it."""
        self._links += 1
        role = Role.DIALLER if endpoint else Role.ACCEPTOR
        handshake = Handshake(role, mesh_key=bytes(32), local=US, remote=THEM)
        link = Link(self._links, THEM, LinkPhase.INFO, handshake, endpoint)
        link.opened = link.id
        self.peering.links[link.id] = link
        self.peering.announce(link, 100.0)
        return link

    def hear(self, link: Link, info: wire.Info, now: float = 100.0) -> None:
        self.peering.packet(link, packet(wire.encode_info(info)), 100, now)

    def joined(self, endpoint: str = "") -> Link:
        """Make a link on which the peer has joined."""
        link = self.link(endpoint)
        self.hear(link, info())
        assert self.peering.joined
        self.events.clear()
        self.said.clear()
        self.calls.clear()
        return link

    def hear_probed(self, link: Link, token: int) -> None:
        self.peering.packet(link, packet(wire.Probed(token, 1, 1)), 100, 100.35)

    @property
    def session(self) -> Session:
        assert self.peering.session is not None
        return self.peering.session

    @property
    def told(self) -> list[tuple[type, Any]]:
        """Events, with the reason or the state of the peer."""
        return [
            (type(event), event.reason if isinstance(event, PeerLeft) else event.peer.state)
            for event in self.events
            if isinstance(event, PeerJoined | PeerChanged | PeerLeft)
        ]


def info(
    boot: int = THEIR_BOOT,
    epoch: int = 1,
    *,
    knows: int | None = None,
    name: str = "them",
    received: int = 0,
    claim: bytes = b"",
) -> wire.Info:
    """Return an INFO of the peer; ``knows``: the epoch of ours that it has in mind."""
    return wire.Info(
        boot=boot,
        epoch=epoch,
        their_boot=0 if knows is None else OUR_BOOT,
        their_epoch=knows or 0,
        received=received,
        message_bytes_max=10_000,
        stream_credit=10_000,
        single_credit=10_000,
        streams_max=100,
        liveness_ms=5_000,
        claim=claim,
        name=name,
        metadata=b"meta",
    )


# Joining


def test_a_peer_joins_when_its_first_link_is_agreed_on() -> None:
    host = Host()
    link = host.link("tcp://192.0.2.1:1")
    assert not host.peering.is_listed
    ((_, said),) = host.said
    assert (said.boot, said.epoch, said.their_boot, said.name) == (OUR_BOOT, 1, 0, "us")
    host.hear(link, info())
    (joined,) = host.events
    assert isinstance(joined, PeerJoined)
    assert (joined.peer.name, joined.peer.metadata) == ("them", b"meta")
    assert joined.peer.state is PeerState.ALIVE
    assert joined.peer.path.reliable is ReliablePath.TCP
    assert link.phase is LinkPhase.READY
    assert host.session.links == (link.id,)
    assert host.calls == ["connected"]


def test_a_peer_is_listed_while_it_is_known_and_not_lost() -> None:
    host = Host()
    for is_known, is_dialled in ((True, False), (True, False), (True, True), (False, False), (False, False)):
        host.peering.looked_for(is_known, is_dialled)
        assert host.peering.is_listed is is_known
    known, joining = Peer(THEM), Peer(THEM, state=PeerState.JOINING)
    assert host.events == [PeerChanged(known), PeerChanged(joining), PeerForgotten(known)]


def test_a_peer_in_a_conversation_is_listed_whether_it_is_known_or_not_and_a_lost_one_is_not() -> None:
    host = Host()
    link = host.joined()
    host.peering.looked_for(True, True)
    host.peering.looked_for(False, False)
    assert host.peering.is_listed
    assert host.events == []
    host.peering.packet(link, packet(wire.Goodbye(wire.Farewell.LEFT, "")), 100, 101.0)
    host.peering.looked_for(True, True)
    host.peering.looked_for(False, False)
    assert not host.peering.is_listed
    assert host.told == [(PeerLeft, LossReason.LEFT)]


def test_a_local_link_is_seen_in_the_path() -> None:
    host = Host()
    host.joined("ipc:///run/them")
    assert host.peering.snapshot().path.reliable is ReliablePath.IPC
    accepted = Host()
    link = accepted.link()
    link.is_local = True
    accepted.hear(link, info())
    assert accepted.peering.snapshot().path.reliable is ReliablePath.IPC


def test_a_second_link_joins_the_same_session() -> None:
    host = Host()
    first = host.joined()
    second = host.link()
    ((_, said),) = host.said
    assert (said.their_boot, said.their_epoch) == (THEIR_BOOT, 1)
    host.hear(second, info(knows=1))
    assert host.events == []
    assert host.session.links == (first.id, second.id)


def test_what_lay_in_an_older_link_is_no_news() -> None:
    host = Host()
    first, second = host.link(), host.link()
    host.hear(first, info(name="before"))
    host.hear(second, info(knows=1, name="now"))
    host.hear(first, info(knows=1, name="meanwhile"))
    assert host.peering.snapshot().name == "now"
    assert [link for link, _ in host.introductions] == [first.id, second.id]
    host.hear(second, info(knows=1, name="later"))
    assert host.peering.snapshot().name == "later"
    host.cut(
        second, "gone", 100.0
    )  # so what was told on the other one is the latest, or the latest will come
    assert host.peering.snapshot().name == "meanwhile"
    assert isinstance(host.events[-1], PeerChanged)
    assert [link for link, _ in host.introductions] == [first.id, second.id, second.id, first.id]
    host.hear(first, info(knows=1, name="in the end"))
    assert host.peering.snapshot().name == "in the end"


def test_the_newest_of_those_that_are_left_counts() -> None:
    host = Host()
    links = [host.link() for _ in range(4)]
    for link in reversed(links):
        host.hear(link, info(knows=1, name=f"{link.id}"))
    assert host.peering.snapshot().name == "4"
    host.cut(links[1], "gone", 100.0)
    assert host.peering.snapshot().name == "4"
    host.cut(links[3], "gone", 100.0)
    assert host.peering.snapshot().name == "3"
    host.cut(links[2], "gone", 100.0)
    assert host.peering.snapshot().name == "1"


def test_nonsense_is_a_fault_on_an_older_link_too() -> None:
    host = Host()
    first, second = host.link(), host.link()
    host.hear(second, info())
    with pytest.raises(RemoteProtocolError, match="not a place"):
        host.hear(first, dataclasses.replace(info(knows=1), pull_places="somewhere:1"))


def test_what_waits_goes_out_with_the_first_link() -> None:
    host = Host()
    session = host.peering.session_for_use(100.0)
    session.lanes.open_stream(Reliability.RELIABLE, "early", b"", None)
    host.hear(host.link(), info())
    assert host.session is session
    assert session.next_packet(1, 100.0) is not None


def test_an_impossible_receipt_is_a_fault_and_nobody_joins() -> None:
    host = Host()
    with pytest.raises(RemoteProtocolError, match="acknowledged packet 9"):
        host.hear(host.link(), info(received=9))
    assert host.events == []


def test_another_name_is_told_and_the_same_is_not() -> None:
    host = Host()
    link = host.joined()
    host.hear(link, info(knows=1))
    assert host.events == []
    host.hear(link, info(knows=1, name="another"))
    (changed,) = host.events
    assert isinstance(changed, PeerChanged)
    assert changed.peer.name == "another"
    assert host.session.links == (link.id,)


# Which session


def test_an_info_of_a_session_that_the_peer_ended_costs_only_its_link() -> None:
    host = Host()
    link = host.link()
    host.hear(link, info(epoch=5))
    late = host.link()
    host.hear(late, info(epoch=4))
    assert host.cuts == [(late.id, "its session is over")]
    assert host.session.links == (link.id,)
    assert host.told == [(PeerJoined, PeerState.ALIVE)]


def test_a_peer_with_another_session_of_ours_in_mind_is_waited_for() -> None:
    host = Host()
    link = host.link()
    host.hear(link, info(knows=33))
    assert link.phase is LinkPhase.INFO
    assert (host.events, host.cuts) == ([], [])
    host.peering.packet(link, packet(wire.Ping(1, 0)), 30, 100.0)  # of that session: none of ours
    host.hear(link, info(epoch=2, knows=1))
    assert host.told == [(PeerJoined, PeerState.ALIVE)]


def test_a_restarted_peer_leaves_and_joins_once_each_on_the_link_that_tells_of_it() -> None:
    host = Host()
    old = host.joined()
    stream = host.session.lanes.open_stream(Reliability.RELIABLE, "", b"", None)
    session = host.session
    link = host.link()
    host.hear(link, info(boot=THEIR_BOOT + 1, claim=b"proof"))
    assert host.told == [(PeerLeft, LossReason.RESTARTED), (PeerJoined, PeerState.ALIVE)]
    assert [type(event) for event in host.events] == [StreamEnded, PeerLeft, PeerJoined]
    (ended, *_) = host.events
    assert isinstance(ended, StreamEnded)
    assert ended.stream is stream
    assert isinstance(ended.error, PeerLost)
    assert ended.error.reason == "restarted"
    assert session.state is SessionState.ENDED
    assert host.over == [session]
    # The process before must learn that it is not alone; our new nonce is told before anything else.
    [(number, word)] = host.last_words
    assert (number, word.code, word.claim) == (old.id, wire.Farewell.SUPERSEDED, b"proof")
    assert [said.epoch for number, said in host.said if number == link.id] == [1, 2]
    assert host.session.links == (link.id,)


def test_a_peer_that_began_anew_by_itself_is_told_nothing_of_another_process() -> None:
    host = Host()
    old = host.joined()
    link = host.link()
    host.hear(link, info(epoch=2, knows=1))
    assert host.told == [(PeerLeft, LossReason.EXPELLED)]
    assert host.last_words == []
    assert [number for number, _ in host.cuts] == [old.id]
    assert link.phase is LinkPhase.INFO  # it still has our old nonce in mind
    assert host.calls[-1] == "await info"
    host.hear(link, info(epoch=2, knows=2))
    assert host.told == [(PeerLeft, LossReason.EXPELLED), (PeerJoined, PeerState.ALIVE)]


def test_what_a_dead_process_left_on_an_older_link_does_not_evict_its_successor() -> None:
    host = Host()
    older, newer = host.link(), host.link()
    host.hear(newer, info(boot=THEIR_BOOT + 1))
    session = host.session
    host.hear(older, info(boot=THEIR_BOOT))
    assert host.told == [(PeerJoined, PeerState.ALIVE)]
    assert (host.session, host.session.links) == (session, (newer.id,))
    assert host.cuts == [(older.id, "its process is over")]
    assert host.last_words == []


def test_a_link_whose_peer_may_have_agreed_to_the_old_session_goes_with_it() -> None:
    host = Host()
    early = host.link()  # our INFO there says that we know nothing of the peer
    host.joined()
    host.hear(early, info(epoch=2))
    assert host.told == [(PeerLeft, LossReason.EXPELLED)]
    assert {number for number, _ in host.cuts} == {1, 2}
    assert host.peering.links == {}
    assert host.peering.session is None


def test_what_stands_behind_an_info_that_cuts_its_link_is_not_heard() -> None:
    host = Host()
    link = host.joined()
    agreed = info(epoch=3, knows=2)  # with the session that follows, as if that had been told
    frames = (wire.encode_info(info(epoch=2)), wire.encode_info(agreed))
    host.peering.packet(link, packet(*frames), 100, 100.0)
    assert host.told == [(PeerLeft, LossReason.EXPELLED)]
    assert not host.peering.joined


# Admission


def test_a_stranger_is_asked_about_before_anything_else_is_done() -> None:
    host = Host()
    host.asks_admission = True
    link = host.link()
    host.hear(link, info())
    ((number, peer),) = host.asked
    assert (number, peer.name, peer.metadata, peer.state) == (link.id, "them", b"meta", PeerState.JOINING)
    assert link.phase is LinkPhase.ADMISSION
    assert host.events == []
    assert link.info is not None
    host.peering.associate(link, link.info, 101.0)
    assert host.told == [(PeerJoined, PeerState.ALIVE)]


def test_who_is_in_is_not_asked_about_again_until_it_begins_anew() -> None:
    host = Host()
    host.joined()
    host.asks_admission = True
    second = host.link()
    host.hear(second, info(knows=1))
    host.hear(second, info(knows=1, name="renamed"))
    assert host.asked == []
    third = host.link()
    host.hear(third, info(boot=THEIR_BOOT + 1))
    assert [number for number, _ in host.asked] == [third.id]
    assert not host.peering.joined


def test_who_is_to_be_admitted_may_have_something_else_in_mind() -> None:
    host = Host()
    host.asks_admission = True
    link = host.link()
    host.hear(link, info(knows=33))
    assert link.info is not None
    host.await_info(link, 101.0)
    host.peering.associate(link, link.info, 101.0)
    assert link.phase is LinkPhase.INFO
    assert host.events == []


# The end


GOODBYES = [
    (wire.Farewell.LEFT, LossReason.LEFT, PeerLost),
    (wire.Farewell.FAULT, LossReason.EXPELLED, PeerLost),
    (wire.Farewell.SUPERSEDED, LossReason.EXPELLED, PeerLost),
    (wire.Farewell.SILENT, LossReason.EXPELLED, PeerLost),
    (wire.Farewell.REFUSED, LossReason.EXPELLED, PeerRefused),
    (99, LossReason.EXPELLED, PeerLost),
]


def test_every_goodbye_has_its_meaning() -> None:
    assert set(LOSSES) == set(wire.Farewell)


def test_who_leaves_for_no_reason_is_said_to_have_left() -> None:
    host = Host()
    link = host.joined()
    host.session.lanes.open_stream(Reliability.RELIABLE, "", b"", None)
    host.peering.packet(link, packet(wire.Goodbye(wire.Farewell.LEFT, "")), 40, 100.0)
    ended, _ = host.events
    assert isinstance(ended, StreamEnded)
    assert str(ended.error) == f"peer {THEM.short} has left"


@pytest.mark.parametrize(("code", "reason", "error"), GOODBYES)
def test_a_goodbye_ends_the_session(code: int, reason: LossReason, error: type[BusError]) -> None:
    host = Host()
    link = host.joined()
    host.session.lanes.open_stream(Reliability.RELIABLE, "", b"", None)
    host.peering.packet(link, packet(wire.Goodbye(code, "so long", b"proof"), wire.Ping(1, 0)), 40, 100.0)
    ended, left = host.events
    assert isinstance(ended, StreamEnded)
    assert type(ended.error) is error
    assert "so long" in str(ended.error)
    assert ended.error.peer == THEM
    if isinstance(ended.error, PeerLost):
        assert ended.error.reason == reason.value
    assert isinstance(left, PeerLeft)
    assert left.reason is reason
    assert left.peer.name == "them"
    assert host.peering.loss is reason
    assert host.peering.links == {}
    assert host.last_words == []
    assert host.calls == ["superseded by b'proof'"] * (code == wire.Farewell.SUPERSEDED) + [
        "disconnected",
        "rest",
    ]


def test_who_is_lost_may_join_again() -> None:
    host = Host()
    host.peering.packet(host.joined(), packet(wire.Goodbye(1, "")), 40, 100.0)
    host.hear(host.link(), info(epoch=2))
    assert host.peering.loss is None
    assert host.told == [(PeerLeft, LossReason.LEFT), (PeerJoined, PeerState.ALIVE)]


@pytest.mark.parametrize("code", [wire.Farewell.LEFT, wire.Farewell.SUPERSEDED])
def test_a_last_word_goes_to_whoever_can_make_something_of_it(code: wire.Farewell) -> None:
    host = Host()
    ready = host.joined()
    greeting, asked = host.link(), host.link()
    asked.phase = LinkPhase.ADMISSION
    goodbye = wire.Goodbye(code, "closing")
    host.peering.end(LossReason.LEFT, PeerLost(reason="left"), 100.0, goodbye)
    # Our INFO has gone out on the link that is being greeted: its peer may count us as joined. It may also
    # be the one who supersedes another, and must not hear that it is superseded itself.
    told = [ready.id, greeting.id, asked.id] if code is wire.Farewell.LEFT else [ready.id, asked.id]
    assert host.last_words == [(number, goodbye) for number in told]
    assert [number for number, _ in host.cuts] == ([] if greeting.id in told else [greeting.id])
    assert host.calls == ["disconnected"]
    host.peering.end(LossReason.LEFT, PeerLost(reason="left"), 100.0, goodbye)  # nothing is left to end
    assert host.told == [(PeerLeft, LossReason.LEFT)]


def test_who_never_joined_does_not_leave() -> None:
    host = Host()
    host.link()
    host.peering.end(LossReason.EXPELLED, PeerLost(reason="expelled"), 100.0)
    assert host.events == []
    assert host.peering.loss is None
    assert len(host.cuts) == len(host.over) == 1


# Links, time


def test_the_last_link_that_goes_is_told_of() -> None:
    host = Host()
    first = host.joined()
    second, unready = host.link(), host.link()
    host.hear(second, info(knows=1))
    host.calls.clear()
    host.peering.link_gone(second, 100.0)
    host.peering.link_gone(unready, 100.0)
    assert host.calls == []
    host.peering.link_gone(first, 100.0)
    assert host.calls == ["disconnected"]
    assert host.peering.snapshot().path.reliable is ReliablePath.NONE
    assert host.peering.snapshot().state is PeerState.ALIVE  # an outage is no loss
    host.peering.end(LossReason.LEFT, PeerLost(reason="left"), 100.0)
    host.peering.link_gone(first, 100.0)


def test_a_link_that_the_session_gives_up_is_cut() -> None:
    host = Host()
    link, spare = host.joined(), host.link()
    host.hear(spare, info(knows=1))
    host.peering.packet(spare, packet(wire.Ping(1, 3)), 40, 100.0)
    assert host.cuts == [(spare.id, "packets 1 to 3 went missing")]
    host.session.links_to_cut.append((spare.id, "again"))  # it is gone by now
    host.peering.settle(100.0)
    assert len(host.cuts) == 1
    assert host.session.links == (link.id,)


def test_a_silent_peer_is_suspect_then_lost() -> None:
    host = Host()
    link = host.joined()
    host.peering.expire(102.0)
    assert host.events == []
    host.peering.expire(102.5)
    assert host.told == [(PeerChanged, PeerState.SUSPECT)]
    assert host.calls == ["doubted"]
    host.peering.expire(104.0)
    assert len(host.events) == 1
    host.peering.expire(105.0)
    assert host.told[1:] == [(PeerLeft, LossReason.SILENT)]
    assert host.last_words == [(link.id, wire.Goodbye(wire.Farewell.SILENT, "not heard"))]
    host.peering.expire(110.0)
    host.peering.settle(110.0)
    assert len(host.events) == 2


def test_the_loss_says_how_long_nothing_was_heard() -> None:
    host = Host()
    host.joined()
    host.session.lanes.open_stream(Reliability.RELIABLE, "", b"", None)
    host.peering.expire(106.5)
    (ended, _) = host.events
    assert isinstance(ended, StreamEnded)
    assert isinstance(ended.error, PeerLost)
    assert (ended.error.reason, ended.error.silent_s) == ("silent", 6.5)
    assert "not heard for 6.5 s" in str(ended.error)


def test_a_path_that_changes_is_told() -> None:
    host = Host()
    first = host.joined()

    def paths() -> list[ReliablePath]:
        return [event.peer.path.reliable for event in host.events if isinstance(event, PeerChanged)]

    host.peering.link_gone(first, 101.0)
    assert paths() == [ReliablePath.NONE]
    near = host.link("ipc:///near")
    host.hear(near, info())
    assert paths() == [ReliablePath.NONE, ReliablePath.IPC]
    far = host.link("tcp://127.0.0.1:1")
    host.hear(far, info())
    assert paths()[2:] == [ReliablePath.TCP]
    host.peering.link_gone(near, 102.0)  # no longer in use
    host.hear(far, info())  # nothing new in it
    assert paths()[3:] == []
    assert {event.peer.state for event in host.events if isinstance(event, PeerChanged)} == {PeerState.ALIVE}


def test_a_suspect_that_answers_is_alive_again_and_told_so() -> None:
    host = Host()
    link = host.joined()
    host.peering.expire(102.5)
    host.peering.packet(link, packet(wire.Pong(1)), 30, 102.6)
    assert host.told == [(PeerChanged, PeerState.SUSPECT), (PeerChanged, PeerState.ALIVE)]
    assert host.calls == ["doubted", "trusted"]


def test_suspicion_does_not_outlive_a_session() -> None:
    host = Host()
    link = host.joined()
    host.peering.expire(102.5)
    host.peering.packet(link, packet(wire.Goodbye(1, "")), 30, 102.6)
    host.events.clear()
    host.hear(host.link(), info(epoch=2), 103.0)
    host.peering.settle(103.0)
    assert host.told == [(PeerJoined, PeerState.ALIVE)]


# Two nodes


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("hint", ["both", "only the lower", "only the higher"])
def test_two_nodes_join_whoever_finds_the_other(seed: int, hint: str) -> None:
    network = SimNetwork(seed)
    lower, higher = sorted((network.add(), network.add()), key=lambda node: node.address)
    if hint != "only the higher":
        lower.learn(higher)
    if hint != "only the lower":
        higher.learn(lower)
    network.run(1.0)
    for node in (lower, higher):
        assert len(node.of_type(PeerJoined)) == 1
        assert node.of_type(PeerLeft) == []
    assert len(network.links) == 1


def sessions_agree(one: SimNode, other: SimNode) -> bool:
    ours, theirs = one.core.session(other.address), other.core.session(one.address)
    if ours is None or theirs is None or not ours.links or not theirs.links:
        return False
    return (ours.nonce, ours.their_nonce) == (theirs.their_nonce, theirs.nonce)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("who", ["lower", "higher"])
def test_a_crash_and_a_restart_are_one_loss_and_one_joining(seed: int, who: str) -> None:
    network = SimNetwork(seed)
    lower, higher = network.pair()
    stays, goes = (higher, lower) if who == "lower" else (lower, higher)
    stream = stays.open_stream(goes)
    stream.send(b"before")
    network.run(network.random.random())
    goes.crash()
    network.run(network.random.random() * 4)
    goes.restart()
    goes.learn(stays)
    network.run(3.0)
    assert [event.reason for event in stays.of_type(PeerLeft)] == [LossReason.RESTARTED]
    assert len(stays.of_type(PeerJoined)) == 2
    assert (len(goes.of_type(PeerJoined)), goes.of_type(PeerLeft)) == (1, [])
    assert [type(event.error) for event in stays.of_type(StreamEnded)] == [PeerLost]
    assert sessions_agree(stays, goes)


@pytest.mark.parametrize("pause_s", [0.5, 2.0, 3.0, 4.0])
def test_a_pause_below_the_limit_costs_time_and_nothing_else(pause_s: float) -> None:
    network = SimNetwork(3)
    lower, higher = network.pair()
    for paused, other in ((lower, higher), (higher, lower)):
        # The last proof is fresh, or the pause and what was before it would be too much together.
        other.send(b"proof", to=paused)
        network.run(0.1)
        paused.pause()
        network.run(0.1)
        other.send(b"during", to=paused)
        network.run(pause_s - 0.1)
        paused.resume()
        network.run(3.0)
    for node in (lower, higher):
        assert node.of_type(PeerLeft) == []
        assert node.singles == [b"proof", b"during"]
        assert node.core.peers[0].state is PeerState.ALIVE


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("pause_s", [6.0, 30.0])
def test_who_wakes_too_late_delivers_nothing_stale_and_joins_anew(seed: int, pause_s: float) -> None:
    network = SimNetwork(seed)
    lower, higher = network.pair()
    paused, other = network.random.sample([lower, higher], 2)
    network.run(network.random.random())
    paused.pause()
    network.run(0.1)
    for number in range(5):
        other.send(b"stale %d" % number, to=paused, timeout=None)
        network.run(0.05)
    network.run(pause_s)
    assert [event.reason for event in other.of_type(PeerLeft)] == [LossReason.SILENT]
    paused.resume()
    network.run(2.0)
    assert paused.singles == []
    assert [event.reason for event in paused.of_type(PeerLeft)] == [LossReason.EXPELLED]
    assert paused.core.stats().dropped[DropCause.STALE] == 5
    for node in (paused, other):
        assert len(node.of_type(PeerJoined)) == 2
    assert sessions_agree(paused, other)
    other.send(b"fresh", to=paused)
    network.run(0.1)
    assert paused.singles == [b"fresh"]


@pytest.mark.parametrize("seed", range(20))
def test_a_pause_that_only_the_other_side_takes_for_a_loss_delivers_nothing_stale(seed: int) -> None:
    """The other's last proof is older than ours, and our next timer far ahead: it fires hardly late."""
    network = SimNetwork(seed)
    lower, higher = network.pair()
    network.run(4.1 + 2 * network.random.random())
    for _ in range(3):
        lower.send(b"proof", to=higher)  # proves to the lower side that it is heard, and to the other nothing
        network.run(network.random.random())
    network.run(0.1)
    lower.pause()
    higher.send(b"stale", to=lower, timeout=None)
    network.run_until(lambda: higher.of_type(PeerLeft) != [])
    network.run(0.1)
    lower.resume()
    network.run(2.0)
    assert lower.singles == []
    assert lower.core.stats().dropped[DropCause.STALE] == 1
    assert sessions_agree(lower, higher)


def test_nothing_is_delivered_before_the_peer_has_answered() -> None:
    network = SimNetwork(5, latency_s=0.05)
    lower, higher = network.pair()
    lower.accepts = False
    higher.open_stream(lower, timeout=0.5)  # a timer that is to be late
    lower.send(b"proof", to=higher)
    network.run(0.4)
    higher.pause()
    lower.send(b"held", to=higher)
    network.run(3.2)
    higher.resume()
    network.run(0.09)  # less than a round trip
    session = higher.core.session(lower.address)
    assert session is not None
    assert session.liveness.is_confirming
    assert higher.singles == [b"proof"]
    network.run(1.2)  # the lower side has cut its stuck link meanwhile
    assert higher.singles == [b"proof", b"held"]
    assert higher.of_type(PeerLeft) == lower.of_type(PeerLeft) == []


def test_the_other_side_may_have_given_up_while_this_one_has_not() -> None:
    network = SimNetwork(7)
    lower, higher = network.pair()
    network.run(1.0)
    network.part(lower, higher)  # they would notice at the same time
    network.run(1.0)
    lower.pause()
    network.run(10.0)
    network.heal()
    lower.resume()
    network.run(6.0)
    assert [event.reason for event in higher.of_type(PeerLeft)] == [LossReason.SILENT]
    assert len(lower.of_type(PeerLeft)) == 1
    assert sessions_agree(lower, higher)


@pytest.mark.parametrize("seed", range(10))
def test_a_change_of_name_is_told_once_on_each_side(seed: int) -> None:
    network = SimNetwork(seed)
    lower, higher = network.pair(name="before")
    lower.core.announce("after", b"metadata", network.now)
    network.run(1.0)
    names = [event.peer.name for event in higher.of_type(PeerChanged)]
    assert names[-1] == "after"
    assert names.count("after") == 1
    assert higher.core.peers[0].metadata == b"metadata"
    assert lower.core.peers[0].name == "before"


# Datagrams


def test_a_change_of_the_datagrams_path_is_told_and_push_had_while_it_is_wanted() -> None:
    host = Host()
    port = Port()
    host.plane = DatagramPlane(port)
    link = host.link()
    index_and_key = {"datagram_index": 5, "datagram_key": bytes(32)}
    told = dataclasses.replace(info(), udp_places="127.0.0.2:5", pull_places="127.0.0.2:6", **index_and_key)
    host.hear(link, told)
    (joined,) = host.events
    assert joined.peer.path.datagram is DatagramPath.NONE
    port.time = 100.0
    host.session.datagrams.send(Kind.UNRELIABLE, 0, 0, b"x")
    for now in (100.0, 100.2, 100.31):
        host.peering.expire(now)
    assert host.pushes == ["127.0.0.2:6"]
    host.peering.settle_datagrams()
    assert host.pushes == ["127.0.0.2:6"]
    host.hear_probed(link, token=1)
    assert [event.peer.path.datagram for event in host.events[1:]] == [DatagramPath.UDP]
    assert host.peering.snapshot().path.datagram is DatagramPath.UDP
    port.time = 100.4
    for now in (101.0, 111.0, 121.0):
        host.peering.expire(now) if host.peering.session else None
    host.peering.end(LossReason.LEFT, PeerLost(reason="left"), 121.0)
    assert host.pushes[-1] == ""
    host.peering.settle_datagrams()
    assert len(host.pushes) == 2


def test_push_moves_with_the_peer() -> None:
    host = Host()
    host.plane = DatagramPlane(port := Port())
    link = host.link()
    told = dataclasses.replace(info(), pull_places="127.0.0.2:6", datagram_index=5, datagram_key=bytes(32))
    host.hear(link, told)
    port.time = 100.0
    host.session.datagrams.send(Kind.UNRELIABLE, 0, 0, b"x")
    host.peering.expire(100.0)
    for places in ("127.0.0.3:6", "127.0.0.3:6", ""):
        host.hear(link, dataclasses.replace(told, pull_places=places))
        host.peering.expire(100.0)
    assert host.pushes == ["127.0.0.2:6", "127.0.0.3:6", ""]


@pytest.mark.parametrize("is_linked", [True, False])
def test_a_peer_that_datagrams_do_not_reach_is_told_anew_who_we_are(is_linked: bool) -> None:
    host = Host()
    host.plane = DatagramPlane(port := Port())
    link = host.link()
    host.hear(
        link, dataclasses.replace(info(), udp_places="127.0.0.2:5", datagram_index=5, datagram_key=bytes(32))
    )
    host.said.clear()
    port.time = 100.0
    host.session.datagrams.send(Kind.UNRELIABLE, 0, 0, b"x")
    if not is_linked:
        host.peering.link_gone(link, 100.0)
    for tenth in range(1001, 1010):
        host.peering.expire(tenth / 10)
    assert len(host.said) == is_linked
    assert host.session.datagrams.is_settled


def test_a_session_without_push_ends_without_a_word_of_it() -> None:
    host = Host()
    host.joined()
    host.peering.end(LossReason.LEFT, PeerLost(reason="left"), 100.0)
    host.peering.settle_datagrams()
    assert host.pushes == []


# Told to the node


def test_what_a_peer_says_of_itself_is_told_to_the_node_each_time_it_says_it() -> None:
    host = Host()
    link = host.link()
    (said,) = [frame for _, frame in host.said]
    assert said.tcp_places == host.tcp_places
    host.hear(link, info())
    assert isinstance(host.events[-1], PeerJoined)
    again = dataclasses.replace(info(name="another"), tcp_places="192.0.2.9:4000")
    host.hear(link, again)
    assert host.introductions == [(link.id, info()), (link.id, again)]
    assert host.partings == []


def test_the_node_is_told_that_a_peer_is_gone_if_it_was_there() -> None:
    host = Host()
    host.link()
    host.peering.end(LossReason.SILENT, PeerLost(reason="silent"), 100.0)
    assert host.partings == []
    host.joined()
    host.peering.end(LossReason.SILENT, PeerLost(reason="silent"), 100.0)
    assert host.partings == [LossReason.SILENT]
