"""Which records stand at the moment, and what follows from them for each peer.

A peer may stand in several records for a while: its new one comes before the old one goes, and a record can
be replayed by anybody who has heard it. So one that goes means little as long as another stands.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokerless.address import Address
    from brokerless.discovery import Hint

RECORDS_MAX = 8_192
"""Twice as many as a roster has peers, since each may be between two records; then 4 MiB at most."""

RECORDS_PER_PEER_MAX = 4
"""A true peer has two when it announces anew; more are replayed, and push out each other only."""


class Sightings:
    """The records that stand, by name; reports what changes for a peer. Bounded whatever comes."""

    def __init__(self, report: Callable[[Hint], None], *, records_max: int = RECORDS_MAX) -> None:
        self._report = report
        self._records_max = records_max
        self._hints: dict[str, Hint] = {}
        self._names: dict[Address, list[str]] = {}  # the newest last

    def __contains__(self, name: str) -> bool:
        return name in self._hints

    def __iter__(self) -> Iterator[str]:
        return iter(self._hints)

    def get(self, name: str) -> Hint | None:
        """Return what the record of that name says, if it stands."""
        return self._hints.get(name)

    def see(self, name: str, hint: Hint) -> bool:
        """Take note of a record; return False if there is no room for it."""
        before = self._hints.get(name)
        if before == hint:
            return True
        if before is not None and before.address != hint.address:
            self.lose(name)
        said = self._said(hint.address)
        if name in self._hints:
            self._drop(name)
        names = self._names.get(hint.address, [])
        if len(names) >= RECORDS_PER_PEER_MAX:
            self._drop(names[0])
        if len(self._hints) >= self._records_max:
            return False
        self._hints[name] = hint
        self._names.setdefault(hint.address, []).append(name)
        if hint != said:
            self._report(hint)
        return True

    def lose(self, name: str) -> None:
        """Take note that a record is gone."""
        hint = self._hints.get(name)
        if hint is None:
            return
        said = self._said(hint.address)
        self._drop(name)
        says = self._said(hint.address)
        if says is None:
            self._report(dataclasses.replace(hint, endpoints=()))
        elif says != said:
            self._report(says)

    def _said(self, address: Address) -> Hint | None:
        names = self._names.get(address)
        return self._hints[names[-1]] if names else None

    def _drop(self, name: str) -> None:
        address = self._hints.pop(name).address
        names = self._names[address]
        names.remove(name)
        if not names:
            del self._names[address]
