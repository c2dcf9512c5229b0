"""Who is there: snapshots, and waiting for somebody."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from brokerless import (
    Address,
    AmbiguousPeer,
    BusClosed,
    ConfigError,
    Peer,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    WaitTimeout,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from brokerless import BusError

PeerEvent: TypeAlias = PeerJoined | PeerChanged | PeerForgotten | PeerLeft
"""What changes in ``bus.peers``. ``PeerLeft.reason`` says why somebody has gone."""

_HINT = "running, in the same mesh, and with the same secret?"
_OWN_NAME_HINT = "it is the name of this bus itself, which is not among its peers"


class Peers(tuple[Peer, ...]):
    """Everybody known and not lost, as snapshots: ``has_joined`` tells with whom there is a conversation.

    ``lost`` tells who has gone since the snapshot before, each with the reason.
    """

    lost: tuple[PeerLeft, ...]

    def __new__(cls, peers: Iterable[Peer] = (), lost: Iterable[PeerLeft] = ()) -> Peers:
        """Make a snapshot of ``peers``."""
        self = super().__new__(cls, tuple(peers))
        self.lost = tuple(lost)
        return self


WaitTarget: TypeAlias = "str | Address | Peer | Callable[[Peer], object]"
"""Whom to wait for: a name, an address, or whoever a predicate is true of."""


class PeerTable:
    """The peers, as their events tell. Belongs to the loop of the node."""

    def __init__(self) -> None:
        self.listed: dict[Address, Peer] = {}
        self.live: dict[Address, Peer] = {}
        """Those with which there is a conversation."""
        self.own_name = ""
        """That of this bus, for which many a program has waited."""
        self._waits: dict[asyncio.Future[Peer], Callable[[Peer], bool]] = {}
        self._addresses: dict[asyncio.Future[Peer], Address] = {}  # of whom those wait that know it
        self._counts: dict[asyncio.Future[tuple[Peer, ...]], int] = {}

    def apply(self, event: PeerEvent) -> None:
        """Take note of an event, and tell who waited for it."""
        peer = event.peer
        if isinstance(event, PeerForgotten | PeerLeft):
            self.listed.pop(peer.address, None)
            self.live.pop(peer.address, None)
            return
        self.listed[peer.address] = peer
        if not peer.has_joined:
            return
        self.live[peer.address] = peer
        for future, matches in list(self._waits.items()):
            _try(future, matches, (peer,))
        for counting, count in list(self._counts.items()):
            if len(self.live) >= count and not counting.done():
                counting.set_result(tuple(self.live.values()))

    def wait_for(self, target: WaitTarget, timeout: float | None) -> asyncio.Future[Peer]:
        """Return a future of the first live peer that is meant by ``target``."""
        future: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        matches = _matcher(target, self.live)
        _try(future, matches, tuple(self.live.values()))
        if not future.done():
            self._waits[future] = matches
            if isinstance(target, Address):
                self._addresses[future] = target
            future.add_done_callback(self._forget)
            hint = _OWN_NAME_HINT if target == self.own_name else f"is it {_HINT}"
            _expire(future, timeout, f"no peer {_describe(target)} within {timeout} s", hint)
        return future

    def wait_for_count(self, count: int, timeout: float | None) -> asyncio.Future[tuple[Peer, ...]]:
        """Return a future of all live peers, once there are ``count`` or more."""
        future: asyncio.Future[tuple[Peer, ...]] = asyncio.get_running_loop().create_future()
        if len(self.live) >= count:
            future.set_result(tuple(self.live.values()))
        else:
            self._counts[future] = count
            future.add_done_callback(lambda _: self._counts.pop(future, None))
            _expire(future, timeout, f"fewer than {count} peers within {timeout} s", f"are they {_HINT}")
        return future

    def awaited(self) -> frozenset[Address] | None:
        """Return the addresses that somebody waits for; None: it may be anybody's."""
        if self._counts or len(self._addresses) < len(self._waits):
            return None
        return frozenset(self._addresses.values())

    def _forget(self, future: asyncio.Future[Peer]) -> None:
        self._waits.pop(future, None)
        self._addresses.pop(future, None)

    def close(self, error: BusClosed) -> None:
        """Disappoint those who still wait."""
        waiting: list[asyncio.Future[Peer] | asyncio.Future[tuple[Peer, ...]]] = [*self._waits, *self._counts]
        for future in waiting:
            if not future.done():
                future.set_exception(error)


def checked_target(target: WaitTarget) -> WaitTarget:
    """Return whom to wait for, a ``Peer`` as its address."""
    if isinstance(target, Peer):
        return target.address
    if isinstance(target, (str, Address)) or callable(target):
        return target
    raise TypeError(
        f"target: expected a name, a DittoAddress, a Peer or a predicate, got {type(target).__name__}"
    )


def checked_count(count: int) -> int:
    """Return how many peers to wait for."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count: expected int, got {type(count).__name__}")
    if count < 0:
        raise ConfigError(f"count: expected 0 or more, got {count}")
    return count


def _matcher(target: WaitTarget, live: dict[Address, Peer]) -> Callable[[Peer], bool]:
    if isinstance(target, Address):
        return lambda peer: peer.address == target
    if isinstance(target, str):

        def is_the_only(peer: Peer) -> bool:
            if peer.name != target:
                return False
            holders = [other for other in live.values() if other.name == target]
            if len(holders) > 1:
                raise AmbiguousPeer(f"{len(holders)} peers are named {target!r}", hint="use the address")
            return True

        return is_the_only
    assert callable(target)
    return lambda peer: bool(target(peer))


def _try(future: asyncio.Future[Peer], matches: Callable[[Peer], bool], peers: Sequence[Peer]) -> None:
    for peer in peers:
        if future.done():
            return
        try:
            if matches(peer):
                future.set_result(peer)
        except Exception as error:  # a predicate's failure is for whoever gave it
            future.set_exception(error)


def _describe(target: WaitTarget) -> str:
    if isinstance(target, str):
        return f"named {target!r}"
    return f"{target.short}" if isinstance(target, Address) else "as looked for"


def _expire(
    future: asyncio.Future[Peer] | asyncio.Future[tuple[Peer, ...]],
    timeout: float | None,
    text: str,
    hint: str,
) -> None:
    if timeout is None:
        return

    def expire() -> None:
        if not future.done():
            error: BusError = WaitTimeout(text, hint=hint)
            future.set_exception(error)

    handle = asyncio.get_running_loop().call_later(timeout, expire)
    future.add_done_callback(lambda _: handle.cancel())
