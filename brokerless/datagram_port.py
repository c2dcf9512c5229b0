"""Where the datagrams of a node's core leave it, and where others are told to send theirs."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from brokerless.cipher import ChaChaCipher
from brokerless.clock import now as read_clock
from brokerless.errors import WireError
from brokerless.interfaces import expand_wildcards
from brokerless.protocol.paths import PLACES_MAX, format_places, parse_places
from brokerless.protocol.wire import DATAGRAM_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from brokerless.address import Address
    from brokerless.protocol.datagram import Cipher
    from brokerless.protocol.paths import UdpPlace
    from brokerless.transport import Transport


class TransportPort:
    """Sends by a transport. It is a ``brokerless.protocol.datagram_plane.DatagramPort``."""

    def __init__(self) -> None:
        self.transport: Transport | None = None
        """Set once there is one; the core that sends comes first."""

    def now(self) -> float:
        """Return the time, as the pump reads it."""
        return read_clock()

    def send_udp(self, place: UdpPlace, datagram: bytes) -> bool:
        """Send at once; False: the socket's buffer is full."""
        return self.transport is not None and self.transport.send_datagram(place, datagram)

    def send_push(self, remote: Address, sealed: bytes) -> bool:
        """Send at once; False: the queue is full, or there is no connection."""
        return self.transport is not None and self.transport.send_push(remote, sealed)

    def draw_key(self) -> tuple[int, bytes]:
        """Return a random index and a random key."""
        return 1 + secrets.randbelow(2**64 - 1), secrets.token_bytes(DATAGRAM_KEY_BYTES)

    def make_cipher(self, key: bytes) -> Cipher:
        """Return what seals and opens under that key."""
        return ChaChaCipher(key)


def told_places(bound: Sequence[str], advertised: Iterable[str], *, ports_on: int = 0) -> str:
    """Return where others may try the sockets bound there (``host:port``), as INFO tells it.

    What is advertised stands for them as for the listener, so many ports on. But a name says nothing here,
    since datagrams go to addresses only: where no other is advertised, our own are told, and may do.
    """
    if not bound:
        return ""
    elsewhere = _numeric(str(place._replace(port=place.port + ports_on)) for place in _numeric(advertised))
    places = elsewhere or _numeric(expand_wildcards(f"tcp://{place}" for place in bound))
    return format_places(places[:PLACES_MAX])


def _numeric(endpoints: Iterable[str]) -> list[UdpPlace]:
    """Return the places among these that others may be told: they would refuse to talk for any other."""
    places: dict[UdpPlace, None] = {}
    for endpoint in endpoints:
        with contextlib.suppress(WireError):
            places |= dict.fromkeys(parse_places(endpoint.removeprefix("tcp://")))
    return list(places)
