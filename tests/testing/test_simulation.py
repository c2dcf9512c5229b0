"""The simulated network: it repeats itself by its seed, and is no kinder than a real one."""

from __future__ import annotations

import pytest

from brokerless.model import MessageReceived, PeerJoined, PeerLeft, SendDone
from brokerless.testing.sim_link import LINK_BYTES_MAX
from brokerless.testing.simulation import SimNetwork, SimNode

MIB = 1024 * 1024


def story(seed: int) -> list[str]:
    """Return everything that happened in a short run."""
    network = SimNetwork(seed)
    one, other = network.pair()
    stream = one.open_stream(other)
    for number in range(20):
        stream.send(b"%d" % number)
        one.send(b"%d" % number, to=other)
        network.run(network.random.random() * 0.2)
        if number % 5 == 0:
            network.cut_all()
    network.run(5.0)
    return [f"{type(event).__name__}" for node in (one, other) for event in node.events] + [f"{network.now}"]


def test_a_run_is_repeated_by_its_seed() -> None:
    assert story(1) == story(1)
    assert len({tuple(story(seed)) for seed in range(5)}) > 1


def test_messages_take_their_time_and_keep_their_order() -> None:
    network = SimNetwork(2, latency_s=0.1)
    one, other = network.pair()
    started = network.now
    for number in range(50):
        one.send(b"%d" % number, to=other)
        network.run(0.001)
    network.run_until(lambda: bool(other.singles))
    assert 0.1 <= network.now - started <= 0.2
    network.run(1.0)
    assert other.singles == [b"%d" % number for number in range(50)]


def test_a_rate_is_a_rate() -> None:
    network = SimNetwork(3, bytes_per_s=1e6)
    one, other = network.pair()
    stream = one.open_stream(other)
    network.run(0.1)
    started = network.now
    stream.send(bytes(5_000_000))
    network.run_until(lambda: bool(other.received))
    assert 5.0 <= network.now - started <= 5.5


def test_a_link_holds_no_more_than_a_socket_would() -> None:
    network = SimNetwork(4)
    one, other = network.pair()
    stream = one.open_stream(other)
    network.run(0.1)
    other.pause()
    for _ in range(20):
        stream.send(bytes(40_000)) if stream.room > 40_000 else None
    network.run(1.0)
    way = one.link_to(other).ways[one]
    assert way.byte_count <= LINK_BYTES_MAX + 72 * 1024
    other.resume()
    network.run(5.0)
    assert sum(map(len, other.received[next(iter(other.received))])) == stream.stats().bytes_sent
    assert way.byte_count == 0


def test_a_paused_node_does_nothing_and_catches_up() -> None:
    network = SimNetwork(5)
    one, other = network.pair()
    other.pause()
    send_id = one.send(b"single", to=other)
    network.run(1.0)
    assert other.singles == []
    assert one.of_type(SendDone) == []
    other.resume()
    network.run(0.1)
    assert other.singles == [b"single"]
    assert [done.send_id for done in one.of_type(SendDone)] == [send_id]


def test_a_crash_is_silent_and_a_restart_begins_anew() -> None:
    network = SimNetwork(6)
    one, other = network.pair()
    events, core = other.events, other.core
    other.crash()
    network.run(1.0)
    assert events == other.events
    assert one.of_type(PeerLeft) == []  # not yet: it waits for another link
    other.restart()
    assert other.events == []
    assert other.core is not core
    other.learn(one)
    network.run(2.0)
    assert len(one.of_type(PeerLeft)) == 1
    assert len(other.of_type(PeerJoined)) == 1


def test_dials_to_nowhere_are_refused() -> None:
    network = SimNetwork(7)
    one, other = network.add(), network.add()
    one.core.learn(other.address, "sim", ("sim://elsewhere",), 1, network.now)
    one.pump_soon()
    network.run(0.5)
    other.crash()
    one.learn(other)
    network.run(0.5)
    assert network.links == []
    assert one.of_type(PeerJoined) == []


def test_a_partition_swallows_what_was_said_and_lets_it_through_when_healed() -> None:
    network = SimNetwork(8)
    one, other = network.pair()
    network.part(one, other)
    assert network.is_parted(one, other)
    one.send(b"single", to=other)
    network.run(2.0)
    assert other.singles == []
    network.heal()
    network.run(0.1)
    assert other.singles == [b"single"]


def test_a_dial_across_a_partition_connects_when_it_is_healed() -> None:
    network = SimNetwork(9)
    one, other = network.add(), network.add()
    network.part(one, other)
    one.learn(other)
    network.run(3.0)
    assert network.links == []
    network.heal()
    network.run(1.5)
    assert len(other.of_type(PeerJoined)) == 1


def test_news_of_a_cut_passes_no_frozen_link() -> None:
    network = SimNetwork(10)
    one, other = network.pair()
    link = one.link_to(other)
    network.freeze()
    network.cut(link, by=one)
    network.cut(link)  # again: nothing
    network.run(1.0)
    assert link.number(other) in other.links
    assert link.number(one) not in one.links
    network.freeze(False)
    network.run(0.1)
    assert link.number(other) not in other.links


@pytest.mark.parametrize("seed", range(20))
def test_of_what_is_under_way_a_cut_takes_the_end(seed: int) -> None:
    network = SimNetwork(seed, latency_s=0.1)
    one, other = network.pair()
    received: list[bytes] = []
    other.on_event = lambda event: (
        received.append(event.message.data) if isinstance(event, MessageReceived) else None
    )
    for number in range(10):
        one.send(b"%d" % number, to=other)
        network.run(0.001)
    network.cut_all()
    network.run(0.25)
    assert received == [b"%d" % number for number in range(len(received))]
    network.run(3.0)
    assert received == [b"%d" % number for number in range(10)]


def test_a_forged_message_comes_as_if_from_the_other_end() -> None:
    network = SimNetwork(11)
    one, other = network.pair()
    network.forge(one.link_to(other), one, b"nonsense")
    network.run(0.1)
    assert len(other.of_type(PeerLeft)) == 1


def test_who_asks_to_be_called_and_then_does_nothing_is_found_out() -> None:
    network = SimNetwork(12)

    def spin() -> None:
        network.at(network.now, spin)

    spin()
    with pytest.raises(AssertionError, match=r"somebody spins \(seed 12\)"):
        network.run(1.0)


def test_what_does_not_happen_in_time_fails_with_the_seed() -> None:
    network = SimNetwork(13)
    network.pair()
    with pytest.raises(AssertionError, match=r"not within 2.0 s of virtual time \(seed 13\)"):
        network.run_until(lambda: False, limit_s=2.0)
    with pytest.raises(AssertionError, match="seed 14"):
        SimNetwork(14).run_until(lambda: False)


def test_applications_may_refuse_to_read_accept_or_admit() -> None:
    network = SimNetwork(15)
    nodes: list[SimNode] = [network.add(asks_admission=True) for _ in range(2)]
    one, other = nodes
    one.admit = other.admit = lambda peer: None
    one.learn(other)
    network.run(1.0)
    assert [len(node.of_type(PeerJoined)) for node in nodes] == [1, 1]
    other.consumes = other.accepts = False
    stream = one.open_stream(other, timeout=None)
    for _ in range(3):
        stream.send(bytes(MIB)) if stream.room >= MIB else None
        one.send(bytes(20_000), to=other)
    network.run(5.0)
    assert stream.sent_sequence == 0
    assert 0 < len(other.singles) <= 3
