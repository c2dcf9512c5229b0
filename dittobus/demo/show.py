"""The list of steps for people: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TextIO

from dittobus.demo.steps import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.table import Table

    from dittobus.demo.steps import Step

TITLE = "DittoBus demo: two peers in two processes, on this machine only"

FRAMES_PER_SECOND = 10
"""How often the list is drawn while a step runs: smooth enough, and next to no work."""

SECONDS_FROM = 0.1
"""Shorter times are shown in milliseconds."""

_WORDS = {State.HELD: "ok", State.FAILED: "FAILED", State.NOT_RUN: "-"}


def is_plain(output: TextIO) -> bool:
    """Tell whether ``output`` wants plain lines: it is no terminal, or a modest one, or NO_COLOR is set."""
    return (
        not output.isatty()
        or bool(os.environ.get("NO_COLOR"))
        or os.environ.get("TERM") == "dumb"
        or not output.encoding.lower().startswith("utf")
    )


@contextmanager
def shown(steps: Sequence[Step], output: TextIO) -> Iterator[Callable[[Step], None]]:
    """Show the steps on ``output`` as they change; yield what is to be called when one has.

    The last line says how it ended.
    """
    begun = monotonic()
    with _plainly(steps, output) if is_plain(output) else _live(steps, output) as on_change:
        yield on_change
    output.write(f"\n{last_line(steps, monotonic() - begun)}\n")
    output.flush()


def last_line(steps: Sequence[Step], seconds: float) -> str:
    """Return how it ended, in a sentence."""
    held = sum(step.state is State.HELD for step in steps)
    if held == len(steps):
        return f"All {held} steps held, in {seconds:.1f} s."
    return f"{held} of {len(steps)} steps held; the demo stopped after {seconds:.1f} s."


@contextmanager
def _plainly(steps: Sequence[Step], output: TextIO) -> Iterator[Callable[[Step], None]]:
    width = max(len(step.name) for step in steps)
    output.write(f"{TITLE}\n\n")
    output.flush()

    def on_change(step: Step) -> None:
        if step.state is not State.RUNNING:
            output.write(f"{_WORDS[step.state]:6}  {step.name:{width}}  {_took(step):>7}  {step.detail}\n")
            output.flush()

    yield on_change


@contextmanager
def _live(steps: Sequence[Step], output: TextIO) -> Iterator[Callable[[Step], None]]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=output, highlight=False)
    console.print(f"[bold]{TITLE}[/bold]\n")
    picture = _Picture(steps)
    with Live(get_renderable=picture.draw, console=console, refresh_per_second=FRAMES_PER_SECOND) as live:

        def on_change(step: Step) -> None:
            picture.note(step)
            live.refresh()

        yield on_change


class _Picture:
    """Draws the steps as they are now."""

    def __init__(self, steps: Sequence[Step]) -> None:
        from rich.spinner import Spinner

        self._steps = steps
        self._spinner = Spinner("dots", style="cyan")
        self._since = monotonic()

    def note(self, step: Step) -> None:
        if step.state is State.RUNNING:
            self._since = monotonic()

    def draw(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for step in self._steps:
            match step.state:
                case State.WAITING:
                    table.add_row(Text("·", "dim"), Text(step.name, "dim"))
                case State.RUNNING:
                    seconds = f"{monotonic() - self._since:.1f} s"
                    table.add_row(self._spinner, step.name, Text(seconds, "dim"))
                case State.HELD:
                    table.add_row(Text("✓", "green"), step.name, _took(step), Text(step.detail, "dim"))
                case State.FAILED:
                    table.add_row(Text("✗", "bold red"), step.name, _took(step), Text(step.detail, "red"))
                case State.NOT_RUN:
                    table.add_row(
                        Text("-", "dim"), Text(step.name, "dim"), _took(step), Text(step.detail, "dim")
                    )
        return table


def _took(step: Step) -> str:
    if step.state is State.NOT_RUN:
        return ""
    return f"{step.seconds:.2f} s" if step.seconds >= SECONDS_FROM else f"{step.seconds * 1000:.0f} ms"
