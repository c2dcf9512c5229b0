"""Running a command, and what ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest

from dittobus.cli import running


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with running.ended_like_interrupted():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is before[1]
    finally:
        signal.signal(signal.SIGHUP, before[0])


@pytest.mark.usefixtures("heed_hangup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_what_runs(number: signal.Signals) -> None:
    unwound = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            unwound.append(True)

    with pytest.raises(KeyboardInterrupt):
        running.run(work())
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_warnings_are_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> int:
        logging.getLogger("dittobus").warning("no secret was given, and so on")
        logging.getLogger("dittobus").warning("it was\nrefused")
        return 3

    assert running.run(work()) == 3
    assert capsys.readouterr() == ("", "dittobus: it was refused\n")


class Trouble(Exception):
    """Something that goes wrong."""


async def trouble() -> None:
    raise Trouble


@pytest.mark.asyncio
async def test_together_is_over_when_all_are() -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def after(event: asyncio.Event, following: asyncio.Event) -> None:
        following.set()
        await event.wait()

    await running.together(after(first, second), after(second, first))
    ended = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(Trouble):
        await running.together(endless(), trouble())
    await running.beside(asyncio.sleep(0), endless())
    with pytest.raises(Trouble):
        await running.beside(endless(), trouble())
    assert ended == [True] * 3
