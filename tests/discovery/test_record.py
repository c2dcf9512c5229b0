from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from brokerless.address import Address
from brokerless.discovery import ENDPOINTS_MAX, Beacon, Hint
from brokerless.discovery.record import NONCE_BYTES, RECORD_BYTES, open_record, seal_record
from brokerless.trust import derive_key

KEY = bytes(range(32))
NONCE = bytes(range(NONCE_BYTES))
ALICE = Address(bytes(range(100, 132)))
BEACON = Beacon(ALICE, ("tcp://192.0.2.7:4000", "ipc:///run/a.sock"), 2**64 - 1, KEY)


def sealed(plain: bytes) -> bytes:
    """Return ``plain`` as a member of the mesh could seal it who does not keep to the rules."""
    padded = plain.ljust(RECORD_BYTES - NONCE_BYTES - 16, b"\0")
    return NONCE + ChaCha20Poly1305(derive_key(KEY, b"discovery")).encrypt(
        NONCE, padded, b"dittobus record 1"
    )


def test_what_is_sealed_is_opened() -> None:
    hint = open_record(seal_record(BEACON, NONCE), KEY, "here")
    assert hint == Hint(ALICE, BEACON.endpoints, BEACON.boot, "here")


def test_the_format_stays_as_it_is() -> None:
    plain = msgpack.packb([ALICE.public_key, BEACON.boot, list(BEACON.endpoints)])
    assert seal_record(BEACON, NONCE) == sealed(plain)
    digest = hashlib.sha256(seal_record(BEACON, NONCE)).hexdigest()
    assert digest == "171094117a98f084ae0edb2b2d07b93d8247d32533d5e89014ca7f381d260e15"


@given(
    st.lists(
        st.integers(1, 65535).map("tcp://[fe80::1234:5678:9abc:def0]:{}".format), min_size=1, max_size=40
    )
)
def test_every_record_has_the_same_size(endpoints: list[str]) -> None:
    record = seal_record(Beacon(ALICE, tuple(endpoints), 0, KEY), NONCE)
    assert len(record) == RECORD_BYTES
    hint = open_record(record, KEY, "")
    assert hint is not None
    assert hint.endpoints == tuple(endpoints[:ENDPOINTS_MAX])


def test_what_does_not_fit_is_left_out_from_the_end() -> None:
    endpoints = tuple(f"tcp://{'long.' * 40}example{number}.org:4000" for number in range(ENDPOINTS_MAX))
    hint = open_record(seal_record(Beacon(ALICE, endpoints, 0, KEY), NONCE), KEY, "")
    assert hint is not None
    assert hint.endpoints == endpoints[:4]


def test_an_outsider_sees_nothing_and_cannot_tell_records_apart() -> None:
    record, again = seal_record(BEACON, NONCE), seal_record(BEACON, bytes(NONCE_BYTES))
    for told in (ALICE.public_key, b"192.0.2.7", b"tcp", KEY):
        assert told not in record
    common = sum(one == other for one, other in zip(record, again, strict=True))
    assert common < RECORD_BYTES / 16  # by chance 4 of 1,024


def test_a_record_of_another_mesh_stays_closed() -> None:
    assert open_record(seal_record(BEACON, NONCE), bytes(32), "") is None


def test_every_bit_counts() -> None:
    record = seal_record(BEACON, NONCE)
    for position in range(RECORD_BYTES):
        for bit in range(8):
            flipped = bytearray(record)
            flipped[position] ^= 1 << bit
            assert open_record(bytes(flipped), KEY, "") is None


def test_every_byte_counts() -> None:
    record = seal_record(BEACON, NONCE)
    for size in (0, 1, NONCE_BYTES, NONCE_BYTES + 16, RECORD_BYTES - 1):
        assert open_record(record[:size], KEY, "") is None
    assert open_record(record + b"\0", KEY, "") is None


@given(st.binary(max_size=2 * RECORD_BYTES))
def test_any_bytes_are_taken(record: bytes) -> None:
    assert open_record(record, KEY, "") is None
    assert open_record(record.ljust(RECORD_BYTES, b"\0")[:RECORD_BYTES], KEY, "") is None


@given(st.binary(max_size=RECORD_BYTES - NONCE_BYTES - 16))
def test_any_bytes_of_a_member_are_taken(plain: bytes) -> None:
    open_record(sealed(plain), KEY, "")
    open_record(sealed(msgpack.packb([ALICE.public_key, 0])[:-1] + plain[:900]), KEY, "")


ENDPOINT = BEACON.endpoints[0]


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        b"",
        "text",
        [],
        [ALICE.public_key, 0],
        [ALICE.public_key[1:], 0, [ENDPOINT]],
        [str(ALICE), 0, [ENDPOINT]],
        [None, 0, [ENDPOINT]],
        [ALICE.public_key, -1, [ENDPOINT]],
        [ALICE.public_key, 1.0, [ENDPOINT]],
        [ALICE.public_key, True, [ENDPOINT]],
        [ALICE.public_key, None, [ENDPOINT]],
        [ALICE.public_key, 0, []],
        [ALICE.public_key, 0, ENDPOINT],
        [ALICE.public_key, 0, {ENDPOINT: 1}],
        [ALICE.public_key, 0, [ENDPOINT] * (ENDPOINTS_MAX + 1)],
        [ALICE.public_key, 0, [ENDPOINT, "tcp://*:1"]],
        [ALICE.public_key, 0, [ENDPOINT, b"tcp://192.0.2.7:1"]],
        [ALICE.public_key, 0, [ENDPOINT, None]],
        [ALICE.public_key, 0, [[ENDPOINT]]],
        [ALICE.public_key, 0, [ENDPOINT], *range(14)],
    ],
)
def test_what_makes_no_sense_is_none(content: Any) -> None:
    assert open_record(sealed(msgpack.packb(content)), KEY, "") is None


def test_what_is_nested_without_end_is_none() -> None:
    assert open_record(sealed(b"\x91" * 900), KEY, "") is None
    assert open_record(sealed(b"\xdd\xff\xff\xff\xff" * 150), KEY, "") is None
    assert open_record(sealed(b"\xc6\xff\xff\xff\xff"), KEY, "") is None


def test_fields_of_later_versions_are_ignored() -> None:
    plain = msgpack.packb([ALICE.public_key, 7, [ENDPOINT], {"later": 1}, b"more"])
    assert open_record(sealed(plain), KEY, "") == Hint(ALICE, (ENDPOINT,), 7, "")


def test_the_key_is_not_shown() -> None:
    assert repr(KEY) not in repr(BEACON)
