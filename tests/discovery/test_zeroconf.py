from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import (  # type: ignore[attr-defined]  # the records are there for use, but in no __all__
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSService,
    DNSText,
    current_time_millis,
)

from brokerless.address import Address
from brokerless.discovery import Beacon, Discovery, Hint
from brokerless.discovery.multicast import QUERY_INTERVAL_MAX_S, SERVICE_TYPE, MulticastDns
from brokerless.discovery.record import NONCE_BYTES, RECORD_BYTES, open_record, seal_record
from brokerless.discovery.sightings import RECORDS_PER_PEER_MAX
from brokerless.discovery.zeroconf import ZeroconfDiscovery, decode_text, encode_text
from brokerless.errors import StartError
from brokerless.identity import Identity
from brokerless.trust import generate_secret
from tests.transport.support import turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from zeroconf import DNSRecord

LOOPBACK = ("127.0.0.1",)
"""The only interface that a test may touch."""

SOON_S = 15.0
"""More than enough for what takes a second, on any machine."""

ANNOUNCEMENTS = 3
"""How often the library says a thing, and once more to whoever asks, on this host any process."""

NODE = """
import asyncio, sys
from brokerless.address import Address
from brokerless.discovery import Beacon
from brokerless.discovery.zeroconf import ZeroconfDiscovery

async def main():
    heard = asyncio.Queue()
    discovery = ZeroconfDiscovery(["127.0.0.1"])
    beacon = Beacon(Address(b"p" * 32), ("tcp://127.0.0.1:4000",), 7, bytes.fromhex(sys.argv[1]))
    await discovery.start(beacon, heard.put_nowait)
    print((await heard.get()).address, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await discovery.close()

asyncio.run(main())
"""
"""A process that says whom it has found, and closes when its input ends."""


class Node:
    """A discovery, its beacon and what it reports."""

    def __init__(self, key: bytes) -> None:
        self.discovery: Discovery = ZeroconfDiscovery(LOOPBACK)
        self.beacon = Beacon(Identity.generate().address, ("tcp://127.0.0.1:4000",), 1, key)
        self.hints: asyncio.Queue[Hint] = asyncio.Queue()

    def hint(self, *endpoints: str) -> Hint:
        """What others ought to hear of it."""
        return Hint(self.beacon.address, endpoints, self.beacon.boot, "zeroconf")

    async def announce(self, *endpoints: str) -> None:
        await self.discovery.announce(
            Beacon(self.beacon.address, endpoints, self.beacon.boot, self.beacon.mesh_key)
        )

    async def heard(self) -> Hint:
        return await asyncio.wait_for(self.hints.get(), SOON_S)


class Outsider(asyncio.DatagramProtocol):
    """Hears every packet, and knows no key."""

    def __init__(self) -> None:
        self.packets: list[DNSIncoming] = []
        self._heard = asyncio.Event()

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.packets.append(DNSIncoming(data))
        self._heard.set()

    @property
    def records(self) -> list[DNSRecord]:
        return [record for packet in self.packets if packet.is_response() for record in packet.answers()]

    @property
    def known_answers(self) -> list[str]:
        """The names that those who ask say they know."""
        queries = [packet for packet in self.packets if packet.is_query()]
        return [
            record.alias for query in queries for record in query.answers() if isinstance(record, DNSPointer)
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON_S):
            while not condition():
                self._heard.clear()
                await self._heard.wait()

    def texts(self, key: bytes) -> list[DNSText]:
        """Return the texts of one mesh as they came. This takes its key, for others may run on this host."""
        texts = [(text, decode_text(text.text)) for text in self.records if isinstance(text, DNSText)]
        return [text for text, sealed in texts if sealed is not None and open_record(sealed, key, "")]

    def services(self, key: bytes) -> list[str]:
        """Return the names of the services of one mesh, in order."""
        return list(dict.fromkeys(text.name for text in self.texts(key)))

    async def told(self, key: bytes, name: str | None = None) -> None:
        """Wait until that service, or the first of the mesh, was announced as often as it is unasked."""

        def is_told() -> bool:
            told = Counter(text.name for text in self.texts(key) if text.ttl > 0)
            return max(told.values() if name is None else [told[name]], default=0) >= ANNOUNCEMENTS

        await self.until(is_told)


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def started(stack: AsyncExitStack, key: bytes) -> Node:
    node = Node(key)
    stack.push_async_callback(node.discovery.close)
    await node.discovery.start(node.beacon, node.hints.put_nowait)
    return node


async def listening(stack: AsyncExitStack) -> Outsider:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("", 5353))
    group = socket.inet_aton("224.0.0.251") + socket.inet_aton(LOOPBACK[0])
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    loop = asyncio.get_running_loop()
    transport, outsider = await loop.create_datagram_endpoint(Outsider, sock=listener)
    stack.callback(transport.close)
    return outsider


@pytest.mark.asyncio
async def test_nodes_find_each_other_move_and_leave(stack: AsyncExitStack) -> None:
    key = generate_secret()
    elder, stranger = await started(stack, key), await started(stack, generate_secret())
    newcomer = await started(stack, key)
    assert await elder.heard() == newcomer.hint("tcp://127.0.0.1:4000")
    assert await newcomer.heard() == elder.hint("tcp://127.0.0.1:4000")
    await newcomer.announce("tcp://127.0.0.2:9", "ipc:///run/a.sock")
    assert await elder.heard() == newcomer.hint("tcp://127.0.0.2:9")
    await newcomer.announce("ipc:///run/a.sock")
    assert await elder.heard() == newcomer.hint()
    await newcomer.announce("tcp://127.0.0.3:9")
    assert await elder.heard() == newcomer.hint("tcp://127.0.0.3:9")
    await newcomer.discovery.close()
    await newcomer.discovery.close()
    assert await elder.heard() == newcomer.hint()
    assert stranger.hints.empty()
    assert elder.discovery.rejected >= 1  # the stranger's, and others' that happen to run here
    assert stranger.discovery.rejected >= 2


@pytest.mark.asyncio
async def test_processes_find_each_other(stack: AsyncExitStack) -> None:
    key = generate_secret()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NODE, key.hex(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    peer = Address(b"p" * 32)
    try:
        node = await started(stack, key)
        assert await node.heard() == Hint(peer, ("tcp://127.0.0.1:4000",), 7, "zeroconf")
        said = await asyncio.wait_for(process.stdout.readline(), SOON_S)
        assert said.decode().strip() == str(node.beacon.address)
    finally:
        process.stdin.close()
        await process.wait()
    assert await node.heard() == Hint(peer, (), 7, "zeroconf")


@pytest.mark.asyncio
async def test_a_newcomer_asks_and_says_what_it_knows(stack: AsyncExitStack) -> None:
    outsider, key = await listening(stack), generate_secret()
    elder = await started(stack, key)
    await outsider.told(key)
    [name] = outsider.services(key)
    newcomer = await started(stack, key)
    assert await newcomer.heard() == elder.hint("tcp://127.0.0.1:4000")
    await outsider.until(lambda: name in outsider.known_answers)


@pytest.mark.asyncio
async def test_what_another_has_just_asked_is_not_asked_again(stack: AsyncExitStack) -> None:
    node = await started(stack, generate_secret())
    assert isinstance(node.discovery, ZeroconfDiscovery)
    multicast = node.discovery._multicast
    assert multicast is not None
    assert multicast._service is not None
    sent: list[DNSOutgoing] = []
    multicast._zeroconf.zeroconf.async_send = sent.append  # what others ask is only told, below
    history = multicast._zeroconf.zeroconf.question_history
    question = DNSQuestion(SERVICE_TYPE, 12, 1)
    ours = multicast._service.dns_pointer()
    theirs = DNSPointer(SERVICE_TYPE, 12, 1, 1200, f"theirs.{SERVICE_TYPE}")

    def asks(*, last_s: float, heard_s: float, known: set[DNSPointer]) -> bool:
        """Whether it asks, who did so last that long ago, and heard another with these answers since."""
        now = current_time_millis()
        multicast._asked_at_ms = now - last_s * 1000
        history.clear()
        history.add_question_at_time(question, now - heard_s * 1000, known)
        sent.clear()
        assert multicast._query_timer is not None
        multicast._query_timer.cancel()
        multicast._ask()
        assert multicast._asked_at_ms >= now  # either way it is the other's turn now
        return bool(sent)

    assert not asks(last_s=60, heard_s=20, known={ours})
    assert not asks(last_s=60, heard_s=20, known=set())
    assert asks(last_s=60, heard_s=20, known={ours, theirs})  # who was not answered, as the other knew it
    assert asks(last_s=60, heard_s=31, known={ours})
    assert asks(last_s=1, heard_s=1, known={ours})  # it was its own
    assert not asks(last_s=100, heard_s=40, known={ours})


@pytest.mark.asyncio
async def test_who_has_moved_asks_anew(stack: AsyncExitStack) -> None:
    node = await started(stack, generate_secret())
    assert isinstance(node.discovery, ZeroconfDiscovery)
    multicast = node.discovery._multicast
    assert multicast is not None
    multicast._query_interval_s = QUERY_INTERVAL_MAX_S
    asked = multicast._query_timer
    await node.announce("tcp://127.0.0.1:4001")
    assert multicast._query_interval_s < QUERY_INTERVAL_MAX_S
    assert asked is not None
    assert asked.cancelled() or asked.when() <= asyncio.get_running_loop().time()
    assert multicast._query_timer is not asked


@pytest.mark.asyncio
async def test_what_was_withdrawn_does_not_come_back(stack: AsyncExitStack) -> None:
    outsider, key = await listening(stack), generate_secret()
    node = await started(stack, key)
    await outsider.until(lambda: len(outsider.services(key)) == 1)
    [old] = outsider.services(key)
    await node.announce("tcp://127.0.0.1:4001")
    await outsider.until(lambda: len(outsider.services(key)) == 2)
    await outsider.told(key, outsider.services(key)[1])
    lives = [text.ttl > 0 for text in outsider.texts(key) if text.name == old]
    assert lives == sorted(lives, reverse=True)
    assert lives[-1] is False


@pytest.mark.asyncio
async def test_what_was_withdrawn_is_no_answer_any_more(stack: AsyncExitStack) -> None:
    """Even where somebody has asked for it before, and the answer is held back for up to a second."""
    node = await started(stack, generate_secret())
    assert isinstance(node.discovery, ZeroconfDiscovery)
    multicast = node.discovery._multicast
    assert multicast is not None
    assert multicast._service is not None
    old, zeroconf = multicast._service, multicast._zeroconf.zeroconf
    waiting = (zeroconf.out_queue, zeroconf.out_delay_queue)
    for each in waiting:
        each.async_add(current_time_millis(), {old.dns_pointer(): {old.dns_text()}, old.dns_text(): set()})
    await node.announce("tcp://127.0.0.1:4001")
    assert all(old.name not in str(group.answers) for each in waiting for group in each.queue)


@pytest.mark.asyncio
async def test_an_outsider_learns_nothing(stack: AsyncExitStack) -> None:
    outsider, key = await listening(stack), generate_secret()
    node = await started(stack, key)
    await outsider.until(lambda: len(outsider.services(key)) == 1)
    await node.announce("tcp://127.0.0.1:4001")
    await outsider.until(lambda: len(outsider.services(key)) == 2)
    hosts, texts = [], []
    for name in outsider.services(key):
        said = [record for record in outsider.records if record.name == name]
        [service] = {record for record in said if isinstance(record, DNSService)}
        [text] = {record for record in said if isinstance(record, DNSText)}
        assert (service.port, service.weight, service.priority) == (0, 0, 0)
        assert not [r for r in outsider.records if isinstance(r, DNSAddress) and r.name == service.server]
        hosts.append(service.server)
        texts.append(text.text)
    assert len(set(hosts)) == 2
    assert not any(socket.gethostname() in said for said in (*hosts, *outsider.services(key)))
    for packet in outsider.packets:
        assert node.beacon.address.public_key not in packet.data
        assert b"tcp://" not in packet.data
    assert sum(one == other for one, other in zip(*texts, strict=True)) < len(texts[0]) / 16


def response(*records: DNSRecord) -> bytes:
    """A packet as anybody on the network may send it."""
    packet = DNSOutgoing(0x8400)
    for record in records:
        packet.add_answer_at_time(record, 0)
    [data] = packet.packets()
    return data


def a_text(name: str, text: bytes, ttl: int = 120) -> DNSText:
    return DNSText(name, 16, 1 | 0x8000, ttl, text)


class Forger:
    """Sends to the group whatever it likes."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._socket = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK[0]))

    def send(self, packet: bytes) -> None:
        self._socket.sendto(packet, ("224.0.0.251", 5353))


@pytest.mark.asyncio
async def test_packets_that_are_truncated_or_in_conflict_stop_nobody(stack: AsyncExitStack) -> None:
    outsider, key = await listening(stack), generate_secret()
    elder = await started(stack, key)
    await outsider.told(key)
    newcomer = await started(stack, key)
    assert await newcomer.heard() == elder.hint("tcp://127.0.0.1:4000")
    forger, (name, *_) = Forger(stack), outsider.services(key)
    rejected = newcomer.discovery.rejected
    true = response(*outsider.texts(key)[:1])
    for length in range(0, len(true), 37):
        forger.send(true[:length])
    for number in range(20):
        forger.send(response(a_text(f"false{number}.{SERVICE_TYPE}", bytes(number))))
    forger.send(response(a_text(name, encode_text(bytes(RECORD_BYTES)))))  # the same name, another text
    late = await started(stack, key)
    assert {await late.heard(), await late.heard()} == {
        elder.hint("tcp://127.0.0.1:4000"),
        newcomer.hint("tcp://127.0.0.1:4000"),
    }
    async for _ in turns():
        if newcomer.discovery.rejected >= rejected + 20:
            break
    # The conflict may end the true record (RFC 6762 section 10.2), which is then asked for anew.
    while (hint := await newcomer.heard()).address != late.beacon.address:
        assert hint.address == elder.beacon.address
    assert hint == late.hint("tcp://127.0.0.1:4000")


@pytest.mark.asyncio
async def test_a_false_goodbye_is_soon_made_up_for(stack: AsyncExitStack) -> None:
    outsider, key = await listening(stack), generate_secret()
    elder = await started(stack, key)
    await outsider.told(key)
    newcomer = await started(stack, key)
    assert await newcomer.heard() == elder.hint("tcp://127.0.0.1:4000")
    true = next(text for text in outsider.texts(key) if text.name == outsider.services(key)[0])
    assert isinstance(newcomer.discovery, ZeroconfDiscovery)
    multicast = newcomer.discovery._multicast
    assert multicast is not None
    assert multicast._query_timer is not None
    multicast._query_timer.cancel()
    multicast._ask_in(QUERY_INTERVAL_MAX_S)  # as after some hours
    Forger(stack).send(response(a_text(true.name, true.text, ttl=0)))
    assert await newcomer.heard() == elder.hint()
    assert await newcomer.heard() == elder.hint("tcp://127.0.0.1:4000")


@pytest.mark.asyncio
async def test_a_flood_is_counted_and_takes_no_memory(stack: AsyncExitStack) -> None:
    key = generate_secret()
    node = await started(stack, key)
    assert isinstance(node.discovery, ZeroconfDiscovery)
    garbage = encode_text(bytes(RECORD_BYTES))
    replayed = encode_text(seal_record(Beacon(Address(b"p" * 32), ("tcp://127.0.0.1:1",), 7, key), bytes(12)))
    rejected = node.discovery.rejected
    for number in range(5_000):
        node.discovery._heard(f"garbage {number}", garbage)
        node.discovery._heard(f"replayed {number}", replayed)
    assert node.discovery.rejected >= rejected + 5_000
    assert node.hints.qsize() == 1
    assert node.discovery._sightings is not None
    assert len(list(node.discovery._sightings)) <= RECORDS_PER_PEER_MAX


@pytest.mark.asyncio
async def test_a_goodbye_for_another_text_withdraws_nothing(stack: AsyncExitStack) -> None:
    key = generate_secret()
    node = await started(stack, key)
    assert isinstance(node.discovery, ZeroconfDiscovery)
    peer = Address(b"p" * 32)
    one, other = (
        encode_text(seal_record(Beacon(peer, (f"tcp://127.0.0.1:{port}",), 7, key), bytes(NONCE_BYTES)))
        for port in (1, 2)
    )
    node.discovery._heard("name", one)
    for text in (other, b"", encode_text(bytes(RECORD_BYTES))):
        node.discovery._lost("name", text)
    node.discovery._lost("another name", one)
    assert await node.heard() == Hint(peer, ("tcp://127.0.0.1:1",), 7, "zeroconf")
    assert node.hints.empty()
    node.discovery._lost("name", one)
    assert await node.heard() == Hint(peer, (), 7, "zeroconf")


@pytest.mark.asyncio
@pytest.mark.parametrize("interfaces", [["no address"], ["203.0.113.1"], []])
async def test_what_cannot_start_says_so(interfaces: list[str]) -> None:
    discovery = ZeroconfDiscovery(interfaces)
    beacon = Beacon(Identity.generate().address, ("tcp://127.0.0.1:4000",), 1, generate_secret())
    with pytest.raises(StartError, match="multicast DNS cannot be used"):
        await discovery.start(beacon, lambda hint: None)
    await discovery.announce(beacon)
    await discovery.close()


@pytest.mark.asyncio
async def test_a_machine_that_stands_still_at_the_start_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, stack: AsyncExitStack
) -> None:
    clock, start = asyncio.get_running_loop().time, MulticastDns.start

    async def start_late(multicast: MulticastDns) -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock() + 5)
        await asyncio.sleep(0)
        await start(multicast)

    monkeypatch.setattr(MulticastDns, "start", start_late)
    key = generate_secret()
    one = await started(stack, key)
    monkeypatch.setattr(MulticastDns, "start", start)
    other = await started(stack, key)
    assert await other.heard() == one.hint("tcp://127.0.0.1:4000")


@pytest.mark.asyncio
async def test_closing_before_the_start_is_harmless() -> None:
    await ZeroconfDiscovery(LOOPBACK).close()


# The text


def test_a_text_carries_a_record() -> None:
    record = bytes(number % 251 for number in range(RECORD_BYTES))
    text = encode_text(record)
    assert text.startswith(b"\x03v=1\xff0=\0\x01")
    assert decode_text(text) == record
    assert decode_text(b"\x07later=1" + text + b"\0") == record


@given(st.binary(max_size=2_000))
def test_any_text_is_taken(text: bytes) -> None:
    assert decode_text(text) is None
    assert decode_text(b"\x03v=1" + text) is None


def test_a_text_of_another_version_or_with_a_piece_missing_is_none() -> None:
    text = encode_text(bytes(RECORD_BYTES))
    assert decode_text(text.replace(b"v=1", b"v=2")) is None
    assert decode_text(text.replace(b"1=", b"9=")) is None
    assert decode_text(text[:-1]) is None
    assert decode_text(text + b"\x035=x") is None


def test_the_library_is_imported_when_it_is_needed() -> None:
    program = "import sys, brokerless.discovery.zeroconf; sys.exit('zeroconf' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
