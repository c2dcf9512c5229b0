"""What every face does with its node: start it, close it, sort its events, and leave nobody waiting."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from brokerless import (
    BusClosed,
    DeliveryUnknown,
    MessageReceived,
    PeerChanged,
    PeerState,
    SendDone,
    StreamAcknowledged,
    StreamEnded,
    StreamFinishedReceiving,
    StreamMessages,
    StreamOffered,
    StreamOpened,
    StreamReady,
    UnknownPeer,
    UnreliableWaiting,
)
from dittobus import _node
from dittobus.peers import PeerTable

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Iterable, Sequence

    from brokerless import Address, BusError, Event, Limits, Message, Node, NodeConfig, PeerStats, Unread
    from brokerless import Stream as CoreStream
    from dittobus.peers import PeerEvent

_log = logging.getLogger("dittobus")


class FaceStream(Protocol):
    """A stream of a face: what it is told of."""

    def _did_get_ready(self) -> None: ...
    def _did_receive(self, messages: list[bytes]) -> None: ...
    def _did_receive_unreliable(self) -> None: ...
    def _did_acknowledge(self, sequence: int) -> None: ...
    def _did_finish_receiving(self) -> None: ...
    def _did_end(self, error: BusError | None) -> None: ...


UNWOUND = "an exception ended it there"
"""Why a stream is reset that its program's ``with``, or handler, was left by an exception."""


def let_go(core: CoreStream) -> None:
    """Abort a stream that nobody has, or will have; the other side learns that this is why."""
    core.abort(reason="the program there let go of it without closing it")


StreamT = TypeVar("StreamT", bound=FaceStream)
OpeningT = TypeVar("OpeningT")


class Exchange(ABC, Generic[StreamT, OpeningT]):
    """Between a node and a face, on the node's loop."""

    node: Node

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.table = PeerTable()
        self.is_over = False
        self._streams: dict[CoreStream, weakref.ref[StreamT]] = {}
        self._opening: dict[CoreStream, OpeningT] = {}
        self._handlers: dict[type, Callable[[Any], None]] = {
            MessageReceived: self._message_received,
            SendDone: self._send_done,
            StreamOffered: self._stream_offered,
            StreamOpened: self._stream_opened,
            StreamReady: self._stream_ready,
            StreamMessages: self._stream_messages,
            StreamAcknowledged: self._stream_acknowledged,
            StreamFinishedReceiving: self._stream_finished,
            StreamEnded: self._stream_ended,
            UnreliableWaiting: self._unreliable_waiting,
        }

    # Life

    async def start(self, config: NodeConfig) -> None:
        """Make the node and start it. Raises what it raises."""
        self.table.own_name = config.name
        self.node = _node.make_node(config, self._on_events)
        self.node.on_closed = self._node_closed
        try:
            await self.node.start()
        except BaseException:
            await self.node.close(timeout=0)  # lets go of the identity
            raise

    async def shut_down(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - time to drain, no limit
        """Close the node, and bring everything that is pending to its end."""
        for core in tuple(self._opening):  # nothing has been sent on these, so there is nothing to wait for
            self._unopened_ended(core, self.closed_error())
            self.abandon(core)
        try:
            return await self._close_node(timeout)
        finally:
            self._fail_rest()

    def closed_error(self) -> BusClosed:
        """Return why nothing more can be done."""
        error = BusClosed("the bus is closed")
        error.__cause__ = self.node.failure
        return error

    def announce(self, name: str, metadata: bytes) -> None:
        """Let peers see another name or other metadata."""
        self.node.name = self.table.own_name = name
        self.node.metadata = metadata

    def want_known(self) -> None:
        """Somebody waits for a peer: dial those it may be if they are only known, as in a large mesh."""
        self._want_known(self.table.awaited())

    def _want_known(self, awaited: frozenset[Address] | None) -> None:
        for peer in self.node.peers:
            if peer.state is PeerState.KNOWN and (awaited is None or peer.address in awaited):
                self._want(peer.address)

    def _want(self, address: Address) -> None:
        with contextlib.suppress(BusClosed):  # about to close: the wait is about to fail, too
            self.node.want(address)

    def _want_newly_known(self, event: PeerEvent) -> None:
        if isinstance(event, PeerChanged) and event.peer.state is PeerState.KNOWN:
            awaited = self.table.awaited()
            if awaited is None or event.peer.address in awaited:
                self._want(event.peer.address)

    def abandon(self, core: CoreStream) -> None:
        """Abort a stream that nobody has, or will have."""
        let_go(core)

    async def _close_node(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - time to drain, no limit
        return await self.node.close(timeout)

    def _node_closed(self) -> None:
        """The node had to close by itself."""
        self._fail_rest()

    def _fail_rest(self) -> None:
        """Let nobody wait for what will not come any more."""
        self.is_over = True
        closed = self.closed_error()
        for stream in {*self._streams, *self._unopened()}:
            self._stream_ended(StreamEnded(stream, closed))
        for send_id in tuple(self._unsent()):
            unknown = DeliveryUnknown("the bus was closed before the acknowledgement came")
            unknown.__cause__ = closed
            self._send_done(SendDone(send_id, unknown))
        self.table.close(closed)

    # Queries

    def peer_stats(self, address: Address) -> PeerStats:
        """Return the counters of the conversation with that peer. Raises ``UnknownPeer``."""
        stats = self.node.peer_stats(address)
        if stats is None:
            raise UnknownPeer(f"there is no conversation with {address.short}", peer=address)
        return stats

    # Events

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            try:
                handler = self._handlers.get(type(event))
                if handler is None:
                    self._peer_changed(event)  # type: ignore[arg-type]  # the three kinds that are left
                    self._want_newly_known(event)  # type: ignore[arg-type]
                else:
                    self._before_event()
                    handler(event)
            except Exception:  # a defect of ours, which must not take the other events along
                _log.exception("an event was not handled")
        self._before_event()

    def _stream(self, core: CoreStream) -> StreamT | None:
        reference = self._streams.get(core)
        return None if reference is None else reference()

    def _stream_ready(self, event: StreamReady) -> None:
        if (stream := self._stream(event.stream)) is not None:
            stream._did_get_ready()

    def _stream_messages(self, event: StreamMessages) -> None:
        if (stream := self._stream(event.stream)) is not None:
            stream._did_receive(event.messages)

    def _stream_acknowledged(self, event: StreamAcknowledged) -> None:
        if (stream := self._stream(event.stream)) is not None:
            stream._did_acknowledge(event.sequence)

    def _stream_finished(self, event: StreamFinishedReceiving) -> None:
        if (stream := self._stream(event.stream)) is not None:
            stream._did_finish_receiving()

    def _stream_ended(self, event: StreamEnded) -> None:
        self._unopened_ended(event.stream, event.error)
        if (stream := self._stream(event.stream)) is not None:
            stream._did_end(event.error)
        self._streams.pop(event.stream, None)

    def _unreliable_waiting(self, event: UnreliableWaiting) -> None:
        if event.stream is None:
            self._messages_waiting(event.unread)
        elif (stream := self._stream(event.stream)) is not None:
            stream._did_receive_unreliable()

    # What each face does in its own way

    def _before_event(self) -> None:
        """Called before each event that is no change of peers, and after the last of a turn."""

    @abstractmethod
    def _peer_changed(self, event: PeerEvent) -> None: ...

    @abstractmethod
    def _message_received(self, event: MessageReceived) -> None: ...

    @abstractmethod
    def _messages_waiting(self, unread: Unread[Message]) -> None:
        """Unreliable messages wait there, until somebody takes them."""

    @abstractmethod
    def _send_done(self, event: SendDone) -> None: ...

    @abstractmethod
    def _stream_offered(self, event: StreamOffered) -> None: ...

    @abstractmethod
    def _stream_opened(self, event: StreamOpened) -> None: ...

    @abstractmethod
    def _unopened_ended(self, core: CoreStream, error: BusError | None) -> None:
        """An offered stream, or one whose opening is awaited, has ended; or neither of them."""

    @abstractmethod
    def _unopened(self) -> Iterable[CoreStream]:
        """Return the streams that are offered, or whose opening is awaited."""

    @abstractmethod
    def _unsent(self) -> Iterable[int]:
        """Return the sends whose end is awaited."""
