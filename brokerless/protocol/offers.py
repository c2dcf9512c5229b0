"""The streams that the peer offers: how many may wait for the application here, and be taken back.

A peer could offer and reset in turns, for which it needs nobody's answer, and have the application called
in vain as fast as it can send; HTTP/2 came to know this as rapid reset. So there is a limit to that, too, and
the surplus is turned down before anybody hears of it.
"""

from __future__ import annotations

from collections import deque

WITHDRAWALS_MAX = 1024
"""Offers taken back within ``WITHDRAWAL_S``: four times what may wait by default, and, at some 50 µs of work
for each, a twentieth of a core. An application that changes its mind more often is told that we are busy."""

WITHDRAWAL_S = 1.0


class Offers:
    """The places of one session.

    Queries: ``len`` (how many wait). Inputs: ``take``, ``withdrawn``. Commands: ``answered``.
    """

    __slots__ = ("_places", "_waiting", "_withdrawn_at")

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: set[int] = set()
        self._withdrawn_at: deque[float] = deque()  # the latest of them

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, stream_id: int, now: float) -> bool:
        """Give a new offer a place; False if there is none for it."""
        while self._withdrawn_at and self._withdrawn_at[0] <= now - WITHDRAWAL_S:
            self._withdrawn_at.popleft()
        if len(self._waiting) >= self._places or len(self._withdrawn_at) >= WITHDRAWALS_MAX:
            return False
        self._waiting.add(stream_id)
        return True

    def withdrawn(self, stream_id: int, now: float) -> None:
        """The peer resets a stream; of one that does not wait any more, that is nothing to us."""
        if stream_id in self._waiting:
            self._waiting.remove(stream_id)
            self._withdrawn_at.append(now)

    def answered(self, stream_id: int) -> None:
        """The offer has been taken or turned down, or its stream is over: its place is free."""
        self._waiting.discard(stream_id)
