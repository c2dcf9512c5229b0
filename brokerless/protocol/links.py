"""The links of a node, from the dial, or a stranger's first word, to the cut.

Each passes through its phases, and has so long for each: it connects, both sides prove by HELLO that they
know the secret, both tell by INFO which session they mean. Then it carries packets, until it fails or is cut,
for some reason or after a last word.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Protocol

from brokerless.errors import RemoteProtocolError
from brokerless.protocol import wire
from brokerless.protocol.actions import Action, Admit, Confirm, Cut
from brokerless.protocol.handshake import Handshake, Refusal, Role, State
from brokerless.protocol.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.errors import PeerRefused
    from brokerless.model import Peer
    from brokerless.protocol.association import Nonce

LAST_WORD_S = 0.25
"""How long a link stays after a refusal or goodbye, so that the word gets out before the cut."""

ADMIT_HELD_BYTES_MAX = 512 * 1024
"""What may come on a link before ``admit`` has decided: twice what a fresh session has in flight."""


class LinkPhase(enum.Enum):
    """How far a link is; the value says what it waits for."""

    CONNECTING = "connection"
    HELLO = "hello"
    INFO = "info"
    ADMISSION = "admission"
    READY = "packets"
    ENDING = "its last word to get out"


class Link:
    """One link, of either side's making."""

    __slots__ = (
        "endpoint",
        "handshake",
        "held",
        "held_bytes",
        "id",
        "info",
        "is_local",
        "is_near",
        "opened",
        "outbox",
        "phase",
        "remote",
        "told",
    )

    def __init__(
        self, link: int, remote: Address, phase: LinkPhase, handshake: Handshake, endpoint: str
    ) -> None:
        self.id = link
        self.remote = remote
        self.phase = phase
        self.handshake = handshake
        self.endpoint = endpoint
        """What we dialled, empty for an accepted link."""
        self.is_local = endpoint.startswith("ipc:")
        self.is_near = self.is_local
        """Whether the other end is on this host for sure: by ipc, or by an address on loopback."""
        self.opened = 0
        """Which of the node's links to be open it was: the first, the second …; 0: it is not yet."""
        self.outbox: deque[bytes] = deque()
        """What goes out before the session's packets."""
        self.told: Nonce | None = None
        """The peer's nonce in the last INFO that we sent here."""
        self.info: wire.Info | None = None
        """What the peer told, while it waits for admission, or for the end of a newer link."""
        self.held: list[bytes] = []
        self.held_bytes = 0
        """What came meanwhile."""


class LinksHost(Protocol):
    """What links ask of their node."""

    def act(self, action: Action) -> None:
        """Have the shell do something."""

    def wake(self) -> None:
        """A link has something to say."""

    def turns_away(self, remote: Address) -> tuple[Refusal, str] | None:
        """Why one who dials us may not come in, if so."""

    def greeted(self, link: Link, now: float) -> None:
        """Both sides know the secret: INFO is to follow."""

    def refused(self, link: Link, refusal: PeerRefused, now: float) -> None:
        """The peer we dialled will not have us."""

    def heard(self, link: Link, data: bytes, now: float) -> None:
        """A packet came."""

    def let_in(self, link: Link, info: wire.Info, now: float) -> None:
        """The peer, which told that of itself, is admitted."""

    def keep_out(self, link: Link, refusal: str, now: float) -> None:
        """The peer is not admitted."""

    def gone(self, link: Link, now: float) -> None:
        """The link is no more."""


class Links:
    """All links of a node.

    Queries: ``len``, ``get``, ``has_parted``, ``has_output``, ``next_deadline``, counters.
    Inputs: ``dialled``, ``opened``, ``closed``, ``message``, ``admitted``, ``ready``, ``cuts_made``,
    ``expire``.
    Commands: ``say``, ``wake``, ``cut``, ``end``, ``ask_admission``, ``await_info``, ``part``.
    Output: ``take_sendable``.
    """

    def __init__(
        self, host: LinksHost, local: Address, mesh_key: bytes, versions: Sequence[int], limits: Limits
    ) -> None:
        self.handshakes_refused = 0
        self.dials_failed = 0
        self._host = host
        self._local = local
        self._mesh_key = mesh_key
        self._versions = versions
        self._limits = limits
        self._links: dict[int, Link] = {}
        self._links_with: dict[Address, dict[int, Link]] = {}  # the same, by who is at the other end
        self._timers: Timers[int] = Timers()
        self._sendable: dict[int, None] = {}  # an ordered set: who asked first goes first
        self._cut: set[int] = set()  # which the shell has still to cut
        self._opened = 0  # since the start
        self._parted = False

    # Queries

    def __len__(self) -> int:
        return len(self._links)

    def get(self, link: int) -> Link | None:
        """Return the link of that number, or None."""
        return self._links.get(link)

    @property
    def has_parted(self) -> bool:
        """True when no last word is under way any more."""
        return not any(link.phase is LinkPhase.ENDING for link in self._links.values())

    @property
    def has_output(self) -> bool:
        """True when a link has something to say."""
        return bool(self._sendable)

    def next_deadline(self) -> float | None:
        """Return when ``expire`` wants to be called, or None."""
        return self._timers.next_deadline()

    # Inputs

    def dialled(self, number: int, remote: Address, endpoint: str, now: float) -> None:
        """The shell dials; ``opened`` or ``closed`` of that link follows."""
        self._add(number, remote, LinkPhase.CONNECTING, Role.DIALLER, endpoint, now)

    def opened(self, number: int, remote: Address, now: float, is_local: bool, is_near: bool) -> None:
        """A dialled link is connected, or ``remote``, by its CURVE key, has made one to us."""
        link = self._links.get(number)
        if number in self._cut:
            return  # a dialled one that came to be needless; the shell has not cut it yet
        if link is None:
            if remote == self._local:
                self._host.act(Cut(number, "it is our own"))
            elif self._parted:
                self._host.act(Cut(number, "too late"))
            else:
                link = self._add(number, remote, LinkPhase.HELLO, Role.ACCEPTOR, "", now)
                link.is_local = is_local
                link.is_near = is_near or is_local
                self._number(link)
        elif link.phase is LinkPhase.CONNECTING:
            link.phase = LinkPhase.HELLO
            link.is_near |= is_near
            self._number(link)
            hello = link.handshake.start()
            assert hello is not None  # a dialler speaks first
            self.say(link, hello)

    def _add(
        self, number: int, remote: Address, phase: LinkPhase, role: Role, endpoint: str, now: float
    ) -> Link:
        handshake = Handshake(
            role, mesh_key=self._mesh_key, local=self._local, remote=remote, versions=self._versions
        )
        link = self._links[number] = Link(number, remote, phase, handshake, endpoint)
        self._links_with.setdefault(remote, {})[number] = link
        self._timers.set(number, now + self._limits.handshake_timeout_s)
        return link

    def _number(self, link: Link) -> None:
        self._opened += 1
        link.opened = self._opened

    def closed(self, number: int, now: float) -> None:
        """A link failed, or the other side cut it."""
        link = self._links.get(number)
        if link is not None:
            self.dials_failed += link.phase is LinkPhase.CONNECTING
            self._forget(link, now)

    def message(self, number: int, data: bytes, now: float) -> None:
        """A ZeroMQ message came."""
        link = self._links.get(number)
        if link is None or link.phase is LinkPhase.CONNECTING:
            return
        if link.phase is LinkPhase.ENDING:
            if _is_goodbye(data):
                self.cut(link, "both have said goodbye", now)
        elif link.phase is LinkPhase.HELLO:
            self._hello(link, data, now)
        elif link.phase is LinkPhase.ADMISSION:
            self._hold(link, data, now)
        else:
            self._host.heard(link, data, now)

    def _hello(self, link: Link, data: bytes, now: float) -> None:
        handshake = link.handshake
        refusal = None if link.endpoint else self._host.turns_away(link.remote)
        if refusal is not None:
            handshake.deny(*refusal)
        try:
            replies = handshake.receive(data)
        except RemoteProtocolError as error:
            self.handshakes_refused += 1
            self.cut(link, str(error), now)
            return
        if handshake.state is not State.REFUSED:
            for reply in replies:
                self.say(link, reply)
            link.phase = LinkPhase.INFO
            self._host.act(Confirm(link.id))
            self._host.greeted(link, now)
            return
        self.handshakes_refused += 1
        if replies:
            self.end(link, replies[0], now)
        else:
            assert handshake.refusal is not None
            self._host.refused(link, handshake.refusal, now)

    def _hold(self, link: Link, data: bytes, now: float) -> None:
        link.held_bytes += len(data)
        if link.held_bytes > ADMIT_HELD_BYTES_MAX:
            self.cut(link, "too much came before admission", now)
        else:
            link.held.append(data)

    def admitted(self, number: int, refusal: str | None, now: float) -> None:
        """The application has decided: None lets the peer in, a text says why not."""
        link = self._links.get(number)
        if link is None or link.phase is not LinkPhase.ADMISSION:
            return
        if refusal is not None:
            self.handshakes_refused += 1
            self._host.keep_out(link, refusal, now)
            return
        info, held = link.info, link.held
        link.info, link.held, link.held_bytes = None, [], 0
        assert info is not None
        self.await_info(link, now)
        self._host.let_in(link, info, now)
        for data in held:
            self.message(number, data, now)

    def ready(self, link: Link, now: float) -> None:
        """The link carries a session: others with the same peer may have become needless."""
        self._timers.remove(link.id)
        for other in list(self._links_with[link.remote].values()):
            if other is not link and self._is_needless(other):
                self.cut(other, "another link serves", now)

    def _is_needless(self, link: Link) -> bool:
        """Tell whether a link may go where a newer one is ready.

        One side must decide, or each would cut what the other keeps: the lower one cuts older links, and its
        own dials. The higher one only cuts dials on which it has not told its INFO: on others the lower may
        have agreed to a session by now, and cut what is older to it.
        """
        if self._local > link.remote:
            return bool(link.endpoint) and link.phase in (LinkPhase.CONNECTING, LinkPhase.HELLO)
        return link.phase is LinkPhase.READY or (bool(link.endpoint) and link.phase is not LinkPhase.ENDING)

    def cuts_made(self) -> None:
        """The shell has been told of all cuts, and makes them now."""
        self._cut.clear()

    def expire(self, now: float) -> None:
        """Act on what time has come for."""
        for number in self._timers.pop_due(now):
            # One before it may have cut it, or given it the time for a last word.
            if number in self._links and number not in self._timers:
                self._expired(self._links[number], now)

    def _expired(self, link: Link, now: float) -> None:
        if link.phase is LinkPhase.ADMISSION:
            self.admitted(link.id, "nobody decided in time", now)
        elif link.phase is LinkPhase.ENDING:
            self.cut(link, "done", now)
        else:
            self.dials_failed += link.phase is LinkPhase.CONNECTING
            self.cut(link, f"no {link.phase.value} in time", now)

    # Commands

    def say(self, link: Link, message: bytes) -> None:
        """Send on a link, before its session's packets."""
        link.outbox.append(message)
        self.wake(link.id)

    def wake(self, number: int) -> None:
        """The link has something to send."""
        if number not in self._sendable:
            self._sendable[number] = None
            self._host.wake()

    def cut(self, link: Link, reason: str, now: float) -> None:
        """Cut a link at once."""
        self._host.act(Cut(link.id, reason))
        self._cut.add(link.id)
        self._forget(link, now)

    def end(self, link: Link, last_word: bytes, now: float) -> None:
        """Send a last word, and cut the link when it has had time to get out."""
        link.phase = LinkPhase.ENDING
        self._timers.set(link.id, now + LAST_WORD_S)
        self.say(link, last_word)

    def ask_admission(self, link: Link, peer: Peer, now: float) -> None:
        """Ask the application about the peer, whose INFO has come."""
        link.phase = LinkPhase.ADMISSION
        self._timers.set(link.id, now + self._limits.admit_timeout_s)
        self._host.act(Admit(link.id, peer))

    def await_info(self, link: Link, now: float) -> None:
        """The link carries no session, or none any more; the peer has so long to say which is the next."""
        link.phase = LinkPhase.INFO
        self._timers.set(link.id, now + self._limits.handshake_timeout_s)

    def part(self, now: float) -> None:
        """Take no more links, and cut those with no last word to get out."""
        self._parted = True
        for link in list(self._links.values()):
            if link.phase is not LinkPhase.ENDING:  # a greeting under way would make a peer join yet
                self.cut(link, "the bus was closed", now)

    def _forget(self, link: Link, now: float) -> None:
        del self._links[link.id]
        del self._links_with[link.remote][link.id]
        if not self._links_with[link.remote]:
            del self._links_with[link.remote]
        self._timers.remove(link.id)
        self._sendable.pop(link.id, None)
        self._host.gone(link, now)

    # Output

    def take_sendable(self) -> list[int]:
        """Return the links that have something to send, and forget that they have."""
        sendable = list(self._sendable)
        self._sendable.clear()
        return sendable


def _is_goodbye(data: bytes) -> bool:
    try:
        return any(isinstance(frame, wire.Goodbye) for frame in wire.decode_packet(data).frames)
    except RemoteProtocolError:
        return False
