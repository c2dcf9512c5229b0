"""Checks of arguments, the same for every face: they raise at the call, and name the limit."""

from __future__ import annotations

import concurrent.futures
import inspect
import math
from typing import TYPE_CHECKING, TypeVar

from brokerless import Address, ConfigError, MessageTooLarge, Peer, Reliability

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from brokerless import Limits

T = TypeVar("T")

CHANNEL_MAX = 2**32 - 1
"""Channels of single messages: four bytes on the wire."""

CODE_MAX = 2**31 - 1
"""Codes of rejections and resets above this are the bus's own."""

REASON_BYTES_MAX = 1024
"""What a rejection or a reset may say in words, in UTF-8: a sentence, not a document."""


def as_bytes(data: Buffer, argument: str = "data") -> bytes:
    """Return ``data`` itself if it is ``bytes``, else a copy of the buffer's raw bytes.

    The copy is what makes it safe to change a bytearray or a numpy array after the call.
    """
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        raise TypeError(f"{argument}: expected bytes, got str; encode it first")
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"{argument}: expected bytes or another buffer, got {type(data).__name__}") from None
    with view:
        if not view.c_contiguous:
            raise TypeError(f"{argument}: the buffer is not C-contiguous; pass a contiguous copy")
        return view.tobytes()


def checked_message(data: Buffer, limits: Limits, reliability: Reliability = Reliability.RELIABLE) -> bytes:
    """Return the message as bytes, not larger than this side allows."""
    message = as_bytes(data)
    if reliability is not Reliability.RELIABLE:
        if len(message) > limits.datagram_message_bytes_max:
            raise MessageTooLarge(
                f"data: {len(message)} bytes are over the limit of {limits.datagram_message_bytes_max} "
                "for what may be lost",
                hint="send it in several messages, or RELIABLE",
            )
    elif len(message) > limits.message_bytes_max:
        raise MessageTooLarge(
            f"data: {len(message)} bytes are over the limit of {limits.message_bytes_max}",
            hint="send it in several messages, or raise limits.message_bytes_max on both sides",
        )
    return message


def checked_timeout(timeout: float | None) -> float | None:
    """Return ``timeout`` in seconds; None means no limit."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout: expected seconds or None, got {type(timeout).__name__}")
    if not 0 <= timeout < math.inf:
        raise ConfigError(f"timeout: expected 0 or more seconds, or None for no limit, got {timeout!r}")
    return timeout


def checked_peer(to: Address | Peer, argument: str = "to") -> Address:
    """Return the address of ``to``."""
    if isinstance(to, Address):
        return to
    if isinstance(to, Peer):
        return to.address
    hint = ""
    if isinstance(to, str):
        hint = "; wait_for_peer finds one by name, DittoAddress.parse reads one"
    elif isinstance(to, concurrent.futures.Future):
        hint = "; its result() is one, perhaps"
    elif inspect.isawaitable(to):
        hint = "; await it"
    raise TypeError(f"{argument}: expected a DittoAddress or a Peer, got {type(to).__name__}{hint}")


def checked_delegate(delegate: T) -> T:
    """Return the delegate, which is no class: one that was forgotten to be called is told nothing."""
    if isinstance(delegate, type):
        raise TypeError(f"delegate: expected an object, got the class {delegate.__name__}; call it")
    return delegate


def checked_reliability(reliability: Reliability) -> Reliability:
    """Return ``reliability``, which is one of three."""
    if not isinstance(reliability, Reliability):
        raise TypeError(f"reliability: expected a DittoBusReliability, got {type(reliability).__name__}")
    return reliability


def checked_channel(channel: int) -> int:
    """Return the number of a channel."""
    if isinstance(channel, bool) or not isinstance(channel, int):
        raise TypeError(f"channel: expected int, got {type(channel).__name__}")
    if not 0 <= channel <= CHANNEL_MAX:
        raise ConfigError(f"channel: expected 0 to {CHANNEL_MAX}, got {channel}")
    return channel


def checked_sequence(sequence: int) -> int:
    """Return the number of a message."""
    if isinstance(sequence, bool) or not isinstance(sequence, int):
        raise TypeError(f"sequence: expected int, got {type(sequence).__name__}")
    if sequence < 0:
        raise ConfigError(f"sequence: expected 0 or more, got {sequence}")
    return sequence


def checked_name(name: str, limits: Limits) -> str:
    """Return the name of a stream or peer."""
    return _checked_text(name, "name", limits.name_bytes_max)


def checked_metadata(metadata: Buffer, limits: Limits) -> bytes:
    """Return the metadata of a stream or peer as bytes."""
    data = as_bytes(metadata, "metadata")
    if len(data) > limits.metadata_bytes_max:
        raise ConfigError(f"metadata: at most {limits.metadata_bytes_max} bytes, got {len(data)}")
    return data


def checked_code(code: int) -> int:
    """Return the code of a rejection or a reset."""
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"code: expected int, got {type(code).__name__}")
    if not 0 <= code <= CODE_MAX:
        raise ConfigError(f"code: expected 0 to {CODE_MAX}, got {code}")
    return code


def checked_reason(reason: str) -> str:
    """Return what a rejection or a reset says in words."""
    return _checked_text(reason, "reason", REASON_BYTES_MAX)


def _checked_text(text: str, argument: str, bytes_max: int) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{argument}: expected str, got {type(text).__name__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"{argument}: holds half a surrogate pair, which is no text") from None
    if size > bytes_max:
        raise ConfigError(f"{argument}: at most {bytes_max} bytes in UTF-8, got {size}")
    return text
