"""Packets and frames: the bytes of a session. ``docs/wire.md`` is the normative text.

A *packet* is one ZeroMQ message: a header with its number and an acknowledgement, then *frames*. A control
frame is a msgpack array of scalars; the two data frames have fixed headers, because they are the hot path:
a ``Data`` frame carries a run of messages that msgpack's C code packs and unpacks without Python work for
each. Everything is checked here, so nobody above sees a value of the wrong type or out of its range.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import msgpack

from brokerless.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

VERSION = 1
"""Of everything after HELLO; agreed there."""

RUN_BYTES_MAX = 64 * 1024
"""Packed messages in one data frame: large enough to amortise a packet, small enough to be overtaken."""

CHUNK_BYTES_MAX = 64 * 1024
"""Payload of one chunk; a message above it travels in several, so that small ones slip in between."""

CONTROL_BODY_BYTES_MAX = 7 * 1024
"""Largest control frame: INFO with 4 KiB of metadata and all places, and a little to grow."""

PACKET_BYTES_MAX = 72 * 1024
"""Largest packet: one full run or chunk and the control frames beside it."""

RELIABILITIES = ("reliable", "unreliable", "sequenced")
"""Index of each on the wire."""

DATAGRAM_KEY_BYTES = 32

CLAIM_BYTES = 48

PLACES_BYTES_MAX = 768
"""The places of a node for one purpose, in INFO: sixteen of the longest, those with an IPv6 address."""

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
STREAM_ID_MAX = 2**62 - 1
BUS_CODE_MIN = 2**31
"""Codes of rejections and resets from here on are the bus's own; those below belong to applications."""

FIELDS_MAX = 32
"""Most fields of a control frame, known or not: bounds what a small body can make msgpack allocate."""

OPTIONAL_FRAME = 0x80
"""A frame type with this bit may be ignored by who does not know it; any other unknown one is an error."""

_PACKET = struct.Struct("!QQ")
_FRAME = struct.Struct("!BI")
_DATA = struct.Struct("!QQI")
_CHUNK = struct.Struct("!QQIII")
_NIL = b"\xc0"

PACKET_HEADER_BYTES = _PACKET.size
FRAME_HEADER_BYTES = _FRAME.size
DATA_OVERHEAD_BYTES = _FRAME.size + _DATA.size
CHUNK_OVERHEAD_BYTES = _FRAME.size + _CHUNK.size
MESSAGE_OVERHEAD_BYTES = 5
"""Most that msgpack adds to one message of a run."""


# Control frames, numbered: they travel once each, in order.


class Open(NamedTuple):
    """Offer a stream. ``credit``: what the other end may send on it before any grant."""

    stream_id: int
    reliability: int
    name: str
    metadata: bytes
    credit: int


class Accept(NamedTuple):
    """Take an offered stream. ``credit``: the opener's new cumulative limit."""

    stream_id: int
    metadata: bytes
    credit: int


class Reject(NamedTuple):
    """Turn an offered stream down."""

    stream_id: int
    code: int
    reason: str


class Grant(NamedTuple):
    """Raise the sender's cumulative limit; ``consumed``: last sequence that the application consumed."""

    stream_id: int
    limit: int
    consumed: int


class Blocked(NamedTuple):
    """The next message of the stream needs the cumulative limit to be at least this."""

    stream_id: int
    limit: int


class Finish(NamedTuple):
    """No message follows ``last_sequence``."""

    stream_id: int
    last_sequence: int


class Close(NamedTuple):
    """The application here consumes no more; it did consume up to ``last_consumed``."""

    stream_id: int
    last_consumed: int


class Reset(NamedTuple):
    """Drop the stream, both directions, now."""

    stream_id: int
    code: int
    reason: str
    last_consumed: int


class Met(NamedTuple):
    """The sender has a session with this other peer, which said it may be dialled there; "": no longer."""

    address: bytes
    places: str


# Control frames, unnumbered: they concern the link that carries them.


class Ping(NamedTuple):
    """Ask for a sign of life; ``sent``: highest packet number sent on this link."""

    token: int
    sent: int


class Pong(NamedTuple):
    """Answer to the ping with the same token."""

    token: int


class Farewell(enum.IntEnum):
    """Why a session ends. A reader takes codes that it does not know as a plain end."""

    LEFT = 1
    """The node is closing."""
    FAULT = 2
    """The reader broke the protocol."""
    SUPERSEDED = 3
    """Another process has the reader's identity, and came later; the claim proves it."""
    SILENT = 4
    """The reader was not heard for the liveness limit."""
    REFUSED = 5
    """The node's ``admit`` said no."""


class Probed(NamedTuple):
    """A datagram's probe with this token came; ``received`` of the ``highest`` datagrams so far came."""

    token: int
    received: int
    highest: int


class Goodbye(NamedTuple):
    """Last word on a session: why it ends.

    ``claim``: with SUPERSEDED, that of the process which came later.
    """

    code: int
    reason: str
    claim: bytes = b""


class Data(NamedTuple):
    """A run of whole messages ``first_sequence, first_sequence + 1, …``. Stream 0 carries single messages."""

    stream_id: int
    first_sequence: int
    channel: int
    messages: list[bytes]


class Chunk(NamedTuple):
    """``payload`` at ``offset`` of one large message of ``total`` bytes; chunks come in order."""

    stream_id: int
    sequence: int
    channel: int
    total: int
    offset: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What each side tells about itself once both have proven the secret; travels as a map.

    Fields that the reader does not know are ignored, those missing take their default.
    """

    boot: int
    """Random, drawn at process start: tells a restart."""
    epoch: int
    """Counts the sessions of this process; with ``boot`` it is the session's nonce."""
    their_boot: int = 0
    """The other side's nonce as known here; both 0: none."""
    their_epoch: int = 0
    received: int = 0
    """Last packet number received in order under this session."""
    message_bytes_max: int
    stream_credit: int
    """What may be sent on a stream before any grant."""
    single_credit: int
    """Cumulative limit for single messages at the session's start."""
    streams_max: int
    offers_max: int = 256
    """Streams of the reader that may wait for acceptance; it had better not offer more."""
    liveness_ms: int
    name: str = ""
    metadata: bytes = b""
    datagram_index: int = 0
    """Under which the reader seals datagrams from now on; 0: the sender takes none."""
    datagram_key: bytes = b""
    """Its key, drawn for this INFO: ``DATAGRAM_KEY_BYTES``, or none without an index."""
    datagram_message_bytes_max: int = 64 * 1024
    """Largest unreliable message that the sender takes."""
    udp_places: str = ""
    """Where the sender takes datagrams: ``host:port`` or ``[host]:port``, comma separated."""
    pull_places: str = ""
    """The same for those that come by PUSH."""
    tcp_places: str = ""
    """Where the sender may be dialled, for the reader to tell others; none: nobody is told of it."""
    claim: bytes = b""
    """Proof of which process with its identity the sender is; see ``incarnation``. For it alone to check."""


StreamControl: TypeAlias = Open | Accept | Reject | Grant | Blocked | Finish | Close | Reset
Control: TypeAlias = StreamControl | Ping | Pong | Goodbye | Probed | Met
Frame: TypeAlias = Control | Data | Chunk | Info


class Packet(NamedTuple):
    """``number`` 0: not numbered. ``acknowledged``: last number received in order by who sent this."""

    number: int
    acknowledged: int
    frames: list[Frame]


# What each field of a control frame may be: an int is its largest value, otherwise (type, most bytes).

_TEXT = (str, 1024)
_NAME = (str, 64)
_BLOB = (bytes, 4096)
_CLAIM = (bytes, CLAIM_BYTES)
_SHAPES: dict[type[Control], tuple[int, tuple[int | tuple[type, int], ...]]] = {
    Open: (0x01, (STREAM_ID_MAX, len(RELIABILITIES) - 1, _NAME, _BLOB, U32_MAX)),
    Accept: (0x02, (STREAM_ID_MAX, _BLOB, U64_MAX)),
    Reject: (0x03, (STREAM_ID_MAX, U32_MAX, _TEXT)),
    Grant: (0x06, (STREAM_ID_MAX, U64_MAX, U64_MAX)),
    Blocked: (0x07, (STREAM_ID_MAX, U64_MAX)),
    Finish: (0x08, (STREAM_ID_MAX, U64_MAX)),
    Close: (0x09, (STREAM_ID_MAX, U64_MAX)),
    Reset: (0x0A, (STREAM_ID_MAX, U32_MAX, _TEXT, U64_MAX)),
    Ping: (0x11, (U64_MAX, U64_MAX)),
    Pong: (0x12, (U64_MAX,)),
    Goodbye: (0x13, (U32_MAX, _TEXT, _CLAIM)),
    Probed: (0x14, (U64_MAX, U64_MAX, U64_MAX)),
    Met: (0x80, ((bytes, 32), (str, PLACES_BYTES_MAX))),
}
_INFO_SHAPE: dict[str, int | tuple[type, int]] = {
    "boot": U64_MAX,
    "epoch": U32_MAX,
    "their_boot": U64_MAX,
    "their_epoch": U32_MAX,
    "received": U64_MAX,
    "message_bytes_max": U32_MAX,
    "stream_credit": U32_MAX,
    "single_credit": U32_MAX,
    "streams_max": U32_MAX,
    "offers_max": U32_MAX,
    "liveness_ms": U32_MAX,
    "name": _NAME,
    "metadata": _BLOB,
    "datagram_index": U64_MAX,
    "datagram_key": (bytes, DATAGRAM_KEY_BYTES),
    "datagram_message_bytes_max": U32_MAX,
    "udp_places": (str, PLACES_BYTES_MAX),
    "pull_places": (str, PLACES_BYTES_MAX),
    "tcp_places": (str, PLACES_BYTES_MAX),
    "claim": _CLAIM,
}
_CONTROL_BY_CODE = {code: (frame_type, shape) for frame_type, (code, shape) in _SHAPES.items()}
DATA_CODE = 0x04
CHUNK_CODE = 0x05
INFO_CODE = 0x10


def encode_control(frame: Control) -> bytes:
    """Return the bytes of one control frame."""
    body: bytes = msgpack.packb(tuple(frame))
    return _FRAME.pack(_SHAPES[type(frame)][0], len(body)) + body


def encode_info(info: Info) -> bytes:
    """Return the bytes of an INFO frame."""
    body: bytes = msgpack.packb({f.name: getattr(info, f.name) for f in fields(info)})
    return _FRAME.pack(INFO_CODE, len(body)) + body


def encode_data(stream_id: int, first_sequence: int, channel: int, messages: list[bytes]) -> bytes:
    """Return the bytes of a data frame with a run of whole messages."""
    run: bytes = msgpack.packb(messages)
    # The array's own header goes: an array inside a run could declare any length, and be nested; a bare
    # sequence of byte strings cannot, and the frame's length already says where it ends.
    count = len(messages)
    run = run[1 if count < 16 else 3 if count < 65536 else 5 :]
    return b"".join(
        (_FRAME.pack(DATA_CODE, _DATA.size + len(run)), _DATA.pack(stream_id, first_sequence, channel), run)
    )


def encode_chunk(chunk: Chunk) -> bytes:
    """Return the bytes of a chunk frame."""
    stream_id, sequence, channel, total, offset, payload = chunk
    return b"".join(
        (
            _FRAME.pack(CHUNK_CODE, _CHUNK.size + len(payload)),
            _CHUNK.pack(stream_id, sequence, channel, total, offset),
            payload,
        )
    )


def encode_packet(number: int, acknowledged: int, frames: Iterable[bytes]) -> bytes:
    """Return one packet of encoded frames."""
    return b"".join((_PACKET.pack(number, acknowledged), *frames))


def decode_packet(data: bytes) -> Packet:
    """Return the packet in ``data``. Raises ``WireError`` for anything else than a well-formed one."""
    if not PACKET_HEADER_BYTES <= len(data) <= PACKET_BYTES_MAX:
        raise WireError(f"a packet of {len(data)} bytes")
    number, acknowledged = _PACKET.unpack_from(data)
    frames: list[Frame] = []
    position, end = PACKET_HEADER_BYTES, len(data)
    while position < end:
        if end - position < FRAME_HEADER_BYTES:
            raise WireError("a truncated frame header")
        code, length = _FRAME.unpack_from(data, position)
        position += FRAME_HEADER_BYTES
        if length > end - position:
            raise WireError(f"frame 0x{code:02x} declares {length} bytes, {end - position} follow")
        body = data[position : position + length]
        position += length
        decode = _DECODERS.get(code)
        if decode is not None:
            frames.append(decode(body))
        elif code in _CONTROL_BY_CODE:
            frames.append(_decode_control(code, body))
        elif not code & OPTIONAL_FRAME:
            raise WireError(f"unknown frame type 0x{code:02x}")
    return Packet(number, acknowledged, frames)


def _decode_data(body: bytes) -> Data:
    if len(body) < _DATA.size:
        raise WireError("a truncated data frame")
    stream_id, first_sequence, channel = _DATA.unpack_from(body)
    run = body[_DATA.size :]
    # The hooks refuse the first thing that is no scalar: one byte declares an empty list, which takes 64.
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(run) + len(_NIL),
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
        max_str_len=0,
        list_hook=_refuse,
        object_hook=_refuse,
        ext_hook=_refuse,
    )
    unpacker.feed(run)
    try:
        messages = list(unpacker)
        # A run that breaks off within a message ends the iteration like a whole one, and tell() counts what
        # it has read of the broken one. A nil fed now comes out as nil only between two messages.
        unpacker.feed(_NIL)
        whole = unpacker.unpack() is None
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise WireError("a run that is no sequence of byte strings") from error
    if not whole or set(map(type, messages)) != {bytes}:
        raise WireError("a run that is no sequence of byte strings")
    if stream_id > STREAM_ID_MAX or not 0 < first_sequence <= U64_MAX - len(messages):
        raise WireError("a data frame out of range")
    return Data(stream_id, first_sequence, channel, messages)


def _decode_chunk(body: bytes) -> Chunk:
    if len(body) <= _CHUNK.size:
        raise WireError("a truncated chunk")
    stream_id, sequence, channel, total, offset = _CHUNK.unpack_from(body)
    chunk = Chunk(stream_id, sequence, channel, total, offset, body[_CHUNK.size :])
    if chunk.stream_id > STREAM_ID_MAX or chunk.sequence == 0:
        raise WireError("a chunk out of range")
    if len(chunk.payload) > CHUNK_BYTES_MAX or chunk.offset + len(chunk.payload) > chunk.total:
        raise WireError("a chunk beyond its message")
    return chunk


def _unpack(body: bytes) -> Any:
    if len(body) > CONTROL_BODY_BYTES_MAX:
        raise WireError(f"a control frame of {len(body)} bytes")
    try:
        return msgpack.unpackb(
            body,
            use_list=False,
            max_array_len=FIELDS_MAX,
            max_map_len=FIELDS_MAX,
            max_ext_len=0,
            object_pairs_hook=_map_of,
            ext_hook=_refuse,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError("a control frame that is no msgpack") from error


def _map_of(pairs: list[tuple[str | bytes, Any]]) -> dict[str | bytes, Any]:
    # Of two values for one key, two readers could each take another.
    if len(values := dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse(*_: object) -> NoReturn:
    raise ValueError("not allowed here")


def _decode_control(code: int, body: bytes) -> Control:
    frame_type, shape = _CONTROL_BY_CODE[code]
    values = _unpack(body)
    required = len(shape) - len(frame_type._field_defaults)
    if type(values) is not tuple or len(values) < required:
        raise WireError(f"{frame_type.__name__}: too few fields")
    for value, allowed in zip(values, shape, strict=False):  # what follows the known fields is ignored
        _check(frame_type.__name__, value, allowed)
    return frame_type(*values[: len(shape)])


def _check(where: str, value: Any, allowed: int | tuple[type, int]) -> None:
    if isinstance(allowed, int):
        if type(value) is not int or not 0 <= value <= allowed:
            # Only a number is shown: the repr of arrays nested a thousand deep is a RecursionError.
            got = value if type(value) is int else type(value).__name__
            raise WireError(f"{where}: expected 0 to {allowed}, got {got}")
        return
    kind, size_max = allowed
    encoded = value.encode() if isinstance(value, str) else value
    if type(value) is not kind or len(encoded) > size_max:
        raise WireError(f"{where}: expected {kind.__name__} of at most {size_max} bytes")


def _decode_info(body: bytes) -> Info:
    values = _unpack(body)
    if type(values) is not dict:
        raise WireError("INFO: not a map")
    known = {f.name: values[f.name] for f in fields(Info) if f.name in values}
    for name, value in known.items():
        _check(f"INFO {name}", value, _INFO_SHAPE[name])
    try:
        info = Info(**known)
    except TypeError as error:
        raise WireError("INFO: a required field is missing") from error
    if len(info.datagram_key) != (DATAGRAM_KEY_BYTES if info.datagram_index else 0):
        raise WireError(f"INFO: datagram index {info.datagram_index}, {len(info.datagram_key)} bytes of key")
    return info


_DECODERS: dict[int, Callable[[bytes], Frame]] = {
    DATA_CODE: _decode_data,
    CHUNK_CODE: _decode_chunk,
    INFO_CODE: _decode_info,
}
