"""Where a peer's datagrams go."""

from __future__ import annotations

from typing import NamedTuple


class UdpPlace(NamedTuple):
    """Where datagrams come from and go to: an address, and which of our sockets faces it (-1: any that can)."""

    host: str
    port: int
    local: int = -1
