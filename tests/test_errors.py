from __future__ import annotations

import inspect
import pickle
import re

import pytest

from brokerless import errors
from brokerless.address import Address
from brokerless.errors import (
    BusError,
    ConfigError,
    IdentityInUse,
    PeerLost,
    PeerRefused,
    StartError,
    StreamClosed,
    StreamRejected,
    StreamReset,
    VersionMismatch,
)

ALICE = Address(bytes(32))

TREE = {
    "BusError": "Exception",
    "UsageError": "BusError",
    "ConfigError": "UsageError ValueError",
    "MessageTooLarge": "UsageError ValueError",
    "StreamNotReady": "UsageError",
    "SendQueueFull": "UsageError",
    "ClosedError": "UsageError",
    "BusClosed": "ClosedError",
    "StreamFinished": "ClosedError",
    "ForkedProcessError": "UsageError",
    "StartError": "BusError OSError",
    "PortInUse": "StartError",
    "IdentityInUse": "StartError",
    "BusTimeout": "BusError TimeoutError",
    "OpenTimeout": "BusTimeout",
    "SendTimeout": "BusTimeout",
    "WaitTimeout": "BusTimeout",
    "PeerError": "BusError",
    "UnknownPeer": "PeerError LookupError",
    "AmbiguousPeer": "PeerError LookupError",
    "NoPath": "PeerError",
    "PeerLost": "PeerError",
    "PeerRefused": "PeerError",
    "VersionMismatch": "PeerRefused",
    "DeliveryUnknown": "BusError",
    "StreamError": "BusError",
    "StreamRejected": "StreamError",
    "StreamReset": "StreamError",
    "StreamClosed": "StreamError",
    "EndOfStream": "BusError EOFError",
    "ProtocolError": "BusError",
    "LocalProtocolError": "ProtocolError",
    "RemoteProtocolError": "ProtocolError",
    "WireError": "RemoteProtocolError",
}
"""Each error and its bases, as the contract draws them."""

ERRORS = {
    name: error
    for name, error in vars(errors).items()
    if inspect.isclass(error) and issubclass(error, BusError)
}


def test_the_tree_is_as_agreed() -> None:
    assert {
        name: " ".join(base.__name__ for base in error.__bases__) for name, error in ERRORS.items()
    } == TREE


def test_the_drawing_shows_every_error_below_its_base() -> None:
    drawing = (errors.__doc__ or "").partition("::\n")[2]
    for name, bases in TREE.items():
        base = bases.split()[0]
        place = re.search(rf"\b{name}\b", drawing)
        assert place is not None
        assert base == "Exception" or drawing.index(base) < place.start()
        for builtin in bases.split()[1:]:
            assert drawing[place.end() :].startswith(f"({builtin})")


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_every_error_says_what_happened_to_whom_and_what_to_do(error: type[BusError]) -> None:
    details = {"reason": "left", "code": 1, "last_consumed": 1}
    required = {
        name: details[name]
        for name, parameter in inspect.signature(error).parameters.items()
        if parameter.default is parameter.empty
    }
    raised = error(**required, peer=ALICE, hint="try again")
    assert raised.peer == ALICE
    assert raised.hint == "try again"
    assert str(raised).endswith("(try again)")
    bare = error(**required)
    assert bare.peer is None
    assert bare.hint == ""


def test_an_error_without_a_hint_is_its_message() -> None:
    assert str(BusError("the port is taken")) == "the port is taken"
    assert str(StartError("the port is taken", hint="choose another")) == "the port is taken (choose another)"
    assert str(BusError()) == ""


def test_errors_of_this_machine_are_caught_as_such() -> None:
    with pytest.raises(OSError, match="in use"):
        raise IdentityInUse("the identity is in use")
    with pytest.raises(ValueError, match="port"):
        raise ConfigError("port: 0 to 65535")


def test_errors_carry_their_details() -> None:
    lost = PeerLost(reason="silent", silent_s=5.5)
    assert (lost.reason, lost.silent_s, str(lost)) == ("silent", 5.5, "peer lost: silent")
    refused = PeerRefused(reason="full")
    assert (refused.reason, str(refused)) == ("full", "refused: full")
    assert VersionMismatch("we speak 1, they speak 2", reason="versions").reason == "versions"
    rejected = StreamRejected(7, "busy")
    assert (rejected.code, rejected.reason) == (7, "busy")
    assert "7" in str(rejected)
    assert "busy" in str(rejected)
    reset = StreamReset(8)
    assert (reset.code, reset.reason) == (8, "")
    assert StreamClosed(9).last_consumed == 9
    assert "9" in str(StreamClosed(9))


@pytest.mark.parametrize(
    "error",
    [
        errors.BusError("plain", hint="do this"),
        errors.PortInUse("taken"),
        errors.PeerLost(reason="silent", silent_s=5.0, peer=Address(bytes(32))),
        errors.PeerRefused(reason="full"),
        errors.StreamRejected(7, "no"),
        errors.StreamReset(8, "gone"),
        errors.StreamClosed(9),
    ],
)
def test_an_error_survives_the_way_to_another_process(error: errors.BusError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
