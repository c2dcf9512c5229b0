from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    AmbiguousPeer,
    BusClosed,
    BusError,
    ConfigError,
    DeliveryUnknown,
    Identity,
    IdentityInUse,
    LossReason,
    MessageTooLarge,
    OpenTimeout,
    PortInUse,
    StreamRejected,
    StreamReset,
    UnknownPeer,
    UsageError,
    WaitTimeout,
)
from dittobus import (
    DispatchQueue,
    DittoAddress,
    DittoBus,
    DittoBusDelegate,
    DittoBusReliability,
    _ground,
    _strand,
)
from dittobus import bus as bus_module
from tests.dittobus.recording import WAIT_S, BusRecorder, Log, StreamRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless import Address, Message
    from dittobus import DittoBusStream, DittoBusStreamOffer

    MakeBus = Callable[..., DittoBus]
    Pair = tuple[DittoBus, DittoBus, BusRecorder]

STRANGER = DittoAddress(bytes(range(32)))

CLOSE_S = 5.0
"""What a close may take that is given no other time."""

NOISE = 3
"""How many times longer a promise of time may take on a machine that does other things."""


# Life


def test_a_bus_starts_and_closes(mesh: dict[str, Any]) -> None:
    with DittoBus("alone", **mesh) as bus:
        assert bus.name == "alone"
        assert bus.address == bus.ticket().address
        assert bus.peers == ()
        assert bus.stats().peers == 0
        assert repr(bus) == "<DittoBus 'alone', running>"
    assert repr(bus) == "<DittoBus 'alone', closed>"


def test_closing_with_nothing_pending_is_quick(pair: Pair) -> None:
    near, _, _ = pair
    begun = time.monotonic()
    assert near.close()
    assert time.monotonic() - begun < NOISE * 1.0  # promised in so many words


def test_closing_twice_is_harmless(make_bus: MakeBus) -> None:
    bus = make_bus("bus")
    assert bus.close()
    assert bus.close()


def test_a_bus_that_was_never_started_can_be_closed(mesh: dict[str, Any]) -> None:
    bus = DittoBus("bus", **mesh)
    assert bus.close()
    with pytest.raises(UsageError, match="starts once"):
        bus.start()


def test_a_bus_starts_once(make_bus: MakeBus) -> None:
    with pytest.raises(UsageError, match="starts once"):
        make_bus("bus").start()


def test_a_bus_can_be_closed_by_many_threads_at_once(make_bus: MakeBus) -> None:
    bus = make_bus("bus")
    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(lambda _: bus.close(), range(8)))


def test_a_failed_start_leaves_nothing_and_can_be_repeated(make_bus: MakeBus, mesh: dict[str, Any]) -> None:
    [place] = make_bus("first").ticket().endpoints
    port = int(place.rpartition(":")[2])
    bus = DittoBus("second", **mesh, port=port)
    with pytest.raises(PortInUse):
        bus.start()
    with pytest.raises(PortInUse):
        bus.start()


def test_commands_before_start_say_what_to_do(mesh: dict[str, Any]) -> None:
    bus = DittoBus("bus", **mesh)
    with pytest.raises(BusClosed, match="start"):
        bus.send(b"", STRANGER)
    with pytest.raises(BusClosed, match="start"):
        _ = bus.address
    assert bus.peers == ()


def test_commands_after_close_are_refused(pair: Pair) -> None:
    near, far, _ = pair
    near.close()
    for command in (
        lambda: near.send(b"", far.address),
        lambda: near.open_stream(far.address),
        lambda: near.wait_for_peer("far"),
        lambda: near.wait_for_peers(1),
        near.ticket,
        near.stats,
    ):
        with pytest.raises(BusClosed):
            command()
    assert near.peers == ()


def test_arguments_of_the_constructor_are_checked_at_once() -> None:
    for arguments, match in (
        ({"secret": "short"}, "secret"),
        ({"secret": b"short"}, "secret"),
        ({"trust": "me"}, "trust"),
        ({"port": -1}, "port"),
        ({"peers": "dittobus://x"}, "peers"),
        ({"discovery": ("carrier pigeon",)}, "discovery"),
        ({"metadata": bytes(5000)}, "metadata"),
        ({"mesh": ""}, "mesh"),
    ):
        with pytest.raises(ConfigError, match=match):
            DittoBus("bus", **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="delegate_event_queue"):
        DittoBus("bus", delegate_event_queue="main")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metadata"):
        DittoBus("bus", metadata="text")  # type: ignore[arg-type]


# Presence


def test_a_delegate_sees_who_is_there_at_once_and_then_every_change(pair: Pair) -> None:
    near, far, recorder = pair
    recorder.log.wait_until(
        lambda: any(near.address in addresses(peers) for peers in recorder.log.of("peers"))
    )
    assert [peer.name for peer in far.peers] == ["near"]
    peer = far.peer(near.address)
    assert peer is not None
    assert far.peer(peer) is not None
    late = BusRecorder()
    far.delegate = late
    assert addresses(late.log.wait("peers")) == [near.address]
    address = near.address
    near.close()
    late.log.wait_until(lambda: late.log.of("peers")[-1] == ())
    [lost] = [lost for peers in late.log.of("peers") for lost in peers.lost]
    assert (lost.peer.address, lost.reason) == (address, LossReason.LEFT)


def test_a_delegate_is_told_at_once_that_nobody_is_there(make_bus: MakeBus) -> None:
    recorder = BusRecorder()
    make_bus("alone", delegate=recorder)
    assert recorder.log.wait("peers") == ()


def addresses(peers: Any) -> list[Address]:
    """Of those who have joined."""
    return [peer.address for peer in peers if peer.has_joined]


def test_name_and_metadata_can_be_changed(pair: Pair) -> None:
    near, far, recorder = pair
    near.name = "nearer"
    near.metadata = bytearray(b"details")
    found = far.wait_for_peer(lambda peer: peer.metadata == b"details").result(WAIT_S)
    assert found.name == near.name == "nearer"
    assert near.metadata == b"details"
    recorder.log.wait_until(lambda: [peer.name for peer in recorder.log.of("peers")[-1]] == ["nearer"])
    with pytest.raises(ConfigError, match="name"):
        near.name = "x" * 65
    with pytest.raises(ConfigError, match="metadata"):
        near.metadata = bytes(5000)


def test_waiting_for_peers(pair: Pair, make_bus: MakeBus) -> None:
    near, far, _ = pair
    assert near.wait_for_peer(far.address).result(WAIT_S).name == "far"
    assert near.wait_for_peer(near.peers[0]).result(WAIT_S).name == "far"
    assert near.wait_for_peer(lambda peer: peer.name.startswith("f")).result(WAIT_S).name == "far"
    both = near.wait_for_peers(2)
    third = near.wait_for_peer("third")
    make_bus("third")
    assert {peer.name for peer in both.result(WAIT_S)} == {"far", "third"}
    assert third.result(WAIT_S).name == "third"
    assert near.wait_for_peers(0).result(WAIT_S)


def test_waiting_for_a_name_that_two_hold_is_ambiguous(pair: Pair, make_bus: MakeBus) -> None:
    near, _, _ = pair
    make_bus("far")
    near.wait_for_peers(2).result(WAIT_S)
    with pytest.raises(AmbiguousPeer):
        near.wait_for_peer("far").result(WAIT_S)


def test_waiting_in_vain(pair: Pair) -> None:
    near, _, _ = pair
    with pytest.raises(WaitTimeout, match="nobody"):
        near.wait_for_peer("nobody", timeout=0.01).result(WAIT_S)
    with pytest.raises(WaitTimeout, match="3"):
        near.wait_for_peers(3, timeout=0).result(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        near.wait_for_peer(lambda _: 1 / 0).result(WAIT_S)
    given_up = near.wait_for_peer("nobody", timeout=None)
    assert given_up.cancel()
    assert given_up.cancel()
    waiting = near.wait_for_peer("nobody", timeout=None)
    near.close()
    with pytest.raises(BusClosed):
        waiting.result(WAIT_S)
    with pytest.raises(CancelledError):
        given_up.result(WAIT_S)


def test_arguments_of_waiting_are_checked(pair: Pair) -> None:
    near, _, _ = pair
    with pytest.raises(TypeError, match="target"):
        near.wait_for_peer(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="count"):
        near.wait_for_peers(-1)
    with pytest.raises(TypeError, match="count"):
        near.wait_for_peers("two")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout"):
        near.wait_for_peer("far", timeout=-1)


# Single messages


def test_a_single_message_arrives(pair: Pair) -> None:
    near, far, recorder = pair
    log = Log()
    future = near.send(b"hello", far.address, channel=7, completion=lambda error: log.add("done", error))
    assert future.result(WAIT_S) is None
    message: Message = recorder.log.wait("message")
    assert (message.sender, message.data, message.channel) == (near.address, b"hello", 7)
    assert message.reliability is DittoBusReliability.RELIABLE
    assert 0 < message.received_at <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert log.wait("done") is None
    assert len(log.all) == 1


def test_the_names_of_ditto_bus_send_too(pair: Pair) -> None:
    near, far, recorder = pair
    log = Log()
    near.send_single_reliable_message(
        b"hello", far.peers[0].address and far.address, lambda e: log.add("d", e)
    )
    assert recorder.log.wait("message").data == b"hello"
    assert log.wait("d") is None
    near.send_single_unreliable_message(b"by chance", far.address, lambda e: log.add("u", e)).result(WAIT_S)
    assert log.wait("u") is None
    assert recorder.log.wait("message", 2).reliability is DittoBusReliability.UNRELIABLE


def test_single_messages_arrive_in_order_and_credit_comes_back(pair: Pair) -> None:
    near, far, recorder = pair
    sends = [near.send(bytes([number % 256]) * 1000, far.address, timeout=None) for number in range(2000)]
    wait(sends, WAIT_S)
    recorder.log.wait("message", 2000)
    assert [message.data[0] for message in recorder.log.of("message")] == [n % 256 for n in range(2000)]


def test_messages_wait_for_a_delegate(make_bus: MakeBus) -> None:
    near, far = make_bus("near"), make_bus("far")
    peer = near.wait_for_peer("far").result(WAIT_S)
    for number in range(5):
        near.send(b"%d" % number, peer).result(WAIT_S)
    recorder = BusRecorder()
    far.delegate = recorder
    recorder.log.wait("message", 5)
    assert recorder.log.all[0][0] == "peers"  # joined comes before the first message
    assert addresses(recorder.log.all[0][1]) == [near.address]
    assert [message.data for message in recorder.log.of("message")] == [b"0", b"1", b"2", b"3", b"4"]


def test_messages_wait_while_there_is_no_delegate(pair: Pair) -> None:
    near, far, recorder = pair
    far.delegate = None
    for number in range(3):
        near.send(b"%d" % number, far.address).result(WAIT_S)
    assert recorder.log.of("message") == []
    far.delegate = recorder
    recorder.log.wait("message", 3)
    assert [message.data for message in recorder.log.of("message")] == [b"0", b"1", b"2"]


def test_arguments_of_send_are_checked_at_the_call(pair: Pair) -> None:
    near, far, _ = pair
    to = far.address
    for command, kind, match in (
        (lambda: near.send("text", to), TypeError, "data"),
        (lambda: near.send(7, to), TypeError, "data"),
        (lambda: near.send(memoryview(b"abcd")[::2], to), TypeError, "contiguous"),
        (lambda: near.send(b"", str(to)), TypeError, "to: .*parse"),
        (lambda: near.send(b"", to, timeout=-1), ConfigError, "timeout"),
        (lambda: near.send(b"", to, timeout="soon"), TypeError, "timeout"),
        (lambda: near.send(b"", to, timeout=float("nan")), ConfigError, "timeout"),
        (lambda: near.send(b"", to, channel=-1), ConfigError, "channel"),
        (lambda: near.send(b"", to, channel="x"), TypeError, "channel"),
        (lambda: near.send(b"", to, "reliable"), TypeError, "reliability"),
        (lambda: near.send(b"", to, completion=7), TypeError, "completion"),
        (lambda: near.send(bytes(64 * 1024 * 1024 + 1), to), MessageTooLarge, "limit"),
        (lambda: near.send(b"", STRANGER), UnknownPeer, "heard"),
        (lambda: near.send(b"", near.address), BusError, "itself"),
        (lambda: near.open_stream(to, name="x" * 65), ConfigError, "name"),
        (lambda: near.open_stream(to, name=7), TypeError, "name"),
        (lambda: near.open_stream(to, metadata=bytes(4097)), ConfigError, "metadata"),
        (lambda: near.open_stream(STRANGER), UnknownPeer, "heard"),
        (lambda: near.send(bytes(65_537), to, DittoBusReliability.UNRELIABLE), MessageTooLarge, "65536"),
        (lambda: near.send(b"", STRANGER, DittoBusReliability.SEQUENCED), UnknownPeer, "heard"),
        (lambda: near.send(b"", "far"), TypeError, "wait_for_peer finds one by name"),
        (lambda: DittoAddress.parse("nonsense"), ConfigError, "address"),
        (lambda: DittoBus(delegate=DittoBusDelegate), TypeError, "the class DittoBusDelegate; call it"),
        (lambda: setattr(near, "delegate", DittoBusDelegate), TypeError, "the class DittoBusDelegate"),
    ):
        with pytest.raises(kind, match=match):
            command()  # type: ignore[no-untyped-call]


def test_a_buffer_may_be_changed_after_the_call(pair: Pair) -> None:
    near, far, recorder = pair
    data = bytearray(b"before")
    future = near.send(data, far.address)
    data[:] = b"after!"
    future.result(WAIT_S)
    assert recorder.log.wait("message").data == b"before"


def test_a_send_cannot_be_cancelled(pair: Pair) -> None:
    near, far, recorder = pair
    future = near.send(b"hello", far.address)
    assert not future.cancel()
    assert future.result(WAIT_S) is None
    recorder.log.wait("message")


def test_sends_that_are_pending_at_close_end_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "CALLBACK_GRACE_S", WAIT_S)
    near, far, _ = pair
    log = Log()
    far.delegate = Stuck(release := threading.Event())
    sends = [
        near.send(bytes(60_000), far.address, timeout=None, completion=lambda e: log.add("done", e))
        for _ in range(100)
    ]
    assert not near.close(timeout=0.1)
    release.set()
    outcomes = [future.exception(WAIT_S) for future in sends]
    assert isinstance(outcomes[-1], DeliveryUnknown | BusClosed)
    assert len(log.of("done")) == 100


class Stuck(BusRecorder):
    """Does not return from its first callback of a message."""

    def __init__(self, release: threading.Event) -> None:
        super().__init__()
        self.release = release

    def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
        self.log.add("stuck")
        self.release.wait(WAIT_S)


# Futures


def test_a_result_can_be_waited_for_within_a_callback(pair: Pair, make_bus: MakeBus) -> None:
    near, far, _ = pair

    class Echo(BusRecorder):
        def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
            bus.send(b"echo", message.sender).result(WAIT_S)
            self.log.add("echoed")

    far.delegate = echo = Echo()
    near.send(b"hello", far.address).result(WAIT_S)
    echo.log.wait("echoed")


def test_on_the_io_thread_waiting_raises_instead_of_hanging(pair: Pair) -> None:
    near, far, _ = pair
    log = Log()

    def wait_there() -> None:
        other = near.send(b"again", far.address)
        for method in (other.result, other.exception):
            try:
                method()
            except UsageError as error:
                log.add("refused", str(error))

    assert near._ground is not None
    near._ground.io.post(wait_there)
    assert "I/O thread" in log.wait("refused", 2)


# Order, and callbacks that go wrong


def test_a_callback_that_raises_changes_nothing_else(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    near, far, _ = pair

    class Faulty(BusRecorder):
        def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
            super().bus_did_receive_single_message(bus, message)
            raise ValueError("faulty")

    far.delegate = faulty = Faulty()
    for _ in range(2):
        near.send(b"hello", far.address).result(WAIT_S)
    faulty.log.wait("message", 2)
    far.close()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "faulty" in caplog.text


def test_a_callback_that_hangs_holds_up_neither_the_network_nor_other_queues(pair: Pair) -> None:
    near, far, _ = pair
    release = threading.Event()
    far.delegate = stuck = Stuck(release)
    near.send(b"hello", far.address).result(WAIT_S)
    stuck.log.wait("stuck")
    near.send(b"again", far.address).result(WAIT_S)  # acknowledged by the bus, not by its application
    assert far.send(b"still here", near.address).result(WAIT_S) is None
    release.set()


def test_a_callback_that_takes_long_is_logged_while_it_does(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_strand, "SLOW_CALLBACK_S", 0.01)
    monkeypatch.setattr(_ground, "WATCH_INTERVAL_S", 0.01)
    near, far, _ = pair
    logged = threading.Event()
    monkeypatch.setattr(_strand._log, "warning", lambda *_: logged.set())
    far.delegate = stuck = Stuck(release := threading.Event())
    near.send(b"hello", far.address)
    stuck.log.wait("stuck")
    assert logged.wait(WAIT_S)
    release.set()


# Identities


def test_an_identity_in_use_is_refused_at_start(make_bus: MakeBus, mesh: dict[str, Any]) -> None:
    identity = os.path.join(mesh["directory"], "identity")
    first = make_bus("first", identity=identity)
    address = first.address
    second = DittoBus("second", **mesh, identity=identity)
    with pytest.raises(IdentityInUse):
        second.start()
    first.close()
    second.start()
    assert second.address == address
    second.close()


def test_a_bus_whose_identity_another_took_over_closes_and_says_why(make_bus: MakeBus) -> None:
    identity = Identity.generate()
    witness, first = make_bus("witness"), make_bus("first", identity=identity)
    waiting = first.wait_for_peer("nobody", timeout=None)
    witness.wait_for_peer("first").result(WAIT_S)
    make_bus("second", identity=identity)
    with pytest.raises(BusClosed) as caught:
        waiting.result(WAIT_S)
    assert isinstance(caught.value.__cause__, IdentityInUse)
    with pytest.raises(BusClosed) as caught:
        first.send(b"", witness.address)
    assert isinstance(caught.value.__cause__, IdentityInUse)
    assert first.peers == ()
    assert witness.wait_for_peer("second").result(WAIT_S)


# Closing


def test_after_close_no_callback_starts(pair: Pair) -> None:
    near, far, recorder = pair
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            try:
                near.send(b"flood", far.address).result(WAIT_S)
            except BusError:
                return

    thread = threading.Thread(target=flood)
    thread.start()
    recorder.log.wait("message", 10)
    far.close()
    heard = len(recorder.log.all)
    stop.set()
    near.close()
    thread.join(WAIT_S)
    gc.collect()
    assert len(recorder.log.all) == heard


def test_close_from_a_callback(pair: Pair) -> None:
    near, far, _ = pair

    class Closer(BusRecorder):
        def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
            self.log.add("closed", bus.close())

    far.delegate = closer = Closer()
    near.send(b"close", far.address)
    assert closer.log.wait("closed") is True
    assert far.close()
    assert closer.log.of("closed") == [True]


def test_close_from_a_callback_while_another_thread_closes(pair: Pair) -> None:
    near, far, _ = pair
    entered, closing = threading.Event(), threading.Event()

    class Closer(BusRecorder):
        def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
            entered.set()
            closing.wait(WAIT_S)
            self.log.add("closed", bus.close())

    far.delegate = closer = Closer()
    near.send(b"close", far.address)
    assert entered.wait(WAIT_S)
    thread = threading.Thread(target=far.close)
    thread.start()
    closing.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert closer.log.of("closed") == [True]


def test_a_callback_that_does_not_return_holds_up_no_close(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "CALLBACK_GRACE_S", 0.01)
    near, far, _ = pair
    far.delegate = stuck = Stuck(release := threading.Event())
    near.send(b"hello", far.address).result(WAIT_S)
    stuck.log.wait("stuck")
    far.close(timeout=0)
    assert "dittobus-far-callbacks" in {thread.name for thread in threading.enumerate()}  # still in it
    assert "Stuck.bus_did_receive_single_message goes on" in caplog.text
    assert far.close()
    release.set()


def test_close_on_the_io_thread_begins_to_close(make_bus: MakeBus) -> None:
    bus = make_bus("bus")
    log = Log()
    assert bus._ground is not None
    bus._ground.io.post(lambda: log.add("closed", bus.close()))
    assert log.wait("closed") is False
    assert bus.close()


def test_closing_in_a_with_that_is_left_by_an_exception_does_not_wait(pair: Pair) -> None:
    near, far, _ = pair
    release = threading.Event()
    far.delegate = Stuck(release)
    begun = time.monotonic()
    for _ in range(100):
        near.send(bytes(60_000), far.address, timeout=None)
    near.__exit__(RuntimeError, RuntimeError("unwinding"), None)
    assert time.monotonic() - begun < CLOSE_S
    release.set()


# Queues


def test_a_manual_queue_delivers_when_pumped(make_bus: MakeBus) -> None:
    queue = DispatchQueue.manual()
    recorder = BusRecorder()
    near = make_bus("near")
    far = make_bus("far", delegate=recorder, delegate_event_queue=queue)
    near.send(b"hello", near.wait_for_peer("far").result(WAIT_S)).result(WAIT_S)
    assert recorder.log.all == []
    assert far.delegate_event_queue is queue
    while not recorder.log.of("message"):
        queue.run_pending()
    heard = recorder.log.all
    before_it = heard[: [word for word, *_ in heard].index("message")]
    assert [near.address] in [addresses(peers) for word, peers in before_it if word == "peers"]


def test_an_unpumped_queue_does_not_grow_with_presence(make_bus: MakeBus) -> None:
    queue = DispatchQueue.manual()
    recorder = BusRecorder()
    near = make_bus("near")
    far = make_bus("far", delegate=recorder, delegate_event_queue=queue)
    for bus, name in ((near, "far"), (far, "near")):
        bus.wait_for_peer(name).result(WAIT_S)
    for number in range(50):
        near.name = f"name {number}"
    far.wait_for_peer("name 49").result(WAIT_S)
    while queue.run_pending():
        pass
    assert len(recorder.log.of("peers")) <= 3
    assert [peer.name for peer in recorder.log.of("peers")[-1]] == ["name 49"]


def test_the_last_callbacks_of_a_manual_queue_run_in_close(make_bus: MakeBus) -> None:
    queue = DispatchQueue.manual()
    queue.run_pending()
    log = Log()
    bus = make_bus("bus", delegate=BusRecorder(), delegate_event_queue=queue)
    make_bus("peer", delegate=Rejecting(pending=True))
    peer = bus.wait_for_peer("peer").result(WAIT_S)
    bus.open_stream(peer, completion=lambda stream, error: log.add("opened", stream, error))
    assert bus.close()
    [(stream, error)] = log.of("opened")
    assert stream is None
    assert isinstance(error, BusClosed)


def test_closing_does_not_wait_for_an_offer_that_is_not_answered(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = later = Rejecting(pending=True)
    future = near.open_stream(far.address)
    later.log.wait("offer")
    begun = time.monotonic()
    far.close()
    assert time.monotonic() - begun < CLOSE_S
    assert isinstance(future.exception(WAIT_S), BusError)


def test_the_queue_is_chosen_before_the_start(mesh: dict[str, Any]) -> None:
    queue = DispatchQueue.manual()
    bus = DittoBus("bus", **mesh)
    assert bus.delegate_event_queue is None
    bus.delegate_event_queue = queue
    with bus:
        assert bus.delegate_event_queue is queue
        with pytest.raises(UsageError, match="before start"):
            bus.delegate_event_queue = DispatchQueue.manual()


@pytest.mark.asyncio
async def test_a_loop_as_the_queue_and_futures_to_await(make_bus: MakeBus) -> None:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    class Putting(DittoBusDelegate):
        def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
            assert asyncio.get_running_loop() is loop
            arrived.put_nowait(message.data)

    near = make_bus("near")
    make_bus("far", delegate=Putting(), delegate_event_queue=loop)
    async with asyncio.timeout(WAIT_S):
        peer = await asyncio.wrap_future(near.wait_for_peer("far"))
        await asyncio.wrap_future(near.send(b"hello", peer))
        assert await arrived.get() == b"hello"


# Opening streams


class Rejecting(BusRecorder):
    """Rejects, or leaves offers pending."""

    def __init__(self, *, pending: bool = False) -> None:
        super().__init__()
        self.pending = pending

    def bus_did_receive_stream_offer(self, bus: DittoBus, offer: DittoBusStreamOffer) -> None:
        self.log.add("offer", offer)
        if not self.pending:
            offer.reject(42, "not today")


def test_a_stream_opens(pair: Pair) -> None:
    near, far, recorder = pair
    log = Log()
    future = near.open_stream(
        far.address, completion=lambda *outcome: log.add("opened", outcome), name="video", metadata=b"30 fps"
    )
    stream = future.result(WAIT_S)
    assert log.wait("opened") == (stream, None)
    incoming, _ = recorder.wait_for_stream()
    for end in (stream, incoming):
        assert (end.name, end.metadata, end.reliability) == ("video", b"30 fps", DittoBusReliability.RELIABLE)
        assert end.is_ready
    assert (stream.peer, incoming.peer) == (far.address, near.address)
    assert recorder.log.of("offer")[0].metadata == b"30 fps"
    assert "video" in repr(stream)
    stream.close()


def test_a_stream_can_be_rejected(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = Rejecting()
    log = Log()
    future = near.open_stream(far.address, completion=lambda *outcome: log.add("opened", outcome))
    with pytest.raises(StreamRejected) as caught:
        future.result(WAIT_S)
    assert (caught.value.code, caught.value.reason) == (42, "not today")
    stream, error = log.wait("opened")
    assert stream is None
    assert isinstance(error, StreamRejected)


def test_an_offer_can_be_accepted_later_with_a_reply(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = later = Rejecting(pending=True)
    future = near.open_stream(far.address, name="later")
    offer = later.log.wait("offer")
    assert (offer.name, offer.peer) == ("later", near.address)
    assert offer.reliability is DittoBusReliability.RELIABLE
    with pytest.raises(ConfigError, match="metadata"):
        offer.accept(bytes(5000))
    offer.accept(b"welcome")
    with pytest.raises(UsageError, match="answered"):
        offer.accept()
    with pytest.raises(UsageError, match="answered"):
        offer.reject()
    stream = future.result(WAIT_S)
    assert stream.reply_metadata == b"welcome"
    assert later.log.wait("stream")[0].reply_metadata == b"welcome"
    stream.abort()


def test_an_offer_nobody_takes_times_out(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = later = Rejecting(pending=True)
    timeout = 0.05
    while not later.log.of("offer"):  # or it was over before anybody was told
        future = near.open_stream(far.address, timeout=timeout)
        with pytest.raises((OpenTimeout, StreamRejected)):
            future.result(WAIT_S)
        timeout *= 2
    offer = later.log.wait("offer")
    near.send(b"after the reset", far.address).result(WAIT_S)
    offer.accept()  # too late, and nothing comes of it
    near.send(b"after the acceptance", far.address).result(WAIT_S)
    assert later.log.of("stream") == []


def test_cancelling_an_open_resets_the_stream(pair: Pair) -> None:
    near, far, _ = pair
    far.delegate = later = Rejecting(pending=True)
    log = Log()
    future = near.open_stream(far.address, completion=lambda *outcome: log.add("opened", outcome))
    offer = later.log.wait("offer")
    assert future.cancel()
    stream, error = log.wait("opened")
    assert stream is None
    assert "given up" in str(error)
    near.send(b"after the reset", far.address).result(WAIT_S)
    offer.accept()
    far.delegate = recorder = BusRecorder()
    near.send(b"after the acceptance", far.address).result(WAIT_S)
    recorder.log.wait("message")
    assert later.log.of("stream") == []


def test_offers_wait_for_a_delegate(make_bus: MakeBus) -> None:
    near, far = make_bus("near"), make_bus("far")
    future = near.open_stream(near.wait_for_peer("far").result(WAIT_S))
    expired = near.open_stream(far.address, timeout=0.05)
    assert isinstance(expired.exception(WAIT_S), OpenTimeout | StreamRejected)
    near.send(b"after the reset", far.address).result(WAIT_S)
    far.delegate = recorder = BusRecorder()
    stream = future.result(WAIT_S)
    recorder.wait_for_stream()
    near.send(b"all is told", far.address).result(WAIT_S)
    recorder.log.wait("message", 2)
    assert len(recorder.log.of("offer")) == 1
    stream.abort()


def test_streams_go_to_the_handler_of_their_name(pair: Pair) -> None:
    near, far, recorder = pair
    handled: list[tuple[DittoBusStream, Address]] = []
    log = Log()

    def handle(stream: DittoBusStream, peer: Address) -> None:
        stream.delegate = StreamRecorder()
        handled.append((stream, peer))
        log.add("handled")

    far.on_stream("wanted", handle)
    stream = near.open_stream(far.address, name="wanted").result(WAIT_S)
    log.wait("handled")
    assert [(taken.name, peer) for taken, peer in handled] == [("wanted", near.address)]
    assert recorder.log.of("offer") == recorder.log.of("stream") == []
    with pytest.raises(StreamRejected, match="nothing here takes streams named 'other'"):
        near.open_stream(far.address, name="other").result(WAIT_S)
    with pytest.raises(ConfigError, match="handler already"):
        far.on_stream("wanted", handle)
    with pytest.raises(TypeError, match="handler"):
        far.on_stream("other", 7)  # type: ignore[arg-type]
    stream.close()


def test_a_stream_that_its_handler_does_not_keep_is_aborted(pair: Pair) -> None:
    near, far, _ = pair
    far.on_stream("dropped", lambda stream, peer: None)

    def open_and_wait() -> Any:
        near.open_stream(far.address, name="dropped").result(WAIT_S).delegate = recorder = StreamRecorder()
        return recorder.log.wait("closed")

    with pytest.warns(ResourceWarning, match="'dropped' .* never closed"):
        end = open_and_wait()
    assert isinstance(end, StreamReset)


def test_a_stream_that_its_completion_does_not_keep_is_aborted(pair: Pair) -> None:
    near, far, recorder = pair

    def open_and_wait() -> Any:
        near.open_stream(far.address, completion=lambda stream, error: None, name="dropped")
        return recorder.wait_for_stream()[1].log.wait("closed")

    with pytest.warns(ResourceWarning, match="'dropped' .* never closed"):
        end = open_and_wait()
    assert isinstance(end, StreamReset)


def test_a_handler_takes_what_was_offered_before(make_bus: MakeBus) -> None:
    near, far = make_bus("near"), make_bus("far")
    future = near.open_stream(near.wait_for_peer("far").result(WAIT_S), name="early")
    handled = Log()
    far.on_stream("early", lambda stream, peer: handled.add("stream", stream))
    stream = future.result(WAIT_S)
    handled.wait("stream").abort()
    stream.abort()
