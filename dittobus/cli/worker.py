"""Calls that block, of a command that must not."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

P = ParamSpec("P")
T = TypeVar("T")

READ_BYTES = 64 * 1024
"""What a pipe holds on Linux, and a packet of the bus."""


class Worker:
    """A thread in which functions run one after the other, while the loop goes on.

    Unlike an executor's it is a daemon: who waits for input that never comes does not hold up the exit.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def __call__(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Run ``function`` there, and return or raise what it does. When cancelled, it runs nonetheless."""
        done: asyncio.Future[T] = self._loop.create_future()

        def work() -> None:
            try:
                result = function(*arguments, **options)
            except Exception as error:
                self._tell(done, done.set_exception, error)
            else:
                self._tell(done, done.set_result, result)

        self._work.put(work)
        return await done

    def close(self) -> None:
        """Let the thread end once it has done what it was asked for."""
        self._work.put(None)

    def _tell(self, done: asyncio.Future[Any], setter: Callable[[Any], None], value: object) -> None:
        def set_unless_cancelled() -> None:
            if not done.done():
                setter(value)

        try:
            self._loop.call_soon_threadsafe(set_unless_cancelled)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


async def read_chunks(descriptor: int = 0) -> AsyncIterator[bytes]:
    """Iterate over what is read from a descriptor, by default stdin, as it comes."""
    reader = Worker("cli-reader")
    try:
        while chunk := await reader(os.read, descriptor, READ_BYTES):
            yield chunk
    finally:
        reader.close()


class Writer:
    """Writes to a descriptor, by default stdout, without keeping the loop waiting for who reads there."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._worker = Worker("cli-writer")

    async def write(self, data: bytes) -> None:
        """Write all of ``data``. Raises ``BrokenPipeError`` when nobody reads any more."""
        await self._worker(self._write_all, data)

    async def write_made(self, make: Callable[[], bytes]) -> None:
        """Write what ``make`` returns, which may take its time: the loop goes on meanwhile, too."""
        await self.write(await self._worker(make))

    def close(self) -> None:
        """Let go of the thread."""
        self._worker.close()

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
