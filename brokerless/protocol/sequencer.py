"""What keeps SEQUENCED messages from going backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

KEYS_MAX = 4_096
"""Streams and channels whose newest number is known, of the four billion channels that a peer may name; they
take about a megabyte."""


class Sequencer:
    """The newest number of each stream and channel of one session.

    Bounded: the key that was longest without news is forgotten. From then on its number is the ``floor`` of
    all keys that are not known: numbers run over all messages of the session, so one above it is newer than
    any that was forgotten. A late message may so be refused for nothing; but none goes backwards.

    Inputs: ``is_newer``. Commands: ``forget``.
    """

    __slots__ = ("_newest", "floor")

    def __init__(self) -> None:
        self._newest: dict[Hashable, int] = {}  # the longest without news comes first
        self.floor = 0
        """Highest number that was forgotten."""

    def is_newer(self, key: Hashable, number: int) -> bool:
        """Return whether ``number`` is above all that came under ``key``, and if so, note it."""
        newest = self._newest
        if number <= newest.get(key, self.floor):
            return False
        newest.pop(key, None)
        newest[key] = number
        if len(newest) > KEYS_MAX:
            self.floor = max(self.floor, newest.pop(next(iter(newest))))
        return True

    def forget(self, key: Hashable) -> None:
        """Free the memory for a key that will not come again, as that of a stream that is over."""
        self._newest.pop(key, None)
