"""One stream between two peers: what a session talks to, and what a face hands to its user.

The tables in ``stream_state`` say what may happen when. Here are the handshake, the sending half and the end;
``receiver`` is the other half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokerless.errors import (
    BusClosed,
    BusError,
    ConfigError,
    MessageTooLarge,
    OpenTimeout,
    SendQueueFull,
    StreamClosed,
    StreamFinished,
    StreamRejected,
    StreamReset,
    UsageError,
)
from brokerless.model import (
    Reliability,
    StreamAcknowledged,
    StreamEnded,
    StreamOpened,
    StreamReady,
    StreamStats,
)
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.outbound import Outbound, QueueSpace
from brokerless.protocol.receiver import Receiver
from brokerless.protocol.stream_state import (
    CLOSE_TIMEOUT,
    HANDSHAKE,
    OPEN_TIMEOUT,
    SENDING,
    TOO_LARGE,
    UNTAKEN,
    Receiving,
    Sending,
    StreamState,
    step,
    violation,
)

if TYPE_CHECKING:
    from brokerless.address import Address
    from brokerless.protocol.stream_host import StreamHost

# Before Python 3.12 it takes 80 ns to look up a member of an enumeration: too much where every run passes.
_OPEN = StreamState.OPEN
_MAY_SEND = frozenset({StreamState.OFFERING, StreamState.OPEN})
_FINISH_DUE = frozenset({Sending.FINISHING, Sending.STOPPED})

REASON_BYTES_MAX = 1024
"""What a reject or reset may say in words, in UTF-8: the wire's bound."""


class Stream:
    """One stream, either end.

    *Queries*: the properties, ``stats``, ``next_deadline``. *Commands*: ``send``, ``consume``, ``accept``,
    ``reject``, ``finish``, ``close``, ``abort``, ``want_ready``. *Inputs*: ``on_…``, ``acknowledged``,
    ``grant_oversized``, ``expire``, ``session_ended``. *Output*: ``next_frame``.

    After the end commands do nothing, except that ``send`` and ``accept`` raise what ended it; inputs are
    ignored.
    """

    __slots__ = (
        "__weakref__",
        "_close_deadline",
        "_host",
        "_open_deadline",
        "_out",
        "_receipts",
        "_receiver",
        "_send_error",
        "_send_gate",
        "_sending",
        "_size_max",
        "_space",
        "_their_consumed",
        "_want_ready",
        "acknowledged_sequence",
        "has_output",
        "id",
        "metadata",
        "name",
        "reliability",
        "reply_metadata",
        "state",
    )

    def __init__(
        self,
        host: StreamHost,
        stream_id: int,
        opener: bool,
        reliability: Reliability,
        name: str,
        metadata: bytes,
        *,
        send_limit: int,
        receive_window: int,
        deadline: float | None,
    ) -> None:
        self._host = host
        self.id = stream_id
        self.reliability = reliability
        self.name = name
        self.metadata = metadata
        self.reply_metadata = b""
        self.state = StreamState.OFFERING if opener else StreamState.OFFERED
        self.has_output = False
        self.acknowledged_sequence = 0  # as told; nothing is before the stream is accepted
        self._sending = Sending.SENDING
        self._receiver = Receiver(host, self, receive_window)
        self._out = Outbound(stream_id, send_limit)
        self._receipts = 0
        self._their_consumed = 0
        self._want_ready = False
        self._open_deadline = deadline
        self._close_deadline: float | None = None
        self._send_error: BusError | None = None  # what send raises; after the end, what ended it
        self._size_max = host.message_bytes_max
        self._space = QueueSpace(host)
        self._send_gate = self._space.size if opener else -1  # -1: nothing is taken

    def __repr__(self) -> str:
        return f"<Stream {self.id} {self.name!r} with {self.peer.short}, {self.state}>"

    # Queries

    @property
    def peer(self) -> Address:
        """Who is at the other end."""
        return self._host.remote

    @property
    def is_over(self) -> bool:
        """Whether ``StreamEnded`` has been told."""
        return self.state is StreamState.ENDED

    @property
    def is_drained(self) -> bool:
        """Once it has been left: whether it has nothing to wait for but acknowledgements."""
        return self.is_over or (self._sending is Sending.SENDING and not self._out.queued_cost)

    @property
    def consumed_sequence(self) -> int:
        """Last message that our application is done with."""
        return self._receiver.consumed_sequence

    @property
    def last_sequence(self) -> int:
        """Last message that ``send`` took."""
        return self._out.last_sequence

    @property
    def sent_sequence(self) -> int:
        """Last message that has left the send queue completely."""
        return self._out.sent_sequence

    @property
    def room(self) -> int:
        """Bytes that a message may have to be taken now; 0: wait for ``StreamReady``.

        The queue grows for whoever sends more, or asks for ``make_room``, while the peer's memory lasts.
        """
        if self._send_gate < 0:
            return 0
        if not self._out.queued_cost:
            return self._size_max
        return max(0, min(self._size_max, self._send_gate - self._out.queued_cost - MESSAGE_COST_BYTES))

    @property
    def send_error(self) -> BusError | None:
        """What ``send`` raises for any message; None while it takes messages."""
        return None if self._send_error is None else again(self._send_error)

    def stats(self) -> StreamStats:
        """Return the counters."""
        out, arrivals, unconsumed = self._out, self._receiver.arrivals, self._receiver.unconsumed
        return StreamStats(
            messages_sent=out.sent_sequence,
            bytes_sent=out.sent_cost - out.sent_sequence * MESSAGE_COST_BYTES,
            messages_received=arrivals.received,
            bytes_received=arrivals.received_cost - arrivals.received * MESSAGE_COST_BYTES,
            send_queue_messages=out.queued_messages,
            send_queue_bytes=out.queued_cost - out.queued_messages * MESSAGE_COST_BYTES,
            send_credit_bytes=out.credit.remaining,
            unconsumed_messages=unconsumed.messages,
            unconsumed_bytes=unconsumed.cost - unconsumed.messages * MESSAGE_COST_BYTES,
        )

    def next_deadline(self) -> float | None:
        """Return when ``expire`` has something to do."""
        deadlines = (self._open_deadline, self._close_deadline)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # Commands

    def send(self, data: bytes) -> int:
        """Queue one message; return its sequence number."""
        out = self._out
        size = len(data)
        queued = out.queued_cost
        queued_now = queued + size + MESSAGE_COST_BYTES
        if queued_now > self._send_gate or size > self._size_max or type(data) is not bytes:
            self._check(data)
        out.queue.append(data)
        out.queued_cost = queued_now
        out.last_sequence = sequence = out.last_sequence + 1
        if not queued:
            self._wake()
        return sequence

    def send_all(self, messages: list[bytes]) -> None:
        """Queue messages that a face has accepted within what ``make_room`` returned it, some time ago.

        They are taken even if memory has run short since: the face cannot take back its word.
        """
        if self._send_gate >= 0:
            self._send_gate = self._host.limits.send_queue_bytes_max
        try:
            for message in messages:
                self.send(message)
        finally:
            self._send_gate = min(self._send_gate, self._space.size)

    def make_room(self, queue_bytes: int) -> int:
        """Have room for a queue of that cost, if memory allows; return for how much there is; -1: none."""
        if self._send_gate >= 0:
            self._send_gate = self._space.make(queue_bytes)
        return self._send_gate

    def want_ready(self) -> None:
        """Ask for one ``StreamReady``: when messages leave the queue, or never will."""
        self._want_ready = True

    def consume(self, count: int) -> None:
        """Say that the application is done with the next ``count`` messages it was given."""
        if self._receiver.consume(count):
            self._end_if_done()

    def accept(self, metadata: bytes = b"") -> None:
        """Take the offered stream."""
        if self.is_over and self._send_error is not None:
            raise again(self._send_error)
        self._require_offered("accept")
        if len(metadata) > self._host.limits.metadata_bytes_max:
            raise ConfigError(f"metadata: at most {self._host.limits.metadata_bytes_max} bytes")
        self.reply_metadata = metadata
        self._host.control(wire.Accept(self.id, metadata, self._receiver.limit))
        self._open("accept")
        self._receiver.open()

    def reject(self, code: int, reason: str = "") -> None:
        """Turn the offered stream down."""
        if self.is_over:
            return
        self._require_offered("reject")
        _check_words(code, reason)
        self._reject(code, reason)

    def finish(self) -> None:
        """Send no more after what is queued."""
        if self.is_over:
            return
        self._require_taken("finish")
        self._sending = step(self, SENDING, self._sending, "finish")
        self._stop_taking(StreamFinished(f"stream {self.id} sends no more", peer=self.peer))
        self._wake()

    def close(self, deadline: float | None = None) -> None:
        """End both directions: drain what is queued until the deadline, take nothing more."""
        if self.is_over:
            return
        if self.state is StreamState.OFFERED:
            self._reject(UNTAKEN, "closed before it was taken")
            return
        self._receiver.close()
        self.finish()
        if deadline is not None and (self._close_deadline is None or deadline < self._close_deadline):
            self._close_deadline = deadline
            self._host.deadline_changed(self)
        self._end_if_done()

    def leave(self, deadline: float | None) -> None:
        """The node is being closed: as ``close`` if the application has said that it sends no more.

        Otherwise what is queued is still sent, until ``is_drained``, but not that this was all. So the other
        end gets it, and then ``PeerLost``: no clean end, for nobody here has made one.
        """
        if self._sending is not Sending.SENDING or self.state is StreamState.OFFERED:
            self.close(deadline)
            return
        self._receiver.close()
        self._stop_taking(BusClosed("the bus was closed", peer=self.peer))

    def abort(self, code: int = 0, reason: str = "") -> None:
        """Drop everything now."""
        if self.is_over:
            return
        _check_words(code, reason)
        self._reset(code, reason, StreamReset(code, reason, peer=self.peer))

    # Inputs

    def established(self, send_limit: int) -> None:
        """The other side's limits are known: a stream may be opened, and sent on, before they are."""
        self._size_max = self._host.message_bytes_max
        if max(map(len, self._out.queue), default=0) > self._size_max:
            text = f"a message above the {self._size_max} bytes that the other side takes was queued"
            self._reset(TOO_LARGE, text, MessageTooLarge(text, peer=self.peer))
            return
        self._out.credit.raise_to(send_limit)
        self._wake()

    def on_accept(self, frame: wire.Accept) -> None:
        """Take the other side's answer: yes."""
        if self._arrive("ACCEPT"):
            self.reply_metadata = frame.metadata
            self._out.credit.raise_to(frame.credit)
            self._open("ACCEPT")
            self._receiver.open()
            self._tell_receipts()

    def on_reject(self, frame: wire.Reject) -> None:
        """Take the other side's answer: no."""
        if self._arrive("REJECT"):
            self._end(StreamRejected(frame.code, frame.reason, peer=self.peer))

    def on_data(self, frame: wire.Data) -> None:
        """Take a run of messages."""
        if self._arrive("DATA"):
            self._receiver.data(frame)

    def on_chunk(self, frame: wire.Chunk) -> None:
        """Take a chunk of a large message."""
        if self._arrive("DATA"):
            self._receiver.chunk(frame)

    def on_grant(self, frame: wire.Grant) -> None:
        """Take credit."""
        if self._arrive("GRANT"):
            self._sending = step(self, SENDING, self._sending, "GRANT")
            self._note_consumed("GRANT", frame.consumed)
            self._out.credit.raise_to(frame.limit)
            self._wake()

    def on_blocked(self, frame: wire.Blocked) -> None:
        """Take note of a message that waits for credit."""
        if self._arrive("BLOCKED"):
            self._receiver.blocked(frame)

    def on_finish(self, frame: wire.Finish) -> None:
        """Take note that the other end sends no more."""
        if self._arrive("FINISH"):
            self._receiver.finish(frame)
            self._end_if_done()

    def on_close(self, frame: wire.Close) -> None:
        """Take note that the other application consumes no more."""
        if self._arrive("CLOSE"):
            following = step(self, SENDING, self._sending, "CLOSE")
            self._note_consumed("CLOSE", frame.last_consumed)
            self._sending = following
            if self._sending is Sending.STOPPED:
                self._stop_taking(StreamClosed(self._their_consumed, peer=self.peer))
                self._out.drop()
                self._space.give_back()
                self._tell_ready()
                self._wake()
            self._end_if_done()

    def on_reset(self, frame: wire.Reset) -> None:
        """Take the other side's word that the stream is gone."""
        if self._arrive("RESET"):
            self._note_consumed("RESET", frame.last_consumed)
            if frame.code == CLOSE_TIMEOUT:
                hint = "its close ran out of time before this end had consumed all"
                self._end(StreamClosed(self._their_consumed, peer=self.peer, hint=hint))
            else:
                self._end(StreamReset(frame.code, frame.reason, peer=self.peer))

    def acknowledged(self, sequence: int) -> None:
        """Take note that the other bus has all messages up to this one."""
        self._receipts = max(self._receipts, min(sequence, self._out.sent_sequence))
        if self.state is _OPEN:
            self._tell_receipts()

    def grant_oversized(self) -> bool:
        """Grant the message that is larger than the window; False: the budget does not allow it now."""
        return self._receiver.grant_oversized()

    def expire(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        if self._open_deadline is not None and self._open_deadline <= now:
            if self.state is StreamState.OFFERED:
                self._reject(UNTAKEN, "nobody took it in time")
            else:
                text, hint = "not accepted in time", "the program there has to accept it"
                late = OpenTimeout(f"stream {self.name!r} {text}", peer=self.peer, hint=hint)
                self._reset(OPEN_TIMEOUT, text, late)
        elif self._close_deadline is not None and self._close_deadline <= now:
            hint = "close ran out of time: before it wait for an answer, or give it a longer timeout"
            error = StreamClosed(self._their_consumed, peer=self.peer, hint=hint)
            self._reset(CLOSE_TIMEOUT, "not drained in time", error)

    def session_ended(self, error: BusError) -> None:
        """End with the session: well if all is said but how much the other end would have sent."""
        self._end_if_done(receiving=Receiving.DISCARDING)
        if not self.is_over:
            self._end(error)

    # Output

    def next_frame(self, room: int) -> tuple[bytes, int] | None:
        """Return one frame of at most ``room`` bytes and the last message that has left whole by now.

        None: nothing may be sent now. ``room`` is at least ``ROOM_BYTES_MIN``, so that there is always one
        while ``has_output`` is true.
        """
        if not self.has_output:
            return None
        out = self._out
        if out.queued_cost:
            sent = out.sent_sequence
            frame = out.next_frame(room)
            if not out.queued_cost:
                self._space.give_back()
                self._send_gate = min(self._send_gate, self._space.size)
            if out.sent_sequence > sent:
                self._tell_ready()
        else:
            frame = self._finish_frame()
        self._settle()
        return None if frame is None else (frame, out.sent_sequence)

    # The rest is private. First the sending half.

    def _finish_frame(self) -> bytes:
        frame = wire.encode_control(wire.Finish(self.id, self._out.sent_sequence))
        self._sending = step(self, SENDING, self._sending, "finish sent")
        self._end_if_done()
        return frame

    def _settle(self) -> None:
        """See whether there is something that may leave; if credit is all that lacks, say so."""
        out = self._out
        if out.is_cutting:
            self.has_output = True
        elif not out.queue:
            self.has_output = self._sending in _FINISH_DUE
        else:
            self.has_output = out.head_cost <= out.credit.remaining
            if not self.has_output:
                needed = out.credit.announce(out.head_cost)
                if needed is not None:
                    self._host.control(wire.Blocked(self.id, needed))

    def _wake(self) -> None:
        if not self.has_output and self.state in _MAY_SEND:
            self._settle()
            if self.has_output:
                self._host.schedule(self)

    def _check(self, data: bytes) -> None:
        """Let a message through that is not plainly welcome, or raise."""
        if type(data) is not bytes:
            raise TypeError(f"a message is bytes, not {type(data).__name__}")
        if self.state is StreamState.OFFERED:
            self._require_taken("send")
        error = self.send_error
        if error is not None:
            raise error
        if len(data) > self._size_max:
            raise MessageTooLarge(f"a message of {len(data)} bytes, at most {self._size_max}", peer=self.peer)
        needed = self._out.queued_cost + len(data) + MESSAGE_COST_BYTES
        if self._out.queued_cost and self.make_room(needed) < needed:
            self._want_ready = True
            raise SendQueueFull(f"stream {self.id} has {self._out.queued_messages} queued", peer=self.peer)

    def _stop_taking(self, error: BusError) -> None:
        self._send_gate = -1
        if self._send_error is None:
            self._send_error = error

    def _tell_ready(self) -> None:
        if self._want_ready:
            self._want_ready = False
            self._host.emit(StreamReady(self))

    def _tell_receipts(self) -> None:
        if self._receipts > self.acknowledged_sequence:
            self.acknowledged_sequence = self._receipts
            self._host.emit(StreamAcknowledged(self, self._receipts))

    def _note_consumed(self, word: str, sequence: int) -> None:
        if sequence > self._out.sent_sequence:
            raise violation(self, f"{word}: consumed up to {sequence} of {self._out.sent_sequence}")
        self._their_consumed = max(self._their_consumed, sequence)

    # The handshake and the end.

    def _arrive(self, word: str) -> bool:
        """Whether a frame is to be looked at. Raises ``RemoteProtocolError`` if it cannot come now."""
        if word in HANDSHAKE[self.state]:
            return True
        if self.is_over:
            return False
        raise violation(self, f"{word} while {self.state}")

    def _require_offered(self, command: str) -> None:
        if self.state is not StreamState.OFFERED:
            raise UsageError(f"{command}: stream {self.id} is no offer", peer=self.peer)

    def _require_taken(self, command: str) -> None:
        if self.state is StreamState.OFFERED:
            raise UsageError(f"{command}: stream {self.id} is not accepted", peer=self.peer)

    def _open(self, word: str) -> None:
        self.state = step(self, HANDSHAKE, self.state, word)
        if self._send_error is None:
            self._send_gate = self._space.size
        self._open_deadline = None
        self._host.deadline_changed(self)
        self._host.emit(StreamOpened(self))
        self._wake()

    def _reject(self, code: int, reason: str) -> None:
        self._host.control(wire.Reject(self.id, code, reason))
        self._end(StreamRejected(code, reason, peer=self.peer))

    def _reset(self, code: int, reason: str, error: BusError) -> None:
        self._host.control(wire.Reset(self.id, code, reason, self.consumed_sequence))
        self._end(error)

    def _end_if_done(self, receiving: Receiving = Receiving.DONE) -> None:
        if self._sending is Sending.DONE and self._receiver.state is receiving and not self.is_over:
            complete = self._their_consumed == self._out.last_sequence
            self._end(None if complete else StreamClosed(self._their_consumed, peer=self.peer))

    def _end(self, error: BusError | None) -> None:
        self.state = StreamState.ENDED
        self.has_output = False
        self._sending = Sending.DONE
        self._send_gate = -1
        self._open_deadline = self._close_deadline = None
        self._send_error = error or self._send_error
        self._out.drop()
        self._receiver.end()
        self._space.give_back()
        self._host.emit(StreamEnded(self, error))
        self._host.retire(self)


def again(error: BusError) -> BusError:
    """Return a fresh exception of the same content: one that is raised twice would grow its traceback."""
    fresh = type(error).__new__(type(error))
    fresh.args = error.args
    fresh.__dict__.update(error.__dict__)
    fresh.__cause__ = error.__cause__
    return fresh


def _check_words(code: int, reason: str) -> None:
    if not 0 <= code < wire.BUS_CODE_MIN:
        raise ConfigError(f"code: expected 0 to {wire.BUS_CODE_MIN - 1}, got {code}")
    if len(reason.encode()) > REASON_BYTES_MAX:
        raise ConfigError(f"reason: at most {REASON_BYTES_MAX} bytes")
