"""A pump and a transport that show every packet to somebody. Nodes without a tap have nothing of this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from brokerless.pump import Pump
from brokerless.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokerless.address import Address
    from brokerless.model import Event
    from brokerless.protocol.actions import Action
    from brokerless.protocol.core import NodeCore
    from brokerless.protocol.paths import UdpPlace

Tap: TypeAlias = "Callable[[Literal['->', '<-'], str, bytes], object]"
"""Called with ``->`` for what is sent and ``<-`` for what came, with who is at the other end, and the packet:
greetings, packets of links, and sealed datagrams as they travel. On the node's loop; it must be quick, and
must not raise. A packet holds what the application sent."""


class TappedPump(Pump):
    """Shows what comes."""

    def __init__(
        self,
        core: NodeCore,
        on_events: Callable[[Sequence[Event]], None],
        on_action: Callable[[Action], None],
        tap: Tap,
    ) -> None:
        super().__init__(core, on_events, on_action)
        self._tap = tap
        self._ends: dict[int, str] = {}

    def end_of(self, link: int) -> str:
        """Who is at the other end of a link."""
        return self._ends.get(link, f"link {link}")

    def forget(self, link: int) -> None:
        """The link is no more."""
        self._ends.pop(link, None)

    def link_opened(self, link: int, remote: Address) -> None:
        """Learn who is at the other end."""
        self._ends[link] = f"{remote.short} on link {link}"
        super().link_opened(link, remote)

    def link_message(self, link: int, packet: bytes) -> None:
        """Show a ZeroMQ message that came."""
        self._tap("<-", self.end_of(link), packet)
        super().link_message(link, packet)

    def link_closed(self, link: int, reason: str) -> None:
        """Forget who was at the other end."""
        super().link_closed(link, reason)
        self.forget(link)

    def datagram(self, place: UdpPlace, data: bytes) -> None:
        """Show a datagram that came by UDP."""
        self._tap("<-", str(place), data)
        super().datagram(place, data)

    def push_received(self, remote: Address, data: bytes) -> None:
        """Show one that came over TCP."""
        self._tap("<-", f"{remote.short} by PUSH", data)
        super().push_received(remote, data)


class TappedTransport(Transport):
    """Shows what is sent: what ZeroMQ or the system took, whatever becomes of it."""

    def __init__(self, pump: TappedPump, tap: Tap, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tapped_pump = pump
        self._tap = tap

    def send(self, link: int, packet: bytes) -> bool:
        """Send, and show it if it was taken."""
        taken = super().send(link, packet)
        if taken:
            self._tap("->", self._tapped_pump.end_of(link), packet)
        return taken

    def cut(self, link: int) -> None:
        """Cut, of which the pump is not told."""
        super().cut(link)
        self._tapped_pump.forget(link)

    def send_datagram(self, place: UdpPlace, data: bytes) -> bool:
        """Send by UDP, and show it if there was room."""
        taken = super().send_datagram(place, data)
        if taken:
            self._tap("->", str(place), data)
        return taken

    def send_push(self, remote: Address, data: bytes) -> bool:
        """Send by PUSH, and show it if there was room."""
        taken = super().send_push(remote, data)
        if taken:
            self._tap("->", f"{remote.short} by PUSH", data)
        return taken
