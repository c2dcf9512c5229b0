"""File descriptors: those that libzmq owns, and how many are left.

A ROUTER cannot hang up on a peer, but the kernel can: ``shutdown`` of the connection's descriptor. The
descriptor is libzmq's, which may close it at any moment from its I/O thread, and then its number stands for
something else. So every use goes through a duplicate: it keeps hold of *that* connection while it is looked
at and shut down, and its fingerprint tells whether it is still the one that was meant.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, TypeAlias

from brokerless.errors import StartError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

Fingerprint: TypeAlias = tuple[object, ...]

RESERVE_DESCRIPTORS = 4
"""Held back for the day the process has none left; see ``Reserve``."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What ``accept`` says when it is not the connection's fault."""

_CREDENTIALS = struct.Struct("3i")  # struct ucred of Linux: pid, uid, gid

_TCP_INFO = struct.Struct("=128xQ")  # struct tcp_info of Linux, up to tcpi_bytes_received, which 4.1 brought


@contextlib.contextmanager
def borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A socket object for a connection of libzmq's. Raises OSError if there is none."""
    try:
        duplicate = socket.dup(descriptor)
    except OSError as error:
        if error.errno not in EXHAUSTED:
            raise
        # None left for a duplicate, and hanging up is what would free one: do without, for a moment.
        connection = socket.socket(fileno=descriptor)
        try:
            yield connection
        finally:
            connection.detach()
    else:
        try:
            connection = socket.socket(fileno=duplicate)
        except OSError:  # no socket
            socket.close(duplicate)
            raise
        with connection:
            yield connection


def fingerprint(connection: socket.socket) -> Fingerprint:
    """What tells this connection from any other that had or will have its descriptor. Raises OSError."""
    # Where the kernel numbers sockets like files (Linux), the number decides; elsewhere the addresses do.
    inode = os.fstat(connection.fileno()).st_ino if os.name == "posix" else 0
    return connection.family, connection.getsockname(), connection.getpeername(), inode


def is_local(of: Fingerprint) -> bool:
    """True for a connection within this host that has no IP address at all."""
    return of[0] == getattr(socket, "AF_UNIX", None)


def is_near(of: Fingerprint) -> bool:
    """True for a connection within this host: with no IP address at all, or from one on loopback."""
    remote = of[2]
    return is_local(of) or (isinstance(remote, tuple) and is_loopback(str(remote[0])))


def is_loopback(host: str) -> bool:
    """True for an address on loopback, in whichever form the kernel tells it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def shut_down(descriptor: int, expected: Fingerprint) -> bool:
    """Hang up the connection if the descriptor is still the expected one; False if it is not."""
    with contextlib.suppress(OSError), borrowed(descriptor) as connection:
        if fingerprint(connection) == expected:
            connection.shutdown(socket.SHUT_RDWR)
            return True
    return False


def received_bytes(descriptor: int) -> int:
    """How many bytes have come by that TCP connection so far; 0 where the kernel does not tell.

    Cheap, for it makes no duplicate: if the number stands for another connection by now, it is of that one.
    """
    if sys.platform != "linux":
        return 0
    try:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, descriptor)
    except OSError:
        return 0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:  # by ipc, or closed
        return 0
    finally:
        connection.detach()
    return int(_TCP_INFO.unpack(info)[0]) if len(info) == _TCP_INFO.size else 0


def peer_user(connection: socket.socket) -> int | None:
    """The user at the other end of a connection within this host, where the kernel tells."""
    if not hasattr(socket, "SO_PEERCRED") or connection.family != socket.AF_UNIX:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def descriptors_max() -> int:
    """How many descriptors this process may have; without a limit, more than it ever needs."""
    if resource is None:
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def require_descriptors(count: int) -> None:
    """Raise StartError unless that many descriptors are free.

    libzmq aborts the process when it runs out while it starts a context or binds, so it is asked beforehand.
    """
    taken: list[int] = []
    try:
        for _ in range(count):
            taken.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401 - to close what was opened
    except OSError as error:
        raise StartError(
            f"file descriptors have run out: {error.strerror}", hint="raise the limit (ulimit -n)"
        ) from error
    finally:
        for descriptor in taken:
            os.close(descriptor)


class Reserve:
    """A few descriptors to give away when the process has no other left.

    Without one, libzmq can neither accept the connection at its door nor refuse it, and its I/O thread spins
    on the attempt, slowing every link down. So they are released, the strangers let in are hung up on at
    once, which frees the descriptors, and they are taken back.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[int] = []
        self.refill()

    @property
    def spent(self) -> bool:
        """Part of it is given away: let nobody in."""
        return len(self._held) < RESERVE_DESCRIPTORS

    def release(self) -> None:
        """Give it away."""
        while self._held:
            os.close(self._held.pop())

    def refill(self) -> None:
        """Take back what there is."""
        with contextlib.suppress(OSError):
            while self.spent:
                self._held.append(os.open(os.devnull, os.O_RDONLY))
