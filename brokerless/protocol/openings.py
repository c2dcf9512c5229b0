"""Our own offers of streams: those that the peer has not answered, and those that wait until it has.

The peer lets only so many wait for its application, and turns more down. So the others are held back here,
each with the control frames that its stream has said since, and go out one for one as answers come. To the
peer a stream begins with its OPEN: one that ends before it has never been.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.protocol.stream import Stream


class Openings:
    """The offers of one session, oldest first.

    Queries: ``in`` (held back). Inputs: ``allow``, ``over``. Commands: ``add``, ``hold``. What may go out is
    given to ``release``: the stream, and its frames in order, the first of them OPEN.
    """

    def __init__(self, release: Callable[[Stream, list[bytes]], None]) -> None:
        self._release = release
        self._places = 0
        self._unanswered: set[int] = set()
        self._held: OrderedDict[int, tuple[Stream, list[bytes]]] = OrderedDict()

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._held

    def allow(self, places: int) -> None:
        """Let so many be unanswered: the peer's limit once it is known, none after the end."""
        self._places = places
        self._go_on()

    def add(self, stream: Stream, opening: bytes) -> None:
        """Offer a stream when it may be; ``opening`` is its OPEN."""
        self._held[stream.id] = (stream, [opening])
        self._go_on()

    def hold(self, stream_id: int, frame: bytes) -> None:
        """Keep another frame with an offer that is held back."""
        self._held[stream_id][1].append(frame)

    def over(self, stream_id: int) -> None:
        """The offer is answered, or its stream is over: it takes no place any more."""
        self._held.pop(stream_id, None)
        self._unanswered.discard(stream_id)
        self._go_on()

    def _go_on(self) -> None:
        while self._held and len(self._unanswered) < self._places:
            stream_id, (stream, frames) = self._held.popitem(last=False)
            self._unanswered.add(stream_id)
            self._release(stream, frames)
