"""The live table of ``top``: samples, and small plots of those before."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dittobus.cli.columns import COLUMNS, cells
from dittobus.cli.output import printable, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, RenderableType

PLOT_SAMPLES = 30
"""What fits beside the numbers; half a minute, by default."""

BARS = "▁▂▃▄▅▆▇█"

STYLES = {"alive": "green", "suspect": "bold red", "joining": "yellow", "known": "dim"}

PLOT = ""
"""The heading of round trips as they were."""

NAME_CELLS_MAX = 20
"""Of a longer name the beginning is shown: there are other columns."""

GAP = 2

_PLOT_AT = COLUMNS.index("ROUND TRIP") + 1

HEADINGS = (*COLUMNS[:_PLOT_AT], PLOT, *COLUMNS[_PLOT_AT:])

EXPENDABLE = ("BY", "JITTER", "ADDRESS", "LOSS", "DROPS")
"""What is left out, in this order, where the terminal is too narrow for all."""

_LEFT = ("PEER", "ADDRESS", "STATE", "BY", PLOT)


def plot(values: Iterable[float | None]) -> str:
    """Return a line of bars, the highest for the largest value; a space where there is none."""
    kept = list(values)
    most = max((value for value in kept if value is not None), default=0.0)
    return "".join(
        " " if value is None else BARS[min(int(value / most * len(BARS)), len(BARS) - 1) if most > 0 else 0]
        for value in kept
    )


class Picture:
    """Draws the latest sample, and keeps what the plots need of earlier ones."""

    def __init__(self) -> None:
        self._sample: dict[str, Any] | None = None
        self._round_trips: dict[str, deque[float | None]] = {}
        self._in: deque[float] = deque(maxlen=PLOT_SAMPLES)
        self._out: deque[float] = deque(maxlen=PLOT_SAMPLES)

    def take(self, sample: dict[str, Any]) -> None:
        """Take the next sample."""
        self._sample = sample
        self._in.append(sample["node"]["bytes_in_per_s"])
        self._out.append(sample["node"]["bytes_out_per_s"])
        earlier = self._round_trips
        self._round_trips = {
            peer["address"]: earlier.get(peer["address"], deque(maxlen=PLOT_SAMPLES))
            for peer in sample["peers"]
        }
        for peer in sample["peers"]:
            self._round_trips[peer["address"]].append(peer["rtt_s"])

    def draw(self, console: Console) -> RenderableType:
        """Return what to show there. Of peers for whom it is too low, those of the most traffic are shown."""
        if self._sample is None:
            return Text("nothing has been measured yet")
        head, peers = self._head(self._sample), self._sample["peers"]
        room = console.height - len(console.render_lines(head)) - 1  # for the headings
        if len(peers) <= room:
            return Group(head, self._table(peers, console.width))
        kept = max(room - 1, 0)
        busiest = sorted(peers, key=_traffic, reverse=True)[:kept]
        rest = Text(f"and {_counted(len(peers) - kept, 'more peer')}", "dim")
        return Group(head, self._table(busiest, console.width), rest)

    def _head(self, sample: dict[str, Any]) -> Text:
        node, peers = sample["node"], sample["peers"]
        alive = sum(peer["state"] == "alive" for peer in peers)
        drops = ", ".join(f"{count:,} {cause}" for cause, count in node["dropped"].items()) or "none"
        return Text.assemble(
            ("DittoBus ", "bold"),
            f"{printable(node['name'])} ({node['address'][:8]})   "
            f"{_counted(len(peers), 'peer')}, {alive} alive   "
            f"{_counted(node['streams'], 'stream')}   {_counted(node['links'], 'link')}\n",
            f"in   {size(node['bytes_in_per_s']):>8}/s {node['messages_in_per_s']:>9,.0f} messages/s  ",
            (plot(self._in), "cyan"),
            f"\nout  {size(node['bytes_out_per_s']):>8}/s {node['messages_out_per_s']:>9,.0f} messages/s  ",
            (plot(self._out), "magenta"),
            f"\ndropped: {drops}   handshakes refused: {node['handshakes_refused']:,}   q: quit\n",
        )

    def _table(self, peers: list[dict[str, Any]], width: int) -> Table:
        rows = [{**cells(peer), PLOT: ""} for peer in peers]
        shown, plotted = _fitting(rows, width)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for heading in shown:
            table.add_column(
                heading,
                justify="left" if heading in _LEFT else "right",
                no_wrap=True,
                max_width=NAME_CELLS_MAX if heading == "PEER" else None,
            )
        for peer, row in zip(peers, rows, strict=True):
            kept = list(self._round_trips[peer["address"]])[-plotted:] if plotted else []
            drawn = {
                **{heading: Text(cell) for heading, cell in row.items()},
                "STATE": Text(peer["state"], STYLES.get(peer["state"], "")),
                PLOT: Text(plot(kept), "cyan"),
            }
            table.add_row(*(drawn[heading] for heading in shown))
        return table


def _traffic(peer: dict[str, Any]) -> float:
    total: float = peer.get("bytes_in_per_s", 0) + peer.get("bytes_out_per_s", 0)
    return total


def _fitting(rows: list[dict[str, str]], width: int) -> tuple[list[str], int]:
    """Return the headings that fit in so many cells, and how many samples can be plotted beside them."""
    widths = {
        heading: max(len(heading), *(cell_len(row[heading]) for row in rows), 0) for heading in HEADINGS
    }
    widths["PEER"] = min(widths["PEER"], NAME_CELLS_MAX)
    left_out = 0
    while True:
        shown = [heading for heading in HEADINGS if heading not in EXPENDABLE[:left_out]]
        rest = width - sum(widths[heading] + GAP for heading in shown) + GAP
        if rest >= 0 or left_out == len(EXPENDABLE):
            return shown, min(max(rest, 0), PLOT_SAMPLES)
        left_out += 1


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
