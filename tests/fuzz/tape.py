"""A fuzz input read as a tape of steps, for targets that have a state.

Each step is an operation (u8), the length of its payload (u16) and the payload; what is cut off at the end
counts as it is. So every input means something, and a step that is cut out leaves the others as they were.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STEPS_MAX = 200
"""Steps of one input that are taken: more of them would only make an engine slow."""

_STEP = struct.Struct("!BH")


class Step(NamedTuple):
    """One step of a tape."""

    operation: int
    payload: bytes

    @property
    def number(self) -> int:
        """The first byte of the payload, for operations that take a small number."""
        return self.payload[0] if self.payload else 0


def steps(data: bytes) -> Iterator[Step]:
    """Yield the steps of an input."""
    position = 0
    for _ in range(STEPS_MAX):
        if len(data) - position < _STEP.size:
            return
        operation, length = _STEP.unpack_from(data, position)
        position += _STEP.size
        yield Step(operation, data[position : position + length])
        position += length


def tape(made: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the input that reads as these steps."""
    return b"".join(_STEP.pack(operation, len(payload)) + payload for operation, payload in made)
