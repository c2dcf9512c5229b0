"""What a node is told when it is made: limits and configuration."""

from __future__ import annotations

import dataclasses
import ipaddress
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from brokerless.address import Address, Ticket, parse_endpoint
from brokerless.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from brokerless.identity import Identity
    from brokerless.model import Peer

KIB = 1024
MIB = 1024 * KIB

DISCOVERIES = ("zeroconf", "registry", "gossip")
"""Discoveries that have a name; tickets are given in ``peers``."""

SECRET_CHARACTERS_MIN = 8
"""Below this a passphrase is guessed offline whatever the stretching."""

SECRET_BYTES_MIN = 32
"""Raw key material is used as it is, so it must have the strength of the key."""

MESH_BYTES_MAX = 64
"""The name of a mesh, in UTF-8: a label, like all names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Every bound of a node, each with its unit and its reason. Values out of range raise ``ConfigError``.

    Attributes:
        message_bytes_max: Largest reliable message. The smaller of both sides' holds; larger data belongs in
            several messages.
        datagram_message_bytes_max: Largest unreliable message: some 55 datagrams; with more, one loss in a
            hundred loses half of them.
        stream_window_bytes: What a stream's sender may be ahead of its consumer, once the window has grown: 1
            Gbit/s at 8 ms.
        stream_window_initial_bytes: What it may be ahead at first, so that a thousand fresh streams cost 64
            MiB at most.
        send_queue_bytes_max: What a stream holds for sending before ``send`` says ``SendQueueFull``; less
            when memory runs short.
        unacknowledged_bytes_max: What a session holds for sending again: the most that is ever in flight to
            one peer, and as much again of what is not messages.
        unreliable_queue_bytes_max: Unreliable messages waiting for the application; the oldest are dropped
            beyond it.
        peer_memory_bytes_max: Received and not consumed, plus waiting to be sent, for one peer, above the
            initial window and the 64 KiB to send that each of its streams has in any case; ``streams_max``
            bounds the sum of those.
        memory_bytes_max: The same for all peers together.
        streams_max: Streams open with one peer; each costs about 2 KiB before its first message.
        offers_max: Streams of one peer waiting for acceptance; its others wait at its side, so a flood costs
            little.
        peers_max: Peers in the roster; records beyond it are ignored and counted.
        eager_dials_max: Up to this many peers are dialled on discovery; beyond it on first use: all pairs are
            the square.
        name_bytes_max: A name of a peer or stream, in UTF-8: a label, not a document.
        metadata_bytes_max: Metadata of a peer or stream.
        liveness_s: Silence after which a peer is lost. Both sides use the shorter of theirs.
        handshake_timeout_s: From connection to a proven HELLO and INFO; strangers are cut after it.
        admit_timeout_s: How long ``admit`` may think before the answer is no.
        redial_min_s: First wait before dialling again.
        redial_max_s: Longest wait before dialling again.
        reassembly_timeout_s: How long fragments of an unreliable message wait for the rest.
        exit_timeout_s: How long a bus may hold up the interpreter's exit.
    """

    message_bytes_max: int = 64 * MIB
    datagram_message_bytes_max: int = 64 * KIB
    stream_window_bytes: int = 1 * MIB
    stream_window_initial_bytes: int = 64 * KIB
    send_queue_bytes_max: int = 1 * MIB
    unacknowledged_bytes_max: int = 8 * MIB
    unreliable_queue_bytes_max: int = 1 * MIB
    peer_memory_bytes_max: int = 128 * MIB
    memory_bytes_max: int = 512 * MIB
    streams_max: int = 32_768
    offers_max: int = 256
    peers_max: int = 4_096
    eager_dials_max: int = 64
    name_bytes_max: int = 64
    metadata_bytes_max: int = 4_096
    liveness_s: float = 5.0
    handshake_timeout_s: float = 5.0
    admit_timeout_s: float = 10.0
    redial_min_s: float = 0.1
    redial_max_s: float = 5.0
    reassembly_timeout_s: float = 1.0
    exit_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value = getattr(self, limit.name)
            whole = limit.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "an int" if whole else "a number"
                raise ConfigError(f"limits.{limit.name}: expected {kind}, got {value!r}")
            if not 0 < value < 2**53:
                raise ConfigError(f"limits.{limit.name}: must be above 0 and below 2**53, got {value!r}")
        self._require(self.message_bytes_max <= 2**31, "message_bytes_max: at most 2 GiB")
        self._require(
            self.datagram_message_bytes_max <= 64 * KIB, "datagram_message_bytes_max: at most 64 KiB"
        )
        self._require(
            self.stream_window_initial_bytes <= self.stream_window_bytes,
            "stream_window_initial_bytes: at most stream_window_bytes",
        )
        self._require(self.stream_window_initial_bytes >= 1024, "stream_window_initial_bytes: at least 1 KiB")
        self._require(
            self.peer_memory_bytes_max <= self.memory_bytes_max,
            "peer_memory_bytes_max: at most memory_bytes_max",
        )
        self._require(
            self.message_bytes_max <= self.peer_memory_bytes_max,
            "message_bytes_max: at most peer_memory_bytes_max",
        )
        self._require(self.name_bytes_max <= 64, "name_bytes_max: at most 64")
        self._require(self.metadata_bytes_max <= 4_096, "metadata_bytes_max: at most 4,096")
        self._require(self.redial_min_s <= self.redial_max_s, "redial_min_s: at most redial_max_s")

    @staticmethod
    def _require(holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"limits.{rule}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeConfig:
    """Everything a node needs to know. See ``DittoBus`` for the meaning of each; same names, same defaults.

    ``secret`` is kept out of the repr.
    """

    name: str = ""
    mesh: str = "dittobus"
    secret: str | bytes | None = field(default=None, repr=False)
    trust: str | None = None
    admit: Callable[[Peer], Any] | Collection[Address] | None = None
    identity: str | os.PathLike[str] | Identity | None = field(default=None, repr=False)
    peers: Sequence[str | Ticket] = ()
    discovery: Sequence[Any] = DISCOVERIES
    interfaces: Sequence[str] | None = None
    port: int = 0
    advertise: Sequence[str] = ()
    directory: str | os.PathLike[str] | None = None
    metadata: bytes = b""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not isinstance(self.limits, Limits):
            raise ConfigError(f"limits: expected Limits, got {type(self.limits).__name__}")
        utf8(self.name, "name")
        if len(self.name.encode()) > self.limits.name_bytes_max:
            raise ConfigError(f"name: at most {self.limits.name_bytes_max} bytes in UTF-8")
        require_trust(self.mesh, self.secret, self.trust)
        if not isinstance(self.metadata, bytes) or len(self.metadata) > self.limits.metadata_bytes_max:
            raise ConfigError(f"metadata: bytes, at most {self.limits.metadata_bytes_max} of them")
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port < 65536:
            raise ConfigError(f"port: 0 to 65535, got {self.port!r:.40}")
        self._check_identity()
        self._check_admit()
        self._check_places()

    def _check_identity(self) -> None:
        is_path = isinstance(self.identity, str) or hasattr(self.identity, "__fspath__")
        is_identity = isinstance(getattr(self.identity, "address", None), Address)
        if not (self.identity is None or is_path or is_identity):
            kind = type(self.identity).__name__  # not shown itself: it may be somebody's idea of a key
            raise ConfigError(f"identity: expected a path, an Identity or None, got {kind}")

    def _check_admit(self) -> None:
        if self.admit is None or callable(self.admit):
            return
        if not isinstance(self.admit, Collection) or not all(isinstance(one, Address) for one in self.admit):
            raise ConfigError(f"admit: expected a callable or addresses, got {self.admit!r:.80}")

    def _check_places(self) -> None:
        """Strings where sequences belong are the commonest slip: each character would be taken for one."""
        for argument in ("peers", "discovery", "interfaces", "advertise"):
            value = getattr(self, argument)
            is_default = argument == "interfaces" and value is None
            if isinstance(value, (str, bytes)) or not (is_default or isinstance(value, Collection)):
                raise ConfigError(f"{argument}: expected a sequence, got {value!r:.80}")
        if self.interfaces is not None and not self.interfaces:
            raise ConfigError("interfaces: expected one address or more, or None, got none of them")
        for ticket in self.peers:
            if not isinstance(ticket, Ticket):
                Ticket.parse(ticket)
        for endpoint in self.advertise:
            try:
                parse_endpoint(endpoint)
            except ConfigError as error:
                raise ConfigError(f"advertise: {error}") from None
        for host in self.interfaces or ():
            if host != "*" and not _is_ip(host):
                raise ConfigError(f"interfaces: expected addresses such as 192.0.2.7, got {host!r:.80}")
        for chosen in self.discovery:
            if isinstance(chosen, str) and chosen not in DISCOVERIES:
                raise ConfigError(
                    f"discovery: expected {', '.join(DISCOVERIES)} or an object, got {chosen!r:.80}"
                )


def _is_ip(host: Any) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return isinstance(host, str)  # numbers stand for addresses, too


def require_trust(mesh: str, secret: str | bytes | None, trust: str | None) -> None:
    """Raise ``ConfigError`` unless these three say whom to trust. The message never shows the secret."""
    mesh_bytes = len(utf8(mesh, "mesh"))
    if not 1 <= mesh_bytes <= MESH_BYTES_MAX:
        raise ConfigError(f"mesh: 1 to {MESH_BYTES_MAX} bytes in UTF-8, got {mesh_bytes}")
    if trust not in (None, "open"):
        raise ConfigError(f"trust: expected None or 'open', got {trust!r:.80}")
    if secret is None:
        return
    if trust == "open":
        raise ConfigError("trust: 'open' lets anybody in, so no secret goes with it")
    if isinstance(secret, str):
        if len(secret) < SECRET_CHARACTERS_MIN:
            raise ConfigError(
                f"secret: at least {SECRET_CHARACTERS_MIN} characters, got {len(secret)}",
                hint="generate_secret() makes a strong one",
            )
        utf8(secret, "secret")
    elif not isinstance(secret, bytes):
        raise ConfigError(f"secret: expected str, bytes or None, got {type(secret).__name__}")
    elif len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(
            f"secret: at least {SECRET_BYTES_MIN} bytes, got {len(secret)}",
            hint="generate_secret() makes them; a passphrase is passed as str",
        )


def utf8(text: str, argument: str) -> bytes:
    """Return ``text`` in UTF-8, the same bytes whichever way its accents were typed; else ``ConfigError``."""
    if not isinstance(text, str):
        raise ConfigError(f"{argument}: expected str, got {type(text).__name__}")
    try:
        # An "é" is one character from one keyboard and two from another; both must open the same door.
        return unicodedata.normalize("NFC", text).encode()
    except UnicodeEncodeError:  # not chained, since the cause shows the text, which may be a secret
        raise ConfigError(f"{argument}: holds half a surrogate pair, which is no text") from None
