"""Much of the same on one session: streams opened over a bad line, many at once, in turns, unread."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from brokerless.config import Limits
from brokerless.model import DropCause, PeerLeft, Reliability, StreamEnded, StreamOpened
from brokerless.testing.sim_invariants import check_node, check_rest
from brokerless.testing.sim_link import Conditions
from brokerless.testing.simulation import SimNetwork, SimNode
from tests.soak import amount

if TYPE_CHECKING:
    from brokerless.model import Event

LOSSY = Conditions(latency_s=0.02, loss=0.3)
"""Three in ten of all that is sent are lost, in each direction: TCP sends them again, later each time."""

PATIENT = Limits(liveness_s=30.0)
"""After five losses in a row, as of one packet in 400, TCP is silent for 6 s. Here one waits longer."""

KIB, MIB = 1024, 1024 * 1024


class Openings:
    """Counts the streams that are open at both ends: what is told of in each step is not searched again."""

    def __init__(self, *nodes: SimNode) -> None:
        self.told = 0
        for node in nodes:
            node.on_event = self._hear

    def _hear(self, event: Event) -> None:
        self.told += isinstance(event, StreamOpened)


def finish_all(network: SimNetwork, nodes: tuple[SimNode, SimNode]) -> None:
    """End all streams from both sides, and run until nothing of them is left."""
    for node in nodes:
        for stream in list(node.core.sessions[0].streams.values()):
            stream.finish()
    network.run_until(lambda: all(node.core.is_drained for node in nodes), limit_s=600.0)
    network.run(2.0)
    for node in nodes:
        check_rest(node)


@pytest.mark.soak
@pytest.mark.timeout(amount(120, 7_200))
@pytest.mark.parametrize("seed", range(4))
def test_streams_open_where_three_in_ten_are_lost_each_way(seed: int) -> None:
    network = SimNetwork(seed)
    one, other = network.pair(PATIENT, has_datagrams=True)
    network.impose(one, other, LOSSY)
    network.impose(other, one, LOSSY)
    count, openings = amount(50, 500), Openings(one, other)
    for number in range(count):
        opener, acceptor = (one, other) if number % 2 else (other, one)
        stream = opener.open_stream(acceptor, f"{number}", timeout=None)
        stream.send(b"%d" % number)
        network.run_until(lambda number=number: openings.told == 2 * (number + 1), limit_s=60.0)
        check_node(one)
        check_node(other)
    finish_all(network, (one, other))
    said = [message for node in (one, other) for messages in node.received.values() for message in messages]
    assert sorted(said) == sorted(b"%d" % number for number in range(count))
    assert one.of_type(PeerLeft) == other.of_type(PeerLeft) == []


@pytest.mark.soak
@pytest.mark.timeout(amount(120, 7_200))
def test_many_streams_share_one_session() -> None:
    network = SimNetwork(1)
    one, other = network.pair()
    count, openings = amount(2_000, 20_000), Openings(one, other)
    messages = {f"{number}": b"%032d" % number for number in range(count)}
    for name, message in messages.items():
        one.open_stream(other, name, timeout=None).send(message)
    network.run_until(lambda: openings.told == 2 * count and len(other.received) == count, limit_s=60.0)
    assert {stream.name: got for stream, got in other.received.items()} == {
        name: [message] for name, message in messages.items()
    }
    assert one.core.stats().links == 1
    check_node(one)
    check_node(other)
    finish_all(network, (one, other))
    ends = [event.error for node in (one, other) for event in node.of_type(StreamEnded)]
    assert ends == [None] * (2 * count)


@pytest.mark.soak
@pytest.mark.timeout(amount(120, 7_200))
@pytest.mark.parametrize("reliability", Reliability)
def test_streams_that_were_opened_and_closed_leave_nothing(reliability: Reliability) -> None:
    network = SimNetwork(2)
    one, other = network.pair(has_datagrams=True)
    network.run(1.0)

    def cycle(times: int) -> int:
        """Open and end so many streams, in all the ways there are; return how many objects there are then."""
        for number in range(times):
            stream = one.open_stream(other, "again", timeout=1.0, reliability=reliability)
            other.accepts = number % 4 != 3
            network.run(0.01)
            if number % 4 == 0:
                stream.finish()
                for theirs in list(other.core.sessions[0].streams.values()):
                    theirs.finish()
            elif number % 4 == 1:
                stream.abort(3)
            elif number % 4 == 2:
                stream.close(network.now + 1.0)
            network.run(0.01 if number % 4 != 3 else 1.1)
            forget(one, other)
        network.run(5.0)
        forget(one, other)
        gc.collect()
        return len(gc.get_objects())

    before = cycle(20)
    after = cycle(amount(300, 34_000))
    assert after <= before + 20, "something stays of each"
    assert one.core.stats().peers == 1
    for node in (one, other):
        check_rest(node)
        session = node.core.sessions[0]
        assert not session.lanes._timers._when
        assert not session.lanes._openings._held
        assert not session.lanes._openings._unanswered
        assert node.core._budget.reserved == 0


@pytest.mark.soak
@pytest.mark.timeout(amount(120, 7_200))
def test_who_never_reads_costs_no_more_after_a_minute_than_at_its_beginning() -> None:
    """Sent to all the time, on a stream as much as it takes; ``processes/test_strains.py`` has real ones."""
    network = SimNetwork(3)
    one, other = network.pair(has_datagrams=True)
    other.consumes = False
    stream = one.open_stream(other, "unread", timeout=None)
    network.run(1.0)

    def send_for(seconds: int) -> int:
        """Return what both ends take afterwards, and hold for the other."""
        for tick in range(10 * seconds):
            while stream.room >= KIB:
                stream.send(tick.to_bytes(4) * (KIB // 4))
            for _ in range(10):
                one.send(tick.to_bytes(4) * (KIB // 4), other, reliability=Reliability.UNRELIABLE)
            network.run(0.1)
            forget_events(one, other)
        check_node(one)
        check_node(other)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        at_first = send_for(15)
        in_the_end = send_for(amount(45, 3_600))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"at first {at_first / MIB:.2f} MiB, in the end {in_the_end / MIB:.2f}, at most {most / MIB:.2f}")
    assert most <= Limits().stream_window_bytes + 32 * MIB
    assert in_the_end <= at_first + MIB // 4, "it grows"
    assert stream.room < KIB, "the stream was never full"
    assert other.core.stats().dropped[DropCause.RECEIVE_QUEUE_FULL] > 1_000
    assert sum(map(len, other.received[next(iter(other.received))])) <= Limits().stream_window_bytes


def forget(*nodes: SimNode) -> None:
    """Empty what simulated applications collect."""
    forget_events(*nodes)
    for node in nodes:
        node.received.clear()


def forget_events(*nodes: SimNode) -> None:
    """Empty what was told; nobody was lost."""
    for node in nodes:
        assert node.of_type(PeerLeft) == []
        node.events.clear()
        node.actions.clear()
