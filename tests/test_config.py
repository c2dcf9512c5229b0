from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from brokerless.address import Address, Ticket
from brokerless.config import KIB, MIB, Limits, NodeConfig
from brokerless.errors import ConfigError

TICKET = Ticket(Address(bytes(32)), ("tcp://192.0.2.7:4000",))


# Limits


def test_the_limits_are_as_agreed() -> None:
    assert dataclasses.asdict(Limits()) == {
        "message_bytes_max": 64 * MIB,
        "datagram_message_bytes_max": 64 * KIB,
        "stream_window_bytes": MIB,
        "stream_window_initial_bytes": 64 * KIB,
        "send_queue_bytes_max": MIB,
        "unacknowledged_bytes_max": 8 * MIB,
        "unreliable_queue_bytes_max": MIB,
        "peer_memory_bytes_max": 128 * MIB,
        "memory_bytes_max": 512 * MIB,
        "streams_max": 32_768,
        "offers_max": 256,
        "peers_max": 4_096,
        "eager_dials_max": 64,
        "name_bytes_max": 64,
        "metadata_bytes_max": 4_096,
        "liveness_s": 5.0,
        "handshake_timeout_s": 5.0,
        "admit_timeout_s": 10.0,
        "redial_min_s": 0.1,
        "redial_max_s": 5.0,
        "reassembly_timeout_s": 1.0,
        "exit_timeout_s": 1.0,
    }


def test_limits_are_frozen_keyword_only_and_picklable() -> None:
    limits = Limits(liveness_s=2)
    assert pickle.loads(pickle.dumps(limits)) == limits
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.liveness_s = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(64)  # type: ignore[misc]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 2**53, True, "5", None, 5j])
def test_every_limit_is_a_positive_number(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"limits\.{name}: "):
        Limits(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits) if field.type == "int"])
def test_what_is_counted_is_whole(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"limits\.{name}: expected an int"):
        Limits(**{name: 1024.0})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"message_bytes_max": 2**31 + 1}, "message_bytes_max: at most 2 GiB"),
        ({"message_bytes_max": 128 * MIB + 1}, "message_bytes_max: at most peer_memory_bytes_max"),
        ({"datagram_message_bytes_max": 64 * KIB + 1}, "datagram_message_bytes_max: at most 64 KiB"),
        ({"stream_window_initial_bytes": 1023}, "stream_window_initial_bytes: at least 1 KiB"),
        ({"stream_window_initial_bytes": MIB + 1}, "stream_window_initial_bytes: at most stream_window"),
        ({"peer_memory_bytes_max": 512 * MIB + 1}, "peer_memory_bytes_max: at most memory_bytes_max"),
        ({"name_bytes_max": 65}, "name_bytes_max: at most 64"),
        ({"metadata_bytes_max": 4_097}, "metadata_bytes_max: at most 4,096"),
        ({"redial_min_s": 5.1}, "redial_min_s: at most redial_max_s"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits(**limits)


# Configuration


def test_everything_has_a_default() -> None:
    config = NodeConfig()
    assert (config.name, config.mesh, config.discovery) == (
        "",
        "dittobus",
        ("zeroconf", "registry", "gossip"),
    )
    assert config.limits == Limits()


def test_a_full_configuration_is_taken() -> None:
    NodeConfig(
        name="é" * 32,
        mesh="m" * 64,
        secret=bytes(32),
        admit=lambda peer: None,
        identity=Path("key"),
        peers=[TICKET, str(TICKET)],
        discovery=[object(), "registry"],
        interfaces=["192.0.2.7"],
        port=65535,
        advertise=["tcp://example.org:4000"],
        directory=Path("somewhere"),
        metadata=bytes(4_096),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "x" * 65}, "name: at most 64 bytes"),
        ({"name": "e\u0301" * 22}, "name: at most 64 bytes"),
        ({"name": "\ud800"}, "name: .*surrogate"),
        ({"name": b"x"}, "name: expected str, got bytes"),
        ({"name": None}, "name: expected str, got NoneType"),
        ({"limits": None}, "limits: expected Limits"),
        ({"limits": Limits(name_bytes_max=3), "name": "four"}, "name: at most 3 bytes"),
        ({"metadata": bytes(4_097)}, "metadata: .*4096"),
        ({"metadata": "text"}, "metadata: bytes"),
        ({"mesh": ""}, "mesh: 1 to 64 bytes"),
        ({"secret": "short"}, "secret: at least 8 characters"),
        ({"secret": b"short"}, "secret: at least 32 bytes"),
        ({"trust": "all"}, "trust: expected None or 'open'"),
        ({"trust": "open", "secret": "long enough"}, "trust: 'open'"),
        ({"port": -1}, "port: 0 to 65535"),
        ({"port": 65536}, "port: 0 to 65535"),
        ({"port": "4000"}, "port: 0 to 65535"),
        ({"port": True}, "port: 0 to 65535"),
        ({"admit": "yes"}, "admit: expected a callable"),
        ({"peers": str(TICKET)}, "peers: expected a sequence"),
        ({"peers": ["dittobus://nobody"]}, "ticket: "),
        ({"discovery": "zeroconf"}, "discovery: expected a sequence"),
        (
            {"discovery": ["gosip"]},
            "discovery: expected zeroconf, registry, gossip or an object, got 'gosip'",
        ),
        ({"discovery": None}, "discovery: expected a sequence, got None"),
        ({"peers": 5}, "peers: expected a sequence, got 5"),
        ({"interfaces": []}, "interfaces: expected one address or more, or None"),
        ({"interfaces": "192.0.2.7"}, "interfaces: expected a sequence"),
        ({"interfaces": [""]}, "interfaces: expected addresses"),
        ({"interfaces": [7]}, "interfaces: expected addresses"),
        ({"interfaces": ["lo"]}, "interfaces: expected addresses"),
        ({"identity": 5}, "identity: expected a path, an Identity or None, got int"),
        ({"identity": b"a key"}, "identity: expected a path, an Identity or None, got bytes"),
        ({"advertise": "tcp://example.org:4000"}, "advertise: expected a sequence"),
        ({"advertise": ["example.org:4000"]}, "advertise: endpoint: expected"),
    ],
)
def test_what_is_out_of_range_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NodeConfig(**arguments)


def test_no_secret_is_shown() -> None:
    assert "correct horse" not in repr(NodeConfig(secret="correct horse"))
    with pytest.raises(ConfigError) as caught:
        NodeConfig(secret="horse", trust="closed")
    assert "horse" not in str(caught.value)
