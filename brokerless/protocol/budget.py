"""How much of other people's data this node will hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Budget:
    """Bytes that may be promised, of one peer and, through ``parent``, of the whole node."""

    def __init__(self, bytes_max: int, parent: Budget | None = None) -> None:
        self._bytes_max = bytes_max
        self._parent = parent
        self.reserved = 0
        """Bytes promised now."""
        self._starved: dict[Callable[[], None], None] = {}

    def reserve(self, byte_count: int, keep: int = 0) -> bool:
        """Promise that many more if ``keep`` bytes stay free; False, and nothing promised, otherwise."""
        if self.reserved + byte_count + keep > self._bytes_max:
            return False
        if self._parent is not None and not self._parent.reserve(byte_count, keep):
            return False
        self.reserved += byte_count
        return True

    def release(self, byte_count: int) -> None:
        """Give back what was promised."""
        assert byte_count <= self.reserved, "released more than was reserved"
        self.reserved -= byte_count
        if self._parent is not None:
            self._parent.release(byte_count)
        elif self._starved:
            starved, self._starved = self._starved, {}
            for retry in starved:
                retry()

    def when_freed(self, retry: Callable[[], None]) -> None:
        """Call ``retry`` once, when something has been given back here or anywhere in the node."""
        if self._parent is not None:
            self._parent.when_freed(retry)
        else:
            self._starved[retry] = None
