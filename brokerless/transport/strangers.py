"""Connections that have not said a proper HELLO: they have little time, and little to say.

libzmq bounds the size of each part of a message, but not how many parts there are, and hands up none of them
before the last: a message without end fills memory, and its receiver sees nothing of it. So the kernel is
asked how much has come by each connection. Who has proven the secret is trusted not to do such things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.transport.deadlines import Deadlines
from brokerless.transport.descriptors import received_bytes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

STRANGER_BYTES_MAX = 64 * 1024
"""CURVE and the largest HELLO take 5 KiB, and after it the dialler waits for ours."""

LOOK_S = 0.05
"""How often they are looked at, some 2 µs each: what a line carries meanwhile is all that one can fill."""


class Strangers:
    """Calls ``expire(descriptor, why)`` for everyone that is not lifted in time, or says too much.

    Where the kernel does not tell how much (elsewhere than on Linux, and by ipc), only the time counts.
    """

    __slots__ = ("_deadlines", "_expire", "_loop", "_timer", "_why_late")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, allowed_s: float, expire: Callable[[int, str], None]
    ) -> None:
        self._loop = loop
        self._expire = expire
        self._why_late = f"a stranger for {allowed_s:g} s"
        self._deadlines: Deadlines[int] = Deadlines(loop, allowed_s, self._late)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, descriptor: int) -> None:
        """Somebody has connected."""
        self._deadlines.set(descriptor)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def lift(self, descriptor: int) -> None:
        """It is no stranger any more, or gone."""
        self._deadlines.lift(descriptor)

    def oldest(self) -> int:
        """Whose time ends first; there must be one."""
        return self._deadlines.oldest()

    def close(self) -> None:
        """Nothing expires any more."""
        self._deadlines.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self, descriptor: int) -> None:
        self._expire(descriptor, self._why_late)

    def _look(self) -> None:
        self._timer = None
        for descriptor in list(self._deadlines):
            if received_bytes(descriptor) > STRANGER_BYTES_MAX:
                self._expire(descriptor, "too much of a stranger")
        if self._timer is None and len(self._deadlines):
            self._timer = self._loop.call_later(LOOK_S, self._look)
