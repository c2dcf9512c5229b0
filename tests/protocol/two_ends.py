"""Both ends of a session with nothing but its streams: frames are encoded, carried in order, and decoded.

Each ``End`` is a strict ``StreamHost``: it fails when a stream asks for what it may not. Packets wait in
``Ends`` until somebody delivers them, so a test decides how late each side hears.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.model import Offer, Reliability, StreamEnded, StreamMessages, StreamOffered
from brokerless.protocol import wire
from brokerless.protocol.outbound import ROOM_BYTES_MIN
from brokerless.protocol.singles import Singles
from brokerless.protocol.stream import Stream

if TYPE_CHECKING:
    from brokerless.errors import BusError
    from brokerless.model import Event
    from brokerless.protocol.stream_host import Lane

ROOM_BYTES = wire.RUN_BYTES_MAX + wire.CHUNK_OVERHEAD_BYTES
"""Of a packet, for data."""

SMALL = Limits(
    message_bytes_max=20_000,
    stream_window_bytes=8 * 1024,
    stream_window_initial_bytes=2 * 1024,
    send_queue_bytes_max=10_000,
    peer_memory_bytes_max=40_000,
)
"""Small enough that a few messages meet every limit."""


@dataclass
class Packet:
    """Frames under way, and what is acknowledged once they have arrived."""

    frames: bytes
    receipts: list[tuple[int, int]] = field(default_factory=list)


class End:
    """One side: the session as its streams see it."""

    def __init__(self, key: int, remote_key: int, limits: Limits) -> None:
        self.address = Address(bytes([key]) * 32)
        self.remote = Address(bytes([remote_key]) * 32)
        self.limits = limits
        self.message_bytes_max = limits.message_bytes_max
        self.now = 0.0
        self.events: list[Event] = []
        self.lanes: dict[int, Lane] = {}
        self.retired: set[int] = set()
        self.reserved = 0
        self.active: deque[Lane] = deque()
        self.controls: list[wire.Control] = []
        self.oversized: deque[Lane] = deque()
        self.turn: Lane | None = None
        self.deadlines_changed: list[int] = []
        self.singles = Singles(self)
        self.lanes[0] = self.singles

    # What lanes ask of their host

    def schedule(self, stream: Lane) -> None:
        assert stream.has_output
        assert stream not in self.active, "scheduled twice"
        self.active.append(stream)

    def control(self, frame: wire.Control) -> None:
        self.controls.append(frame)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def retire(self, stream: Stream) -> None:
        assert self.lanes.pop(stream.id) is stream
        assert stream not in self.oversized
        assert stream is not self.turn
        self.retired.add(stream.id)

    def reserve(self, byte_count: int) -> bool:
        assert byte_count > 0
        if self.reserved + byte_count > self.limits.peer_memory_bytes_max:
            return False
        self.reserved += byte_count
        return True

    def release(self, byte_count: int) -> None:
        assert 0 < byte_count <= self.reserved
        self.reserved -= byte_count
        self.take_turns()

    def want_oversized(self, stream: Lane) -> None:
        assert stream is not self.turn
        if stream not in self.oversized:
            self.oversized.append(stream)
        self.take_turns()

    def oversized_done(self, stream: Lane) -> None:
        if stream is self.turn:
            self.turn = None
        else:
            self.oversized.remove(stream)
        self.take_turns()

    def take_turns(self) -> None:
        if self.turn is None and self.oversized and self.oversized[0].grant_oversized():
            self.turn = self.oversized.popleft()

    def deadline_changed(self, stream: Lane) -> None:
        self.deadlines_changed.append(stream.id)

    # What a session does with them

    def open(
        self,
        stream_id: int = 2,
        name: str = "",
        metadata: bytes = b"",
        *,
        send_limit: int | None = None,
        deadline: float | None = None,
    ) -> Stream:
        window = self.limits.stream_window_initial_bytes
        stream = Stream(
            self,
            stream_id,
            opener=True,
            reliability=Reliability.RELIABLE,
            name=name,
            metadata=metadata,
            send_limit=window if send_limit is None else send_limit,
            receive_window=window,
            deadline=deadline,
        )
        self.lanes[stream_id] = stream
        self.control(wire.Open(stream_id, 0, name, metadata, window))
        return stream

    def packet(self, room: int = ROOM_BYTES) -> Packet | None:
        """Return the next packet: control first, then the active lanes in turn."""
        frames = [wire.encode_control(frame) for frame in self.controls]
        self.controls.clear()
        receipts = []
        while self.active and room >= ROOM_BYTES_MIN and not self.controls:
            lane = self.active.popleft()
            output = lane.next_frame(room)
            if output is not None:
                assert len(output[0]) <= room
                frames.append(output[0])
                receipts.append((lane.id, output[1]))
                room -= len(output[0])
            if lane.has_output:
                assert output is not None, "nothing came, and still something is there"
                self.active.append(lane)
        return Packet(b"".join(frames), receipts) if frames else None

    def receive(self, packet: Packet) -> None:
        for frame in wire.decode_packet(wire.encode_packet(1, 0, [packet.frames])).frames:
            self.dispatch(frame)

    def dispatch(self, frame: wire.Frame) -> None:
        if isinstance(frame, wire.Open):
            self._on_open(frame)
            return
        assert not isinstance(frame, wire.Info | wire.Ping | wire.Pong | wire.Goodbye)
        if frame.stream_id in self.retired:
            return
        lane = self.lanes[frame.stream_id]
        if isinstance(lane, Stream):
            {
                wire.Accept: lane.on_accept,
                wire.Reject: lane.on_reject,
                wire.Data: lane.on_data,
                wire.Chunk: lane.on_chunk,
                wire.Grant: lane.on_grant,
                wire.Blocked: lane.on_blocked,
                wire.Finish: lane.on_finish,
                wire.Close: lane.on_close,
                wire.Reset: lane.on_reset,
            }[type(frame)](frame)  # type: ignore[operator]
        elif isinstance(frame, wire.Data):
            lane.on_data(frame, self.now)
        elif isinstance(frame, wire.Chunk):
            lane.on_chunk(frame, self.now)
        elif isinstance(frame, wire.Grant):
            lane.on_grant(frame)
        else:
            assert isinstance(frame, wire.Blocked)
            lane.on_blocked(frame)

    def _on_open(self, frame: wire.Open) -> None:
        stream = Stream(
            self,
            frame.stream_id,
            opener=False,
            reliability=Reliability(wire.RELIABILITIES[frame.reliability]),
            name=frame.name,
            metadata=frame.metadata,
            send_limit=frame.credit,
            receive_window=self.limits.stream_window_initial_bytes,
            deadline=None,
        )
        self.lanes[stream.id] = stream
        self.emit(StreamOffered(Offer(stream)))

    def acknowledged(self, packet: Packet) -> None:
        for stream_id, sequence in packet.receipts:
            if stream_id in self.lanes:
                self.lanes[stream_id].acknowledged(sequence)

    def expire(self, now: float) -> None:
        self.now = now
        for lane in list(self.lanes.values()):
            deadline = lane.next_deadline()
            if deadline is not None and deadline <= now:
                lane.expire(now)

    def stream(self, stream_id: int) -> Stream:
        lane = self.lanes[stream_id]
        assert isinstance(lane, Stream)
        return lane

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events


def acceptor(end: End, deadline: float | None = None) -> Stream:
    """Return an offered stream that nobody has opened at the other end."""
    window = end.limits.stream_window_initial_bytes
    stream = Stream(
        end,
        2,
        opener=False,
        reliability=Reliability.RELIABLE,
        name="",
        metadata=b"",
        send_limit=window,
        receive_window=window,
        deadline=deadline,
    )
    end.lanes[2] = stream
    return stream


class Ends:
    """Two ends and what is under way between them."""

    def __init__(self, limits: Limits = SMALL, remote_limits: Limits | None = None) -> None:
        self.near = End(1, 2, limits)
        self.far = End(2, 1, remote_limits or limits)
        self.under_way: dict[End, deque[Packet]] = {self.near: deque(), self.far: deque()}
        """By receiver."""

    def other(self, end: End) -> End:
        return self.far if end is self.near else self.near

    def send(self, end: End, room: int = ROOM_BYTES) -> bool:
        """Put the next packet of ``end`` under way; False if it has none."""
        packet = end.packet(room)
        if packet is not None:
            self.under_way[self.other(end)].append(packet)
        return packet is not None

    def deliver(self, end: End) -> bool:
        """Let ``end`` have the oldest packet under way to it, and its sender the receipt."""
        if not self.under_way[end]:
            return False
        packet = self.under_way[end].popleft()
        end.receive(packet)
        self.other(end).acknowledged(packet)
        return True

    def exchange(self, room: int = ROOM_BYTES) -> None:
        """Send and deliver until nothing is left to."""
        ends = (self.near, self.far)
        while any([self.send(end, room) for end in ends] + [self.deliver(end) for end in ends]):
            pass

    def open(self, name: str = "", metadata: bytes = b"", reply: bytes = b"") -> tuple[Stream, Stream]:
        """Return the near and the far end of a fresh stream, accepted, with no event outstanding."""
        near = self.near.open(2, name, metadata)
        self.exchange()
        far = self.far.stream(2)
        far.accept(reply)
        self.exchange()
        self.near.events.clear()
        self.far.events.clear()
        return near, far


def ended(end: End) -> BusError | None:
    """Return how the only stream of ``end`` has ended: once, and last."""
    event = end.events[-1]
    assert isinstance(event, StreamEnded)
    assert sum(isinstance(e, StreamEnded) for e in end.events) == 1
    assert end.retired == {2}
    assert end.reserved == 0
    return event.error


def data_of(events: list[Event]) -> list[bytes]:
    """Return the messages that events told of, in order."""
    return [message for event in events if isinstance(event, StreamMessages) for message in event.messages]


def kinds(end: End) -> list[type]:
    return [type(event) for event in end.events]
