"""Datagrams between whole nodes in virtual time: bad networks, blocked ones, and peers that come and go."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from brokerless.config import Limits
from brokerless.errors import NoPath
from brokerless.model import (
    DatagramPath,
    DropCause,
    PeerJoined,
    PeerLeft,
    Reliability,
    SendDone,
    UnreliableWaiting,
)
from brokerless.testing.sim_datagrams import Weather
from brokerless.testing.simulation import SimNetwork, SimNode
from tests.protocol.datagram_ends import ELSEWHERE

if TYPE_CHECKING:
    from brokerless.protocol.datagrams import Datagrams

SEEDS = pytest.mark.parametrize("seed", range(8))
ROUGH = Weather(loss=0.2, reordering=0.3, duplication=0.1)
KINDS = (Reliability.UNRELIABLE, Reliability.SEQUENCED)
T = 5.0


def pair(seed: int, **options: object) -> tuple[SimNetwork, SimNode, SimNode]:
    """Return two nodes that have joined, and know their paths."""
    network = SimNetwork(seed)
    one, other = network.pair(has_datagrams=True, **options)
    network.run(1.0)
    return network, one, other


def datagrams(node: SimNode, other: SimNode) -> Datagrams:
    session = node.core.session(other.address)
    assert session is not None
    return session.datagrams


def path(node: SimNode, other: SimNode) -> DatagramPath:
    peer = node.core.peer(other.address)
    assert peer is not None
    return peer.path.datagram


def test_a_message_arrives_although_it_overtakes_the_introduction_of_its_sender() -> None:
    overtook = 0
    for seed in range(20):
        network = SimNetwork(seed)
        one, other = (network.add(has_datagrams=True) for _ in range(2))
        one.learn(other)
        network.run_until(lambda: one.of_type(PeerJoined))  # noqa: B023 - called here and now
        one.send(b"at once", other, reliability=Reliability.UNRELIABLE)
        overtook += not other.of_type(PeerJoined)
        network.run(1.0)
        assert [message.data for message in other.unreliable] == [b"at once"]
        told = [event for event in other.events if isinstance(event, PeerJoined | UnreliableWaiting)]
        assert isinstance(told[0], PeerJoined)
    assert overtook


class Ticker:
    """Sends a numbered message every 20 ms, and knows when each came."""

    def __init__(
        self,
        network: SimNetwork,
        sender: SimNode,
        receiver: SimNode,
        reliability: Reliability = Reliability.UNRELIABLE,
    ) -> None:
        self.network = network
        self.sender = sender
        self.receiver = receiver
        self.reliability = reliability
        self.sent_at: list[float] = []
        self.arrivals: dict[int, float] = {}
        self.is_stopped = False
        self._tick()

    def _tick(self) -> None:
        if self.is_stopped:
            return
        self.network.at(self.network.now + 0.02, self._tick)
        if self.sender.core.peer(self.receiver.address) is not None:
            self.sender.send(b"%d" % len(self.sent_at), self.receiver, reliability=self.reliability)
        self.sent_at.append(self.network.now)
        self.note()

    def note(self) -> None:
        for message in self.receiver.unreliable:
            number = int(message.data)
            assert number not in self.arrivals, "delivered twice"
            self.arrivals[number] = message.received_at
        self.receiver.unreliable.clear()

    def arrived_since(self, number: int) -> int:
        self.note()
        return sum(one >= number for one in self.arrivals)

    def first_arrival_s(self, since: float) -> float:
        """Return how long after that time the first message sent after it arrived."""
        self.note()
        return (
            min(
                (at for number, at in self.arrivals.items() if self.sent_at[number] >= since),
                default=float("inf"),
            )
            - since
        )


# Bad weather


@SEEDS
def test_in_bad_weather_nothing_comes_twice_or_goes_backwards_and_what_arrives_is_delivered(
    seed: int,
) -> None:
    network, one, other = pair(seed)
    streams = {
        kind: [one.open_stream(other, f"{kind.value} {number}", reliability=kind) for number in range(2)]
        for kind in KINDS
    }
    network.run(0.1)
    network.datagrams.weather = ROUGH
    for number in range(400):
        for kind in KINDS:
            for channel in range(3):
                data = b"%d" % number + b" " * (5_000 if channel == 2 else 0)
                one.send(data, other, channel=channel, reliability=kind)
            for stream in streams[kind]:
                stream.send(b"%d" % number)
        network.run(0.005)
    network.run(0.1)
    lanes: dict[tuple[Reliability, object], list[int]] = defaultdict(list)
    for message in other.unreliable:
        lanes[message.reliability, message.channel].append(int(message.data))
    for stream, messages in other.received.items():
        lanes[stream.reliability, stream.name].extend(map(int, messages))
    assert len(lanes) == 10
    for (kind, lane), numbers in lanes.items():
        assert len(set(numbers)) == len(numbers), "delivered twice"
        if kind is Reliability.SEQUENCED:
            assert numbers == sorted(numbers), "went backwards"
        share = len(numbers) / 400
        if lane == 2:  # five datagrams each: a third of them come whole
            assert share > 0.05
        else:
            assert share > (0.7 if kind is Reliability.UNRELIABLE else 0.2)
        assert max(numbers) >= 380
    assert sum(kind is Reliability.SEQUENCED for kind, _ in lanes) == 5
    dropped = other.core.stats().dropped
    assert dropped[DropCause.DUPLICATE] > 0
    assert dropped[DropCause.LATE] > 0
    network.run(1.0)
    assert datagrams(other, one)._reassembly.byte_count == 0
    assert other.core.stats().dropped[DropCause.INCOMPLETE] > 0
    assert one.of_type(PeerLeft) == other.of_type(PeerLeft) == []


@SEEDS
def test_loss_is_known_at_both_ends(seed: int) -> None:
    network, one, other = pair(seed)
    ticker = Ticker(network, one, other)
    network.datagrams.weather = Weather(loss=0.2)
    network.run(20.0)
    stats = one.core.session(other.address).stats()  # type: ignore[union-attr]
    assert 0.1 < stats.loss_there < 0.3  # type: ignore[operator]
    peer = other.core.peer(one.address)
    assert peer is not None
    assert peer.loss == pytest.approx(stats.loss_there, abs=0.05)
    assert stats.datagram_rtt_s == pytest.approx(0.003, abs=0.002)
    assert ticker.arrived_since(0) > 700


# Paths


@SEEDS
def test_swallowed_udp_gives_way_to_push_within_2_s_and_is_back_within_10(seed: int) -> None:
    network, one, other = pair(seed)
    ticker = Ticker(network, one, other)
    network.run(5.0)
    assert path(one, other) is DatagramPath.UDP
    assert one.pushes == set()
    for _ in range(2):
        network.datagrams.weather.is_udp_blocked = True
        blocked_at = network.now
        network.run(10.0)
        assert ticker.first_arrival_s(blocked_at) <= 2.0
        assert path(one, other) is DatagramPath.PUSH
        before = len(ticker.sent_at)
        network.run(1.0)
        assert ticker.arrived_since(before) >= 48
        network.datagrams.weather.is_udp_blocked = False
        network.run_until(lambda: path(one, other) is DatagramPath.UDP, limit_s=10.0)
        network.datagrams.weather.is_push_blocked = True
        before = len(ticker.sent_at)
        network.run(5.0)
        assert ticker.arrived_since(before) >= 248
        network.datagrams.weather.is_push_blocked = False
    network.run(20.0)
    assert one.pushes == set()


@SEEDS
def test_where_nothing_works_a_send_fails_with_no_path_until_something_does(seed: int) -> None:
    network, one, other = pair(seed)
    ticker = Ticker(network, one, other)
    network.datagrams.weather = Weather(is_udp_blocked=True, is_push_blocked=True)
    network.run(5.0)
    assert path(one, other) is DatagramPath.NONE
    one.send(b"-1", other, reliability=Reliability.SEQUENCED)
    network.run(0.0)
    error = one.of_type(SendDone)[-1].error
    assert isinstance(error, NoPath)
    assert "let firewalls pass UDP" in error.hint
    assert one.core.stats().dropped[DropCause.NO_PATH] > 100
    assert one.of_type(PeerLeft) == []
    network.datagrams.weather = Weather()
    network.run_until(lambda: path(one, other) is not DatagramPath.NONE, limit_s=10.0)
    before = len(ticker.sent_at)
    network.run(1.0)
    assert ticker.arrived_since(before) >= 48


@SEEDS
def test_a_peer_that_moves_is_followed(seed: int) -> None:
    network, one, other = pair(seed)
    there, back = Ticker(network, one, other), Ticker(network, other, one)
    network.run(2.0)
    network.datagrams.move(one)
    before = len(back.sent_at)
    network.run(3.0)
    assert back.arrived_since(before) > 75
    assert there.arrived_since(before) >= 148
    before = len(back.sent_at)
    network.run(1.0)
    assert back.arrived_since(before) >= 48
    assert path(other, one) is DatagramPath.UDP


# Forgery and replay


def test_whatever_is_replayed_to_a_node_or_forged_does_nothing() -> None:
    network, one, other = pair(3)
    recorded: list[bytes] = []
    network.datagrams.tap = lambda sender, receiver, data: recorded.append(data) if sender is one else None
    ticker = Ticker(network, one, other)
    network.run(3.0)
    ticker.is_stopped = True
    network.run(15.0)
    assert ticker.arrived_since(0) == len(ticker.sent_at)
    network.datagrams.tap = None
    sent: list[bytes] = []
    home = network.datagrams.place_of(one)
    assert home is not None
    network.datagrams.tap = lambda sender, receiver, data: sent.append(data)
    targets = datagrams(other, one)._paths.targets(network.now)
    events, before = len(other.events), sum(other.core.stats().dropped.values())
    for place in (home, ELSEWHERE):
        for data in recorded:
            network.datagrams.inject(other, place, data)
            network.datagrams.inject(other, place, data[:-1] + bytes([data[-1] ^ 1]))
    network.run(0.5)
    assert (len(other.events), sent, other.unreliable) == (events, [], [])
    assert sum(other.core.stats().dropped.values()) - before == 4 * len(recorded)
    assert datagrams(other, one)._paths.targets(network.now) == targets


# Sessions that end, links that break


@SEEDS
def test_a_restarted_peer_is_spoken_to_anew_and_what_was_under_way_is_nobodys(seed: int) -> None:
    network, one, other = pair(seed)
    recorded: list[bytes] = []
    network.datagrams.tap = lambda sender, receiver, data: recorded.append(data) if sender is one else None
    ticker = Ticker(network, one, other)
    network.datagrams.weather.is_udp_blocked = True
    network.run(5.0)
    assert one.pushes == {other.address}
    network.datagrams.weather.is_udp_blocked = False
    network.datagrams.tap = None
    other.crash()
    network.run(1.0)
    other.restart()
    network.run(1.0)
    one.learn(other)
    other.learn(one)
    network.run_until(lambda: len(one.of_type(PeerJoined)) == 2)
    before = len(ticker.sent_at)
    network.run(3.0)
    assert ticker.arrived_since(before) >= 100
    assert path(one, other) is DatagramPath.UDP
    ticker.is_stopped = True
    network.run(0.5)
    ticker.note()
    events = len(other.events)
    for data in recorded:
        network.datagrams.inject(other, ELSEWHERE, data)
    network.run(0.1)
    assert len(other.events) == events
    assert other.core.stats().dropped[DropCause.UNAUTHENTICATED] >= len(recorded) > 50


def test_the_end_of_a_session_closes_its_push() -> None:
    network, one, other = pair(1)
    Ticker(network, one, other)
    network.datagrams.weather.is_udp_blocked = True
    network.run(5.0)
    assert one.pushes == {other.address}
    other.crash()
    network.run(2 * T)
    assert one.pushes == set()
    assert one.core._plane.readers.keys() == datagrams_left(one)


def datagrams_left(node: SimNode) -> set[int]:
    """The indexes of present sessions."""
    return {index for session in node.core.sessions for index in session.datagrams._inbound}


@SEEDS
def test_links_that_break_cost_no_message_and_their_keys_go(seed: int) -> None:
    network, one, other = pair(seed)
    ticker = Ticker(network, one, other)
    for _ in range(15):
        network.cut_all()
        network.run(network.random.random())
    network.run_until(lambda: one.core.session(other.address).links != ())  # type: ignore[union-attr]
    ticker.is_stopped = True
    network.run(0.5)
    assert ticker.arrived_since(0) == len(ticker.sent_at)
    again = Ticker(network, one, other)
    network.run(20.0)
    assert again.arrived_since(0) >= len(again.sent_at) - 1
    assert one.of_type(PeerLeft) == other.of_type(PeerLeft) == []
    for node in (one, other):
        assert node.core._plane.readers.keys() == datagrams_left(node)
        in_use = datagrams(node, other if node is one else one)._inbound.values()
        assert sum(inbound.window.received > 0 for inbound in in_use) == 1


@SEEDS
@pytest.mark.parametrize("reliability", KINDS)
@pytest.mark.parametrize("paused_s", [0.6 * T, 0.9 * T, 6 * T])
def test_what_was_sent_while_this_process_stood_still_is_not_delivered(
    seed: int, reliability: Reliability, paused_s: float
) -> None:
    network, one, other = pair(seed)
    one.open_stream(other)  # keeps the session under closer watch
    ticker = Ticker(network, one, other, reliability)
    network.run(1.0)
    ticker.note()
    other.pause()
    network.run(paused_s)
    resumed_at = network.now
    other.resume()
    network.run(10.0)
    late = [number for number, at in ticker.arrivals.items() if ticker.sent_at[number] < resumed_at <= at]
    assert late == []
    before = len(ticker.sent_at)
    network.run(1.0)
    assert ticker.arrived_since(before) >= 48
    if paused_s < 0.7 * T:
        assert one.of_type(PeerLeft) == other.of_type(PeerLeft) == []
        assert other.core.stats().dropped[DropCause.STALE] > 100


# Bounds


def test_a_node_whose_application_sleeps_holds_a_bounded_number_of_messages() -> None:
    limits = Limits(unreliable_queue_bytes_max=100_000)
    network = SimNetwork(5)
    one, other = network.pair(limits, has_datagrams=True)
    network.run(1.0)
    other.consumes = False
    stream = one.open_stream(other, reliability=Reliability.UNRELIABLE)
    network.run(0.1)
    for _ in range(500):
        one.send(bytes(1000), other, reliability=Reliability.UNRELIABLE)
        stream.send(bytes(1000))
        network.run(0.001)
    network.run(0.1)
    waiting = {event.stream: event.unread for event in other.of_type(UnreliableWaiting)}
    assert len(other.of_type(UnreliableWaiting)) == len(waiting) == 2
    for unread in waiting.values():
        assert unread.byte_count <= 100_000
        assert unread.dropped + len(unread) == 500
    assert other.core.stats().dropped[DropCause.RECEIVE_QUEUE_FULL] == sum(
        unread.dropped for unread in waiting.values()
    )


def test_many_peers_each_have_their_own_keys_and_paths() -> None:
    network = SimNetwork(6)
    nodes = [network.add(has_datagrams=True) for _ in range(6)]
    for one, other in itertools.permutations(nodes, 2):
        one.learn(other)
    network.run(3.0)
    for number, (one, other) in enumerate(itertools.permutations(nodes, 2)):
        one.send(b"%d" % number, other, reliability=Reliability.UNRELIABLE)
    network.run(0.1)
    arrived = {
        (message.sender, node.address, int(message.data)) for node in nodes for message in node.unreliable
    }
    assert arrived == {
        (one.address, other.address, number)
        for number, (one, other) in enumerate(itertools.permutations(nodes, 2))
    }
