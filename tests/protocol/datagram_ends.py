"""Both ends of a session with nothing but its datagrams, which go nowhere unless a test carries them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from brokerless.address import Address
from brokerless.cipher import ChaChaCipher
from brokerless.config import Limits
from brokerless.model import UnreliableWaiting
from brokerless.protocol import wire
from brokerless.protocol.datagram import Kind
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.datagrams import SINGLE, Datagrams
from brokerless.protocol.paths import UdpPlace, format_places

if TYPE_CHECKING:
    from brokerless.model import DropCause, Event, Message
    from brokerless.protocol.datagram import Cipher
    from brokerless.protocol.datagrams import Drop
    from brokerless.protocol.stream import Stream

ELSEWHERE = UdpPlace("127.0.9.9", 999)
"""Where neither end is."""


class Port:
    """Where datagrams leave a core; each is written down, unless there is no room."""

    def __init__(self, number: int = 1) -> None:
        self.place = UdpPlace(f"127.0.0.{number}", 4000 + number)
        self.time = 1000.0
        self.udp: list[tuple[UdpPlace, bytes]] = []
        self.pushed: list[bytes] = []
        self.takes_udp = self.takes_push = True
        self._keys = number << 32

    def now(self) -> float:
        return self.time

    def send_udp(self, place: UdpPlace, datagram: bytes) -> bool:
        if self.takes_udp:
            self.udp.append((place, datagram))
        return self.takes_udp

    def send_push(self, remote: Address, sealed: bytes) -> bool:
        if self.takes_push:
            self.pushed.append(sealed)
        return self.takes_push

    def draw_key(self) -> tuple[int, bytes]:
        self._keys += 1
        return self._keys, self._keys.to_bytes(32, "big")

    def make_cipher(self, key: bytes) -> Cipher:
        return ChaChaCipher(key)

    def taken(self) -> list[bytes]:
        """Return what was sent by UDP since this was asked last."""
        taken, self.udp = [datagram for _, datagram in self.udp], []
        return taken


class DatagramEnd:
    """One side: the session as its datagrams see it, and an application that takes nothing by itself."""

    def __init__(self, number: int, limits: Limits, *, has_port: bool = True, has_pull: bool = False) -> None:
        self.remote = Address(bytes([3 - number]) * 32)
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        self.is_delivering = True
        self.events: list[Event] = []
        self.dropped: Counter[DropCause] = Counter()
        self.told: list[wire.Control] = []
        self.touches = 0
        self.calls = 0
        self.port = Port(number)
        self.plane = DatagramPlane(self.port if has_port else None)
        self.plane.udp_places = format_places([self.port.place])
        self.plane.pull_places = f"127.0.0.{number}:1" if has_pull else ""
        self.datagrams = Datagrams(self, self.plane)

    # What datagrams ask of their host

    def delivers(self, now: float) -> bool:
        return self.is_delivering

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def drop(self, cause: DropCause) -> None:
        self.dropped[cause] += 1

    def tell(self, frame: wire.Control) -> None:
        self.told.append(frame)

    def touch(self) -> None:
        self.touches += 1

    # What a test does with it

    def info(self, **fields: Any) -> wire.Info:
        """Return an INFO of this side, with a fresh key."""
        index, key = self.datagrams.announce()
        given: dict[str, Any] = {
            "datagram_index": index,
            "datagram_key": key,
            "datagram_message_bytes_max": self.limits.datagram_message_bytes_max,
            "udp_places": self.plane.udp_places,
            "pull_places": self.plane.pull_places,
        }
        return wire.Info(
            boot=1,
            epoch=1,
            message_bytes_max=1,
            stream_credit=1,
            single_credit=1,
            streams_max=1,
            liveness_ms=1,
            **{**given, **fields},
        )

    def send(self, data: bytes, kind: Kind = Kind.UNRELIABLE, channel: int = 0) -> Drop | None:
        return self.datagrams.send(kind, SINGLE, channel, data)

    def take(self, datagram: bytes, place: UdpPlace) -> None:
        """Let a UDP packet arrive from there."""
        self.plane.udp_received(place, datagram, self.port.time)

    def messages(self) -> list[Message]:
        """Take the single messages that wait."""
        taken = []
        while (message := self.plane.unread.take()) is not None:
            taken.append(message)
        return taken

    def data(self) -> list[bytes]:
        """The same, without what is said about them."""
        return [message.data for message in self.messages()]

    @property
    def waiting(self) -> list[UnreliableWaiting]:
        return [event for event in self.events if isinstance(event, UnreliableWaiting)]

    def settle(self) -> None:
        """Do what a peering does: tell of the path, see to PUSH."""
        self.calls += self.datagrams.take_call()
        self.datagrams.told_path = self.datagrams.path
        self.datagrams.has_push_at = self.datagrams.wants_push_at


class DatagramEnds:
    """Two ends that know each other's keys, unless told otherwise."""

    def __init__(
        self,
        near: Limits | None = None,
        far: Limits | None = None,
        *,
        introduced: bool = True,
        has_pull: bool = False,
    ) -> None:
        self.near = DatagramEnd(1, near or Limits(), has_pull=has_pull)
        self.far = DatagramEnd(2, far or near or Limits(), has_pull=has_pull)
        if introduced:
            self.introduce(self.near)
            self.introduce(self.far)

    @property
    def now(self) -> float:
        return self.near.port.time

    @property
    def ends(self) -> tuple[DatagramEnd, DatagramEnd]:
        return self.near, self.far

    def other(self, end: DatagramEnd) -> DatagramEnd:
        return self.far if end is self.near else self.near

    def introduce(self, end: DatagramEnd, **fields: Any) -> wire.Info:
        """Let ``end`` tell the other side its key."""
        info = end.info(**fields)
        self.other(end).datagrams.introduced(info, self.now)
        return info

    def carry(self) -> None:
        """Carry all that was sent, and all that is sent in answer, until nothing is under way."""
        while any(end.port.udp or end.port.pushed or end.told for end in self.ends):
            for end in self.ends:
                other = self.other(end)
                for datagram in end.port.taken():
                    other.take(datagram, end.port.place)
                pushed, end.port.pushed = end.port.pushed, []
                for sealed in pushed:
                    other.plane.received(sealed, None, self.now)
                told, end.told = end.told, []
                for frame in told:
                    assert isinstance(frame, wire.Probed)
                    other.datagrams.probed(frame, self.now)

    def wait(self, seconds: float, *, carried: bool = True) -> None:
        """Let time pass, acting on what it has come for."""
        end = self.now + seconds
        while True:
            for one in self.ends:
                one.settle()
            due = [when for one in self.ends if (when := one.datagrams.next_deadline()) is not None]
            if min(due, default=end + 1) > end:
                break
            self._set(max(self.now, min(due)))
            for one in self.ends:
                one.datagrams.expire(self.now)
            if carried:
                self.carry()
        self._set(end)

    def _set(self, now: float) -> None:
        for one in self.ends:
            one.port.time = now

    def proven(self) -> DatagramEnds:
        """Let both prove their paths, and forget what was said. No probe is due at once."""
        self.wait(1.0)
        for one in self.ends:
            one.send(b"begins a demand")
        self.carry()
        for one in self.ends:
            one.data()
            one.settle()
            one.events.clear()
            one.dropped.clear()
        return self
