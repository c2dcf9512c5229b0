"""The queue of received unreliable messages, from the thread of the core to that of the application."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Unread(Generic[Item]):
    """Bounded: who does not keep up loses the oldest. One thread puts; who takes does so one at a time.

    There is no lock, so neither side ever waits for the other. ``deque.append`` and ``popleft`` are atomic,
    on builds of Python without its global lock, too. The counts are written by the putting side alone: each
    item lies beside the sum of all sizes put before it, so the sum at the oldest one tells how much is held,
    whatever was taken. Only ``_asleep`` is written by both; ``take`` says why that is right.

    Queries: ``len``, ``byte_count``, ``oldest``, ``dropped``. Command of the putting side: ``put``; of the
    taking side: ``take``; of either: ``close``.
    """

    __slots__ = ("_asleep", "_bytes_max", "_closed", "_queue", "_sum", "dropped")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._queue: deque[tuple[int, Item]] = deque()
        self._sum = 0
        self._asleep = True
        self._closed = False
        self.dropped = 0
        """Items that gave way to newer ones."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def byte_count(self) -> int:
        """Sizes of all that waits."""
        try:
            return self._sum - self._queue[0][0]
        except IndexError:
            return 0

    @property
    def oldest(self) -> Item | None:
        """What ``take`` would return now; the putting side may drop it before."""
        try:
            return self._queue[0][1]
        except IndexError:
            return None

    def put(self, item: Item, size: int) -> bool:
        """Append ``item``, which takes ``size`` bytes of memory. True: the taking side sleeps, wake it.

        The newest stays whatever its size: one item may exceed the bound, so that no size is never delivered.
        """
        if self._closed:
            return False
        self._queue.append((self._sum, item))
        self._sum += size
        if self.byte_count > self._bytes_max:
            self._drop_oldest()
        # Read after the append: see take().
        if self._asleep:
            self._asleep = False
            return True
        return False

    def _drop_oldest(self) -> None:
        # Between the look and the step the taking side may take the item looked at; then one goes that could
        # have stayed. It is counted like the others: put back, it might come behind a newer one.
        try:
            while len(self._queue) > 1 and self.byte_count > self._bytes_max:
                self._queue.popleft()
                self.dropped += 1
        except IndexError:  # it took all of them
            pass

    def take(self) -> Item | None:
        """Return the oldest item. None: there is none, and the next ``put`` returns True."""
        try:
            return self._queue.popleft()[1]
        except IndexError:
            self._asleep = True
        # An item put before we slept found nobody asleep, so nobody would wake us: look once more. One that
        # comes after this look finds us asleep. One in between is found here, and wakes us for nothing.
        try:
            item = self._queue.popleft()[1]
        except IndexError:
            return None
        self._asleep = False
        return item

    def close(self) -> None:
        """Drop, uncounted, what nobody will take, and hold nothing more."""
        self._closed = True
        self._queue.clear()
