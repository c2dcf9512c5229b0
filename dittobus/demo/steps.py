"""Steps that are checked and timed, one after the other: a step that fails stops the rest."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = logging.getLogger("dittobus")


class StepFailed(Exception):
    """What a step shows did not hold."""


class State(enum.Enum):
    """How far a step is."""

    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"
    FAILED = "failed"
    NOT_RUN = "not run"
    """A step before it failed."""


@dataclass(slots=True, eq=False)
class Step:
    """``check`` returns what was seen, in one line, or raises."""

    name: str
    check: Callable[[], str]
    state: State = State.WAITING
    seconds: float = 0.0
    detail: str = ""


def require(holds: bool, otherwise: str) -> None:
    """Raise ``StepFailed`` unless ``holds``."""
    if not holds:
        raise StepFailed(otherwise)


def run_steps(steps: Sequence[Step], on_change: Callable[[Step], None]) -> bool:
    """Run all steps, or those up to the first that fails; return whether all held.

    ``on_change`` is called whenever a step changes its state.
    """
    has_failed = False
    for step in steps:
        if has_failed:
            step.state = State.NOT_RUN
            step.detail = "not run"
        else:
            step.state = State.RUNNING
            on_change(step)
            has_failed = not _run(step)
        on_change(step)
    return not has_failed


def _run(step: Step) -> bool:
    begun = perf_counter()
    try:
        step.detail = step.check()
        step.state = State.HELD
    except Exception as error:  # whatever it is, it is this step's, and the reader wants to know
        step.detail = _in_words(error)
        step.state = State.FAILED
        _log.debug("step %r of the demo failed", step.name, exc_info=True)
    step.seconds = perf_counter() - begun
    return step.state is State.HELD


def _in_words(error: Exception) -> str:
    words = " ".join(str(error).split())
    if isinstance(error, StepFailed):
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def failure(steps: Sequence[Step]) -> Step | None:
    """Return the step that failed, if one did."""
    return next((step for step in steps if step.state is State.FAILED), None)


def as_object(steps: Sequence[Step]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "ok": all(step.state is State.HELD for step in steps),
        "steps": [
            {
                "name": step.name,
                "ok": step.state is State.HELD,
                "seconds": round(step.seconds, 3),
                "detail": step.detail,
            }
            for step in steps
        ],
    }
