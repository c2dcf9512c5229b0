"""Who is there: contract, section 5, and waiting for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    Address,
    AmbiguousPeer,
    BusClosed,
    ConfigError,
    Limits,
    LossReason,
    PeerLost,
    PeerState,
    Ticket,
    WaitTimeout,
)
from tests.behaviour.conftest import connect, forget, introduce
from tests.behaviour.face import AnyBus, Presence, error_of, get

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.behaviour.proxies import Proxies

    Pair = tuple[AnyBus, AnyBus]
    MakeBus = Callable[..., AnyBus]

STRANGER = Address(bytes(range(32)))


def names(presence: Presence) -> set[str]:
    return {peer.name for peer in presence.here.values()}


def test_a_peer_is_a_snapshot(pair: Pair) -> None:
    near, far = pair
    peer = near.peer(far.address)
    assert peer is not None
    assert [other.address for other in near.peers] == [far.address]  # what is measured of it may change
    assert (peer.address, peer.name, peer.metadata) == (far.address, "far", b"")
    assert peer.state is PeerState.ALIVE
    assert near.peer(STRANGER) is None
    assert near.peer(near.address) is None
    get(far.announce(name="farther"))
    get(near.wait_for_peer(lambda peer: peer.name == "farther"))
    assert peer.name == "far"


def test_a_snapshot_comes_at_once_and_then_every_change(pair: Pair, make_bus: MakeBus) -> None:
    near, far = pair
    presence = near.presence()
    presence.wait_until(lambda presence: presence.first is not None)
    assert presence.first is not None
    assert [peer.address for peer in presence.first] == [far.address]
    get(far.announce(name="farther", metadata=bytearray(b"details")))
    presence.wait_until(
        lambda presence: (
            (presence.here[far.address].name, presence.here[far.address].metadata) == ("farther", b"details")
        )
    )
    third = make_bus("third", metadata=b"new here")
    presence.wait_until(lambda presence: names(presence) == {"farther", "third"})
    assert presence.here[third.address].metadata == b"new here"
    get(third.close())
    presence.wait_until(lambda presence: names(presence) == {"farther"})
    assert presence.lost == [(third.address, LossReason.LEFT)]
    later = near.presence()
    later.wait_until(lambda presence: presence.first is not None)
    assert names(later) == {"farther"}


def test_who_is_known_and_has_not_joined_is_told_of_as_it_is_listed(make_bus: MakeBus) -> None:
    nobody = Ticket(STRANGER, ("tcp://127.0.0.1:9",))
    near = make_bus("near", peers=[nobody])
    presence = near.presence()
    presence.wait_until(lambda presence: STRANGER in presence.listed)
    far = make_bus("far")
    introduce(near, far)
    presence.wait_until(lambda presence: set(presence.here) == {far.address})
    told = {(peer.address, peer.state) for peer in presence.listed.values()}
    assert told == {(peer.address, peer.state) for peer in near.peers}
    assert told == {(STRANGER, PeerState.JOINING), (far.address, PeerState.ALIVE)}
    assert isinstance(error_of(near.wait_for_peer(STRANGER, timeout=0)), WaitTimeout)


def test_the_name_and_metadata_of_a_bus_can_be_set(pair: Pair) -> None:
    near, far = pair
    assert (far.bus.name, far.bus.metadata) == ("far", b"")
    get(far.announce(name="ü" * 32, metadata=bytes(4096)))
    assert (far.bus.name, far.bus.metadata) == ("ü" * 32, bytes(4096))
    peer = get(near.wait_for_peer(lambda peer: len(peer.metadata) == 4096))
    assert peer.name == "ü" * 32


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"name": "ü" * 33}, ConfigError),
        ({"name": "\ud800"}, ConfigError),
        ({"name": b"bytes"}, TypeError | ConfigError),
        ({"metadata": bytes(4097)}, ConfigError),
        ({"metadata": "text"}, TypeError),
    ],
)
def test_names_and_metadata_have_their_limits(pair: Pair, change: dict[str, Any], kind: type) -> None:
    near, far = pair
    assert isinstance(error_of(far.announce(**change)), kind)
    assert (far.bus.name, far.bus.metadata) == ("far", b"")
    get(far.announce(name="changed"))
    get(near.wait_for_peer("changed"))


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"name": "ü" * 33}, ConfigError),
        ({"metadata": bytes(4097)}, ConfigError),
        ({"metadata": "text"}, TypeError),
    ],
)
def test_a_bus_does_not_begin_with_more(make_bus: MakeBus, arguments: dict[str, Any], kind: type) -> None:
    with pytest.raises(kind):
        make_bus(**{"name": "bus", **arguments})


def test_waiting_for_a_peer(pair: Pair, make_bus: MakeBus) -> None:
    near, far = pair
    [peer] = near.peers
    for target in ("far", far.address, peer, lambda peer: peer.name.startswith("fa")):
        assert get(near.wait_for_peer(target)).address == far.address
    waiting = near.wait_for_peer("third"), near.wait_for_peers(2)
    third = make_bus("third")
    assert get(waiting[0]).address == third.address
    assert {peer.name for peer in get(waiting[1])} == {"far", "third"}
    assert len(get(near.wait_for_peers(0))) == 2


def test_waiting_has_its_time(pair: Pair) -> None:
    near, _ = pair
    for timeout in (0, 0.05):
        error = error_of(near.wait_for_peer("nobody", timeout=timeout))
        assert isinstance(error, WaitTimeout)
        assert "nobody" in str(error)
        assert isinstance(error_of(near.wait_for_peers(7, timeout=timeout)), WaitTimeout)
    assert isinstance(error_of(near.wait_for_peer(STRANGER, timeout=0)), WaitTimeout)
    for wrong, kind in ((-1, ConfigError), ("1", TypeError)):
        assert isinstance(error_of(near.wait_for_peer("far", timeout=wrong)), kind)  # type: ignore[arg-type]
        assert isinstance(error_of(near.wait_for_peers(1, timeout=wrong)), kind)  # type: ignore[arg-type]


def test_what_cannot_be_waited_for(pair: Pair) -> None:
    near, _ = pair
    for wrong in (None, 7, b"far"):
        assert isinstance(error_of(near.wait_for_peer(wrong)), TypeError)
    assert isinstance(error_of(near.wait_for_peers(-1)), ConfigError)
    assert isinstance(error_of(near.wait_for_peers("1")), TypeError)  # type: ignore[arg-type]
    failing = near.wait_for_peer(lambda peer: peer.no_such_attribute)
    assert isinstance(error_of(failing), AttributeError)


def test_a_name_that_two_have_is_ambiguous_and_an_address_never(pair: Pair, make_bus: MakeBus) -> None:
    near, far = pair
    twin = make_bus("far")
    get(near.wait_for_peers(2))
    error = error_of(near.wait_for_peer("far"))
    assert isinstance(error, AmbiguousPeer)
    assert isinstance(error, LookupError)
    assert "2 peers are named 'far'" in str(error)
    for bus in (far, twin):
        assert get(near.wait_for_peer(bus.address)).address == bus.address
    get(twin.close())
    presence = near.presence()
    presence.wait_until(lambda presence: list(presence.here) == [far.address])
    assert get(near.wait_for_peer("far")).address == far.address


def test_waiting_ends_with_the_bus(pair: Pair) -> None:
    near, _ = pair
    waiting = [near.wait_for_peer("nobody", timeout=None), near.wait_for_peers(7, timeout=None)]
    get(near.wait_for_peers(1))
    get(near.close())
    for outcome in waiting:
        assert isinstance(error_of(outcome), BusClosed)


def test_a_peer_that_is_gone_is_absent_and_may_come_back(make_bus: MakeBus) -> None:
    near = make_bus("near")
    presence = near.presence()
    addresses = []
    for _ in range(2):
        far = make_bus("far")
        introduce(near, far)
        assert near.peer(far.address) is not None
        addresses.append(far.address)
        get(far.close())
        presence.wait_until(lambda presence: len(presence.lost) == len(addresses) and not presence.here)
        forget(near, far)
        assert near.peers == ()
    assert presence.lost == [(address, LossReason.LEFT) for address in addresses]


def test_who_is_silent_is_suspect_and_then_lost_with_all_its_streams(
    proxies: Proxies, make_bus: MakeBus
) -> None:
    limits = Limits(liveness_s=2.0)
    near, far = introduce(*(proxies.bus(make_bus, name, limits=limits) for name in ("near", "far")))
    ours, _ = connect(near, far)
    presence = near.presence()
    proxies.freeze()
    presence.wait_until(lambda presence: (far.address, PeerState.SUSPECT) in presence.seen)
    presence.wait_until(lambda presence: presence.lost == [(far.address, LossReason.SILENT)])
    assert isinstance(error_of(ours.receive()), PeerLost)
    proxies.thaw()
    presence.wait_until(lambda presence: far.address in presence.here)  # it is back, and nothing of before
    introduce(near, far)
    assert error_of(ours.send(b"nothing reopens by itself")) is not None


def test_an_outage_shorter_than_the_limit_changes_nothing(proxies: Proxies, make_bus: MakeBus) -> None:
    near, far = introduce(*(proxies.bus(make_bus, name) for name in ("near", "far")))
    ours, theirs = connect(near, far)
    presence = near.presence()
    proxies.off()
    sending = near.send(b"single", far.address)
    sends = [ours.send(b"%d" % number) for number in range(100)]
    for outcome in sends:
        get(outcome)
    assert not sending.done()
    proxies.on()
    assert [get(theirs.receive()) for _ in sends] == [b"%d" % number for number in range(100)]
    assert get(far.take_message()).data == b"single"
    get(sending)
    assert presence.lost == []
