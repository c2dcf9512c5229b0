"""Whom ``PEER`` means: a name, an address, or any beginning of one that fits nobody else."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from dittobus import AmbiguousPeer, ConfigError, DittoAddress, PeerRefused, PeerState, WaitTimeout
from dittobus.cli import exits
from dittobus.cli.output import label, printable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from dittobus import Peer
    from dittobus.aio import Bus

SETTLE_S = 0.5
"""How long peers that are just being met may take before a beginning is said to fit one of them only."""

NAMED_MAX = 5
"""How many candidates an error names."""


async def find_peer(bus: Bus, wanted: str, timeout: float) -> Peer:  # noqa: ASYNC109 - it is told to the bus
    """Return the live peer that ``wanted`` means, waiting up to ``timeout`` seconds for it.

    Raises ``AmbiguousPeer``, which names the candidates, and ``Failed`` with the code for a peer that was not
    found, or for one that refused.
    """
    if not wanted:
        raise ConfigError("PEER: expected a name, an address, or the beginning of one, got nothing")
    with _Refusals() as refusals:
        try:
            address = _as_address(wanted)
            if address is not None:
                return await refusals.or_refused(address, bus.wait_for_peer(address, timeout))
            await bus.wait_for_peer(lambda peer: bool(fitting((peer,), wanted)), timeout)
        except WaitTimeout:
            raise _not_found(wanted, timeout, refusals.of(wanted)) from None
    await _settled(bus)
    candidates = fitting(live(bus), wanted)
    if not candidates:
        raise exits.Failed(f"peer {printable(wanted)!r} has just left", exits.NOT_FOUND)
    if len(candidates) > 1:
        raise AmbiguousPeer(
            f"{printable(wanted)!r} fits {len(candidates)} peers: {_listed(candidates)}",
            hint="give more of the address",
        )
    return candidates[0]


def live(bus: Bus) -> list[Peer]:
    """Return the peers with which there is a conversation."""
    return [peer for peer in bus.peers if peer.has_joined]


def fitting(peers: Sequence[Peer], wanted: str) -> list[Peer]:
    """Return those of ``peers`` that ``wanted`` may mean; a whole name comes before all beginnings."""
    if exact := [peer for peer in peers if peer.name == wanted]:
        return exact
    return [
        peer
        for peer in peers
        if wanted and (peer.name.startswith(wanted) or str(peer.address).startswith(wanted.lower()))
    ]


def _as_address(wanted: str) -> DittoAddress | None:
    try:
        return DittoAddress.parse(wanted)
    except ConfigError:
        return None


async def _settled(bus: Bus) -> None:
    """Wait until everybody who was heard of is met, if that takes no longer than it should."""
    try:
        async with asyncio.timeout(SETTLE_S):
            async for _ in bus.peer_changes():
                if all(peer.state is not PeerState.JOINING for peer in bus.peers):
                    return
    except TimeoutError:
        pass


def _not_found(wanted: str, timeout_s: float, refusal: PeerRefused | None) -> exits.Failed:
    if refusal is not None:
        return exits.Failed(f"peer {printable(wanted)!r} cannot be met: {refusal}", exits.REFUSED)
    return exits.Failed(
        f"no peer {printable(wanted)!r} within {timeout_s:g} s: 'dittobus peers' lists who is there, "
        "'dittobus doctor' says why others are not; without a secret only this user's processes on this "
        "host are met",
        exits.NOT_FOUND,
    )


def _listed(peers: Sequence[Peer]) -> str:
    named = [f"{label(peer)} ({peer.address.short})" for peer in sorted(peers, key=lambda peer: peer.address)]
    rest = len(named) - NAMED_MAX
    return ", ".join(named[:NAMED_MAX]) + (f" and {rest} more" if rest > 0 else "")


class _Refusals(logging.Filter):
    """The refusals that the library would warn of meanwhile: the error in which this ends says the same."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: list[PeerRefused] = []
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def of(self, wanted: str) -> PeerRefused | None:
        """Return the refusal by whom ``wanted`` may mean: that has no name yet, so by anybody."""
        for refusal in reversed(self._heard):
            if refusal.peer is None or _as_address(wanted) in (None, refusal.peer):
                return refusal
        return None

    async def or_refused(self, address: DittoAddress, meeting: Coroutine[Any, Any, Peer]) -> Peer:
        """Return whom ``meeting`` waits for; raise ``WaitTimeout`` as soon as that peer refuses, too."""
        met = asyncio.ensure_future(meeting)
        try:
            while not any(refusal.peer == address for refusal in self._heard):
                news = asyncio.ensure_future(self._news.wait())
                self._news.clear()
                await asyncio.wait((met, news), return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if met.done():
                    return met.result()
            raise WaitTimeout
        finally:
            met.cancel()

    def filter(self, record: logging.LogRecord) -> bool:
        refusals = [error for error in record.args or () if isinstance(error, PeerRefused)]
        self._heard += refusals
        self._loop.call_soon_threadsafe(self._news.set)  # the bus may have a thread of its own
        return not refusals

    def __enter__(self) -> _Refusals:
        logging.getLogger("dittobus").addFilter(self)
        return self

    def __exit__(self, *how: object) -> None:
        logging.getLogger("dittobus").removeFilter(self)
