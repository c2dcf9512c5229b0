"""Two sessions, and the links between them: each direction keeps order, and nothing moves unless told to."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.model import MessageReceived, Reliability, StreamMessages, StreamOffered
from brokerless.protocol import wire
from brokerless.protocol.association import Nonce
from brokerless.protocol.budget import Budget
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.session import PHASES, Session
from tests.protocol.datagram_ends import Port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokerless.model import Event
    from brokerless.protocol.stream import Stream

LOWER = Address(b"\x10" * 32)
HIGHER = Address(b"\x90" * 32)


class Side:
    """One session, and what it asked of its node."""

    def __init__(
        self, local: Address, remote: Address, limits: Limits, now: float, plane: DatagramPlane | None = None
    ) -> None:
        self.limits = limits
        self.events: list[Event] = []
        self.woken: set[int] = set()
        self.touches = 0
        self.heard: list[wire.Met] = []
        self.everybody = Budget(limits.memory_bytes_max)
        self.budget = Budget(limits.peer_memory_bytes_max, self.everybody)
        self.session = Session(
            local=local,
            remote=remote,
            nonce=Nonce(local.public_key[0] * PHASES, 1),  # so that its pings go out at whole seconds
            limits=limits,
            budget=self.budget,
            plane=plane or DatagramPlane(),
            emit=self.events.append,
            wake=self.woken.add,
            touch=self._touch,
            now=now,
            hear=lambda frame, now: self.heard.append(frame),
        )
        self._count = 0
        self._consumed = 0  # events

    def _touch(self) -> None:
        self.touches += 1

    def open(
        self,
        name: str = "",
        deadline: float | None = None,
        metadata: bytes = b"",
        reliability: Reliability = Reliability.RELIABLE,
    ) -> Stream:
        return self.session.lanes.open_stream(reliability, name, metadata, deadline)

    def send(self, data: bytes, deadline: float | None = None, channel: int = 0) -> int:
        self._count += 1
        self.session.lanes.singles.send(channel, data, self._count, deadline)
        return self._count

    def consume(self) -> None:
        """Let the application be done with everything it has."""
        for stream in self.session.streams.values():
            stream.consume(stream.stats().unconsumed_messages)
        for event in self.events[self._consumed :]:
            if isinstance(event, MessageReceived):
                event.message.origin.consume(1, len(event.message.data))
        self._consumed = len(self.events)

    def of_type(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def offered(self) -> list[Stream]:
        return [event.offer.stream for event in self.of_type(StreamOffered)]

    @property
    def singles(self) -> list[bytes]:
        return [event.message.data for event in self.of_type(MessageReceived)]

    def received(self, stream: Stream) -> list[bytes]:
        events = [event for event in self.of_type(StreamMessages) if event.stream is stream]
        return [message for event in events for message in event.messages]


class Talk:
    """``near`` has the lower address. Every packet that was given to a link is in ``sent``."""

    def __init__(
        self,
        near: Limits | None = None,
        far: Limits | None = None,
        *,
        established: bool = True,
        links: int = 1,
        has_datagrams: bool = False,
    ) -> None:
        self.now = 100.0
        self.ports = (Port(1), Port(2)) if has_datagrams else ()
        planes = [DatagramPlane(port) for port in self.ports] or [None, None]
        for port, plane in zip(self.ports, planes, strict=False):
            plane.udp_places = str(port.place)
        self.near = Side(LOWER, HIGHER, near or Limits(), self.now, planes[0])
        self.far = Side(HIGHER, LOWER, far or near or Limits(), self.now, planes[1])
        self.links: dict[int, dict[Side, deque[bytes]]] = {}  # what is under way, by sender
        self.sent: list[tuple[Side, int, bytes]] = []
        self.cuts: list[str] = []
        self._links_made = 0
        if established:
            self.establish()
            for _ in range(links):
                self.link()

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.near, self.far

    def other(self, side: Side) -> Side:
        return self.far if side is self.near else self.near

    def establish(self) -> None:
        infos = {side: side.session.info("", b"") for side in self.sides}
        for side in self.sides:
            side.session.establish(infos[self.other(side)], self.now)
            side.session.datagrams.introduced(infos[self.other(side)], self.now)

    def link(self) -> int:
        """Make a link that is ready at both ends; return its number."""
        self._links_made += 1
        number = self._links_made
        self.links[number] = {side: deque() for side in self.sides}
        for side in self.sides:
            side.session.link_ready(number, self.other(side).session.received, self.now)
        return number

    def cut(self, number: int) -> None:
        """Break a link; what is under way is lost."""
        if self.links.pop(number, None) is not None:
            for side in self.sides:
                side.session.link_gone(number, self.now)

    def write(self, side: Side, number: int) -> list[wire.Packet]:
        """Let a side put on a link what it has to send; return it."""
        side.woken.discard(number)
        written = []
        while (packet := side.session.next_packet(number, self.now)) is not None:
            self.links[number][side].append(packet)
            self.sent.append((side, number, packet))
            written.append(wire.decode_packet(packet))
        return written

    def read(self, side: Side, number: int, count: int = -1) -> None:
        """Let a side read what is under way to it on a link: all, or so many packets."""
        under_way = self.links[number][self.other(side)]
        while under_way and count and number in self.links:
            packet = under_way.popleft()
            side.session.receive(number, wire.decode_packet(packet), len(packet), self.now)
            count -= 1
            self._settle(side)

    def _settle(self, side: Side) -> None:
        datagrams = side.session.datagrams
        datagrams.told_path = datagrams.path  # this and the next as a peering does
        datagrams.has_push_at = datagrams.wants_push_at
        datagrams.take_call()
        while side.session.links_to_cut:
            number, reason = side.session.links_to_cut.pop()
            self.cuts.append(reason)
            self.cut(number)

    def pump(self) -> None:
        """Let everything move until nothing does; what a session does not wake for stays where it is."""
        busy = True
        while busy:
            busy = False
            for side in self.sides:
                for number in sorted(side.woken & self.links.keys()):
                    busy = bool(self.write(side, number)) or busy
            for side in self.sides:
                for number in list(self.links):
                    if number in self.links:
                        busy = bool(self.links[number][self.other(side)]) or busy
                        self.read(side, number)
            busy = self.carry() or busy

    def carry(self) -> bool:
        """Let all datagrams arrive; True if there were any."""
        count = 0
        self._tell_time()
        for port, other in zip(self.ports, reversed(self.sides), strict=False):
            for datagram in port.taken():
                other.session.datagrams.plane.udp_received(port.place, datagram, self.now)
                self._settle(other)
                count += 1
        return count > 0

    def wait(self, seconds: float) -> list[Side]:
        """Let time pass, with everything moving at once; return the sides whose peer is lost."""
        end, lost = self.now + seconds, []
        while not lost:
            due = [when for side in self.sides if (when := side.session.next_deadline()) is not None]
            if min(due, default=end + 1) > end:
                break
            self.now = max(self.now, min(due))
            self._tell_time()
            lost = self.expire()
            self.pump()
        self.now = max(self.now, end)
        self._tell_time()
        return lost

    def _tell_time(self) -> None:
        for port in self.ports:
            port.time = self.now

    def expire(self) -> list[Side]:
        """Let both sides act on what time has come for; return those whose peer is lost."""
        lost = []
        for side in self.sides:
            deadline = side.session.next_deadline()
            if deadline is not None and deadline <= self.now:
                if side.session.expire(self.now):
                    lost.append(side)
                self._settle(side)
        return lost

    def opened(
        self, name: str = "", reliability: Reliability = Reliability.RELIABLE
    ) -> tuple[Stream, Stream]:
        """Open a stream from the near side, accepted; return both ends."""
        ours = self.near.open(name, reliability=reliability)
        self.pump()
        theirs = self.far.offered[-1]
        self.far.session.lanes.accept(theirs, b"")
        self.pump()
        return ours, theirs


def frames(packets: list[wire.Packet]) -> Iterator[Any]:
    """Yield the frames of packets."""
    for packet in packets:
        yield from packet.frames


def packet(*contents: wire.Control | bytes, number: int = 0, acknowledged: int = 0) -> wire.Packet:
    """Return a packet as the other side might have sent it; bytes are frames as they are on the wire."""
    encoded = [one if isinstance(one, bytes) else wire.encode_control(one) for one in contents]
    return wire.decode_packet(wire.encode_packet(number, acknowledged, encoded))


STREAM_FRAMES: dict[str, Any] = {
    "ACCEPT": lambda stream_id: wire.encode_control(wire.Accept(stream_id, b"", 1)),
    "REJECT": lambda stream_id: wire.encode_control(wire.Reject(stream_id, 1, "")),
    "DATA": lambda stream_id: wire.encode_data(stream_id, 1, 0, [b"data"]),
    "CHUNK": lambda stream_id: wire.encode_chunk(wire.Chunk(stream_id, 1, 0, 4, 0, b"data")),
    "GRANT": lambda stream_id: wire.encode_control(wire.Grant(stream_id, 1, 0)),
    "BLOCKED": lambda stream_id: wire.encode_control(wire.Blocked(stream_id, 70_000)),
    "FINISH": lambda stream_id: wire.encode_control(wire.Finish(stream_id, 0)),
    "CLOSE": lambda stream_id: wire.encode_control(wire.Close(stream_id, 0)),
    "RESET": lambda stream_id: wire.encode_control(wire.Reset(stream_id, 1, "", 0)),
}
"""One of each frame about a stream, but OPEN."""
