"""The flight: nothing lost, nothing told twice, and as much under way as the path holds."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.errors import RemoteProtocolError
from brokerless.protocol.flight import (
    BEST_LIFETIME_S,
    IN_FLIGHT_BYTES_MIN,
    Best,
    Flight,
    Receipt,
    RoundTrip,
)

KIB = 1024
MIB = 1024 * KIB


def flight(bytes_max: int = 8 * MIB, now: float = 0.0) -> Flight:
    return Flight(bytes_max, now)


# Numbers, bytes and receipts


def test_packets_are_numbered_from_one() -> None:
    under_way = flight()
    assert (under_way.sent, under_way.acknowledged, under_way.byte_count) == (0, 0, 0)
    for number in (1, 2, 3):
        under_way.add(b"x" * number, (), 0.0)
        assert under_way.sent == number
    assert under_way.byte_count == 6
    assert [under_way.packet(number) for number in (1, 2, 3)] == [b"x", b"xx", b"xxx"]


def test_an_acknowledgement_forgets_all_up_to_its_number() -> None:
    under_way = flight()
    for number in range(1, 5):
        under_way.add(bytes([number]) * number, (Receipt(2, number), Receipt(4, 10 * number)), 0.0)
    assert under_way.acknowledge(3, 1.0) == [(2, 1), (4, 10), (2, 2), (4, 20), (2, 3), (4, 30)]
    assert (under_way.acknowledged, under_way.byte_count) == (3, 4)
    assert under_way.packet(4) == b"\4\4\4\4"


def test_an_older_acknowledgement_does_no_harm() -> None:
    under_way = flight()
    for _ in range(3):
        under_way.add(b"packet", (Receipt(0, 1),), 0.0)
    under_way.acknowledge(2, 1.0)
    for old in (0, 1, 2):
        assert under_way.acknowledge(old, 2.0) == []
    assert (under_way.acknowledged, under_way.byte_count, under_way.progress_at) == (2, 6, 1.0)


def test_what_was_never_sent_cannot_be_acknowledged() -> None:
    under_way = flight()
    with pytest.raises(RemoteProtocolError, match="packet 1; the last one sent was 0"):
        under_way.acknowledge(1, 1.0)
    under_way.add(b"packet", (Receipt(0, 1),), 2.0)
    with pytest.raises(RemoteProtocolError, match="packet 2; the last one sent was 1"):
        under_way.acknowledge(2, 3.0)
    assert (under_way.acknowledged, under_way.byte_count, under_way.progress_at) == (0, 6, 2.0)
    assert under_way.acknowledge(1, 4.0) == [Receipt(0, 1)]


@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(-3, 12)), max_size=60), st.booleans())
def test_bytes_are_conserved_and_receipts_come_once_in_order(
    steps: list[bytes | int], interrupted: bool
) -> None:
    under_way = flight()
    packets: list[bytes] = []
    receipts: list[int] = []
    acknowledged = 0
    for now, step in enumerate(steps):
        if isinstance(step, bytes):
            packets.append(step)
            under_way.add(step, (Receipt(2, len(packets)),), float(now))
        elif acknowledged + step > len(packets):
            with pytest.raises(RemoteProtocolError):
                under_way.acknowledge(acknowledged + step, float(now))
        else:
            receipts += [sequence for _, sequence in under_way.acknowledge(acknowledged + step, float(now))]
            acknowledged = max(acknowledged, acknowledged + step)
        if interrupted:
            under_way.interrupted(float(now))
        assert under_way.sent == len(packets)
        assert under_way.acknowledged == acknowledged
        assert under_way.byte_count == sum(map(len, packets[acknowledged:]))
        assert receipts == list(range(1, acknowledged + 1))
        for number in range(acknowledged + 1, len(packets) + 1):
            assert under_way.packet(number) == packets[number - 1]


# Progress: what the deadline of a stuck link is counted from


def test_progress_is_counted_from_the_first_packet_that_waits() -> None:
    under_way = flight(now=10.0)
    assert under_way.progress_at == 10.0
    under_way.add(b"one", (), 20.0)
    under_way.add(b"two", (), 21.0)
    assert under_way.progress_at == 20.0
    under_way.acknowledge(1, 22.0)
    assert under_way.progress_at == 22.0
    under_way.add(b"three", (), 23.0)
    assert under_way.progress_at == 22.0
    under_way.interrupted(24.0)
    assert under_way.progress_at == 24.0


# Measuring


def test_round_trip_as_in_rfc_6298() -> None:
    round_trip = RoundTrip()
    assert (round_trip.rtt_s, round_trip.jitter_s) == (None, None)
    round_trip.sample(0.8)
    assert (round_trip.rtt_s, round_trip.jitter_s) == (0.8, 0.4)
    round_trip.sample(1.6)
    assert round_trip.jitter_s == pytest.approx(0.75 * 0.4 + 0.25 * 0.8)
    assert round_trip.rtt_s == pytest.approx(0.875 * 0.8 + 0.125 * 1.6)
    round_trip.sample(0.9)
    assert round_trip.jitter_s == pytest.approx(0.75 * 0.5 + 0.25 * 0.0)
    assert round_trip.rtt_s == pytest.approx(0.9)


def test_the_last_packet_of_an_acknowledgement_is_measured() -> None:
    under_way = flight()
    for now in (0.0, 1.0, 1.5):
        under_way.add(b"packet", (), now)
    under_way.acknowledge(2, 1.75)
    assert under_way.round_trip.rtt_s == 0.75


def test_packets_that_may_have_been_sent_twice_are_not_measured() -> None:
    under_way = flight()
    under_way.add(b"one", (), 0.0)
    under_way.add(b"two", (), 0.0)
    under_way.interrupted(5.0)
    under_way.add(b"three", (), 6.0)
    under_way.add(b"four", (), 7.0)
    for number in (1, 2):
        under_way.acknowledge(number, 8.0)
        assert under_way.round_trip.rtt_s is None
    under_way.acknowledge(3, 8.5)
    assert under_way.round_trip.rtt_s == 2.5
    under_way.interrupted(9.0)
    under_way.acknowledge(4, 20.0)
    assert under_way.round_trip.rtt_s == 2.5


def test_an_acknowledgement_in_no_time_is_not_measured() -> None:
    under_way = flight()
    under_way.add(b"packet", (), 3.0)
    under_way.acknowledge(1, 3.0)
    assert under_way.round_trip.rtt_s is None
    assert under_way.limit == IN_FLIGHT_BYTES_MIN


def test_the_best_is_that_of_one_to_two_lifetimes() -> None:
    best = Best(0.0)
    assert best.value == 0
    for now, value, expected in (
        (0.0, 5.0, 5.0),
        (1.0, 3.0, 5.0),
        (2.0, 7.0, 7.0),
        (BEST_LIFETIME_S, 1.0, 7.0),  # the first lifetime, to its end
        (BEST_LIFETIME_S + 1, 2.0, 7.0),  # the second: remembers the first
        (BEST_LIFETIME_S + 2, 4.0, 7.0),
        (2 * BEST_LIFETIME_S + 1, 3.0, 7.0),
        (2 * BEST_LIFETIME_S + 2, 3.0, 4.0),  # the third: remembers the second only
        (3 * BEST_LIFETIME_S + 3, 1.0, 3.0),
    ):
        best.sample(value, now)
        assert best.value == expected


def test_the_best_before_a_long_pause_is_not_believed() -> None:
    best = Best(0.0)
    best.sample(9.0, 0.0)
    best.sample(1.0, 2 * BEST_LIFETIME_S)
    assert best.value == 9.0
    best.sample(0.5, 4 * BEST_LIFETIME_S + 0.1)
    assert best.value == 0.5


# How much may be in flight


def test_a_fresh_flight_takes_the_least_that_is_always_allowed() -> None:
    under_way = flight()
    assert under_way.limit == IN_FLIGHT_BYTES_MIN
    under_way.add(bytes(IN_FLIGHT_BYTES_MIN - 1), (), 0.0)
    assert not under_way.is_full
    under_way.add(bytes(1), (), 0.0)
    assert under_way.is_full
    under_way.acknowledge(2, 0.0)
    assert not under_way.is_full


def test_twice_what_is_configured_is_too_much_for_control_frames_too() -> None:
    under_way = flight(bytes_max=1000)
    under_way.add(bytes(1999), (), 0.0)
    assert not under_way.is_overfull
    under_way.add(bytes(1), (), 0.0)
    assert under_way.is_overfull


def test_what_is_configured_bounds_even_that() -> None:
    under_way = flight(bytes_max=1000)
    assert under_way.limit == 1000
    under_way.add(bytes(999), (), 0.0)
    assert not under_way.is_full
    under_way.add(bytes(1), (), 0.0)
    assert under_way.is_full


def transfer(
    under_way: Flight, *, bytes_per_s: float, delay_s: float, seconds: float, start: float = 0.0
) -> float:
    """Send as much as may be in flight over a path with that rate and round trip; return the rate reached."""
    packet = bytes(64 * KIB)
    now, link_free_at, delivered = start, 0.0, 0
    acknowledgements: deque[float] = deque()
    while now < start + seconds:
        while not under_way.is_full:
            under_way.add(packet, (), now)
            link_free_at = max(link_free_at, now) + len(packet) / bytes_per_s
            acknowledgements.append(link_free_at + delay_s)
        now = acknowledgements.popleft()
        under_way.acknowledge(under_way.acknowledged + 1, now)
        delivered += len(packet)
    rate = delivered / (now - start)
    for arrival in acknowledgements:
        under_way.acknowledge(under_way.acknowledged + 1, arrival)
    return rate


@pytest.mark.parametrize("delay_s", [0.0002, 0.002, 0.02, 0.05])
@pytest.mark.parametrize("bytes_per_s", [1e6, 1e7, 5e7])
def test_in_flight_grows_with_the_product_of_rate_and_round_trip(bytes_per_s: float, delay_s: float) -> None:
    under_way = flight()
    reached = transfer(under_way, bytes_per_s=bytes_per_s, delay_s=delay_s, seconds=5.0)
    assert reached > 0.9 * bytes_per_s
    product = bytes_per_s * (delay_s + 64 * KIB / bytes_per_s)  # the smallest round trip includes sending
    assert under_way.limit <= max(IN_FLIGHT_BYTES_MIN, 2.05 * product)
    assert under_way.limit >= max(IN_FLIGHT_BYTES_MIN, 1.9 * product)


@pytest.mark.parametrize(("delay_s", "bytes_per_s"), [(0.02, 1e7), (0.05, 1e7), (0.02, 5e7)])
def test_a_shared_flight_fills_the_path_and_hardly_more(delay_s: float, bytes_per_s: float) -> None:
    under_way = flight()
    under_way.is_shared = True
    reached = transfer(under_way, bytes_per_s=bytes_per_s, delay_s=delay_s, seconds=9.0)
    assert reached > 0.9 * bytes_per_s
    product = bytes_per_s * (delay_s + 64 * KIB / bytes_per_s)
    assert product <= under_way.limit <= 1.3 * product
    under_way.is_shared = False
    assert 1.9 * product <= under_way.limit


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize(("delay_s", "bytes_per_s"), [(0.05, 1e7), (0.02, 4e7)])
def test_what_waits_in_queues_is_never_taken_for_the_path(
    delay_s: float, bytes_per_s: float, is_shared: bool
) -> None:
    """However long it lasts: in two lifetimes, the smallest round trip is forgotten."""
    under_way = flight(bytes_max=64 * MIB)
    under_way.is_shared = is_shared
    reached = transfer(under_way, bytes_per_s=bytes_per_s, delay_s=delay_s, seconds=5 * BEST_LIFETIME_S)
    assert reached > 0.97 * bytes_per_s
    # At most what is always in flight adds to the round trip that is found.
    product = bytes_per_s * delay_s + IN_FLIGHT_BYTES_MIN
    assert under_way.limit <= 2.05 * product


def test_a_path_that_becomes_longer_is_filled_again() -> None:
    under_way = flight(bytes_max=64 * MIB)
    transfer(under_way, bytes_per_s=1e7, delay_s=0.02, seconds=5.0)
    transfer(under_way, bytes_per_s=1e7, delay_s=0.2, seconds=3 * BEST_LIFETIME_S, start=6.0)
    assert 1.9 * 1e7 * 0.2 <= under_way.limit <= 2.5 * 1e7 * 0.2


def test_a_look_for_the_smallest_round_trip_ends_whatever_the_application_sends() -> None:
    under_way = flight()
    transfer(under_way, bytes_per_s=1e7, delay_s=0.05, seconds=5.0)
    wide = under_way.limit
    now = 6.0
    under_way.add(bytes(wide), (), now)
    now += 1.2 * BEST_LIFETIME_S
    under_way.add(bytes(wide), (), now)
    under_way.acknowledge(under_way.sent - 1, now)  # long ago that it was quick, and much is in flight
    assert under_way.limit == IN_FLIGHT_BYTES_MIN
    under_way.acknowledge(under_way.sent, now + 0.1)
    assert under_way.limit == IN_FLIGHT_BYTES_MIN  # that one was sent behind others
    under_way.add(bytes(10), (), now + 60.0)
    under_way.acknowledge(under_way.sent, now + 60.1)
    under_way.add(bytes(IN_FLIGHT_BYTES_MIN), (), now + 60.2)
    under_way.acknowledge(under_way.sent, now + 60.25)
    assert under_way.limit > IN_FLIGHT_BYTES_MIN


def test_acknowledgements_held_back_and_let_go_at_once_are_no_high_rate() -> None:
    under_way = flight()
    under_way.is_shared = True
    for now in (0.00, 0.01, 0.02, 0.03):
        under_way.add(bytes(64 * KIB), (), now)
    under_way.acknowledge(4, 0.031)  # the last took 1 ms, but the others did not arrive in it
    assert under_way.limit == IN_FLIGHT_BYTES_MIN


def test_what_was_sent_slowly_was_not_delivered_faster() -> None:
    under_way = flight()
    under_way.is_shared = True
    for now in (0.00, 0.01, 0.02, 0.03):
        under_way.add(bytes(64 * KIB), (), now)
    under_way.acknowledge(1, 0.0305)
    under_way.add(bytes(64 * KIB), (), 0.0306)
    under_way.acknowledge(5, 0.0316)
    assert under_way.limit == IN_FLIGHT_BYTES_MIN


def test_in_flight_never_grows_beyond_what_is_configured() -> None:
    under_way = flight(bytes_max=1 * MIB)
    transfer(under_way, bytes_per_s=1e8, delay_s=0.1, seconds=3.0)
    assert under_way.limit == 1 * MIB
    under_way.add(bytes(1 * MIB - under_way.byte_count - 1), (), 3.0)
    assert not under_way.is_full
    under_way.add(bytes(1), (), 3.0)
    assert under_way.is_full
