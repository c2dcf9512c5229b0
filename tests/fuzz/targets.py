"""What is fuzzed: functions that take any bytes, raise nothing, and take bounded memory.

They know no engine. ``run`` is what an engine, a test or a replay calls: the target, and the bound of what it
may allocate, measured where ``tracemalloc`` is on.
"""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz import codecs, conversations, node, records

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS = Path(__file__).parent / "corpus"
"""Inputs that are kept: a directory for each target. ``make_corpus`` writes most of them."""

KIB = 1024


@dataclass(frozen=True)
class Target:
    """One function to fuzz.

    It may have ``base_bytes`` allocated at any time, and ``factor`` more for each byte of the input, but
    never more than ``most_bytes``.
    """

    name: str
    call: Callable[[bytes], None]
    input_bytes_max: int
    """Longer ones are cut: an engine should not spend its time on what is refused for its length."""
    base_bytes: int = 128 * KIB
    factor: int = 80
    """A one-element array within an array takes 64 bytes for one, an empty map as much."""
    most_bytes: int = 2 * KIB * KIB

    def run(self, data: bytes) -> None:
        """Run the target. Raises whatever it should not, ``AssertionError`` for too much memory."""
        if not tracemalloc.is_tracing():
            self.call(data)
            return
        allowed = min(self.base_bytes + self.factor * len(data), self.most_bytes)
        taken = self._taken_by(data)
        if taken > allowed:  # once more: what is made once and kept, as by an import, is none of the input's
            taken = self._taken_by(data)
        assert taken <= allowed, f"{taken} bytes taken for an input of {len(data)}, {allowed} allowed"

    def _taken_by(self, data: bytes) -> int:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        self.call(data)
        return tracemalloc.get_traced_memory()[1] - before


TARGETS = {
    target.name: target
    for target in (
        # One byte above what a reader takes, where that is within an engine's reach.
        Target("packet", codecs.packet, 73_729, base_bytes=384 * KIB),  # of which msgpack packs in 256
        Target("greeting", codecs.greeting, 4_097, factor=16),
        Target("datagram", codecs.datagram, 1_201, factor=16),
        Target("ticket", codecs.ticket, 4_096, base_bytes=256 * KIB),
        Target("record", records.record, 1_025, base_bytes=256 * KIB),
        Target("multicast", records.multicast, 9_000, base_bytes=512 * KIB),
        Target("registry", records.registry, 4_200, base_bytes=256 * KIB),
        # What a conversation holds is bounded by its limits, which the targets themselves look at.
        Target(
            "datagrams", conversations.datagrams, 8_192, base_bytes=4 * KIB * KIB, most_bytes=8 * KIB * KIB
        ),
        Target("session", conversations.session, 8_192, base_bytes=2 * KIB * KIB, most_bytes=4 * KIB * KIB),
        Target("gossip", conversations.gossip, 8_192, base_bytes=1 * KIB * KIB, most_bytes=4 * KIB * KIB),
        Target("node", node.node, 8_192, base_bytes=4 * KIB * KIB, most_bytes=8 * KIB * KIB),
    )
}


def corpus_of(name: str) -> list[Path]:
    """Return the files of a target's corpus, in order."""
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
