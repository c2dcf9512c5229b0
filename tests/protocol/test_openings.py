"""Offers of our own: the oldest go out, as many as may wait; what ends before has never been."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.openings import Openings

if TYPE_CHECKING:
    from brokerless.protocol.stream import Stream


class Offered:
    """A stream, as far as this needs one."""

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id


class Offers:
    def __init__(self) -> None:
        self.out: list[tuple[int, list[bytes]]] = []
        self.openings = Openings(self._release)
        self._last = 0

    def _release(self, stream: Stream, frames: list[bytes]) -> None:
        assert stream.id not in self.openings
        self.out.append((stream.id, frames))

    def add(self) -> int:
        self._last += 2
        self.openings.add(Offered(self._last), b"OPEN %d" % self._last)  # type: ignore[arg-type]
        return self._last


def test_nothing_goes_out_before_the_limit_is_known() -> None:
    offers = Offers()
    first, second = offers.add(), offers.add()
    assert first in offers.openings
    assert offers.out == []
    offers.openings.allow(1)
    assert offers.out == [(first, [b"OPEN 2"])]
    assert first not in offers.openings
    assert second in offers.openings


def test_what_is_held_goes_out_with_what_was_said_since_when_another_is_over() -> None:
    offers = Offers()
    offers.openings.allow(1)
    first, second, third = offers.add(), offers.add(), offers.add()
    offers.openings.hold(second, b"CLOSE")
    offers.openings.over(first)
    offers.openings.over(first)
    assert offers.out[1:] == [(second, [b"OPEN 4", b"CLOSE"])]
    offers.openings.over(second)
    assert offers.out[2:] == [(third, [b"OPEN 6"])]


def test_what_ends_before_it_went_out_has_never_been() -> None:
    offers = Offers()
    offers.openings.allow(1)
    first, second, third = offers.add(), offers.add(), offers.add()
    offers.openings.over(second)
    offers.openings.over(first)
    assert [stream_id for stream_id, _ in offers.out] == [first, third]


@given(st.integers(1, 3), st.lists(st.none() | st.integers(0, 9), max_size=40))
def test_never_too_many_and_never_fewer_than_may_be(places: int, steps: list[int | None]) -> None:
    offers = Offers()
    offers.openings.allow(places)
    present: list[int] = []
    for step in steps:
        if step is None:
            present.append(offers.add())
        elif present:
            offers.openings.over(present.pop(step % len(present)))
        out = {stream_id for stream_id, _ in offers.out}
        assert [stream_id in out for stream_id in present] == [True] * min(places, len(present)) + [False] * (
            len(present) - places
        )
    assert [stream_id for stream_id, _ in offers.out] == sorted(stream_id for stream_id, _ in offers.out)
