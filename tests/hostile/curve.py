"""CURVE (ZeroMQ's RFC 26) by hand, over a plain TCP connection: what no libzmq would say can be said here.

The primitive is NaCl's box: X25519, HSalsa20, XSalsa20-Poly1305. Salsa20 is written out, since
``cryptography`` does not have it.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.poly1305 import Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.witness import SOON_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)

MORE = 0x01
COMMAND = 0x02
"""Flags of a message, sealed with it."""

_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_TAG_BYTES = 16
_QUARTERS = (
    *((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)),
    *((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)),
)
"""A double round of Salsa20: columns, then rows."""


_WORD = 0xFFFFFFFF
_LANE_BITS = 64
"""Many blocks are made at once: a word of each in one large integer, with room for what is shifted out."""


def _scramble(words: list[int], mask: int = _WORD) -> None:
    """Twenty rounds."""
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            for target, one, other, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
                total = (words[one] + words[other]) & mask
                words[target] ^= (total << turn | total >> (32 - turn)) & mask


def _begin(key: bytes, sixteen: bytes) -> list[int]:
    k, n, s = struct.unpack("<8I", key), struct.unpack("<4I", sixteen), _SIGMA
    return [s[0], *k[:4], s[1], *n, s[2], *k[4:], s[3]]


def _hsalsa20(key: bytes, sixteen: bytes) -> bytes:
    words = _begin(key, sixteen)
    _scramble(words)
    return struct.pack("<8I", *(words[index] for index in (0, 5, 10, 15, 6, 7, 8, 9)))


def _stream(key: bytes, nonce: bytes, length: int) -> bytes:
    """XSalsa20's."""
    count = -(-length // 64)
    ones = int.from_bytes((1).to_bytes(_LANE_BITS // 8, "little") * count, "little")
    words = [word * ones for word in _begin(_hsalsa20(key, nonce[:16]), nonce[16:] + bytes(8))]
    words[8] = int.from_bytes(struct.pack(f"<{count}Q", *range(count)), "little")
    before, mask = words.copy(), _WORD * ones
    _scramble(words, mask)
    stream = bytearray(64 * count)
    for index, (one, other) in enumerate(zip(words, before, strict=True)):
        lanes = ((one + other) & mask).to_bytes(count * _LANE_BITS // 8, "little")
        for byte in range(4):
            stream[4 * index + byte :: 64] = lanes[byte :: _LANE_BITS // 8]
    return bytes(stream[:length])


def _mixed(one: bytes, other: bytes) -> bytes:
    mixed = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return mixed.to_bytes(len(one), "little")


def box_key(secret: bytes, public: bytes) -> bytes:
    """What both ends of a box have in common."""
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    return _hsalsa20(shared, bytes(16))


def seal(key: bytes, nonce: bytes, text: bytes) -> bytes:
    stream = _stream(key, nonce, 32 + len(text))
    sealed = _mixed(text, stream[32:])
    return Poly1305.generate_tag(stream[:32], sealed) + sealed


def unseal(key: bytes, nonce: bytes, sealed: bytes) -> bytes:
    tag, sealed = sealed[:_TAG_BYTES], sealed[_TAG_BYTES:]
    stream = _stream(key, nonce, 32 + len(sealed))
    Poly1305.verify_tag(stream[:32], sealed, tag)
    return _mixed(sealed, stream[32:])


def key_pair() -> tuple[bytes, bytes]:
    """Public and secret key."""
    secret = secrets.token_bytes(32)
    public = X25519PrivateKey.from_private_bytes(secret).public_key()
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw), secret


def properties(named: Mapping[str, bytes]) -> bytes:
    """The metadata of a connection."""
    return b"".join(
        bytes((len(name),)) + name.encode() + struct.pack("!I", len(value)) + value
        for name, value in named.items()
    )


def framed(body: bytes, *, command: bool = False) -> bytes:
    """A frame of ZMTP."""
    flags = 0x04 if command else 0
    if len(body) > 255:
        return struct.pack("!BQ", flags | 0x02, len(body)) + body
    return bytes((flags, len(body))) + body


class CurveClient:
    """One connection to a CURVE server, from the first byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._session = b""
        self._nonce = 2

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()

    def write(self, data: bytes) -> None:
        """Say just that."""
        self._writer.write(data)

    async def handshake(self, server: bytes, ours: tuple[bytes, bytes], named: Mapping[str, bytes]) -> None:
        """Prove to the server that we hold our key, and tell it that metadata. Returns when it is READY."""
        public, secret = key_pair()
        transient = box_key(secret, server)
        hello = seal(transient, b"CurveZMQHELLO---" + struct.pack("!Q", 1), bytes(64))
        body = b"\x05HELLO\x01\x00" + bytes(72) + public + struct.pack("!Q", 1) + hello
        self.write(GREETING + framed(body, command=True))
        await self._read(len(GREETING))
        welcome = await self._command(b"\x07WELCOME")
        opened = unseal(transient, b"WELCOME-" + welcome[:16], welcome[16:])
        server_transient, cookie = opened[:32], opened[32:]
        self._session = box_key(secret, server_transient)
        vouch_nonce = secrets.token_bytes(16)
        vouch = seal(box_key(ours[1], server_transient), b"VOUCH---" + vouch_nonce, public + server)
        initiate = ours[0] + vouch_nonce + vouch + properties(named)
        sealed = seal(self._session, b"CurveZMQINITIATE" + struct.pack("!Q", 2), initiate)
        self.write(framed(b"\x08INITIATE" + cookie + struct.pack("!Q", 2) + sealed, command=True))
        await self._command(b"\x05READY")

    def send(self, message: bytes, flags: int = 0) -> None:
        """Seal a message, or a part of one."""
        self._nonce += 1
        nonce = struct.pack("!Q", self._nonce)
        sealed = seal(self._session, b"CurveZMQMESSAGEC" + nonce, bytes((flags,)) + message)
        self.write(framed(b"\x07MESSAGE" + nonce + sealed))

    async def receive(self) -> bytes:
        """The next message of the server."""
        body = await self._frame()
        assert body.startswith(b"\x07MESSAGE")
        return unseal(self._session, b"CurveZMQMESSAGES" + body[8:16], body[16:])[1:]

    async def hung_up(self) -> bytes:
        """Wait until the server hangs up; return what it says before."""
        said = bytearray()
        try:
            async with asyncio.timeout(SOON_S):
                while more := await self._reader.read(65_536):
                    said += more
        except ConnectionError:
            pass
        return bytes(said)

    async def _command(self, name: bytes) -> bytes:
        body = await self._frame()
        assert body.startswith(name), body[:16]
        return body[len(name) :]

    async def _frame(self) -> bytes:
        flags, length = await self._read(2)
        if flags & 0x02:
            (length,) = struct.unpack("!Q", bytes((length,)) + await self._read(7))
        return await self._read(length)

    async def _read(self, count: int) -> bytes:
        async with asyncio.timeout(SOON_S):
            return await self._reader.readexactly(count)
