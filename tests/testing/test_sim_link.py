"""What a direction between two simulated nodes is like: late, slow, or lossy, each for itself."""

from __future__ import annotations

import random

from brokerless.model import Reliability
from brokerless.testing.sim_link import RETRANSMIT_S, Conditions
from brokerless.testing.simulation import SimNetwork


def test_latency_is_as_imposed_in_that_direction_only() -> None:
    network = SimNetwork(1, latency_s=0.01)
    one, other = network.pair()
    network.impose(one, other, Conditions(latency_s=0.5))
    started = network.now
    one.send(b"slow", other)
    other.send(b"quick", one)
    network.run_until(lambda: bool(one.singles))
    assert network.now - started <= 0.02
    network.run_until(lambda: bool(other.singles))
    assert 0.5 <= network.now - started <= 1.0
    network.impose(one, other, None)
    network.run(2.0)  # until nothing is under way that was slow
    started = network.now
    one.send(b"quick again", other)
    network.run_until(lambda: len(other.singles) == 2)
    assert network.now - started <= 0.02


def test_a_rate_imposed_holds_for_links_and_datagrams() -> None:
    network = SimNetwork(2)
    one, other = network.pair(has_datagrams=True)
    network.run(1.0)
    network.impose(one, other, Conditions(bytes_per_s=100_000))
    started = network.now
    for number in range(100):
        one.send(b"%d" % number + bytes(999), other, reliability=Reliability.UNRELIABLE)
    network.run(1.0)
    assert 8 <= len(other.unreliable) <= 12  # what a queue of 0.1 s takes at this rate; the rest is lost
    one.send(bytes(50_000), other)
    network.run_until(lambda: bool(other.singles))
    assert 1.5 <= network.now - started <= 1.6


def test_loss_makes_a_link_late_and_loses_nothing() -> None:
    network = SimNetwork(3)
    one, other = network.pair()
    network.impose(one, other, Conditions(loss=0.3))
    started = network.now
    for number in range(30):
        one.send(b"%d" % number, other)
        network.run(0.05)
    network.run_until(lambda: len(other.singles) == 30)
    assert other.singles == [b"%d" % number for number in range(30)]
    assert network.now - started > 1.5 + RETRANSMIT_S


def test_each_time_tcp_waits_twice_as_long() -> None:
    conditions = Conditions(latency_s=0.0, loss=0.5)
    draw = random.Random(4)
    delays = [conditions.delay_s(draw) for _ in range(1_000)]
    steps = {round(delay_s / RETRANSMIT_S) for delay_s in delays}
    assert {0, 1, 3, 7, 15} <= steps
    assert steps <= {2**times - 1 for times in range(20)}
    assert 400 < delays.count(0.0) < 600


def test_a_lossy_dial_succeeds_in_the_end() -> None:
    network = SimNetwork(5)
    one, other = network.add(), network.add()
    for ends in ((one, other), (other, one)):
        network.impose(*ends, Conditions(loss=0.6))
    one.learn(other)
    network.run_until(lambda: one.core.stats().peers == other.core.stats().peers == 1)
