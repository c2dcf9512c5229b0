"""The authentication handler: it says which CURVE keys get in, and writes them on each of their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from brokerless.address import Address
from brokerless.transport.wake import NOBLOCK, Wake

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"brokerless"
"""Of the ROUTER: everybody may knock."""

PULL_DOMAIN = b"brokerless-push"
"""Of the PULL: peers only."""

REQUESTS_PER_TURN = 32
"""Newcomers may come in crowds; those inside get their turn in between."""

_KEY_BYTES = 32


class ZapHandler:
    """Answers libzmq's question (ZMQ RFC 27) who may come in, on the loop.

    Whoever completed CURVE holds the key it claims. At the ROUTER, whether that key may join the mesh is
    decided later, at HELLO, and not here: so the answer is yes, with the key in hexadecimal as ``User-Id``.
    At the PULL nobody says HELLO, and ``permits`` decides; the answer is "not now" rather than "no", for only
    then does libzmq at the other end try again, once its own handshake timeout is over. Both enforce their
    domain, so without a handler nobody comes in.
    """

    __slots__ = ("_permits", "_socket", "_wake")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        permits: Callable[[Address], bool],
    ) -> None:
        self._permits = permits
        self._socket = context.socket(zmq.REP)
        try:
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.bind(ZAP_ENDPOINT)
            self._wake = Wake(loop, self._socket, self._look)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Answer no more."""
        self._wake.close()
        self._socket.close()

    def _look(self) -> bool:
        for _ in range(REQUESTS_PER_TURN):
            try:
                request = self._socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return False
            self._socket.send_multipart(_answer(request, self._permits), NOBLOCK)
        return True


def _answer(request: list[bytes], permits: Callable[[Address], bool]) -> list[bytes]:
    """The reply to version, request id, domain, address, routing id, mechanism, credentials."""
    version, request_id, domain, _address, _routing_id, mechanism, *credentials = request
    status, text, user_id = b"400", b"CURVE only", b""
    if mechanism == b"CURVE" and [len(each) for each in credentials] == [_KEY_BYTES]:
        if domain == ZAP_DOMAIN or (domain == PULL_DOMAIN and permits(Address(credentials[0]))):
            status, text, user_id = b"200", b"", credentials[0].hex().encode()
        elif domain == PULL_DOMAIN:
            status, text = b"300", b"not now"
    return [version, request_id, status, text, user_id, b""]
