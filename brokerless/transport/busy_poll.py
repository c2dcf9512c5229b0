"""Looking instead of sleeping, while datagrams go to and fro quickly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

POLL_S = 300e-6
"""The loop stays awake so long after a datagram of ours, at most: an answer within it is worth waiting for,
since to fall asleep, be woken and run with cold caches takes about as long."""

TRIES = 2
"""So many in a row without an answer in that time, and it is left off. Beside bulk both sides have to be
awake at once: with one try each mostly found the other asleep (on a busy machine 800 us in place of 130)."""

PAUSE_MIN, PAUSE_MAX = 8, 64
"""So many answers are then awaited asleep, twice as many each time until one comes quickly. So at most 300 us
of one core are wasted for each quick answer, 75 for each other, and less than 10 where none is ever quick."""


class BusyPoll:
    """Keeps a loop awake in the middle of a quick exchange, as Linux's ``busy_poll`` does for a socket.

    Both sides of an exchange gain, each by its own looking: a round trip of 16 bytes takes a quarter of the
    time (67 us, 275 without), and beside a stream at full speed an eighth, since several fit between two
    turns of the stream if nobody falls asleep. Who only sends, or only receives, stays asleep.

    Inputs: ``sent``, ``arrived``. Commands: ``close``.
    """

    __slots__ = ("_call_soon", "_clock", "_is_polling", "_next_pause", "_pause", "_sent_at", "_vain")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._call_soon = loop.call_soon
        self._clock = clock
        self._is_polling = False
        self._pause = self._next_pause = PAUSE_MIN  # answers to be awaited asleep
        self._vain = 0  # tries in a row
        self._sent_at: float | None = None  # the first of ours since something came, or was given up

    def sent(self) -> None:
        """A datagram of ours has gone out."""
        if self._sent_at is not None:
            return
        self._sent_at = self._clock()
        if not self._pause and not self._is_polling:
            self._is_polling = True
            self._call_soon(self._poll)

    def arrived(self) -> None:
        """Something came in."""
        if self._sent_at is None:
            return
        if self._pause:
            self._pause -= 1
        else:
            self._tried(answered=self._clock() - self._sent_at < POLL_S)
        self._sent_at = None

    def close(self) -> None:
        """Poll no more."""
        self._sent_at = None

    def _poll(self) -> None:
        """A callback that is due at once makes the loop look at its sockets without waiting."""
        if self._sent_at is not None:
            if self._clock() - self._sent_at < POLL_S:
                self._call_soon(self._poll)
                return
            self._tried(answered=False)
            self._sent_at = None
        self._is_polling = False

    def _tried(self, *, answered: bool) -> None:
        if answered:
            self._vain, self._next_pause = 0, PAUSE_MIN
            return
        self._vain += 1
        if self._vain == TRIES:
            self._vain, self._pause = 0, self._next_pause
            self._next_pause = min(2 * self._next_pause, PAUSE_MAX)
