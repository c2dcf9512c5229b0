"""Peers that keep no rule: bare libzmq sockets, and packets made by hand after ``docs/wire.md``.

Nothing here uses the code under test, but for the words in which it is configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import secrets
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack
import zmq
import zmq.asyncio
from zmq.utils import z85

from tests.witness import SOON_S

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"\xffDTB"
REFUSE_PROOF = MAGIC + b"\x02\x01\x00\x00"
"""All that a stranger may ever be told."""

OPEN, ACCEPT, REJECT, DATA, CHUNK, GRANT, BLOCKED, FINISH, CLOSE, RESET = range(1, 11)
INFO, PING, PONG, GOODBYE, PROBED = range(0x10, 0x15)
MET = 0x80

FAULT, SUPERSEDED = 2, 3
"""Codes of a GOODBYE: the reader broke the protocol; another process has its identity."""

BUSY = 0x80000010
"""Code of a REJECT: too many streams are open or waiting."""

_names = itertools.count()


class Keys(NamedTuple):
    """A CURVE key pair; the public one is an address."""

    public: bytes
    secret: bytes


def fresh_keys() -> Keys:
    public, secret = zmq.curve_keypair()
    return Keys(z85.decode(public), z85.decode(secret))


def fresh_routing_id() -> bytes:
    return b"\1" + secrets.token_bytes(15)


# What is said


def proof(mesh_key: bytes, role: bytes, prover: bytes, verifier: bytes) -> bytes:
    return hmac.digest(mesh_key, b"DittoBus HELLO proof" + role + prover + verifier, "sha256")


def hello(said: bytes, versions: bytes = b"\1") -> bytes:
    """HELLO with that proof."""
    return MAGIC + b"\1" + bytes((len(versions),)) + versions + said


def packet(number: int, acknowledged: int, *frames: bytes) -> bytes:
    return struct.pack("!QQ", number, acknowledged) + b"".join(frames)


def frame(kind: int, body: bytes, declared: int | None = None) -> bytes:
    """A frame, which may declare another length than it has."""
    return struct.pack("!BI", kind, len(body) if declared is None else declared) + body


def control(kind: int, *fields: Any) -> bytes:
    return frame(kind, msgpack.packb(fields))


def data(stream: int, sequence: int, *messages: bytes, channel: int = 0) -> bytes:
    run = b"".join(map(msgpack.packb, messages))
    return frame(DATA, struct.pack("!QQI", stream, sequence, channel) + run)


def chunk(stream: int, sequence: int, total: int, offset: int, payload: bytes) -> bytes:
    return frame(CHUNK, struct.pack("!QQIII", stream, sequence, 0, total, offset) + payload)


def info(**fields: Any) -> bytes:
    """INFO, in a packet of its own."""
    known = {
        "boot": 1,
        "epoch": 1,
        "message_bytes_max": 2**26,
        "stream_credit": 65_536,
        "single_credit": 65_536,
        "streams_max": 32_768,
        "liveness_ms": 60_000,
        "name": "strange-name",
        "metadata": b"strange-metadata",
    }
    return packet(0, 0, frame(INFO, msgpack.packb(known | fields)))


# What is heard


class Heard(NamedTuple):
    """A packet, taken apart as far as the tests care."""

    number: int
    acknowledged: int
    frames: list[tuple[int, Any]]

    def of(self, kind: int) -> list[Any]:
        return [body for code, body in self.frames if code == kind]


def parse(message: bytes) -> Heard:
    number, acknowledged = struct.unpack_from("!QQ", message)
    frames: list[tuple[int, Any]] = []
    position = 16
    while position < len(message):
        kind, length = struct.unpack_from("!BI", message, position)
        body = message[position + 5 : position + 5 + length]
        frames.append((kind, body if kind in (DATA, CHUNK) else msgpack.unpackb(body)))
        position += 5 + length
    return Heard(number, acknowledged, frames)


class Intruder:
    """One connection to a node that does as the test pleases."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        node: bytes,
        endpoint: str,
        keys: Keys,
        routing_id: bytes,
        secured: Any,
    ) -> None:
        self.node = node
        self.keys = keys
        self.heard: list[bytes] = []
        self.number = 0
        self.is_member = False
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        secured(self.socket, node, keys)
        place = f"inproc://intruder-{next(_names)}"
        self.socket.monitor(place, zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.connect(place)
        self._ended = False
        self.socket.connect(endpoint)

    # Speaking

    async def say(self, *parts: bytes) -> None:
        """One message, of one part if it is honest."""
        async with asyncio.timeout(SOON_S):
            await self.socket.send_multipart(parts)

    async def say_numbered(self, *frames: bytes, acknowledged: int = 0) -> None:
        """The next numbered packet."""
        self.number += 1
        await self.say(packet(self.number, acknowledged, *frames))

    # Hearing

    async def hear(self) -> bytes:
        """The next message."""
        async with asyncio.timeout(SOON_S):
            message: bytes = await self.socket.recv()
        self.heard.append(message)
        return message

    async def hear_frame(self, kind: int) -> Any:
        """The body of the next frame of that kind."""
        while True:
            found = parse(await self.hear()).of(kind)
            if found:
                return found[0]

    async def connected(self) -> None:
        """Wait until CURVE is through."""
        await self._until(zmq.EVENT_HANDSHAKE_SUCCEEDED)

    async def hung_up(self) -> None:
        """Wait until the node hangs up, and take in what it said before."""
        await self._until(zmq.EVENT_DISCONNECTED)
        with contextlib.suppress(zmq.Again):
            while True:
                self.heard.append(await self.socket.recv(zmq.NOBLOCK))

    async def _until(self, event: int) -> None:
        async with asyncio.timeout(SOON_S):
            while not self._ended:
                body, _ = await self._monitor.recv_multipart()
                (happened,) = struct.unpack_from("=H", body)
                self._ended = happened == zmq.EVENT_DISCONNECTED
                if happened == event:
                    return
        assert event == zmq.EVENT_DISCONNECTED, "hung up on"

    # As one who knows the secret

    def hello(self, mesh_key: bytes, versions: bytes = b"\1") -> bytes:
        """The HELLO of one who does."""
        return hello(proof(mesh_key, b"D", self.keys.public, self.node), versions)

    async def greet(self, mesh_key: bytes) -> dict[str, Any]:
        """Exchange HELLO, and return the node's INFO."""
        self.is_member = True
        await self.say(self.hello(mesh_key))
        answer = await self.hear()
        assert answer == hello(proof(mesh_key, b"A", self.node, self.keys.public))
        told: dict[str, Any] = await self.hear_frame(INFO)
        return told

    async def join(self, mesh_key: bytes, **fields: Any) -> dict[str, Any]:
        """Begin a session, and return the node's INFO."""
        told = await self.greet(mesh_key)
        await self.say(info(their_boot=told["boot"], their_epoch=told["epoch"], **fields))
        return told

    async def expelled(self) -> str:
        """Wait for the node's last word, which must be FAULT, hang up, and return its reason."""
        code, reason, *_ = await self.hear_frame(GOODBYE)
        assert code == FAULT
        self.socket.close()
        return str(reason)


# How a connection is secured, or not


def by_curve(socket: zmq.asyncio.Socket, node: bytes, keys: Keys) -> None:
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, node)


def by_curve_to_another(socket: zmq.asyncio.Socket, node: bytes, keys: Keys) -> None:
    by_curve(socket, fresh_keys().public, keys)


def by_half_a_key(socket: zmq.asyncio.Socket, node: bytes, keys: Keys) -> None:
    """A secret key that the public one is not of."""
    by_curve(socket, node, Keys(fresh_keys().public, keys.secret))


def by_nothing(socket: zmq.asyncio.Socket, node: bytes, keys: Keys) -> None:
    """NULL."""


def by_password(socket: zmq.asyncio.Socket, node: bytes, keys: Keys) -> None:
    socket.setsockopt(zmq.PLAIN_USERNAME, b"user")
    socket.setsockopt(zmq.PLAIN_PASSWORD, b"password")


@contextlib.contextmanager
def raw_context() -> Iterator[zmq.asyncio.Context]:
    """A context whose sockets are closed with it."""
    context = zmq.asyncio.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


class Impostor:
    """Listens where a node dials, with keys of its own choice, and answers as the test pleases."""

    def __init__(self, context: zmq.asyncio.Context, keys: Keys) -> None:
        self.keys = keys
        self.heard: list[bytes] = []
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        self.socket.setsockopt(zmq.CURVE_SERVER, 1)
        self.socket.bind("tcp://127.0.0.1:*")
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    async def hear(self) -> tuple[bytes, bytes]:
        """The next message, and by which connection it came."""
        async with asyncio.timeout(SOON_S):
            connection, message = await self.socket.recv_multipart()
        self.heard.append(message)
        return connection, message

    async def say(self, connection: bytes, message: bytes) -> None:
        await self.socket.send_multipart([connection, message])
