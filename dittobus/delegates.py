"""What the application overrides to hear from its bus and its streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brokerless import Address, BusError, Message
    from dittobus.bus import DittoBus
    from dittobus.offer import DittoBusStreamOffer
    from dittobus.peers import Peers
    from dittobus.stream import DittoBusStream


class DittoBusDelegate:
    """Hears from a bus: override what you need.

    Callbacks run on the bus's ``delegate_event_queue``, in the order of the events, never two at a time. One
    that raises is logged and changes nothing else; one that takes long makes the others on its queue wait,
    but neither the network nor liveness.
    """

    def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
        """Take a single message; having returned from here counts as having consumed it."""

    def bus_did_receive_stream_offer(self, bus: DittoBus, offer: DittoBusStreamOffer) -> None:
        """Accept or reject, now or later, a stream that a peer wants to open. By default all are accepted.

        What is neither is rejected when the opener's time is up.
        """
        offer.accept()

    def bus_did_receive_incoming_stream(self, bus: DittoBus, stream: DittoBusStream, peer: Address) -> None:
        """Take an accepted stream: set ``stream.delegate`` before returning, and no callback is missed.

        A stream that nobody keeps, neither by a delegate nor by a reference, is aborted.
        """

    def bus_did_update_peers(self, bus: DittoBus, peers: Peers) -> None:
        """Look at ``bus.peers`` as it is now; ``peers.lost`` says who has gone since the last call, and why.

        Those that are known and have not joined are among them, too: see ``peer.has_joined``.

        Called at once when the delegate is set, and then after every change; changes in quick succession are
        taken together when the queue is slow.
        """


class DittoBusStreamDelegate:
    """Hears from a stream: override what you need. Held strongly until the stream is closed.

    Callbacks of one stream come in order and never two at a time.
    """

    def stream_did_enqueue(
        self, stream: DittoBusStream, message_sequence: int, error: BusError | None
    ) -> None:
        """Enqueue the next message, if there is one: this one was accepted, or never will be (``error``).

        On a stream that may lose messages: it was transmitted, or not. Several in a row with the same outcome
        may be told as the last of them.
        """

    def stream_did_receive_message(self, stream: DittoBusStream, message: bytes) -> None:
        """Take the next message; having returned from here counts as having consumed it."""

    def stream_did_acknowledge_receipt(self, stream: DittoBusStream, message_sequence: int) -> None:
        """Know that all messages up to this number are in the memory of the remote bus.

        Not called for a stream that may lose messages.
        """

    def stream_did_finish_receiving(self, stream: DittoBusStream) -> None:
        """Know that the other side sends no more; this side still may."""

    def stream_did_close(self, stream: DittoBusStream, error: BusError | None) -> None:
        """Let go of the stream: nothing comes after this.

        ``error`` is None if the application at the other end consumed all that this side sent;
        ``StreamClosed.last_consumed`` says how far it came otherwise.
        """
