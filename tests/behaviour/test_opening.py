"""How streams come about: contract, section 4, the open handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    Address,
    BusClosed,
    BusError,
    ConfigError,
    OpenTimeout,
    PeerLost,
    Reliability,
    StreamRejected,
    StreamReset,
    UnknownPeer,
    UsageError,
)
from tests.behaviour.conftest import connect, forget, introduce
from tests.behaviour.face import AnyBus, AnyStream, error_of, get, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Pair = tuple[AnyBus, AnyBus]
    MakeBus = Callable[..., AnyBus]

STRANGER = Address(bytes(range(32)))


def echo(asking: AnyStream, answering: AnyStream, message: bytes = b"still there?") -> None:
    """Show that a stream carries messages both ways."""
    get(asking.send(message))
    get(answering.send(get(answering.receive())))
    assert get(asking.receive()) == message


def connect_named(near: AnyBus, far: AnyBus, name: str) -> tuple[AnyStream, AnyStream]:
    """Open a stream, passing over offers of other names, and return both ends."""
    opening = near.open(far.address, name=name)
    while (offer := get(far.take_offer())).offer.name != name:
        pass
    theirs = get(offer.accept())
    return get(opening), theirs


def test_both_ends_know_the_name_and_all_metadata(pair: Pair) -> None:
    near, far = pair
    opening = near.open(far.address, name="video", metadata=b"1080p")
    offer = get(far.take_offer())
    assert offer.offer.peer == near.address
    assert (offer.offer.name, offer.offer.metadata) == ("video", b"1080p")
    assert offer.offer.reliability is Reliability.RELIABLE
    theirs = get(offer.accept(b"720p"))
    ours = get(opening)
    for end, peer in ((ours.stream, far.address), (theirs.stream, near.address)):
        assert (end.peer, end.name, end.metadata, end.reply_metadata) == (peer, "video", b"1080p", b"720p")
        assert end.reliability is Reliability.RELIABLE
    echo(ours, theirs)
    echo(theirs, ours)


def test_an_offer_may_be_accepted_later(pair: Pair) -> None:
    near, far = pair
    opening = near.open(far.address, name="later")
    offer = get(far.take_offer())
    ours, theirs = connect(near, far, "meanwhile")
    echo(ours, theirs)
    assert not opening.done()
    theirs = get(offer.accept())
    echo(get(opening), theirs)


def test_who_accepts_may_send_at_once(pair: Pair) -> None:
    near, far = pair
    opening = near.open(far.address)
    theirs = get(get(far.take_offer()).accept())
    for number in range(100):
        theirs.send(b"%d" % number)
    ours = get(opening)
    assert [get(ours.receive()) for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_a_rejection_tells_code_and_reason(pair: Pair) -> None:
    near, far = pair
    opening = near.open(far.address, name="order")
    offer = get(far.take_offer())
    get(offer.reject(7, "närrisch: not today"))
    error = error_of(opening)
    assert isinstance(error, StreamRejected)
    assert (error.code, error.reason, error.peer) == (7, "närrisch: not today", far.address)
    for second_answer in (offer.accept(), offer.reject()):
        assert isinstance(error_of(second_answer), UsageError)
    echo(*connect(near, far))


def test_a_rejection_may_come_later_and_say_nothing(pair: Pair) -> None:
    near, far = pair
    opening = near.open(far.address, name="later")
    offer = get(far.take_offer())
    echo(*connect(near, far, "meanwhile"))
    get(offer.reject())
    error = error_of(opening)
    assert isinstance(error, StreamRejected)
    assert (error.code, error.reason) == (0, "")


def test_an_accepted_offer_is_not_answered_again(pair: Pair) -> None:
    near, far = pair
    opening = near.open(far.address)
    offer = get(far.take_offer())
    theirs = get(offer.accept())
    for second_answer in (offer.accept(), offer.reject(1, "changed my mind")):
        assert isinstance(error_of(second_answer), UsageError)
    echo(get(opening), theirs)


def test_an_offer_nobody_takes_ends_at_its_timeout(pair: Pair) -> None:
    near, far = pair
    taking = far.take_offer()
    while not taking.done():  # its time may be over before anybody there has heard of it
        error = error_of(near.open(far.address, name="untaken", timeout=0.1))
        assert isinstance(error, OpenTimeout)
        assert isinstance(error, TimeoutError)
        assert error.peer == far.address
    echo(*connect_named(near, far, "next"))  # what came before it has been taken in by both
    too_late = get(taking).accept()
    echo(*connect_named(near, far, "last"))
    assert not too_late.done() or isinstance(too_late.exception(), BusError)


def test_no_time_at_all_is_over_at_once(pair: Pair) -> None:
    near, far = pair
    assert isinstance(error_of(near.open(far.address, name="too late", timeout=0)), OpenTimeout)
    echo(*connect_named(near, far, "next"))


def test_both_may_open_at_once(pair: Pair) -> None:
    near, far = pair
    from_near = [near.open(far.address, name=f"near {number}") for number in range(10)]
    from_far = [far.open(near.address, name=f"far {number}") for number in range(10)]
    at_far = [get(get(far.take_offer()).accept()) for _ in from_near]
    at_near = [get(get(near.take_offer()).accept()) for _ in from_far]
    accepted = {stream.stream.name: stream for stream in at_far + at_near}
    for number, opening in enumerate(from_near + from_far):
        ours = get(opening)
        echo(ours, accepted[ours.stream.name], b"%d" % number)


def test_ids_are_unique_on_their_bus(make_bus: MakeBus) -> None:
    hub, *others = (make_bus(name) for name in ("hub", "one", "two"))
    streams = []
    for other in others:
        introduce(hub, other)
        streams += [connect(hub, other)[0], connect(other, hub)[1], connect(hub, other)[0]]
    ids = [stream.stream.id for stream in streams]
    assert len(set(ids)) == 6
    assert all(type(one) is int and 0 < one < 2**62 for one in ids)
    assert len({stream.stream for stream in streams}) == 6


def test_names_and_metadata_may_be_as_large_as_the_limits(pair: Pair) -> None:
    near, far = pair
    name, metadata = "ä" * 32, bytes(4096)
    opening = near.open(far.address, name=name, metadata=bytearray(metadata))
    offer = get(far.take_offer())
    assert (offer.offer.name, offer.offer.metadata) == (name, metadata)
    assert isinstance(error_of(offer.accept(bytes(4097))), ConfigError)
    theirs = get(offer.accept(memoryview(metadata)))  # who erred may answer again
    assert get(opening).stream.reply_metadata == theirs.stream.reply_metadata == metadata


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"name": "x" * 65}, ConfigError, "name: at most 64 bytes"),
        ({"name": "ä" * 33}, ConfigError, "name: at most 64 bytes"),
        ({"name": "\ud800"}, ConfigError, "name"),
        ({"name": b"bytes"}, TypeError, "name: expected str"),
        ({"metadata": bytes(4097)}, ConfigError, "metadata: at most 4096 bytes"),
        ({"metadata": "text"}, TypeError, "metadata: expected bytes"),
        ({"timeout": -1}, ConfigError, "timeout"),
        ({"timeout": "soon"}, TypeError, "timeout"),
        ({"reliability": "reliable"}, TypeError, "reliability"),
        ({"to": "far"}, TypeError, "to: expected a DittoAddress or a Peer"),
        ({"to": STRANGER}, UnknownPeer, "was heard of"),
    ],
)
def test_what_cannot_be_opened(pair: Pair, arguments: dict[str, Any], kind: type, says: str) -> None:
    near, far = pair
    error = error_of(near.open(**{"to": far.address, **arguments}))
    assert isinstance(error, kind)
    assert says in str(error)
    echo(*connect(near, far))


def test_a_bus_opens_no_stream_to_itself(pair: Pair) -> None:
    near, _ = pair
    assert isinstance(error_of(near.open(near.address)), UnknownPeer)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (-1, "", ConfigError),
        (2**31, "", ConfigError),
        ("1", "", TypeError),
        (True, "", TypeError),
        (1, "x" * 1025, ConfigError),
        (1, "\ud800", ConfigError),
        (1, b"reason", TypeError),
    ],
)
def test_what_cannot_be_said_does_not_count_as_an_answer(
    pair: Pair, code: Any, reason: Any, kind: type
) -> None:
    near, far = pair
    opening = near.open(far.address)
    offer = get(far.take_offer())
    assert isinstance(error_of(offer.reject(code, reason)), kind)
    get(offer.reject(2**31 - 1, "x" * 1024))
    error = error_of(opening)
    assert isinstance(error, StreamRejected)
    assert (error.code, error.reason) == (2**31 - 1, "x" * 1024)


def test_more_offers_than_may_wait_are_held_back_until_there_is_room(make_bus: MakeBus) -> None:
    from brokerless import Limits

    near, far = introduce(make_bus("near"), make_bus("far", limits=Limits(offers_max=3)))
    opening = {name: near.open(far.address, name=name) for name in map(str, range(10))}
    until(lambda: near.peer_stats(far.address).streams_open == 10)
    late = near.open(far.address, name="late", timeout=0.1)
    assert isinstance(error_of(late), OpenTimeout)
    for _ in range(10):
        theirs = get(get(far.take_offer()).accept())
        echo(get(opening[theirs.stream.name]), theirs)
    echo(*connect(near, far))


def test_more_streams_than_may_be_open_are_refused(make_bus: MakeBus) -> None:
    from brokerless import Limits

    near, far = introduce(make_bus("near"), make_bus("far", limits=Limits(streams_max=2)))
    ends = [connect(near, far), connect(far, near)]
    error = error_of(near.open(far.address))
    assert isinstance(error, UsageError)
    assert "2 streams are open" in str(error)
    for end in ends.pop():
        get(end.finish())
    echo(*ends[0])
    echo(*connect(near, far))


def test_an_opening_ends_with_the_peer(pair: Pair) -> None:
    near, far = pair
    opening = near.open(far.address)
    get(far.take_offer())
    presence = near.presence()
    get(far.close(timeout=0))
    error = error_of(opening)
    assert isinstance(error, PeerLost | StreamRejected)
    presence.wait_until(lambda presence: presence.lost)
    forget(near, far)
    assert isinstance(error_of(near.open(far.address)), PeerLost | UnknownPeer)


def test_an_opening_ends_with_the_bus(pair: Pair) -> None:
    near, far = pair
    opening = near.open(far.address)
    offer = get(far.take_offer())
    get(near.close())
    assert isinstance(error_of(opening), BusClosed | StreamReset)
    accepting = offer.accept()
    assert not accepting.done() or isinstance(error_of(accepting), BusError)
    assert isinstance(error_of(near.open(far.address)), BusClosed)


def test_bound_names_are_handled_and_others_rejected(pair: Pair) -> None:
    near, far = pair
    taken: list[tuple[AnyStream, Address]] = []
    get(far.bind("echo", lambda *stream: taken.append(stream)))
    get(far.bind("other", lambda *stream: None))
    ours = get(near.open(far.address, name="echo", metadata=b"for you"))
    get(ours.send(b"hello"))
    until(lambda: taken)
    [(theirs, peer)] = taken
    assert (peer, theirs.stream.name, theirs.stream.metadata) == (near.address, "echo", b"for you")
    assert get(theirs.receive()) == b"hello"
    error = error_of(near.open(far.address, name="unbound"))
    assert isinstance(error, StreamRejected)
    assert error.reason == "nothing here takes streams named 'unbound'"
    assert isinstance(error_of(far.bind("echo", lambda *stream: None)), ConfigError)


def test_a_name_that_no_stream_can_have_is_not_bound(pair: Pair) -> None:
    near, far = pair
    for name, kind in (("x" * 65, ConfigError), ("\ud800", ConfigError), (b"bytes", TypeError)):
        error = error_of(far.bind(name, lambda *stream: None))  # type: ignore[arg-type]
        assert isinstance(error, kind)
        assert "name: " in str(error)
    echo(*connect(near, far, "no binding is used"))
