"""Packets in words: every kind has some, so has nonsense, and no word is the application's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerless.cipher import ChaChaCipher
from brokerless.protocol import wire
from brokerless.protocol.datagram import (
    Kind,
    Sealer,
    encode_answer,
    encode_fragment,
    encode_probe,
    frame_udp,
)
from brokerless.protocol.handshake import Hello, Refusal, Refuse, encode_hello, encode_refuse
from brokerless.testing.trace import SHOWN_BYTES, FrameLog, describe, describe_plain

VECTORS = json.loads((Path(__file__).parents[1] / "protocol/wire_vectors.json").read_text())

INFO = wire.Info(
    boot=0xAB,
    epoch=2,
    message_bytes_max=1,
    stream_credit=1,
    single_credit=1,
    streams_max=1,
    liveness_ms=5000,
    name="rover",
    metadata=b"private",
    datagram_index=7,
    datagram_key=b"key." * 8,
)
FRAMES = {
    "OPEN 2 sequenced 'video', credit 9": wire.Open(2, 2, "video", b"private", 9),
    "ACCEPT 2, credit 9": wire.Accept(2, b"private", 9),
    "REJECT 2: 0x194 'no'": wire.Reject(2, 404, "no"),
    "GRANT 2: to 9, consumed 3": wire.Grant(2, 9, 3),
    "BLOCKED 2: needs 9": wire.Blocked(2, 9),
    "FINISH 2 at 4": wire.Finish(2, 4),
    "CLOSE 2, consumed 3": wire.Close(2, 3),
    "RESET 2: 0x1 'stop', consumed 3": wire.Reset(2, 1, "stop", 3),
    "PING 9, sent 7": wire.Ping(9, 7),
    "PONG 9": wire.Pong(9),
    "GOODBYE LEFT 'bye'": wire.Goodbye(1, "bye"),
    "GOODBYE 77 ''": wire.Goodbye(77, ""),
    "PROBED 9: 98 of 100 came": wire.Probed(9, 98, 100),
    "MET 01010101 at '192.0.2.9:4000'": wire.Met(b"\x01" * 32, "192.0.2.9:4000"),
    "INFO ab/2 to unknown: 'rover', received 0, liveness 5000 ms, datagrams under 0000000000000007": INFO,
    "DATA 2: 4-5, 14 bytes": wire.Data(2, 4, 0, [b"private", b"private"]),
    "DATA 0 (channel 3): 4, 7 bytes": wire.Data(0, 4, 3, [b"private"]),
    "CHUNK 2: 4, bytes 10-17 of 99": wire.Chunk(2, 4, 0, 99, 10, b"private"),
}


def encode(frame: wire.Frame) -> bytes:
    if isinstance(frame, wire.Info):
        return wire.encode_info(frame)
    if isinstance(frame, wire.Data):
        return wire.encode_data(*frame)
    return wire.encode_chunk(frame) if isinstance(frame, wire.Chunk) else wire.encode_control(frame)


@pytest.mark.parametrize(("words", "frame"), FRAMES.items())
def test_every_frame_has_its_words(words: str, frame: wire.Frame) -> None:
    packet = wire.encode_packet(42, 41, [encode(frame)])
    assert "private" not in describe(packet)
    assert describe(packet) == f"#42 ack 41 | {words}"


def test_there_are_words_for_all_frames() -> None:
    kinds = {kind for alias in get_args(wire.Frame) for kind in get_args(alias) or (alias,)}
    assert {type(frame) for frame in FRAMES.values()} == kinds


def test_packets_without_number_or_frames_have_words_too() -> None:
    pong = wire.encode_control(wire.Pong(9))
    assert describe(wire.encode_packet(0, 41, ())) == "#- ack 41"
    assert describe(wire.encode_packet(0, 41, [pong, pong])) == "#- ack 41 | PONG 9 | PONG 9"
    assert "no version" in describe(b"\xffDTB\x01\x00")


def test_what_opens_a_link_has_words() -> None:
    proof = b"secret.." * 4
    assert describe(encode_hello(Hello((1, 2), proof))) == "HELLO, versions 1, 2"
    refuse = Refuse(Refusal.VERSION, (1,), "no common version")
    assert describe(encode_refuse(refuse)) == "REFUSE VERSION 'no common version', versions 1"
    assert describe(encode_refuse(Refuse(9, (), ""))) == "REFUSE 9 '', versions none"


def test_datagrams_have_words_sealed_or_opened() -> None:
    plain = encode_fragment(Kind.SEQUENCED, 2, 0, 7, 0, 1, b"private", 5)
    sealed = Sealer(0x1122, ChaChaCipher(bytes(32))).seal(plain)
    assert describe(sealed) == "datagram 1 under 0000000000001122, 67 bytes"
    assert describe(frame_udp(sealed)) == "datagram 1 under 0000000000001122, 70 bytes"
    assert describe_plain(plain) == "SEQUENCED 7 of stream 2, 7 bytes"
    first = encode_fragment(Kind.UNRELIABLE, 0, 3, 8, 0, 2, bytes(1137), 5)
    assert describe_plain(first) == "UNRELIABLE 8 of channel 3, fragment 1 of 2, 1137 bytes"
    assert describe_plain(encode_probe(9, 5)) == "PROBE 9"
    assert describe_plain(encode_answer(9, 98, 100, 5)) == "ANSWER 9: 98 of 100 came"
    assert describe_plain(b"\x09nonsense").startswith("malformed")


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda tail: bytes(16) + tail))
def test_nonsense_is_said_to_be_nonsense(data: bytes) -> None:
    line = describe(data)
    assert "\n" not in line
    assert "\n" not in describe_plain(data)
    if line.startswith("malformed"):
        assert line.endswith(f"): {data[:SHOWN_BYTES].hex(' ')}, {len(data)} bytes")


def test_what_breaks_the_rules_of_the_wire_is_said_to_be_malformed() -> None:
    for vector in VECTORS["invalid_packets"]:
        assert describe(bytes.fromhex(vector["bytes"])).startswith("malformed"), vector["name"]


def test_a_log_keeps_the_last_packets() -> None:
    log = FrameLog(capacity=3)
    assert (len(log), str(log)) == (0, "")
    for number in range(1, 4):
        log.record(number / 10, "a", "->", "b", wire.encode_packet(number, 0, ()))
    assert str(log).splitlines()[0] == "     0.1000  a -> b  #1 ack 0"
    log.record(0.4, "a", "<-", "b", b"nonsense")
    assert [passage.at for passage in log] == [0.2, 0.3, 0.4]
    lines = str(log).splitlines()
    assert lines[0] == "… 1 before these"
    assert "a <- b  malformed" in lines[-1]
    assert log.forgotten == 1
    log.clear()
    assert (len(log), log.forgotten, str(log)) == (0, 0, "")


def test_a_log_may_be_read_while_it_grows() -> None:
    log = FrameLog()
    log.record(1.0, "a", "->", "b", b"")
    for passage in log:
        log.record(passage.at, "a", "->", "b", b"")
    assert len(log) == 2
