"""What an offered stream is in every face."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from brokerless import StreamReset, UsageError

if TYPE_CHECKING:
    from brokerless import Address, BusError, Reliability
    from brokerless import Offer as CoreOffer


class AnyOffer:
    """A stream that a peer wants to open. It is answered once, if it does not end before."""

    def __init__(self, core: CoreOffer) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._answered = False
        self._end_error: BusError | None = None

    @property
    def peer(self) -> Address:
        """Who offers."""
        return self._core.peer

    @property
    def name(self) -> str:
        """What the opener named it."""
        return self._core.name

    @property
    def metadata(self) -> bytes:
        """What the opener sent along, at most 4 KiB."""
        return self._core.metadata

    @property
    def reliability(self) -> Reliability:
        """What the opener asked for."""
        return self._core.reliability

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.peer.short}>"

    def _did_end(self, error: BusError | None) -> None:
        """The opener gave up, the time is up, or the bus is closed."""
        self._end_error = error or StreamReset(0, "the offer was withdrawn", peer=self.peer)

    def _answer(self) -> None:
        with self._lock:
            if self._answered:
                raise UsageError(f"the offer {self.name!r} has been answered already", peer=self.peer)
            self._answered = True

    @property
    def _is_over(self) -> bool:
        """True when an answer would be too late, or a second one."""
        return self._answered or self._end_error is not None
