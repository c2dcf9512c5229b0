"""What the opener may do before its stream is accepted: contract, section 4, the open handshake.

The faces hand a stream to their user once it is accepted; the node hands it out at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from brokerless import (
    Limits,
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamMessages,
    StreamOffered,
    StreamOpened,
    StreamRejected,
    StreamReset,
)
from tests.witness import Mesh, Witness

if TYPE_CHECKING:
    from pathlib import Path

    from brokerless import Offer, Stream

pytestmark = pytest.mark.asyncio

KIB = 1024


async def offered(mesh: Mesh) -> tuple[Witness, Stream, Witness, Offer]:
    """An opener and its stream, and who has not answered the offer."""
    opener, acceptor = await mesh.pair()
    acceptor.accepts = False
    stream = opener.open(acceptor, "early")
    offer = (await acceptor.event(StreamOffered)).offer
    return opener, stream, acceptor, offer


async def arrived(opener: Witness, acceptor: Witness, offer: Offer, count: int) -> None:
    """Wait until so many messages of the stream are with the acceptor, and what was to come with them."""
    is_here = False
    while not is_here:  # and once more, for what may have been under way then
        is_here = offer.stream.stats().messages_received >= count
        assert await opener.done(opener.send(b"", acceptor)) is None


async def test_data_follows_the_open_at_once_within_the_initial_credit(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        opener, stream, acceptor, offer = await offered(mesh)
        messages = [bytes([number]) * 10 * KIB for number in range(10)]
        for message in messages:
            stream.send(message)
        fitting = Limits().stream_window_initial_bytes // (10 * KIB + 64)
        await arrived(opener, acceptor, offer, fitting)
        assert stream.sent_sequence == fitting
        assert offer.stream.stats().messages_received == fitting
        assert acceptor.of(StreamMessages) == []
        acceptor.node.accept(offer)
        await acceptor.until(lambda: acceptor.received.get(offer.stream) == messages)
        kinds = [type(event) for event in acceptor.events if getattr(event, "stream", None) is offer.stream]
        assert kinds[:2] == [StreamOpened, StreamMessages]


async def test_receipts_begin_with_acceptance(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        opener, stream, acceptor, offer = await offered(mesh)
        for number in range(3):
            stream.send(b"%d" % number)
        await arrived(opener, acceptor, offer, 3)
        assert stream.acknowledged_sequence == 0
        assert opener.of(StreamAcknowledged) == []
        acceptor.node.accept(offer)
        await opener.until(lambda: stream.acknowledged_sequence == 3)
        told = [event for event in opener.events if isinstance(event, StreamOpened | StreamAcknowledged)]
        assert isinstance(told[0], StreamOpened)
        assert told[-1] == StreamAcknowledged(stream, 3)


@pytest.mark.parametrize("end", ["finish", "close"])
async def test_the_opener_may_be_done_before_it_is_accepted(tmp_path: Path, end: str) -> None:
    async with Mesh(tmp_path) as mesh:
        opener, stream, acceptor, offer = await offered(mesh)
        for number in range(3):
            stream.send(b"%d" % number)
        if end == "finish":
            stream.finish()
        else:
            opener.node.close_stream(stream, None)
        await arrived(opener, acceptor, offer, 3)
        acceptor.node.accept(offer)
        await acceptor.event(StreamFinishedReceiving)
        assert acceptor.received[offer.stream] == [b"0", b"1", b"2"]
        offer.stream.finish()
        assert await opener.ended(stream) is None
        assert await acceptor.ended(offer.stream) is None


async def test_what_was_sent_to_who_rejects_is_gone(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        opener, stream, acceptor, offer = await offered(mesh)
        stream.send(b"in vain")
        acceptor.node.reject(offer, 7, "no")
        error = await opener.ended(stream)
        assert isinstance(error, StreamRejected)
        assert (error.code, error.reason) == (7, "no")
        assert opener.of(StreamAcknowledged) == acceptor.of(StreamMessages) == []


async def test_who_gives_up_takes_the_offer_and_all_that_came_along(tmp_path: Path) -> None:
    async with Mesh(tmp_path) as mesh:
        _, stream, acceptor, offer = await offered(mesh)
        stream.send(b"in vain")
        stream.abort(3, "changed my mind")
        ended = await acceptor.event(StreamEnded)
        assert isinstance(ended.error, StreamReset)
        assert (ended.stream, ended.error.code) == (offer.stream, 3)
        with pytest.raises(StreamReset):
            offer.stream.accept()
        assert acceptor.of(StreamMessages) == []
