"""The pump against a core, a transport and a loop that do as they are told."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import pump as module
from brokerless.pump import FLUSH_BYTES, ROUNDS_MAX, STALL_SHARE, Pump
from tests.witness import Log

if TYPE_CHECKING:
    from collections.abc import Callable

LIVENESS_S = 5.0


class Timer:
    """What ``call_later`` returns."""

    def __init__(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.delay_s = delay_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop that runs nothing by itself."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], None]] = deque()
        self.timers: list[Timer] = []

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.soon.append(partial(callback, *arguments))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay_s, callback))
        return self.timers[-1]

    def run_turn(self) -> None:
        """One turn: what was ready when it began."""
        for _ in range(len(self.soon)):
            self.soon.popleft()()

    @property
    def armed(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]


class Transport:
    """Takes packets, except on links that are busy or gone."""

    def __init__(self) -> None:
        self.links = {1, 2}
        self.busy: set[int] = set()
        self.sent: list[tuple[int, bytes]] = []
        self.was_cut: list[int] = []

    def send(self, link: int, packet: bytes) -> bool:
        if link in self.busy or link not in self.links:
            return False
        self.sent.append((link, packet))
        return True

    def is_local(self, link: int) -> bool:
        return link == 2

    def is_near(self, link: int) -> bool:
        return link in (2, 3)

    def cut(self, link: int) -> None:
        self.was_cut.append(link)


class Core:
    """Gives what a test has put into it, and writes down what it is told."""

    def __init__(self) -> None:
        self.out: dict[int, deque[bytes]] = {1: deque(), 2: deque()}
        self.sendable: list[int] = []
        self.actions: list[Any] = []
        self.events: list[Any] = []
        self.deadline: float | None = None
        self.liveness_s = LIVENESS_S
        self.calls: list[tuple[Any, ...]] = []
        self.on_expire: Callable[[], None] = lambda: None
        self.fault: Exception | None = None

    def queue(self, link: int, *messages: bytes) -> None:
        self.out[link].extend(messages)
        self.sendable.append(link)

    @property
    def has_output(self) -> bool:
        return bool(self.sendable)

    @property
    def has_work(self) -> bool:
        return bool(self.sendable or self.actions)

    def next_deadline(self) -> float | None:
        return self.deadline

    def expire(self, now: float) -> None:
        self.calls.append(("expire", now))
        self.deadline = None
        self.on_expire()

    def take_sendable(self) -> list[int]:
        taken, self.sendable = self.sendable, []
        return taken

    def next_message(self, link: int, now: float) -> bytes | None:
        return self.out[link].popleft() if self.out[link] else None

    def take_actions(self) -> list[Any]:
        taken, self.actions = self.actions, []
        return taken

    def take_events(self) -> list[Any]:
        taken, self.events = self.events, []
        return taken

    def stalled(self, now: float) -> None:
        self.calls.append(("stalled", now))

    def link_opened(self, link: int, remote: object, now: float, is_local: bool, is_near: bool) -> None:
        self.calls.append(("opened", link, remote, now, is_local, is_near))

    def link_message(self, link: int, packet: bytes, now: float) -> None:
        self.calls.append(("message", link, packet, now))
        if self.fault is not None:
            raise self.fault

    def link_closed(self, link: int, reason: str, now: float) -> None:
        self.calls.append(("closed", link, reason, now))

    def udp_received(self, place: object, data: bytes, now: float) -> None:
        self.calls.append(("udp", place, data, now))
        if self.fault is not None:
            raise self.fault
        self.events.append(data)

    def push_received(self, data: bytes, now: float) -> None:
        self.calls.append(("push", data, now))
        if self.fault is not None:
            raise self.fault
        self.events.append(data)

    def permits_push(self, remote: object) -> bool:
        return remote == "friend"


class Stage:
    """A pump with everything around it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.loop = Loop()
        self.core = Core()
        self.transport = Transport()
        self.batches: list[list[Any]] = []
        self.acted: list[Any] = []
        self.on_batch: Callable[[], None] = lambda: None
        self.pump = Pump(self.core, self._tell, self.acted.append)  # type: ignore[arg-type]

    def _tell(self, events: Any) -> None:
        self.batches.append(list(events))
        self.on_batch()

    def start(self) -> Stage:
        self.pump.start(self.loop, self.transport)  # type: ignore[arg-type]
        self.loop.run_turn()
        return self

    def run(self) -> None:
        """Wake the pump and let the loop turn once."""
        self.pump.wake()
        self.loop.run_turn()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(module, "read_clock", lambda: stage.now)
    return stage.start()


# Sending


def test_what_the_core_has_for_a_link_goes_out_in_order(stage: Stage) -> None:
    stage.core.queue(1, b"a", b"b")
    stage.core.queue(2, b"c")
    stage.run()
    assert stage.transport.sent == [(1, b"a"), (1, b"b"), (2, b"c")]


def test_many_wakes_make_one_turn(stage: Stage) -> None:
    for _ in range(100):
        stage.pump.wake()
    assert len(stage.loop.soon) == 1


def test_what_a_busy_link_would_not_take_goes_first_when_it_can(stage: Stage) -> None:
    stage.transport.busy = {1}
    stage.core.queue(1, b"a", b"b")
    stage.run()
    assert stage.transport.sent == []
    stage.core.queue(1, b"c")
    stage.run()
    stage.transport.busy = set()
    stage.pump.link_writable(1)
    assert stage.transport.sent == [(1, b"a"), (1, b"b"), (1, b"c")]


def test_a_busy_link_holds_up_no_other(stage: Stage) -> None:
    stage.transport.busy = {1}
    stage.core.queue(1, b"a")
    stage.core.queue(2, b"b")
    stage.run()
    assert stage.transport.sent == [(2, b"b")]


def test_what_was_held_for_a_link_that_closed_is_dropped(stage: Stage) -> None:
    """The session has it still, and sends it on another link."""
    stage.transport.busy = {1}
    stage.core.queue(1, b"a")
    stage.run()
    stage.pump.link_closed(1, "gone")
    stage.transport.busy = set()
    stage.pump.link_writable(1)
    assert stage.transport.sent == []
    assert ("closed", 1, "gone", 1000.0) in stage.core.calls


def test_nothing_is_held_for_a_link_that_died_in_the_sending(stage: Stage) -> None:
    stage.transport.links = {2}
    stage.core.queue(1, b"a")
    stage.run()
    stage.transport.links = {1, 2}
    stage.pump.link_writable(1)
    assert stage.transport.sent == []


def test_a_link_with_much_to_send_gives_way(stage: Stage) -> None:
    parts = [bytes([number]) * (FLUSH_BYTES // 2) for number in range(7)]
    stage.core.queue(1, *parts)
    stage.pump.wake()
    for turn in range(1, 4):
        stage.loop.run_turn()
        assert stage.transport.sent == [(1, part) for part in parts[: 2 * turn]]
        stage.core.queue(1)  # somebody has more to say on it: it keeps its turn
        stage.core.queue(2, b"other")
        stage.pump.turn()
        assert stage.transport.sent.pop() == (2, b"other")
    stage.loop.run_turn()
    assert stage.transport.sent == [(1, part) for part in parts]
    assert not stage.loop.soon


def test_a_link_that_closes_while_it_gives_way_is_not_gone_on_with(stage: Stage) -> None:
    stage.core.queue(1, *[bytes(FLUSH_BYTES)] * 3)
    stage.run()
    stage.transport.sent.clear()
    stage.core.out[1].clear()
    stage.pump.link_closed(1, "reset")
    stage.loop.run_turn()
    assert not stage.transport.sent


# Receiving


def test_what_comes_is_told_to_the_core_and_drained_once_for_a_batch(stage: Stage) -> None:
    stage.pump.link_opened(2, "remote")  # type: ignore[arg-type]
    for packet in (b"x", b"y"):
        stage.core.events.append(packet)
        stage.pump.link_message(2, packet)
    stage.pump.turn_done()
    stage.loop.run_turn()
    assert stage.core.calls == [
        ("opened", 2, "remote", 1000.0, True, True),
        ("message", 2, b"x", 1000.0),
        ("message", 2, b"y", 1000.0),
    ]
    assert stage.batches == [[b"x", b"y"]]


def test_the_answer_to_a_batch_is_sent(stage: Stage) -> None:
    stage.core.events.append("question")
    stage.on_batch = lambda: stage.core.queue(1, b"answer")
    stage.pump.link_message(1, b"x")
    stage.pump.turn_done()
    stage.loop.run_turn()
    assert stage.transport.sent == [(1, b"answer")]


def test_datagrams_are_told_of_at_once_and_need_no_turn(stage: Stage) -> None:
    stage.run()
    for datagram in (b"x", b"y"):
        stage.pump.datagram("place", datagram)  # type: ignore[arg-type]
    stage.pump.turn_done()
    assert stage.batches == [[b"x", b"y"]]
    assert not stage.loop.soon
    stage.pump.datagram("place", b"z")  # type: ignore[arg-type]
    stage.core.queue(1, b"it came")
    stage.pump.turn_done()
    stage.loop.run_turn()
    assert stage.transport.sent == [(1, b"it came")]


def test_a_packet_that_our_own_defect_chokes_on_costs_its_link_only(stage: Stage) -> None:
    stage.core.fault = ZeroDivisionError("ours")
    with Log() as log:
        stage.pump.link_message(1, b"x")
        stage.pump.turn_done()
    assert log.having("link 1 could not be taken in")
    assert stage.transport.was_cut == [1]
    assert stage.core.calls[-1][:2] == ("closed", 1)
    stage.core.fault = None
    stage.core.queue(2, b"on")
    stage.run()
    assert stage.transport.sent == [(2, b"on")]


# Upward


def test_events_go_up_in_order_and_actions_are_done(stage: Stage) -> None:
    stage.core.events += ["one", "two"]
    stage.core.actions += ["dial", "cut"]
    stage.run()
    assert stage.batches == [["one", "two"]]
    assert stage.acted == ["dial", "cut"]


def test_what_events_cause_is_done_in_the_same_turn(stage: Stage) -> None:
    stage.core.events.append("asked")
    stage.on_batch = lambda: stage.core.queue(1, b"reply")
    stage.run()
    assert stage.transport.sent == [(1, b"reply")]


def test_an_event_handler_that_raises_is_logged_and_stops_nothing(stage: Stage) -> None:
    def fail() -> None:
        stage.core.queue(1, b"went on")
        raise ZeroDivisionError("above")

    stage.core.events.append("event")
    stage.core.deadline = stage.now + 1
    stage.on_batch = fail
    with Log() as log:
        stage.run()
    assert log.lines == ["an event handler failed"]
    assert stage.transport.sent == [(1, b"went on")]
    assert len(stage.loop.armed) == 1


def test_events_that_cause_events_for_ever_leave_the_loop_to_others_in_between(stage: Stage) -> None:
    stage.core.events.append("echo")
    stage.on_batch = lambda: stage.core.events.append("echo")
    stage.run()
    assert len(stage.batches) == ROUNDS_MAX
    assert len(stage.loop.soon) == 1  # and it goes on, in the next turn of the loop
    stage.loop.run_turn()
    assert len(stage.batches) == 2 * ROUNDS_MAX


# Time


def test_there_is_one_timer_for_the_next_deadline(stage: Stage) -> None:
    stage.core.deadline = stage.now + 3
    stage.run()
    stage.run()
    assert [timer.delay_s for timer in stage.loop.timers] == [3]
    stage.core.deadline = stage.now + 2
    stage.run()
    assert [timer.delay_s for timer in stage.loop.armed] == [2]
    stage.core.deadline = None
    stage.run()
    assert stage.loop.armed == []


def test_the_timer_expires_what_is_due_and_is_set_anew(stage: Stage) -> None:
    def next_one() -> None:
        stage.core.deadline = stage.now + 4

    stage.core.deadline = stage.now + 3
    stage.core.on_expire = next_one
    stage.run()
    stage.now += 3
    stage.loop.armed[0].callback()
    assert stage.core.calls == [("expire", 1003.0)]
    assert stage.loop.timers[-1].delay_s == 4
    assert not stage.loop.timers[-1].cancelled


def test_a_deadline_that_has_passed_is_served_in_any_turn(stage: Stage) -> None:
    stage.core.deadline = stage.now
    stage.run()
    assert stage.core.calls == [("expire", 1000.0)]


@pytest.mark.parametrize("first", ["turn", "link_message", "link_opened", "link_closed", "now"])
def test_a_process_that_stood_still_hears_of_it_before_anything_else(stage: Stage, first: str) -> None:
    stage.core.deadline = stage.now + 1
    stage.run()
    stage.now += 1 + STALL_SHARE * LIVENESS_S + 0.1
    arguments = {"link_message": (1, b"x"), "link_opened": (1, None), "link_closed": (1, "gone")}
    with Log() as log:
        getattr(stage.pump, first)(*arguments.get(first, ()))
    assert stage.core.calls[0] == ("stalled", stage.now)
    assert log.having("stood still for 2.6 s")
    stage.run()
    assert [call[0] for call in stage.core.calls].count("stalled") == 1  # once for each time


def test_it_is_the_shortest_limit_in_force_that_counts(stage: Stage) -> None:
    stage.core.deadline = stage.now + 1
    stage.core.liveness_s = 1.0  # a peer's
    stage.run()
    stage.now += 1.6
    stage.run()
    assert stage.core.calls[0] == ("stalled", stage.now)


def test_a_turn_that_is_only_late_is_no_stall(stage: Stage) -> None:
    stage.core.deadline = stage.now + 1
    stage.run()
    stage.now += 1 + STALL_SHARE * LIVENESS_S - 0.1
    stage.run()
    assert stage.core.calls == [("expire", stage.now)]


def test_with_no_deadline_to_miss_there_is_no_stall(stage: Stage) -> None:
    stage.run()
    stage.now += 100 * LIVENESS_S
    stage.run()
    assert stage.core.calls == []


# The end


def test_nothing_happens_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    stage.core.queue(1, b"a")
    stage.core.events.append("event")
    stage.pump.wake()
    stage.pump.turn()
    assert (stage.transport.sent, stage.batches, len(stage.loop.soon)) == ([], [], 0)


def test_nothing_happens_after_the_stop(stage: Stage) -> None:
    stage.core.deadline = stage.now + 1
    stage.run()
    [timer] = stage.loop.armed
    stage.pump.wake()
    stage.core.queue(1, b"a")
    stage.core.events.append("event")
    stage.pump.stop()
    assert timer.cancelled
    stage.loop.run_turn()  # a turn that was under way
    stage.pump.wake()
    stage.pump.turn()
    stage.pump.link_message(1, b"x")
    stage.pump.turn_done()
    stage.pump.link_writable(1)
    assert (stage.transport.sent, stage.batches, len(stage.loop.soon)) == ([], [], 0)


def test_an_event_handler_that_stops_the_pump_gets_no_further_batch(stage: Stage) -> None:
    def stop() -> None:
        stage.core.events.append("late")
        stage.pump.stop()

    stage.core.events.append("event")
    stage.core.deadline = stage.now + 1
    stage.on_batch = stop
    stage.run()
    assert stage.batches == [["event"]]
    assert stage.loop.armed == []


# Datagrams


def test_datagrams_go_to_the_core_and_are_told_of_when_their_batch_is_over(stage: Stage) -> None:
    place, remote = ("192.0.2.1", 5), "friend"
    stage.pump.datagram(place, b"by udp")  # type: ignore[arg-type]
    stage.pump.push_received(remote, b"by push")  # type: ignore[arg-type]
    stage.pump.wake()
    assert (len(stage.loop.soon), stage.batches) == (0, [])
    stage.pump.turn_done()
    assert stage.batches == [[b"by udp", b"by push"]]
    assert stage.core.calls == [("udp", place, b"by udp", stage.now), ("push", b"by push", stage.now)]


def test_a_defect_in_taking_a_datagram_costs_that_datagram(stage: Stage) -> None:
    stage.core.fault = ZeroDivisionError()
    with Log() as log:
        stage.pump.datagram(("192.0.2.1", 5), b"1")  # type: ignore[arg-type]
        stage.pump.push_received("friend", b"2")  # type: ignore[arg-type]
        stage.pump.turn_done()
    assert log.lines == ["a datagram could not be taken in"] * 2
    stage.core.fault = None
    stage.pump.datagram(("192.0.2.1", 5), b"3")  # type: ignore[arg-type]
    assert stage.core.calls[-1][2] == b"3"


def test_the_core_says_who_may_push(stage: Stage) -> None:
    assert stage.pump.permits_push("friend")  # type: ignore[arg-type]
    assert not stage.pump.permits_push("stranger")  # type: ignore[arg-type]
