"""Datagrams against a second statement of their layout and bounds, and against forgers and nonsense."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.cipher import ChaChaCipher
from brokerless.errors import WireError
from brokerless.protocol import datagram
from brokerless.protocol.datagram import (
    Answer,
    Fragment,
    Kind,
    Opener,
    Plain,
    Probe,
    Sealer,
    decode_plain,
    encode_answer,
    encode_fragment,
    encode_probe,
    frame_udp,
    header,
    unframe_udp,
)

VECTORS = json.loads((Path(__file__).parent / "wire_vectors.json").read_text(encoding="utf-8"))

KEY = bytes.fromhex(VECTORS["datagram_key"])
INDEX = 0x0123456789ABCDEF
STAMP = 0x89ABCDEF
U32 = 2**32 - 1
U64 = 2**64 - 1
ID = 2**62 - 1
PAYLOAD = 1_137
"""Most bytes of a fragment: 1,200 without group (3), header (17), fragment (27) and tag (16)."""

WHOLE = Fragment(Kind.UNRELIABLE, 2, 0, 5, 0, 1, b"hello")


def sealer(index: int = INDEX) -> Sealer:
    return Sealer(index, ChaChaCipher(KEY))


def opener(key: bytes = KEY) -> Opener:
    return Opener(ChaChaCipher(key))


def encode(content: Plain, stamp: int = STAMP) -> bytes:
    match content:
        case Fragment():
            return encode_fragment(*content, stamp)
        case Probe():
            return encode_probe(*content, stamp)
        case Answer():
            return encode_answer(*content, stamp)


def plain_fragment(
    payload: bytes = b"",
    *,
    kind: int = 1,
    stream_id: int = 0,
    channel: int = 0,
    number: int = 1,
    fragment: int = 0,
    fragments: int = 1,
) -> bytes:
    """Say once more how a fragment is laid out."""
    fixed = struct.pack("!BIQIQBB", kind, STAMP, stream_id, channel, number, fragment, fragments)
    return fixed + payload


def read(data: bytes, opening: Opener) -> tuple[int, Plain] | str:
    """Take a datagram as a node does; return what it says, or at which step it was dropped."""
    sealed = unframe_udp(data)
    if sealed is None:
        return "not ours"
    if header(sealed) is None:
        return "no header"
    plain = opening.open(sealed)
    if plain is None:
        return "forged"
    try:
        return decode_plain(plain)
    except WireError:
        return "malformed"


def names(vectors: str) -> Any:
    return pytest.mark.parametrize("vector", VECTORS[vectors], ids=lambda vector: vector["name"])


def content_of(vector: dict[str, Any]) -> Plain:
    values = vector["fields"]
    match vector["type"]:
        case "FRAGMENT":
            payload = bytes.fromhex(values["payload"]["hex"])
            return Fragment(**{**values, "kind": Kind(values["kind"]), "payload": payload})
        case "PROBE":
            return Probe(**values)
        case _:
            return Answer(**values)


# Vectors


@names("datagrams")
def test_vectors_both_ways(vector: dict[str, Any]) -> None:
    content, stamp = content_of(vector), vector["stamp"]
    sealing = sealer(vector["index"])
    sealing.counter = vector["counter"] - 1
    assert encode(content, stamp).hex() == vector["plain"]
    sealed = sealing.seal(encode(content, stamp))
    assert sealed.hex() == vector["sealed"]
    assert frame_udp(sealed).hex() == vector["udp"]
    assert header(sealed) == (vector["index"], vector["counter"])
    assert read(bytes.fromhex(vector["udp"]), opener()) == (stamp, content)


@names("malformed_datagrams")
def test_malformed_vectors(vector: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=vector["error"]):
        decode_plain(bytes.fromhex(vector["plain"]))


@names("refused_datagrams")
def test_refused_vectors(vector: dict[str, Any]) -> None:
    assert read(bytes.fromhex(vector["udp"]), opener()) == vector["outcome"]


# Layout


def test_the_layout_of_a_fragment() -> None:
    expected = "02 89abcdef 0000000000000007 00000000 0000000000000005 01 03" + "61" * PAYLOAD
    content = Fragment(Kind.SEQUENCED, 7, 0, 5, 1, 3, b"a" * PAYLOAD)
    assert encode(content) == bytes.fromhex(expected)
    assert decode_plain(bytes.fromhex(expected)) == (STAMP, content)


def test_the_layout_of_a_probe_and_its_answer() -> None:
    probe = bytes.fromhex("03 89abcdef 0000000000000009" + "00" * 16)
    answer = bytes.fromhex("04 89abcdef 0000000000000009 0000000000000062 0000000000000064")
    assert encode(Probe(9)) == probe
    assert encode(Answer(9, 98, 100)) == answer
    assert decode_plain(probe) == (STAMP, Probe(9))
    assert decode_plain(answer) == (STAMP, Answer(9, 98, 100))
    assert len(probe) == len(answer)


def test_the_padding_of_a_probe_means_nothing() -> None:
    assert decode_plain(encode(Probe(9))[:-16] + b"p" * 16) == (STAMP, Probe(9))


def test_the_layout_of_a_datagram() -> None:
    one = sealer()
    sealed = one.seal(b"p" * 27)
    assert sealed[:17] == bytes.fromhex("01 0123456789abcdef 0000000000000001")
    assert len(sealed) == 17 + 27 + 16
    assert frame_udp(sealed) == b"\x02db" + sealed
    assert unframe_udp(frame_udp(sealed)) == sealed
    assert one.counter == 1


def test_the_nonce_is_the_counter_and_the_header_is_authenticated() -> None:
    heard: list[tuple[bytes, bytes, bytes]] = []

    class Witness(ChaChaCipher):
        def open(self, nonce: bytes, sealed: bytes, header: bytes, /) -> bytes | None:
            heard.append((nonce, sealed, header))
            return super().open(nonce, sealed, header)

    sealing, opening = sealer(), Opener(Witness(KEY))
    for counter in (1, 2, 3):
        sealed = sealing.seal(b"p" * 27)
        assert header(sealed) == (INDEX, counter)
        assert opening.open(sealed) == b"p" * 27
    assert [nonce for nonce, _, _ in heard] == [bytes(4) + struct.pack("!Q", n) for n in (1, 2, 3)]
    assert [head for _, _, head in heard] == [b"\x01" + struct.pack("!QQ", INDEX, n) for n in (1, 2, 3)]


def test_the_largest_fragment_fills_a_datagram() -> None:
    content = Fragment(Kind.UNRELIABLE, ID, 0, U64, 0, 1, b"p" * PAYLOAD)
    datagram_bytes = frame_udp(sealer().seal(encode(content)))
    assert len(datagram_bytes) == datagram.DATAGRAM_BYTES_MAX == 1_200
    assert datagram.PAYLOAD_BYTES_MAX == PAYLOAD
    sealed = unframe_udp(datagram_bytes)
    assert sealed is not None
    assert header(sealed) == (INDEX, 1)


def test_64_kib_fit_the_fragments_of_one_message() -> None:
    assert datagram.MESSAGE_BYTES_MAX == 64 * PAYLOAD >= 64 * 1024


# Bounds


def test_what_is_no_datagram_of_ours() -> None:
    assert unframe_udp(b"") is None
    assert unframe_udp(b"\x02d") is None
    assert unframe_udp(b"\x02dc" + bytes(60)) is None
    assert unframe_udp(b"\x01db" + bytes(60)) is None
    assert unframe_udp(b"GET / HTTP/1.1\r\n\r\n") is None
    assert unframe_udp(b"\x02db") == b""


def test_headers_by_length_and_version() -> None:
    data = bytes.fromhex("01 0123456789abcdef 0000000000000001") + bytes(1_300)
    for size in range(1_300):
        assert header(data[:size]) == ((INDEX, 1) if 60 <= size <= 1_197 else None)
    for version in set(range(256)) - {1}:
        assert header(bytes((version,)) + sealer().seal(bytes(27))[1:]) is None
    assert header(b"\x01" + b"\xff" * 59) == (U64, U64)


@pytest.mark.parametrize(
    "content",
    [
        Fragment(Kind.UNRELIABLE, 0, 0, 1, 0, 1, b""),
        Fragment(Kind.SEQUENCED, 0, U32, U64, 0, 1, b"p" * PAYLOAD),
        Fragment(Kind.SEQUENCED, ID, 0, U64, 63, 64, b"p"),
        Fragment(Kind.UNRELIABLE, ID, 0, 1, 62, 64, b"p" * PAYLOAD),
        Fragment(Kind.UNRELIABLE, ID, 0, 1, 63, 64, b"p" * PAYLOAD),
        Probe(0),
        Probe(U64),
        Answer(0, 0, 0),
        Answer(U64, U64, U64),
    ],
)
def test_contents_at_their_bounds(content: Plain) -> None:
    for stamp in (0, U32):
        assert decode_plain(encode(content, stamp)) == (stamp, content)


@pytest.mark.parametrize(
    ("plain", "error"),
    {
        "nothing": (b"", "no known kind"),
        "kind 0": (b"\x00" + bytes(28), "no known kind"),
        "kind 5": (b"\x05" + bytes(28), "no known kind"),
        "a short fragment": (plain_fragment()[:-1], "truncated"),
        "a kind alone": (b"\x02", "truncated"),
        "a short probe": (encode_probe(1, 2)[:-1], "a probe or answer of 28 bytes"),
        "a long probe": (encode_probe(1, 2) + b"p", "a probe or answer of 30 bytes"),
        "a short answer": (encode_answer(1, 2, 3, 4)[:-1], "a probe or answer of 28 bytes"),
        "a long answer": (encode_answer(1, 2, 3, 4) + b"p", "a probe or answer of 30 bytes"),
        "no fragments": (plain_fragment(fragments=0), "fragment 0 of 0"),
        "a fragment beyond the last": (plain_fragment(fragment=1), "fragment 1 of 1"),
        "one fragment too many": (plain_fragment(b"p" * PAYLOAD, fragments=65), "fragment 0 of 65"),
        "as many as a byte counts": (
            plain_fragment(b"p", fragment=254, fragments=255),
            "fragment 254 of 255",
        ),
        "number 0": (plain_fragment(number=0), "out of range"),
        "a stream beyond the last": (plain_fragment(stream_id=ID + 1), "out of range"),
        "a stream's channel": (plain_fragment(stream_id=2, channel=1), "out of range"),
        "a large fragment": (plain_fragment(b"p" * (PAYLOAD + 1)), "with 1138 bytes"),
        "a short one before the last": (
            plain_fragment(b"p" * (PAYLOAD - 1), fragment=1, fragments=3),
            "fragment 1 of 3 with 1136 bytes",
        ),
        "an empty last one": (plain_fragment(fragment=1, fragments=2), "fragment 1 of 2 with 0 bytes"),
    }.values(),
)
def test_malformed_contents(plain: bytes, error: str) -> None:
    with pytest.raises(WireError, match=error):
        decode_plain(plain)


CONTENTS: st.SearchStrategy[Plain] = st.one_of(
    st.builds(
        Fragment,
        st.sampled_from([Kind.UNRELIABLE, Kind.SEQUENCED]),
        st.just(0),
        st.integers(0, U32),
        st.integers(1, U64),
        st.just(0),
        st.just(1),
        st.binary(max_size=PAYLOAD),
    ),
    st.builds(Probe, st.integers(0, U64)),
    st.builds(Answer, st.integers(0, U64), st.integers(0, U64), st.integers(0, U64)),
)


@given(CONTENTS, st.integers(0, U32), st.integers(1, U64), st.integers(1, U64 - 1))
def test_what_is_sealed_is_opened(content: Plain, stamp: int, index: int, counter: int) -> None:
    sealing = sealer(index)
    sealing.counter = counter - 1
    sealed = sealing.seal(encode(content, stamp))
    assert unframe_udp(frame_udp(sealed)) == sealed
    assert header(sealed) == (index, counter)
    plain = opener().open(sealed)
    assert plain is not None
    assert decode_plain(plain) == (stamp, content)


# Forgers and nonsense


def test_every_bit_counts() -> None:
    """Whichever bit of a datagram is flipped: nobody takes it, or nothing opens it."""
    sealed = sealer().seal(encode(WHOLE))
    opening = opener()
    assert opening.open(sealed) is not None
    for position in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << position % 8
        assert opening.open(bytes(flipped)) is None, position
        if position < 8:
            assert header(bytes(flipped)) is None


def test_every_bit_of_the_largest_counts() -> None:
    sealed = sealer().seal(plain_fragment(b"p" * PAYLOAD))
    opening = opener()
    number = int.from_bytes(sealed, "big")
    for position in range(len(sealed) * 8):
        assert opening.open((number ^ (1 << position)).to_bytes(len(sealed), "big")) is None, position


def test_cut_or_grown_it_does_not_open() -> None:
    sealed = sealer().seal(encode(WHOLE))
    opening = opener()
    for size in range(60, len(sealed)):  # header() has refused shorter ones
        assert opening.open(sealed[:size]) is None
    assert opening.open(sealed[:17]) is None
    assert opening.open(sealed + b"\0") is None


def test_under_another_key_it_does_not_open() -> None:
    assert opener(bytes(32)).open(sealer().seal(encode(WHOLE))) is None


def test_bytes_of_one_datagram_do_not_open_in_another() -> None:
    sealing, opening = sealer(), opener()
    one, other = sealing.seal(encode(WHOLE)), sealing.seal(encode(WHOLE))
    assert one[17:] != other[17:]
    assert opening.open(one[:17] + other[17:]) is None
    assert opening.open(one[:-16] + other[-16:]) is None


def nonsense(chance: random.Random, sealing: Sealer) -> bytes:
    """Return random bytes, or a datagram with something wrong around or within it."""
    samples = [WHOLE, WHOLE._replace(payload=b"p" * PAYLOAD, fragments=64), Probe(1), Answer(1, 2, 3)]
    plain = bytearray(encode(chance.choice(samples)))
    match chance.randrange(6):
        case 0:
            return chance.randbytes(chance.randrange(1_300))
        case 1:
            return frame_udp(b"\x01" + chance.randbytes(chance.randrange(1_300)))
        case 2:  # by a member that runs amok
            return frame_udp(sealing.seal(chance.randbytes(chance.randrange(1_200))))
        case 3:
            for _ in range(chance.randrange(1, 4)):
                plain[chance.randrange(len(plain))] = chance.randrange(256)
            return frame_udp(sealing.seal(bytes(plain)))
        case 4:
            return frame_udp(sealing.seal(bytes(plain[: chance.randrange(len(plain))])))
        case _:
            changed = bytearray(frame_udp(sealing.seal(bytes(plain))))
            for _ in range(chance.randrange(1, 4)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            return bytes(changed)


def test_nonsense_is_dropped_or_means_something() -> None:
    chance = random.Random("datagrams")
    sealing, opening = sealer(), opener()
    counts: dict[Any, int] = {}
    for _ in range(20_000):
        outcome = read(nonsense(chance, sealing), opening)
        if isinstance(outcome, tuple):
            stamp, content = outcome
            assert decode_plain(encode(content, stamp)) == outcome
            outcome = "read"
        counts[outcome] = counts.get(outcome, 0) + 1
    assert all(counts[outcome] > 500 for outcome in ("not ours", "no header", "forged", "malformed", "read"))
    assert read(frame_udp(sealing.seal(encode(WHOLE))), opening) == (STAMP, WHOLE)


@pytest.mark.parametrize(
    "data",
    [
        b"\x02db\x01" + b"\xff" * 65_000,
        b"\xff" * 65_507,
        frame_udp(sealer().seal(plain_fragment(b"p" * PAYLOAD, fragments=255))),
        frame_udp(sealer().seal(plain_fragment(b"p" * PAYLOAD, number=U64, fragments=64))),
    ],
    ids=["giant", "giant nonsense", "of 255 fragments", "of 64 fragments"],
)
def test_nothing_that_is_declared_takes_memory(data: bytes) -> None:
    opening = opener()
    read(data, opening)
    tracemalloc.start()
    try:
        read(data, opening)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= len(data) + 16 * 1024
