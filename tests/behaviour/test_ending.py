"""How streams end, and that everybody is told the truth: contract, section 4, ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    BusClosed,
    BusError,
    ConfigError,
    EndOfStream,
    LossReason,
    PeerLost,
    StreamClosed,
    StreamFinished,
    StreamReset,
)
from tests.behaviour.conftest import connect, forget, introduce
from tests.behaviour.face import AnyBus, AnyStream, Outcome, drain, error_of, get, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Pair = tuple[AnyBus, AnyBus]
    Ends = tuple[AnyStream, AnyStream]
    MakeBus = Callable[..., AnyBus]

CLOSED = StreamClosed | StreamReset | StreamFinished | BusClosed | PeerLost
"""What a command says that comes after the end, whichever side made it."""


def send_numbers(stream: AnyStream, count: int) -> list[bytes]:
    """Send so many messages, which are all accepted."""
    messages = [b"%d" % number for number in range(count)]
    for outcome in [stream.send(message) for message in messages]:
        get(outcome)
    return messages


def send_too_much(stream: AnyStream) -> list[Outcome[int]]:
    """Send more than is accepted while nobody reads, and no more than may wait for that."""
    accepted = [stream.send(bytes(45_000)) for _ in range(20)]
    for outcome in accepted:
        get(outcome)
    return accepted + [stream.send(bytes(45_000)) for _ in range(20)]


def close_told(stream: AnyStream, timeout: float | None = 5.0) -> int | None:
    """Close, and return how much the other application has consumed; None: all."""
    error = error_of(stream.close(timeout))
    assert error is None or isinstance(error, StreamClosed), error
    return None if error is None else error.last_consumed


# finish()


@pytest.mark.parametrize("first", [0, 1])
def test_finishing_ends_one_side_only(ends: Ends, first: int) -> None:
    finished, other = ends[first], ends[1 - first]
    sent = send_numbers(finished, 100)
    get(finished.finish())
    assert isinstance(error_of(finished.send(b"later")), StreamFinished)
    assert other.receive_all() == sent
    assert isinstance(error_of(other.receive()), EndOfStream)  # and again
    answer = send_numbers(other, 100)
    assert [get(finished.receive()) for _ in answer] == answer
    get(other.finish())
    assert isinstance(error_of(finished.receive()), EndOfStream)
    assert close_told(finished) is close_told(other) is None


def test_where_both_finish_neither_loses_anything(ends: Ends) -> None:
    sent = [send_numbers(end, 500) for end in ends]
    for end in ends:
        get(end.finish())
        get(end.finish())
    assert [end.receive_all() for end in reversed(ends)] == sent
    assert [close_told(end) for end in ends] == [None, None]


def test_a_stream_may_be_finished_before_anything_was_sent(ends: Ends) -> None:
    ours, theirs = ends
    waiting = theirs.receive()
    get(ours.finish())
    assert isinstance(error_of(waiting), EndOfStream)
    get(theirs.finish())
    assert ours.receive_all() == []
    assert [close_told(end) for end in ends] == [None, None]


def test_who_has_finished_still_closes_with_the_truth(ends: Ends) -> None:
    ours, theirs = ends
    sent = send_numbers(ours, 10)
    get(ours.finish())
    closing = ours.close()
    assert [get(theirs.receive()) for _ in sent[:-1]] == sent[:-1]
    assert not closing.done()
    assert get(theirs.receive()) == sent[-1]
    get(closing)


# close()


def test_closing_drains_what_was_sent(ends: Ends) -> None:
    ours, theirs = ends
    sent = send_numbers(ours, 1000)
    closing = ours.close(timeout=None)
    assert theirs.receive_all() == sent
    get(closing)
    assert close_told(theirs) is None


def test_a_close_that_says_none_says_that_all_was_consumed(ends: Ends) -> None:
    ours, theirs = ends
    sent = send_numbers(ours, 3)
    assert [get(theirs.receive()) for _ in sent] == sent
    assert close_told(ours) is None
    assert close_told(theirs) is None


def test_who_closes_discards_what_still_arrives_and_the_other_side_learns_how_much(ends: Ends) -> None:
    ours, theirs = ends
    sent = send_numbers(theirs, 10)
    assert [get(ours.receive()) for _ in range(4)] == sent[:4]
    assert close_told(ours) is None
    assert isinstance(error_of(theirs.receive()), EndOfStream)
    assert close_told(theirs) == 4
    assert isinstance(error_of(theirs.send(b"later")), CLOSED)


def test_a_close_ends_what_the_other_side_still_sends(ends: Ends) -> None:
    ours, theirs = ends
    blocked = send_too_much(theirs)
    closing = ours.close()
    outcomes = [error_of(outcome) for outcome in blocked]
    accepted = outcomes.index(next(error for error in outcomes if error is not None))
    assert outcomes[:accepted] == [None] * accepted
    assert {type(error) for error in outcomes[accepted:]} == {StreamClosed}
    assert outcomes[-1].last_consumed == 0  # type: ignore[union-attr]
    get(closing)
    assert close_told(theirs) in (0, None)  # None: it was told


def test_a_close_drains_no_longer_than_its_timeout(ends: Ends) -> None:
    ours, theirs = ends
    sent = send_numbers(ours, 10)
    assert [get(theirs.receive()) for _ in range(3)] == sent[:3]
    until(lambda: theirs.stats().messages_received == 10)
    consumed = close_told(ours, 0.05)
    assert consumed is not None
    assert consumed <= 3  # as far as it was told in time
    assert isinstance(drain(theirs), EndOfStream | StreamClosed)  # EndOfStream: that too left in time
    until(lambda: isinstance(error_of(theirs.send(b"later")), CLOSED))  # one more may be taken before


def test_who_is_cut_off_in_the_middle_can_tell(ends: Ends) -> None:
    ours, theirs = ends
    accepted = sum(error_of(outcome) is None for outcome in [ours.send(bytes(50_000)) for _ in range(10)])
    assert accepted == 10  # far more than the window
    assert get(theirs.receive())
    assert close_told(ours, 0.05) is not None
    assert isinstance(drain(theirs), StreamClosed)  # which is no EndOfStream
    assert isinstance(error_of(theirs.close()), StreamClosed | None)


def test_a_close_without_a_timeout_waits(ends: Ends) -> None:
    ours, theirs = ends
    sent = send_numbers(ours, 10)
    closing = ours.close(timeout=None)
    assert [get(theirs.receive()) for _ in range(9)] == sent[:9]
    assert not closing.done()
    get(theirs.receive())
    get(closing)


def test_both_may_close_at_once(ends: Ends) -> None:
    closings = [end.close() for end in ends]
    assert [error_of(closing) for closing in closings] == [None, None]


def test_both_may_close_at_once_with_everything_unread(ends: Ends) -> None:
    for end in ends:
        send_numbers(end, 10)
    for end in ends:
        until(lambda end=end: end.stats().messages_received == 10)
    closings = [end.close() for end in ends]
    errors = [error_of(closing) for closing in closings]
    assert [type(error) for error in errors] == [StreamClosed, StreamClosed]
    assert [error.last_consumed for error in errors] == [0, 0]  # type: ignore[union-attr]


def test_what_comes_after_a_close(ends: Ends) -> None:
    ours, theirs = ends
    closing = ours.close()
    assert isinstance(error_of(ours.send(b"later")), CLOSED)
    get(ours.finish())
    get(closing)
    get(ours.close())
    get(ours.finish())
    get(ours.abort(7))
    assert isinstance(error_of(ours.send(b"later")), CLOSED)
    assert theirs.receive_all() == []
    get(theirs.close())
    assert isinstance(error_of(theirs.send(b"later")), CLOSED)


# abort()


@pytest.mark.parametrize("aborting", [0, 1])
def test_an_abort_tells_its_code_and_reason(ends: Ends, aborting: int) -> None:
    aborted, other = ends[aborting], ends[1 - aborting]
    waiting = other.receive()
    get(aborted.abort(7, "närrisch: enough"))
    error = error_of(waiting)
    assert isinstance(error, StreamReset)
    assert (error.code, error.reason, error.peer) == (7, "närrisch: enough", other.stream.peer)
    assert isinstance(error_of(other.send(b"later")), StreamReset)
    assert isinstance(error_of(aborted.send(b"later")), CLOSED)
    get(aborted.abort(8))
    assert isinstance(error_of(aborted.close()), StreamReset | None)


def test_an_abort_drops_everything(ends: Ends) -> None:
    ours, theirs = ends
    blocked = send_too_much(ours)
    get(ours.abort(7))
    outcomes = [error_of(outcome) for outcome in blocked]
    refused = [error for error in outcomes if error is not None]
    assert refused
    assert outcomes == [None] * (len(blocked) - len(refused)) + refused
    assert {type(error) for error in refused} <= {StreamReset, StreamFinished}
    received = 0
    while (error := error_of(theirs.receive())) is None:
        received += 1
    assert isinstance(error, StreamReset)
    assert received < len(blocked)


def test_an_abort_ends_a_close_that_waits(ends: Ends) -> None:
    ours, theirs = ends
    send_numbers(ours, 10)
    closing = ours.close(timeout=None)
    get(ours.abort(7))
    assert isinstance(error_of(closing), StreamReset)
    assert isinstance(drain(theirs), StreamReset | EndOfStream)
    assert isinstance(error_of(theirs.close()), StreamReset | None)


def test_the_other_side_may_abort_while_we_close(ends: Ends) -> None:
    ours, theirs = ends
    send_numbers(ours, 10)
    closing = ours.close(timeout=None)
    get(theirs.receive())
    get(theirs.abort(9))
    error = error_of(closing)
    assert isinstance(error, StreamReset)
    assert error.code == 9


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [(-1, "", ConfigError), (2**31, "", ConfigError), ("7", "", TypeError), (7, "x" * 1025, ConfigError)],
)
def test_an_abort_that_cannot_be_said_aborts_nothing(ends: Ends, code: Any, reason: str, kind: type) -> None:
    ours, theirs = ends
    assert isinstance(error_of(ours.abort(code, reason)), kind)
    get(ours.send(b"goes on"))
    assert get(theirs.receive()) == b"goes on"


@pytest.mark.parametrize(("timeout", "kind"), [(-1, ConfigError), ("5", TypeError)])
def test_a_close_that_cannot_be_closes_nothing(ends: Ends, timeout: Any, kind: type) -> None:
    ours, theirs = ends
    assert isinstance(error_of(ours.close(timeout)), kind)
    get(ours.send(b"goes on"))
    assert get(theirs.receive()) == b"goes on"


# With the peer, or the bus


def test_streams_end_with_the_peer(pair: Pair) -> None:
    near, far = pair
    ours, theirs = connect(near, far)
    waiting = ours.receive()
    presence = near.presence()
    get(far.close(timeout=0))
    assert isinstance(error_of(waiting), PeerLost | StreamReset | StreamClosed | EndOfStream)
    presence.wait_until(lambda presence: presence.lost == [(far.address, LossReason.LEFT)])
    forget(near, far)
    assert isinstance(error_of(ours.send(b"to nobody")), BusError)
    assert isinstance(error_of(theirs.send(b"from nobody")), BusError)
    assert isinstance(error_of(near.send(b"to nobody", far.address)), BusError)


def test_closing_the_bus_drains_and_ends_everything_once(pair: Pair) -> None:
    near, far = pair
    ours, theirs = connect(near, far)
    receiving = ours.receive()
    taking, offering = near.take_message(), near.take_offer()
    sent = send_numbers(ours, 100)
    closing = [near.close(timeout=None), near.close(timeout=None)]
    assert [get(theirs.receive()) for _ in sent] == sent
    assert [get(outcome) for outcome in closing] == [True, True]
    assert isinstance(error_of(receiving), BusError)
    assert isinstance(error_of(ours.send(b"later")), CLOSED)
    assert isinstance(error_of(near.send(b"later", far.address)), BusClosed)
    assert isinstance(error_of(near.wait_for_peer("far")), BusClosed)
    assert isinstance(error_of(near.bind("later", lambda *stream: None)), BusClosed)
    assert near.peers == ()
    for waiting in (taking, offering):
        assert not waiting.done() or isinstance(error_of(waiting), EOFError | BusClosed)
    assert get(near.close()) is True


def test_a_stream_that_nobody_has_finished_does_not_end_well_when_the_bus_is_closed(pair: Pair) -> None:
    near, far = pair
    ours, theirs = connect(near, far)
    sent = send_numbers(ours, 10)
    assert get(theirs.send(b"unfinished, too"))
    assert get(near.close()) is True
    assert [get(theirs.receive()) for _ in sent] == sent
    assert isinstance(error_of(theirs.receive()), PeerLost)
    received = drain(ours)
    assert isinstance(received, BusClosed)


def test_a_stream_that_is_finished_is_drained_and_ends_well_when_the_bus_is_closed(pair: Pair) -> None:
    near, far = pair
    ours, theirs = connect(near, far)
    sent = send_numbers(ours, 10)
    get(ours.finish())
    closing = near.close(timeout=None)
    assert theirs.receive_all() == sent
    assert get(closing) is True
    assert close_told(theirs) is None


def test_a_bus_that_is_closed_in_no_time_says_what_was_not_acknowledged(pair: Pair) -> None:
    near, far = pair
    ours, _ = connect(near, far)
    for _ in range(5):
        get(ours.send(bytes(100_000)))  # more than the window
    assert get(near.close(timeout=0)) is False


def test_a_loss_ends_all_streams_of_that_peer_and_of_no_other(make_bus: MakeBus) -> None:
    near, far, third = (make_bus(name) for name in ("near", "far", "third"))
    introduce(near, far)
    introduce(near, third)
    kept_ours, kept_theirs = connect(near, third)
    lost = [connect(near, far)[0] for _ in range(10)]
    waiting = [stream.receive() for stream in lost]
    get(far.close(timeout=0))
    assert all(isinstance(error_of(outcome), BusError) for outcome in waiting)
    get(kept_ours.send(b"still here"))
    assert get(kept_theirs.receive()) == b"still here"
