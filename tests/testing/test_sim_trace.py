"""A trace tells of everything, and changes nothing."""

from __future__ import annotations

from brokerless.model import Reliability
from brokerless.testing.sim_datagrams import Weather
from brokerless.testing.sim_trace import Trace
from brokerless.testing.simulation import SimNetwork


def story(traced: bool) -> tuple[list[str], list[object]]:
    """Return the lines of a short life, and what its network drew afterwards."""
    network = SimNetwork(1)
    lines: list[str] = []
    if traced:
        Trace(network, lines.append)
    one, other = network.pair(has_datagrams=True)
    network.datagrams.weather = Weather(loss=0.2, duplication=0.5)
    stream = one.open_stream(other, "talk")
    stream.send(b"private words")
    for _ in range(20):
        one.send(b"private, too", other, reliability=Reliability.UNRELIABLE)
    one.send(b"private as well", other, channel=3)
    network.run(0.5)
    stream.abort(7, "enough")
    network.run(0.5)
    network.cut_all()
    network.run(2.0)
    return lines, [network.now, network.random.random(), network.datagrams.random.random()]


def test_everything_is_told() -> None:
    text = "\n".join(story(traced=True)[0])
    for words in (
        "dials n",
        "HELLO, versions 1",
        "INFO",
        "PeerJoined n0",
        "OPEN 2 reliable 'talk'",
        "DATA 2: 1, 13 bytes",
        "UNRELIABLE 1 of channel 0, 12 bytes",
        "(lost)",
        " s and in ",
        "StreamMessages 2 'talk': 1 to 1, 13 bytes",
        "StreamAcknowledged 2 'talk': to 1",
        "MessageReceived from n",
        "channel 3, 15 bytes",
        "SendDone 1: done",
        "RESET 2: 0x7 'enough'",
        "StreamEnded 2 'talk': StreamReset",
        "UnreliableWaiting single",
        "is cut, by nobody",
        "closed",
    ):
        assert words in text, words
    assert "private" not in text


def test_nothing_is_changed() -> None:
    assert story(traced=True)[1] == story(traced=False)[1]
    assert story(traced=True)[0] == story(traced=True)[0]


def test_equal_lines_have_equal_digests() -> None:
    digests = []
    for words in ("one", "one", "other"):
        network = SimNetwork(1)
        trace = Trace(network)
        trace.say(words)
        digests.append(trace.digest)
        assert trace.lines == 1
    assert digests[0] == digests[1] != digests[2]


def test_what_nobody_can_open_is_told_as_it_is() -> None:
    network = SimNetwork(2)
    lines: list[str] = []
    trace = Trace(network, lines.append)
    one, other = network.pair()
    trace.datagram(one, other, b"nonsense", [])
    assert "PUSH  malformed" in lines[-1]
