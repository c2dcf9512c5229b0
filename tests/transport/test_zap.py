"""The authentication handler, and what happens without it."""

from __future__ import annotations

import contextlib

import pytest
import zmq

from brokerless.address import Address
from brokerless.identity import Identity
from brokerless.transport.zap import PULL_DOMAIN, ZAP_DOMAIN, ZAP_ENDPOINT, _answer
from tests.transport.support import HASTE_S, Node, bare_context, hung_up, running, watched

pytestmark = pytest.mark.asyncio

KEY = bytes(range(32))


def request(domain: bytes = ZAP_DOMAIN, mechanism: bytes = b"CURVE", *credentials: bytes) -> list[bytes]:
    return [b"1.0", b"7", domain, b"127.0.0.1", b"", mechanism, *(credentials or (KEY,))]


def nobody(_address: Address) -> bool:
    return False


async def test_every_curve_key_may_knock_at_the_router_by_its_own_name() -> None:
    assert _answer(request(), nobody) == [b"1.0", b"7", b"200", b"", KEY.hex().encode(), b""]


async def test_at_the_pull_the_sink_decides() -> None:
    asked: list[Address] = []

    def everybody(address: Address) -> bool:
        asked.append(address)
        return True

    welcome = [b"1.0", b"7", b"200", b"", KEY.hex().encode(), b""]
    assert _answer(request(PULL_DOMAIN), everybody) == welcome
    assert asked == [Address(KEY)]
    # Neither yes nor no: libzmq at the other end would take a no for good.
    assert _answer(request(PULL_DOMAIN), nobody) == [b"1.0", b"7", b"300", b"not now", b"", b""]


@pytest.mark.parametrize(
    "asked",
    [
        request(b"another"),
        request(ZAP_DOMAIN, b"NULL"),
        request(ZAP_DOMAIN, b"PLAIN", b"user", b"password"),
        request(ZAP_DOMAIN, b"CURVE", KEY[1:]),
        request()[:6],
        request(PULL_DOMAIN, b"NULL"),
        request(PULL_DOMAIN, b"CURVE", KEY[1:]),
    ],
)
async def test_nobody_else_does(asked: list[bytes]) -> None:
    answer = _answer(asked, lambda _address: True)
    assert answer[:3] == [b"1.0", b"7", b"400"]
    assert answer[4] == b""


async def test_with_the_handler_dead_nobody_comes_in() -> None:
    # A request that meets the handler as it goes is never answered: then the handshake's time runs out.
    async with running(timeout_s=HASTE_S) as node, running() as other:
        await other.heard_by(node, b"before")
        assert node.transport._zap is not None
        node.transport._zap._socket.unbind(ZAP_ENDPOINT)  # at once; close leaves that to another thread
        node.transport._zap.close()
        link = other.dial(node)
        assert "hung up" in (await other.sink.wait("closed", link))[2]
        assert other.sink.of("opened", link) == []
        assert node.sink.packets() == [b"before"]


def bare_null(context: zmq.Context[zmq.Socket[bytes]], _node: Node) -> zmq.Socket[bytes]:
    return context.socket(zmq.DEALER)


def bare_plain(context: zmq.Context[zmq.Socket[bytes]], _node: Node) -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.PLAIN_USERNAME, b"user")
    dealer.setsockopt(zmq.PLAIN_PASSWORD, b"password")
    return dealer


def bare_curve_to_another(context: zmq.Context[zmq.Socket[bytes]], _node: Node) -> zmq.Socket[bytes]:
    dealer, ours = context.socket(zmq.DEALER), Identity.generate()
    dealer.setsockopt(zmq.CURVE_SECRETKEY, ours.secret)
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, ours.public)
    dealer.setsockopt(zmq.CURVE_SERVERKEY, Identity.generate().public)
    return dealer


@pytest.mark.parametrize("make", [bare_null, bare_plain, bare_curve_to_another])
async def test_without_the_servers_key_nobody_comes_in(make: object) -> None:
    async with running(timeout_s=HASTE_S) as node:
        with bare_context() as context:
            assert callable(make)
            dealer, events = watched(make, context, node)
            dealer.setsockopt(zmq.RECONNECT_IVL, -1)
            dealer.connect(node.endpoints[0])
            with contextlib.suppress(zmq.Again):  # it may have been hung up on by now
                dealer.send(b"hello", zmq.NOBLOCK)
            await hung_up(events)
            assert node.sink.events == []
