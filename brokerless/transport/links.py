"""What a link is to the rest of the node: a number, and who is told what about it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import KeysView

    from brokerless.address import Address
    from brokerless.protocol.paths import UdpPlace


class LinkSink(Protocol):
    """Whoever lives on the links. Everything is called from the loop, nothing from within a command.

    Of one link the order is: opened, messages and writables, closed. After ``cut`` it is heard of no more.
    Datagrams come in any order, more than once or not at all, from anybody.
    """

    def link_opened(self, link: int, remote: Address) -> None:
        """``remote`` has proven its key. If it was accepted, its first packet follows."""

    def link_message(self, link: int, packet: bytes) -> None:
        """A packet came."""

    def link_closed(self, link: int, reason: str) -> None:
        """The link is gone, or the dial failed; packets under way are lost."""

    def link_writable(self, link: int) -> None:
        """The link was busy; now ``send`` may succeed. It may also be busy still, and this comes again."""

    def datagram(self, place: UdpPlace, data: bytes) -> None:
        """A datagram came by UDP. Who sent it is not known, nor whether it really is from that place."""

    def push_received(self, remote: Address, data: bytes) -> None:
        """A datagram came over TCP. ``remote`` has proven its key, and was permitted when it connected."""

    def permits_push(self, remote: Address) -> bool:
        """True if that key may push datagrams to us. Asked when it connects; raises nothing."""

    def turn_done(self) -> None:
        """A bounded batch of the above is over: a good moment to act on it."""


class Link(Protocol):
    """One connection, dialled or accepted."""

    @property
    def is_local(self) -> bool:
        """True if it runs within this host, by ipc."""

    @property
    def is_near(self) -> bool:
        """True if it runs within this host, by ipc or over loopback."""

    def send(self, packet: bytes) -> bool:
        """Hand the packet to ZeroMQ; False if the link has no room for it now."""

    def cut(self) -> None:
        """Break the connection at once."""

    def confirm(self) -> None:
        """The other end is no stranger any more."""


class LinkTable:
    """The living links of a node by number. Being in here is what it means for a link to live."""

    __slots__ = ("_living", "_numbers", "sink")

    def __init__(self, sink: LinkSink) -> None:
        self.sink = sink
        self._living: dict[int, Link] = {}
        self._numbers = itertools.count(1)

    def __contains__(self, number: int) -> bool:
        return number in self._living

    def __len__(self) -> int:
        return len(self._living)

    @property
    def numbers(self) -> KeysView[int]:
        """The numbers of the living links."""
        return self._living.keys()

    def get(self, number: int) -> Link | None:
        """The living link of that number."""
        return self._living.get(number)

    def add(self, link: Link) -> int:
        """Enter a link; its number is never used again."""
        number = next(self._numbers)
        self._living[number] = link
        return number

    def remove(self, number: int) -> Link | None:
        """Strike a link out without a word to the sink."""
        return self._living.pop(number, None)

    def lose(self, number: int, reason: str) -> bool:
        """Strike a link out and tell the sink, once. False if it was out already."""
        if self._living.pop(number, None) is None:
            return False
        self.sink.link_closed(number, reason)
        return True

    def clear(self) -> None:
        """Strike all out without a word."""
        self._living.clear()
