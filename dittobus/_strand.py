"""Callbacks in order, one at a time, on any queue: the way from the I/O thread to the application."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from dittobus.dispatch import as_dispatch_queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from dittobus.dispatch import EventQueue

_log = logging.getLogger("dittobus")

SLOW_CALLBACK_S = 1.0
"""A callback that takes longer is logged: whoever waits on its queue waits, too."""

SLICE_S = 0.005
"""How long one strand keeps a queue that others share, such as an asyncio loop, before it lines up again."""


class _Occupied(threading.local):
    """The event queues whose callbacks the current thread is within."""

    def __init__(self) -> None:
        self.queues: list[EventQueue] = []


_occupied = _Occupied()


class Recipient:
    """Somebody to call back, and what waits until there is a delegate to call.

    ``is_open`` and ``parked`` are touched by the recipient's strand only.
    """

    __slots__ = ("is_open", "last", "parked")

    def __init__(self, *, is_open: bool) -> None:
        self.last: Entry | None = None
        """The newest entry, as long as a newer one may be merged into it."""
        self.is_open = is_open
        """False: nothing is delivered before ``Unpark``, so that nothing overtakes what is parked."""
        self.parked: list[Entry] = []  # mostly empty, and then a deque would be the largest part of a stream

    def park(self, entry: Entry) -> None:
        """Keep ``entry``, and all that come after it, until ``Unpark``."""
        self.is_open = False
        while self.parked and self.parked[-1].is_void():
            self.parked.pop()
        if not self.parked or not self.parked[-1].absorb(entry):
            self.parked.append(entry)


class Entry:
    """Something to deliver: one callback, or several of one kind.

    It does not know its recipient, so that what waits for somebody does not keep them alive.
    """

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = False
        """True once delivery has begun: too late to absorb anything."""

    def step(self, strand: Strand, recipient: Any) -> bool:
        """Run one callback by ``strand.call``; return whether this entry has more."""
        raise NotImplementedError

    def has_more(self) -> bool:
        """Tell whether something is left after a callback was interrupted, as by Ctrl-C in a manual queue."""
        return False

    def is_void(self) -> bool:
        """Tell whether there is nothing to deliver any more."""
        return False

    def note_followed(self) -> None:
        """Another entry for the same recipient comes after this one."""

    def absorb(self, newer: Entry) -> bool:
        """Take over what ``newer`` says, if that is all there is to say; this bounds queues nobody pumps."""
        return False


class Completion(Entry):
    """One callback that needs no delegate."""

    __slots__ = ("_arguments", "_callback")

    def __init__(self, callback: Callable[..., object], *arguments: object) -> None:
        super().__init__()
        self._callback = callback
        self._arguments = arguments

    def step(self, strand: Strand, recipient: Recipient) -> bool:
        strand.call(self._callback, *self._arguments)
        self._arguments = ()  # the newest entry stays known; what it brought is the application's to keep
        return False


class Unpark(Entry):
    """Delivers what was parked, in its order and ahead of what came later."""

    __slots__ = ("_todo",)

    def __init__(self) -> None:
        super().__init__()
        self._todo: deque[Entry] | None = None

    def step(self, strand: Strand, recipient: Recipient) -> bool:
        if self._todo is None:
            self._todo, recipient.parked = deque(recipient.parked), []
            recipient.is_open = True
        elif self._todo and not self._todo[0].step(strand, recipient):
            self._todo.popleft()
        return bool(self._todo)

    def has_more(self) -> bool:
        if self._todo and not self._todo[0].has_more():
            self._todo.popleft()
        return bool(self._todo)


class Strand:
    """A queue of entries that runs on an event queue, in order and never two at a time.

    Any thread may ``append``. ``call`` is for entries, ``run`` for the event queue.
    """

    def __init__(self, event_queue: EventQueue) -> None:
        self.event_queue = event_queue
        self._queue = as_dispatch_queue(event_queue)
        self._lock = threading.Lock()
        self._rested = threading.Condition(self._lock)
        self._entries: deque[tuple[Recipient, Entry]] = deque()
        self._scheduled = False  # handed to the queue, or running
        self._sealed = False
        self._thread: int | None = None  # ident of the thread that runs us
        self._callback: Callable[..., object] | None = None  # the one that is running
        self._since = 0.0
        self._reported_slow = False

    # Commands

    def append(self, recipient: Recipient, entry: Entry) -> None:
        """Deliver ``entry`` to ``recipient`` after all that came before."""
        with self._lock:
            if self._sealed:
                return
            last = recipient.last
            if last is not None:
                if not last.taken and last.absorb(entry):
                    return
                last.note_followed()
            recipient.last = entry
            self._entries.append((recipient, entry))
            if self._scheduled:
                return
            self._scheduled = True
        self._schedule()

    def discard(self, recipient: Recipient, entry: Entry) -> None:
        """Take back ``entry`` unless its delivery has begun."""
        with self._lock:
            if not entry.taken and not self._sealed:
                self._entries.remove((recipient, entry))
                entry.taken = True

    def finish(self, deadline: float | None) -> bool:
        """Let what is queued run until monotonic time ``deadline``; then no callback starts any more.

        Called from a callback on the same queue, it sees only to the latter: nothing there could run. Returns
        False if a callback still runs in another thread.
        """
        if not any(queue is self.event_queue for queue in _occupied.queues):
            if self._queue._runs_here():
                while self._scheduled and not self._sealed and (deadline is None or monotonic() < deadline):
                    self.run(deadline)
            elif self._queue._will_run():
                self._wait_until_rested(deadline)
        self.seal()
        if self._thread == threading.get_ident():
            return True
        self._wait_until_rested(deadline, running=True)
        callback = self._callback
        if self._thread is None or callback is None:
            return True
        _log.warning("callback %s goes on; its bus closes without it", _name_of(callback))
        return False

    def seal(self) -> None:
        """Start no callback any more, and drop what is queued."""
        with self._lock:
            self._sealed = True
            self._entries.clear()
            self._rested.notify_all()

    # For the event queue

    def run(self, until: float | None = None) -> int:
        """Run what is queued now, or what of it begins before ``until``; return how many callbacks ran."""
        if until is None:
            until = monotonic() + SLICE_S
        callbacks = 0
        with self._lock:
            if self._thread is not None:  # the queue runs us again while a callback pumps it
                return 0
            self._thread = threading.get_ident()
            turns = len(self._entries)
        _occupied.queues.append(self.event_queue)
        try:
            for _ in range(turns):
                if callbacks and monotonic() >= until:
                    break
                taken = self._take()
                if taken is None:
                    break
                callbacks += self._deliver(*taken, until)
        finally:
            _occupied.queues.pop()
            self._rest()
        return callbacks

    # For entries

    def call(self, callback: Callable[..., Any], *arguments: object) -> bool:
        """Run one callback of the application; return False if it is too late for it.

        What it raises is logged and changes nothing else.
        """
        with self._lock:
            if self._sealed:
                return False
            self._callback = callback
            self._since = since = monotonic()
            self._reported_slow = False
        try:
            callback(*arguments)
        except Exception:
            _log.exception("callback %s raised; all else goes on", _name_of(callback))
        finally:
            self._callback = None
            taken_s = monotonic() - since
            if taken_s > SLOW_CALLBACK_S and not self._reported_slow:
                _log.warning("callback %s took %.1f s; others waited for it", _name_of(callback), taken_s)
        return True

    # For whoever watches

    def report_slow(self) -> bool:
        """Log, once, a callback that has been running for too long, with its stack; tell whether any runs."""
        callback, thread, since = self._callback, self._thread, self._since
        if callback is None or thread is None:
            return self._scheduled
        if monotonic() - since > SLOW_CALLBACK_S and not self._reported_slow:
            self._reported_slow = True
            frame = sys._current_frames().get(thread)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            _log.warning(
                "callback %s has been running for more than %.0f s; others wait for it. It is here:\n%s",
                _name_of(callback),
                SLOW_CALLBACK_S,
                stack,
            )
        return True

    # Private

    def _schedule(self) -> None:
        try:
            self._queue._post(self)
        except RuntimeError as error:  # closed, shut down, or the interpreter is exiting
            with self._lock:
                lost, self._sealed = not self._sealed, True
                self._entries.clear()
                self._scheduled = False
                self._rested.notify_all()
            if lost and not _is_exiting():
                _log.warning("%r takes no more callbacks (%s); events are dropped", self._queue, error)

    def _take(self) -> tuple[Recipient, Entry] | None:
        with self._lock:
            if self._sealed or not self._entries:
                return None
            recipient, entry = self._entries.popleft()
            entry.taken = True
            return recipient, entry

    def _deliver(self, recipient: Recipient, entry: Entry, until: float) -> int:
        callbacks = 0
        more = True
        try:
            while True:
                if not more or (callbacks and monotonic() >= until):
                    break
                more = entry.step(self, recipient)
                callbacks += 1
        except BaseException:
            more = entry.has_more()
            raise
        finally:
            if more:
                self._put_back(recipient, entry)
        return callbacks

    def _put_back(self, recipient: Recipient, entry: Entry) -> None:
        with self._lock:
            if not self._sealed:
                self._entries.appendleft((recipient, entry))

    def _rest(self) -> None:
        with self._lock:
            self._thread = None
            again = bool(self._entries) and not self._sealed
            self._scheduled = again
            self._rested.notify_all()
        if again:
            self._schedule()

    def _wait_until_rested(self, deadline: float | None, *, running: bool = False) -> None:
        """Wait until nothing is queued, or only until nothing is ``running``."""
        with self._lock:
            while True:
                if self._thread is None if running else (self._sealed or not self._scheduled):
                    return
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return
                self._rested.wait(left)


def _is_exiting() -> bool:
    """Tell whether the interpreter exits; executors then end before buses do.

    Nothing public says so that early, and an executor's error does not tell it from a plain shutdown.
    """
    return sys.is_finalizing() or bool(getattr(threading, "_SHUTTING_DOWN", False))


def _name_of(callback: Callable[..., object]) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)
