"""What ``dittobus doctor`` asks, and how it says what was found."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from brokerless.doctor import Finding, Verdict, examine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokerless import NodeConfig

WORDS = {Verdict.OK: "ok", Verdict.WARNING: "warning", Verdict.FAILURE: "FAILED", Verdict.SKIPPED: "skipped"}


def diagnosed(config: NodeConfig, peer: str | None) -> list[Finding]:
    """Return what is found. What the library would log meanwhile is among it, so nothing is logged."""
    silent = logging.NullHandler()  # without any handler, warnings would go to stderr
    logger = logging.getLogger("dittobus")
    logger.addHandler(silent)
    try:
        return asyncio.run(examine(config, peer))
    finally:
        logger.removeHandler(silent)


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each finding, one more for what to do, and one that sums up."""
    width = max(len(finding.name) for finding in findings)
    indent = max(map(len, WORDS.values()))
    lines = []
    for finding in findings:
        lines.append(f"{WORDS[finding.verdict]:<{indent}}  {finding.name:<{width}}  {finding.text}")
        if finding.hint and finding.verdict is not Verdict.OK:
            lines.append(f"{'':<{indent}}  {'':<{width}}  -> {finding.hint}")
    counts = Counter(finding.verdict for finding in findings)
    summed = ", ".join(f"{counts[verdict]} {words}" for verdict, words in WORDS.items() if counts[verdict])
    return [*lines, "", f"{len(findings)} examinations: {summed}"]


def as_object(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "ok": not failures(findings),
        "findings": [
            {
                "name": finding.name,
                "verdict": finding.verdict.value,
                "text": finding.text,
                "hint": finding.hint,
            }
            for finding in findings
        ],
    }


def failures(findings: Sequence[Finding]) -> list[str]:
    """Return the names of what failed."""
    return [finding.name for finding in findings if finding.verdict is Verdict.FAILURE]
