"""The life of a stream, as tables.

A stream is a handshake and two directions that know nothing of each other. In each direction the sender
says FINISH ("I send no more, this was the last") and the receiver says CLOSE ("my application consumes no
more, this was the last"). A CLOSE that answers a FINISH is the normal end; one that comes before it tells
the sender to stop. The stream is over when all four have been said, or at once by REJECT or RESET.

Words in capitals are frames (DATA stands for CHUNK, too); those in small letters are commands and happenings
on this side. What a table does not list cannot be: for a frame, the peer broke the rules. The states are
strings because those hash in C.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from brokerless.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from brokerless.protocol.stream import Stream

TOO_LARGE = 0xFFFF_FFFC
"""Reset: what was queued before the other side's limits were known is above them."""

UNTAKEN = 0xFFFF_FFFD
"""Reject: nobody took the offer in its time."""

OPEN_TIMEOUT = 0xFFFF_FFFE
"""Reset: the offer was not answered in the opener's time."""

CLOSE_TIMEOUT = 0xFFFF_FFFF
"""Reset: what the closing side had to send was not consumed in its time."""


class StreamState(enum.StrEnum):
    """The handshake."""

    OFFERING = "offering"
    """We opened it; the other side has not answered."""
    OFFERED = "offered"
    """The other side opened it; we have not answered."""
    OPEN = "open"
    ENDED = "ended"


class Sending(enum.StrEnum):
    """Our direction."""

    SENDING = "sending"
    FINISHING = "finishing"
    """Nothing more is taken; FINISH goes out when the queue has drained."""
    STOPPED = "stopped"
    """The other end reads no more: the queue is dropped, FINISH is to go out."""
    FINISHED = "finished"
    """FINISH has gone out; their application may still be consuming."""
    DONE = "done"


class Receiving(enum.StrEnum):
    """Their direction."""

    RECEIVING = "receiving"
    FINISHED = "finished"
    """FINISH has come; our application has not consumed everything."""
    DISCARDING = "discarding"
    """We said CLOSE; what still comes is dropped until their FINISH."""
    DONE = "done"


State = TypeVar("State", StreamState, Sending, Receiving)
Table: TypeAlias = "Mapping[State, Mapping[str, State]]"

HANDSHAKE: Table[StreamState] = {
    StreamState.OFFERING: {
        "ACCEPT": StreamState.OPEN,
        "REJECT": StreamState.ENDED,
        "RESET": StreamState.ENDED,
    },
    StreamState.OFFERED: {
        "accept": StreamState.OPEN,
        # The opener may send before it is accepted, and even close. It has received nothing to grant for.
        "DATA": StreamState.OFFERED,
        "BLOCKED": StreamState.OFFERED,
        "FINISH": StreamState.OFFERED,
        "CLOSE": StreamState.OFFERED,
        "RESET": StreamState.ENDED,
    },
    StreamState.OPEN: {
        "DATA": StreamState.OPEN,
        "BLOCKED": StreamState.OPEN,
        "GRANT": StreamState.OPEN,
        "FINISH": StreamState.OPEN,
        "CLOSE": StreamState.OPEN,
        "RESET": StreamState.ENDED,
    },
    StreamState.ENDED: {},
}

SENDING: Table[Sending] = {
    Sending.SENDING: {
        "GRANT": Sending.SENDING,
        "CLOSE": Sending.STOPPED,
        "finish": Sending.FINISHING,
    },
    Sending.FINISHING: {
        "GRANT": Sending.FINISHING,
        "CLOSE": Sending.STOPPED,
        "finish": Sending.FINISHING,
        "finish sent": Sending.FINISHED,
    },
    Sending.STOPPED: {
        "finish": Sending.STOPPED,
        "finish sent": Sending.DONE,
    },
    Sending.FINISHED: {
        "GRANT": Sending.FINISHED,
        "CLOSE": Sending.DONE,
        "finish": Sending.FINISHED,
    },
    Sending.DONE: {
        "finish": Sending.DONE,
    },
}

RECEIVING: Table[Receiving] = {
    Receiving.RECEIVING: {
        "DATA": Receiving.RECEIVING,
        "BLOCKED": Receiving.RECEIVING,
        "FINISH": Receiving.FINISHED,
        "close": Receiving.DISCARDING,
    },
    Receiving.FINISHED: {
        "close": Receiving.DONE,
        "all consumed": Receiving.DONE,
    },
    Receiving.DISCARDING: {
        "DATA": Receiving.DISCARDING,
        "BLOCKED": Receiving.DISCARDING,
        "FINISH": Receiving.DONE,
        "close": Receiving.DISCARDING,
    },
    Receiving.DONE: {
        "close": Receiving.DONE,
    },
}


def step(stream: Stream, table: Table[State], state: State, word: str) -> State:
    """Return the state that follows. Raises ``RemoteProtocolError`` if there is none."""
    following = table[state].get(word)
    if following is None:
        raise violation(stream, f"{word} while {state}")
    return following


def violation(stream: Stream, what: str) -> RemoteProtocolError:
    """Return what to raise where the peer broke the rules of a stream."""
    return RemoteProtocolError(f"stream {stream.id}: {what}", peer=stream.peer)
