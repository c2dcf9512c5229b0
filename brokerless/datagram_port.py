"""Where the datagrams of a node's core leave it: the transport's sockets, the clock, and the keys."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from brokerless.cipher import ChaChaCipher
from brokerless.clock import now as read_clock
from brokerless.protocol.wire import DATAGRAM_KEY_BYTES

if TYPE_CHECKING:
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
