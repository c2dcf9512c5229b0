"""The short run of every target: its corpus, then mutations of it, with what they allocate measured."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.make_corpus import MADE
from tests.fuzz.mutation import inputs
from tests.fuzz.tape import STEPS_MAX, Step, steps, tape
from tests.fuzz.targets import TARGETS, Target, corpus_of
from tests.soak import amount

if TYPE_CHECKING:
    from collections.abc import Iterator

AN_HOUR = 50
"""How many times as many inputs an hour is for: a million of the wire."""

COUNTS = {
    "packet": 20_000,
    "greeting": 5_000,
    "datagram": 20_000,
    "ticket": 5_000,
    "record": 5_000,
    "multicast": 5_000,
    "registry": 1_000,
    "datagrams": 1_000,
    "session": 4_000,
    "gossip": 500,
    "node": 300,
}
"""Inputs made of the corpus: what takes a second or two for each target."""


@pytest.fixture
def measured() -> Iterator[None]:
    """Have targets measure what they allocate."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_every_target_has_a_corpus_and_a_count() -> None:
    assert TARGETS.keys() == MADE.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", MADE)
def test_the_corpus_is_what_its_script_makes(name: str) -> None:
    made = {f"made-{hashlib.sha256(data).hexdigest()[:12]}": data for data in MADE[name]()}
    kept = {path.name: path.read_bytes() for path in corpus_of(name)}
    assert {path: data for path, data in kept.items() if path.startswith("made-")} == made
    assert all(len(data) <= TARGETS[name].input_bytes_max for data in kept.values())


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("name", TARGETS)
def test_what_was_kept_breaks_nothing(name: str) -> None:
    for path in corpus_of(name):
        TARGETS[name].run(path.read_bytes())


@pytest.mark.soak
@pytest.mark.timeout(amount(120, 7_200))
@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("name", TARGETS)
def test_mutations_of_it_break_nothing(name: str) -> None:
    target = TARGETS[name]
    samples = [path.read_bytes() for path in corpus_of(name)]
    count = amount(COUNTS[name], AN_HOUR * COUNTS[name])
    for number, data in enumerate(inputs(name, samples, count, target.input_bytes_max)):
        try:
            target.run(data)
        except Exception as error:
            error.add_note(f"input {number} of {name}: {data.hex()}")
            raise


def test_inputs_are_the_same_for_the_same_seed_and_seldom_what_they_are_made_of() -> None:
    samples = [bytes(range(40)), b"sample"]
    made = list(inputs("seed", samples, 1_000, 300))
    assert made == list(inputs("seed", samples, 1_000, 300))
    assert made != list(inputs("other", samples, 1_000, 300))
    assert len(set(made) - set(samples)) > 800
    assert max(map(len, made)) <= 300


def test_a_tape_reads_as_it_was_made_and_any_bytes_are_one() -> None:
    made = [(0, b""), (255, b"payload"), (7, bytes(65_535))]
    assert list(steps(tape(made))) == [Step(*step) for step in made]
    assert list(steps(tape(made)[:11])) == [Step(0, b""), Step(255, b"paylo")], "cut off, it counts as it is"
    assert list(steps(b"\x01\x00")) == []
    assert len(list(steps(bytes(10_000)))) == STEPS_MAX


@pytest.mark.usefixtures("measured")
def test_a_target_that_takes_too_much_memory_fails() -> None:
    greedy = Target(
        "greedy", lambda data: bytes(1_000 * len(data)) and None, 100, base_bytes=50_000, factor=10
    )
    greedy.run(bytes(40))
    with pytest.raises(AssertionError, match="bytes taken for an input of 60, 50600 allowed"):
        greedy.run(bytes(60))
