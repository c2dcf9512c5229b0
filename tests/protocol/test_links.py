"""The links of a node: each stage in its time, strangers, admission, one of several, and the last word."""

from __future__ import annotations

import pytest

from brokerless.address import Address
from brokerless.config import Limits
from brokerless.errors import VersionMismatch
from brokerless.model import LossReason, MessageReceived, PeerJoined, PeerLeft
from brokerless.protocol import wire
from brokerless.protocol.actions import Admit, Confirm, Dial, Refused
from brokerless.protocol.handshake import Refusal, Refuse
from brokerless.protocol.links import ADMIT_HELD_BYTES_MAX, LAST_WORD_S
from brokerless.testing.simulation import SimNetwork
from tests.protocol.lone_node import OTHERS, PLACE, THEM, US, Node, Remote

# From the dial to HELLO


def test_dials_that_meet_nobody_or_somebody_else_are_counted() -> None:
    node = Node()
    refused, silent, met = (Remote(node, address, dialled=True) for address in OTHERS[:3])
    node.core.link_closed(refused.link, "nobody listens there", node.now)
    node.wait(node.core.limits.handshake_timeout_s - 0.1)
    met.join()
    node.wait(0.1)
    assert silent.link in node.cuts()
    node.core.link_closed(met.link, "connection lost", node.now)
    assert node.core.stats().dials_failed == 2


def test_every_stage_of_a_link_has_its_deadline() -> None:
    node = Node()
    connecting, silent = Remote(node, OTHERS[0], dialled=True), Remote(node, OTHERS[1])
    greeted = Remote(node, OTHERS[2]).greet()
    hung = Remote(node, OTHERS[3], dialled=True)
    node.core.link_opened(hung.link, hung.address, node.now)
    node.wait(4.999)
    assert node.cuts() == {}
    node.wait(0.001)
    assert node.cuts() == {
        connecting.link: "no connection in time",
        silent.link: "no hello in time",
        greeted.link: "no info in time",
        hung.link: "no hello in time",
    }
    assert node.core.stats().links == 0


def test_who_does_not_speak_our_language_is_hung_up_on() -> None:
    node = Node()
    remote = Remote(node)
    remote.raw(b"GET / HTTP/1.1\r\n\r\n")
    assert node.cuts() == {remote.link: "not a handshake"}
    assert node.core.stats().handshakes_refused == 1
    remote.raw(b"again")  # there is no such link any more
    assert remote.heard() == []
    assert node.core.peers == ()


def test_a_stranger_learns_nothing() -> None:
    node = Node(name="secret name")
    remote = Remote(node, mesh_key=b"\1" * 32).greet()
    (refuse,) = remote.heard()
    assert refuse == Refuse(Refusal.PROOF, (), "")
    assert node.core.stats().handshakes_refused == 1
    assert node.core.peers == ()
    assert node.of_type(Confirm) == []
    assert node.core.session(THEM) is None
    remote.info()  # on a link that is ending
    node.wait(LAST_WORD_S - 0.001)
    assert node.cuts() == {}
    node.wait(0.001)
    assert node.cuts() == {remote.link: "done"}


def test_who_is_turned_away_is_told_why_before_the_cut() -> None:
    node = Node(allowed=OTHERS)
    remote = Remote(node).greet()
    assert node.core.has_output
    (refuse,) = remote.heard()
    assert refuse.code == Refusal.NOT_ADMITTED
    assert node.core.stats().handshakes_refused == 1
    assert node.cuts() == {}
    node.wait(LAST_WORD_S)
    assert node.cuts() == {remote.link: "done"}


def test_a_link_to_ourselves_is_cut() -> None:
    node = Node()
    node.core.learn(US, "test", (PLACE,), 1, node.now)
    assert node.core.peers == ()
    node.core.link_opened(1, US, node.now)
    assert node.cuts() == {1: "it is our own"}


def test_what_the_shell_tells_of_unknown_links_does_no_harm() -> None:
    node = Node()
    node.core.link_closed(77, "gone", node.now)
    node.core.link_message(77, b"", node.now)
    node.core.admitted(77, None, node.now)
    assert node.core.next_message(77, node.now) is None
    remote = Remote(node).join()
    node.core.link_opened(remote.link, THEM, node.now)  # twice
    assert node.core.stats().links == 1


def test_a_dial_that_connects_after_it_was_cut_is_no_newcomer() -> None:
    node = Node()
    dial = Remote(node, dialled=True)
    Remote(node).join()  # makes it needless
    node.core.link_opened(dial.link, THEM, node.now)  # the shell has not heard of the cut yet
    assert node.core.stats().links == 1
    assert node.cuts() == {dial.link: "another link serves"}


@pytest.mark.parametrize("seed", range(5))
def test_meshes_with_different_secrets_never_meet(seed: int) -> None:
    network = SimNetwork(seed)
    one, other = network.add(name="one"), network.add(mesh_key=b"\1" * 32, name="other")
    heard: list[bytes] = []
    network.tap = lambda sender, receiver, message: heard.append(message)
    one.learn(other)
    other.learn(one)
    network.run(30.0)
    assert one.of_type(PeerJoined) == other.of_type(PeerJoined) == []
    assert {message[:4] for message in heard} == {b"\xffDTB"}  # nothing but HELLO and REFUSE
    assert 4 <= len(heard) < 40  # and not often
    assert not network.links


def test_no_common_version_is_said_in_so_many_words() -> None:
    network = SimNetwork(1)
    old, new = network.add(), network.add(versions=(2, 3))
    old.learn(new)
    network.run(1.0)
    (refused,) = [action for action in old.actions if isinstance(action, Refused)]
    assert isinstance(refused.error, VersionMismatch)
    assert "this node speaks 1, the peer 2, 3" in refused.error.reason
    assert [node.core.stats().handshakes_refused for node in (old, new)] == [1, 1]


# Admission


def asking(node: Node) -> Remote:
    remote = Remote(node).join()
    assert [action.link for action in node.of_type(Admit)] == [remote.link]
    return remote


def test_who_is_admitted_joins_and_what_came_meanwhile_is_not_lost() -> None:
    node = Node(asks_admission=True)
    remote = asking(node)
    remote.say_numbered(wire.encode_data(0, 1, 0, [b"early"]))
    assert node.of_type(PeerJoined) == []
    node.core.admitted(remote.link, None, node.now)
    assert [type(event) for event in node.of_type(object)[:2]] == [PeerJoined, MessageReceived]
    node.core.admitted(remote.link, "too late", node.now)
    assert node.core.stats().peers == 1


def test_who_is_not_admitted_is_told_why_and_left_alone() -> None:
    node = Node(asks_admission=True)
    node.core.learn(THEM, "test", (PLACE,), 1, node.now)
    remote = asking(node)
    remote.heard()
    node.core.admitted(remote.link, "not you" * 100, node.now)
    (goodbye,) = remote.heard()
    assert goodbye.code == wire.Farewell.REFUSED
    assert goodbye.reason == ("not you" * 100)[:200]
    assert node.core.stats().handshakes_refused == 1
    assert node.of_type(PeerJoined) == []
    dials = len(node.of_type(Dial))
    node.wait(4.9)
    assert len(node.of_type(Dial)) == dials


def test_nobody_decides_in_time() -> None:
    node = Node(asks_admission=True)
    remote = asking(node)
    remote.heard()
    node.wait(9.999)
    assert remote.heard() == []
    node.wait(0.001)
    assert remote.heard() == [wire.Goodbye(wire.Farewell.REFUSED, "nobody decided in time")]


def test_too_much_before_admission_is_not_held() -> None:
    node = Node(asks_admission=True)
    remote = asking(node)
    data = bytes(64 * 1024)
    for _ in range(ADMIT_HELD_BYTES_MAX // len(data)):
        remote.raw(data)
    assert node.cuts() == {}
    remote.raw(b"x")
    assert node.cuts() == {remote.link: "too much came before admission"}


def test_a_fault_that_was_held_is_one_after_admission() -> None:
    node = Node(asks_admission=True)
    remote = asking(node)
    remote.heard()
    remote.raw(b"nonsense")
    remote.raw(b"and more")
    node.core.admitted(remote.link, None, node.now)
    (goodbye,) = remote.heard()
    assert goodbye.code == wire.Farewell.FAULT
    assert [event.reason for event in node.of_type(PeerLeft)] == [LossReason.EXPELLED]


def test_after_admission_the_rest_of_the_greeting_has_a_deadline_again() -> None:
    node = Node(asks_admission=True)
    remote = Remote(node).join(their_boot=7, their_epoch=99)  # has another session of ours in mind
    node.wait(8.0)
    node.core.admitted(remote.link, None, node.now)
    assert node.cuts() == {}
    node.wait(5.0)
    assert node.cuts() == {remote.link: "no info in time"}


def test_a_link_whose_session_gave_way_to_another_has_a_deadline_again() -> None:
    node = Node()
    Remote(node).join()
    remote = Remote(node).join(their_boot=7, their_epoch=1)
    node.wait(1.0)
    remote.info(epoch=2, their_boot=7, their_epoch=1)  # begins another, and never hears of ours
    assert node.of_type(PeerLeft)[0].reason is LossReason.EXPELLED
    node.wait(4.999)
    assert remote.link not in node.cuts()
    node.wait(0.001)
    assert node.cuts()[remote.link] == "no info in time"


def test_a_last_word_gets_out_where_the_time_of_its_link_was_up_at_once() -> None:
    node = Node(Limits(admit_timeout_s=5.0), asks_admission=True)
    first, second = Remote(node).join(), Remote(node).join()
    node.core.admitted(first.link, None, node.now)
    second.heard()
    node.now += 5.5  # both the peer and the question are too old when the node gets to run
    node.core.expire(node.now)
    assert second.heard() == [wire.Goodbye(wire.Farewell.SILENT, "not heard")]
    assert second.link not in node.cuts()
    node.wait(LAST_WORD_S)
    assert node.cuts()[second.link] == "done"


# Several links


def test_the_lower_side_keeps_the_newest_link_the_higher_leaves_that_to_it() -> None:
    for address, kept in ((US, (2,)), (Address(b"\xff" * 32), (1, 2))):
        node = Node(address=address)
        first = Remote(node).join()
        Remote(node).join(their_boot=7, their_epoch=1)
        assert node.session().links == kept
        assert node.cuts() == ({first.link: "another link serves"} if kept == (2,) else {})


@pytest.mark.parametrize("address", [US, Address(b"\xff" * 32)], ids=["lower", "higher"])
def test_dials_that_have_become_needless_are_cut(address: Address) -> None:
    node = Node(address=address)
    dials = [Remote(node, dialled=True) for _ in range(3)]
    node.core.link_opened(dials[1].link, THEM, node.now)
    dials[2].greet()
    # On the last one our INFO has gone out, so the lower side may have chosen it by now.
    needless = dials if address < THEM else dials[:2]
    accepted = Remote(node).greet()
    other = Remote(node, OTHERS[0], dialled=True)
    Remote(node).join()
    assert set(node.cuts()) == {dial.link for dial in needless}
    assert node.core.stats().links == 6 - len(needless)
    accepted.info(their_boot=7, their_epoch=1)
    other.join()
    assert node.core.stats().peers == 2


@pytest.mark.parametrize("seed", range(60))
def test_both_dial_after_an_outage_and_one_link_stays(seed: int) -> None:
    network = SimNetwork(seed, latency_s=(0.0001, 0.001, 0.05)[seed % 3])
    lower, higher = network.pair()
    network.run(1.0)
    lower.actions.clear()
    higher.actions.clear()
    network.cut_all()
    network.run(1.5)
    assert [sum(isinstance(action, Dial) for action in node.actions) for node in (lower, higher)] == [1, 1]
    assert len(network.links) == 1


# Time


def test_several_things_at_once_do_not_stumble_over_each_other() -> None:
    node = Node(asks_admission=True)
    for _ in range(3):
        Remote(node).join()  # to be decided about
    node.wait(5.0)
    Remote(node).greet()
    Remote(node, dialled=True)
    node.now += 100.0
    node.core.expire(node.now)  # all their deadlines have passed
    node.turn()
    assert node.core.stats().peers == 0
    node.wait(1.0)
    assert node.core.stats().links == 0


def test_the_loss_of_a_peer_takes_its_unready_links_along() -> None:
    node = Node(Limits(handshake_timeout_s=5.0))
    Remote(node).join()
    Remote(node).greet()
    node.now += 5.0
    node.core.expire(node.now)  # the peer is lost, and the greeting too late
    node.wait(1.0)
    assert node.core.stats().links == 0
    assert len(node.of_type(PeerLeft)) == 1


# The end


def test_after_the_farewell_nobody_comes_back() -> None:
    node = Node()
    remote = Remote(node).join()
    dial, connected = Remote(node, OTHERS[0], dialled=True), Remote(node, OTHERS[1], dialled=True)
    node.core.link_opened(connected.link, OTHERS[1], node.now)
    silent = Remote(node, OTHERS[2])
    node.core.farewell(node.now)
    late = Remote(node, OTHERS[3])
    assert node.cuts() == {
        dial.link: "the bus was closed",
        connected.link: "the bus was closed",
        silent.link: "the bus was closed",
        late.link: "too late",
    }
    assert not node.core.has_parted
    node.wait(LAST_WORD_S)
    assert node.core.has_parted
    assert node.core.stats().links == 0
    assert remote.link in node.cuts()
    assert node.core.sessions == []


def test_who_answers_a_goodbye_with_one_is_hung_up_on_at_once() -> None:
    node = Node()
    remote, polite = Remote(node).join(), Remote(node, OTHERS[0]).join()
    node.core.farewell(node.now)
    remote.raw(b"nonsense")
    remote.say(wire.Ping(1, 0))
    polite.say(wire.Ping(1, 0), wire.Goodbye(wire.Farewell.LEFT, ""))
    assert node.cuts() == {polite.link: "both have said goodbye"}
