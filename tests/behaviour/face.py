"""What the scenarios ask of a face of the bus.

A scenario is written once, in plain synchronous steps, and runs through every face. What waits for somebody
else returns an ``Outcome``, so that a scenario may do something else meanwhile. An error is in the outcome
wherever the face raises it. An adapter says all this in the words of its face, and adds nothing.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from brokerless import PeerLeft, Reliability
from brokerless.testing.presence import Presence as EventSum

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokerless import (
        Address,
        Event,
        LossReason,
        Message,
        NodeStats,
        Peer,
        PeerState,
        PeerStats,
        StreamStats,
        Ticket,
    )

WAIT_S = 10.0
"""How long something may take that must happen."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Outcome(Protocol[T_co]):
    """What something will come to, as ``concurrent.futures.Future`` knows it."""

    def result(self, timeout: float | None = None) -> T_co: ...
    def exception(self, timeout: float | None = None) -> BaseException | None: ...
    def done(self) -> bool: ...


def get(outcome: Outcome[T]) -> T:
    """Wait for what must happen."""
    return outcome.result(WAIT_S)


def error_of(outcome: Outcome[Any]) -> BaseException | None:
    """Wait for how it ends; None: well."""
    return outcome.exception(WAIT_S)


def until(condition: Callable[[], object]) -> None:
    """Ask until it is so. Each question goes through the loop of the bus, which works between them."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not so within {WAIT_S} s"


def attempt(command: Callable[[], Future[T]]) -> Future[T]:
    """Run a command that may fail at the call, and make that its outcome."""
    try:
        return command()
    except Exception as error:
        return failed(error)


def done(command: Callable[[], T]) -> Future[T]:
    """Run a command that waits for nothing."""
    outcome: Future[T] = Future()
    try:
        outcome.set_result(command())
    except Exception as error:
        outcome.set_exception(error)
    return outcome


def in_thread(command: Callable[[], T]) -> Future[T]:
    """Run a command that waits."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(command())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="scenario", daemon=True).start()
    return outcome


def failed(error: BaseException) -> Future[Any]:
    """Return what has come to nothing."""
    outcome: Future[Any] = Future()
    outcome.set_exception(error)
    return outcome


def then(outcome: Future[Any], convert: Callable[[Any], T]) -> Future[T]:
    """Return the same outcome with another result."""
    converted: Future[T] = Future()

    def pass_on(outcome: Future[Any]) -> None:
        error = outcome.exception()
        if error is None:
            converted.set_result(convert(outcome.result()))
        else:
            converted.set_exception(error)

    outcome.add_done_callback(pass_on)
    return converted


class AnyStream(ABC):
    """One end of a stream. Nothing is consumed but by ``receive``."""

    stream: Any
    """The stream of the face: its attributes are the same in all of them."""

    @abstractmethod
    def send(self, data: Any) -> Outcome[int]:
        """Send one message; the outcome is its number, once it is accepted."""

    @abstractmethod
    def receive(self) -> Outcome[bytes]:
        """Take the next message; fails with ``EndOfStream``, or what ended the stream."""

    @abstractmethod
    def acknowledged(self, sequence: int) -> Outcome[None]:
        """Wait for a receipt of messages up to that number."""

    @abstractmethod
    def finish(self) -> Outcome[None]:
        """Send no more."""

    @abstractmethod
    def close(self, timeout: float | None = 5.0) -> Outcome[None]:
        """End both directions; fails with how the stream ended, if it did not end well."""

    @abstractmethod
    def abort(self, code: int = 0, reason: str = "") -> Outcome[None]:
        """Drop everything now."""

    @abstractmethod
    def stats(self) -> StreamStats:
        """The counters."""

    def receive_all(self) -> list[bytes]:
        """Take messages until the other side has finished."""
        messages = []
        while not isinstance(error_of(following := self.receive()), EOFError):
            messages.append(get(following))
        return messages


class AnyOffer(ABC):
    """A stream that a peer wants to open."""

    offer: Any
    """The offer of the face: its attributes are the same in all of them."""

    @abstractmethod
    def accept(self, metadata: Any = b"") -> Outcome[AnyStream]:
        """Take it."""

    @abstractmethod
    def reject(self, code: int = 0, reason: str = "") -> Outcome[None]:
        """Turn it down."""


def feed(stream: AnyStream, messages: Sequence[bytes]) -> Future[list[int]]:
    """Send one message after the other, each when the one before it was accepted."""
    return in_thread(lambda: [get(stream.send(message)) for message in messages])


class Presence:
    """Who is there, as a bus tells it: the first report, who is listed since, who has gone, what was seen."""

    def __init__(self) -> None:
        self.first: list[Peer] | None = None
        self.listed: dict[Address, Peer] = {}
        self.lost: list[tuple[Address, LossReason]] = []
        self.seen: set[tuple[Address, PeerState]] = set()
        self._sum = EventSum()
        self._changed = threading.Condition()

    @property
    def here(self) -> dict[Address, Peer]:
        """Those who have joined."""
        return {address: peer for address, peer in self.listed.items() if peer.has_joined}

    def put(self, event: Event) -> None:
        """Take in a single change, from a face that tells of each."""
        with self._changed:
            self._sum.take(event)
            self.listed = dict(self._sum.peers)
            if isinstance(event, PeerLeft):
                self.lost.append((event.peer.address, event.reason))
            self._note()

    def replace(self, peers: tuple[Peer, ...], lost: tuple[PeerLeft, ...]) -> None:
        """Take in a snapshot, from a face that tells of all at once."""
        with self._changed:
            self.listed = {peer.address: peer for peer in peers}
            self.lost.extend((change.peer.address, change.reason) for change in lost)
            self._note()

    def _note(self) -> None:
        if self.first is None:
            self.first = list(self.here.values())
        self.seen.update((peer.address, peer.state) for peer in self.here.values())
        self._changed.notify_all()

    def wait_until(self, condition: Callable[[Presence], object]) -> None:
        """Wait until it is as it should be."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), WAIT_S):
                raise AssertionError(f"not so within {WAIT_S} s; here {self.here}, lost {self.lost}")


class AnyBus(ABC):
    """A running bus. Nothing is consumed but by ``take_message``."""

    bus: Any
    """The bus of the face: its attributes are the same in all of them."""

    @property
    @abstractmethod
    def address(self) -> Address: ...

    @property
    @abstractmethod
    def peers(self) -> tuple[Peer, ...]: ...

    @abstractmethod
    def peer(self, address: Address) -> Peer | None: ...

    @abstractmethod
    def ticket(self) -> Ticket: ...

    @abstractmethod
    def stats(self) -> NodeStats: ...

    @abstractmethod
    def peer_stats(self, address: Any) -> PeerStats: ...

    @abstractmethod
    def announce(self, *, name: str | None = None, metadata: Any = None) -> Outcome[None]:
        """Set the name, the metadata, or both."""

    @abstractmethod
    def wait_for_peer(self, target: Any, timeout: float | None = WAIT_S) -> Outcome[Peer]: ...

    @abstractmethod
    def wait_for_peers(self, count: int, timeout: float | None = WAIT_S) -> Outcome[tuple[Peer, ...]]: ...

    @abstractmethod
    def presence(self) -> Presence:
        """Begin to watch who is there."""

    @abstractmethod
    def send(
        self,
        data: Any,
        to: Any,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        channel: int = 0,
        timeout: float | None = 10.0,
    ) -> Outcome[None]: ...

    @abstractmethod
    def take_message(self) -> Outcome[Message]:
        """Take the next single message."""

    @abstractmethod
    def open(
        self,
        to: Any,
        reliability: Reliability = Reliability.RELIABLE,
        *,
        name: Any = "",
        metadata: Any = b"",
        timeout: float | None = 10.0,
    ) -> Outcome[AnyStream]: ...

    @abstractmethod
    def take_offer(self) -> Outcome[AnyOffer]:
        """Take the next offer."""

    @abstractmethod
    def bind(self, name: str, take: Callable[[AnyStream, Address], None]) -> Outcome[None]:
        """Give streams of that name to ``take``."""

    @abstractmethod
    def tell_statistics(self) -> Outcome[None]:
        """Tell them to who asks, by the line that the documentation has for it."""

    @abstractmethod
    def close(self, timeout: float | None = 5.0) -> Outcome[bool]: ...


class Face(ABC):
    """One face of the bus, and all that runs through it in a test."""

    @abstractmethod
    def bus(self, name: str = "", **arguments: Any) -> AnyBus:
        """Start a bus."""

    @abstractmethod
    def close(self) -> None:
        """Close everything."""


def drain(stream: AnyStream) -> BaseException:
    """Take all that still comes, and return why no more does."""
    while (error := error_of(stream.receive())) is None:
        pass
    return error
