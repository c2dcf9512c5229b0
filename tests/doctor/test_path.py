"""Each way ends where it should."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Identity, Limits, Node, NodeConfig, PeerJoined, Ticket, generate_secret
from brokerless.doctor import path
from brokerless.doctor.findings import Finding, Verdict
from brokerless.doctor.path import NODE_NAME, STEPS, examine_path
from brokerless.doctor.probe import Probe
from brokerless.protocol.handshake import Handshake, Role
from brokerless.transport import Transport
from brokerless.trust import mesh_key
from tests.witness import LOOPBACK, Mesh, reserved_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from brokerless import Address

pytestmark = pytest.mark.asyncio

SECRET = generate_secret()
TRUST = mesh_key("dittobus", SECRET)

HASTE = Limits(handshake_timeout_s=2.0)
"""For what never answers: short enough to wait for, long enough for the steps before."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


async def walked(
    directory: Path, ticket: Ticket | str, identity: Identity | None = None, **options: Any
) -> dict[str, Finding]:
    """What was found at each step."""
    config = NodeConfig(
        **{"secret": SECRET, "interfaces": LOOPBACK, "directory": directory / "doctor", **options}
    )
    trust = mesh_key(config.mesh, config.secret)
    found = await examine_path(config, ticket, identity or Identity.generate(), trust)
    assert [finding.name for finding in found] == [f"peer: {step}" for step in STEPS]
    return dict(zip(STEPS, found, strict=True))


def ending(found: dict[str, Finding]) -> tuple[str, Finding]:
    """The step at which the way ends, after steps that are well and before steps that are skipped."""
    verdicts = [finding.verdict for finding in found.values()]
    end = verdicts.index(Verdict.FAILURE)
    assert set(verdicts[:end]) <= {Verdict.OK}
    assert set(verdicts[end + 1 :]) <= {Verdict.SKIPPED}
    finding = found[STEPS[end]]
    assert finding.hint
    return STEPS[end], finding


def ticket_to(port: int, address: Address | None = None, *, host: str = LOOPBACK[0]) -> Ticket:
    return Ticket(address or Identity.generate().address, (f"tcp://{host}:{port}",))


@asynccontextmanager
async def far_node(directory: Path, **options: Any) -> AsyncIterator[Node]:
    async with Mesh(directory) as mesh:
        yield (await mesh.start("far", **{"secret": SECRET, "discovery": (), **options})).node


async def test_the_whole_way(directory: Path) -> None:
    async with Mesh(directory) as mesh:
        far = await mesh.start("far", secret=SECRET, discovery=())
        found = await walked(directory, str(far.node.ticket()))
        joined = await far.event(PeerJoined)
        # Its application sees a peer, and gets no message and no stream.
        assert joined.peer.name == NODE_NAME
        assert not far.messages
        assert not far.received
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert found["datagrams"].text == "over UDP"
    assert "'far'" in found["session"].text
    assert "ms over tcp" in found["round trip"].text


async def test_what_a_peer_tells_of_others(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor dials none of them, and is told of to none of them."""
    monkeypatch.setattr(path, "GOSSIP_S", 3.0)
    async with Mesh(directory) as mesh:
        mesh.defaults.update(secret=SECRET, discovery=("gossip",))
        middle = await mesh.start("middle")
        others = [await mesh.start(name, peers=(middle.node.ticket(),)) for name in ("one", "two")]
        for node in (middle, *others):
            await node.joined(*({middle, *others} - {node}))
        found = await walked(directory, middle.node.ticket())
        for node in others:
            assert len(node.of(PeerJoined)) == 2
    assert found["gossip"].verdict is Verdict.OK
    assert "told of 2 other peers" in found["gossip"].text


async def test_a_peer_that_tells_what_leads_nowhere(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "GOSSIP_S", 3.0)
    async with far_node(directory, discovery=("gossip",)) as far:
        assert far._core is not None
        gossip, liar = far._core._gossip, Identity.generate().address
        assert gossip is not None
        gossip.met(liar, "", False, 0.0)
        gossip._peers[liar].places = dict.fromkeys((True, False), "169.254.1.1:1,224.0.0.1:1")
        found = await walked(directory, far.ticket())
    assert found["gossip"].verdict is Verdict.WARNING
    assert "told of 0 other peers, and 2 things that lead nowhere" in found["gossip"].text
    assert "advertise=" in found["gossip"].hint


async def test_gossip_that_is_not_wanted(directory: Path) -> None:
    async with far_node(directory) as far:
        found = await walked(directory, far.ticket(), discovery=())
    assert found["gossip"].verdict is Verdict.SKIPPED
    assert found["datagrams"].verdict is Verdict.OK


async def test_a_place_that_does_not_answer_beside_one_that_does(directory: Path) -> None:
    with reserved_port() as closed:
        async with far_node(directory) as far:
            ticket = Ticket(far.address, (f"tcp://127.0.0.1:{closed}", *far.ticket().endpoints))
            found = await walked(directory, ticket)
    assert found["tcp"].verdict is Verdict.OK
    assert f"127.0.0.1:{closed}: nobody listens there" in found["tcp"].text
    assert found["round trip"].verdict is Verdict.OK


async def test_nobody_without_keys(directory: Path) -> None:
    found = await examine_path(NodeConfig(), ticket_to(1), None, None)
    assert {finding.verdict for finding in found} == {Verdict.SKIPPED}


@pytest.mark.parametrize("text", ["", "dittobus://", "tcp://127.0.0.1:4000", "dittobus://abc@127.0.0.1:4000"])
async def test_a_ticket_that_is_none(directory: Path, text: str) -> None:
    assert ending(await walked(directory, text))[0] == "ticket"


async def test_our_own_ticket(directory: Path) -> None:
    identity = Identity.generate()
    step, finding = ending(await walked(directory, ticket_to(4000, identity.address), identity))
    assert (step, finding.hint) == ("ticket", "take the peer's")


async def test_a_peer_that_this_side_does_not_admit(directory: Path) -> None:
    found = await walked(directory, ticket_to(4000), admit=(Identity.generate().address,))
    step, finding = ending(found)
    assert step == "ticket"
    assert "admit=" in finding.text


async def test_a_host_that_nobody_knows(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> None:  # a test asks no name server
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    step, finding = ending(await walked(directory, ticket_to(4000, host="nowhere.example")))
    assert step == "host"
    assert "nowhere.example: Name or service not known" in finding.text


async def test_a_name_server_that_does_not_answer(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    ticket = ticket_to(4000, host="nowhere.example")
    step, finding = ending(await walked(directory, ticket, limits=HASTE))
    assert (step, finding.text) == ("host", "nowhere.example: no answer within 2 s")


async def test_nobody_listens(directory: Path) -> None:
    with reserved_port() as port:
        step, finding = ending(await walked(directory, ticket_to(port)))
    assert (step, finding.text) == ("tcp", f"127.0.0.1:{port}: nobody listens there")


async def test_what_listens_says_nothing(directory: Path) -> None:
    with socket.create_server((LOOPBACK[0], 0)) as silent:
        found = await walked(directory, ticket_to(silent.getsockname()[1]), limits=HASTE)
    step, finding = ending(found)
    assert step == "curve"
    assert "no answer within 2 s" in finding.text
    assert "hangs" in finding.hint


async def test_what_listens_is_something_else(directory: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"220 mail.example ESMTP at your service, with a greeting longer than that of ZeroMQ\r\n"
        )
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, LOOPBACK[0], 0)
    async with server:
        found = await walked(directory, ticket_to(server.sockets[0].getsockname()[1]), limits=HASTE)
    step, finding = ending(found)
    assert step == "curve"
    assert finding.text


async def test_another_key_than_that_of_the_ticket(directory: Path) -> None:
    async with far_node(directory) as far:
        ticket = Ticket(Identity.generate().address, far.ticket().endpoints)
        step, finding = ending(await walked(directory, ticket))
    assert step == "curve"
    assert "not the peer we expect" in finding.text
    assert "fresh one" in finding.hint


async def test_another_secret(directory: Path) -> None:
    async with far_node(directory, secret=generate_secret()) as far:
        step, finding = ending(await walked(directory, far.ticket()))
    assert step == "hello"
    assert "different mesh secrets" in finding.text
    assert "same mesh, secret and trust" in finding.hint


async def test_another_mesh(directory: Path) -> None:
    async with far_node(directory, mesh="another") as far:
        assert ending(await walked(directory, far.ticket()))[0] == "hello"


async def test_a_peer_with_a_list_that_we_are_not_on(directory: Path) -> None:
    async with far_node(directory, admit=(Identity.generate().address,)) as far:
        step, finding = ending(await walked(directory, far.ticket()))
    assert step == "hello"
    assert "not on the list" in finding.text


class OfTheFuture(Probe):
    """Somebody who speaks another version only."""

    def _handshake(self, role: Role, remote: Address) -> Handshake:
        local = self._identity.address
        return Handshake(role, mesh_key=self._mesh_key, local=local, remote=remote, versions=(2,))


class Mute(Probe):
    """Somebody who never answers a HELLO."""

    def link_message(self, link: int, packet: bytes) -> None:
        self.transport.confirm(link)


class Babbler(Probe):
    """Somebody who answers a HELLO with nonsense."""

    def link_message(self, link: int, packet: bytes) -> None:
        self.transport.send(link, b"nonsense")


class GreetsOnly(Probe):
    """Somebody who says HELLO, and nothing after it."""

    def _answer(self, link: int, packet: bytes) -> None:
        self.transport.confirm(link)
        super()._answer(link, packet)


@pytest.mark.parametrize(
    ("kind", "step", "said"),
    [
        (OfTheFuture, "hello", "this node speaks 1, the peer 2"),
        (Mute, "hello", "silent since"),
        (Babbler, "hello", "broke the protocol"),
        (GreetsOnly, "session", "no session began"),
    ],
)
async def test_a_peer_that_does_not_go_on(directory: Path, kind: type[Probe], step: str, said: str) -> None:
    identity = Identity.generate()
    async with kind(identity, TRUST.key, Limits()) as far:
        [endpoint] = await far.listen(LOOPBACK)
        found = await walked(directory, Ticket(identity.address, (endpoint,)), limits=HASTE)
    ended, finding = ending(found)
    assert ended == step
    assert said in finding.text


async def test_a_peer_that_does_not_admit_us_by_name(directory: Path) -> None:
    async with far_node(directory, admit=lambda peer: peer.name != NODE_NAME) as far:
        step, finding = ending(await walked(directory, far.ticket()))
    assert step in ("session", "round trip")
    assert "admit=" in finding.hint


async def test_a_peer_without_udp(directory: Path) -> None:
    with reserved_port() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((LOOPBACK[0], port))
        async with far_node(directory, port=port) as far:
            found = await walked(directory, far.ticket())
    assert found["round trip"].verdict is Verdict.OK
    assert found["datagrams"].verdict is Verdict.WARNING
    assert "over TCP" in found["datagrams"].text
    assert "UDP" in found["datagrams"].hint


async def test_a_network_that_takes_no_datagrams(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transport, "send_datagram", lambda transport, place, data: True)
    monkeypatch.setattr(Transport, "open_push", lambda transport, remote, places: None)
    monkeypatch.setattr(path, "DATAGRAMS_S", 0.5)
    async with far_node(directory) as far:
        step, finding = ending(await walked(directory, far.ticket()))
    assert step == "datagrams"
    assert "NoPath" in finding.text


async def test_a_directory_that_the_node_cannot_use(directory: Path) -> None:
    (directory / "doctor").touch()
    async with far_node(directory) as far:
        step, finding = ending(await walked(directory, far.ticket()))
    assert step == "session"
    assert "doctor" in finding.text
