"""Many deadlines of one and the same length on one timer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Iterator

    K = TypeVar("K", bound=Hashable)
else:
    K = TypeVar("K")


class Deadlines(Generic[K]):
    """Calls ``expire(key)`` for every key that was set ``allowed_s`` ago and not lifted since.

    All have the same length, so they end in the order in which they were set, and a dict is the queue.
    """

    __slots__ = ("_allowed_s", "_due", "_expire", "_loop", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, allowed_s: float, expire: Callable[[K], None]
    ) -> None:
        self._loop = loop
        self._allowed_s = allowed_s
        self._expire = expire
        self._due: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[K]:
        return iter(self._due)

    def set(self, key: K) -> None:
        """Start the key's time, anew if it was running."""
        self._due.pop(key, None)
        self._due[key] = self._loop.time() + self._allowed_s
        self._arm()

    def lift(self, key: K) -> None:
        """The key made it, or does not matter any more."""
        self._due.pop(key, None)

    def oldest(self) -> K:
        """The key whose time ends first; there must be one."""
        return next(iter(self._due))

    def close(self) -> None:
        """Nothing expires any more."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        # A lifted key leaves the timer as it is: it fires for nothing, once, and is set for the next key.
        if self._timer is None and self._due:
            self._timer = self._loop.call_at(next(iter(self._due.values())), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        try:
            while self._due and next(iter(self._due.values())) <= now:
                key = next(iter(self._due))
                del self._due[key]
                self._expire(key)
        finally:
            self._arm()
