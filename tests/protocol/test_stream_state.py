"""The tables, and streams held to them: every frame and every command in every state that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest

from brokerless.errors import PeerLost, RemoteProtocolError, UsageError
from brokerless.model import StreamEnded
from brokerless.protocol import wire
from brokerless.protocol.stream_state import (
    CLOSE_TIMEOUT,
    HANDSHAKE,
    OPEN_TIMEOUT,
    RECEIVING,
    SENDING,
    TOO_LARGE,
    UNTAKEN,
    Receiving,
    Sending,
    StreamState,
)
from tests.protocol.two_ends import SMALL, End, acceptor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import StrEnum

    from brokerless.protocol.stream import Stream

TABLES = [(HANDSHAKE, StreamState), (SENDING, Sending), (RECEIVING, Receiving)]
FRAMES = {"ACCEPT", "REJECT", "DATA", "GRANT", "BLOCKED", "FINISH", "CLOSE", "RESET"}
COMMANDS = {"accept", "finish", "finish sent", "close", "all consumed"}
WINDOW = SMALL.stream_window_initial_bytes
LOST = PeerLost(reason="silent", silent_s=5.0)
AnyTable: TypeAlias = "Mapping[StrEnum, Mapping[str, StrEnum]]"


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_state_has_a_row_of_known_words(table: AnyTable, states: type[StrEnum]) -> None:
    assert set(table) == set(states)
    assert {word for row in table.values() for word in row} <= FRAMES | COMMANDS
    assert {state for row in table.values() for state in row.values()} <= set(states)


@pytest.mark.parametrize(("table", "start"), [(SENDING, Sending.SENDING), (RECEIVING, Receiving.RECEIVING)])
def test_a_direction_reaches_every_state_and_always_its_end(table: AnyTable, start: StrEnum) -> None:
    def reachable(state: StrEnum) -> set[StrEnum]:
        seen, pending = {state}, [state]
        while pending:
            new = set(table[pending.pop()].values()) - seen
            seen |= new
            pending += new
        return seen

    assert reachable(start) == set(table)
    assert all(type(start)("done") in reachable(state) for state in table)
    assert reachable(type(start)("done")) == {type(start)("done")}


def test_what_may_arrive_is_decided_by_one_half_only() -> None:
    # So that no frame is let through by one table and judged by none.
    halves = [{word for row in table.values() for word in row} & FRAMES for table in (SENDING, RECEIVING)]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] | {"ACCEPT", "REJECT", "RESET"} == FRAMES


def test_codes_are_the_buses_own_and_differ() -> None:
    codes = {CLOSE_TIMEOUT, OPEN_TIMEOUT, TOO_LARGE, UNTAKEN}
    assert len(codes) == 4
    assert all(wire.BUS_CODE_MIN <= code <= wire.U32_MAX for code in codes)


# Streams, held to the tables


FRAMES_OF: dict[str, Callable[[int], wire.Frame]] = {
    "ACCEPT": lambda received: wire.Accept(2, b"", WINDOW),
    "REJECT": lambda received: wire.Reject(2, 5, ""),
    "DATA": lambda received: wire.Data(2, received + 1, 0, [b"x"]),
    "CHUNK": lambda received: wire.Chunk(2, received + 1, 0, 1500, 0, bytes(1024)),
    "GRANT": lambda received: wire.Grant(2, 9999, 0),
    "BLOCKED": lambda received: wire.Blocked(2, 9999),
    "FINISH": lambda received: wire.Finish(2, received),
    "CLOSE": lambda received: wire.Close(2, 0),
    "RESET": lambda received: wire.Reset(2, 5, "", 0),
}

OPEN, OFFERING, OFFERED = StreamState.OPEN, StreamState.OFFERING, StreamState.OFFERED
ENDED = (StreamState.ENDED, Sending.DONE, Receiving.DONE)
WAYS: dict[tuple[StreamState, Sending, Receiving], str] = {
    (OFFERING, Sending.SENDING, Receiving.RECEIVING): "open",
    (OFFERING, Sending.FINISHING, Receiving.RECEIVING): "open send finish",
    (OFFERING, Sending.FINISHED, Receiving.RECEIVING): "open finish output",
    (OFFERING, Sending.FINISHING, Receiving.DISCARDING): "open send close",
    (OFFERING, Sending.FINISHED, Receiving.DISCARDING): "open close output",
    (OFFERED, Sending.SENDING, Receiving.RECEIVING): "offered",
    (OFFERED, Sending.SENDING, Receiving.FINISHED): "offered DATA FINISH",
    (OFFERED, Sending.STOPPED, Receiving.RECEIVING): "offered CLOSE",
    (OFFERED, Sending.STOPPED, Receiving.FINISHED): "offered DATA CLOSE FINISH",
    (OPEN, Sending.SENDING, Receiving.RECEIVING): "open ACCEPT DATA",
    (OPEN, Sending.SENDING, Receiving.FINISHED): "open ACCEPT DATA FINISH",
    (OPEN, Sending.SENDING, Receiving.DONE): "open ACCEPT DATA FINISH consume",
    (OPEN, Sending.FINISHING, Receiving.RECEIVING): "open ACCEPT DATA send finish",
    (OPEN, Sending.FINISHING, Receiving.FINISHED): "open ACCEPT DATA FINISH send finish",
    (OPEN, Sending.FINISHING, Receiving.DONE): "open ACCEPT DATA FINISH send close",
    (OPEN, Sending.FINISHING, Receiving.DISCARDING): "open ACCEPT DATA send close",
    (OPEN, Sending.STOPPED, Receiving.RECEIVING): "offered DATA accept CLOSE",
    (OPEN, Sending.STOPPED, Receiving.FINISHED): "offered DATA CLOSE FINISH accept",
    (OPEN, Sending.STOPPED, Receiving.DONE): "offered accept CLOSE FINISH",
    (OPEN, Sending.STOPPED, Receiving.DISCARDING): "offered accept CLOSE close",
    (OPEN, Sending.FINISHED, Receiving.RECEIVING): "open ACCEPT DATA finish output",
    (OPEN, Sending.FINISHED, Receiving.FINISHED): "open ACCEPT DATA FINISH finish output",
    (OPEN, Sending.FINISHED, Receiving.DONE): "open ACCEPT FINISH finish output",
    (OPEN, Sending.FINISHED, Receiving.DISCARDING): "open ACCEPT close output",
    (OPEN, Sending.DONE, Receiving.RECEIVING): "open ACCEPT DATA finish output CLOSE",
    (OPEN, Sending.DONE, Receiving.FINISHED): "open ACCEPT DATA FINISH finish output CLOSE",
    (OPEN, Sending.DONE, Receiving.DISCARDING): "open ACCEPT CLOSE output close",
}
"""How to come into each state that there is; no other can be."""


ARGUMENTS = {"send": (b"x",), "consume": (1,), "reject": (1,)}


def brought_to(end: End, way: str) -> Stream:
    first, *steps = way.split()
    stream = end.open() if first == "open" else acceptor(end)
    for step in steps:
        if step in FRAMES_OF:
            end.dispatch(FRAMES_OF[step](stream.stats().messages_received))
        elif step == "output":
            assert stream.next_frame(9999) is not None
        else:
            getattr(stream, step)(*ARGUMENTS.get(step, ()))
    return stream


def states_of(stream: Stream) -> tuple[StreamState, Sending, Receiving]:
    return stream.state, stream._sending, stream._receiver.state


def expected(
    states: tuple[StreamState, Sending, Receiving], word: str
) -> tuple[StreamState, Sending, Receiving] | None:
    """Return where the tables say that a frame leads; None: it cannot come."""
    handshake, sending, receiving = states
    following = HANDSHAKE[handshake].get(word)
    if following is None:
        return None
    if following is StreamState.ENDED:
        return ENDED
    if word in ("GRANT", "CLOSE"):
        if word not in SENDING[sending]:
            return None
        sending = SENDING[sending][word]
    elif word in ("DATA", "BLOCKED", "FINISH"):
        if word not in RECEIVING[receiving]:
            return None
        receiving = RECEIVING[receiving][word]
    return ENDED if (sending, receiving) == ENDED[1:] else (following, sending, receiving)


@pytest.mark.parametrize("frame", FRAMES_OF)
@pytest.mark.parametrize("states", WAYS, ids=lambda states: "-".join(states))
def test_every_frame_in_every_state(states: tuple[StreamState, Sending, Receiving], frame: str) -> None:
    end = End(1, 2, SMALL)
    stream = brought_to(end, WAYS[states])
    assert states_of(stream) == states
    word = "DATA" if frame == "CHUNK" else frame
    following = expected(states, word)
    if following is None:
        with pytest.raises(RemoteProtocolError, match=f"^stream 2: {word} while ({'|'.join(states)})$"):
            end.dispatch(FRAMES_OF[frame](stream.stats().messages_received))
        assert not stream.is_over, "the session ends it, with its reason"
        stream.session_ended(LOST)
        misses_nothing = states[1:] == (Sending.DONE, Receiving.DISCARDING)
        assert end.events[-1] == StreamEnded(stream, None if misses_nothing else LOST)
    else:
        end.dispatch(FRAMES_OF[frame](stream.stats().messages_received))
        assert states_of(stream) == following
        assert (stream.state is StreamState.ENDED) == (2 in end.retired)


@pytest.mark.parametrize("command", ["finish", "close", "abort", "accept", "reject"])
@pytest.mark.parametrize("states", WAYS, ids=lambda states: "-".join(states))
def test_every_command_in_every_state(states: tuple[StreamState, Sending, Receiving], command: str) -> None:
    end = End(1, 2, SMALL)
    stream = brought_to(end, WAYS[states])
    handshake, sending, receiving = states
    arguments = ARGUMENTS.get(command, ())
    answers, offered = command in ("accept", "reject"), handshake is OFFERED
    if answers != offered and command not in ("close", "abort"):
        with pytest.raises(UsageError):
            getattr(stream, command)(*arguments)
        following = states
    elif command == "abort" or (offered and command != "accept"):
        getattr(stream, command)(*arguments)
        following = ENDED
    elif command == "accept":
        getattr(stream, command)(*arguments)
        following = (OPEN, sending, receiving)
    else:
        getattr(stream, command)(*arguments)
        receiving = RECEIVING[receiving]["close"] if command == "close" else receiving
        following = (handshake, SENDING[sending]["finish"], receiving)
    assert states_of(stream) == (ENDED if following[1:] == ENDED[1:] else following)
    assert stream.is_over == (2 in end.retired)


LEGAL = {
    StreamState: {
        "offering": "ACCEPT REJECT RESET",
        "offered": "BLOCKED CLOSE DATA FINISH RESET",
        "open": "BLOCKED CLOSE DATA FINISH GRANT RESET",
        "ended": "",
    },
    Sending: {
        "sending": "CLOSE GRANT",
        "finishing": "CLOSE GRANT",
        "stopped": "",
        "finished": "CLOSE GRANT",
        "done": "",
    },
    Receiving: {
        "receiving": "BLOCKED DATA FINISH",
        "finished": "",
        "discarding": "BLOCKED DATA FINISH",
        "done": "",
    },
}
"""What ``docs/wire.md`` says in words."""


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_the_frames_that_may_come(table: AnyTable, states: type[StrEnum]) -> None:
    assert {state: " ".join(sorted(set(row) & FRAMES)) for state, row in table.items()} == LEGAL[states]
