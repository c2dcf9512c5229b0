"""Processes that have no descriptors left, whose clock jumps, or whose application does not read."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from brokerless import Limits
from tests.processes.processes import SOON_S, Process, Processes
from tests.processes.test_loss import stream_between
from tests.processes.test_strangers import port_of, serves_a_good_peer
from tests.soak import amount

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

HOUR_S = 3600
MIB = 1024 * 1024

ALLOWANCE_BYTES = 32 * MIB
"""What a process may grow by besides the window: what is in flight, buffers, and what the allocator keeps."""


async def tells(sender: Process, receiver: Process, text: str) -> None:
    """Send a message, which arrives and is acknowledged."""
    sender.do("send", to=receiver.address, data=text)
    sent = await sender.says_next("sent")
    await receiver.says("message", data=text)
    assert (await sender.says("done", id=sent["id"]))["error"] is None


async def test_without_descriptors_what_is_open_lives_on_and_nobody_spins(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes, AsyncExitStack() as stack:
        host = await processes.start("host", discovery=[])
        friend = await processes.start("friend", discovery=[], peers=[host.ticket])
        await friend.says("joined")
        stream = await stream_between(friend, host)
        host.do("exhaust")
        assert (await host.says("exhausted"))["taken"] > 0
        host.do("another")
        assert "descriptors have run out" in (await host.says("another"))["outcome"]
        for _ in range(10):  # strangers, of whom none is accepted, or who are hung up on at once
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(host))
            stack.callback(writer.close)
        friend.do("flood", stream=stream)
        await host.until(lambda: len(host.heard("messages", stream=stream)) >= 20)
        for process in (friend, host):
            process.do("finish", stream=stream)
        assert (await host.says("ended", stream=stream))["error"] is None
        host.do("usage", seconds=0.5)
        used = await host.says("usage")
        print(f"{used['share']:.0%} of a core")
        assert used["share"] < 0.5
        host.do("send", to=friend.address, data="still here")
        await friend.says("message", data="still here")
        host.do("relieve")
        await serves_a_good_peer(processes, host)
        host.do("another")
        assert (await host.says_next("another"))["outcome"] == "started"
        assert (host.heard("left", peer=friend.address), friend.heard("left")) == ([], [])


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static int64_t none;
static volatile int64_t *offset = &none;

__attribute__((constructor)) static void look(void) {
    int file = open(getenv("JUMP_FILE"), O_RDONLY);
    offset = mmap(0, sizeof none, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += *offset;
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    if (where) *where = fine.tv_sec;
    return fine.tv_sec;
}
"""
"""A wall clock for a process and all its libraries, which says what a file tells it to."""


def clockwork(directory: Path) -> dict[str, str]:
    """What a process needs in its environment to live by that clock."""
    source, library, place = (directory / name for name in ("clock.c", "clock.so", "offset"))
    source.write_text(CLOCK)
    place.write_bytes(bytes(8))
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=SOON_S)
    return {"LD_PRELOAD": str(library), "JUMP_FILE": str(place)}


@pytest.mark.parametrize(
    "libraries_too",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")),
    ],
)
async def test_a_wall_clock_that_jumps_an_hour_means_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libraries_too: bool
) -> None:
    if libraries_too:
        for name, value in clockwork(tmp_path).items():
            monkeypatch.setenv(name, value)
    async with Processes(tmp_path) as processes:
        first, second = await processes.pair()
        stream = await stream_between(first, second)
        times = []
        for seconds in (HOUR_S, -HOUR_S):
            first.do("jump", seconds=seconds)
            times.append((await first.says_next("jumped"))["time"])
            await tells(first, second, f"it is {seconds} s later")
            late = await processes.start(f"after {seconds}")  # who writes its file, and reads those of others
            for process in (first, second):
                await process.says("joined", peer=late.address)
            await tells(late, first, f"{seconds} s later?")
            late.do("close")
            assert (await late.says("closed"))["acknowledged"]
            for process in (first, second):
                await process.says("left", peer=late.address, reason="left")
        assert times[1] - times[0] < -1.9 * HOUR_S
        for process in (first, second):
            process.do("finish", stream=stream)
        for process in (first, second):
            assert (await process.says("ended", stream=stream))["error"] is None
            assert len(process.heard("left")) == 2


@pytest.mark.soak
@pytest.mark.timeout(amount(180, 7_200))
async def test_a_peer_that_never_reads_costs_a_window_at_both_ends(tmp_path: Path) -> None:
    """However long the sender tries: each look takes a second."""
    async with Processes(tmp_path) as processes:
        ends = await processes.pair()
        reader, sender = ends
        reader.do("consume", consumes=False)
        before = [await private_bytes(process) for process in ends]
        stream = await stream_between(sender, reader)
        sender.do("flood", stream=stream)
        await reader.says("messages", stream=stream)
        looks = [[await private_bytes(process) for process in ends] for _ in range(amount(60, 3_600))]
        for name, early, taken in zip(("reader", "sender"), before, zip(*looks, strict=True), strict=True):
            at_most, later = max(taken) - early, taken[-1] - taken[len(taken) // 2]
            print(f"{name}: {at_most / MIB:.1f} MiB more, {later / MIB:.2f} of them in the second half")
            assert at_most <= Limits().stream_window_bytes + ALLOWANCE_BYTES
            assert later <= MIB // 2, "it grows"
        assert reader.heard("left") == sender.heard("left") == []
        reader.do("send", to=sender.address, data="still here")
        await sender.says("message", data="still here")


async def private_bytes(process: Process) -> int:
    """What a process has by itself, after half a second of whatever it does."""
    process.do("usage", seconds=0.5)
    await process.says_next("usage")
    process.do("memory")
    return int((await process.says_next("memory"))["private_bytes"])
