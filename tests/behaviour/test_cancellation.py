"""Cancelling at every await, one after the other: contract, section 2, the asyncio face.

"A cancelled ``stream.send`` sent nothing; a cancelled ``receive`` consumed nothing; a cancelled ``bus.send``
is unknown; a cancelled open resets; a cancelled close aborts." Each scenario is run again and again, and
cancelled where it is suspended for the first time, the second, the third, until it is through before that;
both just when it is suspended, and just when it has been woken, too late to take back what woke it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest
import pytest_asyncio

from brokerless import (
    BusClosed,
    BusError,
    Limits,
    StreamClosed,
    StreamFinished,
    StreamRejected,
    StreamReset,
)
from dittobus.aio import Bus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator

    from dittobus.aio import Offer, Stream

    Pair = tuple[Bus, Bus]
    Ends = tuple[Stream, Stream]
    Strike = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, "Outcome"]]
    """Runs a command and cancels it where it is this run's turn."""

T = TypeVar("T")

pytestmark = pytest.mark.asyncio

KIB = 1024
LIMITS = Limits(
    stream_window_initial_bytes=16 * KIB, stream_window_bytes=32 * KIB, send_queue_bytes_max=16 * KIB
)
"""Small ones, so that credit that leaks is soon missed."""

MESSAGE = bytes(1000)

PLACES = (*range(20), -1)
"""The suspensions to cancel at; in the end none, since who looks again and again has many."""


class Cancelled(Generic[T]):
    """Runs a coroutine, and cancels the task in its ``at``-th suspension: at once, or when it is woken."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], at: int, *, woken: bool) -> None:
        self._coroutine = coroutine
        self._at = at
        self._woken = woken
        self.has_struck = False

    def __await__(self) -> Generator[Any, Any, T]:
        error: BaseException | None = None
        for suspension in itertools.count():
            try:
                awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            strikes = suspension == self._at
            if strikes and not self._woken:
                self._strike()  # the task cancels what it awaits as soon as it does
            try:
                yield awaited
            except BaseException as outcome:
                error = outcome
            if strikes and self._woken:
                self.has_struck = True
                error = asyncio.CancelledError()  # this is what Task.cancel does to a task about to run
        raise AssertionError("it does not end")

    def _strike(self) -> None:
        self.has_struck = True
        task = asyncio.current_task()
        assert task is not None
        task.cancel()


@pytest.fixture(params=[False, True], ids=["in the loop", "with io_thread"])
def mesh(mesh: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments that bring buses of this test together, the node where it may be."""
    return {**mesh, "io_thread": request.param}


@pytest_asyncio.fixture
async def pair(mesh: dict[str, Any]) -> AsyncIterator[Pair]:
    """Buses "near" and "far" that know each other, and of which nothing is left in the end."""
    async with Bus("near", limits=LIMITS, **mesh) as near, Bus("far", limits=LIMITS, **mesh) as far:
        await near.wait_for_peer(far.address)
        await far.wait_for_peer(near.address)
        yield near, far
        await nothing_is_left(near, far)


async def connect(near: Bus, far: Bus) -> Ends:
    """Both ends of a new stream."""
    opening = asyncio.create_task(near.open_stream(far.address))
    theirs = await (await anext(far.offers())).accept()
    return await opening, theirs


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - no event tells of what is asked here
            await asyncio.sleep(0)


async def nothing_is_left(near: Bus, far: Bus) -> None:
    """No stream, nobody who waits, and credit for single messages."""
    for bus, other in ((near, far), (far, near)):
        exchange = bus._exchange
        session = exchange.node._core.session(other.address)
        lanes = session.lanes
        await until(
            lambda session=session, lanes=lanes: session.is_idle and not lanes.streams and not lanes._offers
        )
        untold = (exchange._streams, exchange._offered, exchange._sends)
        await until(lambda untold=untold: not any(untold))
        assert not exchange._opening
        assert not exchange.messages._getters
        assert not exchange.offers._getters
        window = lanes.singles._window.window
        of_singles = window - LIMITS.stream_window_initial_bytes
        assert lanes._budget.reserved == of_singles  # of the streams: nothing


async def carries_windows(ours: Stream, theirs: Stream) -> None:
    """Show that no credit has leaked: several windows pass, both ways."""
    for sender, receiver in ((ours, theirs), (theirs, ours)):

        async def send(sender: Stream = sender) -> None:
            for number in range(150):
                await sender.send(b"%d" % number + MESSAGE)

        sending = asyncio.create_task(send())
        for number in range(150):
            assert await receiver.receive() == b"%d" % number + MESSAGE
        await sending


async def fill(stream: Stream, other: Stream) -> int:
    """Send until a message would have to wait, and nothing is under way that would change it."""
    number = 0
    while True:
        sending = asyncio.create_task(stream.send(MESSAGE))
        await until(lambda sending=sending: sending.done() or is_stuck(stream, other))
        if not sending.done():
            sending.cancel()
            await asyncio.wait([sending])
            return number
        number = await sending


def is_stuck(stream: Stream, other: Stream) -> bool:
    ours, theirs = stream.stats(), other.stats()
    cost = len(MESSAGE) + 64
    return (
        ours.messages_sent == theirs.messages_received == theirs.unconsumed_messages
        and ours.send_credit_bytes < cost
        and ours.send_queue_bytes + 64 * ours.send_queue_messages + cost > LIMITS.send_queue_bytes_max
    )


class Outcome:
    """What became of a command that was cancelled, or not any more."""

    def __init__(self, result: Any, was_struck: bool) -> None:
        self.result = result
        self.was_struck = was_struck
        self.was_cancelled = isinstance(result, asyncio.CancelledError)
        assert was_struck or not isinstance(result, BaseException), result


async def interrupt(coroutine: Coroutine[Any, Any, Any], at: int, woken: bool) -> Outcome:
    """Run a coroutine in a task that is cancelled."""
    cancelled = Cancelled(coroutine, at, woken=woken)

    async def run() -> Any:
        return await cancelled

    [result] = await asyncio.gather(asyncio.create_task(run()), return_exceptions=True)
    return Outcome(result, cancelled.has_struck)


async def everywhere(scenario: Callable[[Strike], Awaitable[None]]) -> list[Outcome]:
    """Run the scenario once for each place to cancel, and once more without."""
    outcomes: list[Outcome] = []
    for woken in (False, True):
        for at in PLACES:

            async def strike(
                coroutine: Coroutine[Any, Any, Any], at: int = at, woken: bool = woken
            ) -> Outcome:
                outcomes.append(await interrupt(coroutine, at, woken))
                return outcomes[-1]

            async with asyncio.timeout(15):
                await scenario(strike)
            if not outcomes[-1].was_struck:
                break
    return outcomes


def struck(outcomes: list[Outcome]) -> int:
    return sum(outcome.was_cancelled for outcome in outcomes)


# The scenarios


@pytest.mark.parametrize("others", [0, 2])
async def test_a_cancelled_send_sent_nothing(pair: Pair, others: int) -> None:
    async def scenario(strike: Strike) -> None:
        ours, theirs = await connect(*pair)
        accepted = await fill(ours, theirs)
        sending = asyncio.create_task(strike(ours.send(b"cancelled?" * 1000)))  # needs much of the queue
        await until(lambda: ours._senders or sending.done())
        waiting = [asyncio.create_task(ours.send(b"other %d" % number)) for number in range(others)]
        received = [await theirs.receive() for _ in range(accepted)]
        outcome = await sending
        assert await ours.send(b"last") == accepted + others + (not outcome.was_cancelled) + 1
        while received[-1] != b"last":
            received.append(await theirs.receive())
        rest = [] if outcome.was_cancelled else [b"cancelled?" * 1000]
        rest += [b"other %d" % number for number in range(others)]
        assert received == [MESSAGE] * accepted + rest + [b"last"]
        for task in waiting:
            await task
        assert not ours._senders
        await carries_windows(ours, theirs)
        await abort(ours, theirs)
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("take", ["receive", "__anext__"])
async def test_a_cancelled_receive_consumed_nothing(pair: Pair, take: str, others: int) -> None:
    async def scenario(strike: Strike) -> None:
        ours, theirs = await connect(*pair)
        receiving = asyncio.create_task(strike(getattr(theirs, take)()))
        await until(lambda: theirs._receivers or receiving.done())
        waiting = [asyncio.create_task(theirs.receive()) for _ in range(others)]
        for number in range(5):
            await ours.send(b"%d" % number)
        await ours.wait_acknowledged()
        outcome = await receiving
        received = [] if outcome.was_cancelled else [outcome.result]
        received += [await task for task in waiting]
        await until(lambda: theirs.stats().unconsumed_messages == 5 - len(received))
        received += [await theirs.receive() for _ in range(5 - len(received))]
        assert received == [b"%d" % number for number in range(5)]
        assert not theirs._receivers
        await carries_windows(ours, theirs)
        await abort(ours, theirs)
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


async def test_a_cancelled_open_resets(pair: Pair) -> None:
    near, far = pair

    async def scenario(strike: Strike) -> None:
        accepting = asyncio.create_task(accept_until(far, "next"))
        outcome = await strike(near.open_stream(far.address, name="struck"))
        following = await near.open_stream(far.address, name="next")
        accepted = await accepting
        if outcome.was_cancelled:
            if "struck" in accepted:
                with pytest.raises(StreamReset):
                    await accepted["struck"].receive()
        else:
            await carries_windows(outcome.result, accepted["struck"])
            outcome.result.abort()
        await carries_windows(following, accepted["next"])
        await abort(following, *accepted.values())
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


async def test_a_cancelled_open_that_would_be_rejected_is_over_all_the_same(pair: Pair) -> None:
    near, far = pair

    async def scenario(strike: Strike) -> None:
        async def reject_all() -> None:
            async for offer in far.offers():
                with contextlib.suppress(BusError):
                    await offer.reject(7, "no")

        rejecting = asyncio.create_task(reject_all())
        outcome = await strike(expect(StreamRejected, near.open_stream(far.address)))
        assert outcome.was_cancelled is outcome.was_struck
        await expect(StreamRejected, near.open_stream(far.address))
        rejecting.cancel()
        await asyncio.wait([rejecting])
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


async def test_a_cancelled_accept_resets(pair: Pair) -> None:
    near, far = pair

    async def scenario(strike: Strike) -> None:
        opening = asyncio.create_task(near.open_stream(far.address))
        offer: Offer = await anext(far.offers())
        outcome = await strike(offer.accept(b"reply"))
        [ours] = await asyncio.gather(opening, return_exceptions=True)
        if outcome.was_cancelled:
            if not isinstance(ours, StreamReset):
                with pytest.raises(StreamReset):
                    await ours.receive()
        else:
            await carries_windows(ours, outcome.result)
            await abort(ours, outcome.result)
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


@pytest.mark.parametrize("reads", [True, False])
async def test_a_cancelled_close_aborts(pair: Pair, reads: bool) -> None:
    async def scenario(strike: Strike) -> None:
        ours, theirs = await connect(*pair)
        accepted = await fill(ours, theirs)

        async def read() -> list[bytes] | BusError:
            try:
                return [message async for message in theirs]
            except BusError as error:
                return error

        reading = asyncio.create_task(read()) if reads else None
        outcome = await strike(ours.close(timeout=None if reads else 0.02) if reads else close_in_vain(ours))
        end = await reading if reading is not None else None
        with pytest.raises((StreamReset, StreamFinished, StreamClosed)):
            await ours.send(b"later")
        await ours.close()
        if reads and not outcome.was_cancelled:
            assert end == [MESSAGE] * accepted
        if not reads and outcome.was_cancelled:
            await until(lambda: theirs._ended.done())
            assert isinstance(theirs._end_error, StreamReset | StreamClosed)
        theirs.abort()
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


async def test_a_cancelled_single_send_is_unknown_and_others_are_not(pair: Pair) -> None:
    near, far = pair
    begin = near._exchange._begin_send
    begun = 0

    def count(*arguments: Any) -> None:
        nonlocal begun
        begun += 1
        begin(*arguments)

    near._exchange._begin_send = count  # type: ignore[method-assign]

    async def scenario(strike: Strike) -> None:
        nonlocal begun
        begun = 0

        def send(numbers: range) -> list[asyncio.Task[None]]:
            return [asyncio.create_task(near.send(b"%d" % n + MESSAGE, far.address)) for n in numbers]

        before = send(range(30))  # more than their window
        await until(lambda: begun == 30)
        striking = asyncio.create_task(strike(near.send(b"struck", far.address)))
        await until(lambda: begun > 30 or striking.done())
        after = [*send(range(30, 60)), asyncio.create_task(near.send(b"end", far.address))]
        received: list[bytes] = []
        while (data := (await anext(far.messages())).data) != b"end":
            if data == b"struck":
                assert len(received) == 30  # in its place
            else:
                received.append(data)
        assert received == [b"%d" % number + MESSAGE for number in range(60)]
        await striking
        for task in (*before, *after):
            await task
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


@pytest.mark.parametrize("others", [0, 2])
async def test_a_cancelled_wait_for_a_single_message_took_none(pair: Pair, others: int) -> None:
    near, far = pair

    async def scenario(strike: Strike) -> None:
        taking = asyncio.create_task(strike(anext(far.messages())))  # type: ignore[arg-type]
        await until(lambda: far._exchange.messages._getters or taking.done())
        waiting = [asyncio.create_task(take(far)) for _ in range(others)]
        for number in range(5):
            await near.send(b"%d" % number, far.address)
        outcome = await taking
        received = [] if outcome.was_cancelled else [outcome.result.data]
        received += [await task for task in waiting]
        received += [await take(far) for _ in range(5 - len(received))]
        assert received == [b"%d" % number for number in range(5)]
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


async def test_a_cancelled_wait_for_an_offer_took_none(pair: Pair) -> None:
    near, far = pair

    async def scenario(strike: Strike) -> None:
        taking = asyncio.create_task(strike(anext(far.offers())))  # type: ignore[arg-type]
        await until(lambda: far._exchange.offers._getters or taking.done())
        opening = asyncio.create_task(near.open_stream(far.address))
        outcome = await taking
        offer = await anext(far.offers()) if outcome.was_cancelled else outcome.result
        theirs = await offer.accept()
        await abort(await opening, theirs)
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


async def test_a_cancelled_wait_for_receipts_changes_nothing(pair: Pair) -> None:
    async def scenario(strike: Strike) -> None:
        ours, theirs = await connect(*pair)
        waiting = asyncio.create_task(strike(ours.wait_acknowledged(3)))
        other = asyncio.create_task(ours.wait_acknowledged(3))
        await until(lambda: len(ours._receipts) == 2 or waiting.done())
        for number in range(3):
            await ours.send(b"%d" % number)
        await waiting
        await other
        assert ours._receipts == {}
        assert [await theirs.receive() for _ in range(3)] == [b"0", b"1", b"2"]
        await carries_windows(ours, theirs)
        await abort(ours, theirs)
        await nothing_is_left(*pair)

    assert struck(await everywhere(scenario)) >= 2


async def test_a_cancelled_wait_for_peers_leaves_nothing(pair: Pair) -> None:
    near, far = pair

    async def scenario(strike: Strike) -> None:
        name = f"renamed {far.name}"[-20:]
        waiting = asyncio.create_task(strike(near.wait_for_peer(name)))
        counting = asyncio.create_task(near.wait_for_peers(7, timeout=None))
        await asyncio.sleep(0)
        far.name = name
        await waiting
        await near.wait_for_peer(name)
        counting.cancel()
        await asyncio.wait([counting])
        far.name = "far"
        await near.wait_for_peer("far")
        assert near._exchange.table._waits == {}
        assert near._exchange.table._counts == {}

    assert struck(await everywhere(scenario)) >= 2


async def test_what_does_not_wait_is_not_cancelled(pair: Pair) -> None:
    near, far = pair
    ours, theirs = await connect(near, far)
    opening = asyncio.create_task(near.open_stream(far.address))
    offer = await anext(far.offers())
    for command in (theirs.send(b""), ours.send(b""), ours.finish(), offer.reject(1)):
        assert not (await interrupt(command, 0, False)).was_struck
    with pytest.raises(StreamRejected):
        await opening
    await abort(ours, theirs)


async def test_a_cancelled_start_leaves_nothing_and_can_be_repeated(mesh: dict[str, Any]) -> None:
    async def scenario(strike: Strike) -> None:
        bus = Bus("bus", **mesh)
        outcome = await strike(bus.start())
        if outcome.was_cancelled:
            with pytest.raises(BusClosed):
                _ = bus.address
            await bus.start()
        assert bus.stats().peers == 0
        assert await bus.close()

    assert struck(await everywhere(scenario)) >= 1


async def test_a_cancelled_close_of_a_bus_ends_everything(mesh: dict[str, Any]) -> None:
    async def scenario(strike: Strike) -> None:
        near, far = Bus("near", limits=LIMITS, **mesh), Bus("far", limits=LIMITS, **mesh)
        async with far:
            await near.start()
            await near.wait_for_peer(far.address)
            ours, theirs = await connect(near, far)
            await fill(ours, theirs)
            reading = asyncio.create_task(read_all(theirs))
            outcome = await strike(near.close())
            await near.close()
            if not outcome.was_cancelled:
                assert outcome.result is True
            await reading
            with pytest.raises(BusError):
                await ours.send(b"later")
            with pytest.raises(BusClosed):
                await near.send(b"later", far.address)
            await until(lambda: not far._exchange.node._core.sessions)
            assert near._exchange._streams == {}

    assert struck(await everywhere(scenario)) >= 2


async def accept_until(bus: Bus, name: str) -> dict[str, Stream]:
    """Accept all offers, up to that of the name; return those that had not ended by then."""
    accepted: dict[str, Stream] = {}
    async for offer in bus.offers():
        with contextlib.suppress(BusError):
            accepted[offer.name] = await offer.accept()
        if offer.name == name:
            break
    return accepted


async def expect(kind: type[BaseException], coroutine: Coroutine[Any, Any, Any]) -> None:
    with pytest.raises(kind):
        await coroutine


async def close_in_vain(stream: Stream) -> None:
    """Close, while the other side does not read."""
    with pytest.raises(StreamClosed):
        await stream.close(timeout=0.02)


async def take(bus: Bus) -> bytes:
    return (await anext(bus.messages())).data


async def read_all(stream: Stream) -> None:
    with contextlib.suppress(BusError):
        async for _ in stream:
            pass


async def abort(*streams: Stream) -> None:
    for stream in streams:
        stream.abort()
