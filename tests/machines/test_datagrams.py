"""The receiver of datagrams against sets and dictionaries that forget nothing before its time.

The machine is a peer with a key, a forger without one, and a network that delays, doubles and drops. What it
seals it seals itself, by the layout in ``docs/wire.md``.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from brokerless.config import Limits
from brokerless.model import DropCause
from tests.machines import as_test
from tests.protocol.datagram_ends import ELSEWHERE, DatagramEnd
from tests.soak import amount

WINDOW = 8_128
KEYS_KEPT = 8
FRAGMENT_BYTES = 1_137
TIMEOUT_S = 1.0
KEY_FORGOTTEN_S = 10.0
PREFIX = b"\x02db"
LIMITS = Limits()
FORGERIES = amount(2_000, 1_000_000)


@dataclass
class Key:
    """A key that was told, and what came under it."""

    index: int
    secret: bytes
    came: set[int] = field(default_factory=set)
    left_at: float | None = None

    @property
    def highest(self) -> int:
        return max(self.came, default=0)

    def seal(self, counter: int, plain: bytes) -> bytes:
        head = struct.pack("!BQQ", 1, self.index, counter)
        nonce = bytes(4) + struct.pack("!Q", counter)
        return PREFIX + head + ChaCha20Poly1305(self.secret).encrypt(nonce, plain, head)


@dataclass
class Partial:
    """A message of which some fragments came."""

    head: tuple[int, int, int]
    since: float
    pieces: dict[int, bytes] = field(default_factory=dict)


def fragment(
    kind: int, channel: int, number: int, place: int, count: int, payload: bytes, stream: int = 0
) -> bytes:
    return struct.pack("!BIQIQBB", kind, 0, stream, channel, number, place, count) + payload


def piece(number: int, place: int, count: int) -> bytes:
    """Return what that fragment of that message has for a payload."""
    size = FRAGMENT_BYTES if place < count - 1 else 1 + number % FRAGMENT_BYTES
    return bytes([number % 256, place]) * (size // 2) + bytes(size % 2)


class Model:
    """What must come of a datagram."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.in_use: Key | None = None
        self.newest: dict[int, int] = {}
        self.partials: dict[int, Partial] = {}
        self.given_up: set[int] = set()
        self.delivered: list[bytes] = []
        self.dropped: Counter[DropCause] = Counter()

    def told(self, key: Key) -> None:
        """The oldest key gives way to a ninth, but never the one in use."""
        self.keys.append(key)
        if len(self.keys) > KEYS_KEPT:
            self.keys.remove(next(old for old in self.keys if old is not self.in_use))

    def expire(self, now: float) -> None:
        for number, partial in list(self.partials.items()):
            if partial.since + TIMEOUT_S <= now:
                self.give_up(number)
        self.keys = [key for key in self.keys if key.left_at is None or now < key.left_at + KEY_FORGOTTEN_S]

    def give_up(self, number: int) -> None:
        del self.partials[number]
        self.given_up.add(number)
        self.dropped[DropCause.INCOMPLETE] += 1

    def take(self, key: Key, counter: int, plain: bytes, now: float, is_forged: bool) -> None:
        if key not in self.keys:
            self.dropped[DropCause.UNAUTHENTICATED] += 1
        elif counter in self.came(key) or counter <= key.highest - WINDOW:
            self.dropped[DropCause.DUPLICATE] += 1
        elif is_forged:
            self.dropped[DropCause.UNAUTHENTICATED] += 1
        else:
            key.came.add(counter)
            if key is not self.in_use:
                if self.in_use is not None:
                    self.in_use.left_at = now
                self.in_use, key.left_at = key, None
            self.read(plain, now)

    def came(self, key: Key) -> set[int]:
        return key.came | {0}

    def read(self, plain: bytes, now: float) -> None:
        kind, _, stream, channel, number, place, count = struct.unpack_from("!BIQIQBB", plain)
        payload = plain[27:]
        if number == 0 or place >= count or count > 64 or (stream and channel):
            self.dropped[DropCause.MALFORMED] += 1
        elif stream:
            self.dropped[DropCause.STALE] += 1
        elif count == 1:
            self.deliver(kind, channel, number, payload)
        elif number not in self.given_up:
            self.join(kind, channel, number, place, count, payload, now)

    def join(
        self, kind: int, channel: int, number: int, place: int, count: int, payload: bytes, now: float
    ) -> None:
        partial = self.partials.setdefault(number, Partial((kind, channel, count), now))
        if partial.head != (kind, channel, count):
            self.give_up(number)
            return
        partial.pieces.setdefault(place, payload)
        if len(partial.pieces) == count:
            del self.partials[number]
            self.deliver(kind, channel, number, b"".join(partial.pieces[at] for at in range(count)))

    def deliver(self, kind: int, channel: int, number: int, data: bytes) -> None:
        if kind == 2:
            if number <= self.newest.get(channel, 0):
                self.dropped[DropCause.LATE] += 1
                return
            self.newest[channel] = number
        self.delivered.append(data)


AHEAD = [1, 1, 1, 1, 2, 63, 64, 65, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + 64, 2**32, 2**60]
BACK = [0, 1, 2, 63, 64, 65, WINDOW - 1, WINDOW, WINDOW + 1, 2**32]
MOVES = st.sampled_from([*AHEAD, *(-back for back in BACK)])
"""From the highest counter that came."""


class DatagramsAtLarge(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.end = DatagramEnd(2, LIMITS)
        self.model = Model()
        self.all_keys: list[Key] = []
        self.sent: list[tuple[Key, int, bytes, bytes]] = []
        self.taken: list[bytes] = []
        self.tell_key()

    @property
    def now(self) -> float:
        return self.end.port.time

    def arrive(
        self, key: Key, counter: int, plain: bytes, datagram: bytes, *, is_forged: bool = False
    ) -> None:
        self.end.take(datagram, ELSEWHERE)
        self.model.take(key, counter, plain, self.now, is_forged)

    def seal(self, key: Key, counter: int, plain: bytes) -> None:
        if 0 <= counter < 2**64:
            self.sent.append((key, counter, plain, key.seal(counter, plain)))
            self.arrive(*self.sent[-1])

    @rule()
    def tell_key(self) -> None:
        info = self.end.info()
        key = Key(info.datagram_index, info.datagram_key)
        self.all_keys.append(key)
        self.model.told(key)

    @rule(
        which=st.integers(0, 3),
        moves=st.lists(MOVES, min_size=1, max_size=6),
        kind=st.sampled_from([1, 2]),
        channel=st.integers(0, 2),
        number=st.integers(0, 40),
    )
    def send(self, which: int, moves: list[int], kind: int, channel: int, number: int) -> None:
        """Small messages under the next counter, one far ahead, or one that others have overtaken."""
        key = self.all_keys[-1 - which % len(self.all_keys)]
        for move in moves:
            plain = fragment(kind, channel, number, 0, 1, b"%d" % len(self.sent))
            self.seal(key, key.highest + move, plain)
            number += 1

    @rule(
        kind=st.sampled_from([1, 1, 1, 2]),
        number=st.integers(41, 44),
        places=st.lists(st.integers(0, 3), min_size=1, max_size=6),
        count=st.sampled_from([2, 3, 3, 3, 4]),
    )
    def send_pieces(self, kind: int, number: int, places: list[int], count: int) -> None:
        """Fragments of a larger message, in any order; they may contradict others of its number."""
        for place in places:
            key = self.all_keys[-1]
            plain = fragment(kind, 0, number, place % count, count, piece(number, place % count, count))
            self.seal(key, key.highest + 1, plain)

    @rule(stream=st.sampled_from([2, 3, 2**62 - 1]), channel=st.integers(0, 1), place=st.integers(0, 1))
    def send_nonsense(self, stream: int, channel: int, place: int) -> None:
        """Of a stream that is not open, or out of range."""
        key = self.all_keys[-1]
        self.seal(key, key.highest + 1, fragment(1, channel, 7, place, 1, b"", stream))

    @rule(which=st.integers(0, 2**32))
    def replay(self, which: int) -> None:
        if self.sent:
            self.arrive(*self.sent[which % len(self.sent)])

    @rule(which=st.integers(0, 2**32), bit=st.integers(0, 2**32))
    def forge(self, which: int, bit: int) -> None:
        """Change one bit that is not of the framing, the version or the index: those are looked at first."""
        if self.sent:
            key, counter, plain, datagram = self.sent[which % len(self.sent)]
            bit = 8 * 12 + bit % (8 * (len(datagram) - 12))
            forged = bytearray(datagram)
            forged[bit // 8] ^= 1 << (7 - bit % 8)
            if bit < 8 * 20:
                counter ^= 1 << (8 * 20 - 1 - bit)
            self.arrive(key, counter, plain, bytes(forged), is_forged=True)

    @rule(seconds=st.sampled_from([0.1, 0.5, 0.999, 1.0, 3.0, 9.0]))
    def pass_time(self, seconds: float) -> None:
        self.end.port.time += seconds
        self.end.datagrams.expire(self.now)
        self.model.expire(self.now)

    @invariant()
    def delivered_and_dropped_as_the_model_says(self) -> None:
        self.taken += self.end.data()
        assert self.taken == self.model.delivered
        assert self.end.dropped + Counter(self.end.plane.dropped) == self.model.dropped

    @invariant()
    def only_what_waits_takes_memory(self) -> None:
        reassembly = self.end.datagrams._reassembly
        assert len(reassembly) == len(self.model.partials)
        assert bool(reassembly.byte_count) == bool(self.model.partials)
        assert self.end.plane.readers.keys() == {key.index for key in self.model.keys}


TestDatagramsAtLarge = as_test(DatagramsAtLarge)


@pytest.mark.soak
@pytest.mark.timeout(amount(60, 7_200))
def test_random_forgeries_and_replays_change_nothing() -> None:
    """As many as a forger likes: changed anywhere, cut, grown, made of two, or simply sent again."""
    chance = random.Random("forger")
    end = DatagramEnd(2, LIMITS)
    info = end.info()
    key = Key(info.datagram_index, info.datagram_key)
    samples = [key.seal(counter, fragment(2, 0, counter, 0, 1, b"m" * counter)) for counter in range(1, 50)]
    for sample in samples[::2]:  # of the others it knows the bytes, too: they were lost on the way to us
        end.take(sample, ELSEWHERE)
    assert len(end.data()) == 25
    seen = set(samples[::2])
    for _ in range(FORGERIES):
        forged = bytearray(chance.choice(samples))
        match chance.randrange(5):
            case 0:
                forged[chance.randrange(len(forged))] ^= 1 << chance.randrange(8)
            case 1:
                for _ in range(chance.randrange(1, 20)):
                    forged[chance.randrange(len(forged))] = chance.randrange(256)
            case 2:
                forged[chance.randrange(len(forged)) :] = chance.choice(samples)[chance.randrange(100) :]
            case 3:
                forged[12:20] = struct.pack(
                    "!Q", chance.choice([0, 1, 2**63, 2**64 - 1, chance.getrandbits(64)])
                )
            case _:
                forged = bytearray(chance.choice(samples[::2]))
        if bytes(forged) in samples and bytes(forged) not in seen:
            continue  # it came out whole: that is no forgery
        end.take(bytes(forged), ELSEWHERE)
    assert end.data() == []
    assert (end.port.udp, end.told) == ([], [])
    dropped = Counter(end.dropped) + Counter(end.plane.dropped)
    assert dropped.keys() == {DropCause.MALFORMED, DropCause.UNAUTHENTICATED, DropCause.DUPLICATE}
    for sample in samples[::2]:
        end.take(sample, ELSEWHERE)
    assert end.data() == []
    end.take(key.seal(50, fragment(2, 0, 50, 0, 1, b"true")), ELSEWHERE)
    assert end.data() == [b"true"], "nothing has moved the window"
