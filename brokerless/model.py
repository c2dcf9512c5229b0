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
    """What is promised of delivery.

    Attributes:
        RELIABLE: In order, each exactly once, for as long as both processes live and hear each other.
        UNRELIABLE: May be lost, may arrive in any order, is never delivered twice.
        SEQUENCED: Unreliable, but an older message never arrives after a newer one.
    """

    RELIABLE = "reliable"
    UNRELIABLE = "unreliable"
    SEQUENCED = "sequenced"


class PeerState(enum.Enum):
    """How far the conversation with a peer is. What is reliable may be sent in any state, and waits.

    Attributes:
        KNOWN: Heard of, not dialled: there are more peers than ``limits.eager_dials_max``. Use has it
            dialled.
        JOINING: Being dialled, or proving itself.
        ALIVE: In conversation.
        SUSPECT: In conversation, and not heard for half the liveness limit: soon alive again, or lost.
    """

    KNOWN = "known"
    JOINING = "joining"
    ALIVE = "alive"
    SUSPECT = "suspect"


class LossReason(enum.Enum):
    """Why a peer is gone.

    Attributes:
        LEFT: It closed its bus.
        SILENT: It was not heard for the liveness limit.
        RESTARTED: A new process with its identity joins in its place.
        EXPELLED: One side ended the conversation: over a fault of the other, or because it does not admit
            it, or had given it up as silent.
    """

    LEFT = "left"
    SILENT = "silent"
    RESTARTED = "restarted"
    EXPELLED = "expelled"


class ReliablePath(enum.Enum):
    """What reliable traffic with a peer travels on.

    Attributes:
        TCP: A TCP connection.
        IPC: A Unix socket, on the same host.
        NONE: Nothing now: it is not here, or being reconnected to.
    """

    TCP = "tcp"
    IPC = "ipc"
    NONE = "none"


class DatagramPath(enum.Enum):
    """What unreliable traffic with a peer travels on.

    Attributes:
        UDP: UDP.
        PUSH: A TCP connection of its own, where UDP does not get through.
        NONE: Nothing: what is sent ends in ``NoPath``.
    """

    UDP = "udp"
    PUSH = "push"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Path:
    """What serves a peer now.

    Attributes:
        reliable: Its ``ReliablePath``.
        datagram: Its ``DatagramPath``.
    """

    reliable: ReliablePath = ReliablePath.NONE
    datagram: DatagramPath = DatagramPath.NONE


@dataclass(frozen=True, slots=True)
class Peer:
    """A snapshot of one peer.

    Attributes:
        address: Its public key, which nobody else can claim.
        name: A label that it gave itself, and another may give himself, too.
        metadata: What it tells of itself, at most 4 KiB.
        state: How far the conversation with it is.
        path: What serves it now.
        rtt_s: Smoothed round-trip time in seconds; None until measured.
        jitter_s: Mean deviation of the round-trip time, in seconds (RFC 6298); None until measured.
        loss: Share of datagrams lost on the way to us, 0 to 1; None until measured.
    """

    address: Address
    name: str = ""
    metadata: bytes = b""
    state: PeerState = PeerState.KNOWN
    path: Path = Path()
    rtt_s: float | None = None
    jitter_s: float | None = None
    loss: float | None = None

    @property
    def has_joined(self) -> bool:
        """Whether there is a conversation: the state is alive or suspect."""
        return self.state in (PeerState.ALIVE, PeerState.SUSPECT)


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One single message, as received.

    Attributes:
        sender: Whose it is.
        data: What was sent.
        reliability: How it was sent.
        channel: The number that its sender chose, 0 by default.
        received_at: When it came, in seconds of a clock that goes on while the host sleeps:
            ``CLOCK_BOOTTIME`` where there is one, else ``time.monotonic``.
        origin: The conversation that it came by, which gets its credit back once the message is consumed.
    """

    sender: Address
    data: bytes
    reliability: Reliability
    channel: int
    received_at: float
    origin: Any = field(default=None, repr=False)


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
    """A conversation with ``peer`` began; precedes everything else of it."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """Name, metadata, state or path of ``peer`` changed; or it is known now, and has not joined."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerForgotten:
    """``peer``, which has not joined, is known no more: whoever told of it has withdrawn that."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The conversation with ``peer`` is over, for that ``reason``; follows the end of its streams."""

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
    """Why a message or packet was dropped.

    Attributes:
        SEND_QUEUE_FULL: The socket took no more at that moment.
        NO_PATH: Neither UDP nor TCP reaches the peer.
        LATE: ``SEQUENCED``, and a newer one was there; or its stream had ended.
        DUPLICATE: It had come before.
        STALE: Of a conversation or a stream that is not there, or from before the peer was heard anew.
        UNAUTHENTICATED: Not from who it claimed to be, or of a conversation that is over.
        RECEIVE_QUEUE_FULL: The application did not keep up.
        INCOMPLETE: A part of a larger message did not come.
        MALFORMED: No datagram of a bus.
    """

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
    """Messages each way, and what waits now. Bytes are payload bytes.

    Attributes:
        messages_sent: Messages that have left their send queue.
        bytes_sent: Their bytes.
        messages_received: Messages that came.
        bytes_received: Their bytes.
        send_queue_messages: Messages that wait to be sent.
        send_queue_bytes: Their bytes.
        unconsumed_messages: Messages that came and wait for the application.
        unconsumed_bytes: Their bytes.
    """

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
    """Counters of one stream, besides those of ``Traffic``.

    Attributes:
        send_credit_bytes: How much the other end would take now (payload + 64 a message).
        dropped: Unreliable messages that were not sent, or not delivered here, by cause.
    """

    send_credit_bytes: int = 0
    dropped: Mapping[DropCause, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeerStats:
    """Counters of one conversation. Bytes are bytes on the wire, before encryption; but for ``traffic``.

    Attributes:
        traffic: Of all streams and single messages together.
        packets_sent: ZeroMQ messages that were sent, those sent again included.
        bytes_sent: Their bytes.
        packets_received: ZeroMQ messages that came.
        bytes_received: Their bytes.
        packets_resent: Those that were sent again after a link was lost.
        links: Links with the peer now.
        links_lost: Links that failed, or were cut for a better one.
        streams_open: Streams that are offered or open.
        unacknowledged_bytes: What would be sent again if the link broke now.
        rtt_s: Smoothed round-trip time in seconds; None until measured.
        jitter_s: Mean deviation of the round-trip time, in seconds (RFC 6298); None until measured.
        datagrams_sent: Datagrams that were sent, probes included.
        datagrams_received: Datagrams that came, probes included.
        datagram_rtt_s: Smoothed round-trip time over UDP, in seconds; None until measured.
        datagram_jitter_s: Variation of the transit time to us, in seconds (RFC 3550); None until measured.
        loss: Share of datagrams lost on the way to us, 0 to 1; None until measured.
        loss_there: Share of ours lost on the way to the peer, as it counts them; None until it told.
        dropped: Messages and packets that were dropped, by cause.
    """

    traffic: Traffic = Traffic()
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
    datagram_jitter_s: float | None = None
    loss: float | None = None
    loss_there: float | None = None
    dropped: Mapping[DropCause, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeStats:
    """Counters of the node, over all conversations so far.

    Attributes:
        traffic: Of all peers together.
        peers: Peers in conversation now.
        links: Links now, with whomever.
        handshakes_refused: Those that either side refused: of strangers, for another secret, or not admitted.
        dials_failed: Dials that came to nothing: nobody was there, or not who was expected.
        rejected_records: What discoveries came upon that was false, foreign or garbage; what peers told that
            leads nowhere.
        hearsay_failed: Dials for what peers told of other peers, on which those were not met.
        dropped: Messages and packets that were dropped, by cause.
    """

    traffic: Traffic = Traffic()
    peers: int = 0
    links: int = 0
    handshakes_refused: int = 0
    dials_failed: int = 0
    rejected_records: int = 0
    hearsay_failed: int = 0
    dropped: Mapping[DropCause, int] = field(default_factory=dict)
