"""Between the node and the asyncio face, in one loop."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from brokerless import BusClosed, BusError, Reliability, StreamReset, UsageError
from dittobus._aio_offer import Offer
from dittobus._aio_stream import Stream
from dittobus._aio_unreliable import UnreliableStream
from dittobus._bindings import Bindings
from dittobus._exchange import UNWOUND, Exchange, let_go
from dittobus._fork import InOneProcess
from dittobus._inbox import Inbox, MessageInbox, PeerChanges

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from brokerless import (
        Address,
        Limits,
        Message,
        MessageReceived,
        NodeConfig,
        SendDone,
        StreamOffered,
        StreamOpened,
        Unread,
    )
    from brokerless import Offer as CoreOffer
    from brokerless import Stream as CoreStream
    from dittobus._aio_threaded import StreamPort
    from dittobus.peers import PeerEvent

_log = logging.getLogger("dittobus")

T = TypeVar("T")
P = ParamSpec("P")

TRANSMISSIONS_IN_ROW = 64
"""After so many the loop gets a turn, since none of them waits for anything: a millisecond or so. To give way
after each would cost as much time as to send it."""


class AioExchange(InOneProcess, Exchange[Stream, "asyncio.Future[Stream]"]):
    """Awaits what the node brings about, and keeps what has arrived until somebody takes it."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.messages = MessageInbox(self.check_loop)
        self.offers: Inbox[Offer] = Inbox(self.check_loop)
        self.bindings: Bindings[Callable[[Stream, Address], Awaitable[object] | None]] = Bindings()
        self._changes: weakref.WeakSet[PeerChanges] = weakref.WeakSet()
        self._stream_ids = itertools.count(1)
        self._offered: dict[CoreStream, Offer] = {}
        self._sends: dict[int, asyncio.Future[None]] = {}
        self._handling: set[asyncio.Task[None]] = set()
        self._transmissions = 0

    async def start(self, config: NodeConfig) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._pid = os.getpid()
        await self._start_node(config)

    async def _start_node(self, config: NodeConfig) -> None:
        await super().start(config)

    async def shut_down(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - time to drain, no limit
        try:
            return await super().shut_down(timeout)
        finally:
            if handling := self._handling - {asyncio.current_task()}:  # a handler may close the bus, too
                for task in handling:
                    task.cancel()
                # Not gathered: where one of them waits for us, each would cancel the other for ever.
                await asyncio.wait(handling)

    def check_loop(self) -> None:
        """Raise ``UsageError`` in another loop than that of the bus, which may have ended, or another thread.

        Where no loop runs, in the bus's thread, nothing can wait, and all else may be done.
        """
        # To ask which loop runs costs a system call, so that comes last: of two loops in a thread one runs.
        if self._thread != threading.get_ident() or not (
            self._loop.is_running() or asyncio._get_running_loop() is None
        ):
            raise UsageError(
                "this bus belongs to another event loop, that in which it was started",
                hint="use it within one asyncio.run(), or dittobus.blocking in any thread",
            )

    # Commands

    def call(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Run ``function`` where the node is, and return or raise what it does."""
        self.check_loop()
        return function(*arguments, **options)

    def post(self, function: Callable[P, object], *arguments: P.args, **options: P.kwargs) -> None:
        """Run ``function`` where the node is, now or soon. It must not raise."""
        function(*arguments, **options)

    def abandon(self, core: CoreStream) -> None:
        """Abort a stream that nobody has, or will have. In any thread: garbage is collected everywhere."""
        if self._loop.is_closed():
            return
        if self._thread == threading.get_ident():
            let_go(core)
        else:
            self._loop.call_soon_threadsafe(let_go, core)

    async def send(
        self,
        data: bytes,
        to: Address,
        channel: int,
        timeout: float | None,  # noqa: ASYNC109
    ) -> None:
        """Send a single reliable message, and wait for its acknowledgement."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._begin_send(done, data, to, Reliability.RELIABLE, channel, timeout)
        await done  # when cancelled, it is kept until the node has told the end, which it does in any case

    def _begin_send(self, done: asyncio.Future[None], *arguments: Any) -> None:
        self._sends[self.node.send(*arguments)] = done

    async def transmit(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Run ``function``, which transmits something, where the node is; return or raise what it does."""
        self._transmissions += 1
        if self._transmissions % TRANSMISSIONS_IN_ROW == 0:
            await asyncio.sleep(0)
        return function(*arguments, **options)

    def taken(self, message: Message) -> None:
        """The application has taken a single message."""
        if message.reliability is Reliability.RELIABLE:  # the others have no credit that it could give back
            self._consume(message)

    def _consume(self, message: Message) -> None:
        self.node.consume(message)

    async def open_stream(
        self,
        to: Address,
        reliability: Reliability,
        name: str,
        metadata: bytes,
        timeout: float | None,  # noqa: ASYNC109
    ) -> Stream:
        """Open a stream, and wait for its acceptance."""
        return await self._opened(self.call(self.node.open_stream, to, reliability, name, metadata, timeout))

    async def accept(self, offer: CoreOffer, metadata: bytes) -> Stream:
        """Take an offered stream."""
        return await self._opened(self.call(self.node.accept, offer, metadata))

    def reject(self, offer: CoreOffer, code: int, reason: str) -> None:
        """Turn an offered stream down."""
        self.post(self._reject, offer, code, reason)

    def _reject(self, offer: CoreOffer, code: int, reason: str) -> None:
        try:
            self.node.reject(offer, code, reason)
        except BusError as error:
            _log.debug("%r cannot be rejected any more: %s", offer, error)

    async def _opened(self, core: CoreStream) -> Stream:
        opened: asyncio.Future[Stream] = self._loop.create_future()
        self._opening[core] = opened
        try:
            return await opened
        except asyncio.CancelledError:
            self._opening.pop(core, None)
            stream = self._stream(core)
            if stream is not None:  # it came too late
                stream.abort()
            else:
                self.abandon(core)
            raise

    def port(self, core: CoreStream) -> CoreStream | StreamPort:
        """Return what takes the commands to an open stream."""
        return core

    def close_stream(self, core: CoreStream, timeout: float | None) -> None:
        """Close an open stream."""
        self.node.close_stream(core, timeout)

    def changes(self) -> PeerChanges:
        """Return a new iteration over the changes of peers."""
        changes = PeerChanges(self.table.listed.values(), self.check_loop)
        if self.is_over:
            changes.close()
        self._changes.add(changes)
        return changes

    def bind(self, name: str, handler: Callable[[Stream, Address], Awaitable[object] | None]) -> None:
        """Give streams of that name to ``handler``, also those that are offered already."""
        self.bindings.bind(name, handler)
        offers = tuple(self.offers.items)
        for offer in offers:
            self.offers.discard(offer)
            self._sort(offer)

    # Events

    def _fail_rest(self) -> None:
        super()._fail_rest()
        self.messages.close()
        self.offers.close()
        for changes in tuple(self._changes):
            changes.close()

    def _peer_changed(self, event: PeerEvent) -> None:
        before = event.peer.address in self.table.listed
        self.table.apply(event)
        if before or event.peer.address in self.table.listed:
            for changes in tuple(self._changes):
                changes.put(event)

    def _message_received(self, event: MessageReceived) -> None:
        self.messages.put(event.message)

    def _messages_waiting(self, unread: Unread[Message]) -> None:
        self.messages.look_into(unread)

    def _send_done(self, event: SendDone) -> None:
        done = self._sends.pop(event.send_id, None)
        if done is None or done.done():
            return
        if event.error is None:
            done.set_result(None)
        else:
            done.set_exception(event.error)

    def _stream_offered(self, event: StreamOffered) -> None:
        offer = self._offered[event.offer.stream] = Offer(self, event.offer)
        self._sort(offer)

    def _sort(self, offer: Offer) -> None:
        """Pass an offer to the handler of its name, or to the iterators where no handlers are used."""
        if not self.bindings:
            self.offers.put(offer)
            return
        handler = self.bindings.get(offer.name)
        if handler is None:
            offer._answer()
            self.reject(offer._core, self.bindings.REJECT_CODE, self.bindings.refusal(offer.name))
        else:
            task = self._loop.create_task(self._handle(offer, handler))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)

    async def _handle(
        self, offer: Offer, handler: Callable[[Stream, Address], Awaitable[object] | None]
    ) -> None:
        try:
            stream = await offer.accept()
        except BusError as error:
            _log.debug("%r cannot be accepted any more: %s", offer, error)
            return
        try:
            handling = handler(stream, stream.peer)
            if inspect.isawaitable(handling):
                await handling
        except asyncio.CancelledError:
            stream.abort()
            raise
        except BusClosed:  # as all that waits does then
            stream.abort(reason=UNWOUND)
        except Exception:
            _log.exception("the handler of streams named %r raised; its stream is aborted", offer.name)
            stream.abort(reason=UNWOUND)

    def _stream_opened(self, event: StreamOpened) -> None:
        core = event.stream
        self._offered.pop(core, None)
        opened = self._opening.pop(core, None)
        if opened is None or opened.done():
            return
        kind = Stream if core.reliability is Reliability.RELIABLE else UnreliableStream
        stream = kind(self, core, next(self._stream_ids))
        self._streams[core] = weakref.ref(stream)
        opened.set_result(stream)

    def _unopened_ended(self, core: CoreStream, error: BusError | None) -> None:
        if (offer := self._offered.pop(core, None)) is not None:
            offer._did_end(error)
            self.offers.discard(offer)
        opened = self._opening.pop(core, None)
        if opened is not None and not opened.done():
            opened.set_exception(error or StreamReset(0, "closed before it was open", peer=core.peer))

    def _unopened(self) -> Iterable[CoreStream]:
        return (*self._opening, *self._offered)

    def _unsent(self) -> Iterable[int]:
        return self._sends

    def _did_fork(self) -> None:
        for reference in self._streams.values():
            if (stream := reference()) is not None:
                stream._did_fork()
