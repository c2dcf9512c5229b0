"""The simulated network for datagrams: UDP that loses, repeats and reorders, and PUSH that does not."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokerless.cipher import ChaChaCipher
from brokerless.protocol.datagram_plane import DatagramPlane
from brokerless.protocol.paths import UdpPlace, format_places
from brokerless.protocol.wire import DATAGRAM_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.address import Address
    from brokerless.protocol.actions import Push
    from brokerless.protocol.datagram import Cipher
    from brokerless.testing.sim_node import SimNode
    from brokerless.testing.simulation import SimNetwork

PULL_PORT = 2

QUEUE_S_MAX = 0.1
"""Where there is a rate, a datagram that would wait longer than this for its turn is lost, as in a router."""

DATAGRAMS_PER_TURN, TURN_S = 64, 0.0005
"""How fast a node that was paused reads what its socket holds: as the real shell does."""


@dataclass
class Weather:
    """What becomes of datagrams everywhere: shares from 0 to 1 of all that are sent."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """Share that is held back by up to ``reordering_s``."""
    reordering_s: float = 0.02
    is_udp_blocked: bool = False
    is_push_blocked: bool = False


class SimDatagrams:
    """Moves datagrams between the nodes of a ``SimNetwork``; partitions and pauses of that hold here, too.

    ``weather`` may be changed at any time. ``tap``, if set, sees every datagram that a node sends by UDP:
    sender, receiver and bytes.
    """

    def __init__(self, network: SimNetwork) -> None:
        self.network = network
        self.weather = Weather()
        self.random = random.Random(f"{network.seed} datagrams")  # leaves the links' own draws as they are
        self.tap: Callable[[SimNode, SimNode, bytes], None] | None = None
        self.places: dict[UdpPlace, SimNode] = {}
        self.keys: dict[int, bytes] = {}
        """All that were ever drawn, by index: for whoever wants to see what is within."""
        self._waiting: dict[SimNode, list[Callable[[], None]]] = {}
        self._free_at: dict[tuple[SimNode, SimNode], float] = {}  # from, to: when the line is

    def plane(self, node: SimNode) -> DatagramPlane:
        """Return what a fresh core of that node sends its datagrams by."""
        self._waiting.pop(node, None)  # of a process that is over
        place = self.place_of(node) or self.move(node)
        plane = DatagramPlane(SimPort(self, node), node.limits.unreliable_queue_bytes_max)
        plane.udp_places = format_places([place])
        plane.pull_places = format_places([UdpPlace(place.host, PULL_PORT)])
        return plane

    def place_of(self, node: SimNode) -> UdpPlace | None:
        """Return where the node is."""
        return next((place for place, other in self.places.items() if other is node), None)

    def move(self, node: SimNode) -> UdpPlace:
        """Give the node another UDP address, of which peers are not told, as a NAT may."""
        present = self.place_of(node)
        if present is not None:
            del self.places[present]
        number = self.network.number()
        place = UdpPlace(f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 1)
        self.places[place] = node
        return place

    def send_udp(self, sender: SimNode, place: UdpPlace, datagram: bytes) -> None:
        """Put a datagram on its way, or lose it."""
        receiver = self.places.get(UdpPlace(place.host, place.port))
        if receiver is None:
            return
        if self.tap is not None:
            self.tap(sender, receiver, datagram)
        weather, draw = self.weather, self.random.random
        conditions = self.network.conditions(sender, receiver)
        origin = self.place_of(sender)
        copies = 2 if draw() < weather.duplication else 1
        delays_s: list[float] = []
        for _ in range(copies):
            if weather.is_udp_blocked or draw() < max(weather.loss, conditions.loss):
                continue
            delay_s = conditions.latency_s * (1 + draw())
            if draw() < weather.reordering:
                delay_s += weather.reordering_s * draw()
            if conditions.bytes_per_s is not None:
                delay_s += self._wait_s(sender, receiver, len(datagram) / conditions.bytes_per_s)
            if delay_s < math.inf:
                delays_s.append(delay_s)
                self._deliver(sender, receiver, delay_s, datagram, origin)
        if self.network.trace is not None:
            self.network.trace.datagram(sender, receiver, datagram, delays_s)

    def _wait_s(self, sender: SimNode, receiver: SimNode, takes_s: float) -> float:
        """Return how long until the line has taken a datagram; infinite if it is lost in the queue before."""
        free_at = max(self._free_at.get((sender, receiver), 0.0), self.network.now) + takes_s
        if free_at > self.network.now + QUEUE_S_MAX:
            return math.inf
        self._free_at[sender, receiver] = free_at
        return free_at - self.network.now

    def arrive_again(self, receiver: SimNode) -> None:
        """The node reads again."""
        for count, arrive in enumerate(self._waiting.pop(receiver, ())):
            self.network.at(self.network.now + count // DATAGRAMS_PER_TURN * TURN_S, arrive)

    def inject(self, receiver: SimNode, place: UdpPlace, datagram: bytes) -> None:
        """Let a datagram arrive now, as from that place."""
        receiver.core.udp_received(place, datagram, self.network.now)
        receiver.pump_soon()

    def send_push(self, sender: SimNode, remote: Address, sealed: bytes) -> bool:
        """Put a datagram on its way by PUSH; False: there is no connection."""
        receiver = self.network.nodes.get(remote)
        if remote not in sender.pushes or receiver is None or self.weather.is_push_blocked:
            return False
        if self.network.is_parted(sender, receiver) or not receiver.core.permits_push(sender.address):
            return False
        delay_s = 2 * self.network.conditions(sender, receiver).latency_s
        self._deliver(sender, receiver, delay_s, sealed, None)
        if self.network.trace is not None:
            self.network.trace.datagram(sender, receiver, sealed, [delay_s])
        return True

    def _deliver(
        self, sender: SimNode, receiver: SimNode, delay_s: float, data: bytes, origin: UdpPlace | None
    ) -> None:
        def arrive() -> None:
            if not receiver.is_running or self.network.is_parted(sender, receiver):
                return
            if receiver.paused_since is not None:  # it waits in the socket's buffer
                self._waiting.setdefault(receiver, []).append(arrive)
            elif origin is None:
                receiver.core.push_received(data, self.network.now)
                receiver.pump_soon()
            else:
                self.inject(receiver, origin, data)

        self.network.at(self.network.now + delay_s, arrive)


class SimPort:
    """Where the datagrams of one simulated node leave its core: a ``DatagramPort``."""

    def __init__(self, datagrams: SimDatagrams, node: SimNode) -> None:
        self._datagrams = datagrams
        self._node = node

    def now(self) -> float:
        """Return the virtual time."""
        return self._datagrams.network.now

    def send_udp(self, place: UdpPlace, datagram: bytes) -> bool:
        """Send at once."""
        self._datagrams.send_udp(self._node, place, datagram)
        return True

    def send_push(self, remote: Address, sealed: bytes) -> bool:
        """Send at once; False: there is no connection."""
        return self._datagrams.send_push(self._node, remote, sealed)

    def draw_key(self) -> tuple[int, bytes]:
        """Return an index and a key, of the seed."""
        draw = self._datagrams.random
        index, key = draw.getrandbits(64) | 1, draw.randbytes(DATAGRAM_KEY_BYTES)
        self._datagrams.keys[index] = key
        return index, key

    def make_cipher(self, key: bytes) -> Cipher:
        """Return what seals and opens under that key."""
        return ChaChaCipher(key)


def connect(node: SimNode, action: Push) -> None:
    """Do what the core asks for: have a PUSH connection, or none."""
    if action.places:
        node.pushes.add(action.remote)
    else:
        node.pushes.discard(action.remote)
