"""The table of tests/README.md: each of the forty failures is held by tests that there are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAILURES = 40

ROW = re.compile(r"^\| (?P<number>\d+) \| (?P<what>[^|]+) \| (?P<tests>[^|]+) \|$", re.M)
TEST = re.compile(r"`(?P<file>[\w/]+\.py)::(?P<name>test_\w+)`")


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the tests in a file, those in classes, too."""
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    )


def rows() -> list[re.Match[str]]:
    return list(ROW.finditer((HERE / "README.md").read_text()))


def test_all_forty_are_there_in_order() -> None:
    assert [int(row["number"]) for row in rows()] == list(range(1, FAILURES + 1))


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row["number"]))
def test_each_is_held_by_tests_that_there_are(row: re.Match[str]) -> None:
    named = TEST.findall(row["tests"])
    assert named
    assert TEST.sub("", row["tests"]).replace("<br>", "").strip() == "", "something else than tests"
    for file, name in named:
        assert name in names_in(HERE / file), f"{file} has no {name}"


def test_every_directory_of_tests_is_introduced() -> None:
    introduced = (HERE / "README.md").read_text().split("## Forty failures")[0]
    directories = {path.parent.relative_to(HERE).parts[0] for path in HERE.glob("*/**/test_*.py")}
    assert [name for name in sorted(directories) if f"`{name}/`" not in introduced] == []
