"""What is told to whom and when, what is made of what others tell, and whole meshes that meet by it."""

from __future__ import annotations

from itertools import pairwise

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.model import PeerLeft, PeerState
from brokerless.protocol import wire
from brokerless.protocol.gossip import AT_ONCE_MAX, FIRST_S, INTERVAL_S, WITH_PEER, Gossip
from brokerless.protocol.hearsay import TOLD_MAX
from brokerless.testing.simulation import SimNetwork, SimNode

US = Address(b"\x50" * 32)
LOWER = Address(b"\x10" * 32)
NOW = 100.0
FIRST_LOWER_S, FIRST_HIGHER_S = FIRST_S[True], FIRST_S[False]
LONG_S = 10.0


def peer(number: int) -> Address:
    """One with a higher address than ours."""
    return Address(b"\x70" + number.to_bytes(31, "big"))


def place(number: int) -> str:
    return f"192.0.2.{number % 250}:{4000 + number}"


class Node:
    """What gossip asks of a node, written down."""

    def __init__(self) -> None:
        self.now = NOW
        self.hints: dict[Address, dict[str, tuple[str, ...]]] = {}
        self.told: list[tuple[Address, Address, str]] = []
        self.gossip = Gossip(US, self)

    def hint(self, address: Address, source: str, endpoints: tuple[str, ...], now: float) -> None:
        self.hints.setdefault(address, {})[source] = endpoints
        if not endpoints:
            del self.hints[address][source]

    def may_attempt(self, address: Address) -> bool:
        return False

    def attempt(self, address: Address, now: float) -> None:
        raise AssertionError("nobody may be dialled")

    def tell(self, to: Address, frame: wire.Met) -> None:
        self.told.append((to, Address(frame.address), frame.places))

    # What a test does with it

    def meet(self, *numbers: int, is_near: bool = False) -> None:
        for number in numbers:
            self.gossip.met(peer(number), place(number), is_near, self.now)

    def part(self, number: int, is_remembered: bool = False) -> None:
        self.gossip.parted(peer(number), is_remembered, self.now)

    def hear(self, teller: int, about: int, places: str | None = None) -> None:
        told = wire.Met(peer(about).public_key, place(about) if places is None else places)
        self.gossip.heard(peer(teller), told, self.now)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.gossip.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.gossip.expire(self.now)
        self.now = end

    def tellings(self, seconds: float = LONG_S) -> list[tuple[int, int, str]]:
        """Let time pass; return who was told in it of whom, both by their numbers, and what."""
        self.wait(seconds)
        told, self.told = self.told, []
        return [(number(to), number(about), places) for to, about, places in told]

    def pairs(self, seconds: float = LONG_S) -> set[tuple[int, int]]:
        told = self.tellings(seconds)
        assert all(places for *_, places in told)
        assert len({(to, about) for to, about, _ in told}) == len(told)
        return {(to, about) for to, about, _ in told}


def number(address: Address) -> int:
    return int.from_bytes(address.public_key[1:], "big")


# What is told


def test_everybody_is_told_of_everybody_else_once() -> None:
    node = Node()
    node.meet(1, 2)
    node.wait(1)
    node.meet(3)
    told = sorted(node.tellings())
    assert told == [
        (to, about, place(about)) for to, about in ((1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2))
    ]
    assert node.tellings(3600) == []


def test_the_lower_address_tells_first() -> None:
    node = Node()
    node.meet(1)
    node.gossip.met(LOWER, place(0), False, node.now)
    assert node.tellings(FIRST_LOWER_S) == [(1, number(LOWER), place(0))]
    node.wait(FIRST_HIGHER_S - FIRST_LOWER_S)
    assert node.told == [(LOWER, peer(1), place(1))]


def test_who_knows_of_each_other_is_not_told() -> None:
    node = Node()
    node.meet(1, 2, 3)
    node.hear(1, 2)
    assert node.pairs() == {(1, 3), (3, 1), (2, 3), (3, 2)}


def test_who_has_lost_another_is_told_of_it_by_us() -> None:
    node = Node()
    node.meet(1, 2)
    node.hear(1, 2)
    assert node.pairs() == set()
    node.hear(1, 2, "")
    assert node.pairs() == {(1, 2), (2, 1)}
    node.hear(1, 3)
    node.hear(1, 3, "")  # whom we do not know either
    assert node.pairs() == set()


def test_what_was_only_heard_is_never_told() -> None:
    node = Node()
    node.meet(1, 2)
    node.wait(LONG_S)
    node.told.clear()
    node.hear(1, 3)
    assert node.tellings() == []


def test_who_says_nothing_of_itself_is_not_told_of() -> None:
    node = Node()
    node.meet(1)
    node.gossip.met(peer(2), "", False, node.now)
    assert node.tellings() == [(2, 1, place(1))]
    node.part(2)
    assert node.tellings() == []
    assert node.hints == {peer(1): {WITH_PEER: (f"tcp://{place(1)}",)}}


def test_the_end_of_a_session_and_new_places_are_told_to_who_was_told_before() -> None:
    node = Node()
    node.meet(1, 2, 3)
    node.hear(1, 2)
    node.wait(LONG_S)
    node.told.clear()
    node.gossip.met(peer(2), "192.0.2.200:1,192.0.2.201:1", False, node.now)
    assert node.tellings() == [(3, 2, "192.0.2.200:1,192.0.2.201:1")]
    node.part(2)
    assert node.tellings() == [(3, 2, "")]
    node.part(2)  # of whom nothing is known any more
    node.meet(2)
    assert node.pairs() == {(3, 2), (2, 3)}
    node.hear(1, 2, "")  # the other has noticed as well
    assert node.pairs() == {(1, 2), (2, 1)}


def test_what_comes_and_goes_in_between_is_not_told() -> None:
    node = Node()
    node.meet(1)
    node.wait(LONG_S)
    for _ in range(5):
        node.meet(2)
        node.wait(INTERVAL_S / 100)
        node.part(2)
        node.wait(INTERVAL_S / 100)
    assert node.tellings() == []
    node.meet(2)
    node.wait(LONG_S)
    node.told.clear()
    node.part(2)
    node.meet(2)  # it has restarted, at the same place
    assert node.tellings() == [(2, 1, place(1))]


def test_only_who_is_on_this_host_is_told_of_loopback() -> None:
    node = Node()
    node.meet(1)
    node.meet(2, is_near=True)
    node.gossip.met(peer(3), "127.0.0.1:1,192.0.2.3:3", True, node.now)
    node.gossip.met(peer(4), "127.0.0.1:1", True, node.now)
    told = node.tellings()
    assert (1, 3, "192.0.2.3:3") in told
    assert (2, 3, "127.0.0.1:1,192.0.2.3:3") in told
    assert (2, 4, "127.0.0.1:1") in told
    assert not [about for to, about, _ in told if to == 1 and about == 4]


def test_many_are_told_of_a_part_at_a_time() -> None:
    node = Node()
    node.meet(*range(AT_ONCE_MAX + 10))
    node.wait(FIRST_LOWER_S)
    assert len([to for to, *_ in node.told if to == peer(0)]) == AT_ONCE_MAX
    node.wait(INTERVAL_S)
    assert len([to for to, *_ in node.told if to == peer(0)]) == AT_ONCE_MAX + 9


def test_nobody_is_told_of_more_than_is_taken() -> None:
    node = Node()
    node.meet(*range(TOLD_MAX + 5))
    node.wait(LONG_S)
    for one in (0, 100, TOLD_MAX + 4):
        assert len([to for to, *_ in node.told if to == peer(one)]) == TOLD_MAX
    of_first = {number(about) for to, about, _ in node.told if to == peer(0)}
    node.told.clear()
    node.part(next(iter(of_first - {1})))
    to_first = [(about, places) for to, about, places in node.tellings() if to == 0]
    assert len(to_first) == 2
    assert to_first[0][1] == ""
    assert to_first[1][0] not in {0, *of_first}


# What is heard


def test_what_a_peer_says_of_itself_is_a_hint_while_the_session_lasts() -> None:
    node = Node()
    node.meet(1)
    assert node.hints == {peer(1): {WITH_PEER: (f"tcp://{place(1)}",)}}
    node.part(1)
    assert node.hints == {peer(1): {}}
    node.meet(1)
    node.part(1, is_remembered=True)
    assert node.hints == {peer(1): {f"gossip:{US}": (f"tcp://{place(1)}",)}}


def test_what_a_peer_says_of_others_is_a_hint_with_its_name() -> None:
    node = Node()
    node.meet(1)
    node.hear(1, 2)
    assert node.hints[peer(2)] == {f"gossip:{peer(1)}": (f"tcp://{place(2)}",)}
    node.part(1)
    assert node.hints[peer(2)] == {}


def test_lies_are_counted_and_nothing_more() -> None:
    node = Node()
    node.meet(1)
    node.hear(1, 2, "127.0.0.1:1,169.254.0.1:1,224.0.0.1:1,0.0.0.0:1")
    node.gossip.met(peer(1), "192.0.2.1:1,127.0.0.1:1,224.0.0.1:1", False, node.now)
    node.gossip.heard(peer(1), wire.Met(US.public_key, place(1)), node.now)
    node.gossip.heard(peer(1), wire.Met(b"too short", place(1)), node.now)
    node.hear(3, 2)  # whom we have no session with
    assert node.gossip.refused == 8
    assert node.gossip.failed == 0
    assert node.hints.keys() == {peer(1)}
    assert node.tellings() == []


# Whole meshes


def mesh(count: int) -> tuple[SimNetwork, list[SimNode]]:
    """Nodes of which all know the first, and nobody else."""
    network = SimNetwork(1)
    nodes = [network.add(gossips=True) for _ in range(count)]
    for node in nodes[1:]:
        node.learn(nodes[0])
    return network, nodes


def meets_all(nodes: list[SimNode]) -> bool:
    return all(node.core.stats().peers == len(nodes) - 1 for node in nodes)


def test_one_whom_all_know_is_enough_for_all_to_meet() -> None:
    network, nodes = mesh(20)
    network.run_until(lambda: meets_all(nodes), 3.0)
    network.run(15)
    assert meets_all(nodes)
    assert {node.core.stats().hearsay_failed for node in nodes} == {0}
    assert {node.core.stats().rejected_records for node in nodes} == {0}


def test_a_chain_of_tickets_is_enough_too() -> None:
    network = SimNetwork(2)
    nodes = [network.add(gossips=True) for _ in range(10)]
    for node, other in pairwise(nodes):
        node.learn(other)
    network.run_until(lambda: meets_all(nodes), 10.0)


def test_the_mesh_stays_when_the_one_whom_all_knew_is_gone() -> None:
    network, nodes = mesh(20)
    network.run_until(lambda: meets_all(nodes))
    nodes[0].crash()
    network.run_until(lambda: meets_all(nodes[1:]), 10.0)
    newcomer = network.add(gossips=True)
    newcomer.learn(nodes[7])
    network.run_until(lambda: meets_all([*nodes[1:], newcomer]), 5.0)
    network.run(10)
    assert meets_all([*nodes[1:], newcomer])


def test_links_that_break_are_made_again_without_any_other_discovery() -> None:
    network, nodes = mesh(6)
    network.run_until(lambda: meets_all(nodes))
    nodes[0].crash()
    network.run_until(lambda: meets_all(nodes[1:]), 10.0)
    for node in nodes:
        node.events.clear()
    network.cut_all()
    network.run(10)
    assert meets_all(nodes[1:])
    assert not any(node.of_type(PeerLeft) for node in nodes)


def test_two_halves_of_a_mesh_find_each_other_again() -> None:
    network, nodes = mesh(8)
    network.run_until(lambda: meets_all(nodes))
    nodes[0].crash()  # so that no ticket is left
    halves = nodes[1:4], nodes[4:]
    for one in halves[0]:
        for other in halves[1]:
            network.part(one, other)
    network.run(300)
    assert all(meets_all(half) for half in halves)
    network.heal()
    network.run_until(lambda: meets_all(nodes[1:]), 40.0)


def test_in_a_large_mesh_all_are_known_and_dialled_on_first_use() -> None:
    network = SimNetwork(5)
    nodes = [network.add(Limits(eager_dials_max=4), gossips=True) for _ in range(16)]
    for node in nodes[1:]:
        node.learn(nodes[0])
    network.run(10)
    assert {len(node.core.peers) for node in nodes} == {15}
    node = min(nodes, key=lambda node: node.core.stats().peers)
    assert node.core.stats().peers < 15
    known = next(peer for peer in node.core.peers if peer.state is PeerState.KNOWN)
    node.send(b"first use", network.nodes[known.address])
    network.run(1)
    assert network.nodes[known.address].singles == [b"first use"]


def test_who_leaves_is_not_looked_for() -> None:
    network, nodes = mesh(4)
    network.run_until(lambda: meets_all(nodes))
    nodes[3].core.farewell(network.now)
    network.run(1)
    nodes[3].crash()
    network.run(60)
    assert meets_all(nodes[:3])
    assert {node.core.stats().hearsay_failed for node in nodes[:3]} == {0}
    assert all(nodes[3].address not in node.core.roster for node in nodes[1:3])


def test_who_does_not_gossip_is_left_alone() -> None:
    network, nodes = mesh(4)
    silent = network.add()
    silent.learn(nodes[0])
    network.run(20)
    assert silent.core.stats().peers == 1
    assert [node.core.stats().peers for node in nodes] == [4, 3, 3, 3]


def test_a_liar_costs_its_peers_some_dials_and_keeps_nobody_from_meeting() -> None:
    network, nodes = mesh(6)
    liar = nodes[1]
    network.run_until(lambda: liar.core.stats().peers == 1)
    forged = [Address(network.random.randbytes(32)) for _ in range(300)]
    victims = [node for node in nodes if node is not liar]

    def lie() -> None:
        for victim in victims:
            session = liar.core.session(victim.address)
            if session is not None:
                for address in [*forged, *(node.address for node in nodes)]:
                    session.pass_on(wire.Met(address.public_key, "127.0.0.1:22,192.0.2.66:4000"))

    lie()
    network.at(network.now + 1.0, lie)
    network.run(60)
    assert meets_all(nodes)
    newcomer = network.add(gossips=True)
    newcomer.learn(nodes[0])
    network.run_until(lambda: meets_all([*nodes, newcomer]), 5.0)
    for victim in victims:
        stats = victim.core.stats()
        assert stats.rejected_records >= 300 - TOLD_MAX
        assert 0 < stats.hearsay_failed <= 4 + 60 / 6 + 1
        assert len(victim.core.roster.addresses) <= TOLD_MAX + len(nodes) + 1
    network.run(10)
    assert meets_all([*nodes, newcomer])
