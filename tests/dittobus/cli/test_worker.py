"""Calls that block, of a command that must not."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from dittobus.cli.worker import Worker, Writer, read_chunks

pytestmark = pytest.mark.asyncio


async def test_functions_run_elsewhere_one_after_the_other() -> None:
    worker = Worker("tests-worker")
    threads = [await worker(threading.get_ident) for _ in range(3)]
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await worker(divmod, 1, 0)
    worker.close()


async def test_who_waits_for_one_that_blocks_can_be_cancelled() -> None:
    worker = Worker("tests-worker")
    begun, going_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block() -> None:
        loop.call_soon_threadsafe(begun.set)
        going_on.wait()

    waiting = asyncio.create_task(worker(block))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    going_on.set()
    assert await worker(lambda: "next") == "next"
    worker.close()


async def test_reading_and_writing() -> None:
    reader, writer = os.pipe()
    output = Writer(writer)
    sent = bytes(1_000_000)

    async def write() -> None:
        await output.write(sent)
        output.close()
        os.close(writer)

    writing = asyncio.create_task(write())
    assert b"".join([chunk async for chunk in read_chunks(reader)]) == sent
    await writing
    os.close(reader)


async def test_what_is_to_be_written_is_made_elsewhere() -> None:
    """A long message takes seconds to be made a line of, in which its sender must hear of us."""
    reader, writer = os.pipe()
    output = Writer(writer)
    await output.write_made(lambda: str(threading.get_ident()).encode())
    assert int(os.read(reader, 100)) != threading.get_ident()
    output.close()
    os.close(writer)
    os.close(reader)


async def test_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = Writer(writer)
    with pytest.raises(BrokenPipeError):
        await output.write(b"x")
    output.close()
    os.close(writer)
