"""Which datagrams of one key have come already."""

from __future__ import annotations

_BLOCK_BITS = 64
_BLOCKS = 128
_BLOCK_BYTES = _BLOCK_BITS // 8
_RING_BYTES = _BLOCKS * _BLOCK_BYTES
_NOTHING = bytes(_BLOCK_BYTES)

WINDOW = (_BLOCKS - 1) * _BLOCK_BITS
"""How many counters back from the highest are still told apart: 8,128. Some nine megabytes may overtake a
late datagram; what is older counts as seen. One block of the ring is kept for what comes next (RFC 6479)."""


class ReplayWindow:
    """A ring of bits, a kilobyte for each key. It moves on by whole blocks, so a step in order moves nothing.

    An integer as a bitmap would do, but all its kilobyte would be copied for every datagram.

    Queries: ``is_fresh``, ``highest``, ``received``. Inputs: ``add``.
    """

    __slots__ = ("_seen", "highest", "received")

    def __init__(self) -> None:
        self._seen = bytearray(_RING_BYTES)
        self._seen[0] = 1  # no datagram has the counter 0
        self.highest = 0
        """Counter of the newest datagram that came."""
        self.received = 0
        """Datagrams that came, each counted once."""

    def is_fresh(self, counter: int) -> bool:
        """Return whether a datagram with this counter has neither come nor is too old to tell."""
        highest = self.highest
        if counter > highest:
            return True
        if highest - counter >= WINDOW:
            return False
        return not self._seen[(counter >> 3) % _RING_BYTES] & (1 << (counter & 7))

    def add(self, counter: int) -> None:
        """Note that it came: it was fresh, and authentic, or else a forger could move the window."""
        if counter > self.highest:
            block, last = self.highest // _BLOCK_BITS, counter // _BLOCK_BITS
            if block != last:
                for new in range(max(block, last - _BLOCKS) + 1, last + 1):
                    start = new % _BLOCKS * _BLOCK_BYTES
                    self._seen[start : start + _BLOCK_BYTES] = _NOTHING
            self.highest = counter
        self._seen[(counter >> 3) % _RING_BYTES] |= 1 << (counter & 7)
        self.received += 1
