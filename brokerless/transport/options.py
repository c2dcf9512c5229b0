"""How the ROUTER and the DEALERs of a node are set up."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from brokerless.identity import Identity

QUEUE_PACKETS_MAX = 4
"""libzmq's high-water mark each way, in packets of up to 72 KiB. What lies in a queue cannot be overtaken, so
it is shallow. With 2, a small packet cost half as much again, since the link was busy twice as often; with 8
and 16 it cost less still, and large packets were no faster."""

KERNEL_BUFFER_BYTES = 256 * 1024
"""SO_SNDBUF and SO_RCVBUF between hosts: 100 Mbit/s at 20 ms of round trip. Within the host the kernel's own
choice was a tenth faster."""

ROUTING_ID_BYTES = 16
"""Random, for each dial anew: nobody meets another's by chance, nor guesses it."""

CURVE_OVERHEAD_BYTES = 33
"""What CURVE adds to each message: ``MAXMSGSIZE`` counts it."""


def set_common(socket: zmq.Socket[bytes], identity: Identity, *, packet_bytes_max: int) -> None:
    """Set what both ends have in common."""
    socket.setsockopt(zmq.CURVE_SECRETKEY, identity.secret)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, identity.public)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, QUEUE_PACKETS_MAX)
    socket.setsockopt(zmq.RCVHWM, QUEUE_PACKETS_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, packet_bytes_max + CURVE_OVERHEAD_BYTES)


def set_place(socket: zmq.Socket[bytes], host: str) -> None:
    """Set what depends on where the next ``bind`` or ``connect`` goes; it takes the options it finds."""
    buffer_bytes = -1 if is_loopback(host) else KERNEL_BUFFER_BYTES
    socket.setsockopt(zmq.SNDBUF, buffer_bytes)
    socket.setsockopt(zmq.RCVBUF, buffer_bytes)
    socket.setsockopt(zmq.IPV6, int(":" in host))


def is_loopback(host: str) -> bool:
    """True if the host is known to be this one; a host of "" is (ipc)."""
    try:
        return not host or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
