"""Who is there, as a node's events tell it: what they add up to is what its ``peers`` say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.model import PeerChanged, PeerForgotten, PeerJoined, PeerLeft

if TYPE_CHECKING:
    from collections.abc import Iterable

    from brokerless.address import Address
    from brokerless.model import Event, Peer


class Presence:
    """The sum of a node's events; each is held against those before it."""

    def __init__(self) -> None:
        self.peers: dict[Address, Peer] = {}

    def take(self, event: Event) -> None:
        """Take in the next event."""
        if not isinstance(event, PeerJoined | PeerChanged | PeerForgotten | PeerLeft):
            return
        peer = event.peer
        before = self.peers.pop(peer.address, None)
        had_joined = before is not None and before.has_joined
        if isinstance(event, PeerForgotten | PeerLeft):
            assert before is not None, "it goes, and was not there"
            assert had_joined is isinstance(event, PeerLeft), "who had joined leaves, others are forgotten"
            return
        assert before is None or _notable(before) != _notable(peer), "told twice"
        assert peer.has_joined is (had_joined or isinstance(event, PeerJoined))
        assert not (had_joined and isinstance(event, PeerJoined)), "it joined, and had not left"
        self.peers[peer.address] = peer

    def check(self, peers: Iterable[Peer]) -> None:
        """Hold it against a snapshot of the same moment."""
        told = {address: _notable(peer) for address, peer in self.peers.items()}
        assert told == {peer.address: _notable(peer) for peer in peers}, "not what was told"


def _notable(peer: Peer) -> tuple[object, ...]:
    return peer.name, peer.metadata, peer.state, peer.path
