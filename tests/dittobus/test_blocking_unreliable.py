"""What may be lost, in the blocking face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    DatagramPath,
    DropCause,
    EndOfStream,
    Limits,
    MessageTooLarge,
    NoPath,
    Reliability,
    SendQueueFull,
    StreamFinished,
    StreamReset,
    UnknownPeer,
    UsageError,
    WaitTimeout,
)
from brokerless.protocol.datagrams import Datagrams
from tests.dittobus.blocking_pair import Ends, Pair, open_pair
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ThreadPoolExecutor

    from dittobus.blocking import Stream


@pytest.fixture
def pair(mesh: dict[str, Any]) -> Iterator[Pair]:
    with open_pair(mesh) as pair:
        yield pair


@pytest.fixture
def ends(threads: ThreadPoolExecutor, pair: Pair) -> Iterator[Ends]:
    """Both ends of an open stream, by which a message has gone each way."""
    near, far = pair
    opening = threads.submit(near.open_stream, far.address, Reliability.SEQUENCED, name="test")
    theirs = far.receive_offer(WAIT_S).accept()
    ours = opening.result(WAIT_S)
    pass_on(ours, theirs, b"first")
    pass_on(theirs, ours, b"first")
    yield ours, theirs
    ours.abort()
    theirs.abort()


def pass_on(sender: Stream, receiver: Stream, data: bytes) -> None:
    """Send until one has arrived, the latest: even here a datagram may be lost."""
    for number in range(20):
        latest = data + b" %d" % number
        sender.send(latest)
        try:
            while receiver.receive(timeout=0.5) != latest:
                pass
            return
        except WaitTimeout:
            continue
    raise AssertionError("nothing arrives")


def test_a_message_that_finds_no_way_says_so(pair: Pair, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pair
    ours, theirs = ends
    monkeypatch.setattr(Datagrams, "path", DatagramPath.NONE)
    monkeypatch.setattr(Datagrams, "_transmit", lambda self, targets, plain: False)
    for send in (
        lambda: near.send(b"x", far.address, Reliability.SEQUENCED),
        lambda: ours.send(b"x"),
        lambda: ours.send_nowait(b"x"),
    ):
        with pytest.raises(NoPath):
            send()
    assert ours.stats().dropped == {DropCause.NO_PATH: 2}
    assert near.peer_stats(far.address).dropped[DropCause.NO_PATH] == 3
    monkeypatch.undo()
    pass_on(ours, theirs, b"on")
    ours.close()


def test_a_message_that_the_network_does_not_take_now_says_so(
    pair: Pair, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair
    ours, _ = ends
    monkeypatch.setattr(Datagrams, "_transmit", lambda self, targets, plain: False)
    with pytest.raises(SendQueueFull):
        near.send(b"x", far.address, Reliability.UNRELIABLE)
    with pytest.raises(SendQueueFull):
        ours.send(b"x", timeout=1.0)
    assert near.stats().dropped[DropCause.SEND_QUEUE_FULL] == 2


def test_sizes_are_checked_at_the_call(mesh: dict[str, Any], threads: ThreadPoolExecutor) -> None:
    with open_pair({**mesh, "limits": Limits(datagram_message_bytes_max=5_000)}) as (near, far):
        opening = threads.submit(near.open_stream, far.address, Reliability.UNRELIABLE)
        theirs = far.receive_offer(WAIT_S).accept()
        ours = opening.result(WAIT_S)
        for stream in (ours, theirs):
            for send in (stream.send, stream.send_nowait):
                with pytest.raises(MessageTooLarge, match="5000"):
                    send(bytes(5_001))
        with pytest.raises(MessageTooLarge, match="5000"):
            near.send(bytes(5_001), far.address, Reliability.UNRELIABLE)
        ours.abort()
        theirs.abort()


def test_there_are_no_receipts(ends: Ends) -> None:
    with pytest.raises(UsageError, match="no receipts"):
        ends[0].wait_acknowledged()


def test_all_that_came_is_taken_before_the_end(ends: Ends) -> None:
    ours, theirs = ends
    before = theirs.stats().messages_received
    while theirs.stats().messages_received < before + 10:
        ours.send(b"x")
    ours.finish()
    taken = list(theirs)
    assert len(taken) >= 10
    assert set(taken) == {b"x"}
    with pytest.raises(EndOfStream):
        theirs.receive(WAIT_S)
    with pytest.raises(StreamFinished):
        ours.send(b"late")
    theirs.close()
    with pytest.raises(EndOfStream):
        ours.receive(WAIT_S)


def test_an_abort_wakes_who_waits(ends: Ends, threads: ThreadPoolExecutor) -> None:
    ours, theirs = ends
    receiving = threads.submit(theirs.receive)
    ours.abort(7, "enough")
    error = receiving.exception(WAIT_S)
    assert isinstance(error, StreamReset)
    assert error.code == 7
    with pytest.raises(StreamReset):
        theirs.send(b"late")


def test_a_closed_stream_holds_nothing(pair: Pair, ends: Ends) -> None:
    ours, theirs = ends
    theirs.send(b"x")
    ours.close()
    with pytest.raises(StreamFinished):
        ours.receive()


def test_who_waits_for_single_messages_gets_any_kind(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    for reliability in (*Reliability, *Reliability):
        taking = threads.submit(far.receive_message, WAIT_S)
        near.send(b"x", far.address, reliability)
        assert taking.result(WAIT_S).reliability is reliability


def test_counters_of_a_peer(pair: Pair) -> None:
    near, far = pair
    near.send(b"x", far.address, Reliability.UNRELIABLE)
    peer = near.peer(far.address)
    assert peer is not None
    assert near.peer_stats(peer).datagrams_sent > 0
    with pytest.raises(UnknownPeer):
        near.peer_stats(near.address)
