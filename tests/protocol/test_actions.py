"""Actions are values: a shell may compare, keep and log them."""

from __future__ import annotations

import dataclasses

import pytest

from brokerless.address import Address
from brokerless.errors import PeerRefused
from brokerless.model import Peer
from brokerless.protocol.actions import Admit, Confirm, Cut, Dial, Refused, Superseded

SOMEBODY = Address(bytes(32))
REFUSAL = PeerRefused(reason="full")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Dial, (SOMEBODY, "tcp://127.0.0.1:1")),
        (Cut, (1, "done")),
        (Confirm, (1,)),
        (Admit, (1, Peer(SOMEBODY))),
        (Refused, (REFUSAL,)),
        (Superseded, ()),
    ],
)
def test_an_action_is_a_value_that_cannot_change(kind: type, values: tuple[object, ...]) -> None:
    action = kind(*values)
    assert action == kind(*values)
    for field, value in zip(dataclasses.fields(action), values, strict=True):
        assert getattr(action, field.name) == value
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(action, field.name, value)
