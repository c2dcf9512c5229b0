"""A node on its own: its core, driven by hand, and the other ends of its links, played by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.protocol import wire
from brokerless.protocol.actions import Cut
from brokerless.protocol.core import NodeCore
from brokerless.protocol.handshake import Handshake, Role, decode
from brokerless.protocol.incarnation import Incarnation
from brokerless.testing.presence import Presence

if TYPE_CHECKING:
    from brokerless.protocol.session import Session

US = Address(b"\x50" * 32)
THEM = Address(b"\x90" * 32)
OTHERS = [Address(bytes([0x91 + number]) * 32) for number in range(4)]
KEY = bytes(32)
SECRET = b"\x55" * 32
BEGAN_US = 1_000_000
PLACE = "tcp://192.0.2.1:4000"
T = 5.0


class Node:
    """A core, and a shell that does nothing by itself."""

    def __init__(self, limits: Limits | None = None, address: Address = US, **options: Any) -> None:
        self.now = 100.0
        self.wakes = 0
        self.core = NodeCore(
            address=address,
            incarnation=Incarnation(SECRET, boot=7, began_us=BEGAN_US),
            mesh_key=KEY,
            limits=limits or Limits(),
            wake=self._wake,
            **options,
        )
        self.events: list[Any] = []
        self.actions: list[Any] = []
        self._presence = Presence()
        self._links = 0

    def _wake(self) -> None:
        self.wakes += 1

    def number(self) -> int:
        self._links += 1
        return self._links

    def turn(self) -> None:
        """Drain the actions and events, as a shell does."""
        self.actions += self.core.take_actions()
        events = self.core.take_events()
        self.events += events
        for event in events:
            self._presence.take(event)
        self._presence.check(self.core.peers)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.core.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.core.expire(self.now)
            self.turn()
        self.now = end

    def cuts(self) -> dict[int, str]:
        self.turn()
        return {action.link: action.reason for action in self.actions if isinstance(action, Cut)}

    def of_type(self, kind: type) -> list[Any]:
        self.turn()
        return [event for event in [*self.events, *self.actions] if isinstance(event, kind)]

    def session(self, address: Address = THEM) -> Session:
        session = self.core.session(address)
        assert session is not None
        return session


class Remote:
    """The other end of one link, played by hand."""

    def __init__(
        self,
        node: Node,
        address: Address = THEM,
        *,
        dialled: bool = False,
        mesh_key: bytes = KEY,
        versions: tuple[int, ...] = (1,),
        is_local: bool = False,
        is_near: bool = False,
    ) -> None:
        self.node = node
        self.address = address
        self.link = node.number()
        self.sent = 0
        self.received = 0
        role = Role.ACCEPTOR if dialled else Role.DIALLER
        self.handshake = Handshake(
            role, mesh_key=mesh_key, local=address, remote=node.core.address, versions=versions
        )
        if dialled:
            node.core.dialled(self.link, address, PLACE, node.now)
        else:
            node.core.link_opened(self.link, address, node.now, is_local, is_near)

    def raw(self, data: bytes) -> None:
        self.node.core.link_message(self.link, data, self.node.now)

    def greet(self) -> Remote:
        """Exchange HELLO."""
        if self.handshake.start() is None:
            self.node.core.link_opened(self.link, self.address, self.node.now)
            (reply,) = self.handshake.receive(self.heard_bytes()[0])
            self.raw(reply)
        else:
            hello = self.handshake.start()
            assert hello is not None
            self.raw(hello)
        return self

    def info(self, epoch: int = 1, boot: int = 1000, **fields: Any) -> Remote:
        told = {**info_fields(), "boot": boot, "epoch": epoch, "name": "them", **fields}
        return self.say(wire.encode_info(wire.Info(**told)))

    def join(self, **fields: Any) -> Remote:
        return self.greet().info(**fields)

    def say(self, *contents: Any) -> Remote:
        self.raw(encoded(0, self.received, contents))
        return self

    def say_numbered(self, *contents: Any) -> Remote:
        self.sent += 1
        self.raw(encoded(self.sent, self.received, contents))
        return self

    def heard_bytes(self) -> list[bytes]:
        heard = []
        while (message := self.node.core.next_message(self.link, self.node.now)) is not None:
            heard.append(message)
        return heard

    def heard(self) -> list[Any]:
        """Return the frames that came; handshakes as they are."""
        frames: list[Any] = []
        for data in self.heard_bytes():
            if data[:4] == b"\xffDTB":
                frames.append(decode(data))
                continue
            content = wire.decode_packet(data)
            self.received = max(self.received, content.number)
            frames += content.frames
        return frames


def encoded(number: int, acknowledged: int, contents: tuple[Any, ...]) -> bytes:
    encoded = [one if isinstance(one, bytes) else wire.encode_control(one) for one in contents]
    return wire.encode_packet(number, acknowledged, encoded)


def info_fields() -> dict[str, Any]:
    return {
        "boot": 1000,
        "epoch": 1,
        "message_bytes_max": 2**20,
        "stream_credit": 2**16,
        "single_credit": 2**16,
        "streams_max": 100,
        "liveness_ms": 5000,
    }
