"""HELLO: its vectors, the whole matrix of its states, and everything that must not get in."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.address import Address
from brokerless.errors import (
    LocalProtocolError,
    PeerRefused,
    RemoteProtocolError,
    VersionMismatch,
    WireError,
)
from brokerless.protocol.handshake import (
    HANDSHAKE_BYTES_MAX,
    MAGIC,
    TRANSITIONS,
    Handshake,
    Heard,
    Hello,
    Refusal,
    Refuse,
    Role,
    State,
    decode,
    encode_hello,
    encode_refuse,
    prove,
)

VECTORS = json.loads((Path(__file__).parent / "wire_vectors.json").read_text(encoding="utf-8"))
KEYS = {name: bytes.fromhex(value) for name, value in VECTORS["proof"].items()}
MESH_KEY = KEYS["mesh_key"]
OTHER_KEY = b"\x77" * 32
ALICE = Address(KEYS["dialler"])
BOB = Address(KEYS["acceptor"])
CAROL = Address(b"\x33" * 32)


def dialler(local: Address = ALICE, remote: Address = BOB, **changes: Any) -> Handshake:
    return Handshake(Role.DIALLER, **{"mesh_key": MESH_KEY, "local": local, "remote": remote, **changes})


def acceptor(local: Address = BOB, remote: Address = ALICE, **changes: Any) -> Handshake:
    return Handshake(Role.ACCEPTOR, **{"mesh_key": MESH_KEY, "local": local, "remote": remote, **changes})


def hello_of(side: Handshake) -> bytes:
    data = side.start()
    assert data is not None
    return data


def converse(one: Handshake, other: Handshake) -> None:
    """Let a dialler and an acceptor talk until neither has anything to say."""
    for reply in other.receive(hello_of(one)):
        assert one.receive(reply) == []


def refusal_of(side: Handshake) -> PeerRefused:
    assert side.state is State.REFUSED
    assert side.version is None
    assert side.refusal is not None
    return side.refusal


def names(vectors: str) -> Any:
    return pytest.mark.parametrize("vector", VECTORS[vectors], ids=lambda vector: vector["name"])


# Layout


@names("handshakes")
def test_vectors_both_ways(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    versions = tuple(vector["versions"])
    if vector["message"] == "HELLO":
        hello = Hello(versions, bytes.fromhex(vector["proof"]["hex"]))
        assert decode(data) == hello
        assert encode_hello(hello) == data
    else:
        refuse = Refuse(vector["code"], versions, vector["reason"])
        assert decode(data) == refuse
        assert encode_refuse(refuse) == data


@names("invalid_handshakes")
def test_invalid_vectors(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    with pytest.raises(WireError, match=re.escape(vector["error"])):
        decode(data)
    side = acceptor()
    with pytest.raises(WireError):
        side.receive(data)
    assert side.state is State.AWAIT_HELLO


def test_the_proof_is_what_the_specification_says() -> None:
    for role, prover, verifier in ((Role.DIALLER, ALICE, BOB), (Role.ACCEPTOR, BOB, ALICE)):
        letter = b"D" if role is Role.DIALLER else b"A"
        claim = b"DittoBus HELLO proof" + letter + prover.public_key + verifier.public_key
        proof = hmac.new(MESH_KEY, claim, hashlib.sha256).digest()
        assert prove(MESH_KEY, role, prover, verifier) == proof == KEYS[f"proof_of_{role.name.lower()}"]


@given(st.binary(min_size=1, max_size=255), st.binary(min_size=32, max_size=32), st.binary(max_size=1000))
def test_hello_round_trips_and_may_grow(versions: bytes, proof: bytes, more: bytes) -> None:
    hello = Hello(tuple(versions), proof)
    assert decode(encode_hello(hello) + more) == hello


@given(st.integers(0, 255), st.binary(max_size=255), st.text(max_size=300), st.binary(max_size=1000))
def test_refuse_round_trips_and_may_grow(code: int, versions: bytes, reason: str, more: bytes) -> None:
    decoded = decode(encode_refuse(Refuse(code, tuple(versions), reason)) + more)
    assert isinstance(decoded, Refuse)
    assert decoded[:2] == (code, tuple(versions))
    assert reason.startswith(decoded.reason)
    if len(reason.encode()) <= 255:
        assert decoded.reason == reason
    else:
        assert len(decoded.reason.encode()) > 255 - 4  # cut between characters, of which none is longer


def test_every_shorter_handshake_is_refused() -> None:
    for vector in VECTORS["handshakes"]:
        data = bytes.fromhex(vector["bytes"])
        for length in range(len(data)):
            with pytest.raises(WireError):
                decode(data[:length])


def test_handshakes_are_bounded() -> None:
    hello = hello_of(dialler())
    assert decode(hello.ljust(HANDSHAKE_BYTES_MAX, b"\0"))
    with pytest.raises(WireError, match="a handshake of 4097 bytes"):
        decode(hello.ljust(HANDSHAKE_BYTES_MAX + 1, b"\0"))


def test_no_packet_starts_like_a_handshake() -> None:
    assert int.from_bytes(MAGIC.ljust(8, b"\0"), "big") > 2**63


def test_nonsense_raises_only_wire_errors() -> None:
    chance = random.Random("handshake")
    samples = [bytes.fromhex(vector["bytes"]) for vector in VECTORS["handshakes"]]
    decoded = 0
    for _ in range(5_000):
        data = bytearray(chance.choice(samples) if chance.random() < 0.8 else chance.randbytes(60))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            decoded += isinstance(decode(bytes(data)), (Hello, Refuse))
        except WireError:
            continue
    assert 1_000 < decoded < 4_500


# Agreement


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ((1,), (1,), 1),
        ((1, 2, 3), (2, 1), 2),
        ((3, 1), (1, 2, 3, 4), 3),
        ((7, 7), (7,), 7),
        ((255,), (255,), 255),
    ],
)
def test_the_highest_common_version_is_agreed(
    ours: tuple[int, ...], theirs: tuple[int, ...], agreed: int
) -> None:
    one, other = dialler(versions=ours), acceptor(versions=theirs)
    converse(one, other)
    for side in (one, other):
        assert (side.state, side.version, side.refusal) == (State.DONE, agreed, None)


@given(st.sets(st.integers(1, 255), min_size=1), st.sets(st.integers(1, 255), min_size=1))
def test_both_sides_come_to_the_same_end(ours: set[int], theirs: set[int]) -> None:
    one, other = dialler(versions=sorted(ours)), acceptor(versions=sorted(theirs))
    converse(one, other)
    assert one.state is other.state
    assert one.version == other.version == max(ours & theirs, default=None)


def test_no_common_version_is_refused_with_a_reason_that_names_both() -> None:
    one, other = dialler(versions=(3, 2)), acceptor(versions=(4, 5))
    converse(one, other)
    for side, reason in (
        (one, "no common version of the wire: this node speaks 2, 3, the peer 4, 5"),
        (other, "no common version of the wire: this node speaks 4, 5, the peer 2, 3"),
    ):
        refusal = refusal_of(side)
        assert isinstance(refusal, VersionMismatch)
        assert refusal.reason == reason
    assert refusal_of(one).peer == BOB
    assert refusal_of(other).peer == ALICE


def test_an_acceptor_that_answers_in_no_version_of_ours_is_refused() -> None:
    side = dialler(versions=(1,))
    assert side.receive(encode_hello(Hello((2,), prove(MESH_KEY, Role.ACCEPTOR, BOB, ALICE)))) == []
    assert isinstance(refusal_of(side), VersionMismatch)


def test_a_refuser_that_names_no_version() -> None:
    side = dialler()
    side.receive(encode_refuse(Refuse(Refusal.VERSION, (), "")))
    assert refusal_of(side).reason.endswith("this node speaks 1, the peer none")


# Strangers


def test_another_secret_is_refused_by_both() -> None:
    one, other = dialler(mesh_key=OTHER_KEY), acceptor()
    converse(one, other)
    for side in (one, other):
        refusal = refusal_of(side)
        assert refusal.reason == "the two sides hold different mesh secrets"
        assert "same mesh, secret and trust" in str(refusal)
        assert not isinstance(refusal, VersionMismatch)


def test_a_stranger_is_told_nothing_else() -> None:
    strange = [
        encode_hello(Hello(versions, bytes(32))) + more
        for versions in ((1,), (9,), (1, 9))
        for more in (b"", b"x")
    ]
    sides = [acceptor() for _ in strange]
    sides[0].deny(Refusal.NOT_ADMITTED, "nobody from there")
    answers = {answer for side, hello in zip(sides, strange, strict=True) for answer in side.receive(hello)}
    assert answers == {encode_refuse(Refuse(Refusal.PROOF, (), ""))}


def test_a_proof_with_any_bit_flipped_is_wrong() -> None:
    for role, make in ((Role.DIALLER, acceptor), (Role.ACCEPTOR, dialler)):
        right = KEYS[f"proof_of_{role.name.lower()}"]
        for bit in range(256):
            proof = (int.from_bytes(right, "big") ^ 1 << bit).to_bytes(32, "big")
            side = make()
            side.receive(encode_hello(Hello((1,), proof)))
            refusal_of(side)


def test_a_reflected_hello_is_refused() -> None:
    side = dialler()
    assert side.receive(hello_of(side)) == []
    refusal_of(side)


def test_a_reflected_hello_is_refused_even_by_a_node_that_dials_itself() -> None:
    side = dialler(ALICE, ALICE)
    side.receive(hello_of(side))
    refusal_of(side)


def test_an_answer_is_no_hello() -> None:
    """The acceptor's proof opens no link in the other direction: the role is part of it."""
    (answer,) = acceptor(BOB, ALICE).receive(hello_of(dialler(ALICE, BOB)))
    side = acceptor(ALICE, BOB)
    side.receive(answer)
    refusal_of(side)


def test_a_hello_is_no_answer() -> None:
    side = dialler(ALICE, BOB)
    side.receive(hello_of(dialler(BOB, ALICE)))
    refusal_of(side)


@pytest.mark.parametrize(
    ("local", "remote"),
    [(CAROL, ALICE), (BOB, CAROL), (CAROL, BOB), (ALICE, BOB)],
    ids=["to another", "by another", "both", "the other way"],
)
def test_a_proof_holds_only_between_those_it_names(local: Address, remote: Address) -> None:
    side = acceptor(local, remote)
    assert side.receive(hello_of(dialler(ALICE, BOB))) == [encode_refuse(Refuse(Refusal.PROOF, (), ""))]
    refusal_of(side)


def test_a_relayed_answer_is_refused() -> None:
    """Carol, dialled by Alice, cannot pass off Bob's answer as her own."""
    (answer,) = acceptor(BOB, ALICE).receive(hello_of(dialler(ALICE, BOB)))
    side = dialler(ALICE, CAROL)
    side.receive(answer)
    refusal_of(side)


def test_proofs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    converse(dialler(), acceptor())
    assert compared == [(KEYS[f"proof_of_{role}"],) * 2 for role in ("dialler", "acceptor")]


# Refusals


def test_a_denied_peer_hears_why() -> None:
    one, other = dialler(), acceptor()
    other.deny(Refusal.FULL, "4,096 peers are enough")
    converse(one, other)
    assert refusal_of(one).reason == refusal_of(other).reason == "4,096 peers are enough"
    assert str(refusal_of(one)) == "refused: 4,096 peers are enough"


def test_a_denied_peer_without_a_common_version_hears_of_the_version() -> None:
    one, other = dialler(versions=(2,)), acceptor()
    other.deny(Refusal.FULL, "full")
    converse(one, other)
    assert isinstance(refusal_of(one), VersionMismatch)


@pytest.mark.parametrize(
    ("refuse", "reason"),
    [
        (Refuse(Refusal.FULL, (), ""), "it is full"),
        (Refuse(Refusal.NOT_ADMITTED, (), ""), "not admitted"),
        (Refuse(200, (), ""), "code 200"),
        (Refuse(200, (), "tomorrow"), "tomorrow"),
        (
            Refuse(Refusal.NOT_ADMITTED, (), "no\r\n\x1b[31mERROR\u202e"),
            "no\ufffd\ufffd\ufffd[31mERROR\ufffd",
        ),
        (Refuse(Refusal.PROOF, (), "believe me"), "the two sides hold different mesh secrets"),
    ],
)
def test_what_a_refusal_says(refuse: Refuse, reason: str) -> None:
    side = dialler()
    assert side.receive(encode_refuse(refuse)) == []
    assert refusal_of(side).reason == reason


def test_a_reason_is_cut_between_characters() -> None:
    decoded = decode(encode_refuse(Refuse(Refusal.FULL, (), "a" + "ü" * 200)))
    assert isinstance(decoded, Refuse)
    assert decoded.reason == "a" + "ü" * 127
    assert decode(encode_refuse(Refuse(Refusal.FULL, (), "\udcff"))) == Refuse(Refusal.FULL, (), "?")


# The state machine

SAYS = {
    Heard.HELLO: lambda role: Hello((1,), proof_by(role)),
    Heard.STRANGER: lambda _: Hello((1,), bytes(32)),
    Heard.FOREIGN: lambda role: Hello((2,), proof_by(role)),
    Heard.DENIED: lambda role: Hello((1,), proof_by(role)),
    Heard.REFUSE: lambda _: Refuse(Refusal.FULL, (), ""),
}
REPLIES = {
    Heard.HELLO: encode_hello(Hello((1,), KEYS["proof_of_acceptor"])),
    Heard.STRANGER: encode_refuse(Refuse(Refusal.PROOF, (), "")),
    Heard.FOREIGN: encode_refuse(Refuse(Refusal.VERSION, (1,), "no common version")),
    Heard.DENIED: encode_refuse(Refuse(Refusal.NOT_ADMITTED, (), "denied")),
}


def proof_by(role: Role) -> bytes:
    return KEYS[f"proof_of_{role.name.lower()}"]


def side_in(role: Role, state: State, *, denies: bool) -> tuple[Handshake, Role]:
    """Return one side in that state, and the role of the other."""
    side, theirs = (dialler(), Role.ACCEPTOR) if role is Role.DIALLER else (acceptor(), Role.DIALLER)
    if denies:
        side.deny(Refusal.NOT_ADMITTED, "denied")
    elif state is State.DONE:
        side.receive(encode_hello(Hello((1,), proof_by(theirs))))
    elif state is State.REFUSED:
        side.receive(encode_hello(Hello((1,), bytes(32))))
    assert side.state is state
    return side, theirs


@pytest.mark.parametrize(("role", "state", "heard"), list(itertools.product(Role, State, Heard)))
def test_the_whole_matrix(role: Role, state: State, heard: Heard) -> None:
    denies = heard is Heard.DENIED and state is State.AWAIT_HELLO and role is Role.ACCEPTOR
    side, theirs = side_in(role, state, denies=denies)
    said = SAYS[heard](theirs)
    data = encode_hello(said) if isinstance(said, Hello) else encode_refuse(said)
    if heard is Heard.DENIED and not denies:
        assert heard not in TRANSITIONS[role, state]  # cannot come about: deny is not allowed there
        with pytest.raises(LocalProtocolError, match="deny"):
            side.deny(Refusal.FULL, "")
    elif heard in TRANSITIONS[role, state]:
        assert side.receive(data) == ([REPLIES[heard]] if role is Role.ACCEPTOR else [])
        assert side.state is TRANSITIONS[role, state][heard]
        assert (side.version is None) is (side.state is State.REFUSED)
        assert (side.refusal is None) is (side.state is State.DONE)
    else:
        before = (side.state, side.version, side.refusal)
        with pytest.raises(RemoteProtocolError, match="in a handshake that is") as raised:
            side.receive(data)
        assert raised.value.peer == (BOB if role is Role.DIALLER else ALICE)
        assert (side.state, side.version, side.refusal) == before


def test_what_the_table_allows() -> None:
    """The matrix above follows the table; this holds the table to its words."""
    ends = {Heard.STRANGER, Heard.FOREIGN, Heard.REFUSE, Heard.DENIED}
    for (role, state), row in TRANSITIONS.items():
        if state is State.AWAIT_HELLO:
            not_for_it = Heard.DENIED if role is Role.DIALLER else Heard.REFUSE
            assert row == {Heard.HELLO: State.DONE} | dict.fromkeys(ends - {not_for_it}, State.REFUSED)
        else:
            assert row == {}


def test_the_acceptor_does_not_speak_first() -> None:
    assert acceptor().start() is None


# Our own mistakes


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33])
def test_the_mesh_key_has_one_length(key: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="mesh_key"):
        dialler(mesh_key=key)


@pytest.mark.parametrize("versions", [(), (0,), (256,), (1,) * 256])
def test_versions_out_of_range(versions: tuple[int, ...]) -> None:
    with pytest.raises(LocalProtocolError, match="versions"):
        dialler(versions=versions)


def test_the_repr_shows_no_secret() -> None:
    side = dialler()
    assert repr(side) == f"<Handshake DIALLER with {BOB.short}: await hello>"
