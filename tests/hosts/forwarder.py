"""Passes on what comes to some ports of a host to one behind it, as a container's host or a NAT does.

Arguments: where to listen (IP), whom to pass it on to (IP), and ``from:to`` for each pair of ports, of TCP
and UDP. Says ``ready`` when it listens, and ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]

READ_BYTES = 65536


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until it ends."""
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def connected(target: Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Somebody has connected: connect to the target for it."""
    there = await asyncio.open_connection(*target)
    await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))


class Returning(asyncio.DatagramProtocol):
    """What comes back for one sender."""

    def __init__(self, outside: asyncio.DatagramTransport, sender: Place) -> None:
        self.outside, self.sender = outside, sender

    def datagram_received(self, data: bytes, address: Place) -> None:
        self.outside.sendto(data, self.sender)


class Datagrams(asyncio.DatagramProtocol):
    """The outside of a UDP port; each sender has a socket of its own on the inside."""

    def __init__(self, target: Place) -> None:
        self.target = target
        self.outside: asyncio.DatagramTransport
        self.inside: dict[Place, asyncio.Task[asyncio.DatagramTransport]] = {}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.outside = transport

    def datagram_received(self, data: bytes, address: Place) -> None:
        if address not in self.inside:
            self.inside[address] = asyncio.create_task(self._open(address))
        self.inside[address].add_done_callback(lambda opened: opened.result().sendto(data))

    async def _open(self, sender: Place) -> asyncio.DatagramTransport:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Returning(self.outside, sender), remote_addr=self.target
        )
        return transport


async def main(here: str, there: str, *pairs: str) -> None:
    loop = asyncio.get_running_loop()
    for pair in pairs:
        port, other = map(int, pair.split(":"))
        await asyncio.start_server(functools.partial(connected, (there, other)), here, port)
        await loop.create_datagram_endpoint(functools.partial(Datagrams, (there, other)), (here, port))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # there is nothing to finish


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
