"""What a session has to send, and whose turn it is: how packets are filled.

Control frames go before data, and lanes take turns: a small message waits for a turn of each of the others,
not for the end of a large one. It also waits behind all that is in flight; so while they take turns, less is.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from brokerless.protocol import wire
from brokerless.protocol.flight import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.protocol.flight import Flight
    from brokerless.protocol.stream_host import Lane

TURN_BYTES = 16 * 1024
"""What one stream may put into a packet while others wait: four take turns in a full one."""

ROOM_BYTES_MIN = 2 * 1024
"""A packet with less room than this is full; a chunk cut so small is not worth its header."""

CONTROL_FRAMES_MAX = 262_144
"""Control frames that wait when a packet of the peer has been taken in: eight for each stream there can be by
default. Only a peer that asks on and on, and neither reads nor acknowledges the answers, makes it more."""

SHARED_S = 1.0
"""How long after two streams took turns the flight is shared: many ticks of a game, a few of a sensor. A
stream on its own is not held back."""


class Schedule:
    """The queues of one session. ``wake`` is called when there is something new in them.

    Queries: ``is_empty``, ``is_overfull``. Commands: ``control``, ``add``. Output: ``fill``.
    """

    def __init__(self, wake: Callable[[], None], now: float) -> None:
        self._wake = wake
        self._control: deque[bytes] = deque()
        self._active: deque[Lane] = deque()
        self._sent_last: int | None = None  # id of the lane whose frame was the last
        self._shared_until = now

    @property
    def is_empty(self) -> bool:
        """True when nothing waits."""
        return not (self._control or self._active)

    @property
    def is_overfull(self) -> bool:
        """True when the peer has asked for more than it takes."""
        return len(self._control) > CONTROL_FRAMES_MAX

    def control(self, *frames: bytes) -> None:
        """Send control frames, in order and before data."""
        self._control.extend(frames)
        self._wake()

    def add(self, lane: Lane) -> None:
        """Let a lane take turns while it ``has_output``."""
        self._active.append(lane)
        self._wake()

    def fill(self, flight: Flight, now: float) -> tuple[list[bytes], list[Receipt]]:
        """Return the frames of a packet, and what its acknowledgement will mean; none: nothing may go now."""
        frames: list[bytes] = []
        receipts: list[Receipt] = []
        room = wire.RUN_BYTES_MAX + wire.CHUNK_OVERHEAD_BYTES
        control, active = self._control, self._active
        flight.is_shared = now < self._shared_until
        while control and room >= len(control[0]) and not flight.is_overfull:
            room -= len(control[0])
            frames.append(control.popleft())
        while active and room >= ROOM_BYTES_MIN and not control and not flight.is_full:
            lane = active.popleft()
            output = lane.next_frame(room if not active else min(room, TURN_BYTES))
            if output is not None:
                frame, sequence = output
                frames.append(frame)
                receipts.append(Receipt(lane.id, sequence))
                room -= len(frame)
                if self._sent_last not in (None, lane.id):
                    self._shared_until = now + SHARED_S
                self._sent_last = lane.id
            if lane.has_output:
                active.append(lane)
        return frames, receipts
