"""What a node's sessions share for their datagrams: the port, the keys by index, single messages unread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from brokerless.model import DropCause, Traffic
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.datagram import header, unframe_udp
from brokerless.protocol.unread import Unread

if TYPE_CHECKING:
    from brokerless.address import Address
    from brokerless.model import Message
    from brokerless.protocol.datagram import Cipher
    from brokerless.protocol.paths import UdpPlace

SINGLES_BYTES_MAX = 1024 * 1024
"""Single messages of all peers that wait for the application, where ``Limits`` do not say otherwise."""


class DatagramPort(Protocol):
    """Where datagrams leave the core: the one thing that cannot wait until the shell asks for it."""

    def now(self) -> float:
        """Return the time, in the core's seconds."""

    def send_udp(self, place: UdpPlace, datagram: bytes) -> bool:
        """Send at once; False: the socket's buffer is full."""

    def send_push(self, remote: Address, sealed: bytes) -> bool:
        """Send at once; False: the queue is full, or there is no connection."""

    def draw_key(self) -> tuple[int, bytes]:
        """Return a random index, 1 to 2**64 - 1, and a random key of 32 bytes."""

    def make_cipher(self, key: bytes) -> Cipher:
        """Return what seals and opens under that key."""


class DatagramReader(Protocol):
    """The datagrams of one session."""

    @property
    def remote(self) -> Address:
        """Who is at the other end."""

    def receive(self, index: int, counter: int, sealed: bytes, place: UdpPlace | None, now: float) -> None:
        """Take a datagram under one of its indexes; ``place`` None: it came by PUSH."""


class DatagramPlane:
    """The shared part. Without a port nothing is sent, and peers are told no key.

    Queries: ``dropped``. Inputs: ``udp_received``, ``received``.
    """

    def __init__(self, port: DatagramPort | None = None, unread_bytes_max: int = SINGLES_BYTES_MAX) -> None:
        self.port = port
        self.unread: Unread[Message] = Unread(unread_bytes_max)
        self.readers: dict[int, DatagramReader] = {}
        """Who opens what comes under each index that we drew."""
        self.udp_places = ""
        """Where peers may try us by UDP, as INFO tells it."""
        self.pull_places = ""
        """Where they may try us by PUSH."""
        self.dropped: dict[DropCause, int] = {}
        """Datagrams of nobody."""

    def traffic(self) -> Traffic:
        """Return what waits for the application."""
        return Traffic(unconsumed_messages=len(self.unread), unconsumed_bytes=payload_bytes(self.unread))

    def udp_received(self, place: UdpPlace, datagram: bytes, now: float) -> None:
        """Take the payload of a UDP packet from that place."""
        sealed = unframe_udp(datagram)
        if sealed is None:
            self._drop(DropCause.MALFORMED)
        else:
            self.received(sealed, place, now)

    def received(self, sealed: bytes, place: UdpPlace | None, now: float) -> None:
        """Take a sealed datagram; ``place`` None: it came by PUSH."""
        read = header(sealed)
        if read is None:
            self._drop(DropCause.MALFORMED)
            return
        index, counter = read
        reader = self.readers.get(index)
        if reader is None:
            self._drop(DropCause.UNAUTHENTICATED)
        else:
            reader.receive(index, counter, sealed, place, now)

    def _drop(self, cause: DropCause) -> None:
        self.dropped[cause] = self.dropped.get(cause, 0) + 1


def payload_bytes(unread: Unread[Any]) -> int:
    """Return the bytes of the messages that wait there, without what each costs besides."""
    # The application may take some in between.
    return max(0, unread.byte_count - len(unread) * MESSAGE_COST_BYTES)
