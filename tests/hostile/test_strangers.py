"""Who knows where a node is, even its address, but not the secret of its mesh."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import PeerJoined
from brokerless.transport.zap import ZAP_ENDPOINT, ZapHandler
from tests.hostile.curve import GREETING, MORE, CurveClient, framed, key_pair
from tests.hostile.raw import (
    REFUSE_PROOF,
    Keys,
    by_curve_to_another,
    by_half_a_key,
    by_nothing,
    by_password,
    data,
    fresh_keys,
    fresh_routing_id,
    hello,
    info,
    packet,
    proof,
)
from tests.hostile.siege import HASTE, Siege, round_trip, siege
from tests.witness import Log

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.asyncio

OTHER_KEY = bytes(range(32))
"""The key of another mesh."""

PART_BYTES = 64 * 1024

SAID_BEFORE_CURVE_BYTES = len(GREETING)
"""A node's own greeting, which every ZeroMQ socket sends to everybody."""


# Without the right keys


@pytest.mark.parametrize("secured", [by_nothing, by_password, by_curve_to_another, by_half_a_key])
async def test_without_the_right_keys_nobody_is_heard(tmp_path: Path, secured: Callable[..., None]) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder(secured=secured)
        speaking = asyncio.create_task(intruder.say(hello(bytes(32))))  # if libzmq lets it
        await intruder.hung_up()
        speaking.cancel()
        await asyncio.wait([speaking])
        assert intruder.heard == []
        assert attack.stats().handshakes_refused == 0  # it did not come so far


async def test_with_the_authentication_handler_dead_nobody_comes_in(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        transport: Any = attack.victim.node._transport
        transport._zap._socket.unbind(ZAP_ENDPOINT)  # at once; close leaves that to another thread
        transport._zap.close()
        intruder = attack.intruder()
        speaking = asyncio.create_task(intruder.say(intruder.hello(attack.key)))
        await intruder.hung_up()
        speaking.cancel()
        await asyncio.wait([speaking])
        assert intruder.heard == []
        await round_trip(attack.friend, attack.victim, "meanwhile")  # who is in is not touched
        transport._zap = ZapHandler(
            asyncio.get_running_loop(), transport._context, transport._sink.permits_push
        )


# With a wrong proof


def of_another_mesh(attack: Siege, own: bytes) -> bytes:
    return proof(OTHER_KEY, b"D", own, attack.address)


def of_nobody(attack: Siege, own: bytes) -> bytes:
    return bytes(32)


def of_a_friend(attack: Siege, own: bytes) -> bytes:
    """Replayed: a right one, made for this victim, by another."""
    return proof(attack.key, b"D", attack.friend.address.public_key, attack.address)


def of_the_victim_to_us(attack: Siege, own: bytes) -> bytes:
    """Reflected: what the victim says when it dials us."""
    return proof(attack.key, b"D", attack.address, own)


def of_the_victim_in_answer(attack: Siege, own: bytes) -> bytes:
    """Reflected: what the victim says when a friend dials it."""
    return proof(attack.key, b"A", attack.address, attack.friend.address.public_key)


def of_an_acceptor(attack: Siege, own: bytes) -> bytes:
    """Swapped: right in all but the role."""
    return proof(attack.key, b"A", own, attack.address)


def for_a_friend(attack: Siege, own: bytes) -> bytes:
    """Relayed: a right one of ours, made for another acceptor."""
    return proof(attack.key, b"D", own, attack.friend.address.public_key)


@pytest.mark.parametrize(
    "proven",
    [
        of_another_mesh,
        of_nobody,
        of_a_friend,
        of_the_victim_to_us,
        of_the_victim_in_answer,
        of_an_acceptor,
        for_a_friend,
    ],
)
async def test_a_wrong_proof_is_told_that_and_nothing_else(
    tmp_path: Path, proven: Callable[[Siege, bytes], bytes]
) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.say(hello(proven(attack, intruder.keys.public)))
        await intruder.hung_up()
        assert intruder.heard == [REFUSE_PROOF]
        assert attack.stats().handshakes_refused == 1


async def test_a_connection_is_one_attempt(tmp_path: Path) -> None:
    """What follows a wrong proof is not looked at, be it the right one."""
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        wrong = hello(bytes(32))
        for said in (wrong, intruder.hello(attack.key), info(), packet(1, 0, data(0, 1, b"x"))):
            await intruder.say(said)
        await intruder.hung_up()
        assert intruder.heard == [REFUSE_PROOF]
        assert attack.stats().handshakes_refused == 1


async def test_a_hundred_wrong_proofs_at_once_lock_nobody_out(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        intruders = [attack.intruder() for _ in range(100)]
        for intruder in intruders:
            await intruder.say(hello(bytes(32)))
        await attack.welcomes("meanwhile")
        for intruder in intruders:
            await intruder.hung_up()
        assert attack.stats().handshakes_refused == len(intruders)


# Without a proof


async def test_silence_after_curve_is_hung_up_on_in_time(tmp_path: Path) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        intruder = attack.intruder()
        await intruder.connected()
        await intruder.hung_up()
        assert intruder.heard == []


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        hello(bytes(32))[:-1],
        hello(bytes(32)) + bytes(5000),
        hello(bytes(32), b""),
        b"\xffDTB\x02\x01\x00\x00",
        b"\xffDTB\x03",
        info(),
        packet(1, 0, data(0, 1, b"an application's")),
        packet(0, 2**64 - 1),
    ],
)
async def test_whose_first_word_is_no_hello_is_hung_up_on(tmp_path: Path, said: bytes) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.say(said)
        await intruder.hung_up()
        assert intruder.heard == []
        await attack.refused()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much has come")
async def test_a_message_without_end_is_cut_off_before_the_time_is_up(tmp_path: Path) -> None:
    """No limit of libzmq counts the parts of a message that goes on and on."""
    async with siege(tmp_path, limits={"handshake_timeout_s": 600.0}) as attack:
        async with await attack.client() as client:
            hung_up = asyncio.create_task(client.hung_up())
            while not hung_up.done():
                client.send(bytes(PART_BYTES), MORE)
                await asyncio.sleep(0)
            assert await hung_up == b""


async def test_a_message_without_end_is_cut_off_when_the_time_is_up(tmp_path: Path) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        async with await attack.client() as client:
            hung_up = asyncio.create_task(client.hung_up())
            while not hung_up.done():
                client.send(b"", MORE)
                await asyncio.sleep(0.01)
            assert await hung_up == b""


async def test_a_message_of_many_parts_is_cut_off(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.say(*[b"part"] * 5_000)
        await intruder.hung_up()
        assert intruder.heard == []


# With somebody else's name


async def test_who_says_in_his_metadata_that_he_is_another_is_still_himself(tmp_path: Path) -> None:
    """ZMTP lets a client send properties; ours of that name is what the authentication handler says."""
    async with siege(tmp_path) as attack:
        ours, friend = key_pair(), attack.friend.address.public_key
        claim = {"User-Id": friend.hex().encode()}
        async with await attack.client(ours, claim) as client:
            client.send(hello(proof(attack.key, b"D", friend, attack.address)))
            assert await client.receive() == REFUSE_PROOF
            assert await client.hung_up() == b""
        async with await attack.client(ours, claim) as client:
            client.send(hello(proof(attack.key, b"D", ours[0], attack.address)))
            assert await client.receive() == hello(proof(attack.key, b"A", attack.address, ours[0]))
            client.send(info())
            joined = await attack.victim.event(PeerJoined, lambda event: event.peer.name == "strange-name")
            assert joined.peer.address.public_key == ours[0]


async def test_who_takes_anothers_routing_id_gets_nothing_of_him(tmp_path: Path) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        routing_id = fresh_routing_id()
        member = attack.intruder(routing_id=routing_id)
        await member.join(attack.key, name="member")
        await attack.victim.event(PeerJoined, lambda event: event.peer.name == "member")
        thief = attack.intruder(routing_id=routing_id)
        for said in (thief.hello(attack.key), info(), packet(1, 0, data(0, 1, b"stolen"))):
            await thief.say(said)
        await thief.hung_up()
        assert thief.heard == []
        await member.say_numbered(data(0, 1, b"still here"))
        await attack.victim.until(lambda: attack.victim.messages)
        assert [message.data for message in attack.victim.messages] == [b"still here"]
        assert attack.losses(member.keys.public) == []


@pytest.mark.parametrize("routing_id", [b"s", b"\1" * 17, b"\1" * 255])
async def test_a_routing_id_of_another_length_is_no_peers(tmp_path: Path, routing_id: bytes) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder(routing_id=routing_id)
        await intruder.say(intruder.hello(attack.key))
        await intruder.hung_up()
        assert intruder.heard == []


async def test_the_same_key_with_a_wrong_proof_leaves_its_owners_link_alone(tmp_path: Path) -> None:
    """Even who has stolen a friend's key, but not the secret, takes nothing from the friend."""
    async with siege(tmp_path) as attack:
        identity: Any = attack.friend.node._identity
        intruder = attack.intruder(Keys(identity.public, identity.secret))
        await intruder.say(hello(proof(OTHER_KEY, b"D", identity.public, attack.address)))
        await intruder.hung_up()
        assert intruder.heard == [REFUSE_PROOF]
        intruder.keys = fresh_keys()  # the events about that address are the friend's own


# On the same host

ANOTHER_USER = """
import os, pathlib, socket, sys

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
directory, place = pathlib.Path(sys.argv[1]), sys.argv[2]

def denied(attempt):
    try:
        attempt()
    except PermissionError:
        return True
    return False

attempts = [
    lambda: socket.socket(socket.AF_UNIX).connect(place),
    lambda: os.listdir(directory),
    lambda: os.listdir(directory / "registry"),
    lambda: os.open(directory / "registry" / "x.node", os.O_CREAT | os.O_WRONLY),
]
print(all(map(denied, attempts)), os.access(directory.parent, os.R_OK))
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_of_this_host_reaches_neither_sockets_nor_records() -> None:
    with tempfile.TemporaryDirectory(prefix="db-") as parent:
        os.chmod(parent, 0o755)  # open to all, as a home may be; what the node makes in it is not
        async with siege(Path(parent), discovery=("registry",)) as attack:
            ipc: Any = next(place for place in attack.victim.node._endpoints if place.startswith("ipc://"))
            command = (sys.executable, "-W", "ignore", "-c", ANOTHER_USER, f"{parent}/bus")
            other = await asyncio.create_subprocess_exec(
                *command, ipc.removeprefix("ipc://"), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await other.communicate()
            assert output == b"True True\n"


# Below CURVE


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="silence"),
        pytest.param(GREETING[:10], id="half a greeting"),
        pytest.param(GREETING, id="a greeting"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="http"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), id="tls"),
        pytest.param(GREETING + b"\x06" + b"\x7f" + b"\xff" * 7, id="a command of 2^63 bytes"),
        pytest.param(GREETING + b"\x02" + b"\xff" * 8, id="a message of 2^64 bytes before any handshake"),
        pytest.param(GREETING + framed(b"\x05HELLO\x01\x00" + bytes(192), command=True), id="a false hello"),
        pytest.param(GREETING + framed(b"\x08INITIATE" + bytes(300), command=True), id="initiate first"),
    ],
)
async def test_who_does_not_complete_curve_is_hung_up_on_in_time(tmp_path: Path, said: bytes) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        async with await CurveClient.connect(attack.port) as client:
            client.write(said)
            assert len(await client.hung_up()) <= SAID_BEFORE_CURVE_BYTES
        assert attack.stats().handshakes_refused == 0


@pytest.mark.parametrize(
    "header",
    [b"\x02" + b"\x7f" + b"\xff" * 7, b"\x02" + bytes(4) + b"\xff" * 4, b"\x02" + bytes(5) + b"\x02\x00\x00"],
    ids=["2^63", "4 GiB", "128 KiB"],
)
async def test_a_declared_length_takes_no_memory(tmp_path: Path, header: bytes) -> None:
    """Within CURVE, as a member might; the connection ends with the header, before the body comes."""
    async with siege(tmp_path) as attack:
        async with await attack.client() as client:
            client.write(header)
            assert await client.hung_up() == b""


async def test_who_seals_nothing_that_opens_is_hung_up_on(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        async with await attack.client() as client:
            client.write(framed(b"\x07MESSAGE" + bytes(8) + bytes(64)))
            assert await client.hung_up() == b""


async def test_a_nonce_used_twice_is_hung_up_on(tmp_path: Path) -> None:
    """A sealed message that is recorded and comes again on the same connection."""
    async with siege(tmp_path) as attack:
        ours = key_pair()
        async with await attack.client(ours) as client:
            client.send(hello(proof(attack.key, b"D", ours[0], attack.address)))
            await client.receive()
            client._nonce -= 1
            client.send(info(name="again"))
            await client.hung_up()
        assert not [event for event in attack.victim.of(PeerJoined) if event.peer.name == "again"]


async def test_a_part_that_promises_more_and_then_silence_is_hung_up_on(tmp_path: Path) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        ours = key_pair()
        async with await attack.client(ours) as client:
            client.send(hello(proof(attack.key, b"D", ours[0], attack.address)), MORE)
            assert await client.hung_up() == b""
        assert attack.stats().handshakes_refused == 0  # it was never heard


async def test_a_port_scan_disturbs_nobody(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        for _ in range(200):
            async with await CurveClient.connect(attack.port):
                pass


async def test_idle_connections_in_hundreds_are_hung_up_on_and_disturb_nobody(tmp_path: Path) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        idle = [await CurveClient.connect(attack.port) for _ in range(300)]
        await attack.welcomes("meanwhile")
        for client in idle:
            async with client:
                assert len(await client.hung_up()) <= SAID_BEFORE_CURVE_BYTES


async def test_what_strangers_do_is_no_noise_in_the_log(tmp_path: Path) -> None:
    """A log that a stranger can fill is one more thing to flood."""
    async with siege(tmp_path) as attack:
        with Log(logging.INFO) as log:
            intruders = [attack.intruder() for _ in range(20)]
            for intruder in intruders:
                await intruder.say(hello(bytes(32)))
                async with await CurveClient.connect(attack.port) as client:
                    client.write(b"GET / HTTP/1.1\r\n\r\n")
                    await client.hung_up()
            await attack.refused(len(intruders))
        assert log.lines == []
