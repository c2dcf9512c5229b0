"""What happens in a simulated network, line by line, and a digest of it: equal runs have equal ones."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from brokerless.cipher import ChaChaCipher
from brokerless.model import (
    MessageReceived,
    PeerChanged,
    PeerForgotten,
    PeerJoined,
    PeerLeft,
    SendDone,
    StreamAcknowledged,
    StreamEnded,
    StreamMessages,
    StreamOffered,
    UnreliableWaiting,
)
from brokerless.protocol.datagram import Opener, header, unframe_udp
from brokerless.protocol.handshake import MAGIC
from brokerless.protocol.wire import PACKET_HEADER_BYTES
from brokerless.testing.sim_link import Sign
from brokerless.testing.trace import describe, describe_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokerless.address import Address
    from brokerless.model import Event, Peer
    from brokerless.testing.sim_link import Item, SimLink
    from brokerless.testing.sim_node import SimNode
    from brokerless.testing.simulation import SimNetwork


class Trace:
    """Writes a line for all that is sent, arrives or is told of in a network. It changes nothing there.

    ``n0 -> n1`` is a packet sent on a link, ``n1 <- n0`` its arrival, ``n0 ~> n1`` a datagram.
    """

    def __init__(self, network: SimNetwork, write: Callable[[str], object] | None = None) -> None:
        self._network = network
        self._write = write
        self._hash = hashlib.sha256()
        self.lines = 0
        network.trace = self

    @property
    def digest(self) -> str:
        """Of all lines so far."""
        return self._hash.hexdigest()

    def say(self, text: str) -> None:
        """Write a line, with the time before it."""
        line = f"{self._network.now:11.4f}  {text}"
        self.lines += 1
        self._hash.update(line.encode() + b"\n")
        if self._write is not None:
            self._write(line)

    # What the network tells

    def dialled(self, link: SimLink) -> None:
        """Somebody dials."""
        self.say(f"{link.dialler.label} dials {link.other(link.dialler).label}, {_link(link)}")

    def cut(self, link: SimLink, by: SimNode | None) -> None:
        """A link breaks."""
        who = "nobody" if by is None else by.label
        self.say(f"{_link(link)} of {' and '.join(node.label for node in link.ends)} is cut, by {who}")

    def sent(self, sender: SimNode, link: SimLink, message: bytes) -> None:
        """A message goes out on a link."""
        self.say(f"{sender.label} -> {link.other(sender).label}  {_link(link)}  {describe(message)}")

    def arrived(self, receiver: SimNode, link: SimLink, item: Item) -> None:
        """Something comes to the other end of a link."""
        if isinstance(item, Sign):
            what = item.name.lower()
        elif item.startswith(MAGIC):
            what = describe(item)
        else:
            what = describe(item[:PACKET_HEADER_BYTES])
        self.say(f"{receiver.label} <- {link.other(receiver).label}  {_link(link)}  {what}")

    def datagram(
        self, sender: SimNode, receiver: SimNode, datagram: bytes, delays_s: Sequence[float]
    ) -> None:
        """A datagram goes out, and will arrive after each of these times."""
        by = "PUSH" if (sealed := unframe_udp(datagram)) is None else "UDP"
        sealed = datagram if sealed is None else sealed
        fate = " and ".join(f"in {delay_s:.4f} s" for delay_s in delays_s) or "lost"
        self.say(f"{sender.label} ~> {receiver.label}  {by}  {self._opened(sealed)}  ({fate})")

    def told(self, node: SimNode, event: Event) -> None:
        """A core tells its application of something."""
        words = _WORDS.get(type(event), _of_stream)
        self.say(f"{node.label}  {type(event).__name__} {words(self, event)}")

    # Words

    def _opened(self, sealed: bytes) -> str:
        head = header(sealed)
        if head is None or (key := self._network.datagrams.keys.get(head[0])) is None:
            return describe(sealed)
        plain = Opener(ChaChaCipher(key)).open(sealed)
        return f"{head[1]}: {'forged' if plain is None else describe_plain(plain)}"

    def _name(self, address: Address) -> str:
        node = self._network.nodes.get(address)
        return address.short if node is None else node.label

    def _of_peer(self, event: PeerJoined | PeerChanged | PeerForgotten | PeerLeft) -> str:
        peer: Peer = event.peer
        reason = f", {event.reason.value}" if isinstance(event, PeerLeft) else ""
        path = f"{peer.path.reliable.value}, {peer.path.datagram.value}"
        return f"{self._name(peer.address)} {peer.name!r}, {peer.state.value} ({path}){reason}"

    def _of_message(self, event: MessageReceived) -> str:
        message = event.message
        sender = self._name(message.sender)
        return f"from {sender}, channel {message.channel}, {len(message.data)} bytes"

    def _of_end(self, event: SendDone) -> str:
        return f"{event.send_id}: {_error(event.error)}"

    def _of_offer(self, event: StreamOffered) -> str:
        return f"{event.offer.stream.id} {event.offer.name!r} by {self._name(event.offer.peer)}"

    def _of_unread(self, event: UnreliableWaiting) -> str:
        return "single" if event.stream is None else f"of stream {event.stream.id}"


def _of_stream(trace: Trace, event: Any) -> str:
    words = f"{event.stream.id} {event.stream.name!r}"
    if isinstance(event, StreamMessages):
        last = event.first_sequence + len(event.messages) - 1
        words += f": {event.first_sequence} to {last}, {sum(map(len, event.messages))} bytes"
    elif isinstance(event, StreamAcknowledged):
        words += f": to {event.sequence}"
    elif isinstance(event, StreamEnded):
        words += f": {_error(event.error)}"
    return words


def _link(link: SimLink) -> str:
    return f"link {link.number(link.dialler)}"


def _error(error: Exception | None) -> str:
    return "done" if error is None else f"{type(error).__name__}: {error}"


_WORDS: dict[type, Callable[[Trace, Any], str]] = {
    PeerJoined: Trace._of_peer,
    PeerChanged: Trace._of_peer,
    PeerForgotten: Trace._of_peer,
    PeerLeft: Trace._of_peer,
    MessageReceived: Trace._of_message,
    SendDone: Trace._of_end,
    StreamOffered: Trace._of_offer,
    UnreliableWaiting: Trace._of_unread,
}
