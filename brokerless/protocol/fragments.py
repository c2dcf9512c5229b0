"""Messages larger than a datagram: taken apart, and joined again from whatever arrives in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.protocol.datagram import MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, encode_fragment

if TYPE_CHECKING:
    from brokerless.protocol.datagram import Fragment, Kind

PARTIAL_BYTES = 384
"""What an incomplete message takes beside its pieces, and 8 for each of these."""

PIECE_BYTES = 40
"""What a piece takes beside its payload."""

LOST_MAX = 256
"""Messages given up whose late fragments are still told from those of new ones. Otherwise one given up for
room would come back with its next fragment and displace another: none would ever be whole."""


def split(kind: Kind, stream_id: int, channel: int, number: int, stamp: int, data: bytes) -> list[bytes]:
    """Return the plain bytes of all fragments of a message."""
    size = len(data)
    if size <= PAYLOAD_BYTES_MAX:
        return [encode_fragment(kind, stream_id, channel, number, 0, 1, data, stamp)]
    assert size <= MESSAGE_BYTES_MAX, "a message that no fragments can carry"
    starts = range(0, size, PAYLOAD_BYTES_MAX)
    count = len(starts)
    return [
        encode_fragment(
            kind, stream_id, channel, number, place, count, data[start : start + PAYLOAD_BYTES_MAX], stamp
        )
        for place, start in enumerate(starts)
    ]


class _Partial:
    """A message of which some fragments have come."""

    __slots__ = ("byte_count", "deadline", "head", "missing", "pieces")

    def __init__(self, fragment: Fragment, deadline: float) -> None:
        self.head = _head(fragment)
        self.pieces: list[bytes | None] = [None] * fragment.fragments
        self.missing = fragment.fragments
        self.byte_count = PARTIAL_BYTES + 8 * fragment.fragments
        self.deadline = deadline


def _head(fragment: Fragment) -> tuple[Kind, int, int, int]:
    """Return what all fragments of a message have in common beside its number."""
    return fragment.kind, fragment.stream_id, fragment.channel, fragment.fragments


class Reassembly:
    """The incomplete messages of one session.

    Bounded in bytes, counting all the memory that they take, and in time: each waits ``timeout_s`` from its
    first fragment on, and the oldest give way to newer ones.

    Queries: ``byte_count``, ``dropped``, ``len``, ``next_deadline``. Inputs: ``add``, ``expire``. Commands:
    ``forget``.
    """

    def __init__(self, bytes_max: int, timeout_s: float) -> None:
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s
        self._partials: dict[int, _Partial] = {}  # by number, in the order of their deadlines
        self._lost: dict[int, None] = {}
        self.byte_count = 0
        """What is held, in memory."""
        self.dropped = 0
        """Messages given up: too late, out of room, or contradicting themselves."""

    def __len__(self) -> int:
        return len(self._partials)

    def next_deadline(self) -> float | None:
        """Return when ``expire`` has something to do, or None."""
        for partial in self._partials.values():
            return partial.deadline
        return None

    def add(self, fragment: Fragment, now: float) -> bytes | None:
        """Return the whole message if this was all that it lacked. ``decode_plain`` has approved of it."""
        if fragment.fragments == 1:
            return fragment.payload
        number = fragment.number
        partial = self._partials.get(number)
        if partial is None:
            if number in self._lost:
                return None
            partial = self._partials[number] = _Partial(fragment, now + self._timeout_s)
            self.byte_count += partial.byte_count
        elif partial.head != _head(fragment):
            self._give_up(number)  # which of them is true, nobody knows
            return None
        if partial.pieces[fragment.fragment] is not None:
            return None
        partial.pieces[fragment.fragment] = fragment.payload
        partial.missing -= 1
        if not partial.missing:
            del self._partials[number]
            self.byte_count -= partial.byte_count
            return b"".join(filter(None, partial.pieces))
        size = PIECE_BYTES + len(fragment.payload)
        partial.byte_count += size
        self.byte_count += size
        while self.byte_count > self._bytes_max:
            self._give_up(next(iter(self._partials)))
        return None

    def expire(self, now: float) -> None:
        """Give up the messages whose time is over."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            self._give_up(next(iter(self._partials)))

    def forget(self, stream_id: int) -> None:
        """Drop, uncounted, what came of a stream that is over."""
        for number in [number for number, partial in self._partials.items() if partial.head[1] == stream_id]:
            self.byte_count -= self._partials.pop(number).byte_count

    def _give_up(self, number: int) -> None:
        self.byte_count -= self._partials.pop(number).byte_count
        self.dropped += 1
        self._lost[number] = None
        if len(self._lost) > LOST_MAX:
            del self._lost[next(iter(self._lost))]
