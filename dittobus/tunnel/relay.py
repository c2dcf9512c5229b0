"""One connection through a tunnel, at either end: the bytes of a socket as the messages of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from brokerless import BusError, SendQueueFull
from dittobus.tunnel.hangups import Hangups
from dittobus.tunnel.opening import RESET_CODE

if TYPE_CHECKING:
    from dittobus.aio import Stream

CHUNK_BYTES_MAX = 64 * 1024 - 64
"""What is read at once, and becomes one message: as much as the first window of a stream takes, where each
message counts 64 bytes besides its own. With one byte more it would have to ask for a grant."""

REST_S = 1.0
"""For what came before a reset to reach the other end before it."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, for no time: TCP then says RST instead of FIN."""


class Desk:
    """What the relays of a loop share. Close it after them."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(CHUNK_BYTES_MAX))
        """What sockets are read into: it is copied before another is read."""
        self.hangups = Hangups(asyncio.get_running_loop())

    def close(self) -> None:
        """Let go of it."""
        self.hangups.close()


class Relay(asyncio.BufferedProtocol):
    """Carries bytes between a socket and a stream, both ways, each with an end of its own.

    The socket is read only while the stream has room, and the stream only while the socket takes more; at
    most one message waits in between. ``desk`` is what the relays of a loop share.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._transport: asyncio.Transport
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stream: Stream | None = None
        # From the socket
        self._chunk: bytes | None = None  # what the stream had no room for
        self._at_eof = False
        self._is_reset = False
        self._news = asyncio.Event()
        # To the socket
        self._writable = asyncio.Event()
        self._writable.set()
        self._has_written_eof = False
        self.bytes_sent = 0
        """From the socket to the stream."""
        self.bytes_received = 0
        """From the stream to the socket."""

    async def run(self, stream: Stream) -> None:
        """Carry bytes until both directions have ended.

        Raises what ended them before, an ``OSError`` of the socket or a ``BusError`` of the stream; the other
        of the two has been reset then, as both have when this is cancelled.
        """
        tasks = [
            asyncio.create_task(part)
            for part in (self._send(stream), self._receive(stream), stream.wait_closed())
        ]
        try:
            await asyncio.wait([self._lost, *tasks], return_when=asyncio.FIRST_EXCEPTION)
            await self._pass_on_the_rest(stream, receiving=tasks[1])
            for part in (self._lost, *tasks):
                if part.done():
                    part.result()
        except BaseException:
            stream.abort(RESET_CODE, "the connection was reset")
            self.reset()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # of several failures, the first was told

    def reset(self) -> None:
        """Break the socket off; on a Unix socket, that cannot be told from an end."""
        if not self._lost.done():
            if self._is_tcp:
                with contextlib.suppress(OSError):  # it is gone already
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

    @property
    def origin(self) -> str:
        """Who is at the other end of the socket, where that has a name."""
        where = self._transport.get_extra_info("peername")
        return f"{where[0]}:{where[1]}" if isinstance(where, tuple) else "a Unix socket"

    @property
    def _is_tcp(self) -> bool:
        return self._sock.family in (socket.AF_INET, socket.AF_INET6)

    async def _pass_on_the_rest(self, stream: Stream, receiving: asyncio.Task[None]) -> None:
        """Let what came before a reset arrive before it, as far as nobody has to be waited for.

        A server that refuses a request answers, closes with the rest of it unread, and so resets.
        """
        if self._lost.done() and self._lost.exception() is not None and self._chunk is None:
            with contextlib.suppress(BusError, TimeoutError):
                async with asyncio.timeout(REST_S):
                    await stream.wait_acknowledged()
        if self._writable.is_set() and not receiving.done():
            await asyncio.wait([receiving], timeout=REST_S)

    # From the socket to the stream

    async def _send(self, stream: Stream) -> None:
        """Do what cannot be done while a chunk is read: wait for room, and end."""
        self._stream = stream
        self._transport.resume_reading()
        while not self._at_eof:
            await self._news.wait()
            self._news.clear()
            if self._chunk is not None:
                await stream.send(self._chunk)
                self._chunk = None
                self._transport.resume_reading()
        await stream.finish()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._desk.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert self._stream is not None  # nothing is read before there is one
        self.bytes_sent += nbytes
        chunk = bytes(self._desk.buffer[:nbytes])
        try:
            self._stream.send_nowait(chunk)
        except SendQueueFull:
            self._transport.pause_reading()
            self._chunk = chunk
            self._news.set()
            if self._is_reset:
                self._was_reset()
        except BusError:  # the stream has ended, which is told elsewhere
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._at_eof = True
        self._news.set()
        self._close_if_over()
        return True  # the other direction goes on

    # From the stream to the socket

    async def _receive(self, stream: Stream) -> None:
        write = self._transport.write
        async for message in stream:
            if self._transport.is_closing():  # lost, which is told elsewhere
                return
            self.bytes_received += len(message)
            write(message)
            if not self._writable.is_set():
                await self._writable.wait()
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._has_written_eof = True
            self._close_if_over()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sock = transport.get_extra_info("socket")
        if self._is_tcp:  # who connected may vanish without a word
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._desk.hangups.watch(self._sock, self._was_reset)
        transport.pause_reading()  # until there is a stream
        transport.set_write_buffer_limits(high=0)  # whatever the system does not take is one message too many

    def connection_lost(self, exc: Exception | None) -> None:
        self._desk.hangups.forget(self._sock)
        if self._lost.done():
            return
        if isinstance(exc, ConnectionError):
            self._read_rest()
        if exc is None and self._at_eof and self._has_written_eof:
            self._lost.set_result(None)
        else:
            self._fail(exc or ConnectionAbortedError("the connection was closed"))

    def _was_reset(self) -> None:
        """Act on a reset, unless the socket is read: then it is met after what was sent before it."""
        self._is_reset = True
        if not self._lost.done() and (self._at_eof or not self._transport.is_reading()):
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
            self._fail(OSError(number, os.strerror(number)))
            self._transport.abort()

    def _read_rest(self) -> None:
        """Read what came before a reset upon which somebody came by writing."""
        if self._stream is None or self._at_eof:
            return
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._sock.fileno())) as sock:
            while self._chunk is None and (count := sock.recv_into(self._desk.buffer)):
                self.buffer_updated(count)

    def _fail(self, error: Exception) -> None:
        self._lost.set_exception(error)
        self._lost.exception()  # where nobody is left to be told, nobody need be told

    def _close_if_over(self) -> None:
        if self._at_eof and self._has_written_eof:
            self._transport.close()
