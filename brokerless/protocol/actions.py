"""What a node's core asks its shell to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from brokerless.address import Address
    from brokerless.errors import PeerRefused
    from brokerless.model import Peer


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial the endpoint, then call ``dialled``, or ``dial_failed`` if it cannot even be tried."""

    remote: Address
    endpoint: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Cut the link; no ``link_closed`` is to follow."""

    link: int
    reason: str


@dataclass(frozen=True, slots=True)
class Confirm:
    """The other end of the link has proven the secret: it is no stranger any more."""

    link: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Ask the application about this peer, then call ``admitted``."""

    link: int
    peer: Peer


@dataclass(frozen=True, slots=True)
class Refused:
    """A link that we dialled was refused; for the log."""

    error: PeerRefused


@dataclass(frozen=True, slots=True)
class Push:
    """Have a PUSH connection to one of the peer's ``places``, in the order given; none: have none."""

    remote: Address
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Superseded:
    """A newer process has our identity: close, and do not come back."""


Action: TypeAlias = Dial | Cut | Confirm | Admit | Refused | Push | Superseded
