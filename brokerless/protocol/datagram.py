"""Datagrams: the bytes of the unreliable plane. ``docs/wire.md`` is the normative text.

A *datagram* is sealed for one receiver: a header (version, index of the key, counter) in the clear, then
ciphertext and tag. The receiver drew the key and told it over the encrypted link, so whatever opens under it
was sealed by that peer, in this session. Over UDP it travels in the framing of RADIO/DISH; a PUSH carries it
bare. Within is a fragment of a message, a probe of the path, or the answer to one.

Everything is read in two steps, for they concern two kinds of people: ``header`` takes bytes from anybody and
says None to nonsense; ``decode_plain`` takes what a peer has sealed and raises ``WireError`` for a breach.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from brokerless.errors import WireError
from brokerless.protocol.wire import STREAM_ID_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 1
"""Of sealed datagrams; the first byte of each, and authenticated with it."""

DATAGRAM_BYTES_MAX = 1_200
"""Payload of a UDP packet. With its headers that stays below the 1,280 bytes that every IPv6 path carries
whole, and a tunnel may add some: a packet that the network takes apart is lost when any of its parts is."""

TAG_BYTES = 16

FRAGMENTS_MAX = 64
"""Fragments of one message: enough for 64 KiB (58), and a bound on what a single number can declare."""

PREFIX = b"\x02db"
"""Opens a UDP datagram: the group's length and the group, as RADIO writes them. One group serves all, for the
index says whose it is."""


class Kind(enum.IntEnum):
    """What is within; the value is its byte on the wire."""

    UNRELIABLE = 1
    SEQUENCED = 2
    PROBE = 3
    ANSWER = 4


class Fragment(NamedTuple):
    """One piece of a message, which may be all of it. Only the last may be short of ``PAYLOAD_BYTES_MAX``.

    ``number`` runs over all messages of a session and direction, of every stream and channel: all fragments
    of a message bear the same, and within one stream or channel the order of numbers is that of sending.
    Stream 0 carries single messages; elsewhere the channel is 0.
    """

    kind: Kind
    stream_id: int
    channel: int
    number: int
    fragment: int
    fragments: int
    payload: bytes


class Probe(NamedTuple):
    """Ask if this path leads there."""

    token: int


class Answer(NamedTuple):
    """It does. ``received`` of the ``highest`` datagrams so far came here, under all indexes together."""

    token: int
    received: int
    highest: int


Plain: TypeAlias = Fragment | Probe | Answer

_HEADER = struct.Struct("!BQQ")
_FRAGMENT = struct.Struct("!BIQIQBB")
_PROBE = struct.Struct("!BIQ16x")  # padded to the size of its answer: no reply is larger than what asked
_ANSWER = struct.Struct("!BIQQQ")
_NONCE_PAD = bytes(4)
_COUNTER_AT = 9
"""Where in the header: the nonce is zeros and the counter."""

HEADER_BYTES = _HEADER.size
STAMP_MODULUS = 2**32
"""A stamp is its sender's clock in microseconds, modulo this: only differences mean anything, and those of
packets that are under way are far below its 71 minutes."""

SEALED_BYTES_MAX = DATAGRAM_BYTES_MAX - len(PREFIX)
SEALED_BYTES_MIN = HEADER_BYTES + _FRAGMENT.size + TAG_BYTES
"""An empty message; nothing is smaller."""

PAYLOAD_BYTES_MAX = SEALED_BYTES_MAX - SEALED_BYTES_MIN
"""Of one fragment."""

MESSAGE_BYTES_MAX = FRAGMENTS_MAX * PAYLOAD_BYTES_MAX
"""What fragments can carry; the limit that applies to messages, 64 KiB, lies below it."""

_FRAGMENT_KINDS = {int(kind): kind for kind in (Kind.UNRELIABLE, Kind.SEQUENCED)}


class Cipher(Protocol):
    """ChaCha20-Poly1305 (RFC 8439) under one key. It is handed in, since it is no work for Python."""

    def seal(self, nonce: bytes, plain: bytes, header: bytes, /) -> bytes:
        """Return ciphertext and tag of ``plain``; the tag covers ``header``, too."""

    def open(self, nonce: bytes, sealed: bytes, header: bytes, /) -> bytes | None:
        """Return the plain bytes, or None if one bit of all this is not what was sealed."""


class Sealer:
    """Seals under one key. Commands: ``seal``."""

    __slots__ = ("_seal", "counter", "index")

    def __init__(self, index: int, cipher: Cipher) -> None:
        self.index = index
        self.counter = 0
        """Of the last datagram sealed. It is the nonce: it never restarts, and neither does an index."""
        self._seal = cipher.seal

    def seal(self, plain: bytes) -> bytes:
        """Return a datagram with ``plain`` within, under the next counter."""
        counter = self.counter = self.counter + 1
        header = _HEADER.pack(VERSION, self.index, counter)
        return header + self._seal(_NONCE_PAD + header[_COUNTER_AT:], plain, header)


class Opener:
    """Opens what was sealed under one key. Queries: ``open``."""

    __slots__ = ("_open",)

    def __init__(self, cipher: Cipher) -> None:
        self._open = cipher.open

    def open(self, sealed: bytes) -> bytes | None:
        """Return what is within, or None if it was forged or damaged. Ask ``header`` before."""
        header = sealed[:HEADER_BYTES]
        return self._open(_NONCE_PAD + header[_COUNTER_AT:], sealed[HEADER_BYTES:], header)


def header(sealed: bytes) -> tuple[int, int] | None:
    """Return index and counter of a sealed datagram, or None for what cannot be one."""
    if not SEALED_BYTES_MIN <= len(sealed) <= SEALED_BYTES_MAX or sealed[0] != VERSION:
        return None
    _, index, counter = _HEADER.unpack_from(sealed)
    return index, counter


def frame_udp(sealed: bytes) -> bytes:
    """Return the payload of a UDP packet that carries ``sealed``."""
    return PREFIX + sealed


def unframe_udp(data: bytes) -> bytes | None:
    """Return what the payload of a UDP packet carries, or None if it is none of ours."""
    return data[len(PREFIX) :] if data.startswith(PREFIX) else None


def encode_fragment(
    kind: Kind,
    stream_id: int,
    channel: int,
    number: int,
    fragment: int,
    fragments: int,
    payload: bytes,
    stamp: int,
) -> bytes:
    """Return the plain bytes of a ``Fragment`` of these, stamped."""
    return _FRAGMENT.pack(kind, stamp, stream_id, channel, number, fragment, fragments) + payload


def encode_probe(token: int, stamp: int) -> bytes:
    """Return the plain bytes of a ``Probe``, stamped."""
    return _PROBE.pack(Kind.PROBE, stamp, token)


def encode_answer(token: int, received: int, highest: int, stamp: int) -> bytes:
    """Return the plain bytes of an ``Answer``, stamped."""
    return _ANSWER.pack(Kind.ANSWER, stamp, token, received, highest)


def decode_plain(plain: bytes) -> tuple[int, Plain]:
    """Return the stamp and the content. Raises ``WireError`` for anything else than a well-formed one."""
    kind = _FRAGMENT_KINDS.get(plain[0]) if plain else None
    if kind is None:
        return _decode_other(plain)
    if len(plain) < _FRAGMENT.size:
        raise WireError("a truncated fragment")
    _, stamp, stream_id, channel, number, position, fragments = _FRAGMENT.unpack_from(plain)
    payload = plain[_FRAGMENT.size :]
    if not position < fragments <= FRAGMENTS_MAX:
        raise WireError(f"fragment {position} of {fragments}")
    if number == 0 or stream_id > STREAM_ID_MAX or (stream_id and channel):
        raise WireError("a fragment out of range")
    # With every size but the last's given, a message has one way to be cut, and joining it needs no offsets.
    size = len(payload)
    if size != PAYLOAD_BYTES_MAX and (
        size > PAYLOAD_BYTES_MAX or position != fragments - 1 or (size == 0 and fragments > 1)
    ):
        raise WireError(f"fragment {position} of {fragments} with {size} bytes")
    return stamp, Fragment(kind, stream_id, channel, number, position, fragments, payload)


def _decode_other(plain: bytes) -> tuple[int, Plain]:
    try:
        return _DECODERS[plain[0]](plain)
    except struct.error:
        raise WireError(f"a probe or answer of {len(plain)} bytes") from None
    except LookupError:
        raise WireError("a datagram of no known kind") from None


def _decode_probe(plain: bytes) -> tuple[int, Probe]:
    _, stamp, token = _PROBE.unpack(plain)
    return stamp, Probe(token)


def _decode_answer(plain: bytes) -> tuple[int, Answer]:
    _, stamp, token, received, highest = _ANSWER.unpack(plain)
    return stamp, Answer(token, received, highest)


_DECODERS: dict[int, Callable[[bytes], tuple[int, Plain]]] = {
    Kind.PROBE: _decode_probe,
    Kind.ANSWER: _decode_answer,
}
