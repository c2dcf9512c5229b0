from __future__ import annotations

import pytest

from brokerless.address import Address
from brokerless.model import (
    Event,
    LossReason,
    Peer,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    PeerState,
    SendDone,
)
from brokerless.testing.presence import Presence

KNOWN = Peer(Address(bytes(32)))
ALIVE = Peer(Address(bytes(32)), "name", state=PeerState.ALIVE)
SUSPECT = Peer(Address(bytes(32)), "name", state=PeerState.SUSPECT)
JOINED, LEFT = PeerJoined(ALIVE), PeerLeft(ALIVE, LossReason.LEFT)


def test_events_add_up_to_who_is_there() -> None:
    presence = Presence()
    presence.check([])
    for event, peers in (
        (PeerChanged(KNOWN), [KNOWN]),
        (PeerForgotten(KNOWN), []),
        (PeerChanged(KNOWN), [KNOWN]),
        (JOINED, [ALIVE]),
        (SendDone(1, None), [ALIVE]),
        (PeerChanged(SUSPECT), [SUSPECT]),
        (LEFT, []),
        (JOINED, [ALIVE]),
    ):
        presence.take(event)
        presence.check(peers)


@pytest.mark.parametrize(
    "events",
    [
        [LEFT],
        [PeerForgotten(KNOWN)],
        [PeerChanged(ALIVE)],
        [PeerJoined(KNOWN)],
        [JOINED, JOINED],
        [JOINED, PeerJoined(SUSPECT)],
        [JOINED, PeerChanged(ALIVE)],
        [JOINED, PeerChanged(KNOWN)],
        [JOINED, PeerForgotten(ALIVE)],
        [PeerChanged(KNOWN), PeerLeft(KNOWN, LossReason.LEFT)],
    ],
)
def test_what_makes_no_sense_is_noticed(events: list[Event]) -> None:
    presence = Presence()
    for event in events[:-1]:
        presence.take(event)
    with pytest.raises(AssertionError):
        presence.take(events[-1])


@pytest.mark.parametrize("peers", [[], [ALIVE], [Peer(KNOWN.address, state=PeerState.JOINING)]])
def test_what_was_not_told_is_noticed(peers: list[Peer]) -> None:
    presence = Presence()
    presence.take(PeerChanged(KNOWN))
    with pytest.raises(AssertionError):
        presence.check(peers)
