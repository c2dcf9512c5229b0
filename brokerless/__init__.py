"""The brokerless ZeroMQ framework underneath ``dittobus``: nodes, links, sessions, streams, discovery.

For authors of another face or of simulations; provisional until 1.0. Users hold ``dittobus``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brokerless.address import Address, Ticket
from brokerless.clock import now
from brokerless.config import Limits, NodeConfig
from brokerless.discovery import Beacon, Discovery, Hint
from brokerless.errors import (
    AmbiguousPeer,
    BusClosed,
    BusError,
    BusTimeout,
    ClosedError,
    ConfigError,
    DeliveryUnknown,
    EndOfStream,
    ForkedProcessError,
    IdentityInUse,
    LocalProtocolError,
    MessageTooLarge,
    NoPath,
    OpenTimeout,
    PeerError,
    PeerLost,
    PeerRefused,
    PortInUse,
    ProtocolError,
    RemoteProtocolError,
    SendQueueFull,
    SendTimeout,
    StartError,
    StreamClosed,
    StreamError,
    StreamFinished,
    StreamNotReady,
    StreamRejected,
    StreamReset,
    UnknownPeer,
    UsageError,
    VersionMismatch,
    WaitTimeout,
    WireError,
)
from brokerless.model import (
    DatagramPath,
    DropCause,
    Event,
    LossReason,
    Message,
    MessageReceived,
    NodeStats,
    Offer,
    Path,
    Peer,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    PeerState,
    PeerStats,
    Reliability,
    ReliablePath,
    SendDone,
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamMessages,
    StreamOffered,
    StreamOpened,
    StreamReady,
    StreamStats,
    Traffic,
    UnreliableWaiting,
)

if TYPE_CHECKING:
    from brokerless.discovery.gossip import GossipDiscovery
    from brokerless.discovery.registry import RegistryDiscovery
    from brokerless.discovery.zeroconf import ZeroconfDiscovery
    from brokerless.identity import Identity
    from brokerless.node import Node
    from brokerless.protocol.datagram_stream import DatagramStream
    from brokerless.protocol.stream import Stream
    from brokerless.protocol.unread import Unread
    from brokerless.trust import generate_secret

__all__ = [
    "Address",
    "AmbiguousPeer",
    "Beacon",
    "BusClosed",
    "BusError",
    "BusTimeout",
    "ClosedError",
    "ConfigError",
    "DatagramPath",
    "DatagramStream",
    "DeliveryUnknown",
    "Discovery",
    "DropCause",
    "EndOfStream",
    "Event",
    "ForkedProcessError",
    "GossipDiscovery",
    "Hint",
    "Identity",
    "IdentityInUse",
    "Limits",
    "LocalProtocolError",
    "LossReason",
    "Message",
    "MessageReceived",
    "MessageTooLarge",
    "NoPath",
    "Node",
    "NodeConfig",
    "NodeStats",
    "Offer",
    "OpenTimeout",
    "Path",
    "Peer",
    "PeerChanged",
    "PeerError",
    "PeerForgotten",
    "PeerJoined",
    "PeerLeft",
    "PeerLost",
    "PeerRefused",
    "PeerState",
    "PeerStats",
    "PortInUse",
    "ProtocolError",
    "RegistryDiscovery",
    "Reliability",
    "ReliablePath",
    "RemoteProtocolError",
    "SendDone",
    "SendQueueFull",
    "SendTimeout",
    "StartError",
    "Stream",
    "StreamAcknowledged",
    "StreamClosed",
    "StreamEnded",
    "StreamError",
    "StreamFinished",
    "StreamFinishedReceiving",
    "StreamMessages",
    "StreamNotReady",
    "StreamOffered",
    "StreamOpened",
    "StreamReady",
    "StreamRejected",
    "StreamReset",
    "StreamStats",
    "Ticket",
    "Traffic",
    "UnknownPeer",
    "Unread",
    "UnreliableWaiting",
    "UsageError",
    "VersionMismatch",
    "WaitTimeout",
    "WireError",
    "ZeroconfDiscovery",
    "generate_secret",
    "now",
]

_LATE = {
    "DatagramStream": "brokerless.protocol.datagram_stream",
    "GossipDiscovery": "brokerless.discovery.gossip",
    "Identity": "brokerless.identity",
    "Node": "brokerless.node",
    "RegistryDiscovery": "brokerless.discovery.registry",
    "Stream": "brokerless.protocol.stream",
    "Unread": "brokerless.protocol.unread",
    "ZeroconfDiscovery": "brokerless.discovery.zeroconf",
    "generate_secret": "brokerless.trust",
}
"""Imported on first use: zeroconf, cryptography and the node cost 0.2 s, which no import of ours should."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    globals()[name] = late = getattr(importlib.import_module(_LATE[name]), name)
    return late
