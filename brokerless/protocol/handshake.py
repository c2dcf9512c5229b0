"""HELLO: each side of a link proves that it knows the mesh's secret, before anything else passes.

CURVE has authenticated both public keys afresh by the time the first byte comes here, but it lets in whoever
knows this node's public key. The proof binds the mesh's key to both public keys and to the role, so one made
for another pair, or by the other end of this pair, is worth nothing here: no reflection, no replay, no relay.

The layout is frozen for ever, because it is what two sides read that share no version; ``docs/wire.md`` is
its normative text. It grows at its end only: trailing bytes are ignored.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from typing import TYPE_CHECKING, NamedTuple

from brokerless.errors import LocalProtocolError, PeerRefused, RemoteProtocolError, VersionMismatch, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokerless.address import Address

MAGIC = b"\xffDTB"
"""Opens HELLO and REFUSE. As the start of a packet's number it would be above 2**63, which none reaches."""

PROOF_LABEL = b"DittoBus HELLO proof"
"""Keeps this use of the mesh's key apart from every other."""

MESH_KEY_BYTES = 32
PROOF_BYTES = 32
VERSIONS_MAX = 255
"""One byte counts them."""

REASON_BYTES_MAX = 255
"""A sentence for a log. One byte counts it; a longer one is cut."""

HANDSHAKE_BYTES_MAX = 4096
"""Largest HELLO or REFUSE, with room to grow: all of this comes before the sender has proven anything."""


class Role(enum.Enum):
    """Which side of a link; the value is its byte in the proof."""

    DIALLER = b"D"
    ACCEPTOR = b"A"


class Refusal(enum.IntEnum):
    """Why a REFUSE. A reader takes codes that it does not know as a plain refusal."""

    PROOF = 1
    """The proof was wrong. Says nothing else, for it answers a stranger."""
    VERSION = 2
    """No common version; names those of the refuser."""
    FULL = 3
    NOT_ADMITTED = 4


class Hello(NamedTuple):
    """The versions of the wire that the sender speaks, and its proof."""

    versions: tuple[int, ...]
    proof: bytes


class Refuse(NamedTuple):
    """The answer to a HELLO that leads nowhere; the link ends with it."""

    code: int
    versions: tuple[int, ...]
    reason: str


_HEAD = struct.Struct("!4sB")
_HELLO_KIND = 1
_REFUSE_KIND = 2


def encode_hello(hello: Hello) -> bytes:
    """Return the bytes of a HELLO."""
    return _HEAD.pack(MAGIC, _HELLO_KIND) + _counted(bytes(hello.versions)) + hello.proof


def encode_refuse(refuse: Refuse) -> bytes:
    """Return the bytes of a REFUSE; a reason over ``REASON_BYTES_MAX`` is cut between characters."""
    reason = refuse.reason.encode(errors="replace")[:REASON_BYTES_MAX].decode(errors="ignore").encode()
    head = _HEAD.pack(MAGIC, _REFUSE_KIND) + bytes((refuse.code,))
    return head + _counted(bytes(refuse.versions)) + _counted(reason)


def decode(data: bytes) -> Hello | Refuse:
    """Return the HELLO or REFUSE in ``data``. Raises ``WireError`` for anything else."""
    if len(data) > HANDSHAKE_BYTES_MAX:
        raise WireError(f"a handshake of {len(data)} bytes")
    head, rest = _take(data, _HEAD.size)
    magic, kind = _HEAD.unpack(head)
    if magic != MAGIC:
        raise WireError("not a handshake")
    if kind == _HELLO_KIND:
        versions, rest = _take_counted(rest)
        if not versions:
            raise WireError("HELLO names no version")
        proof, _ = _take(rest, PROOF_BYTES)
        return Hello(tuple(versions), proof)
    if kind == _REFUSE_KIND:
        code, rest = _take(rest, 1)
        versions, rest = _take_counted(rest)
        reason, _ = _take_counted(rest)
        try:
            return Refuse(code[0], tuple(versions), reason.decode())
        except UnicodeDecodeError as error:
            raise WireError("REFUSE gives a reason that is not UTF-8") from error
    raise WireError(f"unknown handshake kind {kind}")


def _counted(data: bytes) -> bytes:
    return bytes((len(data),)) + data


def _take(data: bytes, count: int) -> tuple[bytes, bytes]:
    if len(data) < count:
        raise WireError("a truncated handshake")
    return data[:count], data[count:]


def _take_counted(data: bytes) -> tuple[bytes, bytes]:
    count, rest = _take(data, 1)
    return _take(rest, count[0])


def prove(mesh_key: bytes, role: Role, prover: Address, verifier: Address) -> bytes:
    """Return the proof of ``prover``, in ``role``, for ``verifier``. All parts have a fixed length."""
    claim = PROOF_LABEL + role.value + prover.public_key + verifier.public_key
    return hmac.digest(mesh_key, claim, hashlib.sha256)


class State(enum.Enum):
    """How far a handshake is."""

    AWAIT_HELLO = "await hello"
    DONE = "done"
    REFUSED = "refused"


class Heard(enum.Enum):
    """What one message of the other side amounts to."""

    HELLO = "hello"
    """A right proof and a common version."""
    STRANGER = "stranger"
    """A HELLO with a wrong proof."""
    FOREIGN = "foreign"
    """A HELLO with a right proof and no common version."""
    DENIED = "denied"
    """A HELLO that would do, of somebody whom this node has decided not to take."""
    REFUSE = "refuse"


TRANSITIONS: dict[tuple[Role, State], dict[Heard, State]] = {
    (Role.DIALLER, State.AWAIT_HELLO): {
        Heard.HELLO: State.DONE,
        Heard.STRANGER: State.REFUSED,
        Heard.FOREIGN: State.REFUSED,
        Heard.REFUSE: State.REFUSED,
    },
    (Role.ACCEPTOR, State.AWAIT_HELLO): {
        Heard.HELLO: State.DONE,
        Heard.STRANGER: State.REFUSED,
        Heard.FOREIGN: State.REFUSED,
        Heard.DENIED: State.REFUSED,
    },
    # A handshake says one thing each way. Afterwards the link carries packets, or is cut.
    (Role.DIALLER, State.DONE): {},
    (Role.ACCEPTOR, State.DONE): {},
    (Role.DIALLER, State.REFUSED): {},
    (Role.ACCEPTOR, State.REFUSED): {},
}
"""What may be heard when; anything else breaks the protocol."""

_SECRET_HINT = "give both sides the same mesh, secret and trust"
_VERSION_HINT = "update the older side"


class Handshake:
    """One link's exchange of HELLO.

    The dialler speaks first, the acceptor verifies before it answers, the dialler verifies the answer. So a
    dialler without the secret learns nothing at all, and an acceptor without it only which versions its
    dialler speaks.

    *Queries*: ``state``; ``version``, agreed, once DONE; ``refusal``, why, once REFUSED.
    *Inputs*: ``receive``.
    *Commands*: ``deny``.
    *Outputs*: ``start``, and what ``receive`` returns.

    When ``state`` is REFUSED: send what ``receive`` returned, then cut the link. When it has raised: cut it.
    There is no clock in here; who owns the link gives the whole exchange a deadline.
    """

    def __init__(
        self,
        role: Role,
        *,
        mesh_key: bytes,
        local: Address,
        remote: Address,
        versions: Sequence[int] = (1,),
    ) -> None:
        if len(mesh_key) != MESH_KEY_BYTES:
            raise LocalProtocolError(f"mesh_key: a mesh's key is exactly {MESH_KEY_BYTES} bytes")
        if not 0 < len(versions) <= VERSIONS_MAX or not all(0 < version < 256 for version in versions):
            raise LocalProtocolError(f"versions: 1 to {VERSIONS_MAX} of them, each 1 to 255")
        self._role = role
        self._remote = remote
        self._our_versions = tuple(versions)
        their_role = Role.ACCEPTOR if role is Role.DIALLER else Role.DIALLER
        self._our_proof = prove(mesh_key, role, local, remote)
        self._their_proof = prove(mesh_key, their_role, remote, local)
        self._denial: Refuse | None = None
        self.state = State.AWAIT_HELLO
        self.version: int | None = None
        self.refusal: PeerRefused | None = None

    def __repr__(self) -> str:
        return f"<Handshake {self._role.name} with {self._remote.short}: {self.state.value}>"

    def start(self) -> bytes | None:
        """Return the HELLO that opens the link; None for the acceptor, who waits for it."""
        return self._our_hello() if self._role is Role.DIALLER else None

    def deny(self, code: Refusal, reason: str) -> None:
        """Answer a HELLO that would do with this refusal. A wrong one is still told only that it is wrong.

        Only for an acceptor that has not heard the HELLO yet: later, the session says Goodbye.
        """
        if self._role is not Role.ACCEPTOR or self.state is not State.AWAIT_HELLO:
            raise LocalProtocolError(f"deny: not by a {self._role.name} in state {self.state.name}")
        self._denial = Refuse(code, (), reason)

    def receive(self, data: bytes) -> list[bytes]:
        """Take one message of the other side, return those to send.

        Raises ``WireError`` for one that is neither HELLO nor REFUSE, ``RemoteProtocolError`` for one that is
        out of place; both leave the state as it was.
        """
        said = decode(data)
        heard = self._judge(said)
        next_state = TRANSITIONS[self._role, self.state].get(heard)
        if next_state is None:
            raise RemoteProtocolError(
                f"{heard.value.upper()} in a handshake that is {self.state.name} ({self._role.name})",
                peer=self._remote,
            )
        self.state = next_state
        if heard is Heard.HELLO:
            self.version = max(self._common(said.versions))
        else:
            self.refusal = self._explain(heard, said)
        if self._role is Role.DIALLER:
            return []
        return [_REPLIES[heard](self)]

    def _judge(self, said: Hello | Refuse) -> Heard:
        if isinstance(said, Refuse):
            return Heard.REFUSE
        # The proof before all else: whoever fails it must not learn by our answer what else would have done.
        if not hmac.compare_digest(said.proof, self._their_proof):
            return Heard.STRANGER
        if not self._common(said.versions):
            return Heard.FOREIGN
        return Heard.HELLO if self._denial is None else Heard.DENIED

    def _common(self, their_versions: tuple[int, ...]) -> set[int]:
        return set(self._our_versions) & set(their_versions)

    def _explain(self, heard: Heard, said: Hello | Refuse) -> PeerRefused:
        code = said.code if isinstance(said, Refuse) else None
        if heard is Heard.FOREIGN or code == Refusal.VERSION:
            ours, theirs = (
                ", ".join(map(str, sorted(set(versions)))) or "none"
                for versions in (self._our_versions, said.versions)
            )
            reason = f"no common version of the wire: this node speaks {ours}, the peer {theirs}"
            return VersionMismatch(reason=reason, peer=self._remote, hint=_VERSION_HINT)
        if heard is Heard.STRANGER or code == Refusal.PROOF:
            # Which side holds the wrong secret cannot be told apart, so neither is blamed.
            reason = "the two sides hold different mesh secrets"
            return PeerRefused(reason=reason, peer=self._remote, hint=_SECRET_HINT)
        refuse = said if isinstance(said, Refuse) else self._denial
        assert refuse is not None  # DENIED is heard only with a denial
        return PeerRefused(reason=_readable(refuse), peer=self._remote)

    def _our_hello(self) -> bytes:
        return encode_hello(Hello(self._our_versions, self._our_proof))

    def _our_denial(self) -> bytes:
        assert self._denial is not None
        return encode_refuse(self._denial)

    def _our_versions_refusal(self) -> bytes:
        return encode_refuse(Refuse(Refusal.VERSION, self._our_versions, "no common version"))

    def _bare_refusal(self) -> bytes:
        return encode_refuse(Refuse(Refusal.PROOF, (), ""))


_REPLIES: dict[Heard, Callable[[Handshake], bytes]] = {
    Heard.HELLO: Handshake._our_hello,
    Heard.STRANGER: Handshake._bare_refusal,
    Heard.FOREIGN: Handshake._our_versions_refusal,
    Heard.DENIED: Handshake._our_denial,
}
"""The acceptor's answers. A dialler gives none: it has said its HELLO, and cuts a link that it refuses."""


_UNSAID: dict[int, str] = {Refusal.FULL: "it is full", Refusal.NOT_ADMITTED: "not admitted"}


def _readable(refuse: Refuse) -> str:
    # Its sender may be a stranger, and the text ends in logs and terminals: no line breaks, no control codes.
    text = "".join(character if character.isprintable() else "\ufffd" for character in refuse.reason)
    return text or _UNSAID.get(refuse.code, f"code {refuse.code}")
