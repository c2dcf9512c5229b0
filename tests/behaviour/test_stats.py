"""Counters that add up: contract, section 7."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from brokerless import BusClosed, DropCause, Limits, Reliability, StreamStats, UnknownPeer
from dittobus import statistics
from tests.behaviour.conftest import connect, introduce
from tests.behaviour.face import AnyBus, AnyStream, feed, get, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.behaviour.proxies import Proxies

    Pair = tuple[AnyBus, AnyBus]
    Ends = tuple[AnyStream, AnyStream]
    MakeBus = Callable[..., AnyBus]

KIB = 1024
COST_BYTES = 64
"""What each message counts besides its data."""


def test_a_fresh_stream_has_counted_nothing(ends: Ends) -> None:
    for end in ends:
        assert end.stats() == StreamStats(send_credit_bytes=64 * KIB)


def test_what_one_end_sent_the_other_has_received(ends: Ends) -> None:
    sizes = ([0, 1, 1000, 30_000], [7, 200_000])
    for end, of_end in zip(ends, sizes, strict=True):
        feed(end, [bytes(size) for size in of_end])
    for end, of_other in zip(ends, reversed(sizes), strict=True):
        assert [len(get(end.receive())) for _ in of_other] == of_other
    for end, of_end, of_other in zip(ends, sizes, reversed(sizes), strict=True):
        until(lambda end=end: end.stats().unconsumed_messages == 0)
        stats = end.stats()
        assert (stats.messages_sent, stats.bytes_sent) == (len(of_end), sum(of_end))
        assert (stats.messages_received, stats.bytes_received) == (len(of_other), sum(of_other))
        assert (stats.send_queue_messages, stats.send_queue_bytes, stats.unconsumed_bytes) == (0, 0, 0)


def test_what_is_on_the_way_is_counted_once_wherever_it_is(ends: Ends) -> None:
    ours, theirs = ends
    for _ in range(100):
        get(ours.send(bytes(1000)))  # more than the window, and less than the queue takes
    fitting = 64 * KIB // (1000 + COST_BYTES)
    until(lambda: theirs.stats().messages_received == fitting)
    here, there = ours.stats(), theirs.stats()
    assert here.messages_sent + here.send_queue_messages == 100
    assert here.bytes_sent + here.send_queue_bytes == 100_000
    assert there.messages_received == here.messages_sent == there.unconsumed_messages == fitting
    assert there.bytes_received == there.unconsumed_bytes == fitting * 1000
    assert here.send_credit_bytes == 64 * KIB - fitting * (1000 + COST_BYTES)
    for _ in range(100):
        get(theirs.receive())
    until(lambda: theirs.stats().unconsumed_messages == 0)
    assert theirs.stats().messages_received == ours.stats().messages_sent == 100
    assert ours.stats().send_queue_messages == 0


def test_what_an_abort_dropped_was_not_sent(ends: Ends) -> None:
    ours, theirs = ends
    for _ in range(100):
        get(ours.send(bytes(1000)))
    until(lambda: theirs.stats().messages_received == 64 * KIB // (1000 + COST_BYTES))
    get(ours.abort())
    until(lambda: ours.stats().send_queue_messages == 0)
    assert ours.stats().messages_sent == theirs.stats().messages_received < 100
    until(lambda: theirs.stats().unconsumed_messages == 0)


def test_the_bus_counts_peers_and_links(make_bus: MakeBus) -> None:
    hub, *others = (make_bus(name) for name in ("hub", "one", "two"))
    for other in others:
        introduce(hub, other)
    until(lambda: (hub.stats().peers, hub.stats().links) == (2, 2))
    presence = hub.presence()
    get(others[0].close())
    presence.wait_until(lambda presence: presence.lost)
    assert hub.stats().peers == 1
    assert (hub.stats().handshakes_refused, hub.stats().rejected_records) == (0, 0)


def test_a_conversation_is_counted(make_bus: MakeBus) -> None:
    hub, one, two = (make_bus(name) for name in ("hub", "one", "two"))
    introduce(hub, one)
    introduce(hub, two)
    ours, theirs = connect(hub, one)
    feed(ours, [bytes(1000)] * 10)
    for _ in range(10):
        get(theirs.receive())
    until(lambda: hub.peer_stats(one.address).unacknowledged_bytes == 0)
    until(lambda: hub.peer_stats(one.address).rtt_s is not None)
    until(lambda: hub.peer_stats(one.address).links == 1)
    stats = hub.peer_stats(one.address)
    assert stats.bytes_sent > 10_000 > stats.bytes_received > 0
    assert stats.streams_open == 1
    assert stats.links_lost <= 1  # where both dialled, one was too many
    peer = hub.peer(two.address)
    assert peer is not None
    assert hub.peer_stats(peer).bytes_sent < 10_000
    with pytest.raises(UnknownPeer):
        hub.peer_stats(hub.address)
    with pytest.raises(TypeError, match="address"):
        hub.peer_stats("one")


def test_datagrams_are_counted_at_both_ends(pair: Pair) -> None:
    near, far = pair
    sent = 0
    while far.peer_stats(near.address).datagrams_received < 40:  # some may be lost
        get(near.send(bytes(3_000), far.address, Reliability.UNRELIABLE))
        sent += 1
    assert near.peer_stats(far.address).datagrams_sent >= 3 * sent
    until(lambda: near.peer_stats(far.address).datagram_rtt_s is not None)
    until(lambda: far.peer_stats(near.address).datagram_jitter_s is not None)


def test_what_came_twice_is_counted_and_delivered_once(proxies: Proxies, make_bus: MakeBus) -> None:
    near, far = introduce(*(proxies.bus(make_bus, name) for name in ("near", "far")))
    ours, theirs = connect(near, far)
    number = 0
    for _ in range(5):  # a connection that breaks takes some acknowledgement along, sooner or later
        sends = [ours.send(b"%d" % (number + index) * 1000) for index in range(20)]
        proxies.reset()
        for index in range(20):
            assert get(theirs.receive()) == b"%d" % (number + index) * 1000
        number += len(sends)
    assert theirs.stats().messages_received == ours.stats().messages_sent == number
    assert set(far.stats().dropped) <= {DropCause.DUPLICATE}


def test_a_bus_that_is_closed_tells_no_more(pair: Pair) -> None:
    near, _ = pair
    get(near.close())
    with pytest.raises(BusClosed):
        near.stats()
    with pytest.raises(BusClosed):
        near.ticket()


def test_limits_are_those_that_were_given(make_bus: MakeBus) -> None:
    limits = Limits(stream_window_initial_bytes=32 * KIB)
    near, far = introduce(make_bus("near"), make_bus("far", limits=limits))
    ours, theirs = connect(near, far)
    assert ours.stats().send_credit_bytes == 32 * KIB
    assert theirs.stats().send_credit_bytes == 64 * KIB


def test_statistics_are_told_to_who_asks(pair: Pair) -> None:
    near, far = pair
    get(far.tell_statistics())
    asking = get(near.open(far.address, name=statistics.STREAM))
    get(asking.send(b""))
    first = json.loads(get(asking.receive()))
    assert (first["node"]["name"], first["node"]["streams"]) == ("far", 1)
    assert [peer["name"] for peer in first["peers"]] == ["near"]
    get(near.send(bytes(1000), far.address))
    get(far.take_message())
    get(asking.send(b""))
    second = json.loads(get(asking.receive()))
    assert second["peers"][0]["bytes_in_per_s"] > first["peers"][0]["bytes_in_per_s"] == 0
    get(asking.finish())
    assert asking.receive_all() == []
    get(asking.close())
