"""Ctrl-C where the compiler leaves a gap, which tracing does not show."""

from __future__ import annotations

import dis
from types import CodeType
from typing import TYPE_CHECKING

import pytest

from dittobus import (
    _blocking_exchange,
    _blocking_stream,
    _io_thread,
    _mailbox,
    _outbox,
    _strand,
    _waiting,
    blocking,
    dispatch,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

MODULES = [
    *(_blocking_exchange, _blocking_stream, _io_thread, _mailbox, _outbox, _strand, _waiting),
    *(blocking, dispatch),
]
"""What runs in the main thread and must survive Ctrl-C anywhere."""


def functions(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from functions(constant)


def gaps(code: CodeType) -> Iterator[int | None]:
    """Yield the lines of loops that are within a ``try`` or ``with`` while their jump back is not."""
    bytecode = dis.Bytecode(code)

    def handler(offset: int) -> int | None:
        return next((one.target for one in bytecode.exception_entries if one.start <= offset < one.end), None)

    for instruction in bytecode:
        if instruction.opname == "JUMP_BACKWARD" and instruction.positions is not None:
            line, target = instruction.positions.lineno, instruction.argval
            if line is not None and handler(instruction.offset) is None is not handler(target):
                yield line


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_loop_within_a_try_is_within_it_to_its_end(module: ModuleType) -> None:
    # From Python 3.12 on, a jump back that the loop's condition or a last ``if`` becomes is not, and there
    # signals are looked for: write ``while True``, and end with something else.
    assert module.__file__ is not None
    with open(module.__file__) as file:
        top = compile(file.read(), module.__file__, "exec")
    assert [line for code in functions(top) for line in gaps(code)] == []
