"""Everything that can go wrong, in one tree.

Where an error stands says whose doing it was: ``UsageError`` the caller's, ``StartError`` this machine's,
``PeerError`` and ``StreamError`` the peer's, ``BusTimeout`` and ``DeliveryUnknown`` the world's::

    BusError                       .peer .hint
    ├ UsageError: ConfigError(ValueError) MessageTooLarge(ValueError) StreamNotReady SendQueueFull
    │             ClosedError{BusClosed, StreamFinished} ForkedProcessError
    ├ StartError(OSError): PortInUse IdentityInUse
    ├ BusTimeout(TimeoutError): OpenTimeout SendTimeout WaitTimeout
    ├ PeerError: UnknownPeer(LookupError) AmbiguousPeer(LookupError) NoPath PeerLost
    │            PeerRefused{VersionMismatch}
    ├ DeliveryUnknown              __cause__: PeerLost, BusTimeout or BusClosed
    ├ StreamError: StreamRejected StreamReset StreamClosed
    ├ EndOfStream(EOFError)
    └ ProtocolError: LocalProtocolError RemoteProtocolError{WireError}

The normal end of a stream is the end of iteration; ``EndOfStream`` is how a single ``receive`` says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brokerless.address import Address


class BusError(Exception):
    """Root of all errors of the bus.

    ``peer`` is the peer concerned, or None. ``hint`` says what to do about it, or is empty.
    """

    def __init__(self, message: str = "", *, peer: Address | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message

    def __reduce__(self) -> tuple[Any, ...]:
        # By its parts, not by its arguments: those of the subclasses differ, and pools pickle errors.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[BusError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> BusError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


class UsageError(BusError):
    """The caller asked for something that cannot be; the program needs changing."""


class ConfigError(UsageError, ValueError):
    """An argument is out of its range; the message names the argument and its limit."""


class MessageTooLarge(UsageError, ValueError):
    """The message is over a limit; nothing of it was sent."""


class StreamNotReady(UsageError):
    """A message is still being enqueued; wait for ``stream_did_enqueue`` (or ``is_ready``)."""


class SendQueueFull(UsageError):
    """The send queue has no room for this message now; wait until the stream is ready, or slow down."""


class ClosedError(UsageError):
    """What was used has been closed on this side."""


class BusClosed(ClosedError):
    """The bus is closed (or was never started)."""


class StreamFinished(ClosedError):
    """This side of the stream has been finished or closed; it sends no more."""


class ForkedProcessError(UsageError):
    """The bus was started in another process; make a new one after ``fork``, or use ``spawn``."""


class StartError(BusError, OSError):
    """The bus could not start on this machine."""


class PortInUse(StartError):
    """Another process holds the port."""


class IdentityInUse(StartError):
    """Another live process uses the same identity."""


class BusTimeout(BusError, TimeoutError):
    """Something did not happen in the time allowed."""


class OpenTimeout(BusTimeout):
    """Nobody accepted the stream in time; it was reset."""


class SendTimeout(BusTimeout):
    """The message did not leave this process in time; it was not sent."""


class WaitTimeout(BusTimeout):
    """What was waited for did not come in time."""


class PeerError(BusError):
    """Something about the peer."""


class UnknownPeer(PeerError, LookupError):
    """No such peer is known: none was heard of, or it has left for good."""


class AmbiguousPeer(PeerError, LookupError):
    """Several live peers hold that name; use the address."""


class NoPath(PeerError):
    """No working path for unreliable messages to that peer."""


class PeerLost(PeerError):
    """The conversation with the peer is over.

    ``reason`` is one of ``left``, ``silent``, ``restarted``, ``expelled``; ``silent_s`` is how long it had
    not been heard, in seconds.
    """

    def __init__(
        self,
        message: str = "",
        *,
        reason: str,
        silent_s: float = 0.0,
        peer: Address | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message or f"peer lost: {reason}", peer=peer, hint=hint)
        self.reason = reason
        self.silent_s = silent_s


class PeerRefused(PeerError):
    """The peer, or this node's ``admit``, refused the conversation; ``reason`` says why."""

    def __init__(
        self, message: str = "", *, reason: str, peer: Address | None = None, hint: str = ""
    ) -> None:
        super().__init__(message or f"refused: {reason}", peer=peer, hint=hint)
        self.reason = reason


class VersionMismatch(PeerRefused):
    """The two sides speak no common version of the wire; ``reason`` names both."""


class DeliveryUnknown(BusError):
    """A reliable message left this process, but its acknowledgement never came: it may have arrived.

    ``__cause__`` is the ``PeerLost``, ``BusTimeout`` or ``BusClosed`` that cut the wait short.
    """


class StreamError(BusError):
    """The other end's doing on one stream."""


def _answer(code: int, reason: str) -> str:
    return f"with code {code}: {reason!r}" if reason else f"with code {code}, for no reason that was given"


class StreamRejected(StreamError):
    """The other side did not take the stream; ``code`` and ``reason`` are its own."""

    def __init__(self, code: int, reason: str = "", *, peer: Address | None = None, hint: str = "") -> None:
        super().__init__(f"stream rejected {_answer(code, reason)}", peer=peer, hint=hint)
        self.code = code
        self.reason = reason


class StreamReset(StreamError):
    """The stream was aborted; what was under way is gone. ``code`` and ``reason`` are the aborter's."""

    def __init__(self, code: int, reason: str = "", *, peer: Address | None = None, hint: str = "") -> None:
        super().__init__(f"stream reset {_answer(code, reason)}", peer=peer, hint=hint)
        self.code = code
        self.reason = reason


class StreamClosed(StreamError):
    """The other end closed before its application consumed all; ``last_consumed`` is the last it did.

    Or a ``close`` ran out of time, that of the other end before this application had consumed all, or that of
    this end before the other had; the text says which. Messages after ``last_consumed`` were not processed at
    the other end; 0 means none was.
    """

    def __init__(self, last_consumed: int, *, peer: Address | None = None, hint: str = "") -> None:
        super().__init__(f"stream closed; the other end consumed up to {last_consumed}", peer=peer, hint=hint)
        self.last_consumed = last_consumed


class EndOfStream(BusError, EOFError):
    """The other end finished, and everything it sent has been received."""


class ProtocolError(BusError):
    """The rules of the wire were broken."""


class LocalProtocolError(ProtocolError):
    """This node was about to break them: a defect of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer broke them; it is disconnected with this as the reason."""


class WireError(RemoteProtocolError):
    """Bytes from the peer that are no packet."""
