"""DittoBus: messages and streams between the processes of a mesh, without a broker.

``DittoBus`` is the bus in the delegate style, for any thread; ``dittobus.aio.Bus`` is the same in asyncio,
``dittobus.blocking.Bus`` for code that waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brokerless import Address as DittoAddress
from brokerless import (
    AmbiguousPeer,
    BusClosed,
    BusError,
    BusTimeout,
    ClosedError,
    ConfigError,
    DatagramPath,
    DeliveryUnknown,
    DropCause,
    EndOfStream,
    ForkedProcessError,
    IdentityInUse,
    Limits,
    LocalProtocolError,
    LossReason,
    MessageTooLarge,
    NodeStats,
    NoPath,
    OpenTimeout,
    Peer,
    PeerChanged,
    PeerError,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    PeerLost,
    PeerRefused,
    PeerState,
    PeerStats,
    PortInUse,
    ProtocolError,
    ReliablePath,
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
    StreamStats,
    Ticket,
    Traffic,
    UnknownPeer,
    UsageError,
    VersionMismatch,
    WaitTimeout,
    WireError,
)
from brokerless import Message as DittoBusMessage
from brokerless import Path as PeerPath  # pathlib's Path is not to be shadowed by an import of all
from brokerless import Reliability as DittoBusReliability
from dittobus._environment import environment
from dittobus.bus import DittoBus
from dittobus.delegates import DittoBusDelegate, DittoBusStreamDelegate
from dittobus.dispatch import DispatchQueue
from dittobus.offer import DittoBusStreamOffer
from dittobus.peers import Peers
from dittobus.stream import DittoBusStream

if TYPE_CHECKING:
    from brokerless import Identity, generate_secret

__all__ = [
    "AmbiguousPeer",
    "BusClosed",
    "BusError",
    "BusTimeout",
    "ClosedError",
    "ConfigError",
    "DatagramPath",
    "DeliveryUnknown",
    "DispatchQueue",
    "DittoAddress",
    "DittoBus",
    "DittoBusDelegate",
    "DittoBusMessage",
    "DittoBusReliability",
    "DittoBusStream",
    "DittoBusStreamDelegate",
    "DittoBusStreamOffer",
    "DropCause",
    "EndOfStream",
    "ForkedProcessError",
    "Identity",
    "IdentityInUse",
    "Limits",
    "LocalProtocolError",
    "LossReason",
    "MessageTooLarge",
    "NoPath",
    "NodeStats",
    "OpenTimeout",
    "Peer",
    "PeerChanged",
    "PeerError",
    "PeerForgotten",
    "PeerJoined",
    "PeerLeft",
    "PeerLost",
    "PeerPath",
    "PeerRefused",
    "PeerState",
    "PeerStats",
    "Peers",
    "PortInUse",
    "ProtocolError",
    "ReliablePath",
    "RemoteProtocolError",
    "SendQueueFull",
    "SendTimeout",
    "StartError",
    "StreamClosed",
    "StreamError",
    "StreamFinished",
    "StreamNotReady",
    "StreamRejected",
    "StreamReset",
    "StreamStats",
    "Ticket",
    "Traffic",
    "UnknownPeer",
    "UsageError",
    "VersionMismatch",
    "WaitTimeout",
    "WireError",
    "environment",
    "generate_secret",
]


def __getattr__(name: str) -> Any:
    # Both bring cryptography along, which a mere import should not.
    if name == "Identity":
        from brokerless import Identity

        return Identity
    if name == "generate_secret":
        from brokerless import generate_secret

        return generate_secret
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
