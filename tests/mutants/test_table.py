"""The table of deliberate faults fits the tree: what it changes is there, and so is what must notice."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_can_still_be_planted(mutant: Mutant) -> None:
    text = (ROOT / mutant.path).read_text()
    for old, new in mutant.edits:
        assert text.count(old) == 1, f"{mutant.path} holds {text.count(old)} times: {old}"
        assert old != new
        text = text.replace(old, new)
    ast.parse(text)  # a fault that breaks the file would be noticed by anything
    assert all((ROOT / test).exists() for test in mutant.tests)


def test_there_are_many_and_each_has_a_name() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 20
