"""What has arrived and waits for an asyncio task to take it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from brokerless import PeerChanged, PeerForgotten, PeerJoined, PeerLeft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from brokerless import Address, Message, Peer, Unread
    from dittobus.peers import PeerEvent

T = TypeVar("T")

CHANGES_MAX = 1_024
"""Changes of peers that wait for one iterator before those that say no more than later ones are dropped."""


def _anywhere() -> None:
    """Let anybody wait."""


class Inbox(Generic[T]):
    """A queue whose consumers compete; bounded by whoever fills it. A cancelled ``get`` takes nothing.

    ``check`` raises where nobody can wait.
    """

    def __init__(self, check: Callable[[], None] = _anywhere) -> None:
        self.items: deque[T] = deque()
        self._check = check
        self._getters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def put(self, item: T) -> None:
        """Add an item, unless closed."""
        if not self._closed:
            self.items.append(item)
            self._wake()

    async def get(self) -> T:
        """Return the oldest item. Raises ``StopAsyncIteration`` once closed."""
        arrival: asyncio.Future[None] | None = None
        try:
            while (item := self._take()) is None:
                if self._closed:
                    raise StopAsyncIteration
                self._check()
                following: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                if arrival is None:
                    self._getters.append(following)
                else:  # somebody who did not wait was quicker: it keeps its place
                    self._getters[self._getters.index(arrival)] = following
                arrival = following
                await arrival
            return item
        finally:
            if arrival is not None:
                self._getters.remove(arrival)
            if self._has_more:
                self._wake()

    def discard(self, item: T) -> None:
        """Take back an item that nobody has taken."""
        if item in self.items:
            self.items.remove(item)

    def close(self) -> None:
        """End all iterations, and drop what waits."""
        self._closed = True
        self.items.clear()
        for arrival in self._getters:
            if not arrival.done():
                arrival.set_result(None)

    def _take(self) -> T | None:
        return self.items.popleft() if self.items else None

    @property
    def _has_more(self) -> bool:
        return bool(self.items)

    def _wake(self) -> None:
        """Wake the first; who has taken something, or gives up, wakes the next."""
        if self._getters and not self._getters[0].done():
            self._getters[0].set_result(None)


class MessageInbox(Inbox["Message"]):
    """Single messages: the reliable ones are put here, the others are only taken when somebody asks for one.

    They wait where the oldest gives way to newer ones, and would not if they were put here, too.
    """

    def __init__(self, check: Callable[[], None] = _anywhere) -> None:
        super().__init__(check)
        self._unread: Unread[Message] | None = None  # unknown until something waits there

    def look_into(self, unread: Unread[Message]) -> None:
        """Messages wait there."""
        self._unread = unread
        if self._closed:
            unread.close()
        else:
            self._wake()

    def close(self) -> None:
        """End all iterations, and drop what waits."""
        super().close()
        if self._unread is not None:
            self._unread.close()

    def _take(self) -> Message | None:
        """Take what came first."""
        if self._unread is None:
            return super()._take()
        return older(self.items, self._unread) if self.items else self._unread.take()

    @property
    def _has_more(self) -> bool:
        # Only a look into an empty queue makes it tell of the next message: so the next who waits must look.
        return bool(self.items) or self._unread is not None


def older(reliable: deque[Message], unread: Unread[Message]) -> Message:
    """Take the message that came first of those in two queues, the former of which is not empty."""
    oldest = unread.oldest
    if oldest is None or reliable[0].received_at <= oldest.received_at:
        return reliable.popleft()
    return unread.take() or reliable.popleft()


class Iteration(Generic[T]):
    """One iteration over an inbox; ``taken`` is told of each item."""

    def __init__(self, inbox: Inbox[T], taken: Callable[[T], object] | None = None) -> None:
        self._inbox = inbox
        self._taken = taken

    def __aiter__(self) -> Iteration[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._inbox.get()
        if self._taken is not None:
            self._taken(item)
        return item


class PeerChanges(Iteration["PeerEvent"]):
    """One iteration over the changes of peers: first those who are listed, then every change.

    When nobody takes them, those that later ones make void are dropped: at most two of each peer are left.
    """

    def __init__(self, listed: Iterable[Peer], check: Callable[[], None] = _anywhere) -> None:
        super().__init__(Inbox(check), self._note_taken)
        self._had_joined: dict[Address, bool] = {}  # of whom is listed by what the consumer has taken
        self._compact_at = CHANGES_MAX
        for peer in listed:
            self._inbox.put(PeerJoined(peer) if peer.has_joined else PeerChanged(peer))

    def put(self, event: PeerEvent) -> None:
        """Add a change."""
        self._inbox.put(event)
        if len(self._inbox.items) > self._compact_at:
            self._compact()
            self._compact_at = max(CHANGES_MAX, 2 * len(self._inbox.items))

    def close(self) -> None:
        """End the iteration."""
        self._inbox.close()

    def _note_taken(self, event: PeerEvent) -> None:
        if isinstance(event, PeerForgotten | PeerLeft):
            self._had_joined.pop(event.peer.address, None)
        else:
            self._had_joined[event.peer.address] = event.peer.has_joined

    def _compact(self) -> None:
        last: dict[Address, PeerEvent] = {}
        left: dict[Address, PeerLeft] = {}
        for event in self._inbox.items:
            address = event.peer.address
            previous = last.pop(address, None)
            if isinstance(event, PeerLeft) and self._had_joined.get(address):
                left[address] = event
            elif isinstance(event, PeerChanged) and isinstance(previous, PeerJoined):
                event = PeerJoined(event.peer)
            last[address] = event
        self._inbox.items.clear()
        self._inbox.items.extend(left.values())
        for address, event in last.items():
            if not isinstance(event, PeerForgotten | PeerLeft):
                self._inbox.items.append(event)
            elif self._had_joined.get(address) is False:
                self._inbox.items.append(PeerForgotten(event.peer))
