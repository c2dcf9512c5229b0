"""The node's core against a peer that says exactly what the test wants it to say, byte by byte."""

from __future__ import annotations

from typing import Any

import pytest

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.errors import (
    BusClosed,
    DeliveryUnknown,
    PeerLost,
    PeerRefused,
    UnknownPeer,
    UsageError,
    VersionMismatch,
)
from brokerless.model import (
    DropCause,
    LossReason,
    MessageReceived,
    PeerChanged,
    PeerJoined,
    PeerLeft,
    PeerState,
    Reliability,
    ReliablePath,
    SendDone,
    StreamEnded,
    StreamOffered,
    StreamOpened,
)
from brokerless.protocol import wire
from brokerless.protocol.actions import Action, Admit, Confirm, Cut, Dial, Refused, Superseded
from brokerless.protocol.core import ADMIT_HELD_BYTES_MAX, LAST_WORD_S, NodeCore
from brokerless.protocol.handshake import Handshake, Role, State

KEY = b"k" * 32
OURS = Address(b"\x50" * 32)
LOWER = Address(b"\x10" * 32)
HIGHER = Address(b"\x90" * 32)
OTHER = Address(b"\xa0" * 32)
PLACE = "tcp://127.0.0.1:1"
LIMITS = Limits()


class Host:
    """A core, and the shell that it believes in."""

    def __init__(self, limits: Limits = LIMITS, address: Address = OURS, **options: Any) -> None:
        self.now = 100.0
        self.wakes = 0
        self.core = NodeCore(
            address=address, boot=77, mesh_key=KEY, limits=limits, wake=self._wake, name="ours", **options
        )
        self.events: list[Any] = []
        self.actions: list[Action] = []

    def _wake(self) -> None:
        self.wakes += 1

    def settle(self) -> None:
        self.events += self.core.take_events()
        self.actions += self.core.take_actions()

    def wait(self, seconds: float) -> None:
        """Let time pass as a shell would: by every deadline on the way."""
        end = self.now + seconds
        while (deadline := self.core.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.core.expire(self.now)
            self.settle()
        self.now = end

    def of_type(self, kind: type) -> list[Any]:
        self.settle()
        return [item for item in (*self.events, *self.actions) if isinstance(item, kind)]

    def cut(self, link: int) -> str | None:
        """Say why the link was cut, None if it was not."""
        return next((action.reason for action in self.of_type(Cut) if action.link == link), None)


class Raw:
    """A peer of the host that keeps no rules but those it is told to."""

    def __init__(
        self, host: Host, address: Address = HIGHER, link: int = 1, *, key: bytes = KEY, version: int = 1
    ) -> None:
        self.host = host
        self.address = address
        self.link = link
        self.key = key
        self.version = version
        self.boot = 1000 + link
        self.heard: list[Any] = []
        self.raw: list[bytes] = []
        self.sent = 0

    def dial(self) -> Raw:
        """Connect to the host and say HELLO."""
        self.host.core.link_opened(self.link, self.address, self.host.now)
        self.hand = self._handshake(Role.DIALLER)
        hello = self.hand.start()
        assert hello is not None
        return self.say(hello)

    def answer(self) -> Raw:
        """Be dialled by the host, which says HELLO, and answer it."""
        self.host.core.dialled(self.link, self.address, PLACE, self.host.now)
        self.host.core.link_opened(self.link, self.address, self.host.now)
        self.hand = self._handshake(Role.ACCEPTOR)
        hello = self.host.core.next_message(self.link, self.host.now)
        assert hello is not None
        for reply in self.hand.receive(hello):
            self.say(reply)
        return self

    def _handshake(self, role: Role) -> Handshake:
        return Handshake(role, mesh_key=self.key, local=self.address, remote=OURS, versions=(self.version,))

    def say(self, data: bytes) -> Raw:
        self.host.core.link_message(self.link, data, self.host.now)
        self.host.settle()
        return self

    def listen(self) -> Raw:
        """Take what the host has for this link."""
        while (data := self.host.core.next_message(self.link, self.host.now)) is not None:
            self.raw.append(data)
            if self.hand.state is State.AWAIT_HELLO:
                self.hand.receive(data)
            else:
                self.heard.append(wire.decode_packet(data))
        return self

    @property
    def frames(self) -> list[Any]:
        self.listen()
        return [frame for packet in self.heard for frame in packet.frames]

    def info(self, epoch: int = 1, theirs: tuple[int, int] = (0, 0), received: int = 0, **more: Any) -> Raw:
        said = wire.Info(
            boot=self.boot,
            epoch=epoch,
            their_boot=theirs[0],
            their_epoch=theirs[1],
            received=received,
            **{
                "message_bytes_max": 1_000_000,
                "stream_credit": 65536,
                "single_credit": 65536,
                "streams_max": 100,
                "liveness_ms": 5000,
                "name": "raw",
                **more,
            },
        )
        return self.say(wire.encode_packet(0, 0, [wire.encode_info(said)]))

    def join(self) -> Raw:
        return self.dial().listen().info().listen()

    def frame(self, *frames: Any) -> Raw:
        """Send frames in one numbered packet."""
        self.sent += 1
        encoded = [
            wire.encode_data(*frame) if isinstance(frame, wire.Data) else wire.encode_control(frame)
            for frame in frames
        ]
        return self.say(wire.encode_packet(self.sent, self.acknowledged, encoded))

    @property
    def acknowledged(self) -> int:
        return max((packet.number for packet in self.listen().heard), default=0)

    def unnumbered(self, *frames: Any) -> Raw:
        return self.say(wire.encode_packet(0, self.acknowledged, map(wire.encode_control, frames)))


def single(host: Host, to: Address, data: bytes = b"x", timeout: float | None = 10.0) -> int:
    deadline = None if timeout is None else host.now + timeout
    return host.core.send(data, to, Reliability.RELIABLE, 0, deadline, host.now)


# Joining


def test_a_peer_that_dials_proves_itself_and_joins() -> None:
    host = Host()
    peer = Raw(host).join()
    assert host.of_type(PeerJoined)[0].peer.name == "raw"
    assert host.of_type(Confirm) == [Confirm(1)]
    assert host.core.peer(HIGHER) == host.core.peers[0]
    assert host.core.peers[0].state is PeerState.ALIVE
    assert host.core.peers[0].path.reliable is ReliablePath.TCP
    assert [frame.name for frame in peer.frames if isinstance(frame, wire.Info)] == ["ours"]
    assert host.core.stats().peers == 1
    assert host.core.stats().links == 1


def test_a_link_within_the_host_is_shown_as_such() -> None:
    host = Host()
    host.core.link_opened(1, HIGHER, host.now, is_local=True)
    peer = Raw(host)
    peer.hand = peer._handshake(Role.DIALLER)
    peer.say(peer.hand.start() or b"").listen().info()
    assert host.core.peers[0].path.reliable is ReliablePath.IPC


def test_a_peer_that_is_dialled_joins() -> None:
    host = Host()
    host.core.learn(HIGHER, "zeroconf", (PLACE,), 5, host.now)
    assert host.of_type(PeerChanged)[0].peer.state is PeerState.JOINING
    host.wait(0.0)
    assert host.of_type(Dial) == [Dial(HIGHER, PLACE)]
    Raw(host).answer().info()
    assert host.of_type(PeerJoined)
    host.wait(1.0)
    assert len(host.of_type(Dial)) == 1


def test_nothing_is_told_before_the_proof() -> None:
    host = Host()
    peer = Raw(host, key=b"w" * 32).dial().listen()
    assert peer.hand.state is State.REFUSED
    assert all(b"ours" not in data for data in peer.raw)
    assert host.core.peers == ()
    assert host.core.stats().handshakes_refused == 1
    host.wait(LAST_WORD_S)
    assert host.cut(1) == "done"
    assert host.core.stats().links == 0


def test_who_waits_for_a_peer_that_refuses_need_not_wait() -> None:
    host = Host()
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    sent = single(host, HIGHER)
    stream = host.core.open_stream(HIGHER, Reliability.RELIABLE, "", b"", None, host.now)
    Raw(host, key=b"w" * 32).answer()
    (done,) = host.of_type(SendDone)
    assert done.send_id == sent
    assert isinstance(done.error, PeerRefused)
    (ended,) = host.of_type(StreamEnded)
    assert ended.stream is stream
    assert isinstance(ended.error, PeerRefused)
    assert isinstance(host.of_type(Refused)[0].error, PeerRefused)
    assert host.cut(1) is not None


def test_a_refusal_ends_no_session_that_stands() -> None:
    host = Host()
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    Raw(host).join()
    Raw(host, link=2, key=b"w" * 32).answer()
    assert host.of_type(Refused)
    assert host.of_type(PeerLeft) == []


def test_a_refusal_of_a_peer_that_nobody_waits_for_is_only_told() -> None:
    host = Host()
    Raw(host, key=b"w" * 32).answer()
    assert len(host.of_type(Refused)) == 1
    assert host.events == []


def test_no_common_version_names_both() -> None:
    host = Host()
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    single(host, HIGHER)
    Raw(host, version=9).answer()
    (done,) = host.of_type(SendDone)
    assert isinstance(done.error, VersionMismatch)
    assert "9" in done.error.reason
    assert "1" in done.error.reason


def test_only_the_listed_are_let_in_or_dialled() -> None:
    host = Host(allowed=frozenset({HIGHER}))
    stranger = Raw(host, OTHER, 1).dial().listen()
    assert stranger.hand.refusal is not None
    assert "list" in stranger.hand.refusal.reason
    host.core.learn(OTHER, "zeroconf", (PLACE,), 5, host.now)
    assert host.core.peers == ()
    Raw(host, HIGHER, 2).join()
    assert host.core.stats().peers == 1


def test_a_full_node_takes_no_more_but_those_it_knows() -> None:
    host = Host(Limits(peers_max=1))
    Raw(host, HIGHER, 1).join()
    stranger = Raw(host, OTHER, 2).dial().listen()
    assert stranger.hand.refusal is not None
    assert "enough" in stranger.hand.refusal.reason
    again = Raw(host, HIGHER, 3).dial().listen()
    assert again.hand.state is State.DONE


def test_a_node_talks_neither_to_itself_nor_dials_itself() -> None:
    host = Host()
    host.core.link_opened(1, OURS, host.now)
    assert host.cut(1) == "it is our own"
    host.core.learn(OURS, "registry", (PLACE,), 5, host.now)
    assert host.core.peers == ()
    assert host.core.next_deadline() is None


# Links that are not what they should be


def test_what_comes_of_no_link_is_ignored() -> None:
    host = Host()
    host.core.link_message(5, b"anything", host.now)
    host.core.link_closed(5, "gone", host.now)
    host.core.admitted(5, None, host.now)
    assert host.core.next_message(5, host.now) is None
    host.core.dialled(6, HIGHER, PLACE, host.now)
    host.core.link_message(6, b"before it is connected", host.now)
    host.core.admitted(6, None, host.now)
    assert host.core.stats().links == 1
    assert not host.core.has_output


def test_a_dialled_link_is_opened_once() -> None:
    host = Host()
    peer = Raw(host).answer()
    peer.listen()
    heard = len(peer.raw)
    host.core.link_opened(1, HIGHER, host.now)
    assert len(peer.listen().raw) == heard


@pytest.mark.parametrize(
    ("go", "awaited"),
    [
        (lambda host: host.core.dialled(1, HIGHER, PLACE, host.now), "connection"),
        (lambda host: host.core.link_opened(1, HIGHER, host.now), "hello"),
        (lambda host: Raw(host).dial(), "info"),
    ],
)
def test_a_link_that_does_not_go_on_is_cut(go: Any, awaited: str) -> None:
    host = Host()
    go(host)
    host.wait(LIMITS.handshake_timeout_s - 0.01)
    assert host.cut(1) is None
    host.wait(0.02)
    assert host.cut(1) == f"no {awaited} in time"
    assert host.core.stats().links == 0


def test_a_ready_link_has_no_deadline_but_the_sessions() -> None:
    host = Host()
    peer = Raw(host).join()
    for _ in range(40):
        host.wait(1.0)
        for frame in peer.frames:
            if isinstance(frame, wire.Ping):
                peer.unnumbered(wire.Pong(frame.token))
        peer.heard.clear()
    assert host.cut(1) is None


def test_a_malformed_hello_is_cut_and_counted() -> None:
    host = Host()
    host.core.link_opened(1, HIGHER, host.now)
    host.core.link_message(1, b"GET / HTTP/1.1", host.now)
    assert host.cut(1) is not None
    assert host.core.stats().handshakes_refused == 1
    assert host.core.peers == ()


def test_what_came_of_a_session_that_is_over_is_ignored_before_info() -> None:
    host = Host()
    peer = Raw(host).dial().listen()
    peer.frame(wire.Data(0, 1, 0, [b"early"]))
    peer.say(wire.encode_packet(0, 0, []))
    assert host.cut(1) is None
    peer.sent = 0
    peer.info()
    assert host.of_type(PeerJoined)
    assert host.of_type(MessageReceived) == []


def test_a_fault_ends_only_that_peers_conversation() -> None:
    host = Host()
    bad, good = Raw(host, HIGHER, 1).join(), Raw(host, OTHER, 2).join()
    single(host, HIGHER)
    bad.listen().say(b"\0" * 40)
    (left,) = host.of_type(PeerLeft)
    assert (left.peer.address, left.reason) == (HIGHER, LossReason.EXPELLED)
    (done,) = host.of_type(SendDone)
    assert isinstance(done.error, DeliveryUnknown)
    assert isinstance(done.error.__cause__, PeerLost)
    (word,) = [frame for frame in bad.frames if isinstance(frame, wire.Goodbye)]
    assert word.code == wire.Farewell.FAULT
    good.frame(wire.Data(0, 1, 0, [b"still here"]))
    assert [event.message.data for event in host.of_type(MessageReceived)] == [b"still here"]
    assert host.core.peer(HIGHER) is None


def test_an_acknowledgement_of_what_was_never_sent_is_a_fault_also_in_info() -> None:
    host = Host()
    peer = Raw(host).dial().listen().info(received=3)
    (word,) = [frame for frame in peer.frames if isinstance(frame, wire.Goodbye)]
    assert word.code == wire.Farewell.FAULT


def test_after_its_last_word_a_link_waits_for_the_others_and_takes_nothing_else() -> None:
    host = Host()
    one, other = Raw(host, HIGHER, 1).join(), Raw(host, OTHER, 2).join()
    host.core.farewell(host.now)
    host.settle()
    assert not host.core.has_parted
    one.say(b"garbage").frame(wire.Data(0, 1, 0, [b"late"]))
    assert host.cut(1) is None
    one.unnumbered(wire.Goodbye(wire.Farewell.LEFT, ""))
    assert host.cut(1) == "both have said goodbye"
    assert not host.core.has_parted
    other.listen()
    host.wait(LAST_WORD_S)
    assert host.cut(2) == "done"
    assert host.core.has_parted
    assert host.of_type(MessageReceived) == []


# Admission


def test_a_peer_is_asked_about_and_what_it_said_meanwhile_is_kept() -> None:
    host = Host(asks_admission=True)
    peer = Raw(host).dial().listen().info(metadata=b"m")
    (question,) = host.of_type(Admit)
    assert (question.link, question.peer.name, question.peer.metadata) == (1, "raw", b"m")
    peer.frame(wire.Data(0, 1, 0, [b"patient"]))
    assert host.of_type(PeerJoined) == []
    host.core.admitted(1, None, host.now)
    assert host.of_type(PeerJoined)
    assert [event.message.data for event in host.of_type(MessageReceived)] == [b"patient"]
    host.core.admitted(1, "too late to say no", host.now)
    assert host.of_type(PeerLeft) == []


def test_a_peer_that_is_not_admitted_hears_why() -> None:
    host = Host(asks_admission=True)
    peer = Raw(host).dial().listen().info()
    host.core.admitted(1, "not today", host.now)
    (word,) = [frame for frame in peer.frames if isinstance(frame, wire.Goodbye)]
    assert (word.code, word.reason) == (wire.Farewell.REFUSED, "not today")
    assert host.of_type(PeerJoined) == []
    assert host.core.stats().handshakes_refused == 1


def test_nobody_deciding_is_a_no() -> None:
    host = Host(asks_admission=True)
    peer = Raw(host).dial().listen().info()
    host.wait(LIMITS.admit_timeout_s - 0.01)
    assert host.core.stats().handshakes_refused == 0
    host.wait(0.02)
    (word,) = [frame for frame in peer.frames if isinstance(frame, wire.Goodbye)]
    assert word.code == wire.Farewell.REFUSED


def test_too_much_before_admission_is_cut() -> None:
    host = Host(asks_admission=True)
    peer = Raw(host).dial().listen().info()
    data = bytes(64 * 1024)
    for _ in range(ADMIT_HELD_BYTES_MAX // len(data)):
        peer.say(data)
    assert host.cut(1) is None
    peer.say(b"x")
    assert host.cut(1) == "too much came before admission"


def test_who_is_admitted_must_still_keep_the_rules() -> None:
    host = Host(asks_admission=True)
    peer = Raw(host).dial().listen().info(received=3)
    peer.frame(wire.Data(0, 1, 0, [b"never"]))
    host.core.admitted(1, None, host.now)
    assert any(isinstance(frame, wire.Goodbye) for frame in peer.frames)
    assert host.of_type(MessageReceived) == []


# Discovery and dialling


def test_who_is_no_longer_heard_of_is_forgotten() -> None:
    host = Host()
    host.core.learn(HIGHER, "zeroconf", (PLACE,), 5, host.now)
    assert host.core.peer(HIGHER) is not None
    host.core.learn(HIGHER, "zeroconf", (), 5, host.now)
    assert host.core.peer(HIGHER) is None
    host.core.learn(OTHER, "zeroconf", (), 5, host.now)
    assert host.core.peers == ()


def test_hearing_of_a_peer_again_is_no_news() -> None:
    host = Host()
    for _ in range(3):
        host.core.learn(HIGHER, "zeroconf", (PLACE,), 5, host.now)
    assert len(host.of_type(PeerChanged)) == 1


def test_a_passer_by_leaves_nothing_behind() -> None:
    host = Host()
    for link in range(1, 20):
        Raw(host, Address(bytes([200 + link]) * 32), link).join()
        host.core.link_closed(link, "gone", host.now)
    host.wait(LIMITS.liveness_s + LAST_WORD_S)
    assert host.core.peers == ()
    assert host.core._peers == {}
    assert host.core._links == {}


def test_a_dial_that_cannot_be_tried_is_tried_again() -> None:
    host = Host()
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    host.wait(0.0)
    host.core.dial_failed(HIGHER, PLACE, host.now)
    host.wait(LIMITS.redial_min_s)
    assert host.of_type(Dial) == [Dial(HIGHER, PLACE)] * 2


def test_a_needless_dial_is_cut_and_the_lower_side_cuts_the_older_link() -> None:
    host = Host()
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    host.core.dialled(1, HIGHER, PLACE, host.now)
    first = Raw(host, HIGHER, 2)
    first.join()
    assert host.cut(1) == "another link serves"
    second = Raw(host, HIGHER, 3)
    second.boot = first.boot
    second.dial().listen().info(theirs=(77, 1))
    assert host.cut(2) == "another link serves"
    assert host.cut(3) is None
    assert host.of_type(PeerLeft) == []


def test_a_dial_that_is_needless_by_now_is_not_taken_for_a_new_link() -> None:
    host = Host()
    host.core.dialled(1, HIGHER, PLACE, host.now)
    host.settle = lambda: None  # type: ignore[method-assign] - the shell is busy
    Raw(host, HIGHER, 2).join()
    host.core.link_opened(1, HIGHER, host.now)  # connected before it came to cut it
    assert host.core.stats().links == 1
    assert Cut(1, "another link serves") in host.core.take_actions()


def test_the_higher_side_leaves_the_older_link_to_the_other() -> None:
    host = Host()
    first = Raw(host, LOWER, 1).join()
    second = Raw(host, LOWER, 2)
    second.boot = first.boot
    second.dial().listen().info(theirs=(77, 1))
    assert host.cut(1) is None
    assert host.core.stats().links == 2


def test_beyond_the_eager_limit_a_peer_is_dialled_on_first_use() -> None:
    host = Host(Limits(eager_dials_max=1))
    for address in (HIGHER, OTHER):
        host.core.learn(address, "zeroconf", (PLACE,), 5, host.now)
    host.wait(0.0)
    assert [dial.remote for dial in host.of_type(Dial)] == [HIGHER]
    host.core.want(OTHER, host.now)
    host.core.want(LOWER, host.now)  # never heard of
    host.wait(0.0)
    assert [dial.remote for dial in host.of_type(Dial)] == [HIGHER, OTHER]


# Commands


def test_nobody_can_be_sent_to_who_is_unknown_or_lost() -> None:
    host = Host()
    with pytest.raises(UnknownPeer):
        single(host, HIGHER)
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    peer = Raw(host).join()
    peer.unnumbered(wire.Goodbye(wire.Farewell.LEFT, "bye"))
    assert host.of_type(PeerLeft)[0].reason is LossReason.LEFT
    with pytest.raises(PeerLost) as lost:
        host.core.open_stream(HIGHER, Reliability.RELIABLE, "", b"", None, host.now)
    assert lost.value.reason == "left"


@pytest.mark.parametrize("reliability", [Reliability.UNRELIABLE, Reliability.SEQUENCED])
def test_what_is_not_there_yet_is_said(reliability: Reliability) -> None:
    host = Host()
    Raw(host).join()
    with pytest.raises(UsageError, match="not available"):
        host.core.send(b"", HIGHER, reliability, 0, None, host.now)
    with pytest.raises(UsageError, match="not available"):
        host.core.open_stream(HIGHER, reliability, "", b"", None, host.now)


def test_messages_wait_for_the_peer_and_are_acknowledged() -> None:
    host = Host()
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    first, second = single(host, HIGHER, b"one"), single(host, HIGHER, b"two")
    assert first != second
    assert not host.core.is_drained
    peer = Raw(host).join()
    assert [frame.messages for frame in peer.frames if isinstance(frame, wire.Data)] == [[b"one", b"two"]]
    assert host.of_type(SendDone) == []
    peer.unnumbered()
    assert host.of_type(SendDone) == [SendDone(first, None), SendDone(second, None)]
    assert host.core.is_drained


def test_a_message_that_never_left_ends_at_its_time() -> None:
    host = Host()
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    sent = single(host, HIGHER, timeout=2.0)
    host.wait(1.99)
    assert host.of_type(SendDone) == []
    host.wait(0.02)
    (done,) = host.of_type(SendDone)
    assert done.send_id == sent
    assert type(done.error).__name__ == "SendTimeout"


def test_an_offer_is_accepted_once_and_not_when_it_is_over() -> None:
    host = Host()
    peer = Raw(host).join()
    peer.frame(wire.Open(1, 0, "a", b"", 65536), wire.Open(3, 0, "b", b"", 65536))
    one, other = (event.offer.stream for event in host.of_type(StreamOffered))
    host.core.accept(one, b"yes")
    assert [frame.metadata for frame in peer.frames if isinstance(frame, wire.Accept)] == [b"yes"]
    other.reject(7, "no")
    host.core.accept(other, b"yes")
    assert [event.stream for event in host.of_type(StreamOpened)] == [one]
    peer.unnumbered(wire.Goodbye(wire.Farewell.LEFT, ""))
    host.core.accept(one, b"again")  # of a session that is over
    assert len(host.of_type(StreamOpened)) == 1


def test_a_new_name_is_told_on_every_ready_link() -> None:
    host = Host()
    ready, waiting = Raw(host, HIGHER, 1).join(), Raw(host, OTHER, 2).dial().listen()
    ready.heard.clear()
    waiting.heard.clear()
    host.core.announce("renamed", b"new", host.now)
    (told,) = [frame for frame in ready.frames if isinstance(frame, wire.Info)]
    assert (told.name, told.metadata) == ("renamed", b"new")
    assert waiting.frames == []


def test_a_peers_new_name_is_told_upward() -> None:
    host = Host()
    Raw(host).join().info(theirs=(77, 1), name="other").info(theirs=(77, 1), name="other")
    assert [event.peer.name for event in host.of_type(PeerChanged)] == ["other"]


# Time


def test_a_silent_peer_is_suspect_then_lost_and_told_so() -> None:
    host = Host()
    peer = Raw(host).join()
    host.wait(2.6)
    assert host.core.peers[0].state is PeerState.SUSPECT
    host.wait(2.5)
    (left,) = host.of_type(PeerLeft)
    assert left.reason is LossReason.SILENT
    assert any(isinstance(frame, wire.Goodbye) for frame in peer.frames)


def test_a_suspect_is_dialled_a_second_time() -> None:
    host = Host()
    host.core.learn(HIGHER, "ticket", (PLACE,), 0, host.now)
    Raw(host).join()
    assert host.of_type(Dial) == []
    host.wait(2.6)
    assert host.of_type(Dial)[0] == Dial(HIGHER, PLACE)


def test_after_a_stall_nothing_is_delivered_before_the_peer_has_answered() -> None:
    host = Host()
    peer = Raw(host).join()
    host.now += 60.0
    host.core.stalled(host.now)
    peer.frame(wire.Data(0, 1, 0, [b"old"]))
    host.wait(0.0)
    assert host.of_type(PeerLeft) == []
    assert host.of_type(MessageReceived) == []
    ping = [frame for frame in peer.frames if isinstance(frame, wire.Ping)][-1]
    peer.unnumbered(wire.Pong(ping.token))
    assert [event.message.data for event in host.of_type(MessageReceived)] == [b"old"]


def test_what_ended_sessions_have_dropped_stays_counted() -> None:
    host = Host()
    peer = Raw(host).join()
    peer.frame(wire.Data(0, 1, 0, [b"once"]))
    peer.sent = 0
    peer.frame(wire.Data(0, 1, 0, [b"once"]))
    assert host.core.stats().dropped == {DropCause.DUPLICATE: 1}
    peer.unnumbered(wire.Goodbye(wire.Farewell.LEFT, ""))
    assert host.core.stats().dropped == {DropCause.DUPLICATE: 1}
    assert len(host.of_type(MessageReceived)) == 1


def test_the_shortest_liveness_in_force_is_known() -> None:
    host = Host()
    assert host.core.liveness_s == LIMITS.liveness_s
    Raw(host).dial().listen().info(liveness_ms=1500)
    assert host.core.liveness_s == 1.5


# The end


def test_two_processes_with_one_identity() -> None:
    host = Host()
    old = Raw(host, HIGHER, 1).join()
    new = Raw(host, HIGHER, 2).dial().listen().info()
    (word,) = [frame for frame in old.frames if isinstance(frame, wire.Goodbye)]
    assert word.code == wire.Farewell.SUPERSEDED
    assert host.of_type(PeerLeft)[0].reason is LossReason.RESTARTED
    told = [frame for frame in new.frames if isinstance(frame, wire.Info)][-1]
    new.info(theirs=(told.boot, told.epoch))
    assert len(host.of_type(PeerJoined)) == 2
    old_host = Host()
    Raw(old_host).join().unnumbered(wire.Goodbye(wire.Farewell.SUPERSEDED, "newer"))
    assert old_host.of_type(Superseded) == [Superseded()]


def test_leaving_drains_then_says_goodbye_to_everybody() -> None:
    host = Host()
    peer = Raw(host).join()
    stream = host.core.open_stream(HIGHER, Reliability.RELIABLE, "s", b"", None, host.now)
    single(host, HIGHER)
    host.core.leave(host.now + 5.0)
    assert not host.core.is_drained
    peer.listen().frame(wire.Open(1, 0, "late", b"", 65536))
    assert [frame.stream_id for frame in peer.frames if isinstance(frame, wire.Reject)] == [1]
    peer.frame(wire.Reject(stream.id, 5, "no"))
    peer.listen().unnumbered()
    assert host.core.is_drained
    host.core.farewell(host.now)
    assert [frame.code for frame in peer.frames if isinstance(frame, wire.Goodbye)] == [wire.Farewell.LEFT]
    assert host.of_type(PeerLeft)[0].reason is LossReason.LEFT
    host.core.link_opened(9, OTHER, host.now)
    assert host.cut(9) == "too late"


def test_what_is_under_way_at_the_farewell_is_unknown() -> None:
    host = Host()
    peer = Raw(host).join()
    single(host, HIGHER)
    peer.listen()
    host.core.farewell(host.now)
    (done,) = host.of_type(SendDone)
    assert isinstance(done.error, DeliveryUnknown)
    assert isinstance(done.error.__cause__, BusClosed)


def test_who_leaves_dials_only_whom_it_still_has_something_to_tell() -> None:
    host = Host()
    for address in (HIGHER, OTHER):
        host.core.learn(address, "ticket", (PLACE,), 0, host.now)
    single(host, HIGHER)
    host.core.leave(None)
    host.wait(0.0)
    assert [dial.remote for dial in host.of_type(Dial)] == [HIGHER]


def test_a_link_cut_by_another_deadline_of_the_same_moment_is_no_trouble() -> None:
    host = Host()
    Raw(host).join()
    Raw(host, link=2).dial()  # says no INFO, and is cut with the session at the moment when its time is up
    host.now += LIMITS.handshake_timeout_s
    host.core.expire(host.now)
    host.settle()
    assert host.of_type(PeerLeft)
    assert [action.link for action in host.of_type(Cut)].count(2) == 1


def test_a_deadline_of_somebody_forgotten_is_no_trouble() -> None:
    host = Host()
    peer = Raw(host).join()
    host.wait(0.0)  # its first deadline is set
    peer.unnumbered(wire.Goodbye(wire.Farewell.LEFT, ""))
    host.core.link_closed(1, "gone", host.now)
    assert host.core._peers == {}
    host.wait(2 * LIMITS.liveness_s)
    assert len(host.of_type(PeerLeft)) == 1


def test_every_session_is_among_the_sessions() -> None:
    host = Host()
    Raw(host).join()
    host.core.learn(OTHER, "ticket", (PLACE,), 0, host.now)
    assert [session.remote for session in host.core.sessions] == [HIGHER]
    single(host, OTHER)
    assert [session.remote for session in host.core.sessions] == [HIGHER, OTHER]


def test_a_command_wakes_the_shell() -> None:
    host = Host()
    peer = Raw(host).join()
    peer.listen()
    host.core.take_sendable()
    before = host.wakes
    single(host, HIGHER)
    assert host.wakes > before
    assert host.core.has_output
    assert host.core.take_sendable() == [1]
    assert not host.core.has_output
