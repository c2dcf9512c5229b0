"""State machines against models: Hypothesis chooses what happens, a model says what must come of it.

The models are written from ``docs/wire.md`` and from what is promised, not from the code, and keep everything
instead of being clever. They stand apart from ``tests/protocol``, so that coverage, which is measured there,
does not slow them down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.soak import SOAK, amount

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

EXAMPLES_MAX = 5_000
"""However long the run: Hypothesis remembers all that it has tried, 0.3 MB each."""


def as_test(machine: type[RuleBasedStateMachine]) -> Any:
    """Return the machine as a test class: 200 examples of 50 steps, or, in an hour, 5,000 of 100."""
    count = min(amount(200, EXAMPLES_MAX), EXAMPLES_MAX)
    machine.TestCase.settings = settings(max_examples=count, stateful_step_count=100 if SOAK else 50)
    return pytest.mark.soak(pytest.mark.timeout(amount(120, 7_200))(machine.TestCase))
