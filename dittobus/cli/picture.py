"""The live table of ``top``: samples, and small plots of those before."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dittobus.cli.output import printable, seconds, share, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

PLOT_SAMPLES = 30
"""What fits beside the numbers; half a minute, by default."""

BARS = "▁▂▃▄▅▆▇█"

STYLES = {"alive": "green", "suspect": "bold red", "joining": "yellow", "known": "dim"}

COLUMNS = (
    "PEER",
    "ADDRESS",
    "STATE",
    "BY",
    "ROUND TRIP",
    "",
    "JITTER",
    "LOSS",
    "IN",
    "OUT",
    "STREAMS",
    "DROPS",
)

_LEFT = ("PEER", "ADDRESS", "STATE", "BY", "")


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

    def draw(self) -> RenderableType:
        """Return what to show."""
        if self._sample is None:
            return Text("nothing has been measured yet")
        return Group(self._head(self._sample), self._table(self._sample["peers"]))

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

    def _table(self, peers: list[dict[str, Any]]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in COLUMNS:
            table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
        for peer in peers:
            table.add_row(
                Text(printable(peer["name"])),
                peer["address"][:8],
                Text(peer["state"], STYLES.get(peer["state"], "")),
                "+".join(way for way in peer["path"].values() if way != "none") or "-",
                seconds(peer["rtt_s"]),
                Text(plot(self._round_trips[peer["address"]]), "cyan"),
                seconds(peer["jitter_s"]),
                share(peer["loss"]),
                f"{size(peer.get('bytes_in_per_s', 0))}/s",
                f"{size(peer.get('bytes_out_per_s', 0))}/s",
                f"{peer['streams']:,}",
                f"{sum(peer['dropped'].values()):,}",
            )
        return table


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
