"""Whatever breaks a rule of credit or memory within a core is found out at the next turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from brokerless.testing.scenario import SMALL
from brokerless.testing.sim_invariants import check_node, check_rest
from brokerless.testing.simulation import SimNetwork, SimNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.protocol.session import Session


class Talk:
    """Two nodes in the middle of a conversation, with messages unread at the receiver."""

    def __init__(self) -> None:
        self.network = SimNetwork(1)
        self.one, self.other = self.network.pair(SMALL, has_datagrams=True)
        self.other.consumes = False
        self.stream = self.one.open_stream(self.other, "talk")
        for _ in range(20):
            self.stream.send(bytes(1_000))
            self.one.send(bytes(100), self.other)
        self.network.run(1.0)
        self.session = self._session(self.one, self.other)
        self.their_session = self._session(self.other, self.one)
        (self.their_stream,) = self.their_session.streams.values()

    @staticmethod
    def _session(node: SimNode, other: SimNode) -> Session:
        session = node.core.session(other.address)
        assert session is not None
        return session

    def check(self) -> None:
        for node in (self.one, self.other):
            check_node(node)


def grown(target: Callable[[Talk], Any], attribute: str) -> Callable[[Talk], None]:
    def grow(talk: Talk) -> None:
        thing = target(talk)
        setattr(thing, attribute, getattr(thing, attribute) + 10_000_000)

    return grow


BREACHES: dict[str, Callable[[Talk], None]] = {
    "credit from nowhere": grown(lambda talk: talk.stream._out.credit, "limit"),
    "sent beyond the credit": grown(lambda talk: talk.stream._out.credit, "used"),
    "granted and not set aside": grown(lambda talk: talk.their_stream._receiver._window, "limit"),
    "more than was granted": grown(lambda talk: talk.their_stream._receiver._window, "arrived"),
    "consumed more than came": grown(lambda talk: talk.their_stream._receiver._window, "consumed"),
    "a window without memory": grown(lambda talk: talk.their_stream._receiver._window, "window"),
    "memory for nobody": grown(lambda talk: talk.their_session.lanes._budget, "reserved"),
    "memory of nobody's": grown(lambda talk: talk.other.core._budget, "reserved"),
    "held and not counted": grown(lambda talk: talk.their_stream._receiver.unconsumed, "cost"),
    "a queue too long": grown(lambda talk: talk.stream._out, "queued_cost"),
    "receipts of nothing": grown(lambda talk: talk.stream, "_receipts"),
    "too much in flight": grown(lambda talk: talk.session.flight, "byte_count"),
    "acknowledged and not received": grown(lambda talk: talk.session.flight, "acknowledged"),
    "received and not sent": grown(lambda talk: talk.their_session, "received"),
    "consumed there before it was": grown(lambda talk: talk.stream, "_their_consumed"),
    "singles sent beyond the credit": grown(lambda talk: talk.session.lanes.singles._credit, "used"),
    "singles credit from nowhere": grown(lambda talk: talk.session.lanes.singles._credit, "limit"),
    "singles acknowledged and not received": grown(lambda talk: talk.session.lanes.singles, "_acknowledged"),
    "held back too much": grown(lambda talk: talk.session, "_held_bytes"),
    "fragments without bound": grown(lambda talk: talk.session.datagrams._reassembly, "byte_count"),
}


def test_an_honest_conversation_breaks_no_rule() -> None:
    talk = Talk()
    talk.check()
    with pytest.raises(AssertionError):
        check_rest(talk.other)  # it has unread messages


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_found_out(breach: str) -> None:
    talk = Talk()
    talk.check()
    BREACHES[breach](talk)
    with pytest.raises(AssertionError):
        talk.check()


def test_a_rest_is_one_with_nothing_left_over() -> None:
    network = SimNetwork(2)
    one, other = network.pair(SMALL, has_datagrams=True)
    stream = one.open_stream(other, "talk")
    one.send(bytes(50_000), other)
    network.run(1.0)
    with pytest.raises(AssertionError):
        check_rest(one)  # a stream is open
    stream.finish()
    (their_stream,) = other.core.sessions[0].streams.values()
    their_stream.finish()
    network.run(3.0)
    check_rest(one)
    check_rest(other)
