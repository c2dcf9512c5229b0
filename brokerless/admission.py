"""Asking the application whether a peer may come in."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.model import Peer

_log = logging.getLogger("dittobus")

ASKED_AT_ONCE_MAX = 32
"""Peers that are asked about at the same time: each may take a thread."""

NOT_ADMITTED = "not admitted"
UNDECIDED = "nobody decided in time"


class Admission:
    """Asks ``admit``, which may be a function, a coroutine function, or anything else that is called.

    A function is called in a thread of its own, since it may take its time; a daemon, since one that never
    answers must not keep the interpreter from exiting.
    """

    def __init__(self, admit: Callable[[Peer], Any], timeout_s: float) -> None:
        self._admit = admit
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    async def refusal(self, peer: Peer) -> str | None:
        """Return why the peer is refused; None if it is admitted. Only True is a yes, whatever goes wrong."""
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                answer = await self._ask(peer)
        except TimeoutError:
            return UNDECIDED
        except Exception:
            _log.exception("admit failed for %s, which is refused", peer.address.short)
            return NOT_ADMITTED
        if answer is True:
            return None
        return answer if isinstance(answer, str) and answer else NOT_ADMITTED

    async def _ask(self, peer: Peer) -> Any:
        if inspect.iscoroutinefunction(self._admit):
            return await self._admit(peer)
        answer = await self._ask_in_thread(peer)
        # A lambda, or an object that is called, may well give a coroutine.
        return await answer if inspect.isawaitable(answer) else answer

    async def _ask_in_thread(self, peer: Peer) -> Any:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()

        def tell(answer: Any, error: Exception | None) -> None:
            if answered.done():  # nobody waits any more
                return
            if error is None:
                answered.set_result(answer)
            else:
                answered.set_exception(error)

        def ask() -> None:
            answer, error = None, None
            try:
                answer = self._admit(peer)
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, answer, error)

        try:
            threading.Thread(target=ask, name="dittobus-admit", daemon=True).start()
        except RuntimeError:  # from Python 3.12 on, the exit of the interpreter allows no new thread
            return "this process is about to exit"
        return await answered
