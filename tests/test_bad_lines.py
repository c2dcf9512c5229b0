"""A reliable stream between two buses on a bad line: all of it arrives, in order, once."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING

import pytest

from dittobus.testing import Kit
from tests.soak import SOAK, amount, only_in_soak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dittobus.testing import Chaos

MB = 1_000_000
PIECE_BYTES = 10_000
HURRY_S = 3_600 if SOAK else 60
"""What a transfer may take at most, on a busy machine."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(HURRY_S + 20)]


@pytest.fixture(params=range(1, amount(1, 4) + 1))
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    with Kit(seed=request.param) as kit:
        yield kit


def transfer(kit: Kit, size: int, disturb: Callable[[Chaos], None]) -> Chaos:
    """Send so many bytes in numbered messages, on a line that is disturbed from the first on."""
    chaos = kit.chaos()
    near, far = kit.bus("near", **chaos.near), kit.bus("far", **chaos.far)
    peer = near.wait_for_peer("far", timeout=30)
    offering = near.open_stream
    data = kit.random.randbytes(size)
    pieces = [data[start : start + PIECE_BYTES] for start in range(0, size, PIECE_BYTES)]

    def send() -> None:
        stream = offering(peer, timeout=None)
        for number, piece in enumerate(pieces):
            stream.send(number.to_bytes(4) + piece)
        stream.finish()
        stream.close(timeout=HURRY_S)

    sending = threading.Thread(target=send, daemon=True)
    begun = time.monotonic()
    disturb(chaos)
    sending.start()
    stream = far.receive_offer(timeout=HURRY_S).accept()
    received, sum_of_all = 0, hashlib.sha256()
    for message in stream:
        assert int.from_bytes(message[:4]) == received, chaos.report()
        received += 1
        sum_of_all.update(message[4:])
    took_s = time.monotonic() - begun
    assert sum_of_all.digest() == hashlib.sha256(data).digest(), chaos.report()
    stream.finish()
    sending.join(HURRY_S)
    stream.close()
    chaos.heal()
    print(f"{size / MB:g} MB in {took_s:.1f} s, {share_lost(chaos, size):.0%} lost; {chaos.report()}")
    return chaos


def share_lost(chaos: Chaos, size: int) -> float:
    """Of the bytes that connections carried upstream, those that died with them and had to be sent again."""
    return 1 - size / chaos.upstream.tcp_bytes


def test_while_bytes_are_lost_with_their_connections(kit: Kit) -> None:
    chaos = transfer(kit, 2 * MB, lambda chaos: chaos.set(tcp_loss=0.01))
    assert share_lost(chaos, 2 * MB) > 0.02


def test_while_the_line_is_on_for_5_s_and_off_for_2(kit: Kit) -> None:
    def disturb(chaos: Chaos) -> None:
        chaos.upstream.rate_bytes_s = 1.9 * MB  # so that 10 MB do not get through before it goes off
        chaos.flap(5, 2)

    chaos = transfer(kit, amount(10, 100) * MB, disturb)
    assert chaos.resets > 0


@only_in_soak
@pytest.mark.parametrize("tcp_loss", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("round_trip_s", [0.0, 0.2])
def test_while_far_more_is_lost_also_over_a_distance(kit: Kit, tcp_loss: float, round_trip_s: float) -> None:
    """At 0.02 half of what connections carry is lost, at 0.05 three quarters, since packets are large."""
    chaos = transfer(kit, 2 * MB, lambda chaos: chaos.set(tcp_loss=tcp_loss, latency_s=round_trip_s / 2))
    assert share_lost(chaos, 2 * MB) > (0.02 if tcp_loss < 0.02 else 0.2)


@only_in_soak
def test_while_a_cable_is_pulled_again_and_again(kit: Kit) -> None:
    def disturb(chaos: Chaos) -> None:
        chaos.upstream.rate_bytes_s = 5 * MB
        chaos.flap(5, 2, refuses=False)

    transfer(kit, 100 * MB, disturb)
