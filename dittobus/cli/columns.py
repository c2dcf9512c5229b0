"""What ``top`` says of a peer, in the live table as in the plain one."""

from __future__ import annotations

from typing import Any

from dittobus.cli.output import printable, seconds, share, size

COLUMNS = (
    "PEER",
    "ADDRESS",
    "STATE",
    "BY",
    "ROUND TRIP",
    "JITTER",
    "LOSS",
    "IN",
    "OUT",
    "STREAMS",
    "DROPS",
)


def cells(peer: dict[str, Any]) -> dict[str, str]:
    """Return what stands in each column, of a peer in a sample."""
    return {
        "PEER": printable(peer["name"]) or peer["address"][:8],
        "ADDRESS": peer["address"][:8],
        "STATE": peer["state"],
        "BY": "+".join(way for way in peer["path"].values() if way != "none") or "-",
        "ROUND TRIP": seconds(peer["rtt_s"]),
        "JITTER": seconds(peer["jitter_s"]),
        "LOSS": share(peer["loss"]),
        "IN": f"{size(peer.get('bytes_in_per_s', 0))}/s",
        "OUT": f"{size(peer.get('bytes_out_per_s', 0))}/s",
        "STREAMS": f"{peer['streams']:,}",
        "DROPS": f"{sum(peer['dropped'].values()):,}",
    }
