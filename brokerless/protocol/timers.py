"""Many deadlines, one next."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

Key = TypeVar("Key")

OUTDATED_MAX = 64
"""Outdated entries of the heap beyond the number of deadlines, before it is cleared of them: each holds on to
its key, which may be a stream long over, until its time would have come."""


class Timers(Generic[Key]):
    """The earliest of many deadlines, each under a key. Times are the core's ``now``, in seconds.

    A heap whose outdated entries are skipped when they surface, or dropped when they outnumber the others:
    moving a deadline costs one push, and most deadlines of a healthy session only ever move later.

    Queries: ``in``, ``next_deadline``. Commands: ``set``, ``set_about``, ``set_earlier``, ``remove``.
    Outputs: ``pop_due``.
    """

    def __init__(self) -> None:
        self._when: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._pushed = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._when

    def next_deadline(self) -> float | None:
        """Return the earliest deadline, or None."""
        heap, when = self._heap, self._when
        while heap and when.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def set(self, key: Key, deadline: float | None) -> None:
        """Put ``key``'s deadline at ``deadline``; None removes it."""
        if deadline is None:
            self._when.pop(key, None)
        elif self._when.get(key) != deadline:
            self._when[key] = deadline
            self._pushed += 1  # breaks ties, so that keys need no order
            heapq.heappush(self._heap, (deadline, self._pushed, key))
            if len(self._heap) > 2 * len(self._when) + OUTDATED_MAX:
                self._drop_outdated()

    def set_earlier(self, key: Key, deadline: float | None) -> None:
        """Put ``key``'s deadline at ``deadline`` unless it has an earlier one."""
        if deadline is not None:
            present = self._when.get(key)
            if present is None or deadline < present:
                self.set(key, deadline)

    def set_about(self, key: Key, deadline: float | None, early_max: float) -> None:
        """Put ``key``'s deadline at ``deadline``, or leave it where it is, up to ``early_max`` too early.

        For those that mostly move to later, by little and often: then it is no work at all.
        """
        present = self._when.get(key)
        if deadline is None or present is None or not deadline - early_max <= present <= deadline:
            self.set(key, deadline)

    def remove(self, key: Key) -> None:
        """Forget ``key``'s deadline, if it has one."""
        self._when.pop(key, None)

    def pop_due(self, now: float) -> list[Key]:
        """Remove and return the keys whose deadline has come, earliest first."""
        due: list[Key] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            key = heapq.heappop(self._heap)[2]
            del self._when[key]
            due.append(key)
        return due

    def _drop_outdated(self) -> None:
        present = {entry[2]: entry for entry in self._heap if self._when.get(entry[2]) == entry[0]}
        self._heap = list(present.values())  # of equal entries for one key, one is enough
        heapq.heapify(self._heap)
