"""What must hold of the core at every step, whatever happens: credit is conserved, and memory is bounded.

The promises to applications are held by ``sim_application``; here it is looked inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.protocol.datagram_stream import DatagramStream
from brokerless.protocol.datagrams import KEYS_MAX
from brokerless.protocol.session import HELD_BYTES_MAX
from brokerless.protocol.wire import PACKET_BYTES_MAX

if TYPE_CHECKING:
    from brokerless.protocol.credit import ReceiveWindow, SendCredit
    from brokerless.protocol.session import Session
    from brokerless.protocol.singles import Singles
    from brokerless.protocol.stream import Stream
    from brokerless.testing.sim_node import SimNode

CONTROL_BYTES_MAX = 4 * PACKET_BYTES_MAX
"""Control frames may leave beyond the limit of what is in flight: a few for each stream, of 20 bytes."""


CHECKED_MAX = 8
"""Conversations of one node looked at after each of its turns; in a large mesh they take turns, too."""


def check_node(node: SimNode) -> None:
    """Hold a node, and its half of each conversation, against what must be true between any two turns."""
    core = node.core
    node.presence.check(core.peers)
    sessions = core.sessions
    if len(sessions) > CHECKED_MAX:
        first = node.turns % len(sessions)
        sessions = [*sessions, *sessions][first : first + CHECKED_MAX]
    for session in sessions:
        _check_session(session)
        other = node.network.nodes[session.remote]
        theirs = other.core.session(node.address) if other.is_running else None
        if theirs is not None and session.their_nonce == theirs.nonce and theirs.their_nonce == session.nonce:
            _check_conversation(session, theirs)
            _check_conversation(theirs, session)
    reserved = sum(session.lanes._budget.reserved for session in core.sessions)
    assert core._budget.reserved == reserved, "memory is set aside for nobody"
    assert reserved <= core.limits.memory_bytes_max
    unread = core._plane.unread
    assert unread.byte_count <= core.limits.unreliable_queue_bytes_max or len(unread) == 1


def check_rest(node: SimNode) -> None:
    """Hold a node against what must be true when nothing is under way: nobody waits, nothing is held."""
    check_node(node)
    for session in node.core.sessions:
        assert session.is_idle
        assert not session.streams
        assert not session.lanes._oversized
        assert session.lanes._granted is None
        assert not session._held
        assert session.datagrams._reassembly.byte_count == 0
        window = session.lanes.singles._window
        assert window.consumed == window.arrived, "something was not consumed"
        assert 2 * (window.limit - window.consumed) > window.window, "credit was not returned"
        theirs = node.network.nodes[session.remote].core.session(node.address)
        if theirs is not None:
            credit = theirs.lanes.singles._credit
            assert (credit.limit, credit.used) == (window.limit, window.arrived), "credit was lost"


def _check_session(session: Session) -> None:
    limits = session.limits
    reserved = _check_lane(session.lanes.singles._window)
    queued = session.lanes.singles._queued_cost
    assert queued <= limits.peer_memory_bytes_max or len(session.lanes.singles._waiting) == 1
    for stream in session.streams.values():
        reserved += _check_lane(stream._receiver._window) + stream._space.size - stream._space._least
        if isinstance(stream, DatagramStream):
            unread = stream.unread
            assert unread.byte_count <= limits.unreliable_queue_bytes_max or len(unread) == 1
        else:
            _check_stream(stream)
    assert reserved == session.lanes._budget.reserved, "what is set aside is not what is held"
    assert reserved <= limits.peer_memory_bytes_max
    flight = session.flight
    assert flight.byte_count <= limits.unacknowledged_bytes_max + PACKET_BYTES_MAX + CONTROL_BYTES_MAX
    assert flight.sent - flight.acknowledged == len(flight._retained)
    assert session._held_bytes <= HELD_BYTES_MAX
    assert len(session.streams) <= limits.streams_max
    assert len(session.lanes._offers) <= limits.offers_max
    assert len(session.datagrams._inbound) <= KEYS_MAX
    assert session.datagrams._reassembly.byte_count <= limits.unreliable_queue_bytes_max


def _check_lane(window: ReceiveWindow) -> int:
    """Check the receiving half of a stream, or of single messages; return what is reserved for it."""
    assert window.consumed <= window.arrived <= window.limit, "more came than was granted"
    if window._stopped:
        assert window._extra == 0
        return 0
    assert window.limit - window.consumed <= window.window + window._extra, "granted, and not set aside"
    return window.window - window._initial + window._extra


def _check_stream(stream: Stream) -> None:
    out, unconsumed = stream._out, stream._receiver.unconsumed
    assert 0 <= out.credit.used <= out.credit.limit, "more was sent than was granted"
    assert out.queued_cost <= stream._space.size or out.queued_messages == 1, "the send queue is too long"
    assert stream.acknowledged_sequence <= out.sent_sequence <= out.last_sequence
    held = unconsumed.cost + sum(cost for _, cost in stream._receiver._held)
    assert held <= stream._receiver._window.arrived - stream._receiver._window.consumed, (
        "more is held than came"
    )
    assert stream.consumed_sequence + unconsumed.messages <= stream._receiver.arrivals.received


def _check_conversation(sender: Session, receiver: Session) -> None:
    """Hold what one side of a session knows against the other, in one direction."""
    assert receiver.received <= sender.flight.sent, "more packets came than were sent"
    assert sender.flight.acknowledged <= receiver.received, "acknowledged before it came"
    _check_credit(sender.lanes.singles._credit, receiver.lanes.singles._window)
    _check_acknowledged(sender.lanes.singles, receiver.lanes.singles)
    for stream_id, stream in sender.streams.items():
        other = receiver.streams.get(stream_id)
        if other is None or isinstance(stream, DatagramStream):
            continue
        _check_credit(stream._out.credit, other._receiver._window)
        assert other._receiver.arrivals.received <= stream._out.sent_sequence
        assert stream._receipts <= other._receiver.arrivals.received, "acknowledged before it came"
        assert stream._their_consumed <= other.consumed_sequence, "consumed before it was"


def _check_acknowledged(sender: Singles, receiver: Singles) -> None:
    assert sender._acknowledged <= receiver._arrivals.received <= sender._sent + (sender._cutter is not None)


def _check_credit(credit: SendCredit, window: ReceiveWindow) -> None:
    assert credit.limit <= window.limit, "more credit than was granted"
    assert window.arrived <= credit.used <= credit.limit, "more came than was paid for"
