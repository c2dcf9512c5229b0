from __future__ import annotations

import pytest

from brokerless.address import Address, Ticket
from brokerless.discovery import Beacon, Discovery, Hint
from brokerless.discovery.static import StaticDiscovery
from brokerless.errors import ConfigError

ALICE, BOB = Address(bytes(32)), Address(b"\1" * 32)
PLACES = ("tcp://192.0.2.7:4000", "tcp://robot.local:4000")


@pytest.mark.asyncio
async def test_each_ticket_is_a_hint_but_our_own() -> None:
    heard: list[Hint] = []
    discovery: Discovery = StaticDiscovery([Ticket(ALICE, PLACES), str(Ticket(BOB, PLACES[:1]))])
    beacon = Beacon(BOB, ("tcp://192.0.2.8:1",), 1, bytes(32))
    await discovery.start(beacon, heard.append)
    await discovery.announce(beacon)
    await discovery.close()
    assert heard == [Hint(ALICE, PLACES, 0, "ticket")]
    assert discovery.rejected == 0


def test_what_is_no_ticket_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="ticket: "):
        StaticDiscovery(["dittobus://nobody"])
