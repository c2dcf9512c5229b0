from __future__ import annotations

import array
import concurrent.futures
import ctypes
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Address, ConfigError, Limits, MessageTooLarge, Peer, Reliability
from dittobus._arguments import (
    as_bytes,
    checked_channel,
    checked_code,
    checked_message,
    checked_metadata,
    checked_name,
    checked_peer,
    checked_reason,
    checked_reliability,
    checked_timeout,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_bytes_are_not_copied() -> None:
    data = b"data"
    assert as_bytes(data) is data


class MyBytes(bytes):
    pass


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytearray(b"data"), b"data"),
        (memoryview(b"data")[1:3], b"at"),
        (MyBytes(b"data"), b"data"),
        (array.array("H", [1, 2]), array.array("H", [1, 2]).tobytes()),
        ((ctypes.c_uint8 * 3)(1, 2, 3), b"\1\2\3"),
        (memoryview(bytes(6)).cast("B", (2, 3)), bytes(6)),
    ],
)
def test_other_buffers_are_copied_as_raw_bytes(data: Any, expected: bytes) -> None:
    result = as_bytes(data)
    assert (type(result), result) == (bytes, expected)


@pytest.mark.parametrize("data", ["text", None, 7, [1, 2], memoryview(b"abcd")[::2]])
def test_other_things_are_refused(data: Any) -> None:
    with pytest.raises(TypeError, match="the argument"):
        as_bytes(data, "the argument")


def test_a_message_has_its_limit() -> None:
    limits = Limits(message_bytes_max=4)
    assert checked_message(b"1234", limits) == b"1234"
    with pytest.raises(MessageTooLarge, match="5 bytes are over the limit of 4"):
        checked_message(b"12345", limits)


@pytest.mark.parametrize("timeout", [None, 0, 0.5, 10])
def test_timeouts(timeout: float | None) -> None:
    assert checked_timeout(timeout) == timeout


@pytest.mark.parametrize("timeout", [-0.1, float("nan"), float("inf")])
def test_timeouts_that_cannot_be(timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        checked_timeout(timeout)


@pytest.mark.parametrize("timeout", ["1", True, [1]])
def test_timeouts_that_are_none(timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout"):
        checked_timeout(timeout)


def test_a_peer_is_named_by_its_address_or_its_snapshot() -> None:
    address = Address(bytes(32))
    assert checked_peer(address) is address
    assert checked_peer(Peer(address)) is address
    with pytest.raises(TypeError, match=r"to: .*DittoAddress\.parse"):
        checked_peer(str(address))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="to: expected"):
        checked_peer(None)  # type: ignore[arg-type]


def test_what_is_to_bring_a_peer_is_none() -> None:
    with pytest.raises(TypeError, match=r"got Future; its result\(\) is one"):
        checked_peer(concurrent.futures.Future())  # type: ignore[arg-type]

    async def find() -> Peer:
        return Peer(Address(bytes(32)))

    finding = find()
    with pytest.raises(TypeError, match="got coroutine; await it"):
        checked_peer(finding)  # type: ignore[arg-type]
    finding.close()


def test_names_and_metadata_have_their_limits() -> None:
    limits = Limits()
    assert checked_name("ü" * 32, limits) == "ü" * 32
    with pytest.raises(ConfigError, match="name: at most 64 bytes"):
        checked_name("ü" * 33, limits)
    with pytest.raises(TypeError, match="name"):
        checked_name(b"name", limits)  # type: ignore[arg-type]
    assert checked_metadata(bytearray(4096), limits) == bytes(4096)
    with pytest.raises(ConfigError, match="metadata: at most 4096 bytes"):
        checked_metadata(bytes(4097), limits)


@pytest.mark.parametrize("check", [checked_channel, checked_code])
def test_codes_and_channels_are_whole_numbers(check: Callable[[Any], object]) -> None:
    for right in (0, 2**31 - 1):
        assert check(right) == right
    for wrong in (-1, 2**32):
        with pytest.raises(ConfigError):
            check(wrong)
    for kind in (True, 1.0, "1"):
        with pytest.raises(TypeError):
            check(kind)


def test_reasons_are_text_that_fits_the_wire() -> None:
    assert checked_reason("ü" * 512) == "ü" * 512
    with pytest.raises(ConfigError, match="reason: at most 1024 bytes"):
        checked_reason("ü" * 513)
    with pytest.raises(TypeError, match="reason"):
        checked_reason(b"reason")  # type: ignore[arg-type]


@pytest.mark.parametrize("check", [checked_reason, lambda text: checked_name(text, Limits())])
def test_half_a_character_is_no_text(check: Callable[[str], object]) -> None:
    with pytest.raises(ConfigError, match="surrogate"):
        check("\ud800")


def test_a_reliability_is_one_of_three() -> None:
    assert checked_reliability(Reliability.RELIABLE) is Reliability.RELIABLE
    with pytest.raises(TypeError, match="reliability"):
        checked_reliability("reliable")  # type: ignore[arg-type]
