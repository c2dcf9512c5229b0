from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import dittobus
from brokerless import NodeConfig
from dittobus import ConfigError, DittoBus, Limits, Ticket, UsageError, aio, blocking
from dittobus._environment import child_environment
from tests.dittobus.conftest import SECRET

PROCESS_S = 45.0
"""How long such a process may take on a busy machine before it counts as hanging."""

TICKETS = [
    f"dittobus://{dittobus.DittoAddress(bytes([number] * 32))}@127.0.0.1:400{number},[::1]:500{number}"
    for number in range(2)
]

VARIABLES = ("MESH", "SECRET", "SECRET_FILE", "IDENTITY", "PEERS", "ARGUMENTS")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(f"DITTOBUS_{variable}", raising=False)


@pytest.fixture
def set_variables(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_variables(**variables: str) -> None:
        for variable, value in variables.items():
            monkeypatch.setenv(f"DITTOBUS_{variable}", value)

    return set_variables


# Reading


def test_nothing_set_means_no_arguments(set_variables: Any) -> None:
    assert dittobus.environment() == {}
    set_variables(**dict.fromkeys(VARIABLES, ""))
    assert dittobus.environment() == {}


def test_every_variable_becomes_an_argument(set_variables: Any, tmp_path: Path) -> None:
    identity = str(tmp_path / "identity")
    set_variables(MESH="robots", SECRET="a good passphrase", IDENTITY=identity, PEERS=TICKETS[0])
    arguments = dittobus.environment()
    assert arguments == {
        "mesh": "robots",
        "secret": "a good passphrase",
        "identity": identity,
        "peers": [TICKETS[0]],
    }
    for face in (DittoBus, aio.Bus, blocking.Bus):
        face("bus", **arguments)


OTHERS = {
    "advertise": ["tcp://127.0.0.1:4001"],
    "directory": "/somewhere",
    "discovery": ["registry"],
    "interfaces": ["127.0.0.1"],
    "limits": {"liveness_s": 20.0},
    "port": 4000,
    "trust": None,
}


def test_what_has_no_variable_may_be_said_in_json(set_variables: Any) -> None:
    set_variables(MESH="robots", ARGUMENTS=json.dumps(OTHERS))
    arguments = dittobus.environment()
    assert arguments == {**OTHERS, "limits": Limits(liveness_s=20.0), "mesh": "robots"}
    for face in (DittoBus, aio.Bus, blocking.Bus):
        face("bus", **arguments)


@pytest.mark.parametrize(
    "text",
    [
        "{0} {1}",
        "{0},{1}",
        "  {0} ,\n\t{1},\n",
    ],
)
def test_tickets_are_separated_by_white_space_or_commas(set_variables: Any, text: str) -> None:
    set_variables(PEERS=text.format(*TICKETS))
    peers = dittobus.environment()["peers"]
    assert peers == TICKETS
    assert len(Ticket.parse(peers[0]).endpoints) == 2  # which have a comma in between, too


SECRETS: list[tuple[str, str | bytes]] = [
    ("a good passphrase", "a good passphrase"),
    (" with spaces\tand ümlauts ", " with spaces\tand ümlauts "),
    ("hex:" + "0aFF" * 16, bytes.fromhex("0aff") * 16),
    ("text:hex:not bytes", "hex:not bytes"),
    ("text:text:twice", "text:twice"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_a_secret_has_one_text_form(
    set_variables: Any, tmp_path: Path, text: str, secret: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(SECRET=text)
    assert dittobus.environment() == {"secret": secret}
    monkeypatch.delenv("DITTOBUS_SECRET")
    for end in ("", "\n", "\r\n"):
        file = tmp_path / "secret"
        file.write_bytes((text + end).encode())
        set_variables(SECRET_FILE=str(file))
        assert dittobus.environment() == {"secret": secret}


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"MESH": "x" * 65}, "DITTOBUS_MESH: mesh: 1 to 64 bytes"),
        ({"SECRET": "short"}, "DITTOBUS_SECRET: secret: at least 8 characters"),
        ({"SECRET": "hex:abcd"}, "DITTOBUS_SECRET: secret: at least 32 bytes"),
        ({"SECRET": "hex:my house"}, "DITTOBUS_SECRET: .* not hexadecimal .*text:"),
        ({"SECRET": "long enough", "SECRET_FILE": "x"}, "DITTOBUS_SECRET, DITTOBUS_SECRET_FILE: only one"),
        ({"SECRET_FILE": "no such file"}, "DITTOBUS_SECRET_FILE: cannot read no such file: No such file"),
        ({"PEERS": "somewhere"}, "DITTOBUS_PEERS: ticket: expected dittobus://"),
        ({"PEERS": f"{TICKETS[0]} somewhere"}, "DITTOBUS_PEERS: "),
        ({"ARGUMENTS": "discovery=registry"}, "DITTOBUS_ARGUMENTS: no JSON"),
        ({"ARGUMENTS": "[]"}, "DITTOBUS_ARGUMENTS: expected an object in JSON, got list"),
        ({"ARGUMENTS": '{"secret": "my house"}'}, "DITTOBUS_ARGUMENTS: secret is none of advertise, "),
        ({"ARGUMENTS": '{"port": "80"}'}, "DITTOBUS_ARGUMENTS: port: 0 to 65535"),
        ({"ARGUMENTS": '{"limits": {"liveness_s": 0}}'}, "DITTOBUS_ARGUMENTS: limits: .*liveness_s"),
        ({"ARGUMENTS": '{"limits": {"liveness": 1}}'}, "DITTOBUS_ARGUMENTS: limits: .*liveness"),
        ({"ARGUMENTS": '{"limits": 5}'}, "DITTOBUS_ARGUMENTS: limits: "),
    ],
)
def test_errors_name_the_variable_and_no_secret(
    set_variables: Any, variables: dict[str, str], match: str
) -> None:
    set_variables(**variables)
    with pytest.raises(ConfigError, match=match) as caught:
        dittobus.environment()
    assert "my house" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "at least 8 characters"),
        (b"x" * 4097, "larger than 4096 bytes"),
        (b"\xff" * 32, "no text in UTF-8 .*hex:"),
    ],
)
def test_a_secret_file_that_holds_none(
    set_variables: Any, tmp_path: Path, content: bytes, match: str
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    set_variables(SECRET_FILE=str(file))
    with pytest.raises(ConfigError, match=f"DITTOBUS_SECRET_FILE: .*{match}"):
        dittobus.environment()


# Handing on


def test_a_child_gets_the_mesh_and_no_identity(
    mesh: dict[str, Any], set_variables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(SECRET_FILE="of the parent's parent", IDENTITY="the parent's")
    monkeypatch.setenv("UNRELATED", "kept")
    arguments = {**mesh, "mesh": "robots", "peers": [TICKETS[1]], "identity": tmp_path / "identity"}
    with DittoBus(**arguments) as bus:
        child = bus.child_environment()
        ticket = str(bus.ticket())
    others = {name: mesh[name] for name in ("directory", "discovery", "interfaces")}
    assert {name: value for name, value in child.items() if name.startswith("DITTOBUS_")} == {
        "DITTOBUS_MESH": "robots",
        "DITTOBUS_SECRET": f"hex:{SECRET.hex()}",
        "DITTOBUS_PEERS": f"{ticket} {TICKETS[1]}",
        "DITTOBUS_ARGUMENTS": json.dumps(others),
    }
    assert child["UNRELATED"] == "kept"
    assert os.environ["DITTOBUS_IDENTITY"] == "the parent's"


def test_a_child_is_where_its_parent_is_and_looks_for_peers_as_it_does(
    mesh: dict[str, Any], set_variables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that keeps to loopback, say, must not have a child that listens everywhere."""
    set_variables(ARGUMENTS=json.dumps(OTHERS))  # of which this bus is not made
    monkeypatch.chdir(Path(mesh["directory"]).parent)
    places = {
        "trust": "open",
        "directory": Path(mesh["directory"]).name,
        "discovery": ["registry", Silent()],
        "interfaces": ["127.0.0.1"],
        "limits": Limits(liveness_s=1.5, streams_max=5),
    }
    with blocking.Bus("parent", metadata=b"its own", advertise=("tcp://127.0.0.1:4001",), **places) as bus:
        monkeypatch.setattr(os, "environ", bus.child_environment())
        ticket = str(bus.ticket())
    assert dittobus.environment() == {
        **places,
        "mesh": "dittobus",
        "peers": [ticket],
        "directory": mesh["directory"],
        "discovery": ["registry"],
    }


class Silent:
    """A discovery that is an object, which no variable can carry."""

    name = "silent"

    async def start(self, beacon: object, report: object) -> None: ...
    async def announce(self, beacon: object) -> None: ...
    async def close(self) -> None: ...


def test_what_a_parent_left_as_it_is_its_children_may_choose() -> None:
    variables = child_environment(NodeConfig(), Ticket.parse(TICKETS[0]))
    assert {name for name in variables if name.startswith("DITTOBUS_")} == {"DITTOBUS_MESH", "DITTOBUS_PEERS"}


@pytest.mark.parametrize("secret", [secret for _, secret in SECRETS])
def test_every_secret_comes_through(
    mesh: dict[str, Any], secret: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blocking.Bus(**{**mesh, "secret": secret}) as bus:
        monkeypatch.setattr(os, "environ", bus.child_environment())
    assert dittobus.environment()["secret"] == secret


def test_without_a_secret_there_is_none_to_hand_on(mesh: dict[str, Any]) -> None:
    with blocking.Bus(**{**mesh, "secret": None}) as bus:
        assert "DITTOBUS_SECRET" not in bus.child_environment()


def test_what_no_environment_can_carry(mesh: dict[str, Any]) -> None:
    with (
        blocking.Bus(**{**mesh, "secret": "with a \0 in it"}) as bus,
        pytest.raises(ConfigError, match="DITTOBUS_SECRET: holds a NUL") as caught,
    ):
        bus.child_environment()
    assert "in it" not in str(caught.value)


def test_a_bus_that_does_not_run_has_no_children(mesh: dict[str, Any]) -> None:
    bus = DittoBus(**mesh)
    with pytest.raises(UsageError, match="not started"):
        bus.child_environment()


CHILD = """
import dittobus
from dittobus.blocking import Bus
with Bus("child", **dittobus.environment()) as bus:
    parent = bus.wait_for_peer("parent", timeout=None)
    stream = bus.open_stream(parent, name="work", timeout=None)
    with stream:
        for number in stream:
            stream.send(b"%d" % int(number) ** 2)
        stream.finish()
"""


def test_children_join_by_their_environment_alone(mesh: dict[str, Any]) -> None:
    """Not even a registry is shared: the ticket and the secret are all they have."""
    with blocking.Bus("parent", **{**mesh, "discovery": ()}) as parent, ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-W", "error", "-c", CHILD], env=parent.child_environment())
            )
            for _ in range(3)
        ]
        streams = [parent.receive_offer(PROCESS_S).accept() for _ in children]
        assert len({stream.peer for stream in streams}) == len(children)
        for number, stream in enumerate(streams):
            stream.send(b"%d" % number)
        assert [stream.receive(PROCESS_S) for stream in streams] == [b"0", b"1", b"4"]
        for stream in streams:
            stream.finish()
            assert list(stream) == []
            stream.close()
        assert [child.wait(PROCESS_S) for child in children] == [0, 0, 0]


@pytest.mark.asyncio
async def test_the_asyncio_face_has_children_too(mesh: dict[str, Any]) -> None:
    async with aio.Bus("parent", **mesh) as bus:
        assert bus.child_environment()["DITTOBUS_PEERS"] == str(bus.ticket())
