"""Targets for what is decoded on its own: packets, greetings, datagrams, tickets.

What decodes must say the same when it is encoded and decoded once more.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, TypeVar

from brokerless.address import Address, Ticket, parse_endpoint
from brokerless.errors import ConfigError, RemoteProtocolError, WireError
from brokerless.protocol import handshake, wire
from brokerless.protocol.datagram import (
    Answer,
    Fragment,
    Probe,
    decode_plain,
    encode_answer,
    encode_fragment,
    encode_probe,
    frame_udp,
    header,
    unframe_udp,
)
from brokerless.protocol.handshake import Handshake, Role, State

if TYPE_CHECKING:
    from collections.abc import Callable

Text = TypeVar("Text")

REFUSAL_MAX = 1_000
"""Characters of an error about text: what is refused may be long, and is quoted in part only."""

MESH_KEY = bytes(range(32))
DIALLER = Address(b"\x11" * 32)
ACCEPTOR = Address(b"\x22" * 32)


def encode_frame(frame: wire.Frame) -> bytes:
    match frame:
        case wire.Info():
            return wire.encode_info(frame)
        case wire.Data():
            return wire.encode_data(*frame)
        case wire.Chunk():
            return wire.encode_chunk(frame)
        case _:
            return wire.encode_control(frame)


def packet(data: bytes) -> None:
    try:
        read = wire.decode_packet(data)
    except WireError:
        return
    again = wire.encode_packet(read.number, read.acknowledged, map(encode_frame, read.frames))
    if len(again) <= wire.PACKET_BYTES_MAX:  # an INFO of few fields is encoded with all of them
        assert wire.decode_packet(again) == read


def greeting(data: bytes) -> None:
    """A first message on a link, to either side of a handshake: nobody passes without the proof."""
    try:
        said: handshake.Hello | handshake.Refuse | None = handshake.decode(data)
    except WireError:
        said = None
    if isinstance(said, handshake.Hello):
        assert handshake.decode(handshake.encode_hello(said)) == said
    elif said is not None:
        assert handshake.decode(handshake.encode_refuse(said)) == said
    sides = (Role.DIALLER, DIALLER, ACCEPTOR), (Role.ACCEPTOR, ACCEPTOR, DIALLER)
    for role, local, remote in sides:
        side = Handshake(role, mesh_key=MESH_KEY, local=local, remote=remote)
        try:
            answers = side.receive(data)
        except RemoteProtocolError:
            assert side.state is State.AWAIT_HELLO
            continue
        assert said is not None
        assert all(len(answer) <= handshake.HANDSHAKE_BYTES_MAX for answer in answers)
        role_of_prover = b"A" if role is Role.DIALLER else b"D"
        claim = b"DittoBus HELLO proof" + role_of_prover + remote.public_key + local.public_key
        proof = hmac.digest(MESH_KEY, claim, hashlib.sha256)
        is_welcome = isinstance(said, handshake.Hello) and said.proof == proof and 1 in said.versions
        assert side.state is (State.DONE if is_welcome else State.REFUSED)


def datagram(data: bytes) -> None:
    """The clear part of a datagram, the framing of UDP, and what a member may have sealed."""
    read = header(data)
    if read is not None:
        index, counter = read
        assert data[:17] == b"\x01" + index.to_bytes(8, "big") + counter.to_bytes(8, "big")
        assert unframe_udp(frame_udp(data)) == data
    unframe_udp(data)
    try:
        stamp, item = decode_plain(data)
    except WireError:
        return
    if isinstance(item, Fragment):
        again = encode_fragment(*item, stamp)
        assert again == data
    elif isinstance(item, Probe):
        again = encode_probe(item.token, stamp)
    else:
        assert isinstance(item, Answer)
        again = encode_answer(*item, stamp)
        assert again == data
    assert decode_plain(again) == (stamp, item)


def ticket(data: bytes) -> None:
    """A line of text that somebody pasted, or gave on a command line, where any bytes may stand."""
    text = data.decode(errors="surrogateescape")
    if (read := parsed(Ticket.parse, text)) is not None:
        assert Ticket.parse(str(read)) == read
    assert parsed(parse_endpoint, text) in (None, text)
    if (address := parsed(Address.parse, text)) is not None:
        assert str(address) == text.lower()


def parsed(parse: Callable[[str], Text], text: str) -> Text | None:
    """Return what was read, None if that was refused; the refusal is no longer than a line or two."""
    try:
        return parse(text)
    except ConfigError as error:
        refusal = str(error)
    assert len(refusal) < REFUSAL_MAX
    return None
