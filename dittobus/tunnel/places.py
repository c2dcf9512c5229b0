"""Where a tunnel begins and ends, and how that is written.

===================  ======================================================================
``127.0.0.1:80``     a TCP port; the host is a name or an address, in brackets if it has colons
``127.0.0.1:53/udp`` a UDP port
``/run/redis.sock``  a Unix socket: whatever has a slash
===================  ======================================================================
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum

from brokerless import ConfigError

LOOPBACK = "127.0.0.1"
"""Where a tunnel listens unless told otherwise: whoever connects acts with what this host's user may do."""

PORT_MAX = 65_535

PATH_BYTES_MAX = 107
"""What ``sun_path`` holds on Linux, without its end; elsewhere the system says that it is less."""

# Colons divide, but not in brackets: those of an IPv6 address, of a path, of a peer's name.
_PART = r"(\[[^\[\]]*\]|[^:\[\]]*)"
_PARTS = re.compile(f"{_PART}(:{_PART})*")
_EACH_PART = re.compile(f"(?:^|:){_PART}")
_KIND = re.compile(r"(:[0-9]+)/(tcp|udp)$")


class Kind(Enum):
    """What kind of socket there is."""

    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class Place:
    """A socket to connect to, or to listen on. ``str`` gives what ``parse`` takes."""

    kind: Kind
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str, default: Kind = Kind.TCP) -> Place:
        """Return the place that is written so. Raises ``ConfigError``."""
        parts, kind = _divided(text, default)
        match parts:
            case [path] if "/" in path:
                return cls.at_path(path, kind)
            case [host, port]:
                return cls.at_port(host, port, kind)
        raise ConfigError(f"expected HOST:PORT or the path of a Unix socket, got {text!r:.80}")

    @classmethod
    def at_port(cls, host: str, port: str, kind: Kind = Kind.TCP) -> Place:
        """Return the place at that host and port."""
        if not host or "/" in host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > PORT_MAX:
            raise ConfigError(
                f"expected HOST:PORT with a port up to {PORT_MAX}, got {f'{host}:{port}'!r:.80}"
            )
        return cls(kind, host=_same(host), port=int(port))

    @classmethod
    def at_path(cls, path: str, kind: Kind = Kind.UNIX) -> Place:
        """Return the Unix socket there."""
        if kind is Kind.UDP:
            raise ConfigError(f"{path!r:.80} is a Unix socket, which has no UDP")
        if len(path.encode()) > PATH_BYTES_MAX:
            raise ConfigError(f"the path of a socket has at most {PATH_BYTES_MAX} bytes, got {path!r:.80}")
        return cls(Kind.UNIX, path=path)

    def reachable(self) -> Place:
        """Return this, if one can connect to it; on port 0 one can only listen. Raises ``ConfigError``."""
        if self.kind is not Kind.UNIX and self.port == 0:
            raise ConfigError(f"expected a port of 1 to {PORT_MAX} to connect to, got {self}")
        return self

    def __str__(self) -> str:
        if self.kind is Kind.UNIX:
            return _bracketed(self.path)
        return f"{_bracketed(self.host)}:{self.port}{'/udp' if self.kind is Kind.UDP else ''}"


@dataclass(frozen=True, slots=True)
class Route:
    """What the side that listens is asked for: where, for which peer, and what is to be reached there."""

    listen: Place
    peer: str
    target: Place

    @classmethod
    def parse(cls, text: str, default: Kind = Kind.TCP) -> Route:
        """Return what ``[BIND:]PORT:PEER:HOST:PORT`` says, or a form with paths. Raises ``ConfigError``."""
        parts, kind = _divided(text, default)
        match parts:
            case [ours, peer, theirs] if "/" in ours and "/" in theirs:
                listen, target = Place.at_path(ours, kind), Place.at_path(theirs, kind)
            case [ours, peer, host, port] if "/" in ours:
                listen, target = Place.at_path(ours, kind), Place.at_port(host, port, kind)
            case [*ours, peer, theirs] if "/" in theirs and len(ours) in (1, 2):
                listen, target = Place.at_port(*_bound(ours), kind), Place.at_path(theirs, kind)
            case [*ours, peer, host, port] if len(ours) in (1, 2):
                listen, target = Place.at_port(*_bound(ours), kind), Place.at_port(host, port, kind)
            case _:
                raise ConfigError(f"expected [BIND:]PORT:PEER:HOST:PORT, got {text!r:.80}")
        if not peer:
            raise ConfigError(f"expected a peer in [BIND:]PORT:PEER:HOST:PORT, got {text!r:.80}")
        return cls(listen, peer, target.reachable())


def _bound(parts: list[str]) -> tuple[str, str]:
    return (LOOPBACK, parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _divided(text: str, default: Kind) -> tuple[list[str], Kind]:
    """Return the parts between the colons, without brackets, and the kind."""
    if named := _KIND.search(text):
        text, default = text[: named.end(1)], Kind(named[2])
    if not text.isprintable():
        raise ConfigError(f"expected what can be printed, got {text!r:.80}")
    if not _PARTS.fullmatch(text):
        raise ConfigError(f"expected brackets around whole parts only, got {text!r:.80}")
    return [part.strip("[]") for part in _EACH_PART.findall(text)], default


def _bracketed(part: str) -> str:
    return f"[{part}]" if ":" in part else part


def _same(host: str) -> str:
    """Return the one way to write that host, so that two ways are not two targets."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()
