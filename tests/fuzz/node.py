"""Target: a whole node, as strangers and members speak to it on links of their own making.

A good peer is in conversation with it all the time. Whatever the others say, nothing is raised, they are cut
off or heard out, and what the good peer sends arrives.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

from brokerless.address import Address
from brokerless.errors import BusError
from brokerless.model import MessageReceived, PeerJoined, PeerLeft, Reliability, StreamOffered
from brokerless.protocol import wire
from brokerless.protocol.actions import Admit, Confirm, Cut, Dial, Push, Refused, Superseded
from brokerless.protocol.core import NodeCore
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.handshake import Hello, Role, encode_hello, prove
from brokerless.protocol.incarnation import Incarnation
from tests.fuzz.conversations import INFO
from tests.fuzz.tape import steps
from tests.protocol.datagram_ends import ELSEWHERE, Port
from tests.protocol.two_ends import SMALL

if TYPE_CHECKING:
    from tests.fuzz.tape import Step

MESH_KEY = bytes(range(32))
US = Address(b"\x80" * 32)
FRIEND = Address(b"\x90" * 32)
OTHERS = [Address(bytes([number]) * 32) for number in (0x10, 0x70, 0xA0, 0xF0)]
FRIENDS_LINK = 1
DEADLINES_MAX = 500
"""That come within two seconds: more would keep a process busy for nothing."""


class _Node:
    """A core and what it asked for."""

    def __init__(self, address: Address, boot: int) -> None:
        self.port = Port(boot)
        plane = DatagramPlane(self.port)
        plane.udp_places, plane.pull_places = str(self.port.place), f"127.0.0.{boot}:5000"
        self.core = NodeCore(
            address=address,
            incarnation=Incarnation(address.public_key, boot, began_us=0),
            mesh_key=MESH_KEY,
            limits=SMALL,
            wake=lambda: None,
            plane=plane,
            gossips=True,
        )
        self.core.tell_places(f"192.0.2.{boot}:4000", 1000.0)
        self.messages: list[bytes] = []
        self.joined: set[Address] = set()


class _World:
    """Us, a friend, and links of others."""

    def __init__(self) -> None:
        self.now = 1000.0  # as the ports have it
        self.us, self.friend = _Node(US, 1), _Node(FRIEND, 2)
        self.links: dict[int, Address] = {}
        self.made = FRIENDS_LINK
        self.was_superseded = False
        self.us.core.link_opened(FRIENDS_LINK, FRIEND, self.now)
        self.friend.core.dialled(FRIENDS_LINK, US, "tcp://192.0.2.1:4000", self.now)
        self.friend.core.link_opened(FRIENDS_LINK, US, self.now)
        self.settle()
        assert self.us.joined == {FRIEND}

    def settle(self) -> None:
        """Let us and the friend do what they have to do, until nothing moves."""
        for _ in range(1_000):
            moved = False
            for node, other in ((self.us, self.friend), (self.friend, self.us)):
                self.act(node)
                for link in node.core.take_sendable():
                    while (message := node.core.next_message(link, self.now)) is not None:
                        moved = True
                        if link == FRIENDS_LINK:
                            other.core.link_message(link, message, self.now)
                self.observe(node)
            if not moved:
                return
        raise AssertionError("the two never come to rest")

    def act(self, node: _Node) -> None:
        for action in node.core.take_actions():
            match action:
                case Cut(link=link):
                    assert link != FRIENDS_LINK, action
                    self.links.pop(link, None)
                case Dial(remote=remote, endpoint=endpoint):
                    node.core.dial_failed(remote, endpoint, self.now)
                case Superseded():
                    self.was_superseded = True
                case _:
                    assert isinstance(action, Admit | Confirm | Push | Refused)

    def observe(self, node: _Node) -> None:
        for event in node.core.take_events():
            match event:
                case PeerJoined(peer=peer):
                    assert peer.address not in node.joined
                    node.joined.add(peer.address)
                case PeerLeft(peer=peer):
                    node.joined.remove(peer.address)
                case MessageReceived(message=message):
                    assert message.sender in node.joined
                    if message.sender in (US, FRIEND):
                        node.messages.append(message.data)
                    message.origin.consume(1, len(message.data))
                case StreamOffered(offer=offer):
                    node.core.accept(offer.stream, b"")

    def hear(self, which: int, message: bytes) -> None:
        if self.links:
            link = list(self.links)[which % len(self.links)]
            self.us.core.link_message(link, message, self.now)

    def session_with(self, which: int) -> wire.Info:
        """Return an INFO of the other end of that link which knows our nonce."""
        links = list(self.links.values())
        session = self.us.core.session(links[which % len(links)]) if links else None
        if session is None:
            return INFO
        said = {name: getattr(INFO, name) for name in wire.Info.__slots__}
        return wire.Info(**{**said, "their_boot": session.nonce.boot, "their_epoch": session.nonce.epoch})

    def step(self, step: Step) -> None:
        which, payload = step.number, step.payload[1:]
        match step.operation % 10:
            case 0:
                self.made += 1
                self.links[self.made] = OTHERS[which % len(OTHERS)]
                self.us.core.link_opened(self.made, self.links[self.made], self.now, is_near=which > 127)
            case 1:
                self.hear(which, payload)
            case 2:  # a greeting with the right proof, whatever its versions are
                for link in list(self.links)[which % 8 : which % 8 + 1]:
                    proof = prove(MESH_KEY, Role.DIALLER, self.links[link], US)
                    self.us.core.link_message(
                        link, encode_hello(Hello(tuple(payload[:255]) or (1,), proof)), self.now
                    )
            case 3:
                self.hear(
                    which, wire.encode_packet(0, 0, [wire.encode_info(self.session_with(which)), payload])
                )
            case 4:
                self.hear(which, wire.encode_packet(0, 0, [payload]))
            case 5:
                number, acknowledged = struct.unpack("!BB", payload[:2].ljust(2, b"\0"))
                self.hear(which, wire.encode_packet(number, acknowledged, [payload[2:]]))
            case 6:
                for link in list(self.links)[which % 8 : which % 8 + 1]:
                    del self.links[link]
                    self.us.core.link_closed(link, "gone", self.now)
            case 7:
                self.pass_time(which / 128)
            case 8:
                self.us.core.udp_received(ELSEWHERE, payload, self.now)
            case _:
                with contextlib.suppress(BusError):
                    to = OTHERS[which % len(OTHERS)]
                    reliability = list(Reliability)[which // 4 % 3]
                    if which & 0x40:
                        self.us.core.open_stream(to, reliability, "", payload[:4096], self.now + 2, self.now)
                    else:
                        self.us.core.send(payload, to, reliability, 0, self.now + 2, self.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass as it does for processes that do not stand still: every deadline is kept."""
        end = self.now + seconds
        for _ in range(DEADLINES_MAX):
            due = [when for node in (self.us, self.friend) if (when := node.core.next_deadline()) is not None]
            self.now = max(self.now, min(end, *due, end))
            for node in (self.us, self.friend):
                node.port.time = self.now
                node.core.expire(self.now)
            self.settle()
            if self.now == end:
                return
        raise AssertionError("there is always something to do")

    def finish(self) -> None:
        """The friend is still there, and heard."""
        assert FRIEND in self.us.joined
        for sender, to in ((self.friend.core, US), (self.us.core, FRIEND)):
            sender.send(b"still here", to, Reliability.RELIABLE, 0, None, self.now)
        self.settle()
        assert self.us.messages == self.friend.messages == [b"still here"]


def node(data: bytes) -> None:
    world = _World()
    for step in steps(data):
        world.step(step)
        world.settle()
    world.finish()
