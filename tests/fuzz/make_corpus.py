"""Writes the corpus: inputs that mean something, from the vectors of the wire and from real encodings.

``python -m tests.fuzz.make_corpus`` writes each target's ``made-…`` files anew. Others beside them, as those
that an engine found and somebody thought worth keeping, it leaves alone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
from zeroconf import DNSOutgoing, DNSPointer, DNSText

from brokerless.address import Address, Ticket
from brokerless.discovery.record import seal_record
from brokerless.discovery.zeroconf import encode_text
from brokerless.protocol import wire
from brokerless.protocol.datagram import Kind, encode_answer, encode_fragment, encode_probe
from brokerless.protocol.fragments import split
from tests.fuzz.conversations import INFO, TELLERS
from tests.fuzz.records import NAME, NONCE, OURS
from tests.fuzz.tape import tape
from tests.fuzz.targets import CORPUS

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS = json.loads(
    (Path(__file__).parents[1] / "protocol" / "wire_vectors.json").read_text(encoding="utf-8")
)
HEADER = bytes(16)
PAIRS = (OURS.address.public_key, bytes([0x33]) * 32)


def vectors(*kinds: str, field: str = "bytes") -> Iterator[bytes]:
    for kind in kinds:
        yield from (bytes.fromhex(vector[field]) for vector in VECTORS[kind] if vector.get(field))


def frame(kind: str) -> bytes:
    return next(bytes.fromhex(vector["bytes"]) for vector in VECTORS["frames"] if vector["name"] == kind)


def packets() -> Iterator[bytes]:
    yield from vectors("packets", "packets_only_read", "invalid_packets")
    yield from (HEADER + each for each in vectors("frames"))


def tickets() -> Iterator[bytes]:
    address = Address(bytes(range(32)))
    yield str(address).encode()
    for places in (
        ("tcp://127.0.0.1:4000",),
        ("tcp://[2001:db8::7]:4000", "tcp://rover.example:65535"),
        ("tcp://[fe80::1%eth0]:1", "tcp://192.0.2.7:80"),
    ):
        yield str(Ticket(address, places)).encode()
        yield from (place.encode() for place in places)
    yield b"ipc:///run/user/1000/dittobus/node"
    yield b"ipc://C:\\Users\\me\\node"


def record_contents() -> Iterator[bytes]:
    """What is within a record: as we write it, as a later version may, and what is out of range."""
    for address in PAIRS:
        yield msgpack.packb([address, 7, ["tcp://192.0.2.7:4000", "tcp://[2001:db8::7]:4000"]])
    yield msgpack.packb([PAIRS[1], 2**64 - 1, ["ipc:///run/node"] * 16, {"later": [None, 1.5]}])
    yield msgpack.packb([PAIRS[1], -1, []])
    yield msgpack.packb([PAIRS[1][:31], True, ["tcp://192.0.2.7:0"]])


def true_record() -> bytes:
    return seal_record(OURS, NONCE)


def records() -> Iterator[bytes]:
    yield b"\x00" + true_record()[:-1] + b"\0"  # an outsider has no better one
    yield from (b"\x01" + content for content in record_contents())


def multicast() -> Iterator[bytes]:
    text = encode_text(true_record())
    yield b"\x01" + text
    yield b"\x01\x03v=1\x050=abc"
    yield from (b"\x02" + content for content in record_contents())
    for data, ttl_s in ((text, 1_200), (text, 0), (b"\x03v=1", 1_200)):
        out = DNSOutgoing(0x8400)
        out.add_answer_at_time(DNSPointer("_dittobus._tcp.local.", 12, 1, ttl_s, NAME), 0)
        out.add_answer_at_time(DNSText(NAME, 16, 0x8001, ttl_s, data), 0)
        yield from (b"\x00" + packet for packet in out.packets())


def registry() -> Iterator[bytes]:
    yield b"\x00" + true_record()
    yield b"\x00" + bytes(4_100)
    yield from (b"\x01" + content for content in record_contents())


def plain_datagrams() -> Iterator[bytes]:
    yield from vectors("datagrams", "malformed_datagrams", field="plain")
    yield encode_probe(9, 5)
    yield encode_answer(9, 98, 100, 5)
    yield from split(Kind.SEQUENCED, 0, 3, 7, 5, bytes(1_200))


def datagram_tapes() -> Iterator[bytes]:
    yield tape((0, data) for data in vectors("datagrams", "refused_datagrams", field="udp"))
    yield tape((1, data) for data in vectors("datagrams", field="sealed"))
    yield tape((2, data) for data in plain_datagrams() if len(data) < 100)
    fragments = [encode_fragment(Kind.UNRELIABLE, 0, 1, 5, place, 2, b"x", 5) for place in (1, 1)]
    yield tape((2, data) for data in (*fragments, encode_probe(3, 6)))
    single = encode_fragment(Kind.SEQUENCED, 0, 2, 9, 0, 1, b"newest", 5)
    yield tape(
        [(3, b"\0" + counter.to_bytes(8, "big") + single) for counter in (1, 0, 8_128, 8_129, 1, 2**64 - 2)]
        + [(6, b""), (3, b"\1" + bytes(8) + single), (5, b"\xff"), (3, b"\0" + bytes(8) + single)]
    )
    yield tape([(4, b"\x05\x01"), (4, b"\x14\x80\x15\x01\x20"), (5, b"\x20"), (2, single)])


def session_tapes() -> Iterator[bytes]:
    yield from (tape([(operation, each)]) for operation in (1, 2) for each in vectors("frames"))
    offer = wire.encode_control(wire.Open(1, 0, "offer", b"", 2_048))
    second = wire.encode_control(wire.Open(3, 1, "other", b"", 0))
    data = wire.encode_data(1, 1, 0, [b"one", b"two"])
    finish, closed = (wire.encode_control(kind(1, 2)) for kind in (wire.Finish, wire.Close))
    yield tape(
        [(1, offer), (1, data), (4, b"\x05"), (4, b"\x0a"), (4, b"\x08hello"), (6, b""), (1, finish + closed)]
    )
    yield tape(
        [(1, offer + second), (4, b"\x15"), (4, b"\x05"), (4, b"\x0d"), (6, b""), (1, closed + finish)]
    )
    blocked = wire.encode_control(wire.Blocked(1, 9_000))
    chunk = wire.encode_chunk(wire.Chunk(1, 1, 0, 5_000, 0, bytes(1_024)))
    yield tape([(1, offer + blocked), (4, b"\x05"), (1, chunk), (7, b"\x01"), (4, b"\x0e")])
    opened = [(4, b"\x00"), (4, b"\x08" + bytes(400)), (6, b"")]
    accept = wire.encode_control(wire.Accept(2, b"reply", 9_000))
    grant = wire.encode_control(wire.Grant(2, 20_000, 1))
    yield tape(
        [*opened, (1, accept), (1, grant), (6, b""), (1, wire.encode_control(wire.Close(2, 1))), (4, b"\x0c")]
    )
    yield tape([*opened, (1, wire.encode_control(wire.Reject(2, 7, "no"))), (1, grant)])
    single = wire.encode_data(0, 1, 5, [b"single"])
    yield tape(
        [(4, b"\x02hello"), (6, b""), (1, single), (4, b"\x04"), (3, b"\xff\x00" + single), (5, b"\x10")]
    )
    yield tape([(4, b"\x00"), (5, b"\x50"), (5, b"\x50"), (6, b"")])
    met = wire.encode_control(wire.Met(PAIRS[1], "192.0.2.9:4000"))
    yield tape(
        [(1, met), (2, wire.encode_control(wire.Ping(9, 5))), (2, wire.encode_control(wire.Probed(1, 2, 3)))]
    )


def gossip_tapes() -> Iterator[bytes]:
    places = b"192.0.2.9:4000,[2001:db8::9]:4000,127.0.0.1:9,169.254.1.1:5,224.0.0.1:9"
    yield tape([(0, b"\x00" + places), (0, b"\x81" + places), (4, b"\x08"), (2, b"\x00" + PAIRS[1] + places)])
    yield tape(
        [(0, b"\x00"), (0, b"\x01"), (0, b"\x02" + places)]
        + [(3, bytes([number]) + places) for number in range(16)]
        + [(4, b"\x20"), (4, b"\xff"), (1, b"\x80"), (5, b""), (5, b""), (1, b"\x01")]
    )
    yield tape([(0, b"\x00"), (2, b"\x00" + PAIRS[1] + places), (5, b""), (2, b"\x00" + PAIRS[1]), (5, b"")])
    yield tape(
        [(0, b"\x03" + b",".join([places] * 5)), (2, b"\x03" + PAIRS[1][:31]), (3, b"\x0c" + b"," * 700)]
    )


MEMBER = [(0, b"\x00"), (2, b"\x00"), (3, b"\x00")]
"""Somebody with the secret opens a link, greets, and introduces itself."""


def node_tapes() -> Iterator[bytes]:
    hello = next(vectors("handshakes"))
    yield tape([(0, b"\x00"), (1, b"\x00" + hello), (0, b"\x81"), (1, b"\x00" + HEADER), (7, b"\xff")])
    offer = wire.encode_control(wire.Open(2, 0, "offer", b"", 2_048))
    single = wire.encode_data(0, 1, 0, [b"hello"])
    yield tape(
        [
            *MEMBER,
            (5, b"\x00\x01\x00" + single),
            (5, b"\x00\x02\x00" + offer),
            (9, b"\x00hello"),
            (9, b"\x40"),
        ]
    )
    yield tape(
        [
            *MEMBER,
            (0, b"\x02"),
            (2, b"\x01\x01\x02\x03"),
            (3, b"\x01"),
            (6, b"\x00"),
            (7, b"\x40"),
            (7, b"\xff"),
        ]
    )
    met = wire.encode_control(wire.Met(TELLERS[0].public_key, "192.0.2.9:4000"))
    yield tape(
        [
            *MEMBER,
            (5, b"\x00\x01\x00" + met),
            (7, b"\x20"),
            (8, b"\x00" + next(vectors("datagrams", field="udp"))),
        ]
    )
    for code in range(1, 6):
        goodbye = wire.encode_control(wire.Goodbye(code, "bye"))
        yield tape([*MEMBER, (4, b"\x00" + goodbye)])
    yield from node_tapes_of_infos()


def node_tapes_of_infos() -> Iterator[bytes]:
    for changed in (
        {
            "datagram_index": 7,
            "datagram_key": bytes(32),
            "udp_places": "127.0.0.9:9",
            "pull_places": "127.0.0.9:10",
        },
        {"boot": 6, "their_boot": 1, "their_epoch": 99, "received": 5},
        {"epoch": 2, "name": "rover", "metadata": b"\x01", "tcp_places": "192.0.2.9:4000"},
    ):
        said = {name: getattr(INFO, name) for name in wire.Info.__slots__} | changed
        info = wire.encode_info(wire.Info(**said))
        yield tape([*MEMBER, (4, b"\x00" + info), (9, b"\x04hello"), (7, b"\x10"), (7, b"\x10")])
        yield tape([(0, b"\x00"), (2, b"\x00"), (4, b"\x00" + info), (7, b"\x40"), (4, b"\x00" + info)])
    # Places are looked at when they are told: PUSH is wanted much later, when a deadline is kept.
    said = {name: getattr(INFO, name) for name in wire.Info.__slots__}
    said |= {
        "datagram_index": 7,
        "datagram_key": bytes(32),
        "udp_places": "127.0.0.9:9",
        "pull_places": "nowhere",
    }
    info = wire.encode_info(wire.Info(**said))
    yield tape([(0, b"\x00"), (2, b"\x00"), (4, b"\x00" + info), (9, b"\x04hello"), (7, b"\x40")])


MADE = {
    "packet": packets,
    "greeting": lambda: vectors("handshakes", "invalid_handshakes"),
    "datagram": lambda: iter([*plain_datagrams(), *vectors("datagrams", field="sealed")]),
    "ticket": tickets,
    "record": records,
    "multicast": multicast,
    "registry": registry,
    "datagrams": datagram_tapes,
    "session": session_tapes,
    "gossip": gossip_tapes,
    "node": node_tapes,
}


def main() -> None:
    for name, made in MADE.items():
        directory = CORPUS / name
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("made-*"):
            path.unlink()
        for data in made():
            (directory / f"made-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)


if __name__ == "__main__":
    main()
