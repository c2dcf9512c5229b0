"""Whom ``PEER`` means."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from dittobus import AmbiguousPeer, ConfigError, DittoAddress, Peer, PeerRefused
from dittobus.cli import exits
from dittobus.cli.peer import find_peer, fitting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dittobus.aio import Bus

    MakeBus = Callable[..., Awaitable[Bus]]

ANN, ANNA, BEN = (
    Peer(DittoAddress(bytes([number]) * 32), name) for number, name in ((1, "ann"), (2, "anna"), (255, "ben"))
)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("ben", [BEN]),
        ("b", [BEN]),
        ("ann", [ANN]),
        ("an", [ANN, ANNA]),
        (str(ANN.address), [ANN]),
        (str(ANNA.address)[:4].upper(), [ANNA]),
        ("0", [ANN, ANNA]),
        ("", []),
        ("ben ", []),
    ],
)
def test_beginnings(wanted: str, found: list[Peer]) -> None:
    assert fitting([ANN, ANNA, BEN], wanted) == found


@pytest.mark.asyncio
async def test_somebody_is_found(make_aio_bus: MakeBus) -> None:
    near, ann, anna = [await make_aio_bus(name) for name in ("near", "ann", "anna")]
    await near.wait_for_peers(2)
    assert (await find_peer(near, "ann", 10)).address == ann.address
    assert (await find_peer(near, str(anna.address), 10)).address == anna.address
    with pytest.raises(AmbiguousPeer, match=r"'an' fits 2 peers: ann.* \(.*, ann.* \(.*give more") as caught:
        await find_peer(near, "an", 10)
    assert exits.code_of(caught.value) == exits.USAGE


@pytest.mark.asyncio
async def test_nobody_is_found(make_aio_bus: MakeBus) -> None:
    near = await make_aio_bus("near")
    for wanted in ("ben", str(BEN.address)):
        with pytest.raises(exits.Failed, match="within 0 s: 'dittobus peers'") as caught:
            await find_peer(near, wanted, 0)
        assert caught.value.code == exits.NOT_FOUND


@pytest.mark.asyncio
async def test_nothing_means_nobody(make_aio_bus: MakeBus) -> None:
    with pytest.raises(ConfigError, match="PEER: expected a name"):
        await find_peer(await make_aio_bus("near"), "", 0)


@pytest.mark.asyncio
async def test_who_refuses_is_not_missing(make_aio_bus: MakeBus) -> None:
    near = await make_aio_bus("near")

    class Refusing:
        """A bus on which a refusal is heard of while somebody is waited for."""

        async def wait_for_peer(self, target: object, timeout: float) -> Peer:  # noqa: ASYNC109 - as a bus
            refusal = PeerRefused(reason="the two sides hold different mesh secrets", peer=BEN.address)
            logging.getLogger("dittobus").warning("%s", refusal)
            return await near.wait_for_peer("ben", 0)

    for wanted, code in (("ben", exits.REFUSED), (str(ANN.address), exits.NOT_FOUND)):
        with pytest.raises(exits.Failed) as caught:
            await find_peer(Refusing(), wanted, 0)  # type: ignore[arg-type]
        assert caught.value.code == code
