"""What has arrived and waits for a thread to take it."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from brokerless import WaitTimeout
from dittobus._arguments import checked_timeout
from dittobus._inbox import PeerChanges
from dittobus._waiting import Sleeper, deadline_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from brokerless import Message, Peer, Unread
    from dittobus._io_thread import IoThread
    from dittobus.peers import PeerEvent

T = TypeVar("T")


class Over(Exception):
    """Nothing more will come."""


class Mailbox(Generic[T]):
    """A queue from the I/O thread to any number of others, which compete; bounded by whoever fills it.

    A ``take`` that ends by Ctrl-C, or by its timeout, has taken nothing. To make that true, what is taken is
    given back when an interrupt comes between taking and returning; and what was consumed is not told by who
    takes it, but counted afterwards, on the I/O thread, as what has come and is not here any more.

    ``consumed``, if given, is called there with the number taken since the last time.

    Unreliable items come by way of ``look_into``: they are not here, but where the oldest gives way to newer
    ones, until they are taken. One that is interrupted by Ctrl-C in that moment is lost.
    """

    __slots__ = (
        "_consumed",
        "_consumed_count",
        "_io",
        "_is_over",
        "_items",
        "_lock",
        "_note_taken",
        "_put_count",
        "_report_is_due",
        "_sleepers",
        "_unread",
        "_what",
    )

    def __init__(self, io: IoThread, what: str, consumed: Callable[[int], object] | None = None) -> None:
        self._io = io
        self._what = what
        self._consumed = consumed
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._sleepers: deque[Sleeper] = deque()
        self._is_over = False
        self._put_count = 0
        self._consumed_count = 0
        self._report_is_due = consumed is None  # so that none will be asked for
        self._note_taken: Callable[[T], None] | None = None  # with the lock held
        self._unread: Unread[T] | None = None

    # From any thread

    def take(self, timeout: float | None) -> T:
        """Return the oldest item, waiting for one. Raises ``WaitTimeout``, ``Over``."""
        sleeper = deadline = None
        if timeout is not None:
            deadline = deadline_after(checked_timeout(timeout))
        is_taken = False
        try:
            while True:
                with self._lock:
                    if self._unread is not None and (unreliable := self._take_unread()) is not None:
                        return unreliable
                    if self._items:
                        item = self._items[0]
                        if self._note_taken is not None:
                            self._note_taken(item)
                        # Without a call in between, Ctrl-C comes before both of these or after both.
                        del self._items[0]
                        is_taken = True
                    elif self._is_over:
                        raise Over
                    else:
                        sleeper = sleeper or Sleeper(self._io)
                        self._sleepers.append(sleeper)
                if is_taken:
                    if not self._report_is_due:
                        self._report_is_due = True
                        self._io.post(self.report)
                    return item
                assert sleeper is not None
                is_woken = sleeper.sleep(deadline)
                if self._leave(sleeper) and not is_woken:
                    raise WaitTimeout(f"no {self._what} within {timeout} s")
        except BaseException:
            if is_taken:
                self._put_back(item)
            elif sleeper is not None and not self._leave(sleeper):
                self._pass_on()
            raise

    def discard(self, item: T) -> None:
        """Take back an item that nobody has taken."""
        with self._lock:
            if item in self._items:
                self._items.remove(item)
                self._put_count -= 1

    def take_all(self) -> list[T]:
        """Return all that waits, without waiting for more."""
        with self._lock:
            items = list(self._items)
            self._items.clear()
            return items

    def drop(self) -> None:
        """Drop what waits, and take nothing any more."""
        with self._lock:
            self._put_count -= len(self._items)
            self._items.clear()
            if self._unread is not None:
                self._unread.close()
            self._end()

    def end(self) -> None:
        """Nothing more will come; what waits may still be taken."""
        with self._lock:
            self._end()

    # On the I/O thread

    def put(self, items: Sequence[T]) -> None:
        """Add items, unless it is over."""
        with self._lock:
            if not self._is_over:
                self._items.extend(items)
                self._put_count += len(items)
                self._wake(len(items))

    def look_into(self, unread: Unread[T]) -> None:
        """Items wait there, or will."""
        with self._lock:
            self._unread = unread
            self._wake(1)

    def report(self) -> None:
        self._report_is_due = False
        with self._lock:
            count = self._put_count - len(self._items) - self._consumed_count
            # One that was given back may have been counted already; the next one taken makes up for it.
            self._consumed_count += max(0, count)
        if count > 0 and self._consumed is not None:
            self._consumed(count)

    # In a forked child

    def refuse(self) -> None:
        """Forget everything: it is the parent's, and so is the thread that may hold the lock."""
        self._lock = threading.Lock()
        self._items = deque()
        self._is_over = True

    # The rest is private

    def _leave(self, sleeper: Sleeper) -> bool:
        """Stop waiting; return False if it was woken before."""
        with self._lock:
            if sleeper not in self._sleepers:
                return False
            self._sleepers.remove(sleeper)
            return True

    def _pass_on(self) -> None:
        """Wake another in place of one who was woken and takes nothing."""
        with self._lock:
            if self._items or self._unread:
                self._wake(1)

    def _put_back(self, item: T) -> None:
        with self._lock:
            self._items.appendleft(item)
            self._wake(1)
        if self._consumed is not None:
            self._io.post(self.report)  # the one that is noted as due may not have been asked for

    # With the lock held

    def _take_unread(self) -> T | None:
        """Take what waits elsewhere, unless something here came first."""
        assert self._unread is not None
        if self._items and self._is_first_here():
            return None
        item = self._unread.take()
        if item is not None:
            self._wake(1)  # only a look into an empty queue makes it tell of the next item
        return item

    def _is_first_here(self) -> bool:
        return True

    def _wake(self, count: int) -> None:
        for _ in range(min(count, len(self._sleepers))):
            self._sleepers.popleft().wake()

    def _end(self) -> None:
        self._is_over = True
        self._wake(len(self._sleepers))


class MessageMailbox(Mailbox["Message"]):
    """Single messages: which of the reliable and the others came first, is taken first."""

    def _is_first_here(self) -> bool:
        assert self._unread is not None
        first: Message = self._items[0]
        oldest = self._unread.oldest
        return oldest is None or first.received_at <= oldest.received_at


class PeerMailbox(Mailbox["PeerEvent"]):
    """One iteration over the changes of peers: first those who are listed, then every change.

    When nobody takes them, those that later ones make void are dropped, as in the asyncio face.
    """

    __slots__ = ("__weakref__", "_changes")

    def __init__(self, io: IoThread, listed: Iterable[Peer]) -> None:
        super().__init__(io, "change of peers")
        self._changes = PeerChanges(listed)
        self._items = self._changes._inbox.items
        self._note_taken = self._changes._note_taken

    def put(self, items: Sequence[PeerEvent]) -> None:
        with self._lock:
            if not self._is_over:
                for event in items:
                    self._changes.put(event)
                self._wake(len(items))
