"""What streams and single messages ask of the session that carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.model import Event
    from brokerless.protocol import wire
    from brokerless.protocol.singles import Singles
    from brokerless.protocol.stream import Stream

Lane: TypeAlias = "Stream | Singles"
"""What a session carries."""


class StreamHost(Protocol):
    """What a stream asks of its session."""

    remote: Address
    limits: Limits
    message_bytes_max: int
    """The smaller of both sides'."""

    def schedule(self, stream: Lane) -> None:
        """Ask the stream for ``next_frame`` until its ``has_output`` is false."""

    def control(self, frame: wire.StreamControl) -> None:
        """Send one numbered control frame: in order, before the data frames asked for after it."""

    def emit(self, event: Event) -> None:
        """Tell the application. It does not call back into the stream from here."""

    def retire(self, stream: Stream) -> None:
        """Forget the stream: it is over on this side. What still comes for it is to be ignored."""

    def reserve(self, byte_count: int) -> bool:
        """Set memory aside for what this peer may have unconsumed here; False: the budget is spent."""

    def release(self, byte_count: int) -> None:
        """Give back what was reserved."""

    def want_oversized(self, stream: Lane) -> None:
        """Call ``stream.grant_oversized`` when its turn comes: oldest first, one at a time.

        When that returns False the budget is spent, and it stays first in the queue. Said again, it keeps its
        place, and is called at once if it is first.
        """

    def oversized_done(self, stream: Lane) -> None:
        """End the stream's turn, or take it out of the queue."""

    def deadline_changed(self, stream: Lane) -> None:
        """Look at ``stream.next_deadline`` again."""
