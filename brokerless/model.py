"""The words that travel upward: messages, offers, peers, events, counters."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from brokerless.address import Address
    from brokerless.errors import BusError
    from brokerless.protocol.stream import Stream
    from brokerless.protocol.unread import Unread


class Reliability(enum.Enum):
    """What is promised of delivery."""

    RELIABLE = "reliable"
    """In order, each exactly once, for as long as both processes live and hear each other."""
    UNRELIABLE = "unreliable"
    """May be lost, may arrive in any order, is never delivered twice."""
    SEQUENCED = "sequenced"
    """Unreliable, but an older message never arrives after a newer one."""


class PeerState(enum.Enum):
    """How far the conversation with a peer is."""

    KNOWN = "known"
    """Heard of, not dialled."""
    JOINING = "joining"
    """Being dialled."""
    ALIVE = "alive"
    SUSPECT = "suspect"
    """Not heard for half the liveness limit."""


class LossReason(enum.Enum):
    """Why a peer is gone."""

    LEFT = "left"
    SILENT = "silent"
    RESTARTED = "restarted"
    EXPELLED = "expelled"


class ReliablePath(enum.Enum):
    """What reliable traffic with a peer travels on."""

    TCP = "tcp"
    IPC = "ipc"
    NONE = "none"


class DatagramPath(enum.Enum):
    """What unreliable traffic with a peer travels on."""

    UDP = "udp"
    PUSH = "push"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Path:
    """The path of each plane."""

    reliable: ReliablePath = ReliablePath.NONE
    datagram: DatagramPath = DatagramPath.NONE


@dataclass(frozen=True, slots=True)
class Peer:
    """A snapshot of one peer. ``name`` is a label that the peer gave itself: not authenticated."""

    address: Address
    name: str = ""
    metadata: bytes = b""
    state: PeerState = PeerState.KNOWN
    path: Path = Path()
    rtt_s: float | None = None
    """Smoothed round-trip time in seconds; None until measured."""
    jitter_s: float | None = None
    """Mean deviation of the round-trip time, in seconds (RFC 6298); None until measured."""
    loss: float | None = None
    """Share of datagrams lost on the way to us, 0 to 1; None until measured."""

    @property
    def has_joined(self) -> bool:
        """Whether there is a conversation: the state is alive or suspect."""
        return self.state in (PeerState.ALIVE, PeerState.SUSPECT)


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One single message, as received."""

    sender: Address
    data: bytes
    reliability: Reliability
    channel: int
    received_at: float
    """Monotonic seconds."""
    origin: Any = field(default=None, repr=False)
    """The conversation that it came by, which gets its credit back once the message is consumed."""


class Offer:
    """A stream that a peer wants to open. Untaken, it is rejected at its open timeout."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    @property
    def peer(self) -> Address:
        """Who offers."""
        return self.stream.peer

    @property
    def name(self) -> str:
        """What the opener named it."""
        return self.stream.name

    @property
    def metadata(self) -> bytes:
        """What the opener sent along, at most 4 KiB."""
        return self.stream.metadata

    @property
    def reliability(self) -> Reliability:
        """What the opener asked for."""
        return self.stream.reliability

    def __repr__(self) -> str:
        return f"<Offer {self.name!r} of {self.peer.short}>"


# Events, in the order in which things happened. Plain slotted classes: they are made by the thousand.


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """A conversation with the peer began; precedes everything else of it."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """Name, metadata, state or path of a peer changed; or it is known now, and has not joined."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerForgotten:
    """A peer that has not joined is known no more: whoever told of it has withdrawn that."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The conversation is over; follows the end of its streams."""

    peer: Peer
    reason: LossReason


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A single message came."""

    message: Message


@dataclass(frozen=True, slots=True)
class SendDone:
    """A single send is over: acknowledged (reliable), transmitted (unreliable), or failed with ``error``."""

    send_id: int
    error: BusError | None


@dataclass(frozen=True, slots=True)
class StreamOffered:
    """A peer wants to open a stream."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The stream is accepted, by either side."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamReady:
    """Messages up to ``stream.sent_sequence`` have left the send queue; there is room again."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamMessages:
    """Messages ``first_sequence, first_sequence + 1, …`` of a stream; the application consumes them."""

    stream: Stream
    first_sequence: int
    messages: list[bytes]


@dataclass(frozen=True, slots=True)
class StreamAcknowledged:
    """All messages up to ``sequence`` are in the memory of the other bus."""

    stream: Stream
    sequence: int


@dataclass(frozen=True, slots=True)
class StreamFinishedReceiving:
    """The other end sends no more; what came before stands."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over; last of its events. ``error`` None: the other application consumed all we sent."""

    stream: Stream
    error: BusError | None


@dataclass(frozen=True, slots=True)
class UnreliableWaiting:
    """Unreliable messages wait in ``unread``: ``bytes`` of ``stream``, or a ``Message`` where it is None.

    Take them from there until there is none, from one thread at a time; told again when more come after that.
    What is not taken in time is dropped, the oldest first.
    """

    stream: Stream | None
    unread: Unread[Any]


Event: TypeAlias = (
    PeerJoined
    | PeerChanged
    | PeerForgotten
    | PeerLeft
    | MessageReceived
    | SendDone
    | StreamOffered
    | StreamOpened
    | StreamReady
    | StreamMessages
    | StreamAcknowledged
    | StreamFinishedReceiving
    | StreamEnded
    | UnreliableWaiting
)


class DropCause(enum.Enum):
    """Why a message or packet was dropped."""

    SEND_QUEUE_FULL = "send queue full"
    NO_PATH = "no path"
    LATE = "late"
    DUPLICATE = "duplicate"
    STALE = "stale"
    UNAUTHENTICATED = "unauthenticated"
    RECEIVE_QUEUE_FULL = "receiver's queue full"
    INCOMPLETE = "fragments missing"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Messages each way, and what waits now. Bytes are payload bytes."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    send_queue_messages: int = 0
    send_queue_bytes: int = 0
    unconsumed_messages: int = 0
    unconsumed_bytes: int = 0

    def past(self) -> Traffic:
        """Return this without what waits, which is nothing once a stream or conversation is over."""
        return Traffic(self.messages_sent, self.bytes_sent, self.messages_received, self.bytes_received)

    @classmethod
    def total(cls, counters: Iterable[Traffic]) -> Traffic:
        """Return the sum of those, at least one."""
        return cls(*map(sum, zip(*map(_COUNTS, counters), strict=True)))


_COUNTS = attrgetter(*Traffic.__slots__)


@dataclass(frozen=True, slots=True)
class StreamStats(Traffic):
    """Counters of one stream."""

    send_credit_bytes: int = 0
    """How much the other end would take now (payload + 64 a message)."""
    dropped: Mapping[DropCause, int] = field(default_factory=dict)
    """Unreliable messages that were not sent, or not delivered here."""


@dataclass(frozen=True, slots=True)
class PeerStats:
    """Counters of one conversation. Bytes are bytes on the wire, before encryption; but for ``traffic``."""

    traffic: Traffic = Traffic()
    """Of all streams and single messages together."""
    packets_sent: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    packets_resent: int = 0
    links: int = 0
    links_lost: int = 0
    streams_open: int = 0
    unacknowledged_bytes: int = 0
    rtt_s: float | None = None
    jitter_s: float | None = None
    datagrams_sent: int = 0
    datagrams_received: int = 0
    datagram_rtt_s: float | None = None
    """Smoothed round-trip time over UDP, in seconds; None until measured."""
    datagram_jitter_s: float | None = None
    """Variation of the transit time to us, in seconds (RFC 3550); None until measured."""
    loss: float | None = None
    """Share of datagrams lost on the way to us, 0 to 1; None until measured."""
    loss_there: float | None = None
    """Share of ours lost on the way to the peer, as it counts them; None until it told."""
    dropped: Mapping[DropCause, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeStats:
    """Counters of the node, over all conversations so far."""

    traffic: Traffic = Traffic()
    peers: int = 0
    links: int = 0
    handshakes_refused: int = 0
    dials_failed: int = 0
    """Dials that came to nothing: nobody was there, or not who was expected."""
    rejected_records: int = 0
    """What discoveries came upon that was false, foreign or garbage; what peers told that leads nowhere."""
    hearsay_failed: int = 0
    """Dials for what peers told of other peers, on which those were not met."""
    dropped: Mapping[DropCause, int] = field(default_factory=dict)
