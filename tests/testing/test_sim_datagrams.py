"""The simulated network's datagrams: as unkind as UDP, and repeated exactly by the seed."""

from __future__ import annotations

from typing import TypeAlias

import pytest

from brokerless.model import Reliability
from brokerless.protocol.datagram import PREFIX
from brokerless.protocol.paths import UdpPlace
from brokerless.testing.sim_datagrams import DATAGRAMS_PER_TURN, Weather
from brokerless.testing.simulation import SimNetwork, SimNode

ROUGH = Weather(loss=0.2, reordering=0.3, duplication=0.1)


Arrivals: TypeAlias = "list[tuple[float, UdpPlace | None, bytes]]"
"""When each came, from where (None: by PUSH), and what it was."""


def watch(node: SimNode) -> Arrivals:
    """Write down the datagrams that reach a node from now on, in place of its taking them."""
    arrived: Arrivals = []
    core, network = node.core, node.network
    core.udp_received = lambda place, data, now: arrived.append((now, place, data))  # type: ignore[method-assign]
    core.push_received = lambda data, now: arrived.append((network.now, None, data))  # type: ignore[method-assign]
    return arrived


def pair(seed: int = 0) -> tuple[SimNetwork, SimNode, SimNode, Arrivals]:
    """Return two nodes that know each other, and what reaches the second from now on."""
    network = SimNetwork(seed)
    one, other = network.pair(has_datagrams=True)
    network.run(1.0)
    return network, one, other, watch(other)


def send(network: SimNetwork, one: SimNode, other: SimNode, count: int = 1) -> None:
    place = network.datagrams.place_of(other)
    assert place is not None
    for number in range(count):
        network.datagrams.send_udp(one, place, b"%d" % number)


def numbers(arrived: Arrivals) -> list[int]:
    return [int(data) for _, _, data in arrived]


def story(seed: int) -> list[object]:
    network, one, other, arrived = pair(seed)
    network.datagrams.weather = ROUGH
    send(network, one, other, 200)
    network.run(1.0)
    return list(arrived)


def test_a_run_is_repeated_by_its_seed_and_the_links_draw_for_themselves() -> None:
    assert story(1) == story(1)
    assert story(1) != story(2)
    plain, with_datagrams = SimNetwork(3), SimNetwork(3)
    with_datagrams.datagrams.random.random()
    assert plain.random.random() == with_datagrams.random.random()


def test_in_fair_weather_all_arrive_from_where_they_were_sent() -> None:
    network, one, other, arrived = pair()
    started = network.now
    send(network, one, other, 100)
    network.run(1.0)
    assert sorted(numbers(arrived)) == list(range(100))
    assert {place for _, place, _ in arrived} == {network.datagrams.place_of(one)}
    assert all(network.latency_s <= at - started <= 2 * network.latency_s for at, _, _ in arrived)


@pytest.mark.parametrize(
    ("weather", "arrive", "differ", "overtaken"),
    [
        (Weather(loss=0.2), (1500, 1700), (1500, 1700), (0, 0)),
        (Weather(duplication=0.1), (2130, 2270), (2000, 2000), (0, 0)),
        (Weather(reordering=0.3), (2000, 2000), (2000, 2000), (400, 700)),
        (Weather(is_udp_blocked=True), (0, 0), (0, 0), (0, 0)),
    ],
)
def test_weather_does_what_it_says(
    weather: Weather, arrive: tuple[int, int], differ: tuple[int, int], overtaken: tuple[int, int]
) -> None:
    network, one, other, arrived = pair(7)
    network.datagrams.weather = weather
    place = network.datagrams.place_of(other)
    assert place is not None
    for number in range(2000):
        network.datagrams.send_udp(one, place, b"%d" % number)
        network.run(2 * network.latency_s)
    network.run(1.0)
    came = numbers(arrived)
    assert arrive[0] <= len(came) <= arrive[1]
    assert differ[0] <= len(set(came)) <= differ[1]
    late = sum(number < max(came[:index], default=-1) for index, number in enumerate(came))
    assert overtaken[0] <= late <= overtaken[1] or weather.duplication > 0


def test_push_needs_a_connection_and_a_way_and_keeps_what_it_takes() -> None:
    network, one, other, arrived = pair()
    datagrams = network.datagrams
    assert not datagrams.send_push(one, other.address, b"1")
    one.pushes.add(other.address)
    assert datagrams.send_push(one, other.address, b"2")
    datagrams.weather.is_push_blocked = True
    assert not datagrams.send_push(one, other.address, b"3")
    datagrams.weather = Weather(loss=1.0)
    assert datagrams.send_push(one, other.address, b"4")
    network.part(one, other)
    assert not datagrams.send_push(one, other.address, b"5")
    network.heal()
    network.run(0.1)
    stranger = network.add(has_datagrams=True)
    stranger.pushes.add(other.address)
    assert not datagrams.send_push(stranger, other.address, b"6")
    assert [data for _, place, data in arrived if place is None] == [b"2", b"4"]


def test_partitions_hold_here_too() -> None:
    network, one, other, arrived = pair()
    network.part(one, other, one_way=True)
    send(network, one, other)
    network.run(0.1)
    assert arrived == []
    back = watch(one)
    send(network, other, one)
    network.run(0.1)
    assert len(back) == 1


def test_what_comes_to_a_paused_node_waits_in_order_and_is_read_in_turns() -> None:
    network, one, other, arrived = pair()
    other.pause()
    for number in range(3 * DATAGRAMS_PER_TURN):
        place = network.datagrams.place_of(other)
        assert place is not None
        network.datagrams.send_udp(one, place, b"%d" % number)
        network.run(0.002)
    assert arrived == []
    other.resume()
    network.run(0.1)
    assert numbers(arrived) == list(range(3 * DATAGRAMS_PER_TURN))
    assert len({at for at, _, _ in arrived}) == 3


def test_what_waited_for_a_process_is_not_for_the_next() -> None:
    network, one, other, _ = pair()
    other.pause()
    send(network, one, other, 3)
    network.run(0.1)
    other.crash()
    send(network, one, other, 3)
    network.run(0.1)
    other.restart()
    arrived = watch(other)
    other.pause()
    other.resume()
    network.run(0.1)
    assert {b"0", b"1", b"2"}.isdisjoint(data for _, _, data in arrived)


def test_a_node_that_moves_is_reached_at_its_new_place_only() -> None:
    network, one, other, arrived = pair()
    before = network.datagrams.place_of(other)
    moved = network.datagrams.move(other)
    assert before is not None
    assert before != moved == network.datagrams.place_of(other)
    network.datagrams.send_udp(one, before, b"1")
    network.datagrams.send_udp(one, moved._replace(local=3), b"2")
    network.run(0.1)
    assert numbers(arrived) == [2]


def test_the_tap_sees_what_is_sent_and_inject_needs_no_sender() -> None:
    network = SimNetwork()
    one, other = network.pair(has_datagrams=True)
    seen: list[tuple[SimNode, SimNode]] = []
    network.datagrams.tap = lambda sender, receiver, data: seen.append((sender, receiver))
    network.datagrams.weather.is_udp_blocked = True
    one.send(b"x", other, reliability=Reliability.UNRELIABLE)
    network.run(0.5)
    assert (one, other) in seen
    network.datagrams.inject(other, UdpPlace("127.0.0.9", 9), PREFIX + bytes(100))
    assert sum(other.core.stats().dropped.values()) == 1


def test_without_datagrams_nodes_have_none() -> None:
    network = SimNetwork()
    one, other = network.pair()
    assert network.datagrams.place_of(one) is None
    one.send(b"x", other, reliability=Reliability.UNRELIABLE)
    network.run(1.0)
    assert other.unreliable == []
