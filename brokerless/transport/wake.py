"""Waiting for ZeroMQ sockets on an asyncio loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

NOBLOCK = int(zmq.NOBLOCK)
"""A plain int: the enumeration costs half a microsecond each time it meets libzmq."""

NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

TURN_S = 0.01
"""How long packets are received before others get their turn. At a stream's full rate a turn takes 2 ms; but
a member can fill packets with small frames, up to 50 ms of work in each."""


class Wake:
    """Calls ``look`` whenever a ZeroMQ socket may have something to do, until there is nothing left.

    The descriptor of a ZeroMQ socket becomes readable when one of libzmq's threads sent the socket a command
    ("the pipe has messages", "the pipe has room again"), and *every* call on the socket may take the commands
    in. So it says nothing about messages, and a send can swallow the signal of a message that waits. Hence:

    - ``look`` receives until ``zmq.Again``, or returns True to be called again in the next turn of the loop,
      after everybody else;
    - whoever sends calls ``nudge``, and ``look`` runs in the next turn, however many sends there were.
    """

    __slots__ = ("_descriptor", "_look", "_loop", "_next")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, socket: zmq.Socket[bytes], look: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._look = look
        self._next: asyncio.Handle | None = None
        self._descriptor = int(socket.get(zmq.FD))
        loop.add_reader(self._descriptor, self._run)
        self.nudge()  # what came before the reader was there has been signalled to nobody

    def nudge(self) -> None:
        """Look in the next turn of the loop."""
        if self._next is None and self._descriptor >= 0:
            self._next = self._loop.call_soon(self._run)

    def close(self) -> None:
        """Look no more. To be called before the socket is closed, which frees the descriptor's number."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            self._descriptor = -1
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _run(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._descriptor < 0:
            return
        more = True
        try:
            more = self._look()
        finally:
            # If look raised (the loop logs it), the signal is spent, but messages may wait.
            if more:
                self.nudge()
