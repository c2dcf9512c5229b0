"""Credit: how far a sender may be ahead of the application that consumes.

Limits are cumulative since the stream began, so a grant that is repeated, late or overtaken does no harm. A
message costs its length and a fixed overhead, so that empty messages are not free. Nothing here knows frames:
the owner says what arrived or was consumed, and sends the limits that come back.

The receiver grants anew when half a window has been consumed since its last grant, and at once when the
sender said that it is blocked. The sender says so only of messages above half of the smallest window there
can be: for all others, half a window has been consumed by the time nothing is left to consume. Announcing
every stall would make a receiver that consumes one small message at a time grant one at a time.

What was announced, and given up before it left, is given back: the sender forgets every grant, says so by
announcing 0, and heeds grants again after the one of 0 that answers it. Those before that were under way, and
count no more. Otherwise memory set aside for a message that never comes would be missing for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.errors import RemoteProtocolError

if TYPE_CHECKING:
    from brokerless.protocol.stream_host import Lane, StreamHost

MESSAGE_COST_BYTES = 64
"""Charged for each message on top of its length: about what an object and its slot in a queue take."""


class SendCredit:
    """What the other end lets us send.

    A first limit of 0 says that the other end has not spoken yet.

    *Queries* ``limit``, ``used``, ``remaining``; *inputs* ``raise_to``; *commands* ``spend``, ``announce``.
    """

    __slots__ = ("_announce_above", "_announced", "_gives_back", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        # Windows never shrink, so the first limit is the smallest window. 0: not known yet.
        self._announce_above = limit // 2
        self._announced = 0
        self._gives_back = False  # until the other end has answered

    @property
    def remaining(self) -> int:
        """What may still be sent."""
        return self.limit - self.used

    def raise_to(self, limit: int) -> None:
        """Take a grant. A lower limit than the present one is an old one, and ignored."""
        if self._gives_back:
            self._gives_back = limit != 0
            return
        if not self._announce_above:
            self._announce_above = limit // 2
        if limit > self.limit:
            self.limit = limit

    def spend(self, cost: int) -> None:
        """Account for messages that leave; the caller has seen that they fit."""
        self.used += cost

    def announce(self, cost: int) -> int | None:
        """Return what to tell the other end, given what the next message costs and has no credit for.

        That is the limit that the message needs; but first 0, all credit goes back, if another message was
        announced and given up since. None: there is nothing to tell, as for no message, which costs 0.
        """
        if not self._announce_above or self._gives_back:
            return None
        needed = self.used + cost if cost > self._announce_above else 0
        if self._announced > self.used and self._announced != needed:
            self._gives_back = True
            self._announced = 0
            self.limit = self.used
            return 0
        if needed == self._announced or not needed:
            return None
        self._announced = needed
        return needed


class ReceiveWindow:
    """What we let the other end send, and the memory set aside for it.

    The first window is unconditional. All above it, a grown window or one oversized message, is reserved with
    the host, and given back exactly.

    *Queries* ``limit``, ``arrived``, ``consumed``, ``window``; *inputs* ``arrive``, ``landed``, ``blocked``;
    *commands* ``consume``, ``regrant``, ``grant_oversized``, ``take_back``, ``stop``. Those that return an
    int return the limit to grant now; None means that there is nothing to say.
    """

    __slots__ = (
        "_asked",
        "_extra",
        "_granted_at",
        "_grown_at",
        "_has_turn",
        "_host",
        "_initial",
        "_owner",
        "_queued",
        "_stopped",
        "arrived",
        "consumed",
        "limit",
        "window",
    )

    def __init__(self, host: StreamHost, owner: Lane, window: int) -> None:
        self._host = host
        self._owner = owner
        self._initial = window
        self.window = window
        self.limit = window
        self.arrived = 0
        self.consumed = 0
        self._granted_at = 0  # consumed at the last grant
        self._grown_at = 0  # consumed when the window grew last
        self._asked = 0  # limit that the blocked sender asked for last
        self._queued = False  # waiting for our turn to take an oversized message
        self._has_turn = False  # until all that was asked for has arrived
        self._extra = 0  # reserved beyond the window: limit - consumed - window, while that is above 0
        self._stopped = False

    def arrive(self, cost: int) -> None:
        """Account for messages that came. Raises ``RemoteProtocolError`` if they were not granted."""
        arrived = self.arrived + cost
        if arrived > self.limit:
            raise RemoteProtocolError(
                f"stream {self._owner.id}: {arrived} bytes sent, {self.limit} granted", peer=self._host.remote
            )
        self.arrived = arrived

    def landed(self) -> None:
        """Note that messages are complete; if that is the oversized one, it ends our turn.

        The turn ends here and not when the application consumes: an application that does not read must not
        keep other streams waiting. Its memory stays reserved.
        """
        if self._has_turn and self.arrived >= self._asked:
            self._end_turn()

    def consume(self, cost: int) -> int | None:
        """Account for messages that the application is done with."""
        if self._stopped:
            return None
        self.consumed += cost
        limit = None
        if 2 * (self.consumed - self._granted_at) >= self.window:
            limit = self._grant()
        if self._extra:
            self._release_extra()
        if self._asked > self.limit:  # still, since the host may have made use of that for us, at once
            limit = self.regrant() or limit
        return limit

    def blocked(self, limit: int) -> None:
        """Note what the sender needs; ``regrant`` acts on it.

        Raises ``RemoteProtocolError`` for what an honest sender does not ask.
        """
        # It has sent at most what was granted, so more than one message above that is no honest need. Nor is
        # another one, before the last has come or been given back.
        most = self.limit + self._host.message_bytes_max + MESSAGE_COST_BYTES
        if limit > most or self._asked > self.arrived or self._has_turn:
            raise RemoteProtocolError(
                f"stream {self._owner.id}: blocked at {self.limit}, asks for {limit}", peer=self._host.remote
            )
        self._asked = limit

    def regrant(self) -> int | None:
        """Do what can be done for a blocked sender: grant, or queue for our turn to take a large message."""
        if self._asked <= self.limit or self._stopped:  # a grant may have crossed what was asked
            return None
        if self.consumed + self.window >= self._asked:
            return self._grant()
        # What has arrived will be consumed some day, and with it credit comes back. Only if that can never
        # be enough is the message an oversized one.
        if self._asked - self.arrived > self.window:
            self._queued = True
            self._host.want_oversized(self._owner)  # again after each consumption: less is needed then
        return None

    def grant_oversized(self) -> int | None:
        """Take our turn: return the limit for the oversized message, None if the budget is spent."""
        extra = self._asked - self.consumed - self.window - self._extra
        assert extra > 0, "what was asked for is above the limit, and no more than that is reserved"
        if not self._host.reserve(extra):
            return None
        self._extra += extra
        self.limit = self._asked
        self._granted_at = self.consumed
        self._queued = False
        self._has_turn = True
        return self.limit

    def take_back(self) -> int:
        """Take back what was granted, not used, and given back; return the limit from now on.

        Raises ``RemoteProtocolError`` if nothing was asked for that has not come.
        """
        if self._asked <= self.arrived:
            raise RemoteProtocolError(f"stream {self._owner.id}: gives back nothing", peer=self._host.remote)
        self._asked = 0
        self._granted_at = self.consumed
        self.limit = max(self.arrived, self.consumed + self.window)
        if self._queued or self._has_turn:
            self._end_turn()
        if self._extra:
            self._release_extra()
        return self.limit

    def stop(self) -> None:
        """Grant no more, and give back everything. Messages within the last limit may still come."""
        if self._stopped:
            return
        self._stopped = True
        if self._queued or self._has_turn:
            self._end_turn()
        reserved = self.window - self._initial + self._extra
        self._extra = 0
        if reserved:
            self._host.release(reserved)

    def _grant(self) -> int:
        if self.consumed - self._grown_at >= self.window:
            self._grow()
        self._granted_at = self.consumed
        self.limit = max(self.limit, self.consumed + self.window)
        if self._queued and self.limit >= self._asked:  # the window has come to suffice
            self._end_turn()
        return self.limit

    def _end_turn(self) -> None:
        self._queued = self._has_turn = False
        self._host.oversized_done(self._owner)

    def _grow(self) -> None:
        growth = min(self.window, self._host.limits.stream_window_bytes - self.window)
        if growth > 0 and self._host.reserve(growth):
            self.window += growth
            self._grown_at = self.consumed

    def _release_extra(self) -> None:
        extra = max(0, self.limit - self.consumed - self.window)
        released = self._extra - extra
        self._extra = extra
        if released:
            self._host.release(released)
