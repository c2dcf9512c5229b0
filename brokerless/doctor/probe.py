"""A transport without a node: it says HELLO and no more, and tells how far that came."""

from __future__ import annotations

import asyncio
import enum
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from brokerless.errors import BusError, PeerRefused, RemoteProtocolError
from brokerless.protocol import wire
from brokerless.protocol.handshake import Handshake, Role, State
from brokerless.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.identity import Identity
    from brokerless.protocol.paths import UdpPlace

NONCE_BYTES = 16


class Progress(enum.IntEnum):
    """How far a dial came."""

    NOTHING = 0
    CURVE = 1
    """What answers there has the key that we expect."""
    HELLO = 2
    """Each has proven to know the mesh's secret, and they speak a common version."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What came of one dial. ``reason`` says why it ended before HELLO."""

    endpoint: str
    progress: Progress
    reason: str = ""
    refusal: PeerRefused | None = None
    seconds: float = 0.0


class _Dial:
    """One dial under way."""

    def __init__(self, endpoint: str, handshake: Handshake) -> None:
        self.endpoint = endpoint
        self.handshake = handshake
        self.progress = Progress.NOTHING
        self.began = time.perf_counter()
        self.greeting: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()

    def end(self, reason: str = "", refusal: PeerRefused | None = None) -> None:
        """Say what came of it, once."""
        if not self.greeting.done():
            elapsed_s = time.perf_counter() - self.began
            self.greeting.set_result(Greeting(self.endpoint, self.progress, reason, refusal, elapsed_s))


class Probe:
    """Dials others as far as HELLO, answers the HELLO of others, and returns datagrams that bear its nonce.

    Commands: ``listen``, ``greet``, ``close``. A dial that has said what it was made for is cut: there is no
    session, and the other end tells its application nothing.
    """

    def __init__(self, identity: Identity, mesh_key: bytes, limits: Limits) -> None:
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        """With which a datagram must begin to be sent back."""
        self._identity = identity
        self._mesh_key = mesh_key
        self._timeout_s = limits.handshake_timeout_s
        self.transport = Transport(identity, self, limits=limits, packet_bytes_max=wire.PACKET_BYTES_MAX)
        self._dials: dict[int, _Dial] = {}
        self._accepted: dict[int, Handshake] = {}

    async def listen(self, hosts: Sequence[str] = (), port: int = 0) -> tuple[str, ...]:
        """Open the sockets; without hosts, only for dialling. Raises ``StartError``."""
        return await self.transport.start(hosts, port, None)

    async def close(self) -> None:
        """Hang up, and let go of everything."""
        for dial in self._dials.values():
            dial.end("given up")
        await self.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def greet(self, endpoint: str, remote: Address) -> Greeting:
        """Dial, say HELLO, hear what is said to it, hang up."""
        dial = _Dial(endpoint, self._handshake(Role.DIALLER, remote))
        try:
            link = self.transport.dial(endpoint, remote)
        except (BusError, OSError) as error:
            dial.end(str(error))
            return await dial.greeting
        self._dials[link] = dial
        try:
            # The transport gives the connection its time, and this gives the answer to HELLO as much again.
            async with asyncio.timeout(2 * self._timeout_s):
                return await asyncio.shield(dial.greeting)
        except TimeoutError:
            dial.end("connected, and silent since" if dial.progress else "no answer")
            return await dial.greeting
        finally:
            del self._dials[link]
            self.transport.cut(link)

    def _handshake(self, role: Role, remote: Address) -> Handshake:
        return Handshake(role, mesh_key=self._mesh_key, local=self._identity.address, remote=remote)

    # LinkSink

    def link_opened(self, link: int, remote: Address) -> None:
        """CURVE is done."""
        dial = self._dials.get(link)
        if dial is None:
            self._accepted[link] = self._handshake(Role.ACCEPTOR, remote)
            return
        dial.progress = Progress.CURVE
        hello = dial.handshake.start()
        assert hello is not None  # a dialler speaks first
        self.transport.send(link, hello)

    def link_message(self, link: int, packet: bytes) -> None:
        """HELLO or REFUSE; what comes after it is of no interest."""
        if link in self._accepted:
            self._answer(link, packet)
            return
        dial = self._dials.get(link)
        if dial is None or dial.greeting.done():
            return
        try:
            dial.handshake.receive(packet)
        except RemoteProtocolError as error:
            dial.end(f"it broke the protocol: {error}")
            return
        if dial.handshake.state is State.DONE:
            dial.progress = Progress.HELLO
            dial.end()
        else:
            refusal = dial.handshake.refusal
            assert refusal is not None
            dial.end(refusal.reason, refusal)

    def _answer(self, link: int, packet: bytes) -> None:
        handshake = self._accepted[link]
        try:
            replies = handshake.receive(packet)
        except RemoteProtocolError:
            self.transport.cut(link)
            del self._accepted[link]
            return
        for reply in replies:
            self.transport.send(link, reply)

    def link_closed(self, link: int, reason: str) -> None:
        """A dial failed, or the other end hung up."""
        self._accepted.pop(link, None)
        dial = self._dials.get(link)
        if dial is not None:
            dial.end(reason)

    def link_writable(self, link: int) -> None:
        """Nothing waits: HELLO is the first packet of a link, for which there is room."""

    def datagram(self, place: UdpPlace, data: bytes) -> None:
        """Send back what was sent by whoever knows the nonce, and nothing else."""
        if data.startswith(self.nonce):
            self.transport.send_datagram(place, data)

    def push_received(self, remote: Address, data: bytes) -> None:
        """Nobody is permitted to."""

    def permits_push(self, remote: Address) -> bool:
        """Nobody is."""
        return False

    def turn_done(self) -> None:
        """Everything was done at once."""
