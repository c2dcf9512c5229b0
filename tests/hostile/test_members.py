"""Who knows the secret, and keeps no rule: the session ends with the reason, and nobody else is touched."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import (
    LossReason,
    PeerJoined,
    PeerLeft,
    PeerLost,
    Reliability,
    StreamEnded,
    StreamOffered,
    pump,
)
from brokerless.clock import now
from tests.hostile.raw import (
    ACCEPT,
    BLOCKED,
    BUSY,
    DATA,
    FAULT,
    FINISH,
    GOODBYE,
    GRANT,
    INFO,
    MET,
    OPEN,
    PING,
    PONG,
    REJECT,
    RESET,
    SUPERSEDED,
    Heard,
    Intruder,
    chunk,
    control,
    data,
    frame,
    hello,
    info,
    packet,
    parse,
)
from tests.hostile.siege import HASTE, Siege, siege

if TYPE_CHECKING:
    from pathlib import Path

    from brokerless import Stream

pytestmark = pytest.mark.asyncio

FIRST = 0x0BADC0DE0BADC0DE
"""Stands for the id of the first stream that the intruder may open."""

OFFERS_MAX = 256
WITHDRAWALS_MAX = 1024
PACKET_BYTES_MAX = 73_728
KIB = 1024


def first_stream(intruder: Intruder) -> int:
    return 2 if intruder.keys.public < intruder.node else 1


def our_stream(attack: Siege, intruder: Intruder) -> Stream:
    """The victim's end of the first stream that the intruder opened."""
    [found] = [
        event.offer.stream
        for event in attack.victim.of(StreamOffered)
        if event.offer.peer.public_key == intruder.keys.public
    ]
    return found


async def expels(attack: Siege, intruder: Intruder) -> str:
    """The victim says why, hangs up, and has lost the peer; return the reason."""
    reason = await intruder.expelled()
    assert await attack.lost(intruder.keys.public) is LossReason.EXPELLED
    return reason


# Against the rules of the wire


HEAD = struct.pack("!QQI", 0, 1, 0)
"""How DATA begins: the first single message."""

MALFORMED: dict[str, tuple[bytes, str]] = {
    "a truncated header": (packet(1, 0)[:15], "15 bytes"),
    "a truncated frame": (packet(1, 0, b"\x04"), "truncated"),
    "a frame that declares 4 GiB": (packet(1, 0, frame(DATA, bytes(20), 2**32 - 1)), "declares 4294967295"),
    "a frame that declares one byte more": (packet(1, 0, frame(FINISH, b"\x92\x02\x04", 4)), "declares 4"),
    "an unknown frame": (packet(1, 0, frame(0x7F, b"")), "0x7f"),
    "an array of 4 Gi": (packet(1, 0, frame(OPEN, b"\xdd\xff\xff\xff\xff")), "no msgpack"),
    "a map of 4 Gi": (packet(0, 0, frame(INFO, b"\xdf\xff\xff\xff\xff")), "no msgpack"),
    "a string of 4 GiB": (packet(1, 0, frame(OPEN, b"\x95\x02\x00\xdb\xff\xff\xff\xff")), "no msgpack"),
    "an extension of 4 GiB": (packet(1, 0, frame(OPEN, b"\x95\2\0\xc9\xff\xff\xff\xff\1")), "no msgpack"),
    "arrays in arrays": (packet(1, 0, frame(OPEN, b"\x91" * 7000)), "no msgpack"),
    "a control frame of 8 KiB": (packet(1, 0, frame(OPEN, b"\xc5\x20\x00" + bytes(8192))), "8195 bytes"),
    "a run that declares 4 GiB": (packet(1, 0, frame(DATA, HEAD + b"\xc6" + b"\xff" * 4)), "no sequence"),
    "a run of empty arrays": (packet(1, 0, frame(DATA, HEAD + b"\x90" * 60_000)), "no sequence"),
    "a run of nothing": (packet(1, 0, data(0, 1)), "no sequence"),
    "a run of text": (packet(1, 0, frame(DATA, HEAD + b"\xa4text")), "no sequence"),
    "a sequence of 0": (packet(1, 0, data(0, 0, b"x")), "out of range"),
    "a sequence of 2^64": (packet(1, 0, data(0, 2**64 - 1, b"x")), "out of range"),
    "a chunk of 4 GiB": (packet(1, 0, chunk(0, 1, 2**32 - 1, 0, bytes(1024))), "4294967295 bytes"),
    "a chunk beyond its message": (packet(1, 0, chunk(0, 1, 10, 5, bytes(6))), "beyond"),
    "an empty chunk": (packet(1, 0, chunk(0, 1, 10, 0, b"")), "truncated chunk"),
    "a chunk far too small": (packet(1, 0, chunk(0, 1, 10_000, 0, b"x")), "a chunk of 1 bytes"),
    "a PING that is numbered": (packet(1, 0, control(PING, 1, 0)), "Ping in a numbered"),
    "an OPEN that is not": (packet(0, 0, control(OPEN, 2, 0, "", b"", 0)), "Open in an unnumbered"),
    "an acknowledgement of what was never sent": (packet(0, 1_000_000), "acknowledged packet 1000000"),
    "the same with data": (packet(1, 2**64 - 1, data(0, 1, b"x")), "acknowledged packet"),
    "a message out of order": (packet(1, 0, data(0, 2, b"x")), "out of order"),
    "a message of a stream never opened": (packet(1, 0, data(FIRST, 1, b"x")), "never opened"),
    "an ACCEPT of one the victim never opened": (packet(1, 0, control(ACCEPT, 1000, b"", 0)), "never opened"),
    "BLOCKED beyond any honest need": (packet(1, 0, control(BLOCKED, 0, 2**63)), "asks for"),
    "HELLO once more": (hello(bytes(32)), "unknown frame"),
}
"""What a member may not say, and what of the reason must be there."""


@pytest.mark.parametrize("what", MALFORMED)
async def test_who_breaks_the_rules_is_told_which_and_expelled(tmp_path: Path, what: str) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        await attack.victim.event(PeerJoined, lambda event: event.peer.name == "strange-name")
        said, expected = MALFORMED[what]
        first = struct.pack("!Q", first_stream(intruder))
        await intruder.say(said.replace(struct.pack("!Q", FIRST), first))
        assert expected in await expels(attack, intruder)
        assert attack.victim.messages == []
        assert attack.victim.received == {}


async def test_who_waits_for_a_stream_of_his_is_told_that_he_was_expelled(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        await intruder.say_numbered(control(OPEN, first_stream(intruder), 0, "x", b"", 65_536))
        await intruder.hear_frame(ACCEPT)
        stream = our_stream(attack, intruder)
        await intruder.say(packet(7, 0, frame(0x7F, b"")))
        code, *_ = await intruder.hear_frame(GOODBYE)
        assert code == FAULT
        await intruder.hung_up()  # though it does not hang up itself
        error = await attack.victim.ended(stream)
        assert isinstance(error, PeerLost)
        assert error.reason == "expelled"
        assert "0x7f" in str(error)
        assert error.__cause__ is not None
        events = attack.victim.events
        [ended] = attack.victim.of(StreamEnded)[-1:]
        left = next(event for event in attack.victim.of(PeerLeft))
        assert events.index(ended) < events.index(left)


# Credit


async def test_who_sends_more_single_messages_than_granted_is_expelled(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        attack.victim.consumes = False
        intruder = attack.intruder()
        told = await intruder.join(attack.key)
        fits = told["single_credit"] // (KIB + 64)
        await intruder.say_numbered(data(0, 1, *[bytes(KIB)] * fits))
        await attack.victim.until(lambda: len(attack.victim.messages) == fits)
        await intruder.say_numbered(data(0, 1 + fits, bytes(KIB)))
        assert "granted" in await expels(attack, intruder)
        assert len(attack.victim.messages) == fits
        attack.victim.messages.clear()
        attack.victim.consumes = True


@pytest.mark.parametrize("large", [False, True], ids=["a run", "a chunk"])
async def test_who_sends_more_on_a_stream_than_granted_is_expelled(tmp_path: Path, large: bool) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        told = await intruder.join(attack.key)
        stream = first_stream(intruder)
        credit = told["stream_credit"]
        await intruder.say_numbered(control(OPEN, stream, 0, "x", b"", 65_536))
        too_much = chunk(stream, 1, credit, 0, bytes(KIB)) if large else data(stream, 1, bytes(credit - 63))
        await intruder.say_numbered(too_much)
        assert "granted" in await expels(attack, intruder)
        assert attack.victim.received == {}


async def test_a_message_above_the_limit_is_expelled_even_where_credit_would_do(tmp_path: Path) -> None:
    async with siege(tmp_path, limits={"message_bytes_max": 10 * KIB}) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        await intruder.say_numbered(data(0, 1, bytes(10 * KIB)))
        await attack.victim.until(lambda: attack.victim.messages)
        await intruder.say_numbered(data(0, 2, bytes(10 * KIB + 1)))
        assert "above" in await expels(attack, intruder)
        assert [len(message.data) for message in attack.victim.messages] == [10 * KIB]


async def test_grants_that_overflow_do_no_harm(tmp_path: Path) -> None:
    """Whoever grants more than anybody can use gets what there is."""
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        await intruder.say_numbered(control(GRANT, 0, 2**64 - 1, 2**64 - 1), control(GRANT, 0, 0, 0))
        joined = await attack.victim.event(PeerJoined, lambda event: event.peer.name == "strange-name")
        attack.victim.node.send(b"plenty", joined.peer.address, Reliability.RELIABLE)
        assert b"plenty" in await intruder.hear_frame(DATA)


# Sessions


async def test_acknowledging_what_was_never_sent_begins_no_session(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key, received=1)
        assert "acknowledged" in await intruder.expelled()
        assert not [event for event in attack.victim.of(PeerJoined) if event.peer.name == "strange-name"]


async def test_a_session_that_is_over_is_not_resumed(tmp_path: Path) -> None:
    """An older nonce of ours is stale; the present session, on its own link, goes on."""
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key, boot=7, epoch=2)
        await attack.victim.event(PeerJoined, lambda event: event.peer.name == "strange-name")
        late = attack.intruder(intruder.keys)
        told = await late.greet(attack.key)
        known = {"their_boot": told["boot"], "their_epoch": told["epoch"]}
        await late.say(info(boot=7, epoch=1, **known))
        await late.say_numbered(data(0, 1, b"stale"))
        await late.hung_up()
        await intruder.say_numbered(data(0, 1, b"present"))
        await attack.victim.until(lambda: attack.victim.messages)
        assert [message.data for message in attack.victim.messages] == [b"present"]
        assert attack.losses(intruder.keys.public) == []


@pytest.mark.parametrize("theirs", [(0, 0, 1), (1, 0, 0)], ids=["another epoch", "another boot"])
async def test_one_nonce_of_two_resumes_nothing(tmp_path: Path, theirs: tuple[int, int, int]) -> None:
    """Ours is right, but the victim's is of another session: it waits for better, and hears nothing else."""
    boot, _, epoch = theirs
    async with siege(tmp_path, limits=HASTE) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        await attack.victim.event(PeerJoined, lambda event: event.peer.name == "strange-name")
        second = attack.intruder(intruder.keys)
        told = await second.greet(attack.key)
        wrong = {"their_boot": told["boot"] + boot, "their_epoch": told["epoch"] + epoch}
        await second.say(info(**wrong))
        await second.say_numbered(data(0, 1, b"unheard"), control(OPEN, first_stream(second), 0, "x", b"", 0))
        await second.hung_up()  # when its time is up
        assert attack.victim.messages == []
        assert [event for event in attack.victim.of(StreamOffered) if event.offer.name == "x"] == []
        await intruder.say_numbered(data(0, 1, b"heard"))
        await attack.victim.until(lambda: attack.victim.messages)
        assert [message.data for message in attack.victim.messages] == [b"heard"]
        assert attack.losses(intruder.keys.public) == []


async def test_a_new_nonce_of_ours_and_the_victims_present_one_begin_anew(tmp_path: Path) -> None:
    """What belonged to the old session ends; its numbers and streams mean nothing in the new one."""
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key, epoch=1)
        await intruder.say_numbered(control(OPEN, first_stream(intruder), 0, "x", b"", 65_536))
        await intruder.hear_frame(ACCEPT)
        stream = our_stream(attack, intruder)
        second = attack.intruder(intruder.keys)
        told = await second.greet(attack.key)
        known = {"their_boot": told["boot"], "their_epoch": told["epoch"]}
        await second.say(info(epoch=2, received=1, **known))
        error = await attack.victim.ended(stream)
        assert isinstance(error, PeerLost)
        assert error.reason == "expelled"
        await intruder.hung_up()
        again = await second.hear_frame(INFO)
        assert (again["boot"], again["received"]) == (told["boot"], 0)
        assert again["epoch"] > told["epoch"]
        # The stream of old is none here: it was never opened in this session.
        await second.say(info(epoch=2, their_boot=again["boot"], their_epoch=again["epoch"]))
        await second.say_numbered(data(first_stream(second), 1, b"x"))
        assert "never opened" in await second.expelled()


async def test_a_friends_nonces_are_worth_nothing_under_another_key(tmp_path: Path) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        core: Any = attack.friend.node._core
        session = core.session(attack.victim.address)
        intruder = attack.intruder()
        await intruder.greet(attack.key)
        stolen = {"boot": session.nonce.boot, "epoch": session.nonce.epoch, "received": session.received}
        ours = {"their_boot": session.their_nonce.boot, "their_epoch": session.their_nonce.epoch}
        await intruder.say(info(**stolen, **ours))
        await intruder.hung_up()  # it is another's session that it asks for, so it waits in vain
        assert not [event for event in attack.victim.of(PeerJoined) if event.peer.name == "strange-name"]


async def test_hello_and_then_silence_is_hung_up_on_in_time(tmp_path: Path) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        intruder = attack.intruder()
        await intruder.greet(attack.key)
        await intruder.hung_up()
        assert not [event for event in attack.victim.of(PeerJoined) if event.peer.name == "strange-name"]


async def test_packets_before_info_are_nobodys(tmp_path: Path) -> None:
    async with siege(tmp_path, limits=HASTE) as attack:
        intruder = attack.intruder()
        await intruder.greet(attack.key)
        await intruder.say_numbered(data(0, 1, b"too early"))
        await intruder.hung_up()
        assert attack.victim.messages == []


async def test_nothing_is_heard_after_goodbye(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        await intruder.say(packet(0, 0, control(GOODBYE, 1, "")))
        await intruder.say_numbered(data(0, 1, b"one more thing"))
        assert await attack.lost(intruder.keys.public) is LossReason.LEFT
        await intruder.hung_up()
        assert attack.victim.messages == []


@pytest.mark.parametrize("claim", ["none", "made up", "the victim's own"])
async def test_nobody_ends_a_node_by_telling_it_that_it_was_superseded(tmp_path: Path, claim: str) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        told = await intruder.join(attack.key)
        claims = {"none": [], "made up": [b"\xff" * 48], "the victim's own": [told["claim"]]}
        await intruder.say(packet(0, 0, control(GOODBYE, SUPERSEDED, "there is another", *claims[claim])))
        assert await attack.lost(intruder.keys.public) is LossReason.EXPELLED
        assert attack.victim.node.failure is None


async def test_numbers_that_jump_cost_the_link_and_not_the_session(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        await intruder.say(packet(2, 0, data(0, 1, b"second")))
        await intruder.hung_up()
        assert attack.victim.messages == []
        again = attack.intruder(intruder.keys)
        await again.join(attack.key)
        await again.say(packet(1, 0, data(0, 1, b"first")))
        await attack.victim.until(lambda: attack.victim.messages)
        assert attack.losses(intruder.keys.public) == []


# Versions


@pytest.mark.parametrize("versions", [b"\0", b"\2", b"\2\3\xff"])
async def test_without_a_common_version_the_refusal_names_ours(tmp_path: Path, versions: bytes) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.say(intruder.hello(attack.key, versions))
        refusal = await intruder.hear()
        assert refusal[:8] == b"\xffDTB\2\2\1\1"  # REFUSE, VERSION, one of them: 1
        assert refusal[9:] == b"no common version"
        await intruder.hung_up()
        assert attack.stats().handshakes_refused == 1
        intruder.is_member = True  # it holds the secret, and was told no more all the same
        assert intruder.heard == [refusal]


# Floods


async def test_of_a_flood_of_offers_256_wait_and_the_others_are_refused(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        attack.victim.accepts = False
        intruder = attack.intruder()
        await intruder.join(attack.key)
        stream = first_stream(intruder)
        ids = [stream + 2 * count for count in range(1000)]
        for start in range(0, 1000, 100):
            opens = [control(OPEN, one, 0, "flood", b"", 0) for one in ids[start : start + 100]]
            await intruder.say_numbered(*opens)
        refused = await rejections(intruder, 1000 - OFFERS_MAX)
        assert [one for one, _ in refused] == ids[OFFERS_MAX:]
        assert {code for _, code in refused} == {BUSY}
        offered = [event.offer for event in attack.victim.of(StreamOffered) if event.offer.name == "flood"]
        assert [offer.stream.id for offer in offered] == ids[:OFFERS_MAX]
        attack.victim.accepts = True
        for offer in offered:
            attack.victim.node.reject(offer)


async def rejections(intruder: Intruder, count: int) -> list[tuple[int, int]]:
    """The next so many: of which stream, with which code."""
    refused: list[tuple[int, int]] = []
    while len(refused) < count:
        heard: Heard = parse(await intruder.hear())
        refused += [(stream, code) for stream, code, _ in heard.of(REJECT)]
    return refused


async def test_offers_made_and_taken_back_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For opening and resetting in turns a peer needs nobody's answer."""
    async with siege(tmp_path) as attack:
        attack.victim.accepts = False
        intruder = attack.intruder()
        await intruder.join(attack.key)
        stream = first_stream(intruder)
        ids = [stream + 2 * count for count in range(2_000)]
        with monkeypatch.context() as patch:
            moment = now()
            patch.setattr(pump, "read_clock", lambda: moment)  # all within one second, however long it takes
            for start in range(0, len(ids), 100):
                churn = [
                    control(OPEN, one, 0, "churn", b"", 0) + control(RESET, one, 0, "", 0)
                    for one in ids[start : start + 100]
                ]
                await intruder.say_numbered(*churn)
            refused = await rejections(intruder, len(ids) - WITHDRAWALS_MAX)
        assert {code for _, code in refused} == {BUSY}
        offered = [event for event in attack.victim.of(StreamOffered) if event.offer.name == "churn"]
        assert len(offered) == WITHDRAWALS_MAX
        attack.victim.accepts = True


async def test_of_a_flood_of_pings_as_many_are_answered_as_a_packet_holds(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        pings = [control(PING, token, 0) for token in range(4_000)]
        for _ in range(3):  # two packets hold fewer answers
            await intruder.say(packet(0, 0, *pings))
        await attack.welcomes("meanwhile")
        await intruder.say(packet(0, 0, control(PING, 7_000_000, 0)))
        while [7_000_000] not in parse(await intruder.hear()).of(PONG):
            pass
        assert max(map(len, intruder.heard)) <= PACKET_BYTES_MAX


# Other peers


async def test_what_is_said_about_a_friend_does_not_touch_him(tmp_path: Path) -> None:
    """MET sends the victim to a place of ours with the friend's address, whose key nobody has there."""
    async with siege(tmp_path, discovery=("gossip",)) as attack:
        trap = attack.impostor()
        intruder = attack.intruder()
        await intruder.join(attack.key)
        place = trap.endpoint.removeprefix("tcp://")
        await intruder.say_numbered(control(MET, attack.friend.address.public_key, place))
        await intruder.say_numbered(data(0, 1, b"after it"))
        await attack.victim.until(lambda: attack.victim.messages)
        assert trap.heard == []


async def test_an_expelled_member_may_come_again_and_behave(tmp_path: Path) -> None:
    async with siege(tmp_path) as attack:
        intruder = attack.intruder()
        await intruder.join(attack.key)
        await intruder.say(packet(1, 0, frame(0x7F, b"")))
        await expels(attack, intruder)
        again = attack.intruder(intruder.keys)
        await again.join(attack.key, epoch=2)
        await again.say_numbered(data(0, 1, b"sorry"))
        await attack.victim.until(lambda: attack.victim.messages)
        assert [message.data for message in attack.victim.messages] == [b"sorry"]
