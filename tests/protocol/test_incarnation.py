"""Which process of an identity is the later one, and that nobody else can say so."""

from __future__ import annotations

import pytest

from brokerless.protocol.incarnation import Incarnation
from brokerless.protocol.wire import CLAIM_BYTES

SECRET = b"\x01" * 32
US = Incarnation(SECRET, boot=5, began_us=1000)


@pytest.mark.parametrize(
    ("began_us", "boot", "is_later"),
    [(1001, 1, True), (1000, 6, True), (1000, 5, False), (1000, 4, False), (999, 9, False)],
    ids=["later", "at once, by boot", "ourselves", "at once, the other by boot", "earlier"],
)
def test_the_later_one_supersedes(began_us: int, boot: int, is_later: bool) -> None:
    other = Incarnation(SECRET, boot, began_us)
    assert US.is_superseded_by(other.claim) is is_later
    # So of two that are told of each other one closes, and one alone.
    assert other.is_superseded_by(US.claim) is (not is_later and boot != US.boot)


def test_without_the_secret_there_is_no_claim() -> None:
    assert not US.is_superseded_by(Incarnation(b"\x02" * 32, boot=5, began_us=2000).claim)


def test_every_bit_of_a_claim_counts() -> None:
    claim = Incarnation(SECRET, boot=5, began_us=2000).claim
    assert len(claim) == CLAIM_BYTES
    for bit in range(8 * len(claim)):
        changed = bytearray(claim)
        changed[bit // 8] ^= 1 << bit % 8
        assert not US.is_superseded_by(bytes(changed))


@pytest.mark.parametrize("length", [0, 8, 16, 47, 49])
def test_what_is_no_claim_proves_nothing(length: int) -> None:
    claim = Incarnation(SECRET, boot=5, began_us=2000).claim + b"\0"
    assert not US.is_superseded_by(claim[:length])
