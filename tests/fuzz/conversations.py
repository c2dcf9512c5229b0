"""Targets with a state: the datagrams of a session, a session itself, gossip.

Each input is a tape of steps. Steps that are a peer's may be anything; those of the application are legal.
Whatever was said, the end is orderly: nothing is held any more, and everybody has been told how it ended.
"""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from typing import TYPE_CHECKING, Any

from brokerless.address import Address, parse_endpoint
from brokerless.cipher import ChaChaCipher
from brokerless.config import Limits
from brokerless.errors import BusError, PeerLost, RemoteProtocolError
from brokerless.model import MessageReceived, Reliability, SendDone, StreamEnded, StreamOffered
from brokerless.protocol import wire
from brokerless.protocol.datagram import Kind, Sealer, encode_fragment, frame_udp
from brokerless.protocol.datagram_plane import SINGLES_BYTES_MAX
from brokerless.protocol.datagrams import KEYS_MAX
from brokerless.protocol.gossip import Gossip
from brokerless.protocol.hearsay import PLACES_PER_TRY, TOLD_MAX
from brokerless.protocol.session import SessionState
from tests.fuzz.tape import steps
from tests.protocol.datagram_ends import ELSEWHERE, DatagramEnd
from tests.protocol.talk import HIGHER, LOWER, Side
from tests.protocol.two_ends import SMALL

if TYPE_CHECKING:
    from brokerless.protocol.stream import Stream
    from tests.fuzz.tape import Step

FEW = Limits(unreliable_queue_bytes_max=16 * 1024)
"""Room that a few datagrams fill."""

INFO = wire.Info(
    boot=5,
    epoch=1,
    message_bytes_max=20_000,
    stream_credit=2_048,
    single_credit=2_048,
    streams_max=8,
    offers_max=4,
    liveness_ms=5_000,
)
"""What the other side of a session says of itself."""


# Datagrams


class _Datagrams:
    """One end that datagrams come to, with keys that were told to a peer who may have gone mad."""

    def __init__(self) -> None:
        self.end = DatagramEnd(2, FEW)
        self.end.datagrams.introduced(DatagramEnd(1, FEW).info(), self.end.port.time)
        self.keys: list[tuple[int, ChaChaCipher]] = []
        self.tell_key()
        self.taken = 0

    def tell_key(self) -> None:
        info = self.end.info()
        self.keys.append((info.datagram_index, ChaChaCipher(info.datagram_key)))
        self.sealer = Sealer(*self.keys[-1])

    def take(self, datagram: bytes) -> None:
        self.taken += 1
        self.end.take(datagram, ELSEWHERE)

    def step(self, step: Step) -> None:
        payload = step.payload
        match step.operation % 7:
            case 0:
                self.take(payload)
            case 1:
                self.taken += 1
                self.end.plane.received(payload, None, self.end.port.time)
            case 2:  # sealed as it is
                self.take(frame_udp(self.sealer.seal(payload)))
            case 3:  # under any counter, and any of the keys
                index, cipher = self.keys[step.number % len(self.keys)]
                sealer = Sealer(index, cipher)
                sealer.counter = int.from_bytes(payload[1:9].ljust(8, b"\0"), "big") % (2**64 - 1)
                self.take(frame_udp(sealer.seal(payload[9:])))
            case 4:  # sealed, then changed somewhere, or cut
                datagram = bytearray(frame_udp(self.sealer.seal(bytes(27))))
                for place, change in zip(payload[::2], payload[1::2], strict=False):
                    datagram[place % len(datagram)] ^= change
                self.take(bytes(datagram[: len(datagram) - len(payload) % 2 * step.number]))
            case 5:
                self.end.port.time += step.number / 16
                self.end.datagrams.expire(self.end.port.time)
            case _:
                self.tell_key()

    def check(self) -> None:
        end = self.end
        assert end.datagrams._reassembly.byte_count <= FEW.unreliable_queue_bytes_max
        assert end.plane.unread.byte_count <= SINGLES_BYTES_MAX + FEW.datagram_message_bytes_max
        assert len(end.datagrams._inbound) <= KEYS_MAX
        assert all(len(datagram) < 100 for _, datagram in end.port.udp), "only probes and answers are sent"
        assert len(end.told) <= self.taken


def datagrams(data: bytes) -> None:
    world = _Datagrams()
    for step in steps(data):
        world.step(step)
        world.check()
    world.end.messages()
    world.tell_key()
    plain = encode_fragment(Kind.UNRELIABLE, 0, 0, 2**64 - 1, 0, 1, b"still here", 0)
    world.take(frame_udp(world.sealer.seal(plain)))
    assert world.end.data() == [b"still here"]
    world.end.datagrams.session_ended()
    assert not world.end.plane.readers


# A session


class _Conversation:
    """A session at our end, and a link to a peer that may say anything."""

    def __init__(self) -> None:
        self.now = 100.0
        self.side = Side(HIGHER, LOWER, SMALL, self.now)
        self.session = self.side.session
        self.session.establish(INFO, self.now)
        self.link = 1
        self.session.link_ready(self.link, 0, self.now)
        self.streams: list[Stream] = []
        self.sends = 0
        self.is_lost = False

    def step(self, step: Step) -> None:
        """Take a step. Raises ``RemoteProtocolError`` where the peer broke the rules."""
        session, payload = self.session, step.payload
        match step.operation % 8:
            case 0:
                self.hear(payload)
            case 1:
                self.hear(wire.encode_packet(session.received + 1, session.flight.sent, [payload]))
            case 2:
                self.hear(wire.encode_packet(0, session.flight.acknowledged, [payload]))
            case 3:
                number, acknowledged = struct.unpack("!bb", payload[:2].ljust(2, b"\0"))
                number = max(0, session.received + number)
                acknowledged = max(0, session.flight.sent + acknowledged)
                self.hear(wire.encode_packet(number, acknowledged, [payload[2:]]))
            case 4:
                with contextlib.suppress(BusError):  # what an application may not do it is told
                    self.command(step.number, payload[1:])
            case 5:
                self.now += step.number / 16
                self.is_lost = session.expire(self.now)
            case 6:
                while session.next_packet(self.link, self.now) is not None:
                    pass
            case _:
                session.link_gone(self.link, self.now)
                self.link += 1
                received = max(session.flight.acknowledged, session.flight.sent - step.number)
                session.link_ready(self.link, received, self.now)
        session.links_to_cut.clear()  # it is as well to go on with a link that should be cut
        self.streams += [event.offer.stream for event in self.take(StreamOffered)]

    def take(self, kind: type) -> list[Any]:
        """Return the events of that kind since the last call, and drop the rest but the ends of things."""
        found = self.side.of_type(kind)
        self.side.events[:] = [event for event in self.side.events if isinstance(event, KEPT)]
        return found

    def hear(self, data: bytes) -> None:
        self.session.receive(self.link, wire.decode_packet(data), len(data), self.now)

    def command(self, choice: int, data: bytes) -> None:
        stream = self.streams[choice // 16 % len(self.streams)] if self.streams else None
        match choice % 16:
            case 0 | 1:
                reliability = list(Reliability)[len(data) % 3]
                self.streams.append(
                    self.session.lanes.open_stream(reliability, "fuzz", data[:4096], self.now + 5.0)
                )
            case 2 | 3:
                self.session.lanes.singles.send(0, data * 8, self.sends + 1, self.now + 5.0)
                self.sends += 1
            case 4:
                for event in self.side.of_type(MessageReceived):
                    event.message.origin.consume(1, len(event.message.data))
                self.side.events[:] = [e for e in self.side.events if not isinstance(e, MessageReceived)]
            case _ if stream is not None:
                self.of_stream(stream, choice % 16, data)

    def of_stream(self, stream: Stream, choice: int, data: bytes) -> None:
        match choice:
            case 5 | 6:
                self.session.lanes.accept(stream, data[:4096])
            case 7:
                stream.reject(7, "no")
            case 8 | 9:
                stream.send(data * 8)
            case 10 | 11:
                stream.consume(stream.stats().unconsumed_messages)
            case 12:
                stream.finish()
            case 13:
                stream.close(self.now + 1.0)
            case 14:
                stream.abort(7, "enough")
            case _:
                stream.want_ready()

    def check(self) -> None:
        assert self.side.budget.reserved <= SMALL.peer_memory_bytes_max
        assert len(self.session.streams) <= SMALL.streams_max
        assert len(self.session.lanes._offers) <= SMALL.offers_max
        assert self.session.flight.acknowledged <= self.session.flight.sent

    def end(self) -> None:
        """End the session; nothing is held or owed after that."""
        self.session.end(PeerLost(reason="expelled"))
        assert self.session.state is SessionState.ENDED
        self.command(4, b"")  # what was received may be consumed after the end
        assert self.side.budget.reserved == 0
        assert not self.session.streams
        ended = [event.stream for event in self.side.of_type(StreamEnded)]
        assert len(ended) == len(set(ended)), "the end of a stream is told once"
        assert set(ended) == set(self.streams)
        done = [event.send_id for event in self.side.of_type(SendDone)]
        assert sorted(done) == list(range(1, self.sends + 1)), "how a send ended is told once"


KEPT = (StreamEnded, SendDone, MessageReceived)
"""Events that are looked at in the end."""


def session(data: bytes) -> None:
    conversation = _Conversation()
    try:
        for step in steps(data):
            conversation.step(step)
            conversation.check()
            if conversation.is_lost:
                break
    except RemoteProtocolError:
        pass  # it ends with that as the reason
    conversation.streams += [event.offer.stream for event in conversation.side.of_type(StreamOffered)]
    conversation.end()


# Gossip


class _Told:
    """A node that gossip hints to: it keeps what stands, and believes nothing unsound."""

    def __init__(self) -> None:
        self.hints: dict[tuple[Address, str], tuple[str, ...]] = {}
        self.near: set[Address] = set()
        self.attempts = 0

    def hint(self, address: Address, source: str, endpoints: tuple[str, ...], now: float) -> None:
        assert address != LOCAL
        for endpoint in endpoints:
            assert parse_endpoint(endpoint).startswith("tcp://")
            host = ipaddress.ip_address(endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]"))
            assert not host.is_link_local
            assert not host.is_multicast
            assert not host.is_unspecified
            assert not host.is_loopback or self.near, "loopback is believed of who is on this host"
        if endpoints:
            assert len(endpoints) <= (PLACES_PER_TRY if source.startswith("gossip:") else 16)
            self.hints[address, source] = endpoints
        else:
            self.hints.pop((address, source), None)

    def may_attempt(self, address: Address) -> bool:
        return True

    def attempt(self, address: Address, now: float) -> None:
        assert any(about == address for about, _ in self.hints), "there is a place to dial"
        self.attempts += 1

    def tell(self, to: Address, frame: wire.Met) -> None:
        (again,) = wire.decode_packet(wire.encode_packet(1, 0, [wire.encode_control(frame)])).frames
        assert again == frame
        assert frame.address not in (LOCAL.public_key, to.public_key)


LOCAL = Address(b"\x80" * 32)
TELLERS = [Address(bytes([number]) * 32) for number in (0x10, 0x20, 0x90, 0xA0)]


def gossip(data: bytes) -> None:
    host = _Told()
    here = Gossip(LOCAL, host)
    now = 100.0
    present: set[Address] = set()
    for step in steps(data):
        payload = step.payload
        teller = TELLERS[step.number % len(TELLERS)]
        match step.operation % 6:
            case 0:
                is_near = bool(step.number & 0x80)
                if is_near:
                    host.near.add(teller)
                here.met(teller, payload[1:769].decode(errors="replace"), is_near, now)
                present.add(teller)
            case 1 if teller in present:
                present.discard(teller)
                here.parted(teller, bool(step.number & 0x80), now)
            case 2 | 3:
                if step.operation % 6 == 2:  # of anybody
                    address, places = payload[1:33], payload[33:801]
                else:  # of each other
                    address, places = TELLERS[step.number // 4 % 4].public_key, payload[1:769]
                here.heard(teller, wire.Met(address, places.decode(errors="replace")), now)
            case 4:
                now += step.number / 16
                here.expire(now)
            case _:
                deadline = here.next_deadline()
                if deadline is not None:
                    now = max(now, deadline)
                    here.expire(now)
        assert len(host.hints) <= TOLD_MAX * (len(TELLERS) + 2)
    for teller in present:
        here.parted(teller, False, now)
    here.expire(now + 10_000.0)
    assert not host.hints, "what they told is void when all have gone"
