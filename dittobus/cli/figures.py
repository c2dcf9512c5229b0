"""Numbers of many measurements."""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import Any

from dittobus.cli.output import seconds, share


class Distribution:
    """Round trips that were tried, and the times of those that came back, in seconds."""

    def __init__(self) -> None:
        self.tried = 0
        self.values: list[float] = []

    def add(self, value: float) -> None:
        """Take note of one that came back."""
        self.values.append(value)

    @property
    def lost(self) -> float | None:
        """The share of those that did not come back."""
        return 1 - len(self.values) / self.tried if self.tried else None

    def quantile(self, part: float) -> float:
        """Return the time within which that part of them came back."""
        ordered = sorted(self.values)
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)]

    def as_object(self) -> dict[str, Any]:
        """Return what JSON says."""
        said: dict[str, Any] = {"tried": self.tried, "answered": len(self.values), "loss": self.lost}
        if self.values:
            said |= {
                "min_s": min(self.values),
                "mean_s": fmean(self.values),
                "p50_s": self.quantile(0.5),
                "p95_s": self.quantile(0.95),
                "p99_s": self.quantile(0.99),
                "max_s": max(self.values),
                "jitter_s": pstdev(self.values),
            }
        return said

    def line(self) -> str:
        """Return what people are told."""
        counted = f"{len(self.values):,} of {self.tried:,}, {share(self.lost)} lost"
        if not self.values:
            return counted
        figures = {
            "least": min(self.values),
            "mean": fmean(self.values),
            "half": self.quantile(0.5),
            "99 %": self.quantile(0.99),
            "most": max(self.values),
            "jitter": pstdev(self.values),
        }
        return f"{counted}; " + ", ".join(f"{name} {seconds(value)}" for name, value in figures.items())
