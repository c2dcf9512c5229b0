"""What a node says of itself where anybody may listen: one sealed blob, always of the same size.

``nonce (12) | ChaCha20-Poly1305 of (msgpack [address, boot, [endpoint, …]], then zeros) | tag (16)``

The key is derived from that of the mesh. Who does not have it sees neither mesh nor address, nor, since the
nonce is fresh each time and the size never changes, whether two records are of one node; and cannot make one
that opens. Who has it is a member. What members add to the array later is ignored here.
"""

from __future__ import annotations

from typing import Any

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from brokerless.address import ADDRESS_BYTES, Address, parse_endpoint
from brokerless.discovery import ENDPOINTS_MAX, Beacon, Hint
from brokerless.trust import derive_key

RECORD_BYTES = 1_024
"""Room for sixteen endpoints of either family, and with all around it still one mDNS packet (1,460 bytes)."""

NONCE_BYTES = 12
_TAG_BYTES = 16
_PLAIN_BYTES = RECORD_BYTES - NONCE_BYTES - _TAG_BYTES

_LABEL = b"dittobus record 1"
"""Authenticated with each record, so that no other sealed thing of the mesh is taken for one."""

_BOOT_LIMIT = 2**64

_FIELDS_MAX = 16
"""Fields that a record may have; three are known, the rest are for later versions."""


def seal_record(beacon: Beacon, nonce: bytes) -> bytes:
    """Return the record of ``beacon``, ``RECORD_BYTES`` long.

    No ``nonce`` may be used twice: draw it at random. Endpoints beyond ``ENDPOINTS_MAX``, and those for which
    there is no room, are left out, the last first.
    """
    count = min(len(beacon.endpoints), ENDPOINTS_MAX)
    plain = _pack(beacon, count)
    while len(plain) > _PLAIN_BYTES:
        count -= 1
        plain = _pack(beacon, count)
    return nonce + _cipher(beacon.mesh_key).encrypt(nonce, plain.ljust(_PLAIN_BYTES, b"\0"), _LABEL)


def open_record(record: bytes, mesh_key: bytes, source: str) -> Hint | None:
    """Return what ``record`` says, or None if it is none of this mesh. Takes any bytes and never raises."""
    if len(record) != RECORD_BYTES:
        return None
    try:
        plain = _cipher(mesh_key).decrypt(record[:NONCE_BYTES], record[NONCE_BYTES:], _LABEL)
        address, boot, endpoints = _unpack(plain)[:3]
        # Only members get this far; but one that runs amok must not take others along.
        if type(boot) is not int or not 0 <= boot < _BOOT_LIMIT:
            return None
        if not isinstance(endpoints, list) or not 1 <= len(endpoints) <= ENDPOINTS_MAX:
            return None
        return Hint(Address(address), tuple(map(parse_endpoint, endpoints)), boot, source)
    except (InvalidTag, ValueError, TypeError, msgpack.UnpackException):
        return None


def _cipher(mesh_key: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(derive_key(mesh_key, b"discovery"))


def _pack(beacon: Beacon, count: int) -> bytes:
    content = [beacon.address.public_key, beacon.boot, list(beacon.endpoints[:count])]
    packed: bytes = msgpack.packb(content)
    return packed


def _unpack(plain: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker(
        max_buffer_size=_PLAIN_BYTES,
        max_array_len=max(_FIELDS_MAX, ENDPOINTS_MAX),
        max_bin_len=max(ADDRESS_BYTES, _PLAIN_BYTES),
        max_str_len=_PLAIN_BYTES,
    )
    unpacker.feed(plain)
    content = unpacker.unpack()  # the zeros behind it are never looked at
    if not isinstance(content, list):
        raise ValueError("a record is an array")
    return content
