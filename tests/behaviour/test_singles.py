"""Single messages: contract, section 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    Address,
    BusError,
    ConfigError,
    DeliveryUnknown,
    Limits,
    MessageTooLarge,
    PeerLost,
    Reliability,
    SendTimeout,
    UnknownPeer,
)
from brokerless.clock import now
from tests.behaviour.conftest import connect, forget, introduce
from tests.behaviour.face import AnyBus, error_of, get, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.behaviour.proxies import Proxies

    Pair = tuple[AnyBus, AnyBus]
    Line = tuple[AnyBus, AnyBus, Proxies]
    MakeBus = Callable[..., AnyBus]

STRANGER = Address(bytes(range(32)))


def test_a_message_says_whose_it_is_and_what(pair: Pair) -> None:
    near, far = pair
    before = now()
    get(near.send(b"hello", far.address, channel=2**32 - 1))
    message = get(far.take_message())
    assert (message.sender, message.data, message.channel) == (near.address, b"hello", 2**32 - 1)
    assert message.reliability is Reliability.RELIABLE
    assert before <= message.received_at <= now()
    [peer] = far.peers
    get(far.send(bytearray(b"and back"), peer))
    assert get(near.take_message()).data == b"and back"


def test_messages_arrive_in_the_order_sent_each_exactly_once_whatever_their_channel(pair: Pair) -> None:
    near, far = pair
    sends = [near.send(b"%d" % number, far.address, channel=number % 3) for number in range(500)]
    received = [get(far.take_message()) for _ in sends]
    assert [message.data for message in received] == [b"%d" % number for number in range(500)]
    assert [message.channel for message in received] == [number % 3 for number in range(500)]
    for outcome in sends:
        get(outcome)


def test_messages_of_all_sizes_arrive(pair: Pair) -> None:
    near, far = pair
    for size in (0, 1, 100_000, 3_000_000, 0):
        sending = near.send(bytes([7]) * size, far.address)
        assert get(far.take_message()).data == bytes([7]) * size
        get(sending)


def test_acknowledged_means_that_the_other_bus_has_it_and_not_that_it_was_taken(pair: Pair) -> None:
    near, far = pair
    for number in range(10):
        get(near.send(b"%d" % number, far.address))
    assert [get(far.take_message()).data for _ in range(10)] == [b"%d" % number for number in range(10)]


def test_who_is_addressed_by_a_name_is_not_meant(pair: Pair) -> None:
    near, far = pair
    for to in ("far", None, str(far.address), bytes(32)):
        assert isinstance(error_of(near.send(b"", to)), TypeError)
    for stranger in (STRANGER, near.address):
        assert isinstance(error_of(near.send(b"", stranger)), UnknownPeer)


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"data": "text"}, TypeError, "data: expected bytes"),
        ({"data": None}, TypeError, "data: expected bytes"),
        ({"data": bytes(64 * 1024 * 1024 + 1)}, MessageTooLarge, "67108864"),
        ({"channel": -1}, ConfigError, "channel"),
        ({"channel": 2**32}, ConfigError, "channel"),
        ({"channel": "1"}, TypeError, "channel"),
        ({"timeout": -1}, ConfigError, "timeout"),
        ({"timeout": "1"}, TypeError, "timeout"),
        ({"reliability": "reliable"}, TypeError, "reliability"),
    ],
)
def test_what_cannot_be_sent(pair: Pair, arguments: dict[str, Any], kind: type, says: str) -> None:
    near, far = pair
    error = error_of(near.send(**{"data": b"data", "to": far.address, **arguments}))
    assert isinstance(error, kind)
    assert says in str(error)
    get(near.send(b"next", far.address))
    assert get(far.take_message()).data == b"next"


@pytest.mark.parametrize("small", ["near", "far"])
def test_either_sides_limit_holds(make_bus: MakeBus, small: str) -> None:
    limits = {small: {"limits": Limits(message_bytes_max=1000)}}
    near, far = introduce(*(make_bus(name, **limits.get(name, {})) for name in ("near", "far")))
    for sender, receiver in ((near, far), (far, near)):
        assert isinstance(error_of(sender.send(bytes(1001), receiver.address)), MessageTooLarge)
        get(sender.send(bytes(1000), receiver.address))
        assert get(receiver.take_message()).data == bytes(1000)


def test_what_has_not_left_in_time_did_not_arrive(make_bus: MakeBus) -> None:
    limits = Limits(stream_window_initial_bytes=1024, stream_window_bytes=1024)
    near, far = introduce(make_bus("near", limits=limits), make_bus("far", limits=limits))
    for _ in range(2):
        get(near.send(bytes(400), far.address))  # of a window that nobody empties
    late = error_of(near.send(bytes(300), far.address, timeout=0.05))
    assert isinstance(late, SendTimeout)
    assert not isinstance(late, DeliveryUnknown)
    assert late.peer == far.address
    unlimited = near.send(bytes(500), far.address, timeout=None)
    received = [len(get(far.take_message()).data) for _ in range(3)]
    assert received == [400, 400, 500]
    get(unlimited)


def test_no_time_at_all_is_over_at_once(pair: Pair) -> None:
    near, far = pair
    error = error_of(near.send(b"at once or never", far.address, timeout=0))
    assert isinstance(error, SendTimeout | DeliveryUnknown)
    get(near.send(b"next", far.address))


def test_what_has_left_and_was_not_acknowledged_in_time_is_unknown(line: Line) -> None:
    near, far, proxies = line
    proxies.freeze()
    while isinstance(error := error_of(near.send(b"perhaps", far.address, timeout=0.05)), SendTimeout):
        pass  # that one had not left, so it does not arrive
    assert isinstance(error, DeliveryUnknown)
    assert error.peer == far.address
    assert far.address.short in str(error)
    assert "it may have arrived" in str(error)
    assert isinstance(error.__cause__, SendTimeout)
    proxies.thaw()
    assert get(far.take_message()).data == b"perhaps"  # this time it did


def test_what_was_not_acknowledged_before_the_peer_was_lost_is_unknown(
    proxies: Proxies, make_bus: MakeBus
) -> None:
    limits = Limits(liveness_s=1.0)
    near, far = introduce(*(proxies.bus(make_bus, name, limits=limits) for name in ("near", "far")))
    ours, _ = connect(near, far)
    proxies.off()
    error = error_of(near.send(b"perhaps", far.address))
    assert isinstance(error, DeliveryUnknown | PeerLost)
    lost = error.__cause__ if isinstance(error, DeliveryUnknown) else error
    assert isinstance(lost, PeerLost)
    assert lost.reason == "silent"
    assert lost.silent_s >= 1.0
    assert isinstance(error_of(ours.receive()), PeerLost)
    assert isinstance(error_of(near.send(b"no", far.address)), PeerLost | UnknownPeer)


def test_what_was_not_acknowledged_before_the_bus_was_closed_is_unknown(line: Line) -> None:
    near, far, proxies = line
    proxies.freeze()
    sending = near.send(b"perhaps", far.address)
    until(lambda: near.stats().traffic.messages_sent == 1)
    assert get(near.close(timeout=0.05)) is False
    assert isinstance(error_of(sending), DeliveryUnknown)
    proxies.thaw()


def test_a_connection_that_breaks_loses_nothing(line: Line) -> None:
    near, far, proxies = line
    sends = []
    for number in range(200):
        if number % 50 == 10:
            proxies.reset()
        sends.append(near.send(b"%d" % number * 100, far.address))
        assert get(far.take_message()).data == b"%d" % number * 100
    for outcome in sends:
        get(outcome)


def test_who_has_left_is_told_so(pair: Pair) -> None:
    near, far = pair
    presence = near.presence()
    get(far.close())
    presence.wait_until(lambda presence: presence.lost)
    forget(near, far)
    for _ in range(2):
        error = error_of(near.send(b"to nobody", far.address))
        assert isinstance(error, PeerLost | UnknownPeer)
        assert isinstance(error, BusError)


def test_messages_to_several_peers_are_of_no_concern_to_each_other(make_bus: MakeBus) -> None:
    hub, one, two = (make_bus(name) for name in ("hub", "one", "two"))
    for other in (one, two):
        introduce(hub, other)
    for number in range(50):
        for other in (one, two):
            get(hub.send(b"%d" % number, other.address))
            get(other.send(b"%d" % number, hub.address))
    for other in (one, two):
        received = [get(other.take_message()) for _ in range(50)]
        assert [message.data for message in received] == [b"%d" % number for number in range(50)]
        assert {message.sender for message in received} == {hub.address}
    at_hub = [get(hub.take_message()) for _ in range(100)]
    for other in (one, two):
        of_other = [message.data for message in at_hub if message.sender == other.address]
        assert of_other == [b"%d" % number for number in range(50)]
