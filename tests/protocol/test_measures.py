"""Loss over a window that slides, jitter as RFC 3550 defines it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.protocol.datagram import STAMP_MODULUS
from brokerless.protocol.measures import SAMPLE_INTERVAL_S, WINDOW_S, Reception

# Loss


@pytest.mark.parametrize(
    ("counts", "loss"),
    [
        pytest.param([], None, id="nothing known"),
        pytest.param([(0, 0, 0)], None, id="nothing sent"),
        pytest.param([(0, 8, 8)], 0.0, id="all came"),
        pytest.param([(0, 5, 10)], 0.5, id="since the session began"),
        pytest.param([(0, 5, 10), (1, 15, 20)], 0.25, id="within the window, all counts"),
        pytest.param([(0, 5, 10), (11, 15, 20)], 0.0, id="what is older than the window is forgotten"),
        pytest.param([(0, 5, 10), (5, 5, 20), (11, 15, 30)], 0.5, id="only what is older"),
        pytest.param([(0, 5, 10), (11, 5, 20)], 1.0, id="none came"),
        pytest.param([(0, 5, 10), (11, 5, 10)], 0.5, id="nothing sent since: the last that is known"),
        pytest.param([(0, 5, 10), (11, 20, 20)], 0.0, id="latecomers make no negative loss"),
        pytest.param(
            [(0, 8, 10), (0.1, 7, 9), (0.2, 8, 9), (0.3, 7, 10)], 0.2, id="older counts are ignored"
        ),
        pytest.param([(0, 8, 10), (11, 9, 20), (11.1, 8, 10)], 0.9, id="older ones than the window too"),
    ],
)
def test_loss(counts: list[tuple[float, int, int]], loss: float | None) -> None:
    reception = Reception()
    for now, received, highest in counts:
        reception.counted(received, highest, 100.0 + now)
    assert reception.loss == (loss if loss is None else pytest.approx(loss))


def test_loss_follows_a_change_within_the_window_and_remembers_few_counts() -> None:
    reception = Reception()
    received = highest = 0
    for step in range(5_000):
        highest += 10
        received += 10 if step < 2_500 else 8
        reception.counted(received, highest, step * 0.01)
        assert len(reception._counts) <= WINDOW_S / SAMPLE_INTERVAL_S + 2
        if step == 2_499:
            assert reception.loss == 0.0
    assert reception.loss == pytest.approx(0.2)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 2**64), st.integers(0, 2**64))))
def test_loss_is_a_share_whatever_the_peer_counts(counts: list[tuple[float, int, int]]) -> None:
    reception = Reception()
    now = 0.0
    for pause, received, highest in counts:
        now += pause
        reception.counted(received, highest, now)
        assert reception.loss is None or 0.0 <= reception.loss <= 1.0


# Jitter


def jitter_of(arrivals: list[tuple[int, int]], *, clock_us: int = 0) -> float | None:
    """Let datagrams arrive, each stamped and taken at so many microseconds; their clock is off by so many."""
    reception = Reception()
    for sent_us, taken_us in arrivals:
        reception.arrived((sent_us + clock_us) % STAMP_MODULUS, taken_us / 1e6)
    return reception.jitter_s


@pytest.mark.parametrize("clock_us", [0, 1, 2**31, STAMP_MODULUS - 25_000, STAMP_MODULUS - 1])
@pytest.mark.parametrize(
    ("arrivals", "jitter_us"),
    [
        pytest.param([], None, id="none"),
        pytest.param([(0, 500)], None, id="one makes no difference"),
        pytest.param([(0, 500), (20_000, 20_500), (40_000, 40_500)], 0.0, id="even"),
        pytest.param([(0, 500), (20_000, 21_300)], 50.0, id="800 microseconds later, a sixteenth"),
        pytest.param([(0, 1_300), (20_000, 20_500)], 50.0, id="earlier counts alike"),
        pytest.param([(0, 500), (20_000, 21_300), (40_000, 41_300)], 50 * 15 / 16, id="it fades"),
        pytest.param([(20_000, 20_500), (0, 21_300)], 20_800 / 16, id="overtaken"),
    ],
)
def test_jitter(arrivals: list[tuple[int, int]], jitter_us: float | None, clock_us: int) -> None:
    expected = None if jitter_us is None else pytest.approx(jitter_us / 1e6)
    assert jitter_of(arrivals, clock_us=clock_us) == expected


def test_jitter_does_not_notice_when_the_stamps_start_over() -> None:
    hours = [(us, us + 700) for us in range(0, 3 * STAMP_MODULUS, STAMP_MODULUS // 7)]
    assert jitter_of(hours) == pytest.approx(0.0)


def test_jitter_approaches_the_mean_difference() -> None:
    alternating = [(n * 20_000, n * 20_000 + 1_000 * (n % 2)) for n in range(500)]
    assert jitter_of(alternating) == pytest.approx(0.001, rel=0.01)


# Delay


def test_how_much_longer_a_datagram_was_under_way_than_the_last() -> None:
    reception = Reception()
    assert reception.delay_s(5, 100.0) == 0.0
    reception.arrived(7_000_000, 100.0)
    assert reception.delay_s(7_000_000, 103.0) == pytest.approx(3.0)
    assert reception.delay_s(10_000_000, 103.0) == pytest.approx(0.0)
    assert reception.delay_s(10_500_000, 103.0) == pytest.approx(-0.5)
    reception.arrived(STAMP_MODULUS - 1, 200.0)
    assert reception.delay_s(999_999, 201.5) == pytest.approx(0.5)
