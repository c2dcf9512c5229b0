"""What ``top`` takes for the statistics of a peer."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from dittobus import BusError, statistics
from dittobus.cli import exits, looking
from dittobus.cli.picture import Picture

if TYPE_CHECKING:
    from dittobus import DittoAddress
    from dittobus.aio import Bus, Stream


async def told(bus: Bus) -> dict[str, Any]:
    """Return what a bus tells, as it is."""
    return statistics.Sampler(bus).sample(0.0)


@pytest.mark.asyncio
async def test_what_a_peer_tells_is_drawn(aio_pair: tuple[Bus, Bus]) -> None:
    sample = await told(aio_pair[0])
    assert looking.checked(json.dumps(sample).encode()) == sample


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("node", "links", "many"),
        ("node", "bytes_in_per_s", float("inf")),
        ("node", "bytes_in_per_s", float("nan")),
        ("node", "dropped", {"late": "many"}),
        ("peer", "address", 7),
        ("peer", "state", "green"),
        ("peer", "path", {"reliable": 1}),
        ("peer", "rtt_s", "soon"),
        ("peer", "bytes_out_per_s", None),
        ("peer", "dropped", []),
    ],
)
async def test_what_is_none(aio_pair: tuple[Bus, Bus], where: str, name: str, value: object) -> None:
    sample = await told(aio_pair[0])
    row = sample["node"] if where == "node" else sample["peers"][0]
    row[name] = value
    with pytest.raises((ValueError, TypeError, KeyError)):
        looking.checked(json.dumps(sample).encode())


@pytest.mark.parametrize("said", [b"", b"\xff", b"7", b"[]", b"{}", b'{"node": {}, "peers": []}'])
def test_what_is_nothing_like_it(said: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        looking.checked(said)


@pytest.mark.asyncio
async def test_nothing_is_drawn_that_a_terminal_obeys(aio_pair: tuple[Bus, Bus]) -> None:
    sample = await told(aio_pair[0])
    evil = "\x1b[2J"
    sample["peers"][0] |= {"name": evil, "address": evil, "path": {"reliable": evil, "datagram": evil}}
    sample["node"] |= {"name": evil, "address": evil, "dropped": {evil: 1}}
    drawn = looking.checked(json.dumps(sample).encode())
    assert "\x1b" not in repr(drawn)
    picture = Picture()
    picture.take(drawn)
    picture.draw(Console(width=80, height=24))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "patience_s", "code", "words"),
    [
        (b"{}", 10.0, exits.ERROR, "something else than statistics"),
        (None, 0.3, exits.TIMEOUT, "within 0.3 s"),
    ],
)
async def test_a_program_that_takes_every_stream(
    aio_pair: tuple[Bus, Bus], answer: bytes | None, patience_s: float, code: int, words: str
) -> None:
    near, far = aio_pair

    async def take(stream: Stream, peer: DittoAddress) -> None:
        with suppress(BusError):
            async for _ in stream:
                if answer is not None:
                    await stream.send(answer)

    far.on_stream(statistics.STREAM, take)
    stream = await near.open_stream(far.address, name=statistics.STREAM)
    with pytest.raises(exits.Failed, match=words) as failure:
        await looking._asked(stream, "far", patience_s)
    assert failure.value.code == code
    stream.abort()
