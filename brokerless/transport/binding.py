"""Where a node listens."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
from typing import TYPE_CHECKING

import zmq

from brokerless.errors import ConfigError, PortInUse, StartError
from brokerless.transport import options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PORT_ATTEMPTS = 16
"""A port that one address gave us may be taken on the next one; so often another port is tried."""

IPC_PATH_BYTES_MAX = 103
"""``sun_path`` holds 104 bytes with its terminator on macOS, 108 on Linux."""

IPC_NAME_BYTES = 16
"""64 random bits in hexadecimal: nobody meets another's by chance."""

EVERYWHERE = "*"
"""All addresses of this machine, of IPv6 too where there is IPv6."""

_HINTS = {
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.ENODEV: "expected an IP address",
    errno.EACCES: "ports below 1024 need a privilege",
    errno.EMFILE: "raise the limit (ulimit -n)",
}


def bind(
    socket: zmq.Socket[bytes], hosts: Sequence[str], port: int, ipc_directory: Path | None
) -> tuple[str, ...]:
    """Bind on every host and within the host; return the endpoints, those of TCP first.

    Port 0 is any port, the same on all hosts. A wildcard ("*", "::", "0.0.0.0") comes back as one. On an
    error nothing stays bound. Raises ``PortInUse``, ``StartError``, ``ConfigError``.
    """
    hosts = without_covered(hosts)
    endpoints = _bind_tcp(socket, hosts, port) if hosts else []
    if ipc_directory is not None and zmq.has("ipc"):
        try:
            endpoints.append(_bind_ipc(socket, ipc_directory))
        except BaseException:
            _unbind(socket, endpoints)
            raise
    return tuple(endpoints)


def ipc_path(endpoint: str) -> str | None:
    """The path of an ipc endpoint, None for others."""
    return endpoint.removeprefix("ipc://") if endpoint.startswith("ipc://") else None


def without_covered(hosts: Sequence[str]) -> list[str]:
    """Leave out what a wildcard among the hosts covers: the kernel takes the same port only once."""
    distinct = list(dict.fromkeys(hosts))
    for wildcard in (EVERYWHERE, "::"):
        if wildcard in distinct:
            return [wildcard]
    if "0.0.0.0" in distinct:
        return [host for host in distinct if ":" in host or host == "0.0.0.0"]
    return distinct


def _bind_tcp(socket: zmq.Socket[bytes], hosts: list[str], port: int) -> list[str]:
    for attempt in range(PORT_ATTEMPTS):
        bound: list[str] = []
        try:
            for host in hosts:
                bound.append(_bind_host(socket, host, port or _port_of(bound)))
        except zmq.ZMQError as error:
            _unbind(socket, bound)
            if error.errno == errno.EADDRINUSE and not port and bound and attempt < PORT_ATTEMPTS - 1:
                continue
            which = f"tcp port {port}" if port else "any tcp port"
            raise explained(error, f"{which} of {', '.join(hosts)}") from error
        return bound
    raise AssertionError("the last attempt returns or raises")


def _bind_host(socket: zmq.Socket[bytes], host: str, port: int) -> str:
    options.set_place(socket, host)
    if host == EVERYWHERE:
        socket.setsockopt(zmq.IPV6, 1)
        try:
            return _bind_endpoint(socket, f"tcp://*:{port or '*'}")
        except zmq.ZMQError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EINVAL):
                raise
            socket.setsockopt(zmq.IPV6, 0)  # a kernel without IPv6
            return _bind_endpoint(socket, f"tcp://*:{port or '*'}")
    return _bind_endpoint(socket, f"tcp://{_bracketed(host)}:{port or '*'}")


def fits_ipc(directory: Path) -> bool:
    """True if a path in that directory is short enough for a socket."""
    return len(os.fsencode(directory)) + 1 + IPC_NAME_BYTES <= IPC_PATH_BYTES_MAX


def _bind_ipc(socket: zmq.Socket[bytes], directory: Path) -> str:
    path = str(directory / secrets.token_hex(IPC_NAME_BYTES // 2))
    if not fits_ipc(directory):
        raise ConfigError(
            f"directory: {directory} is too long a path for sockets", hint="choose a shorter directory="
        )
    options.set_place(socket, "")
    try:
        return _bind_endpoint(socket, f"ipc://{path}")
    except zmq.ZMQError as error:
        raise explained(error, path) from error


def _bind_endpoint(socket: zmq.Socket[bytes], endpoint: str) -> str:
    socket.bind(endpoint)
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def _unbind(socket: zmq.Socket[bytes], endpoints: list[str]) -> None:
    for endpoint in endpoints:
        socket.unbind(endpoint)


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def _port_of(endpoints: list[str]) -> int:
    return int(endpoints[0].rpartition(":")[2]) if endpoints else 0


def explained(error: zmq.ZMQError | OSError, place: str) -> StartError:
    """Return what the user is told when ``place`` could not be bound."""
    number = error.errno or 0
    if number == errno.EADDRINUSE:
        return PortInUse(f"cannot listen on {place}: another process holds it", hint="choose another port")
    return StartError(f"cannot listen on {place}: {os.strerror(number)}", hint=_HINTS.get(number, ""))
