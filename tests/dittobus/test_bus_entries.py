"""Single messages on their way to a delegate: whose turn it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Address, Message, Reliability, Unread
from dittobus import DispatchQueue, DittoBusDelegate, _bus_entries
from dittobus._bus_entries import PeersChanged, SingleMessages, Unseen
from dittobus._strand import Recipient, Strand, Unpark
from dittobus.peers import Peers

if TYPE_CHECKING:
    from dittobus import DittoBus

SENDER = Address(bytes(range(32)))


def message(data: bytes, received_at: float, reliability: Reliability = Reliability.UNRELIABLE) -> Message:
    return Message(SENDER, data, reliability, 0, received_at)


class Bus(Recipient, DittoBusDelegate):
    """A bus without a network, and its own delegate."""

    def __init__(self, bytes_max: int = 1000) -> None:
        super().__init__(is_open=True)
        self.delegate: DittoBusDelegate | None = self
        self.unread: Unread[Message] = Unread(bytes_max)
        self._unseen: Unseen | None = Unseen(self.unread)
        self.heard: list[bytes | str] = []
        self.consumed: list[bytes] = []
        self.queue = DispatchQueue.manual()
        self.strand = Strand(self.queue)

    def comes(
        self, data: bytes, received_at: float, reliability: Reliability = Reliability.UNRELIABLE
    ) -> None:
        one = message(data, received_at, reliability)
        if reliability is Reliability.RELIABLE:
            self.strand.append(self, SingleMessages(one))
        elif self.unread.put(one, len(data)):
            self.strand.append(self, SingleMessages())

    def somebody_joins(self) -> None:
        self.strand.append(self, PeersChanged(Peers([], [])))

    def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
        self.heard.append(message.data)

    def bus_did_update_peers(self, bus: DittoBus, peers: Peers) -> None:
        self.heard.append("peers")

    def _note_consumed(self, message: Message) -> None:
        self.consumed.append(message.data)


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    times = [0.0]
    monkeypatch.setattr(_bus_entries, "now", lambda: times[0])
    return times


def test_what_came_first_is_told_first_and_only_reliable_ones_are_consumed(bus: Bus) -> None:
    bus.comes(b"u1", 1.0)
    bus.comes(b"r2", 2.0, Reliability.RELIABLE)
    bus.comes(b"u3", 3.0)
    bus.comes(b"r4", 4.0, Reliability.RELIABLE)
    bus.queue.run_pending()
    assert bus.heard == [b"u1", b"r2", b"u3", b"r4"]
    assert bus.consumed == [b"r2", b"r4"]
    bus.comes(b"u5", 5.0)  # tells of itself, as all were taken
    bus.queue.run_pending()
    assert bus.heard[-1] == b"u5"


def test_reliable_ones_need_no_others(bus: Bus) -> None:
    bus._unseen = None
    bus.comes(b"r1", 1.0, Reliability.RELIABLE)
    bus.comes(b"r2", 2.0, Reliability.RELIABLE)
    bus.queue.run_pending()
    assert bus.heard == bus.consumed == [b"r1", b"r2"]


def test_a_message_does_not_come_before_the_news_of_its_sender(bus: Bus, clock: list[float]) -> None:
    bus.comes(b"u1", 1.0)
    clock[0] = 2.0
    bus.somebody_joins()
    bus.comes(b"u3", 3.0)  # told of by the entry before the news, which is not done yet
    clock[0] = 4.0
    bus.somebody_joins()
    bus.queue.run_pending()
    bus.queue.run_pending()  # what the first left
    assert bus.heard == [b"u1", "peers", b"u3"]
    bus.comes(b"u5", 5.0)
    bus.queue.run_pending()
    assert bus.heard[-1] == b"u5"


def test_what_is_not_taken_waits_where_the_oldest_gives_way(bus: Bus) -> None:
    bus.delegate = None
    for number in range(100):
        bus.comes(b"%100d" % number, float(number))
    bus.queue.run_pending()
    assert (len(bus.parked), len(bus.unread), bus.unread.dropped) == (1, 10, 90)
    bus.delegate = bus
    bus.strand.append(bus, Unpark())
    bus.queue.run_pending()
    assert [int(data) for data in bus.heard] == list(range(90, 100))


def test_others_on_the_queue_get_their_turn(bus: Bus) -> None:
    class Chatty(DittoBusDelegate):
        def bus_did_receive_single_message(self, _: Any, message: Message) -> None:
            bus.heard.append(message.data)
            if len(bus.heard) < 20:
                bus.comes(b"another", message.received_at + 1)

    bus.delegate = Chatty()
    other = Bus()
    bus.comes(b"u", 1.0)
    bus.strand.append(other, SingleMessages(message(b"r", 1.0, Reliability.RELIABLE)))
    bus.strand.run(until=math.inf)  # a busy machine must not end the slice
    assert other.heard == [b"r"]
    assert len(bus.heard) < 20
    bus.queue.run_pending()


def test_an_interrupted_callback_leaves_the_others(bus: Bus) -> None:
    class Interrupted(DittoBusDelegate):
        def bus_did_receive_single_message(self, _: Any, message: Message) -> None:
            bus.delegate = bus
            raise KeyboardInterrupt

    bus.delegate = Interrupted()
    for number in range(3):
        bus.comes(b"%d" % number, float(number))
    with pytest.raises(KeyboardInterrupt):
        bus.queue.run_pending()
    bus.queue.run_pending()
    assert bus.heard == [b"1", b"2"]
