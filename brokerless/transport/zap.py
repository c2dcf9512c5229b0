"""The authentication handler: every CURVE key gets in, and is written on each of its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from brokerless.transport.wake import NOBLOCK, Wake

if TYPE_CHECKING:
    import asyncio

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"brokerless"

REQUESTS_PER_TURN = 32
"""Newcomers may come in crowds; those inside get their turn in between."""

_KEY_BYTES = 32


class ZapHandler:
    """Answers libzmq's question (ZMQ RFC 27) who may come in, on the loop.

    Whoever completed CURVE holds the key it claims. Whether that key may join the mesh is decided later, at
    HELLO, and not here: so the answer is yes, with the key in hexadecimal as ``User-Id``. Listeners
    enforce the domain, so without a handler nobody comes in.
    """

    __slots__ = ("_socket", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop, context: zmq.Context[zmq.Socket[bytes]]) -> None:
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
            self._socket.send_multipart(_answer(request), NOBLOCK)
        return True


def _answer(request: list[bytes]) -> list[bytes]:
    """The reply to version, request id, domain, address, routing id, mechanism, credentials."""
    version, request_id, domain, _address, _routing_id, mechanism, *credentials = request
    if domain == ZAP_DOMAIN and mechanism == b"CURVE" and [len(each) for each in credentials] == [_KEY_BYTES]:
        return [version, request_id, b"200", b"", credentials[0].hex().encode(), b""]
    return [version, request_id, b"400", b"CURVE only", b"", b""]
