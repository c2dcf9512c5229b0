"""Inputs made of others by chance, the same for the same seed: what the tests run after the corpus."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INTERESTING = [
    bytes.fromhex(text)
    for text in (
        *("00", "01", "7f", "80", "ff", "0000", "ffff", "7fffffff", "80000000", "ffffffff"),
        *("3fffffffffffffff", "4000000000000000", "7fffffffffffffff", "ffffffffffffffff"),
        # msgpack: containers, byte strings and texts that declare much; numbers; nil, unused, a float.
        *("90", "91", "80", "81", "dcffff", "ddffffffff", "deffff", "dfffffffff", "c4ff", "c5ffff"),
        *("c6ffffffff", "d9ff", "dbffffffff", "c7ff01", "cfffffffffffffffff", "d3ffffffffffffffff"),
        *("c0", "c1", "c3", "cb7ff8000000000000"),
    )
]
"""Bytes at which readers have their edges."""


def inputs(seed: str, samples: Sequence[bytes], count: int, bytes_max: int) -> Iterator[bytes]:
    """Yield that many inputs: mostly samples with a few things wrong, some of them random bytes."""
    chance = random.Random(seed)
    for number in range(count):
        if number % 10 == 0:
            yield chance.randbytes(chance.randrange(200))
            continue
        data = bytearray(chance.choice(samples))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            _mutate(chance, data, samples)
        yield bytes(data[:bytes_max])


def _mutate(chance: random.Random, data: bytearray, samples: Sequence[bytes]) -> None:
    place = chance.randrange(len(data) + 1)
    end = min(len(data), place + chance.choice((1, 2, 4, 8, 32, 1000)))
    match chance.randrange(8):
        case 0 if place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        case 1 if place < len(data):
            data[place] = (data[place] + chance.choice((-1, 1, 16, 128))) % 256
        case 2:
            special = chance.choice(INTERESTING)
            data[place : place + len(special)] = special
        case 3:
            data[place:place] = chance.choice(INTERESTING)
        case 4:
            del data[place:end]
        case 5:
            data[place:place] = data[place:end] * chance.randrange(1, 4)
        case 6:
            other = chance.choice(samples)
            data[place:] = other[chance.randrange(len(other) + 1) :]
        case _:
            data[place:end] = chance.randbytes(end - place)
