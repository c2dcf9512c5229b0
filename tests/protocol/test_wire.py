"""The wire against its vectors, against a second statement of every bound, and against nonsense."""

from __future__ import annotations

import json
import random
import re
import struct
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.errors import WireError
from brokerless.protocol import wire
from brokerless.protocol.wire import (
    Accept,
    Blocked,
    Chunk,
    Close,
    Data,
    Finish,
    Frame,
    Goodbye,
    Grant,
    Info,
    Met,
    Open,
    Packet,
    Ping,
    Pong,
    Probed,
    Reject,
    Reset,
    decode_packet,
    encode_packet,
)

VECTORS = json.loads((Path(__file__).parent / "wire_vectors.json").read_text(encoding="utf-8"))
SPECIFICATION = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")

U32 = 2**32 - 1
U64 = 2**64 - 1
ID = 2**62 - 1
RELIABILITY = 2
NAME = (str, 64)
TEXT = (str, 1024)
BLOB = (bytes, 4096)
CLAIM = (bytes, 48)

# What docs/wire.md says of each field: a number is the largest value, otherwise (type, most bytes).
CODES: dict[type, int] = {
    Open: 0x01,
    Accept: 0x02,
    Reject: 0x03,
    Grant: 0x06,
    Blocked: 0x07,
    Finish: 0x08,
    Close: 0x09,
    Reset: 0x0A,
    Ping: 0x11,
    Pong: 0x12,
    Goodbye: 0x13,
    Probed: 0x14,
    Met: 0x80,
}
FIELDS: dict[type, tuple[Any, ...]] = {
    Open: (ID, RELIABILITY, NAME, BLOB, U32),
    Accept: (ID, BLOB, U64),
    Reject: (ID, U32, TEXT),
    Grant: (ID, U64, U64),
    Blocked: (ID, U64),
    Finish: (ID, U64),
    Close: (ID, U64),
    Reset: (ID, U32, TEXT, U64),
    Ping: (U64, U64),
    Pong: (U64,),
    Goodbye: (U32, TEXT, CLAIM),
    Probed: (U64, U64, U64),
    Met: ((bytes, 32), (str, 768)),
}
INFO_FIELDS: dict[str, Any] = {
    "boot": U64,
    "epoch": U32,
    "their_boot": U64,
    "their_epoch": U32,
    "received": U64,
    "message_bytes_max": U32,
    "stream_credit": U32,
    "single_credit": U32,
    "streams_max": U32,
    "offers_max": U32,
    "liveness_ms": U32,
    "name": NAME,
    "metadata": BLOB,
    "datagram_index": U64,
    "datagram_key": (bytes, 32),
    "datagram_message_bytes_max": U32,
    "udp_places": (str, 768),
    "pull_places": (str, 768),
    "tcp_places": (str, 768),
    "claim": CLAIM,
}
INFO_PAIR = {"datagram_index", "datagram_key"}
"""Either of them means nothing alone."""
INFO_OPTIONAL = {
    *("their_boot", "their_epoch", "received", "offers_max", "name", "metadata"),
    *("datagram_message_bytes_max", "udp_places", "pull_places", "tcp_places", "claim"),
}
EVERY_FIELD = [(kind, position) for kind, allowed in FIELDS.items() for position in range(len(allowed))]


def encode(frame: Frame) -> bytes:
    match frame:
        case Info():
            return wire.encode_info(frame)
        case Data():
            return wire.encode_data(*frame)
        case Chunk():
            return wire.encode_chunk(frame)
        case _:
            return wire.encode_control(frame)


def framed(code: int, body: bytes) -> bytes:
    return struct.pack("!BI", code, len(body)) + body


def packet(*frames: bytes) -> bytes:
    return struct.pack("!QQ", 1, 0) + b"".join(frames)


def control(kind: type, values: Any) -> bytes:
    return packet(framed(CODES[kind], msgpack.packb(values)))


def info(values: dict[Any, Any]) -> bytes:
    return packet(framed(0x10, msgpack.packb(values)))


def data(run: bytes, *, stream_id: int = 2, first_sequence: int = 1, channel: int = 0) -> bytes:
    return packet(framed(0x04, struct.pack("!QQI", stream_id, first_sequence, channel) + run))


def chunk(payload: bytes, *, total: int, offset: int = 0, stream_id: int = 2, sequence: int = 1) -> bytes:
    return packet(framed(0x05, struct.pack("!QQIII", stream_id, sequence, 0, total, offset) + payload))


def only_frame(data: bytes) -> Frame:
    (frame,) = decode_packet(data).frames
    return frame


def smallest(allowed: Any) -> Any:
    return 0 if isinstance(allowed, int) else allowed[0]()


def largest(allowed: Any) -> Any:
    if isinstance(allowed, int):
        return allowed
    kind, size = allowed
    return "ü" * (size // 2) if kind is str else b"\xff" * size


def beyond(allowed: Any) -> list[Any]:
    """Return what is just not allowed, and what is of another type."""
    if isinstance(allowed, int):
        over = [allowed + 1] if allowed < U64 else []  # msgpack itself ends there
        return [*over, -1, True, 1.0, None, "1", b"1", [1], {"a": 1}]
    one, other = ("n", b"n") if allowed[0] is str else (b"n", "n")
    return [largest(allowed) + one, other, 1, True, None, []]


def of_json(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    return [of_json(item) for item in value] if isinstance(value, list) else value


def frame_of_json(name: str, values: dict[str, Any]) -> Frame:
    kind = getattr(wire, name.title())
    return kind(**{field: of_json(value) for field, value in values.items()})


def packet_of_json(vector: dict[str, Any]) -> Packet:
    frames = [frame_of_json(frame["type"], frame["fields"]) for frame in vector["frames"]]
    return Packet(vector["number"], vector["acknowledged"], frames)


def names(vectors: str) -> Any:
    return pytest.mark.parametrize("vector", VECTORS[vectors], ids=lambda vector: vector["name"])


# Vectors


@names("frames")
def test_frame_vectors_both_ways(vector: dict[str, Any]) -> None:
    frame = frame_of_json(vector["name"], vector["fields"])
    assert encode(frame).hex() == vector["bytes"]
    assert only_frame(packet(bytes.fromhex(vector["bytes"]))) == frame


def test_every_frame_has_a_vector() -> None:
    assert {vector["name"] for vector in VECTORS["frames"]} == {
        kind.__name__.upper() for kind in (*FIELDS, Data, Chunk, Info)
    }


@names("packets")
def test_packet_vectors_both_ways(vector: dict[str, Any]) -> None:
    expected = packet_of_json(vector)
    assert decode_packet(bytes.fromhex(vector["bytes"])) == expected
    encoded = encode_packet(expected.number, expected.acknowledged, map(encode, expected.frames))
    assert encoded.hex() == vector["bytes"]


@names("packets_only_read")
def test_packets_that_others_may_send(vector: dict[str, Any]) -> None:
    assert decode_packet(bytes.fromhex(vector["bytes"])) == packet_of_json(vector)


@names("invalid_packets")
def test_invalid_packets(vector: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=re.escape(vector["error"])):
        decode_packet(bytes.fromhex(vector["bytes"]))


def test_the_specification_shows_the_vectors() -> None:
    known = {
        vector["name"]: vector["bytes"]
        for kind in ("handshakes", "frames", "packets", "packets_only_read")
        for vector in VECTORS[kind]
    }
    known |= {vector["name"]: vector["udp"] for vector in VECTORS["datagrams"]}
    known |= {f"{vector['name']}, within": vector["plain"] for vector in VECTORS["datagrams"]}
    blocks = re.findall(r"^```hex (.+)\n((?:.*\n)+?)```$", SPECIFICATION, re.MULTILINE)
    shown = {name: re.sub(r"#.*|\s", "", text) for name, text in blocks}
    assert shown == {name: known.get(name) for name in shown}
    assert {vector["name"] for vector in VECTORS["frames"]} <= set(shown)
    assert {f"{vector['name']}, within" for vector in VECTORS["datagrams"]} <= set(shown)
    assert set(VECTORS["proof"].values()) | {VECTORS["datagram_key"]} <= set(
        re.findall(r"\b[0-9a-f]{64}\b", SPECIFICATION)
    )


# Round trips


def strategy_of(allowed: Any) -> st.SearchStrategy[Any]:
    if isinstance(allowed, int):
        return st.integers(0, allowed)
    kind, size = allowed
    if kind is bytes:
        return st.binary(max_size=size)
    return st.text(max_size=size).filter(lambda text: len(text.encode()) <= size)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    payload = draw(st.binary(min_size=1, max_size=100))
    total = draw(st.integers(len(payload), U32))
    offset = draw(st.integers(0, total - len(payload)))
    return Chunk(
        draw(st.integers(0, ID)), draw(st.integers(1, U64)), draw(st.integers(0, U32)), total, offset, payload
    )


FRAMES: st.SearchStrategy[Frame] = st.one_of(
    *(
        st.builds(kind, *(strategy_of(allowed) for allowed in allowed_fields))
        for kind, allowed_fields in FIELDS.items()
    ),
    st.builds(Info, **{name: strategy_of(allowed) for name, allowed in INFO_FIELDS.items()}).map(
        lambda info: replace(info, datagram_key=bytes(32) if info.datagram_index else b"")
    ),
    st.builds(
        Data,
        st.integers(0, ID),
        st.integers(1, U64 - 100),
        st.integers(0, U32),
        st.lists(st.binary(max_size=400), min_size=1, max_size=40),
    ),
    chunks(),
)


@given(st.integers(0, U64), st.integers(0, U64), st.lists(FRAMES, max_size=4))
def test_what_is_packed_is_unpacked(number: int, acknowledged: int, frames: list[Frame]) -> None:
    packed = encode_packet(number, acknowledged, map(encode, frames))
    assert decode_packet(packed) == Packet(number, acknowledged, frames)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 255, 32 * 1024])
def test_runs_of_any_count(count: int) -> None:
    messages = [b""] * count
    assert only_frame(packet(wire.encode_data(0, 1, 7, messages))) == Data(0, 1, 7, messages)


def test_a_run_of_more_messages_than_sixteen_bits_count() -> None:
    # Too large for a packet, but the array header that the encoder takes off has a third form there.
    run = wire.encode_data(2, 1, 0, [b"a"] * 65536)[wire.DATA_OVERHEAD_BYTES :]
    assert run == b"\xc4\x01a" * 65536


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, 65536])
def test_messages_of_any_size_cost_at_most_the_stated_overhead(size: int) -> None:
    message = b"m" * size
    encoded = wire.encode_data(2, 1, 0, [message])
    assert len(encoded) <= wire.DATA_OVERHEAD_BYTES + wire.MESSAGE_OVERHEAD_BYTES + size
    assert only_frame(packet(encoded)) == Data(2, 1, 0, [message])


def test_full_runs_and_chunks_fit_a_packet_with_the_largest_control_frame() -> None:
    beside = encode(Open(ID, 2, "n" * 64, b"m" * 4096, U32))
    longest = [
        encode(Data(ID, 1, U32, [b"m" * (wire.RUN_BYTES_MAX - wire.MESSAGE_OVERHEAD_BYTES)])),
        encode(Chunk(ID, 1, U32, U32, 0, b"c" * wire.CHUNK_BYTES_MAX)),
    ]
    for frame in longest:
        assert len(decode_packet(packet(beside, frame)).frames) == 2


# Bounds


@pytest.mark.parametrize("kind", FIELDS)
def test_control_frames_at_their_bounds(kind: Any) -> None:
    for value_of in (smallest, largest):
        values = [value_of(allowed) for allowed in FIELDS[kind]]
        assert only_frame(control(kind, values)) == kind(*values)
        assert only_frame(packet(wire.encode_control(kind(*values)))) == kind(*values)


@pytest.mark.parametrize(("kind", "position"), EVERY_FIELD)
def test_control_frames_beyond_their_bounds(kind: Any, position: int) -> None:
    values = [smallest(allowed) for allowed in FIELDS[kind]]
    for wrong in beyond(FIELDS[kind][position]):
        with pytest.raises(WireError, match=f"{kind.__name__}: expected"):
            decode_packet(control(kind, [*values[:position], wrong, *values[position + 1 :]]))


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_may_follow_but_not_lack(kind: Any) -> None:
    values = [smallest(allowed) for allowed in FIELDS[kind]]
    assert only_frame(control(kind, [*values, "new", None, -1, 0.5, [True], {"k": b"v"}])) == kind(*values)
    if kind is Goodbye:  # an empty claim need not be said
        assert only_frame(control(kind, values[:-1])) == kind(*values)
        del values[-1]
    with pytest.raises(WireError, match="too few fields"):
        decode_packet(control(kind, values[:-1]))


def test_at_most_thirty_two_fields() -> None:
    assert only_frame(control(Pong, [5] * 32)) == Pong(5)
    with pytest.raises(WireError):
        decode_packet(control(Pong, [5] * 33))
    values = info_values(largest)
    more = {f"later {number}": number for number in range(32 - len(values))}
    assert only_frame(info({**values, **more})) == Info(**values)
    with pytest.raises(WireError):
        decode_packet(info({**values, **more, "one more": 0}))


def test_control_bodies_are_bounded() -> None:
    room = (
        7 * 1024 - len(msgpack.packb([5, b""])) - 1
    )  # a byte string of more than 255 has one more of length
    assert only_frame(control(Pong, [5, b"r" * room])) == Pong(5)
    with pytest.raises(WireError, match="a control frame of 7169 bytes"):
        decode_packet(control(Pong, [5, b"r" * (room + 1)]))


def info_values(value_of: Any) -> dict[str, Any]:
    return {name: value_of(allowed) for name, allowed in INFO_FIELDS.items()}


def test_info_at_its_bounds() -> None:
    assert set(INFO_FIELDS) == {field.name for field in fields(Info)}
    for value_of in (smallest, largest):
        values = info_values(value_of)
        assert only_frame(info(values)) == Info(**values)
        assert only_frame(packet(wire.encode_info(Info(**values)))) == Info(**values)


@pytest.mark.parametrize("name", INFO_FIELDS)
def test_info_beyond_its_bounds(name: str) -> None:
    for wrong in beyond(INFO_FIELDS[name]):
        with pytest.raises(WireError, match=f"INFO {name}: expected"):
            decode_packet(info({**info_values(smallest), name: wrong}))


@pytest.mark.parametrize("name", INFO_FIELDS)
def test_info_with_a_field_missing(name: str) -> None:
    values = info_values(largest)
    del values[name]
    if name in INFO_OPTIONAL:
        assert only_frame(info(values)) == Info(**values)
    elif name in INFO_PAIR:
        with pytest.raises(WireError, match="INFO: datagram index"):
            decode_packet(info(values))
        for other in INFO_PAIR - {name}:
            del values[other]
        assert only_frame(info(values)) == Info(**values)
    else:
        with pytest.raises(WireError, match="a required field is missing"):
            decode_packet(info(values))


@pytest.mark.parametrize("size", [1, 16, 31])
def test_a_datagram_key_is_whole(size: int) -> None:
    with pytest.raises(WireError, match=f"INFO: datagram index 5, {size} bytes of key"):
        decode_packet(info({**info_values(smallest), "datagram_index": 5, "datagram_key": bytes(size)}))


def test_sixteen_of_the_longest_places_fit() -> None:
    longest = "[" + ":".join(["ffff"] * 8) + "]:65535"
    values = {**info_values(largest), "udp_places": ",".join([longest] * 16)}
    assert only_frame(packet(encode(Info(**values)))) == Info(**values)


def test_info_ignores_keys_that_it_does_not_know() -> None:
    values = info_values(largest)
    assert only_frame(info({**values, "_BOUNDS": 1, "later": [2], b"raw": None})) == Info(**values)


@pytest.mark.parametrize("where", ["INFO", "a field beyond the known"])
def test_a_map_with_a_key_twice_is_refused(where: str) -> None:
    twice = b"\x82" + msgpack.packb("boot") + b"\x01" + msgpack.packb("boot") + b"\x01"
    frame = framed(0x10, twice) if where == "INFO" else framed(CODES[Pong], b"\x92\x05" + twice)
    with pytest.raises(WireError):
        decode_packet(packet(frame))


def test_data_at_and_beyond_its_bounds() -> None:
    run = b"\xc4\x01a\xc4\x01b"
    expected = Data(ID, U64 - 2, U32, [b"a", b"b"])
    assert only_frame(data(run, stream_id=ID, first_sequence=U64 - 2, channel=U32)) == expected
    for wrong in ({"stream_id": ID + 1}, {"first_sequence": U64 - 1}, {"first_sequence": 0}):
        with pytest.raises(WireError, match="out of range"):
            decode_packet(data(run, **wrong))


def test_a_run_cut_anywhere_but_between_messages_is_refused() -> None:
    messages = [b"", b"a", b"\xc0" * 3, b"b" * 300, b"\x00" * 70]
    run, ends = b"", {}
    for count, message in enumerate(messages, 1):
        run += msgpack.packb(message)
        ends[len(run)] = messages[:count]
    for length in range(len(run) + 1):
        if length in ends:
            assert only_frame(data(run[:length])) == Data(2, 1, 0, ends[length])
        else:
            with pytest.raises(WireError, match="no sequence of byte strings"):
                decode_packet(data(run[:length]))


def test_a_run_holds_nothing_but_byte_strings() -> None:
    length_bytes = {0xC4: 1, 0xC5: 2, 0xC6: 4}
    for first, size in length_bytes.items():
        assert only_frame(data(b"\xc4\x01a" + bytes((first,)) + bytes(size))) == Data(2, 1, 0, [b"a", b""])
    for first in set(range(256)) - set(length_bytes):
        for tail in (b"", bytes(1), bytes(2), bytes(4), bytes(8), bytes(64), b"\xc4\x01a"):
            with pytest.raises(WireError, match="no sequence of byte strings"):
                decode_packet(data(b"\xc4\x01a" + bytes((first,)) + tail))


def test_chunks_at_and_beyond_their_bounds() -> None:
    full = b"c" * wire.CHUNK_BYTES_MAX
    last = Chunk(ID, U64, 0, U32, U32 - 1, b"c")
    assert only_frame(chunk(b"c", total=U32, offset=U32 - 1, stream_id=ID, sequence=U64)) == last
    assert only_frame(chunk(full, total=len(full))) == Chunk(2, 1, 0, len(full), 0, full)
    for payload, wrong in (
        (b"c", {"total": 1, "stream_id": ID + 1}),
        (b"c", {"total": 1, "sequence": 0}),
        (b"c", {"total": 1, "offset": 1}),
        (b"c", {"total": U32, "offset": U32}),
        (b"c", {"total": 0}),
        (full + b"c", {"total": U32}),
    ):
        with pytest.raises(WireError, match=r"a chunk (out of range|beyond its message)"):
            decode_packet(chunk(payload, **wrong))


def test_unknown_frames_are_passed_over_or_refused_by_their_highest_bit() -> None:
    for code in set(range(256)) - {*CODES.values(), 0x04, 0x05, 0x10}:
        frame = framed(code, b"\xc1\xff")
        if code >= 0x80:
            assert decode_packet(packet(frame, encode(Pong(5)), frame)).frames == [Pong(5)]
        else:
            with pytest.raises(WireError, match=f"unknown frame type 0x{code:02x}"):
                decode_packet(packet(frame))


def test_packets_are_bounded() -> None:
    room = wire.PACKET_BYTES_MAX - wire.PACKET_HEADER_BYTES - wire.FRAME_HEADER_BYTES
    assert decode_packet(packet(framed(0xFF, bytes(room)))).frames == []
    with pytest.raises(WireError, match="a packet of 73729 bytes"):
        decode_packet(packet(framed(0xFF, bytes(room + 1))))


# Nonsense

ALLOCATION_BYTES_MAX = 2 * 1024 * 1024
"""What a packet of 72 KiB may make the decoder take: two-byte messages, all right, take half of it."""

SMALL_ALLOCATION_BYTES_MAX = 64 * 1024
"""What a small one may: msgpack's unpacker takes 41 KiB for its own stack."""

ROOM = wire.PACKET_BYTES_MAX - wire.PACKET_HEADER_BYTES - wire.DATA_OVERHEAD_BYTES

GREEDY = {
    "empty arrays in a run": data(b"\x90" * ROOM),
    "empty maps in a run": data(b"\x80" * ROOM),
    "extensions in a run": data(b"\xc7\x00\x01" * (ROOM // 3)),
    "large numbers in a run": data(b"\xce\xff\xff\xff\xff" * (ROOM // 5)),
    "nils in a run": data(b"\xc0" * ROOM),
    "short messages": data(b"\xc4\x02ab" * (ROOM // 4)),
    "empty messages": data(b"\xc4\x00" * (ROOM // 2)),
    "pongs": packet(framed(CODES[Pong], b"\x91\xcf" + b"\xf1" * 8) * (ROOM // 15)),
    "unknown frames": packet(framed(0xFF, b"") * (ROOM // 5)),
}
GREEDY_AND_SMALL = {
    f"{where} of {declared.hex()}": make(declared)
    for declared in map(
        bytes.fromhex,
        ("ddffffffff", "dcffff", "dfffffffff", "deffff", "dbffffffff", "c6ffffffff", "c9ffffffff01"),
    )
    for where, make in {
        "a run": lambda declared: data(declared + b"a"),
        "a body": lambda declared: packet(framed(CODES[Pong], declared + b"a")),
        "an element": lambda declared: packet(framed(CODES[Pong], b"\x92\x05" + declared + b"a")),
        "an INFO": lambda declared: packet(framed(0x10, b"\x81" + msgpack.packb("name") + declared)),
    }.items()
} | {
    "a frame length": packet(struct.pack("!BI", 0xFF, U32)),
    "a chunk's total": chunk(b"c", total=U32),
}
WIDE = b"\xdc\x00\x20"
NESTED = {
    "arrays a thousand deep": packet(framed(CODES[Pong], b"\x91" * 1000 + b"\x01")),
    "arrays deeper than msgpack goes": packet(framed(CODES[Pong], b"\x91" * 6000)),
    "wide arrays, deep": packet(framed(CODES[Pong], WIDE * 1000 + b"\x01" * 3000)),
    "maps in arrays": packet(
        framed(CODES[Pong], WIDE + (WIDE + (WIDE + b"\x80" * 32) * 32) * 5 + b"\x80" * 27)
    ),
    "maps a thousand deep": packet(framed(0x10, b"\x81\xa1k" * 1000 + b"\x01")),
}


def peak_bytes(data: bytes) -> int:
    tracemalloc.start()
    try:
        decode_packet(data)
    except WireError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", GREEDY)
def test_a_large_packet_takes_bounded_memory(name: str) -> None:
    assert peak_bytes(GREEDY[name]) <= ALLOCATION_BYTES_MAX


@pytest.mark.parametrize("name", GREEDY_AND_SMALL)
def test_a_declared_length_takes_no_memory(name: str) -> None:
    assert peak_bytes(GREEDY_AND_SMALL[name]) <= SMALL_ALLOCATION_BYTES_MAX


@pytest.mark.parametrize("name", NESTED)
def test_nesting_takes_bounded_memory_and_no_stack(name: str) -> None:
    with pytest.raises(WireError):
        decode_packet(NESTED[name])
    assert peak_bytes(NESTED[name]) <= ALLOCATION_BYTES_MAX


def nonsense(chance: random.Random, samples: list[bytes]) -> bytes:
    """Return random bytes, random frames, or a valid packet with something wrong in it."""
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.randrange(120))
        case 1:
            codes = [*CODES.values(), 0x04, 0x05, 0x10, 0xFF]
            return packet(framed(chance.choice(codes), chance.randbytes(chance.randrange(60))))
        case 2:
            return data(chance.choice([b"", b"\xc4\x01a"]) + chance.randbytes(chance.randrange(8)))
        case 3:
            one, other = chance.choice(samples), chance.choice(samples)
            return one[: chance.randrange(len(one))] + other[chance.randrange(len(other)) :]
        case _:
            changed = bytearray(chance.choice(samples))
            for _ in range(chance.randrange(1, 4)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            return bytes(changed)


def test_nonsense_is_refused_or_means_something() -> None:
    chance = random.Random("wire")
    samples = [packet(bytes.fromhex(vector["bytes"])) for vector in VECTORS["frames"]]
    samples += [
        bytes.fromhex(v["bytes"])
        for kind in ("packets", "invalid_packets")
        for v in VECTORS[kind]
        if v["bytes"]
    ]
    accepted = refused = 0
    for _ in range(20_000):
        tried = nonsense(chance, samples)
        try:
            understood = decode_packet(tried)
        except WireError:
            refused += 1
        else:
            accepted += 1
            again = encode_packet(understood.number, understood.acknowledged, map(encode, understood.frames))
            assert decode_packet(again) == understood, tried.hex()
    assert accepted > 1_000
    assert refused > 10_000
