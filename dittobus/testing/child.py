"""What runs first in a process that a ``Kit`` starts.

It keeps the packets of the process' nodes in files, sees to it that the process does not outlive the test
run, and then runs the program.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import runpy
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dittobus import _node
from dittobus.testing.frames import Recorder

if TYPE_CHECKING:
    from types import ModuleType


class FunctionOrder(NamedTuple):
    """A function to call, found by its module's name or, where that is no use, by the module's file."""

    module: str
    file: str | None
    qualified_name: str
    arguments: bytes
    """Pickled: positional ones and keywords."""


class ProgramOrder(NamedTuple):
    """A program to run, as ``python FILE`` or ``python -m MODULE`` does."""

    program: str
    is_module: bool
    arguments: tuple[str, ...]


class Order(NamedTuple):
    """What a child is to do."""

    frames: Path
    work: FunctionOrder | ProgramOrder


def main(order_file: str) -> None:
    """Obey the order in that file."""
    _end_with_parent()
    order: Order = pickle.loads(Path(order_file).read_bytes())
    _node.on_made = Recorder(order.frames)
    if isinstance(order.work, FunctionOrder):
        _call(order.work)
    else:
        _run(order.work)


def _call(work: FunctionOrder) -> None:
    function: Any = _module(work)
    for name in work.qualified_name.split("."):
        function = getattr(function, name)
    positional, named = pickle.loads(work.arguments)
    function(*positional, **named)


def _module(work: FunctionOrder) -> ModuleType:
    """Import the module, which must be the file that the test run means."""
    if work.module != "__main__":
        try:
            module = importlib.import_module(work.module)
        except ImportError:
            module = None
        if module is not None and (
            work.file is None or _is_same(getattr(module, "__file__", None), work.file)
        ):
            return module
    assert work.file is not None
    name = "__mp_main__" if work.module == "__main__" else work.module
    spec = importlib.util.spec_from_file_location(name, work.file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_same(one: str | None, other: str) -> bool:
    return one is not None and os.path.realpath(one) == os.path.realpath(other)


def _run(work: ProgramOrder) -> None:
    sys.argv[1:] = work.arguments
    if work.is_module:
        runpy.run_module(work.program, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = work.program
        sys.path.insert(0, str(Path(work.program).parent))
        runpy.run_path(work.program, run_name="__main__")


def _end_with_parent() -> None:
    """End when the other end of stdin is closed: the test run is gone, killed perhaps."""
    held = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        os.read(held, 1)
        os._exit(1)

    threading.Thread(target=watch, name="dittobus-testing", daemon=True).start()
