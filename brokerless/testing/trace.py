"""What travels between nodes, in words: one line for each packet, and the last of them kept for whoever asks.

No line shows a payload, metadata or a key: a trace may be pasted into a report.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from brokerless.errors import RemoteProtocolError
from brokerless.protocol import handshake, wire
from brokerless.protocol.datagram import PREFIX, Answer, Fragment, decode_plain, header, unframe_udp

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Iterator

FRAMES_KEPT = 200
"""Of each log: what led to a failure mostly lies within. At their largest they hold 14 MiB."""

SHOWN_BYTES = wire.PACKET_HEADER_BYTES
"""Of what is malformed: no more, since an application's bytes may follow."""

Direction: TypeAlias = Literal["->", "<-"]


def describe(packet: bytes) -> str:
    """Return one line for a HELLO, a REFUSE, a packet with its frames, or a sealed datagram.

    Never raises: of what is none of these it says why.
    """
    try:
        if packet.startswith(handshake.MAGIC):
            return _handshake(handshake.decode(packet))
        sealed = unframe_udp(packet) if packet.startswith(PREFIX) else packet
        if sealed is not None and (head := header(sealed)) is not None:
            return f"datagram {head[1]} under {head[0]:016x}, {_bytes(packet)}"
        number, acknowledged, frames = wire.decode_packet(packet)
    except RemoteProtocolError as error:
        return f"malformed ({error}): {packet[:SHOWN_BYTES].hex(' ')}, {_bytes(packet)}"
    words = (_WORDS[type(frame)](frame) for frame in frames)
    return " | ".join((f"#{number or '-'} ack {acknowledged}", *words))


def describe_plain(plain: bytes) -> str:
    """Return one line for what an opened datagram holds. Never raises."""
    try:
        _, item = decode_plain(plain)
    except RemoteProtocolError as error:
        return f"malformed ({error})"
    if isinstance(item, Fragment):
        lane = f"stream {item.stream_id}" if item.stream_id else f"channel {item.channel}"
        piece = "" if item.fragments == 1 else f", fragment {item.fragment + 1} of {item.fragments}"
        return f"{item.kind.name} {item.number} of {lane}{piece}, {_bytes(item.payload)}"
    if isinstance(item, Answer):
        return f"ANSWER {item.token}: {item.received} of {item.highest} came"
    return f"PROBE {item.token}"


class Passage(NamedTuple):
    """One packet that a node sent (``->``) or got (``<-``)."""

    at: float
    node: str
    direction: Direction
    peer: str
    packet: bytes

    def __str__(self) -> str:
        return f"{self.at:11.4f}  {self.node} {self.direction} {self.peer}  {describe(self.packet)}"


class FrameLog:
    """The last packets of one node or of several, put into words only when somebody reads them.

    ``at`` is in seconds, of whatever clock the nodes go by.
    """

    def __init__(self, capacity: int = FRAMES_KEPT) -> None:
        self._passages: deque[Passage] = deque(maxlen=capacity)
        self.forgotten = 0
        """How many gave way to later ones."""

    def __len__(self) -> int:
        return len(self._passages)

    def __iter__(self) -> Iterator[Passage]:
        return iter(tuple(self._passages))

    def __str__(self) -> str:
        lines = [str(passage) for passage in self]
        if self.forgotten:
            lines.insert(0, f"… {self.forgotten} before these")
        return "\n".join(lines)

    def record(self, at: float, node: str, direction: Direction, peer: str, packet: bytes) -> None:
        """Note a packet. The bytes are kept as they are."""
        self.forgotten += len(self._passages) == self._passages.maxlen
        self._passages.append(Passage(at, node, direction, peer, packet))

    def clear(self) -> None:
        """Forget everything."""
        self._passages.clear()
        self.forgotten = 0


def _handshake(said: handshake.Hello | handshake.Refuse) -> str:
    versions = ", ".join(map(str, said.versions)) or "none"
    if isinstance(said, handshake.Hello):
        return f"HELLO, versions {versions}"
    return f"REFUSE {_code(handshake.Refusal, said.code)} {said.reason!r}, versions {versions}"


def _info(frame: wire.Info) -> str:
    theirs = f"{frame.their_boot:x}/{frame.their_epoch}" if frame.their_boot else "unknown"
    datagrams = f"under {frame.datagram_index:016x}" if frame.datagram_index else "none"
    return (
        f"INFO {frame.boot:x}/{frame.epoch} to {theirs}: {frame.name!r}, received {frame.received}, "
        f"liveness {frame.liveness_ms} ms, datagrams {datagrams}"
    )


def _data(frame: wire.Data) -> str:
    last = frame.first_sequence + len(frame.messages) - 1
    numbers = f"{last}" if last == frame.first_sequence else f"{frame.first_sequence}-{last}"
    return f"DATA {_lane(frame)}: {numbers}, {sum(map(len, frame.messages))} bytes"


def _chunk(frame: wire.Chunk) -> str:
    end = frame.offset + len(frame.payload)
    return f"CHUNK {_lane(frame)}: {frame.sequence}, bytes {frame.offset}-{end} of {frame.total}"


def _lane(frame: wire.Data | wire.Chunk) -> str:
    return f"{frame.stream_id}" if frame.stream_id else f"0 (channel {frame.channel})"


def _code(names: type[enum.IntEnum], code: int) -> str:
    return names(code).name if code in set(names) else f"{code}"


def _bytes(data: bytes) -> str:
    return f"{len(data)} bytes"


_WORDS: dict[type, Callable[[Any], str]] = {
    wire.Open: lambda f: (
        f"OPEN {f.stream_id} {wire.RELIABILITIES[f.reliability]} {f.name!r}, credit {f.credit}"
    ),
    wire.Accept: lambda f: f"ACCEPT {f.stream_id}, credit {f.credit}",
    wire.Reject: lambda f: f"REJECT {f.stream_id}: {f.code:#x} {f.reason!r}",
    wire.Grant: lambda f: f"GRANT {f.stream_id}: to {f.limit}, consumed {f.consumed}",
    wire.Blocked: lambda f: f"BLOCKED {f.stream_id}: needs {f.limit}",
    wire.Finish: lambda f: f"FINISH {f.stream_id} at {f.last_sequence}",
    wire.Close: lambda f: f"CLOSE {f.stream_id}, consumed {f.last_consumed}",
    wire.Reset: lambda f: f"RESET {f.stream_id}: {f.code:#x} {f.reason!r}, consumed {f.last_consumed}",
    wire.Ping: lambda f: f"PING {f.token}, sent {f.sent}",
    wire.Pong: lambda f: f"PONG {f.token}",
    wire.Goodbye: lambda f: f"GOODBYE {_code(wire.Farewell, f.code)} {f.reason!r}",
    wire.Probed: lambda f: f"PROBED {f.token}: {f.received} of {f.highest} came",
    wire.Met: lambda f: f"MET {f.address.hex()[:8]} at {f.places!r}",
    wire.Info: _info,
    wire.Data: _data,
    wire.Chunk: _chunk,
}
