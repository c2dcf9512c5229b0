"""Who a peer is, and where it may be reached.

An ``Address`` *is* the peer's CURVE public key; an endpoint (``tcp://host:port``, ``ipc://path``) is only a
place to try; a ``Ticket`` is both, as one line of text to hand to somebody.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from functools import total_ordering

from brokerless.errors import ConfigError

ADDRESS_BYTES = 32
"""A CURVE (Curve25519) public key."""

ADDRESS_CHARACTERS = 52
"""256 bits in base32hex, five bits a character, without padding."""

TICKET_ENDPOINTS_MAX = 16
"""A ticket is typed, pasted and shown; more places than this is a mistake."""

HOST_CHARACTERS_MAX = 253
"""A name in the DNS is no longer."""

IPC_PATH_BYTES_MAX = 107
"""What fits into Linux' ``sockaddr_un``; some systems take less."""


@total_ordering
class Address:
    """Uniquely names a peer: its CURVE public key. Hashable, orderable, picklable.

    ``str()`` gives 52 lower-case base32hex characters (RFC 4648, section 7), which sort like the bytes and
    which ``Address.parse`` takes back. ``short`` is for people.
    """

    __slots__ = ("_hash", "_key")

    def __init__(self, public_key: bytes) -> None:
        if not isinstance(public_key, bytes) or len(public_key) != ADDRESS_BYTES:
            raise ConfigError(f"public_key: an address is exactly {ADDRESS_BYTES} bytes")
        self._key = public_key
        self._hash = hash(public_key)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that ``str(address)`` wrote; upper case is fine. Raises ``ConfigError``."""
        if not isinstance(text, str) or len(text) != ADDRESS_CHARACTERS:
            raise ConfigError(
                f"address: expected {ADDRESS_CHARACTERS} base32hex characters, got {text!r:.80}"
            )
        try:
            key = base64.b32hexdecode(text.upper() + "====")
        except ValueError as error:
            raise ConfigError(f"address: not base32hex: {text!r}") from error
        address = cls(key)
        if str(address) != text.lower():  # the last character has 4 bits to spare; only one spelling is right
            raise ConfigError(f"address: not base32hex: {text!r}")
        return address

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of the CURVE public key."""
        return self._key

    @property
    def short(self) -> str:
        """The first 8 characters, for display; not unique."""
        return str(self)[:8]

    def __str__(self) -> str:
        return base64.b32hexencode(self._key).decode()[:ADDRESS_CHARACTERS].lower()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.short}>"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Address) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._key < other._key if isinstance(other, Address) else NotImplemented

    def __reduce__(self) -> tuple[type[Address], tuple[bytes]]:
        return type(self), (self._key,)


# One spelling for each place, and nothing that libzmq would take for more than a place to connect to, such as
# a source address before a semicolon, or a wildcard.
_TCP = re.compile(
    r"tcp://(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[\w.-]+)):(?P<port>[1-9]\d{0,4})", re.ASCII
)
_IPC = re.compile(r"ipc://(?P<path>(?:/|[A-Za-z]:[/\\]).+)")
_HOST = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(?:\.(?!-)[\w-]{1,63}(?<!-))*\.?", re.ASCII)
_DIGITS = re.compile(r"[\d.]+", re.ASCII)


def parse_endpoint(text: str) -> str:
    """Return ``text`` if it is ``tcp://host:port`` (v6 in brackets) or ``ipc:///path``, else raise."""
    if not isinstance(text, str) or not (_is_tcp(text) or _is_ipc(text)):
        raise ConfigError(f"endpoint: expected tcp://host:port or ipc:///path, got {text!r:.200}")
    return text


def _is_tcp(text: str) -> bool:
    match = _TCP.fullmatch(text)
    if match is None or int(match["port"]) >= 65536:
        return False
    host = match["host"]
    try:
        if host is None:
            ipaddress.IPv6Address(match["v6"])
        elif _DIGITS.fullmatch(host):
            ipaddress.IPv4Address(host)
        else:
            return len(host) <= HOST_CHARACTERS_MAX and _HOST.fullmatch(host) is not None
    except ValueError:
        return False
    return True


def _is_ipc(text: str) -> bool:
    match = _IPC.fullmatch(text)
    return match is not None and text.isprintable() and len(match["path"].encode()) <= IPC_PATH_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Ticket:
    """A peer's ``address``, and as ``endpoints`` the TCP places where it may be reached.

    As text ``dittobus://<address>@host:port[,host:port…]``. Valid as long as the identity behind the address.
    """

    address: Address
    endpoints: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.endpoints) <= TICKET_ENDPOINTS_MAX:
            raise ConfigError(f"ticket: 1 to {TICKET_ENDPOINTS_MAX} places, got {len(self.endpoints)}")
        for endpoint in self.endpoints:
            if not parse_endpoint(endpoint).startswith("tcp://"):
                raise ConfigError(f"ticket: expected places to be tcp://host:port, got {endpoint!r}")

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Return the ticket that ``str(ticket)`` wrote. Raises ``ConfigError``."""
        scheme, separator, rest = text.strip().partition("://") if isinstance(text, str) else ("", "", "")
        name, at, places = rest.partition("@")
        if scheme != "dittobus" or not separator or not at or not places:
            raise ConfigError(
                f"ticket: expected dittobus://<address>@host:port[,host:port…], got {text!r:.200}"
            )
        return cls(Address.parse(name), tuple(f"tcp://{place}" for place in places.split(",")))

    def __str__(self) -> str:
        places = ",".join(endpoint.removeprefix("tcp://") for endpoint in self.endpoints)
        return f"dittobus://{self.address}@{places}"
