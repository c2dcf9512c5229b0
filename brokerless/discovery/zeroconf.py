"""Peers on the same network, by multicast DNS (RFC 6762) and its service discovery (RFC 6763).

What must be said in the open, so that the service can be browsed at all, is kept empty: the names of
instance and host are random and new with each announcement, the port is 0 (as RFC 6763 section 8 has it for a
name with nothing behind it), and there is no A or AAAA record. Everything that serves to find the node is in
the TXT record, sealed. An outsider learns that there is a node at the source address of the packet, which no
multicast could hide, and when it comes and goes. A port would tell which socket is ours, addresses would tie
the records of one host together across its networks, and a host name is often its owner's.

The library ``zeroconf`` is imported when a discovery starts, since it takes its time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from typing import TYPE_CHECKING

from brokerless.discovery.record import NONCE_BYTES, RECORD_BYTES, open_record, seal_record
from brokerless.discovery.sightings import Sightings
from brokerless.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokerless.discovery import Beacon, Hint
    from brokerless.discovery.multicast import MulticastDns

START_TIMEOUT_S = 10.0
"""The sockets are opened at once, or something is wrong; but a machine that stood still for a moment must not
cost this node its multicast for good."""

_VERSION = b"v=1"
_CHUNK_BYTES = 253
"""A string of a TXT record has at most 255 bytes, and two go to its key, such as ``0=``."""


class ZeroconfDiscovery:
    """Finds nodes by multicast DNS on ``interfaces``: IP addresses of this host, all of them if None."""

    name = "zeroconf"

    def __init__(self, interfaces: Sequence[str] | None = None) -> None:
        self.rejected = 0
        self._interfaces = interfaces
        self._beacon: Beacon | None = None
        self._sightings: Sightings | None = None
        self._multicast: MulticastDns | None = None

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        """Listen, announce and ask. Raises ``StartError`` where multicast cannot be used."""
        self._beacon = beacon
        self._sightings = Sightings(report)
        try:
            from brokerless.discovery.multicast import MulticastDns

            self._multicast = MulticastDns(self._interfaces, self._heard, self._lost, self._sightings)
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._multicast.start()
                await self._publish(self._multicast, beacon)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            await self.close()
            raise StartError(f"multicast DNS cannot be used: {error}") from error

    async def announce(self, beacon: Beacon) -> None:
        """Announce under new names, and withdraw the old ones: nobody sees that they belong together."""
        if self._multicast is None:
            return
        self._beacon = beacon
        try:
            # Endpoints change when interfaces do, and those that came since are not listened on yet.
            await self._multicast.update_interfaces()
            await self._publish(self._multicast, beacon)
        except (OSError, RuntimeError) as error:
            raise StartError(f"multicast DNS cannot be used: {error}") from error

    async def close(self) -> None:
        """Say goodbye, once, and stop."""
        multicast, self._multicast = self._multicast, None
        if multicast is not None:
            await multicast.close()

    async def _publish(self, multicast: MulticastDns, beacon: Beacon) -> None:
        # A path means something on this host only, and there the registry tells it.
        endpoints = tuple(endpoint for endpoint in beacon.endpoints if not endpoint.startswith("ipc://"))
        if endpoints:
            said = dataclasses.replace(beacon, endpoints=endpoints)
            await multicast.publish(encode_text(seal_record(said, secrets.token_bytes(NONCE_BYTES))))
        else:
            await multicast.publish(None)

    def _heard(self, name: str, text: bytes) -> None:
        assert self._sightings is not None
        assert self._beacon is not None
        hint = self._open(text)
        if hint is None:
            self.rejected += 1
        elif hint.address != self._beacon.address and not self._sightings.see(name, hint):
            self.rejected += 1

    def _lost(self, name: str, text: bytes) -> None:
        assert self._sightings is not None
        # Somebody else may have had the name with another text, and it is that one which is gone.
        if name in self._sightings and self._sightings.get(name) == self._open(text):
            self._sightings.lose(name)

    def _open(self, text: bytes) -> Hint | None:
        assert self._beacon is not None
        record = decode_text(text)
        return None if record is None else open_record(record, self._beacon.mesh_key, self.name)


def encode_text(record: bytes) -> bytes:
    """Return the data of a TXT record: ``v=1``, then the sealed record as ``0=…``, ``1=…`` and so on."""
    strings = [_VERSION]
    for number, start in enumerate(range(0, len(record), _CHUNK_BYTES)):
        strings.append(b"%d=%b" % (number, record[start : start + _CHUNK_BYTES]))
    return b"".join(bytes([len(string)]) + string for string in strings)


def decode_text(text: bytes) -> bytes | None:
    """Return the sealed record in the data of a TXT record, or None. Takes any bytes."""
    chunks: list[bytes] = []
    position, version_seen = 0, False
    while position < len(text):
        end = position + 1 + text[position]
        string, position = text[position + 1 : end], end
        if string == _VERSION:
            version_seen = True
        elif string.startswith(b"%d=" % len(chunks)):
            chunks.append(string.partition(b"=")[2])
    record = b"".join(chunks)
    return record if version_seen and len(record) == RECORD_BYTES else None
