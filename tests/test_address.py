from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.address import TICKET_ENDPOINTS_MAX, Address, Ticket, parse_endpoint
from brokerless.errors import ConfigError

KEYS = st.binary(min_size=32, max_size=32)
ALICE = Address(bytes(range(32)))


# Addresses


def test_an_address_is_written_in_base32hex() -> None:
    assert str(ALICE) == "000g40o40k30e209185go38e1s8124gj2gahc5oo34d1m70t3ofg"
    assert str(Address(bytes(32))) == "0" * 52
    assert str(Address(b"\xff" * 32)) == "v" * 51 + "g"


@given(KEYS)
def test_what_is_written_is_parsed_back(key: bytes) -> None:
    address = Address(key)
    for text in (str(address), str(address).upper()):
        assert Address.parse(text) == address
        assert Address.parse(text).public_key == key


@given(KEYS, KEYS)
def test_addresses_and_their_texts_sort_like_the_bytes(one: bytes, other: bytes) -> None:
    assert (Address(one) < Address(other)) == (one < other) == (str(Address(one)) < str(Address(other)))
    assert (Address(one) >= Address(other)) == (one >= other)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = Address.parse(text)
    except ConfigError:
        return
    assert str(address) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(ALICE)[:-1],
        str(ALICE) + "0",
        "w" + str(ALICE)[1:],
        " " + str(ALICE)[1:],
        "=" * 52,
        str(ALICE)[:-1] + "h",  # differs from the true last character only in bits that carry nothing
        "\u0131" + str(ALICE)[1:],  # a letter that is ASCII in upper case
        "\u017f" * 52,
        "\ud800" * 52,
        None,
        ALICE.public_key,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="address: "):
        Address.parse(text)


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"x" * 33, "x" * 32, bytearray(32), None])
def test_an_address_is_32_bytes(key: bytes) -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Address(key)


def test_addresses_are_equal_by_their_keys_and_to_nothing_else() -> None:
    assert Address(bytes(32)) == Address(bytes(32))
    assert len({Address(bytes(32)), Address(bytes(32)), ALICE}) == 2
    assert Address(bytes(32)) != bytes(32)
    assert ALICE != str(ALICE)
    with pytest.raises(TypeError):
        assert ALICE < str(ALICE)


def test_an_address_shows_its_beginning_only() -> None:
    assert ALICE.short == "000g40o4"
    assert repr(ALICE) == "<Address 000g40o4>"


def test_an_address_travels_to_a_process_that_hashes_otherwise() -> None:
    program = (
        "import pickle, sys; print(len({pickle.load(sys.stdin.buffer), *pickle.load(sys.stdin.buffer)}))"
    )
    sent = pickle.dumps(ALICE) + pickle.dumps({ALICE})
    found = subprocess.run(
        [sys.executable, "-c", program],
        input=sent,
        env={"PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
    )
    assert found.stdout.strip() == b"1"


# Endpoints

GOOD_ENDPOINTS = [
    "tcp://127.0.0.1:1",
    "tcp://255.255.255.255:65535",
    "tcp://localhost:4000",
    "tcp://a-robot_1.example.org.:4000",
    "tcp://[::1]:4000",
    "tcp://[FE80::1%eth0.5]:4000",
    "tcp://[::ffff:192.0.2.1]:4000",
    "ipc:///run/user/1000/dittobus/a b é.sock",
    "ipc://C:\\Users\\me\\a.sock",
    "ipc:///" + "x" * 106,
]

BAD_ENDPOINTS = [
    "",
    "127.0.0.1:4000",
    "udp://127.0.0.1:4000",
    "TCP://127.0.0.1:4000",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:",
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:65536",
    "tcp://127.0.0.1:04000",
    "tcp://127.0.0.1:+4000",
    "tcp://127.0.0.1:4000 ",
    "tcp://127.0.0.1:4000\n",
    "tcp://127.0.0.1:٤٠٠٠",
    "tcp://127.0.0.1:*",
    "tcp://*:4000",
    "tcp://:4000",
    "tcp://eth0;127.0.0.1:4000",
    "tcp://127.0.0.1;127.0.0.2:4000",
    "tcp://user@host:4000",
    "tcp://host/path:4000",
    "tcp://hö.example:4000",
    "tcp://a\0b:4000",
    "tcp://a..b:4000",
    "tcp://-a:4000",
    "tcp://a-:4000",
    "tcp://" + "a" * 64 + ":4000",
    "tcp://" + "a." * 127 + ":4000",
    "tcp://127.1:4000",
    "tcp://256.0.0.1:4000",
    "tcp://1:4000",
    "tcp://::1:4000",
    "tcp://[::1]4000",
    "tcp://[:::1]:4000",
    "tcp://[1.2.3.4]:4000",
    "tcp://[::1%]:4000",
    "tcp://[::1%a;b]:4000",
    "tcp://[]:4000",
    "ipc://",
    "ipc://relative",
    "ipc://*",
    "ipc://@abstract",
    "ipc:///a\0b",
    "ipc:///a\nb",
    "ipc:///a\ud800",
    "ipc:///" + "x" * 107,
    "ipc:///" + "é" * 54,
]


@pytest.mark.parametrize("text", GOOD_ENDPOINTS)
def test_an_endpoint_is_returned_as_it_is(text: str) -> None:
    assert parse_endpoint(text) is text


@pytest.mark.parametrize("text", [*BAD_ENDPOINTS, None, b"tcp://127.0.0.1:4000"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="endpoint: expected"):
        parse_endpoint(text)


@given(st.text())
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    for prefix in ("", "tcp://", "ipc://"):
        try:
            assert parse_endpoint(prefix + text).isprintable()
        except ConfigError:
            continue


# Tickets


def test_a_ticket_is_one_line() -> None:
    ticket = Ticket(ALICE, ("tcp://192.0.2.7:4000", "tcp://[fe80::1%eth0]:4001", "tcp://robot.local:4002"))
    line = f"dittobus://{ALICE}@192.0.2.7:4000,[fe80::1%eth0]:4001,robot.local:4002"
    assert str(ticket) == line
    assert Ticket.parse(line) == ticket
    assert Ticket.parse(f"  {line}\n") == ticket


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(ALICE),
        f"dittobus://{ALICE}",
        f"dittobus://{ALICE}@",
        "dittobus://@192.0.2.7:4000",
        f"dittobus:{ALICE}@192.0.2.7:4000",
        f"http://{ALICE}@192.0.2.7:4000",
        f"dittobus://{str(ALICE)[1:]}@192.0.2.7:4000",
        f"dittobus://{ALICE}@192.0.2.7:4000,",
        f"dittobus://{ALICE}@192.0.2.7",
        f"dittobus://{ALICE}@tcp://192.0.2.7:4000",
        f"dittobus://{ALICE}@" + ",".join(["192.0.2.7:4000"] * (TICKET_ENDPOINTS_MAX + 1)),
        None,
    ],
)
def test_what_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Ticket.parse(text)


@given(st.text())
def test_any_text_is_a_ticket_or_refused(text: str) -> None:
    for candidate in (text, f"dittobus://{text}", f"dittobus://{ALICE}@{text}"):
        try:
            ticket = Ticket.parse(candidate)
        except ConfigError:
            continue
        assert Ticket.parse(str(ticket)) == ticket


@pytest.mark.parametrize("endpoints", [(), ("ipc:///run/a.sock",), ("tcp://*:4000",), ("tcp://a:1",) * 17])
def test_a_ticket_names_places_that_others_can_reach(endpoints: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        Ticket(ALICE, endpoints)
