"""The way to one peer, step by step, to the step at which it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from brokerless.address import Ticket
from brokerless.discovery.gossip import GossipDiscovery
from brokerless.doctor.findings import Finding, Verdict, failed_by, failure, listed, ok, skipped, warning
from brokerless.doctor.neighbours import refusal_hint
from brokerless.doctor.places import Reached, connect, resolve
from brokerless.doctor.probe import Greeting, Probe, Progress
from brokerless.errors import BusError, ConfigError
from brokerless.model import DatagramPath, LossReason, Peer, PeerJoined, PeerLeft
from brokerless.node import Node
from brokerless.transport.dialer import NO_PEER, REFUSED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from brokerless.config import NodeConfig
    from brokerless.discovery import Beacon
    from brokerless.identity import Identity
    from brokerless.model import Event
    from brokerless.trust import MeshTrust

STEPS = ("ticket", "host", "tcp", "curve", "hello", "session", "round trip", "gossip", "datagrams")
"""Each builds on those before it."""

NODE_NAME = "doctor"
"""What the peer's application sees join and leave, unless the configuration has a name."""

LIVENESS_S = 2.5
"""Of the session with the peer: half a second of it, twice over, is when a ping tells the round trip."""

DATAGRAMS_S = 4.0
"""UDP proves itself in a round trip, or PUSH takes its place after 0.3 s, on a connection of its own."""

GOSSIP_S = 1.0
"""A peer tells of the first others within 0.4 s of the session's begin, and of 64 more every 0.3 s."""

LOOK_S = 0.02
"""How often the peer's snapshot is looked at for what no event tells."""

_HINTS = {
    "host": "check the name, or write the IP address into the ticket",
    "tcp": "is the peer running, and does it listen on that address? Does a firewall let its port pass?",
    REFUSED: "its key may not be that of the ticket, which ends with the peer's identity: get a fresh one",
    NO_PEER: "another service has that port: get a fresh ticket",
}


async def examine_path(
    config: NodeConfig, given: Ticket | str, identity: Identity | None, trust: MeshTrust | None
) -> list[Finding]:
    """Go the way to a peer; what comes after the step at which it ends is skipped."""
    if identity is None or trust is None:
        return [skipped(_name(step), "without identity and mesh secret nobody is reached") for step in STEPS]
    way = _Way(config, given, identity, trust)
    found: list[Finding] = []
    try:
        for examine in way.steps:
            found.append(await examine())
            if found[-1].verdict is Verdict.FAILURE:
                break
    finally:
        await way.close()
    ended, rest = STEPS[len(found) - 1], STEPS[len(found) :]
    return found + [skipped(_name(step), f"the way ends before it, at: {ended}") for step in rest]


def _name(step: str) -> str:
    return f"peer: {step}"


class _Way:
    """The way to one peer, and what the steps so far have shown."""

    def __init__(self, config: NodeConfig, given: Ticket | str, identity: Identity, trust: MeshTrust) -> None:
        self._config = config
        self._given = given
        self._identity = identity
        self._trust = trust
        self._endpoints: Sequence[str] = ()  # of the ticket, those that are still promising
        self._greetings: Sequence[Greeting] = ()
        self._conversation: _Conversation | None = None

    @property
    def steps(self) -> tuple[Callable[[], Awaitable[Finding]], ...]:
        """One for each of STEPS."""
        return (
            self._parse,
            self._resolve,
            self._connect,
            self._prove_key,
            self._prove_secret,
            self._begin_session,
            self._measure,
            self._overhear,
            self._await_datagrams,
        )

    async def close(self) -> None:
        """Let go of everything."""
        if self._conversation is not None:
            await self._conversation.close()

    async def _parse(self) -> Finding:
        name = _name("ticket")
        try:
            ticket = self._given if isinstance(self._given, Ticket) else Ticket.parse(self._given)
        except ConfigError as error:
            return failed_by(name, error, "copy it anew, whole, from what the peer's ticket() says")
        if ticket.address == self._identity.address:
            return failure(name, "it is that of the identity that is examined", "take the peer's")
        allowed = self._config.admit
        if isinstance(allowed, Collection) and ticket.address not in allowed:
            return failure(name, "this side's admit= does not list its address", "add it there")
        self._address, self._endpoints = ticket.address, ticket.endpoints
        return ok(name, f"it names the peer {ticket.address.short} at {_places(ticket.endpoints)}")

    async def _resolve(self) -> Finding:
        timeout_s = self._config.limits.handshake_timeout_s
        outcomes = await asyncio.gather(*(resolve(endpoint, timeout_s) for endpoint in self._endpoints))
        return self._sifted("host", outcomes, "resolved")

    async def _connect(self) -> Finding:
        timeout_s = self._config.limits.handshake_timeout_s
        outcomes = await asyncio.gather(*(connect(endpoint, timeout_s) for endpoint in self._endpoints))
        return self._sifted("tcp", outcomes, "connected")

    def _sifted(self, step: str, outcomes: Sequence[Reached], done: str) -> Finding:
        """Go on with the endpoints that did; none left is the end."""
        missed = [f"{outcome.place}: {outcome.reason}" for outcome in outcomes if outcome.reason]
        reached = [outcome.place for outcome in outcomes if not outcome.reason]
        if not reached:
            return failure(_name(step), listed(missed), _HINTS[step])
        self._endpoints = [
            endpoint
            for endpoint, outcome in zip(self._endpoints, outcomes, strict=True)
            if not outcome.reason
        ]
        return ok(_name(step), listed([f"{done}: {listed(dict.fromkeys(reached))}", *missed]))

    async def _prove_key(self) -> Finding:
        async with Probe(self._identity, self._trust.key, self._config.limits) as probe:
            try:
                await probe.listen()
            except BusError as error:
                return failed_by(_name("curve"), error)
            self._greetings = await asyncio.gather(
                *(probe.greet(endpoint, self._address) for endpoint in self._endpoints)
            )
        proven = [greeting for greeting in self._greetings if greeting.progress >= Progress.CURVE]
        if proven:
            self._greetings = proven
            places = _places(greeting.endpoint for greeting in proven)
            return ok(_name("curve"), f"it has the key of the ticket, at {places}")
        reasons = listed(f"{_place(greeting)}: {greeting.reason}" for greeting in self._greetings)
        hints = [_HINTS[known] for known in (REFUSED, NO_PEER) if known in reasons]
        silent = "what listens there says nothing: it hangs, or is something else; look at that process"
        return failure(_name("curve"), reasons, hints[0] if hints else silent)

    async def _prove_secret(self) -> Finding:
        best = max(self._greetings, key=lambda greeting: greeting.progress)
        if best.progress is Progress.HELLO:
            self._endpoints = [one.endpoint for one in self._greetings if one.progress is Progress.HELLO]
            return ok(_name("hello"), "each side has proven to know the secret; they speak a common version")
        refusal = best.refusal
        if refusal is not None:
            return failure(_name("hello"), f"refused: {refusal.reason}", refusal_hint(refusal.hint))
        silent = "it has the key, but does not answer: its process hangs, or the connection was cut"
        return failure(_name("hello"), best.reason, silent)

    async def _begin_session(self) -> Finding:
        name = _name("session")
        ticket = Ticket(self._address, tuple(self._endpoints))
        conversation = self._conversation = _Conversation(self._config, ticket, self._identity)
        try:
            began = time.perf_counter()
            peer = await conversation.begin()
        except TimeoutError:
            hint = "look at the peer's log: its admit= may be thinking, or this identity be in use"
            return failure(name, "it answered HELLO, but no session began", hint)
        except (BusError, OSError) as error:
            return failed_by(name, error, "see what is found above about ports and directories")
        elapsed_ms = (time.perf_counter() - began) * 1000
        return ok(name, f"began after {elapsed_ms:.0f} ms; it calls itself {peer.name!r}")

    async def _measure(self) -> Finding:
        name = _name("round trip")
        assert self._conversation is not None
        peer = await self._conversation.look(lambda peer: peer.rtt_s is not None, 2 * LIVENESS_S)
        if peer is not None and peer.rtt_s is not None:
            path = peer.path.reliable.value
            return ok(name, f"{peer.rtt_s * 1000:.1f} ms over {path}, asked and answered by the two buses")
        return self._conversation.broken(name)

    async def _overhear(self) -> Finding:
        name = _name("gossip")
        assert self._conversation is not None
        if not _gossips(self._config):
            return skipped(name, "it is not among the discoveries")
        heard = await self._conversation.gossip()
        if heard is None:
            return self._conversation.broken(name)
        others, refused = heard
        text = f"within {GOSSIP_S:g} s it told of {others} other peers"
        if refused:
            hint = "a peer there says that it is where others cannot reach it: see to its advertise="
            return warning(name, f"{text}, and {refused} things that lead nowhere", hint)
        return ok(name, text if others else f"{text}: it has met none, or does not gossip")

    async def _await_datagrams(self) -> Finding:
        name = _name("datagrams")
        assert self._conversation is not None
        peer = await self._conversation.datagrams()
        if peer is None:
            return self._conversation.broken(name)
        return _DATAGRAMS[peer.path.datagram](name)


_FIREWALL = "let firewalls on both sides pass UDP to the same port numbers as TCP"

_DATAGRAMS: dict[DatagramPath, Callable[[str], Finding]] = {
    DatagramPath.UDP: lambda name: ok(name, "over UDP"),
    DatagramPath.PUSH: lambda name: warning(name, "over TCP, and may be late: UDP is blocked", _FIREWALL),
    DatagramPath.NONE: lambda name: failure(
        name, "neither UDP nor TCP takes them, so unreliable messages end in NoPath", _FIREWALL
    ),
}


def _gossips(config: NodeConfig) -> bool:
    return any(chosen == "gossip" or isinstance(chosen, GossipDiscovery) for chosen in config.discovery)


class _Overhearing(GossipDiscovery):
    """Listens, and tells nobody where we are: nobody is to dial the doctor."""

    async def announce(self, beacon: Beacon) -> None:
        """Do nothing."""


class _Conversation:
    """A node of the doctor's own, which dials that peer only. It sends no messages."""

    def __init__(self, config: NodeConfig, ticket: Ticket, identity: Identity) -> None:
        self._address = ticket.address
        self._left: PeerLeft | None = None
        self._told = asyncio.Event()
        self._timeout_s = config.limits.handshake_timeout_s
        alone = dataclasses.replace(
            config,
            name=config.name or NODE_NAME,
            identity=identity,
            discovery=(_Overhearing(),) if _gossips(config) else (),
            peers=(ticket,),
            port=0,
            advertise=(),
            limits=dataclasses.replace(
                config.limits,
                liveness_s=min(LIVENESS_S, config.limits.liveness_s),
                eager_dials_max=1,  # that one peer
            ),
        )
        self._node = Node(alone, self._on_events)
        self._joined: Peer | None = None
        self._began = 0.0

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, PeerJoined) and event.peer.address == self._address:
                self._joined = event.peer
                self._told.set()
            elif isinstance(event, PeerLeft) and event.peer.address == self._address:
                self._left = event

    async def begin(self) -> Peer:
        """Start, and wait for the peer. Raises ``StartError``, ``TimeoutError``."""
        await self._node.start()
        async with asyncio.timeout(2 * self._timeout_s):
            await self._told.wait()
        self._began = asyncio.get_running_loop().time()
        assert self._joined is not None
        return self._joined

    async def look(self, holds: Callable[[Peer], bool], soon_s: float) -> Peer | None:
        """Return the peer when that holds, or as it is when the time is up; None if it is gone."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + soon_s
        while self._left is None:
            peer = self._node.peer(self._address)
            if peer is None or holds(peer) or clock() >= deadline:
                return peer
            await asyncio.sleep(LOOK_S)
        return None

    async def datagrams(self) -> Peer | None:
        """Return the peer when a path takes datagrams, or when none does in time; None if it is gone."""
        if self._left is None:
            self._node.expect_datagrams(self._address)
        return await self.look(lambda peer: peer.path.datagram is not DatagramPath.NONE, DATAGRAMS_S)

    async def gossip(self) -> tuple[int, int] | None:
        """Return of how many others it told, and how much that leads nowhere; None if it is gone."""
        elapsed_s = asyncio.get_running_loop().time() - self._began
        if await self.look(lambda peer: False, GOSSIP_S - elapsed_s) is None:
            return None
        return len(self._node.peers) - 1, self._node.stats().rejected_records

    def broken(self, name: str) -> Finding:
        """What became of the session instead."""
        if self._left is None:
            return failure(name, "the session is there, but no answer came", "look at the load of both hosts")
        if self._left.reason is LossReason.EXPELLED:
            hint = "ask who runs the other side: its admit= may not want this address or name"
            return failure(name, "the peer ended the session as soon as it knew who we are", hint)
        return failure(name, f"the peer was lost: {self._left.reason.value}", "examine it again")

    async def close(self) -> None:
        """Say goodbye."""
        await self._node.close(0)


def _place(greeting: Greeting) -> str:
    return greeting.endpoint.removeprefix("tcp://")


def _places(endpoints: Iterable[str]) -> str:
    return listed(endpoint.removeprefix("tcp://") for endpoint in endpoints)
