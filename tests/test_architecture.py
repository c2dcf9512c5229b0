"""The rules of the house, so that nobody has to remember them."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parent.parent
PACKAGES = ("brokerless", "dittobus")
FUNCTION_LINES_MAX = 60
"""A function is read without scrolling."""

PURE_MODULES = set(
    "__future__ abc bisect collections dataclasses enum functools hashlib heapq hmac itertools math".split()
    + "ipaddress msgpack operator re struct typing".split()
)
"""What brokerless.protocol may import from outside: nothing here does I/O, or knows the time or chance."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each module that the file imports when it runs, with the names it takes from it."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        else:
            pending.extend(ast.iter_child_nodes(node))


def public_modules() -> list[ModuleType]:
    """Return the modules of both packages that say what they export."""
    names = (path.relative_to(ROOT).with_suffix("").parts for path in sources(*PACKAGES))
    modules = (".".join(parts).removesuffix(".__init__") for parts in names if parts[-1] != "__main__")
    return [module for module in map(importlib.import_module, modules) if hasattr(module, "__all__")]


def test_imports_point_one_way() -> None:
    # In a process of its own, since it disables the loggers of whoever calls it.
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    lint = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_every_module_has_its_layer() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = " ".join(configuration["tool"]["importlinter"]["contracts"][0]["layers"])
    placed = set(re.findall(r"brokerless\.(\w+)", layers))
    present = {path.stem for path in (ROOT / "brokerless").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert present - placed <= {"__init__", "__pycache__"}


def test_the_protocol_imports_nothing_impure() -> None:
    impure = [
        f"{name_of(path)}: {module}"
        for path in sources("brokerless/protocol")
        for module, _ in imported(path)
        if module.partition(".")[0] not in PURE_MODULES | {"brokerless"}
    ]
    assert not impure


def test_each_module_of_the_protocol_has_its_own_tests() -> None:
    modules = {path.stem for path in sources("brokerless/protocol")} - {"__init__"}
    tested = {path.stem.removeprefix("test_") for path in sources("tests/protocol")}
    assert not modules - tested


def test_the_bus_uses_only_what_the_framework_exports() -> None:
    exported = {
        name
        for package in ("brokerless", "brokerless.doctor", "brokerless.testing")
        for name in importlib.import_module(package).__all__
    }
    unexported = [
        f"{name_of(path)}: {module} {name}"
        for path in sources("dittobus")
        for module, names in imported(path)
        if module.partition(".")[0] == "brokerless"
        for name in names or (module,)
        if name not in exported
    ]
    assert not unexported


def test_exports_are_sorted_and_exist() -> None:
    for module in public_modules():
        assert list(module.__all__) == sorted(set(module.__all__)), module.__name__
        assert all(hasattr(module, name) for name in module.__all__), module.__name__


def test_whatever_is_exported_is_explained() -> None:
    unexplained = [
        f"{module.__name__}.{name}"
        for module in public_modules()
        for name in module.__all__
        for thing in explained_things(getattr(module, name))
        if not inspect.getdoc(thing)
    ]
    assert not unexplained


def explained_things(thing: object) -> Iterator[object]:
    """Yield what of an exported name needs a docstring: a function, or a class and its public methods."""
    if inspect.isfunction(thing):
        yield thing
    elif inspect.isclass(thing):
        yield thing
        yield from (
            member
            for name, member in vars(thing).items()
            if not name.startswith("_")
            and (inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod)))
        )


def test_functions_fit_a_screen() -> None:
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in sources(*PACKAGES, "benchmarks", "tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert not long
