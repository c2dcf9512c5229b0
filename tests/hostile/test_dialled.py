"""Who is dialled by a node, because a record says so, and is not what it was taken for."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from brokerless import Address, Hint, PeerRefused, Reliability, SendDone, VersionMismatch
from tests.hostile.raw import MAGIC, Impostor, Keys, hello, info, proof
from tests.hostile.siege import HASTE, Siege, siege
from tests.witness import Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from brokerless import Beacon

pytestmark = pytest.mark.asyncio

QUICK = {**HASTE, "redial_min_s": 0.02, "redial_max_s": 0.05}
"""So that the same happens again and again within a test."""

OTHER_KEY = bytes(range(32))
"""The key of another mesh."""


class Rumour:
    """A discovery that says what the test wants to be believed."""

    name = "rumour"
    rejected = 0

    async def start(self, beacon: Beacon, report: Callable[[Hint], None]) -> None:
        self.report = report

    async def announce(self, beacon: Beacon) -> None: ...

    async def close(self) -> None: ...

    def spread(self, address: bytes, *places: str) -> None:
        """Say that a peer is there; at no place: that it has gone."""
        self.report(Hint(Address(address), places, 1, self.name))


@asynccontextmanager
async def luring(directory: Path) -> AsyncIterator[tuple[Siege, Rumour]]:
    """A siege whose victim hears rumours, which end with the attack."""
    rumour = Rumour()
    async with siege(directory, discovery=(rumour,), limits=QUICK) as attack:
        yield attack, rumour
        for impostor in attack.impostors:
            rumour.spread(impostor.keys.public)


def reflected(attack: Siege, trap: Impostor, said: bytes) -> bytes:
    return said


def of_another_mesh(attack: Siege, trap: Impostor, said: bytes) -> bytes:
    return hello(proof(OTHER_KEY, b"A", trap.keys.public, attack.address))


def replayed(attack: Siege, trap: Impostor, said: bytes) -> bytes:
    """What the friend answers to the victim."""
    return hello(proof(attack.key, b"A", attack.friend.address.public_key, attack.address))


def swapped(attack: Siege, trap: Impostor, said: bytes) -> bytes:
    """Right in all but the role."""
    return hello(proof(attack.key, b"D", trap.keys.public, attack.address))


def turned_round(attack: Siege, trap: Impostor, said: bytes) -> bytes:
    """Right in all but who proves it to whom."""
    return hello(proof(attack.key, b"A", attack.address, trap.keys.public))


@pytest.mark.parametrize("answer", [reflected, of_another_mesh, replayed, swapped, turned_round])
async def test_an_acceptor_with_a_wrong_proof_is_left_without_a_word(
    tmp_path: Path, answer: Callable[[Siege, Impostor, bytes], bytes]
) -> None:
    async with luring(tmp_path) as (attack, rumour):
        trap = attack.impostor()
        with Log() as log:
            rumour.spread(trap.keys.public, trap.endpoint)
            for _ in range(3):
                connection, said = await trap.hear()
                assert said == hello(proof(attack.key, b"D", attack.address, trap.keys.public))
                await trap.say(connection, answer(attack, trap, said))
            await attack.refused(3)
            assert log.having("different mesh secrets") == log.lines
            assert len(log.lines) == 1  # once, however often
        assert len(set(trap.heard)) == 1


async def test_who_waits_for_an_impostor_is_told(tmp_path: Path) -> None:
    async with luring(tmp_path) as (attack, rumour):
        trap = attack.impostor()
        rumour.spread(trap.keys.public, trap.endpoint)
        send_id = attack.victim.node.send(b"secret", Address(trap.keys.public), Reliability.RELIABLE)
        connection, said = await trap.hear()
        await trap.say(connection, said)
        done = await attack.victim.event(SendDone, lambda event: event.send_id == send_id)
        assert isinstance(done.error, PeerRefused)
        assert not [message for message in trap.heard if b"secret" in message]


@pytest.mark.parametrize("as_refusal", [False, True])
async def test_an_acceptor_of_other_versions_is_named_with_them(tmp_path: Path, as_refusal: bool) -> None:
    async with luring(tmp_path) as (attack, rumour):
        trap = attack.impostor()
        with Log() as log:
            rumour.spread(trap.keys.public, trap.endpoint)
            send_id = attack.victim.node.send(b"x", Address(trap.keys.public), Reliability.RELIABLE)
            connection, _ = await trap.hear()
            theirs = proof(attack.key, b"A", trap.keys.public, attack.address)
            refusal = MAGIC + b"\2\2\2\2\3\0"  # VERSION; two of them: 2 and 3
            await trap.say(connection, refusal if as_refusal else hello(theirs, b"\2\3"))
            done = await attack.victim.event(SendDone, lambda event: event.send_id == send_id)
            assert isinstance(done.error, VersionMismatch)
            assert done.error.reason == "no common version of the wire: this node speaks 1, the peer 2, 3"
            await log.line("this node speaks 1, the peer 2, 3")


async def test_a_refusal_cannot_write_into_the_log_what_it_likes(tmp_path: Path) -> None:
    async with luring(tmp_path) as (attack, rumour):
        trap = attack.impostor()
        reason = b"\x1b[2J\r\nERROR all is lost"
        with Log() as log:
            rumour.spread(trap.keys.public, trap.endpoint)
            connection, _ = await trap.hear()
            await trap.say(connection, MAGIC + b"\2\4\0" + bytes((len(reason),)) + reason)
            line = await log.line("all is lost")
            assert line.isprintable()


SAID = {
    "nothing": [],
    "no handshake": [b"hello"],
    "info first": [info()],
    "something far too large": [bytes(80_000)],
    "a handshake too large": [hello(bytes(32)) + bytes(5_000)],
}


@pytest.mark.parametrize("what", SAID)
async def test_an_acceptor_that_says_nothing_proper_is_left_in_time(tmp_path: Path, what: str) -> None:
    async with luring(tmp_path) as (attack, rumour):
        trap = attack.impostor()
        rumour.spread(trap.keys.public, trap.endpoint)
        for _ in range(2):  # it is left, for it is dialled again
            connection, _ = await trap.hear()
            for message in SAID[what]:
                await trap.say(connection, message)
        assert len(set(trap.heard)) == 1


@pytest.mark.parametrize("parts", [2, 5_000])
async def test_an_acceptor_that_answers_in_parts_is_left_in_time(tmp_path: Path, parts: int) -> None:
    async with luring(tmp_path) as (attack, rumour):
        trap = attack.impostor()
        rumour.spread(trap.keys.public, trap.endpoint)
        for _ in range(2):
            connection, _ = await trap.hear()
            await trap.socket.send_multipart([connection, *[b"part"] * parts])
        assert len(set(trap.heard)) == 1


async def test_where_a_friend_is_said_to_be_nobody_else_can_answer(tmp_path: Path) -> None:
    """A false record: the place is tried, but the key there is another, so not even a HELLO is said."""
    async with luring(tmp_path) as (attack, rumour):
        false = attack.impostor()
        real = attack.impostor()
        victims_guest = Keys(real.keys.public, false.keys.secret)
        assert victims_guest.public != false.keys.public
        rumour.spread(real.keys.public, false.endpoint)  # its key, but the other's place
        rumour.spread(false.keys.public, real.endpoint)
        rumour.spread(attack.friend.address.public_key, false.endpoint)
        await attack.welcomes("meanwhile")
        assert (false.heard, real.heard) == ([], [])


async def test_an_honest_place_among_false_ones_is_found(tmp_path: Path) -> None:
    async with luring(tmp_path) as (attack, rumour):
        traps = [attack.impostor() for _ in range(3)]
        honest = await attack.mesh.start("honest", discovery=())
        place = str(honest.node.ticket().endpoints[0])
        rumour.spread(honest.address.public_key, *(trap.endpoint for trap in traps), place)
        await attack.victim.joined(honest)
        assert [trap.heard for trap in traps] == [[], [], []]
        assert await honest.node.close()
        rumour.spread(honest.address.public_key)
        await attack.victim.lost(honest)
