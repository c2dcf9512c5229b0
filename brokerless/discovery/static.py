"""Tickets: peers whose places are known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.address import Ticket
from brokerless.discovery import Beacon, Hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class StaticDiscovery:
    """Reports the peers of the given tickets, once, at the start. Announces nothing."""

    name = "ticket"
    rejected = 0

    def __init__(self, tickets: Iterable[str | Ticket]) -> None:
        self._tickets = [Ticket.parse(ticket) if isinstance(ticket, str) else ticket for ticket in tickets]

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        """Report all of them."""
        for ticket in self._tickets:
            if ticket.address != beacon.address:  # one list of tickets serves all, ourselves included
                report(Hint(ticket.address, ticket.endpoints, 0, self.name))

    async def announce(self, beacon: Beacon) -> None:
        """Do nothing: who holds our ticket has it already."""

    async def close(self) -> None:
        """Do nothing."""
