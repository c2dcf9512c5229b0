"""What the datagrams of all sessions share: whose each is, and what is nobody's."""

from __future__ import annotations

import pytest

from brokerless.address import Address
from brokerless.model import DropCause, Traffic
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.datagram import PREFIX, SEALED_BYTES_MAX, SEALED_BYTES_MIN
from brokerless.protocol.datagram_plane import SINGLES_BYTES_MAX, DatagramPlane
from brokerless.protocol.paths import UdpPlace

PLACE = UdpPlace("127.0.0.1", 5)


class Reader:
    """A session's datagrams that only writes down what it is given."""

    def __init__(self) -> None:
        self.remote = Address(bytes(32))
        self.given: list[tuple[int, int, bytes, UdpPlace | None, float]] = []

    def receive(self, index: int, counter: int, sealed: bytes, place: UdpPlace | None, now: float) -> None:
        self.given.append((index, counter, sealed, place, now))


def sealed(index: int, counter: int = 9, size: int = SEALED_BYTES_MIN) -> bytes:
    """Return what looks like a datagram from outside."""
    start = b"\x01" + index.to_bytes(8, "big") + counter.to_bytes(8, "big")
    return start + bytes(size - len(start))


def test_a_datagram_goes_to_whoever_drew_its_index_by_either_way() -> None:
    plane = DatagramPlane()
    one, other = Reader(), Reader()
    plane.readers = {1: one, 2**64 - 1: other}
    first, second = sealed(1), sealed(2**64 - 1, 2**64 - 1, SEALED_BYTES_MAX)
    plane.udp_received(PLACE, PREFIX + first, 3.0)
    plane.received(second, None, 4.0)
    assert one.given == [(1, 9, first, PLACE, 3.0)]
    assert other.given == [(2**64 - 1, 2**64 - 1, second, None, 4.0)]
    assert plane.dropped == {}


@pytest.mark.parametrize(
    ("datagram", "cause"),
    [
        (b"", DropCause.MALFORMED),
        (b"GET / HTTP/1.0\r\n\r\n", DropCause.MALFORMED),
        (b"\x02dc" + sealed(1), DropCause.MALFORMED),
        (PREFIX, DropCause.MALFORMED),
        (PREFIX + sealed(1)[:-1], DropCause.MALFORMED),
        (PREFIX + sealed(1, size=SEALED_BYTES_MAX + 1), DropCause.MALFORMED),
        (PREFIX + b"\x02" + sealed(1)[1:], DropCause.MALFORMED),
        (PREFIX + sealed(2), DropCause.UNAUTHENTICATED),
        (PREFIX + sealed(0), DropCause.UNAUTHENTICATED),
    ],
)
def test_what_is_nobodys_is_counted_and_no_more(datagram: bytes, cause: DropCause) -> None:
    plane = DatagramPlane()
    reader = plane.readers[1] = Reader()
    for number in (1, 2):
        plane.udp_received(PLACE, datagram, 3.0)
        assert plane.dropped == {cause: number}
    assert reader.given == []


@pytest.mark.parametrize("data", [b"", b"\x01", PREFIX + sealed(1)[:-1], sealed(2)])
def test_and_the_same_by_push(data: bytes) -> None:
    plane = DatagramPlane()
    reader = plane.readers[1] = Reader()
    plane.received(data, None, 3.0)
    assert sum(plane.dropped.values()) == 1
    assert reader.given == []


def test_what_waits_for_the_application_is_bounded() -> None:
    for plane, bytes_max in ((DatagramPlane(), SINGLES_BYTES_MAX), (DatagramPlane(None, 10_000), 10_000)):
        for _ in range(2 * bytes_max // 1000):
            plane.unread.put(object(), 1000)  # type: ignore[arg-type]
        assert plane.unread.byte_count <= bytes_max
        assert plane.unread.dropped > 0


def test_it_tells_what_waits_for_the_application() -> None:
    plane = DatagramPlane()
    assert plane.traffic() == Traffic()
    for size in (0, 100):
        plane.unread.put(object(), size + MESSAGE_COST_BYTES)  # type: ignore[arg-type]
    assert plane.traffic() == Traffic(unconsumed_messages=2, unconsumed_bytes=100)
