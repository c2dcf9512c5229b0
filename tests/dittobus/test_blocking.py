from __future__ import annotations

import inspect
import itertools
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import dittobus
from brokerless import (
    AmbiguousPeer,
    BusClosed,
    BusError,
    ConfigError,
    DeliveryUnknown,
    LossReason,
    MessageTooLarge,
    OpenTimeout,
    PeerJoined,
    PeerLeft,
    PortInUse,
    StreamRejected,
    StreamReset,
    UnknownPeer,
    UsageError,
    WaitTimeout,
)
from dittobus import DittoAddress, DittoBusReliability, _blocking_exchange, aio, blocking
from dittobus.blocking import Bus, Stream
from tests.dittobus.blocking_pair import Pair, open_ends, open_pair, until
from tests.dittobus.conftest import SECRET
from tests.dittobus.recording import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

STRANGER = DittoAddress(bytes(range(32)))

PROCESS_S = 30.0
"""How long a process of many steps may take on a busy machine before it counts as hanging."""

NOISE = 3
"""How many times longer a promise of time may take on a machine that does other things."""


@pytest.fixture
def pair(mesh: dict[str, Any]) -> Iterator[Pair]:
    with open_pair(mesh) as pair:
        yield pair


# The same bus


def test_it_is_the_asyncio_bus_without_await() -> None:
    """Every verb is there under its name, with the same arguments but ``timeout``, wherever that waits."""
    for theirs, ours in ((aio.Bus, Bus), (aio.Stream, Stream), (aio.Offer, blocking.Offer)):
        for name, verb in inspect.getmembers(theirs, callable):
            if name.startswith("_"):
                continue
            known = inspect.signature(verb).parameters
            here = inspect.signature(getattr(ours, name)).parameters
            assert list(here)[: len(known)] == list(known), name
            assert set(here) - set(known) <= {"timeout"}, name
            assert all(here[argument].default == known[argument].default for argument in known), name


def test_it_takes_the_same_arguments_as_the_other_faces() -> None:
    of_bus = inspect.signature(dittobus.DittoBus).parameters
    of_blocking = inspect.signature(Bus).parameters
    assert list(of_bus) == [*of_blocking, "delegate", "delegate_event_queue"]
    assert all(of_bus[name].default == of_blocking[name].default for name in of_blocking)


# Life


def test_a_bus_starts_and_closes(mesh: dict[str, Any]) -> None:
    with Bus("alone", **mesh) as bus:
        assert bus.name == "alone"
        assert bus.address == bus.ticket().address
        assert bus.peers == ()
        assert bus.stats().peers == 0
        assert repr(bus) == "<Bus 'alone', running>"
        with pytest.raises(UsageError, match="starts once"):
            bus.start()
    assert bus.close()
    assert repr(bus) == "<Bus 'alone', closed>"
    with pytest.raises(UsageError, match="starts once"):
        bus.start()


def test_a_bus_that_was_never_started(mesh: dict[str, Any]) -> None:
    bus = Bus("bus", **mesh)
    with pytest.raises(BusClosed, match="not started"):
        bus.send(b"", STRANGER)
    with pytest.raises(BusClosed, match="not started"):
        _ = bus.address
    assert bus.peers == ()
    assert bus.close()
    with pytest.raises(BusClosed):
        bus.messages()


def test_two_may_close_at_once(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, _ = pair
    closing = [threads.submit(near.close) for _ in range(2)]
    assert [each.result(WAIT_S) for each in closing] == [True, True]


def test_a_failed_start_can_be_repeated(pair: Pair, mesh: dict[str, Any]) -> None:
    [place] = pair[0].ticket().endpoints
    bus = Bus("second", **mesh, port=int(place.rpartition(":")[2]))
    for _ in range(2):
        with pytest.raises(PortInUse):
            bus.start()


def test_commands_after_close_are_refused(pair: Pair) -> None:
    near, far = pair
    near.close()
    commands: list[Callable[[], object]] = [
        lambda: near.send(b"", far.address),
        lambda: near.open_stream(far.address),
        lambda: near.wait_for_peer("far"),
        lambda: near.wait_for_peers(1),
        near.receive_message,
        near.receive_offer,
        near.messages,
        near.offers,
        near.peer_changes,
        near.ticket,
        near.stats,
    ]
    for command in commands:
        with pytest.raises(BusClosed):
            command()
    assert near.peers == ()


def test_closing_ends_the_waits_of_other_threads(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    exchange = near._exchange
    assert exchange is not None
    waits = {
        "receive_message": threads.submit(near.receive_message),
        "receive_offer": threads.submit(near.receive_offer),
        "wait_for_peer": threads.submit(near.wait_for_peer, "nobody", None),
        "wait_for_peers": threads.submit(near.wait_for_peers, 7, None),
        "open_stream": threads.submit(near.open_stream, far.address, timeout=None),
    }
    messages = threads.submit(list[Any], near.messages())
    until(near, lambda: len(exchange.messages._sleepers) == 2 and len(exchange._waits) == 2)
    assert far.receive_offer(WAIT_S)
    near.close()
    errors = {name: wait.exception(WAIT_S) for name, wait in waits.items()}
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(waits, BusClosed)
    assert messages.result(WAIT_S) == []


def test_leaving_by_an_exception_does_not_wait(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    ours, theirs = open_ends((near, far), threads)
    ours.send(b"never consumed")
    near.__exit__(RuntimeError, RuntimeError(), None)
    with pytest.raises(BusClosed):
        near.send(b"", far.address)
    with pytest.raises(BusError):
        receive_for_ever(theirs)


def receive_for_ever(stream: Stream) -> None:
    while True:
        stream.receive(WAIT_S)


# Presence


def test_presence(pair: Pair, mesh: dict[str, Any]) -> None:
    near, far = pair
    assert [peer.name for peer in near.peers] == ["far"]
    peer = near.peer(far.address)
    assert peer is not None
    assert near.peer(peer) is not None
    changes = near.peer_changes()
    joined = next(changes)
    assert (type(joined), joined.peer.address) == (PeerJoined, far.address)
    far.name = "farther"
    far.metadata = b"details"
    changed = next(change for change in changes if change.peer.metadata == b"details")
    assert (changed.peer.name, far.name, far.metadata) == ("farther", "farther", b"details")
    with Bus("third", **mesh) as third:
        assert {peer.name for peer in near.wait_for_peers(2)} == {"farther", "third"}
    left = next(change for change in changes if isinstance(change, PeerLeft))
    assert (left.peer.address, left.reason) == (third.address, LossReason.LEFT)


def test_waiting_for_peers(pair: Pair, mesh: dict[str, Any]) -> None:
    near, far = pair
    assert near.wait_for_peer(far.address).name == "far"
    assert near.wait_for_peer(lambda peer: peer.name == "far").address == far.address
    with pytest.raises(WaitTimeout):
        near.wait_for_peer("nobody", timeout=0)
    with pytest.raises(WaitTimeout):
        near.wait_for_peers(7, timeout=0)
    with pytest.raises(ConfigError, match="timeout"):
        near.wait_for_peer("far", timeout=-1)
    with pytest.raises(UsageError, match="I/O thread"):
        near.wait_for_peer(lambda peer: near.wait_for_peer("far"))
    with Bus("far", **mesh):
        near.wait_for_peers(2)
        with pytest.raises(AmbiguousPeer):
            near.wait_for_peer("far")


# Single messages


def test_a_single_message_arrives(pair: Pair) -> None:
    near, far = pair
    near.send(bytearray(b"hello"), far.address, channel=7)
    message = far.receive_message(WAIT_S)
    assert (message.sender, message.data, message.channel) == (near.address, b"hello", 7)
    assert message.reliability is DittoBusReliability.RELIABLE
    with pytest.raises(WaitTimeout, match=r"no message within 0\.01 s"):
        far.receive_message(0.01)


def test_messages_arrive_in_order_and_credit_comes_back(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    numbers = threads.submit(
        lambda: [int(message.data[:4]) for message in itertools.islice(far.messages(), 1000)]
    )
    for number in range(1000):
        near.send(b"%04d" % number + bytes(1000), far.address)
    assert numbers.result(WAIT_S) == list(range(1000))


def test_consumers_compete(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    taken = [threads.submit(next, far.messages()), threads.submit(far.receive_message)]
    for number in range(2):
        near.send(b"%d" % number, far.address)
    assert {each.result(WAIT_S).data for each in taken} == {b"0", b"1"}


def test_several_threads_send(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair

    def send_all(sender: int) -> None:
        for number in range(50):
            near.send(b"%d %d" % (sender, number), far.address)

    sending = [threads.submit(send_all, sender) for sender in range(4)]
    received = [far.receive_message(WAIT_S).data.split() for _ in range(200)]
    for each in sending:
        each.result(WAIT_S)
    for sender in range(4):
        assert [int(n) for who, n in received if int(who) == sender] == list(range(50))


def test_arguments_are_checked(pair: Pair) -> None:
    near, far = pair
    to = far.address
    commands: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: near.send("text", to), TypeError, "data"),  # type: ignore[arg-type]
        (lambda: near.send(bytes(64 * 1024 * 1024 + 1), to), MessageTooLarge, "limit"),
        (lambda: near.send(b"", str(to)), TypeError, "to: .*parse"),  # type: ignore[arg-type]
        (lambda: near.send(b"", to, timeout=-1), ConfigError, "timeout"),
        (lambda: near.send(b"", to, channel=-1), ConfigError, "channel"),
        (lambda: near.send(b"", STRANGER), UnknownPeer, "heard"),
        (lambda: near.open_stream(to, name="x" * 65), ConfigError, "name"),
        (lambda: near.open_stream(to, metadata=bytes(4097)), ConfigError, "metadata"),
        (lambda: near.open_stream(STRANGER), UnknownPeer, "heard"),
        (lambda: near.receive_message("soon"), TypeError, "timeout"),  # type: ignore[arg-type]
        (lambda: near.receive_offer(-1), ConfigError, "timeout"),
        (lambda: near.close(-1), ConfigError, "timeout"),
        (lambda: near.on_stream("x", None), TypeError, "handler"),  # type: ignore[arg-type]
    ]
    for command, kind, match in commands:
        with pytest.raises(kind, match=match):
            command()


def test_sends_that_are_pending_at_close_end(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    exchange = near._exchange
    assert exchange is not None
    sends = [threads.submit(near.send, bytes(1_000_000), far.address, timeout=None) for _ in range(3)]
    until(near, lambda: exchange._sends)
    near.close(timeout=0)
    assert all(isinstance(each.exception(WAIT_S), DeliveryUnknown | BusClosed | None) for each in sends)
    assert not exchange._sends


# Opening streams


def test_a_stream_opens(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    opening = threads.submit(near.open_stream, far.address, name="video", metadata=b"30 fps")
    offer = far.receive_offer(WAIT_S)
    assert (offer.peer, offer.name, offer.metadata) == (near.address, "video", b"30 fps")
    assert offer.reliability is DittoBusReliability.RELIABLE
    theirs = offer.accept(b"welcome")
    ours = opening.result(WAIT_S)
    for stream in (ours, theirs):
        assert (stream.name, stream.metadata, stream.reply_metadata) == ("video", b"30 fps", b"welcome")
        assert stream.reliability is DittoBusReliability.RELIABLE
        assert stream.id == 1
    assert (ours.peer, theirs.peer) == (far.address, near.address)
    for answer in (offer.accept, offer.reject):
        with pytest.raises(UsageError, match="answered"):
            answer()
    ours.abort()
    theirs.abort()


def test_an_offer_can_be_rejected(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    opening = threads.submit(near.open_stream, far.address)
    next(far.offers()).reject(42, "not today")
    error = opening.exception(WAIT_S)
    assert isinstance(error, StreamRejected)
    assert (error.code, error.reason) == (42, "not today")


def test_an_offer_nobody_takes_times_out_and_is_withdrawn(pair: Pair) -> None:
    near, far = pair
    with pytest.raises((OpenTimeout, StreamRejected)):
        near.open_stream(far.address, timeout=0.05)
    near.send(b"after the reset", far.address)
    with pytest.raises(WaitTimeout):
        far.receive_offer(0)


def test_an_offer_that_is_over_cannot_be_accepted(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    offer, timeout = None, 0.1
    while offer is None:  # or it was over before it was taken
        timeout *= 2
        opening = threads.submit(near.open_stream, far.address, timeout=timeout)
        with suppress(WaitTimeout):
            offer = far.receive_offer(timeout)
        assert isinstance(opening.exception(WAIT_S), OpenTimeout | StreamRejected)
    near.send(b"after the reset", far.address)
    with pytest.raises(BusError):
        offer.accept()
    offer.reject()  # comes too late, which is nobody's fault


# Handlers


def test_streams_go_to_the_handler_of_their_name(pair: Pair, threads: ThreadPoolExecutor) -> None:
    near, far = pair
    names: list[str] = []

    def echo(stream: Stream, peer: DittoAddress) -> None:
        assert peer == near.address
        names.append(threading.current_thread().name)
        with stream:
            for message in stream:
                stream.send(message)
            stream.finish()

    early = threads.submit(near.open_stream, far.address, name="echo")
    exchange = far._exchange
    assert exchange is not None
    until(far, lambda: exchange.offers._items)
    far.on_stream("echo", echo)
    for stream in (early.result(WAIT_S), near.open_stream(far.address, name="echo")):
        with stream:
            stream.send(b"hello")
            stream.finish()
            assert list(stream) == [b"hello"]
    assert names == ["dittobus-far-stream-echo"] * 2
    with pytest.raises(StreamRejected, match="nothing here takes streams named 'other'"):
        near.open_stream(far.address, name="other")
    with pytest.raises(ConfigError, match="handler already"):
        far.on_stream("echo", echo)


def test_a_handler_that_is_bound_before_the_start(mesh: dict[str, Any]) -> None:
    far = Bus("far", **mesh)
    far.on_stream("x", lambda stream, peer: stream.close())
    with far, Bus("near", **mesh) as near:
        near.open_stream(near.wait_for_peer("far"), name="x").close()


@pytest.mark.parametrize("error", [ValueError("faulty handler"), SystemExit()])
def test_a_handler_that_raises_aborts_its_stream(
    pair: Pair, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    near, far = pair

    def fail(stream: Stream, peer: DittoAddress) -> None:
        raise error

    far.on_stream("faulty", fail)
    stream = near.open_stream(far.address, name="faulty")
    with pytest.raises(StreamReset, match="an exception ended it there"):
        stream.receive(WAIT_S)
    assert ("faulty handler" in caplog.text) == isinstance(error, ValueError)


def test_handlers_are_bounded_and_the_rest_waits(
    pair: Pair, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair
    monkeypatch.setattr(_blocking_exchange, "HANDLERS_MAX", 2)
    running = threading.Semaphore(2)

    def handle(stream: Stream, peer: DittoAddress) -> None:
        assert running.acquire(blocking=False)
        with stream:
            assert list(stream) == [b"work"]
            running.release()
            stream.finish()

    far.on_stream("work", handle)

    def work() -> None:
        with near.open_stream(far.address, name="work", timeout=WAIT_S) as stream:
            stream.send(b"work")
            stream.finish()
            assert list(stream) == []

    for each in [threads.submit(work) for _ in range(8)]:
        each.result(WAIT_S)


def test_streams_are_turned_down_where_the_interpreter_exits_and_allows_no_thread(
    pair: Pair, allow_no_threads: Callable[[], None]
) -> None:
    near, far = pair
    far.on_stream("echo", lambda stream, peer: stream.close())
    allow_no_threads()
    with pytest.raises(StreamRejected, match="about to exit"):
        near.open_stream(far.address, name="echo")


def test_handlers_end_with_the_bus(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pair
    monkeypatch.setattr(blocking, "HANDLER_GRACE_S", WAIT_S)
    started, ended = threading.Event(), threading.Event()

    def read(stream: Stream, peer: DittoAddress) -> None:
        started.set()
        try:
            stream.receive()
        finally:
            ended.set()

    far.on_stream("read", read)
    stream = near.open_stream(far.address, name="read")
    assert started.wait(WAIT_S)
    far.close(timeout=0)
    assert ended.is_set()
    stream.abort()


def test_a_handler_may_close_the_bus(pair: Pair) -> None:
    near, far = pair
    closed: list[bool] = []
    far.on_stream("last", lambda stream, peer: closed.append(far.close(timeout=0)))
    stream = near.open_stream(far.address, name="last")
    with pytest.raises(BusError):
        stream.receive(WAIT_S)
    far.close()
    assert len(closed) == 1


def test_a_handler_that_outlives_its_stream_is_left_behind(
    pair: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair
    monkeypatch.setattr(blocking, "HANDLER_GRACE_S", 0.01)
    started, go_on = threading.Event(), threading.Event()

    def stay(stream: Stream, peer: DittoAddress) -> None:
        started.set()
        go_on.wait(WAIT_S)

    far.on_stream("stay", stay)
    stream = near.open_stream(far.address, name="stay")
    assert started.wait(WAIT_S)
    far.close(timeout=0)
    assert "dittobus-far-stream-stay goes on after its stream has ended" in caplog.text
    go_on.set()
    stream.abort()


# Ctrl-C, the end of the interpreter, and forked children: each in a process of its own

PRELUDE = f"""
import atexit, os, sys, threading, time
ended = 0.0
atexit.register(lambda: ended and print("exit took", time.monotonic() - ended))  # the first is called last
from dittobus import ForkedProcessError, SendTimeout
from dittobus.blocking import Bus
arguments = dict(
    secret={SECRET!r}, directory=sys.argv[1], discovery=("registry",), interfaces=("127.0.0.1",)
)
def open_pair():
    near, far = Bus("near", **arguments), Bus("far", **arguments)
    near.start()
    far.start()
    return near, far, near.wait_for_peer("far", timeout=None)
def open_ends(near, far, peer):
    opened = []
    opening = threading.Thread(target=lambda: opened.append(near.open_stream(peer, timeout=None)))
    opening.start()
    theirs = far.receive_offer().accept()
    opening.join()
    return opened[0], theirs
"""


@contextmanager
def running(program: str, mesh: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + program, mesh["directory"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output_of(program: str, mesh: dict[str, Any]) -> str:
    with running(program, mesh) as process:
        output, errors = process.communicate(timeout=PROCESS_S)
    assert errors == ""
    assert process.returncode == 0
    return output


WAITS = """
near, far, peer = open_pair()
ours, theirs = open_ends(near, far, peer)
filled, unread = open_ends(near, far, peer)
left, unread_too = open_ends(near, far, peer)
def fill(stream, timeout=None):
    while True:
        stream.send(bytes(10_000), timeout)
try:
    fill(left, 0.01)
except SendTimeout:
    pass
waits = {
    "receive": ours.receive,
    "iterate": lambda: list(ours),
    "send": lambda: fill(filled),
    "wait_acknowledged": lambda: ours.wait_acknowledged(7),
    "receive_message": near.receive_message,
    "messages": lambda: list(near.messages()),
    "receive_offer": near.receive_offer,
    "peer_changes": lambda: list(near.peer_changes()),
    "wait_for_peer": lambda: near.wait_for_peer("nobody", timeout=None),
    "wait_for_peers": lambda: near.wait_for_peers(7, timeout=None),
    "open_stream": lambda: near.open_stream(peer, timeout=None),
    "close the stream": lambda: filled.close(timeout=None),
    "close the bus": lambda: near.close(timeout=None),
}
for name, wait in waits.items():
    try:
        print(name, flush=True)
        wait()
        print("did not wait")
    except KeyboardInterrupt:
        pass
    if name != "close the bus":
        near.send(name.encode(), peer)
        assert far.receive_message().data == name.encode()
    if name == "open_stream":  # the last one before they are closed
        ours.send(b"hello")
        assert theirs.receive() == b"hello"
        theirs.send(b"hello, too")
        assert ours.receive() == b"hello, too"
near.close(timeout=0)  # harmless, unless the interrupt came before all else
far.close(0)
print([thread.name for thread in threading.enumerate()])
"""


@pytest.mark.timeout(PROCESS_S + 10)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of this kind are POSIX's")
def test_an_interrupt_ends_every_wait_and_changes_nothing_else(mesh: dict[str, Any]) -> None:
    with running(WAITS, mesh) as process:
        assert process.stdout is not None
        names = []
        for line in process.stdout:
            if line.startswith("["):
                break
            names.append(line.strip())
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PROCESS_S)
    assert errors == ""
    assert process.returncode == 0
    assert line.strip() == "['MainThread']"
    assert len(names) == 13
    assert "did not wait" not in names


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of this kind are POSIX's")
def test_an_interrupted_with_statement_aborts(mesh: dict[str, Any]) -> None:
    """As a script is ended in a terminal."""
    with running(
        """
with Bus("near", **arguments) as near:
    try:
        print("waiting", flush=True)
        near.wait_for_peer("nobody", timeout=None)
    finally:
        print("unwinding", flush=True)
""",
        mesh,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PROCESS_S)
    assert output == "unwinding\n"
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_a_bus_left_open_does_not_hold_up_the_exit(mesh: dict[str, Any]) -> None:
    output = output_of(
        """
near, far, peer = open_pair()
far.on_stream("stuck", lambda stream, peer: threading.Event().wait())
stream = near.open_stream(peer, name="stuck")
for _ in range(100):
    stream.send(bytes(1000))
waiting = threading.Thread(target=list, args=(near.messages(),), daemon=True).start()
ended = time.monotonic()
""",
        mesh,
    )
    assert float(output.split()[-1]) < NOISE * 1.0  # promised in so many words


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_and_the_parent_unharmed(mesh: dict[str, Any]) -> None:
    output = output_of(
        """
near, far, peer = open_pair()
ours, theirs = open_ends(near, far, peer)
theirs.send(b"for the parent")
theirs.wait_acknowledged()
waiting = threading.Thread(target=far.receive_message)
waiting.start()
pid = os.fork()
if pid == 0:
    for command in (
        lambda: near.send(b"", peer),
        lambda: near.open_stream(peer),
        lambda: near.wait_for_peer("far"),
        lambda: near.peers,
        lambda: near.stats(),
        lambda: near.close(),
        lambda: near.receive_message(0),
        lambda: near.on_stream("x", print),
        lambda: setattr(near, "name", "child"),
        lambda: ours.send(b""),
        lambda: ours.send_nowait(b""),
        lambda: ours.receive(0),
        lambda: list(ours),
        lambda: ours.stats(),
        lambda: ours.wait_acknowledged(),
        lambda: ours.finish(),
        lambda: ours.close(),
        lambda: ours.abort(),
    ):
        try:
            command()
        except ForkedProcessError:
            continue
        print("not refused", command.__code__.co_firstlineno)
    print("child is told", flush=True)
    sys.exit()  # with the parent's buses and streams still open
assert os.waitpid(pid, 0)[1] == 0
assert ours.receive() == b"for the parent"
near.send(b"the parent is well", peer)
waiting.join()
ours.abort()
theirs.abort()
near.close()
far.close()
print("parent is well")
""",
        mesh,
    )
    assert output.splitlines() == ["child is told", "parent is well"]
