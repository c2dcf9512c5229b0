"""The end of the interpreter, and forked children: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.dittobus.conftest import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESS_S = 45.0
"""How long such a process may take on a busy machine before it counts as hanging."""

EXIT_S = 3 * 1.0
"""One second is promised in so many words; a machine that does other things may need three."""

PRELUDE = f"""
import atexit, os, sys, threading, time
atexit.register(lambda: print("exit took", time.monotonic() - ended))  # the first is called last
from dittobus import DispatchQueue, DittoBus, DittoBusDelegate, DittoBusStreamDelegate
arguments = dict(
    secret={SECRET!r}, directory=sys.argv[1], discovery=("registry",), interfaces=("127.0.0.1",)
)
"""


@pytest.fixture
def run(mesh: dict[str, Any]) -> Callable[[str], str]:
    """A function that runs a program to its end, and returns what it printed."""

    def run(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PRELUDE + program, mesh["directory"]],
            capture_output=True,
            text=True,
            timeout=PROCESS_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def exit_took(output: str) -> float:
    return float(output.rpartition("exit took ")[2].split()[0])


def test_a_bus_left_open_does_not_hold_up_the_exit(run: Callable[[str], str]) -> None:
    output = run("""
bus = DittoBus("left open", **arguments)
bus.start()
ended = time.monotonic()
""")
    assert exit_took(output) < EXIT_S


def test_nor_do_many_with_streams_and_messages_under_way(run: Callable[[str], str]) -> None:
    output = run("""
class Stuck(DittoBusDelegate):
    def bus_did_receive_incoming_stream(self, bus, stream, peer):
        stream.delegate = DittoBusStreamDelegate()
    def bus_did_receive_single_message(self, bus, message):
        stuck.set()
        threading.Event().wait()
stuck = threading.Event()
near, far = DittoBus("near", **arguments), DittoBus("far", delegate=Stuck(), **arguments)
near.start()
far.start()
peer = near.wait_for_peer("far").result()
stream = near.open_stream(peer).result()
stream.delegate = DittoBusStreamDelegate()
for _ in range(100):
    stream.send(bytes(10_000))
    near.send(bytes(10_000), peer)
stuck.wait()
ended = time.monotonic()
""")
    assert exit_took(output) < EXIT_S


def test_threads_that_still_work_keep_their_bus(run: Callable[[str], str]) -> None:
    output = run("""
near, far = DittoBus("near", **arguments), DittoBus("far", **arguments)
near.start()
far.start()
main = threading.main_thread()
def work():
    main.join()
    near.send(b"still here", near.wait_for_peer("far").result()).result()
    print("sent")
    global ended
    ended = time.monotonic()
threading.Thread(target=work).start()
""")
    assert "sent" in output
    assert exit_took(output) < EXIT_S


def test_an_executor_that_ended_before_is_no_trouble(run: Callable[[str], str]) -> None:
    output = run("""
import concurrent.futures
executor = concurrent.futures.ThreadPoolExecutor(2)
near = DittoBus("near", delegate=DittoBusDelegate(), delegate_event_queue=executor, **arguments)
far = DittoBus("far", **arguments)
near.start()
far.start()
near.wait_for_peer("far").result()
ended = time.monotonic()
""")
    assert exit_took(output) < EXIT_S


def test_nor_is_what_happens_between_its_end_and_that_of_the_bus(run: Callable[[str], str]) -> None:
    output = run("""
import concurrent.futures
executor = concurrent.futures.ThreadPoolExecutor(2)
near = DittoBus("near", delegate=DittoBusDelegate(), delegate_event_queue=executor, **arguments)
far = DittoBus("far", **arguments)
near.start()
far.start()
near.wait_for_peer("far").result()
main = threading.main_thread()
def work():
    main.join()  # by now executors take nothing any more
    far.name = "renamed"
    near.wait_for_peer("renamed").result()
    near.stats()
    print("renamed")
    global ended
    ended = time.monotonic()
threading.Thread(target=work).start()
""")
    assert "renamed" in output


def test_an_exit_by_exception_is_clean(run: Callable[[str], str]) -> None:
    output = run("""
ended = time.monotonic()
with DittoBus("bus", **arguments) as bus:
    stream_of_one = bus.wait_for_peers(1, timeout=None)
    sys.exit()
""")
    assert exit_took(output) < PROCESS_S


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_and_the_parent_unharmed(run: Callable[[str], str]) -> None:
    output = run("""
from brokerless import ForkedProcessError
near, far = DittoBus("near", **arguments), DittoBus("far", **arguments)
near.start()
far.start()
peer = near.wait_for_peer("far").result()
ended = time.monotonic()
def child():
    for command in (
        lambda: near.send(b"", peer),
        lambda: near.open_stream(peer),
        lambda: near.wait_for_peer("far"),
        lambda: near.peers,
        lambda: near.stats(),
        lambda: near.close(),
        lambda: setattr(near, "delegate", None),
        lambda: setattr(near, "name", "child"),
    ):
        try:
            command()
        except ForkedProcessError:
            continue
        print("not refused", command)
    print("child is told")
pid = os.fork()
if pid == 0:
    child()
    sys.exit()  # with the parent's buses still open
assert os.waitpid(pid, 0)[1] == 0
near.send(b"the parent is well", peer).result()
print("parent is well")
near.close()
far.close()
""")
    assert "child is told" in output
    assert "not refused" not in output
    assert "parent is well" in output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_may_make_a_bus_of_its_own(run: Callable[[str], str]) -> None:
    output = run("""
bus = DittoBus("parent", **arguments)
bus.start()
ended = time.monotonic()
pid = os.fork()
if pid == 0:
    with DittoBus("child", **arguments) as bus:
        bus.send(b"hello", bus.wait_for_peer("parent").result()).result()
    print("child has sent", flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
bus.close()
""")
    assert "child has sent" in output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("io_thread", [False, True])
def test_an_asyncio_bus_in_a_forked_child_refuses(run: Callable[[str], str], io_thread: bool) -> None:
    output = run(
        f"""
import asyncio
from brokerless import ForkedProcessError
from dittobus import aio
arguments["io_thread"] = {io_thread}"""
        + """
async def main():
    async with aio.Bus("near", **arguments) as near, aio.Bus("far", **arguments) as far:
        opening = asyncio.create_task(near.open_stream(await near.wait_for_peer("far")))
        theirs = await (await anext(far.offers())).accept()
        stream = await opening
        pid = os.fork()
        if pid == 0:
            refused = 0
            try:
                for command in (
                    lambda: stream.send(b""),
                    lambda: stream.receive(),
                    lambda: stream.wait_acknowledged(1),
                    lambda: stream.wait_closed(),
                    lambda: stream.close(),
                    lambda: near.send(b"", stream.peer),
                    lambda: near.open_stream(stream.peer),
                    lambda: near.wait_for_peer("far"),
                    lambda: near.close(),
                ):
                    try:
                        await command()
                    except ForkedProcessError:
                        refused += 1
                async with stream:
                    pass
                await near.__aexit__(None, None, None)
                print("refused", refused, flush=True)
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        await stream.send(b"hello")
        assert await theirs.receive() == b"hello"
        await stream.close()
        await theirs.close()
asyncio.run(main())
ended = time.monotonic()
"""
    )
    assert "refused 9" in output


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    program = "import sys, dittobus; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert not {"zeroconf", "typer", "rich", "cryptography"} & set(modules.split())
