"""What a bus, its streams and its offers stand on together."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

from dittobus._fork import InOneProcess
from dittobus._strand import SLOW_CALLBACK_S, Completion, Recipient, Strand

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless import Limits
    from dittobus._io_thread import IoThread
    from dittobus.dispatch import EventQueue

WATCH_INTERVAL_S = SLOW_CALLBACK_S / 2
"""How often running callbacks are looked at, as long as any are."""


class Ground(InOneProcess):
    """The I/O thread, the limits, and the strands on which callbacks run."""

    def __init__(self, io: IoThread, limits: Limits, event_queue: EventQueue) -> None:
        self.io = io
        self.limits = limits
        self.strand = Strand(event_queue)
        """The bus's own, and that of all streams with no queue of their own."""
        self.strands = {self.strand}
        self.kept: set[Recipient] = set()
        """Streams that live until they are closed, because somebody is to hear from them."""
        self.stream_ids = itertools.count(1)
        self._pid = os.getpid()
        self._completions = Recipient(is_open=True)
        self._watching = False

    def strand_on(self, event_queue: EventQueue | None) -> Strand:
        """Return a strand on that queue; None means the bus's."""
        if event_queue is None or event_queue is self.strand.event_queue:
            return self.strand
        strand = Strand(event_queue)
        self.strands.add(strand)
        return strand

    def drop_strand(self, strand: Strand) -> None:
        """Forget the strand of a stream that is over."""
        if strand is not self.strand:
            self.strands.discard(strand)

    def complete(self, completion: Callable[..., object] | None, *outcome: object) -> None:
        """Queue a completion, if the caller gave one."""
        if completion is not None:
            self.strand.append(self._completions, Completion(completion, *outcome))
            self.watch()

    def watch(self) -> None:
        """Look after callbacks that take too long. On the I/O thread only."""
        if not self._watching:
            self._watching = True
            self.io.loop.call_later(WATCH_INTERVAL_S, self._look)

    def _look(self) -> None:
        self._watching = False
        busy = [strand for strand in tuple(self.strands) if strand.report_slow()]
        if busy:
            self.watch()


def checked_completion(completion: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Return the completion, which can be called if there is one."""
    if completion is not None and not callable(completion):
        raise TypeError(f"completion: expected a callable, got {type(completion).__name__}")
    return completion
