"""Between the node, on the I/O thread, and the blocking face, on all others."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from brokerless import BusClosed, BusError, Reliability, StreamReset
from dittobus._blocking_offer import Offer
from dittobus._blocking_stream import Stream
from dittobus._exchange import UNWOUND, Exchange
from dittobus._fork import InOneProcess
from dittobus._futures import BusFuture
from dittobus._io_thread import IoThread
from dittobus._mailbox import Mailbox, MessageMailbox, PeerMailbox
from dittobus._shutdown import Shutdown
from dittobus._waiting import Sleeper

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from brokerless import (
        Address,
        Limits,
        Message,
        MessageReceived,
        SendDone,
        StreamOffered,
        StreamOpened,
        Unread,
    )
    from brokerless import Offer as CoreOffer
    from brokerless import Stream as CoreStream
    from dittobus._bindings import Bindings
    from dittobus.peers import PeerEvent, PeerTable

_log = logging.getLogger("dittobus")

T = TypeVar("T")
P = ParamSpec("P")

HANDLERS_MAX = 256
"""Handlers of streams that run at once: each has a thread, and a peer may open streams by the thousand. More
offers wait until one returns, and are rejected if their time is up before."""


class BlockingExchange(InOneProcess, Exchange[Stream, "BusFuture[Stream]"]):
    """Runs commands on the I/O thread, and keeps what has arrived until some thread takes it."""

    def __init__(
        self, limits: Limits, label: str, bindings: Bindings[Callable[[Stream, Address], object]]
    ) -> None:
        super().__init__(limits)
        self.io = IoThread(f"{label}-io")
        self.shutdown = Shutdown(self.io, self.shut_down)
        self.messages = MessageMailbox(self.io, "message", self._consume)
        self.offers: Mailbox[Offer] = Mailbox(self.io, "offer of a stream")
        self.handlers: set[threading.Thread] = set()
        self._label = label
        self._bindings = bindings
        self._pid = os.getpid()
        self._unconsumed: deque[Message] = deque()  # in the order in which they are taken
        self._changes: weakref.WeakSet[PeerMailbox] = weakref.WeakSet()
        self._stream_ids = itertools.count(1)
        self._offered: dict[CoreStream, Offer] = {}
        self._handled_later: deque[Offer] = deque()
        self._sends: dict[int, BusFuture[None]] = {}
        self._waits: dict[BusFuture[Any], asyncio.Future[Any]] = {}

    # From any thread

    def outcome(
        self, command: Callable[Concatenate[BusFuture[T], P], None], *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Run ``command`` on the I/O thread, and return or raise what its future brings.

        Ctrl-C ends the wait: an open is then reset, a wait for peers is over; a send goes on.
        """
        future: BusFuture[T] = BusFuture(self.io, self._give_up_later)
        sleeper = Sleeper(self.io)
        try:
            future.add_done_callback(lambda _: sleeper.wake())
            self.io.post(partial(_attempt, future, partial(command, future, *arguments, **options)))
            sleeper.sleep(None)
        except BaseException:
            if not future.cancel() and future.exception() is None:
                result = future.result()
                if isinstance(result, Stream):  # it came in the same moment, and nobody will have it
                    result.abort()
            raise
        return future.result()

    def changes(self) -> PeerMailbox:
        """Return a new iteration over the changes of peers."""
        return self.io.call(self._new_changes)

    # Commands, on the I/O thread

    def send(
        self,
        future: BusFuture[None],
        data: bytes,
        to: Address,
        reliability: Reliability,
        channel: int,
        timeout: float | None,
    ) -> None:
        """Send a single message."""
        if reliability is not Reliability.RELIABLE:
            self.node.transmit(data, to, reliability, channel)
            future.succeed(None)
            return
        self._sends[self.node.send(data, to, reliability, channel, timeout)] = future

    def open_stream(
        self,
        future: BusFuture[Stream],
        to: Address,
        reliability: Reliability,
        name: str,
        metadata: bytes,
        timeout: float | None,
    ) -> None:
        """Open a stream."""
        self._opening[self.node.open_stream(to, reliability, name, metadata, timeout)] = future

    def accept(self, future: BusFuture[Stream], offer: CoreOffer, metadata: bytes) -> None:
        """Take an offered stream."""
        self._opening[self.node.accept(offer, metadata)] = future

    def reject(self, offer: CoreOffer, code: int, reason: str) -> None:
        """Turn an offered stream down."""
        try:
            self.node.reject(offer, code, reason)
        except BusError as error:
            _log.debug("%r cannot be rejected any more: %s", offer, error)

    def wait(self, future: BusFuture[T], begin: Callable[[PeerTable], asyncio.Future[T]]) -> None:
        """Wait for peers."""
        if self.is_over:
            raise self.closed_error()
        waiting = self._waits[future] = begin(self.table)
        self.want_known()

        def pass_on(waiting: asyncio.Future[T]) -> None:
            self._waits.pop(future, None)
            if waiting.cancelled():
                return
            error = waiting.exception()
            if error is None:
                future.succeed(waiting.result())
            else:
                future.fail(error)

        waiting.add_done_callback(pass_on)

    def sort_again(self) -> None:
        """There is another handler: it may be the one for streams that are offered already."""
        for offer in self.offers.take_all():
            self._sort(offer)

    def _give_up_later(self, future: BusFuture[Any]) -> None:
        self.io.post(partial(self._give_up, future))

    def _give_up(self, future: BusFuture[Any]) -> None:
        if (waiting := self._waits.pop(future, None)) is not None:
            waiting.cancel()
        for core, opening in list(self._opening.items()):
            if opening is future:
                del self._opening[core]
                core.abort()

    def _new_changes(self) -> PeerMailbox:
        changes = PeerMailbox(self.io, self.table.listed.values())
        if self.is_over:
            changes.drop()
        self._changes.add(changes)
        return changes

    # Events

    def _fail_rest(self) -> None:
        super()._fail_rest()
        self._handled_later.clear()
        self.messages.drop()
        self.offers.drop()
        for changes in tuple(self._changes):
            changes.drop()

    def _peer_changed(self, event: PeerEvent) -> None:
        before = event.peer.address in self.table.listed
        self.table.apply(event)
        if before or event.peer.address in self.table.listed:
            for changes in tuple(self._changes):
                changes.put((event,))

    def _message_received(self, event: MessageReceived) -> None:
        self._unconsumed.append(event.message)
        self.messages.put((event.message,))

    def _messages_waiting(self, unread: Unread[Message]) -> None:
        self.messages.look_into(unread)

    def _consume(self, count: int) -> None:
        for _ in range(count):
            self.node.consume(self._unconsumed.popleft())

    def _send_done(self, event: SendDone) -> None:
        future = self._sends.pop(event.send_id, None)
        if future is None:
            return
        if event.error is None:
            future.succeed(None)
        else:
            future.fail(event.error)

    def _stream_offered(self, event: StreamOffered) -> None:
        offer = self._offered[event.offer.stream] = Offer(self, event.offer)
        self._sort(offer)

    def _stream_opened(self, event: StreamOpened) -> None:
        core = event.stream
        self._offered.pop(core, None)
        future = self._opening.pop(core, None)
        if future is None:  # given up, and aborted
            return
        stream = Stream(self, core, next(self._stream_ids))
        self._streams[core] = weakref.ref(stream)
        if not future.succeed(stream):
            stream.abort()

    def _unopened_ended(self, core: CoreStream, error: BusError | None) -> None:
        if (offer := self._offered.pop(core, None)) is not None:
            offer._did_end(error)
            self.offers.discard(offer)
        if (future := self._opening.pop(core, None)) is not None:
            future.fail(error or StreamReset(0, "closed before it was open", peer=core.peer))

    def _unopened(self) -> Iterable[CoreStream]:
        return (*self._opening, *self._offered)

    def _unsent(self) -> Iterable[int]:
        return self._sends

    def _did_fork(self) -> None:
        self.messages.refuse()
        self.offers.refuse()
        for changes in tuple(self._changes):
            changes.refuse()
        for reference in tuple(self._streams.values()):
            if (stream := reference()) is not None:
                stream._did_fork()

    # Handlers by the name of a stream

    def _sort(self, offer: Offer) -> None:
        """Pass an offer to the handler of its name, or to the mailbox where no handlers are used."""
        if not self._bindings:
            self.offers.put((offer,))
            return
        handler = self._bindings.get(offer.name)
        if handler is None:
            self._turn_down(offer, self._bindings.refusal(offer.name))
        elif len(self.handlers) >= HANDLERS_MAX:
            self._handled_later.append(offer)
        else:
            name = f"{self._label}-stream-{offer.name}"
            thread = threading.Thread(target=self._handle, args=(offer, handler), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # from Python 3.12 on, the exit of the interpreter allows no new thread
                self._turn_down(offer, "this process is about to exit")
            else:
                self.handlers.add(thread)

    def _turn_down(self, offer: Offer, reason: str) -> None:
        offer._answer()
        self.reject(offer._core, self._bindings.REJECT_CODE, reason)

    def _handle(self, offer: Offer, handler: Callable[[Stream, Address], object]) -> None:
        """Accept a stream and let the handler have it. In a thread of its own."""
        try:
            stream = offer.accept()
        except BusError as error:
            _log.debug("%r cannot be accepted any more: %s", offer, error)
            return
        else:
            _run_handler(handler, stream)
        finally:
            self.io.post(partial(self._handled, threading.current_thread()))

    def _handled(self, thread: threading.Thread) -> None:
        self.handlers.discard(thread)
        while self._handled_later:
            offer = self._handled_later.popleft()
            if not offer._is_over:
                self._sort(offer)
                return


def _attempt(future: BusFuture[Any], command: Callable[[], None]) -> None:
    """Run a command that nobody can catch the errors of: they become its outcome."""
    if future.cancelled():
        return
    try:
        command()
    except Exception as error:
        future.fail(error)


def _run_handler(handler: Callable[[Stream, Address], object], stream: Stream) -> None:
    try:
        handler(stream, stream.peer)
    except BusClosed:  # as all that waits does then
        stream.abort(reason=UNWOUND)
    except Exception:
        _log.exception("the handler of streams named %r raised; its stream is aborted", stream.name)
        stream.abort(reason=UNWOUND)
    except SystemExit:  # which ends a thread without a word
        stream.abort(reason=UNWOUND)
