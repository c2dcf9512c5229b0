"""Targets for what discovery reads: sealed records, multicast DNS, files of the registry.

An outsider's bytes come as they are. A member can seal what it likes: the first byte of an input says which
of the two its rest is, else no engine would ever see what lies behind the seal.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from zeroconf import DNSIncoming, RecordUpdate, RecordUpdateListener, current_time_millis

from brokerless.address import Address, parse_endpoint
from brokerless.discovery import ENDPOINTS_MAX, Beacon, Hint
from brokerless.discovery.multicast import MulticastDns
from brokerless.discovery.record import NONCE_BYTES, RECORD_BYTES, open_record, seal_record
from brokerless.discovery.registry import SUFFIX, RegistryDiscovery
from brokerless.discovery.sightings import Sightings
from brokerless.discovery.zeroconf import ZeroconfDiscovery, decode_text, encode_text
from brokerless.private_files import create_locked_file
from brokerless.trust import derive_key

if TYPE_CHECKING:
    from collections.abc import Callable

MESH_KEY = bytes(range(32))
OURS = Beacon(Address(b"\x11" * 32), ("tcp://127.0.0.1:4000",), 7, MESH_KEY)
PLAIN_BYTES = RECORD_BYTES - NONCE_BYTES - 16
NONCE = bytes(NONCE_BYTES)
NAME = "0123456789abcdef._dittobus._tcp.local."


def sealed(plain: bytes) -> bytes:
    """Return the record of a member that says this, whatever it is."""
    cipher = ChaCha20Poly1305(derive_key(MESH_KEY, b"discovery"))
    return NONCE + cipher.encrypt(NONCE, plain[:PLAIN_BYTES].ljust(PLAIN_BYTES, b"\0"), b"dittobus record 1")


def is_sound(hint: Hint) -> bool:
    """Whether a hint is one that a roster may be given."""
    return (
        isinstance(hint.address, Address)
        and 0 <= hint.boot < 2**64
        and len(hint.endpoints) <= ENDPOINTS_MAX
        and all(parse_endpoint(endpoint) for endpoint in hint.endpoints)
    )


def record(data: bytes) -> None:
    is_member, rest = data[:1] == b"\x01", data[1:]
    hint = open_record(sealed(rest) if is_member else rest, MESH_KEY, "test")
    if hint is None:
        return
    assert is_member, "an outsider has made a record"
    assert is_sound(hint)
    assert hint.endpoints
    said = Beacon(hint.address, hint.endpoints, hint.boot, MESH_KEY)
    again = open_record(seal_record(said, NONCE), MESH_KEY, "test")
    assert again is not None
    assert again.endpoints == hint.endpoints[: len(again.endpoints)], "what there is no room for is left out"
    assert (again.address, again.boot) == (hint.address, hint.boot)


class _Listener(MulticastDns):
    """The half of multicast DNS that reads, without sockets."""

    def __init__(self, heard: Callable[[str, bytes], None], lost: Callable[[str, bytes], None]) -> None:
        RecordUpdateListener.__init__(self)
        self._heard = heard
        self._lost = lost

    def _ask_soon(self) -> None:
        """There is nobody to ask."""


def multicast(data: bytes) -> None:
    """A packet of multicast DNS (0), the data of a TXT record (1), or one that a member has made (2)."""
    kind, rest = data[:1], data[1:]
    hints: list[Hint] = []
    discovery = ZeroconfDiscovery()
    discovery._beacon = OURS
    discovery._sightings = Sightings(hints.append)
    if kind == b"\x00":
        incoming = DNSIncoming(rest)
        if incoming.valid:
            listener = _Listener(discovery._heard, discovery._lost)
            updates = [RecordUpdate(answer, None) for answer in incoming.answers()]
            listener.async_update_records(None, current_time_millis(), updates)  # type: ignore[arg-type]
    else:
        text = encode_text(sealed(rest)) if kind == b"\x02" else rest
        blob = decode_text(text)
        assert blob is None or (len(blob) == RECORD_BYTES and decode_text(encode_text(blob)) == blob)
        discovery._heard(NAME, text)
        discovery._lost(NAME, text)
    for hint in hints:
        assert is_sound(hint)
        assert hint.address != OURS.address


def registry(data: bytes) -> None:
    """A file in the registry's directory, held by a live process: as it is (0), or a member's record (1)."""
    content = sealed(data[1:]) if data[:1] == b"\x01" else data[1:]
    hints: list[Hint] = []
    sightings = Sightings(hints.append)
    with tempfile.TemporaryDirectory(prefix="dittobus-fuzz-") as directory:
        discovery = RegistryDiscovery(Path(directory))
        name = "0" * 32 + SUFFIX
        with contextlib.closing(create_locked_file(Path(directory) / name, content)):
            for _ in range(2):  # the second look finds nothing new
                discovery._look(name, OURS, sightings)
        assert discovery.rejected + len(hints) <= 1
        discovery._look(name, OURS, sightings)  # its process has ended
        assert not list(Path(directory).iterdir())
    assert name not in sightings
    assert len(hints) in (0, 2)
    assert all(map(is_sound, hints))
