"""Who does not read holds up nobody but their own sender: contract, section 3, backpressure."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

import pytest

from brokerless import Limits, PeerState
from tests.behaviour.conftest import connect, introduce
from tests.behaviour.face import WAIT_S, AnyBus, AnyStream, error_of, feed, get, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Ends = tuple[AnyStream, AnyStream]
    MakeBus = Callable[..., AnyBus]

KIB = 1024
COST_BYTES = 64
"""What each message counts besides its data."""

WINDOW, WINDOW_MAX, QUEUE = 16 * KIB, 64 * KIB, 32 * KIB
SMALL = Limits(stream_window_initial_bytes=WINDOW, stream_window_bytes=WINDOW_MAX, send_queue_bytes_max=QUEUE)


@pytest.fixture
def small_pair(make_bus: MakeBus) -> tuple[AnyBus, AnyBus]:
    """Buses whose windows and queues are filled soon."""
    return introduce(make_bus("near", limits=SMALL), make_bus("far", limits=SMALL))


def fill(sender: AnyStream, receiver: AnyStream, size: int, consumed: int = 0) -> int:
    """Send until nothing more is accepted while nobody reads; return how many were, the next one waiting."""
    cost = size + COST_BYTES
    accepted = 0
    while True:
        sending = sender.send(bytes(size))
        while not sending.done():
            ours, theirs = sender.stats(), receiver.stats()
            queued = ours.send_queue_bytes + ours.send_queue_messages * COST_BYTES
            if (
                ours.messages_sent == theirs.messages_received == theirs.unconsumed_messages + consumed
                and ours.send_credit_bytes < cost
                and queued + cost > QUEUE
            ):  # no room and no credit, and nothing under way that will bring any
                return accepted
            concurrent.futures.wait([sending], timeout=0.01)  # type: ignore[list-item]
        get(sending)
        accepted += 1


@pytest.mark.parametrize("size", [0, 100, 1000, 5000])
def test_a_sender_is_at_most_a_window_and_its_queue_ahead(
    small_pair: tuple[AnyBus, AnyBus], size: int
) -> None:
    ours, theirs = connect(*small_pair)
    accepted = fill(ours, theirs, size)
    cost = size + COST_BYTES
    assert accepted * cost <= WINDOW + QUEUE
    assert accepted >= WINDOW // cost + QUEUE // cost - 1  # and no less: it is used
    assert theirs.stats().unconsumed_bytes == size * theirs.stats().unconsumed_messages
    assert theirs.stats().unconsumed_messages == WINDOW // cost
    assert [len(get(theirs.receive())) for _ in range(accepted + 1)] == [size] * (accepted + 1)
    get(ours.send(b"goes on"))
    assert get(theirs.receive()) == b"goes on"


def test_credit_comes_back_for_as_long_as_the_application_consumes(small_pair: tuple[AnyBus, AnyBus]) -> None:
    ours, theirs = connect(*small_pair)
    consumed = 0
    for _ in range(3):
        accepted = fill(ours, theirs, 1000, consumed)
        assert accepted * (1000 + COST_BYTES) <= WINDOW_MAX + QUEUE  # the window may have grown
        for _ in range(accepted + 1):
            get(theirs.receive())
        consumed += accepted + 1


def test_the_window_grows_with_consumption_up_to_its_limit(small_pair: tuple[AnyBus, AnyBus]) -> None:
    ours, theirs = connect(*small_pair)
    sending = feed(ours, [bytes(1000)] * 500)
    for _ in range(500):
        get(theirs.receive())
    get(sending)
    sending = feed(ours, [bytes(1000)] * 500)
    # It is granted anew when half of it is consumed, so at least the other half is there to be filled.
    until(lambda: theirs.stats().unconsumed_messages * (1000 + COST_BYTES) > WINDOW_MAX // 2 - 1064)
    assert theirs.stats().unconsumed_messages * (1000 + COST_BYTES) <= WINDOW_MAX
    for _ in range(500):
        get(theirs.receive())
    get(sending)


def test_a_stream_that_is_not_read_stalls_no_other(small_pair: tuple[AnyBus, AnyBus]) -> None:
    near, far = small_pair
    for stalled in [connect(near, far), connect(far, near)]:
        fill(*stalled, 1000)
    ours, theirs = connect(near, far)
    sending = feed(ours, [bytes(5000)] * 50)
    for _ in range(50):
        get(theirs.receive())
    get(sending)
    get(theirs.send(b"the other way"))
    assert get(ours.receive()) == b"the other way"


def test_a_large_message_that_is_not_read_stalls_no_other_stream(
    small_pair: tuple[AnyBus, AnyBus],
) -> None:
    near, far = small_pair
    unread = [connect(near, far) for _ in range(3)]
    for ours, _ in unread:  # one of these at a time is granted more than a window
        get(ours.send(bytes(500_000)))
    until(lambda: unread[0][1].stats().messages_received == 1)
    ours, theirs = connect(near, far)
    sending = feed(ours, [bytes(5000)] * 50)
    for _ in range(50):
        get(theirs.receive())
    get(sending)
    for _, end in unread:
        assert len(get(end.receive())) == 500_000


def test_where_the_budget_is_spent_new_work_waits_and_what_there_is_goes_on(make_bus: MakeBus) -> None:
    budget = Limits(
        stream_window_initial_bytes=WINDOW,
        stream_window_bytes=WINDOW_MAX,
        message_bytes_max=500_000,
        peer_memory_bytes_max=800_000,
    )
    near, far = introduce(make_bus("near"), make_bus("far", limits=budget))
    first, second, small = (connect(near, far) for _ in range(3))
    get(first[0].send(bytes(500_000)))
    until(lambda: first[1].stats().messages_received == 1)
    get(second[0].send(bytes(499_999)))  # of both, one fits
    sending = feed(small[0], [bytes(5000)] * 50)
    for _ in range(50):
        get(small[1].receive())
    get(sending)
    assert second[1].stats().messages_received == 0
    assert len(get(first[1].receive())) == 500_000
    assert len(get(second[1].receive())) == 499_999


def test_streams_do_not_stall_single_messages_nor_these_them(small_pair: tuple[AnyBus, AnyBus]) -> None:
    near, far = small_pair
    ours, theirs = connect(near, far)
    fill(*connect(near, far), 1000)
    for number in range(100):
        get(near.send(b"%d" % number, far.address))
        assert get(far.take_message()).data == b"%d" % number
    unread = [near.send(bytes(1000), far.address) for _ in range(40)]  # their window, twice
    get(unread[0])
    get(ours.send(b"beside them"))
    assert get(theirs.receive()) == b"beside them"
    for outcome in unread:
        get(far.take_message())
        get(outcome)


def test_who_does_not_read_stalls_no_other_peer(make_bus: MakeBus) -> None:
    near, far = introduce(make_bus("near", limits=SMALL), make_bus("far", limits=SMALL))
    _, third = introduce(near, make_bus("third", limits=SMALL))
    fill(*connect(near, far), 1000)
    ours, theirs = connect(near, third)
    sending = feed(ours, [bytes(5000)] * 50)
    for _ in range(50):
        get(theirs.receive())
    get(sending)


def test_who_does_not_read_stays_alive(make_bus: MakeBus) -> None:
    limits = Limits(
        stream_window_initial_bytes=WINDOW,
        stream_window_bytes=WINDOW_MAX,
        send_queue_bytes_max=QUEUE,
        liveness_s=1.0,
    )
    near, far = introduce(make_bus("near", limits=limits), make_bus("far", limits=limits))
    ours, theirs = connect(near, far)
    accepted = fill(ours, theirs, 1000)
    presence = near.presence()
    waiting = [near.wait_for_peer("nobody", timeout=2.5), far.wait_for_peer("nobody", timeout=2.5)]
    assert all(isinstance(error_of(outcome), TimeoutError) for outcome in waiting)  # 2.5 liveness limits
    assert presence.lost == []
    presence.wait_until(lambda presence: presence.here[far.address].state is PeerState.ALIVE)
    for _ in range(accepted + 1):
        get(theirs.receive())


def test_a_sender_that_waits_is_told_of_the_end(small_pair: tuple[AnyBus, AnyBus]) -> None:
    near, far = small_pair
    ours, theirs = connect(near, far)
    fill(ours, theirs, 1000)
    waiting = [ours.send(bytes(1000)) for _ in range(3)]
    get(theirs.abort(7))
    assert all(error_of(outcome) is not None for outcome in waiting)


def test_many_senders_of_one_stream_wait_in_order(small_pair: tuple[AnyBus, AnyBus]) -> None:
    ours, theirs = connect(*small_pair)
    accepted = fill(ours, theirs, 1000)  # and one more, that waits
    waiting = [ours.send(b"%d" % number * 500) for number in range(10)]
    messages = [get(theirs.receive()) for _ in range(accepted + 11)]
    assert [message[:1] for message in messages[-10:]] == [b"%d" % number for number in range(10)]
    assert [outcome.result(WAIT_S) for outcome in waiting] == list(range(accepted + 2, accepted + 12))
