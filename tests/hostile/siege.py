"""A node under attack, a friend who talks with it all the while, and what must hold after each attack."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brokerless import Identity, Limits, NodeStats, PeerLeft, StreamOffered
from brokerless.trust import mesh_key
from tests.hostile.curve import CurveClient, key_pair
from tests.hostile.raw import (
    REFUSE_PROOF,
    Impostor,
    Intruder,
    Keys,
    by_curve,
    fresh_keys,
    fresh_routing_id,
    raw_context,
)
from tests.witness import SOON_S, Mesh, Witness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from brokerless import Address, LossReason

HASTE = {"handshake_timeout_s": 2.0}
"""Limits of a victim whose handshake timeout is waited for: long enough for the good on a busy machine."""

PATIENT = {"liveness_s": 60.0}
"""Limits of the victim and its friend: no attack may cost them their link, nor does a busy machine."""

PRIVATE = (b"private-name", b"private-metadata", b"friend-name", b"friend-metadata")
"""What no stranger may come to know."""


def descriptors() -> int:
    """How many descriptors this process has open, where the system tells."""
    listing = Path("/proc/self/fd")
    return len(os.listdir(listing)) if listing.exists() else 0


async def turns() -> AsyncIterator[None]:
    """Each turn of the loop, for what nobody tells; not for ever."""
    async with asyncio.timeout(SOON_S):
        while True:
            yield
            await asyncio.sleep(0.001)


def below(other: Address | None) -> Identity:
    """An identity that dials the other at once; who is above it waits a moment for being dialled."""
    while True:
        identity = Identity.generate()
        if identity.address < other if other is not None else identity.public[0] >= 0x80:
            return identity


async def round_trip(one: Witness, other: Witness, name: str) -> None:
    """There and back again on a reliable stream, which ends well."""
    stream = await one.opened(other, name)
    far = await other.incoming(name)
    stream.send(b"there")
    await other.until(lambda: other.received.get(far) == [b"there"])
    far.send(b"back")
    await one.until(lambda: one.received.get(stream) == [b"back"])
    for end in (stream, far):
        end.finish()
    assert await one.ended(stream) is None
    assert await other.ended(far) is None


class Siege:
    """What an attack needs, and whether it did any harm."""

    def __init__(self, mesh: Mesh, victim: Witness, friend: Witness, stack: ExitStack) -> None:
        self.mesh = mesh
        self.victim = victim
        self.friend = friend
        self.key = mesh_key("dittobus", mesh.defaults["secret"], None, None).key
        self.endpoint = str(victim.node.ticket().endpoints[0])
        self.address = victim.address.public_key
        self.intruders: list[Intruder] = []
        self.impostors: list[Impostor] = []
        self._stack = stack
        self.context = stack.enter_context(raw_context())
        self.before = self.stats()
        self._links_lost_before = self._links_lost()

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def stats(self) -> NodeStats:
        return self.victim.node.stats()

    def intruder(
        self,
        keys: Keys | None = None,
        *,
        routing_id: bytes | None = None,
        secured: Callable[..., None] = by_curve,
    ) -> Intruder:
        """Somebody who connects to the victim."""
        keys, routing_id = keys or fresh_keys(), routing_id or fresh_routing_id()
        made = Intruder(self.context, self.address, self.endpoint, keys, routing_id, secured)
        self.intruders.append(made)
        return made

    async def client(
        self, ours: tuple[bytes, bytes] | None = None, claims: Mapping[str, bytes] | None = None
    ) -> CurveClient:
        """A connection to the victim that is through with CURVE, and told it that about itself."""
        client = await CurveClient.connect(self.port)
        named = {"Socket-Type": b"DEALER", "Identity": fresh_routing_id(), **(claims or {})}
        try:
            await client.handshake(self.address, ours or key_pair(), named)
        except BaseException:
            client.close()
            raise
        return client

    def impostor(self, keys: Keys | None = None) -> Impostor:
        """Somebody whom the victim is to dial."""
        made = Impostor(self.context, keys or fresh_keys())
        self.impostors.append(made)
        return made

    async def refused(self, count: int = 1) -> None:
        """Wait until the victim has turned so many links away since the attack began."""
        async for _ in turns():
            if self.stats().handshakes_refused - self.before.handshakes_refused >= count:
                return

    def losses(self, address: bytes) -> list[LossReason]:
        """How the victim lost that peer, each time."""
        return [
            event.reason for event in self.victim.of(PeerLeft) if event.peer.address.public_key == address
        ]

    async def lost(self, address: bytes) -> LossReason:
        """How the victim lost that peer, when it has."""
        [reason, *_] = await self.victim.until(lambda: self.losses(address))
        return reason

    # What must hold

    async def quiet(self, descriptors_before: int) -> None:
        """Nothing is left of those who came."""
        async for _ in turns():
            if descriptors() <= descriptors_before and self.stats().links == self.before.links:
                return

    def tells_strangers_nothing(self) -> None:
        """Who has not proven the secret heard no word, and was told to nobody."""
        strangers = [one for one in self.intruders if not one.is_member]
        for stranger in strangers:
            assert set(stranger.heard) <= {REFUSE_PROOF}
        for impostor in self.impostors:
            for message in impostor.heard:
                assert not [word for word in PRIVATE if word in message]
        known = {one.keys.public for one in (*strangers, *self.impostors)}
        members = {one.keys.public for one in self.intruders if one.is_member}
        for event in self.victim.events:
            peer = getattr(event, "peer", None)
            if peer is not None and peer.address.public_key in known - members:
                assert (peer.name, peer.metadata) == ("", b"")
        senders = {message.sender for message in self.victim.messages}
        senders |= {event.offer.peer for event in self.victim.of(StreamOffered)}
        assert not {sender.public_key for sender in senders} & (known - members)

    async def keeps_friends(self) -> None:
        """The friend was there all the time, on one link, and is served; so is who comes now."""
        for one, other in ((self.victim, self.friend), (self.friend, self.victim)):
            assert not [event for event in one.of(PeerLeft) if event.peer.address == other.address]
        assert self._links_lost() == self._links_lost_before, "the friend's link did not survive"
        await round_trip(self.friend, self.victim, "of the friend")
        await self.welcomes("newcomer")

    def _links_lost(self) -> list[int]:
        """How many links the friend and the victim have lost, as each of them sees it."""
        ends = ((self.victim, self.friend), (self.friend, self.victim))
        stats = [one.node.peer_stats(other.address) for one, other in ends]
        return [each.links_lost for each in stats if each is not None]

    async def welcomes(self, name: str) -> None:
        """Somebody new joins, is served, and goes."""
        newcomer = await self.mesh.start(
            name, discovery=(), peers=(self.victim.node.ticket(),), identity=below(self.victim.address)
        )
        await newcomer.joined(self.victim)
        await round_trip(newcomer, self.victim, f"of the {name}")
        assert await newcomer.node.close()
        await self.victim.lost(newcomer)


@asynccontextmanager
async def siege(directory: Path, **options: Any) -> AsyncIterator[Siege]:
    """A node and its friend; when the attack is over, everything that must hold is looked at."""
    limits = options.pop("limits", {})
    async with Mesh(directory) as mesh:
        victim = await mesh.start(
            PRIVATE[0].decode(),
            metadata=PRIVATE[1],
            identity=below(None),
            limits=Limits(**PATIENT, **limits),
            **{"discovery": (), **options},
        )
        friend = await mesh.start(
            PRIVATE[2].decode(),
            discovery=(),
            identity=below(victim.address),
            metadata=PRIVATE[3],
            limits=Limits(**PATIENT),
            peers=(victim.node.ticket(),),
        )
        await friend.joined(victim)
        await victim.joined(friend)
        await round_trip(friend, victim, "before")
        victim.received.clear()
        before = descriptors()
        with ExitStack() as stack:
            attack = Siege(mesh, victim, friend, stack)
            yield attack
        await attack.quiet(before)
        attack.tells_strangers_nothing()
        await attack.keeps_friends()
