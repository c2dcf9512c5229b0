"""What the bus is known for: documents that are edited on every peer and end up the same on all of them.

Written as its users write it, against the delegate face. Each peer has a stream with every other that it
sees, opened by the one with the lower address. What is to be sent waits in a queue of that link; a thread
enqueues one message and waits, on a semaphore, until it hears that it was enqueued. Through the streams goes
a small replication protocol: whoever meets says what it has, as a version vector, and gets what it lacks.
"""

from __future__ import annotations

import json
import queue
import threading
from typing import TYPE_CHECKING, Any

import pytest

from brokerless import Limits, LossReason
from dittobus import DittoBus, DittoBusDelegate, DittoBusStreamDelegate
from tests.behaviour.face import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dittobus import DittoAddress, DittoBusStream, DittoBusStreamOffer
    from dittobus.peers import Peers
    from tests.behaviour.proxies import Proxies

    Edit = tuple[str, int, int, str, str, str]
    """Who made it, the how many-eth of theirs, when in Lamport's time; document, field, value."""

EDITS_PER_MESSAGE = 20
"""A difference may be large; small messages let others in between."""


class Documents:
    """Documents of fields; the last writer of a field wins, the same one on every peer."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._changed = threading.Condition()
        self._edits: dict[str, list[Edit]] = {}
        self._fields: dict[tuple[str, str], tuple[int, str, str]] = {}
        self._clock = 0

    def edit(self, document: str, field: str, value: str) -> Edit:
        """Change a field here."""
        with self._changed:
            own = self._edits.setdefault(self._site, [])
            edit = (self._site, len(own) + 1, self._clock + 1, document, field, value)
            self._take(edit)
            return edit

    def apply(self, edits: Iterable[Edit]) -> list[Edit]:
        """Take in what others changed; return what was news. An edit follows all earlier ones of its site."""
        with self._changed:
            news = [
                edit
                for edit in edits
                if edit[1] == len(self._edits.get(edit[0], ())) + 1 and self._take(edit)
            ]
            return news

    def _take(self, edit: Edit) -> bool:
        site, _, moment, document, field, value = edit
        self._edits.setdefault(site, []).append(edit)
        self._clock = max(self._clock, moment)
        place, written = (document, field), (moment, site, value)
        self._fields[place] = max(self._fields.get(place, written), written)
        self._changed.notify_all()
        return True

    @property
    def versions(self) -> dict[str, int]:
        """The version vector: how many edits of each site are here."""
        with self._changed:
            return {site: len(edits) for site, edits in self._edits.items()}

    def lacking(self, versions: dict[str, int]) -> list[Edit]:
        """What somebody who has these does not have."""
        with self._changed:
            return [edit for site, edits in self._edits.items() for edit in edits[versions.get(site, 0) :]]

    @property
    def contents(self) -> dict[tuple[str, str], str]:
        """All fields of all documents."""
        with self._changed:
            return {place: value for place, (_, _, value) in self._fields.items()}

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), f"not so within {WAIT_S} s; {self.versions}"


class Link(DittoBusStreamDelegate):
    """The conversation with one peer."""

    def __init__(self, replica: Replica, stream: DittoBusStream) -> None:
        self._replica = replica
        self._stream = stream
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._enqueued = threading.Semaphore(0)
        self._is_over = False
        self._writer = threading.Thread(target=self._write, name="replication", daemon=True)
        self._writer.start()
        stream.delegate = self

    def post(self, kind: str, content: Any) -> None:
        """Send a message when those before it were sent."""
        self._outgoing.put(json.dumps([kind, content]).encode())

    def end(self) -> None:
        """Close the stream, and let the thread go."""
        self._stream.close(timeout=1.0)
        self._let_go()

    def wait(self) -> None:
        """Wait for the thread."""
        self._writer.join(WAIT_S)
        assert not self._writer.is_alive()

    def _let_go(self) -> None:
        self._is_over = True
        self._outgoing.put(None)
        self._enqueued.release()

    def _write(self) -> None:
        while not self._is_over and (message := self._outgoing.get()) is not None:
            try:
                self._stream.enqueue_message(message)
            except Exception:  # the stream is over, and stream_did_close says so
                return
            self._enqueued.acquire()

    def stream_did_enqueue(self, stream: DittoBusStream, message_sequence: int, error: Any) -> None:
        self._enqueued.release()

    def stream_did_receive_message(self, stream: DittoBusStream, message: bytes) -> None:
        kind, content = json.loads(message)
        if kind == "have":
            self._replica.answer(self, content)
        else:
            self._replica.take(self, [tuple(edit) for edit in content])

    def post_edits(self, edits: list[Edit]) -> None:
        for start in range(0, len(edits), EDITS_PER_MESSAGE):
            self.post("edits", edits[start : start + EDITS_PER_MESSAGE])

    def stream_did_close(self, stream: DittoBusStream, error: Any) -> None:
        self._let_go()
        self._replica.lost(self, stream.peer)


class Replica(DittoBusDelegate):
    """One peer: its documents, its bus, and its links with everybody it sees.

    What is news goes to the links before anything newer can: an edit that overtook another would be refused.
    """

    def __init__(self, documents: Documents, start_bus: Callable[[Replica], DittoBus]) -> None:
        self.documents = documents
        self.links: dict[DittoAddress, Link] = {}
        self.ended: list[Link] = []
        self.losses: list[LossReason] = []
        self._opening: set[DittoAddress] = set()
        self._lock = threading.Condition()
        self.bus = start_bus(self)

    def edit(self, document: str, field: str, value: str) -> None:
        """Change a field here, and tell everybody."""
        with self._lock:
            self._spread([self.documents.edit(document, field, value)], None)

    def take(self, source: Link, edits: list[Edit]) -> None:
        """Take in what came by a link, and pass on what was news."""
        with self._lock:
            self._spread(self.documents.apply(edits), source)

    def answer(self, link: Link, versions: dict[str, int]) -> None:
        """Send by a link what somebody who has these versions does not have."""
        with self._lock:
            link.post_edits(self.documents.lacking(versions))

    def _spread(self, edits: list[Edit], source: Link | None) -> None:
        for link in self.links.values():
            if edits and link is not source:
                link.post("edits", edits)

    def wait_for_links(self, count: int) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.links) == count, WAIT_S), self.links

    def wait_for_losses(self, losses: list[LossReason]) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: self.losses == losses, WAIT_S), self.losses

    def close(self) -> None:
        self.bus.close()
        for link in (*self.ended, *self.links.values()):
            link.wait()

    # What the bus tells

    def bus_did_update_peers(self, bus: DittoBus, peers: Peers) -> None:
        with self._lock:
            self.losses += [change.reason for change in peers.lost]
            self._lock.notify_all()
            links = [self.links.get(change.peer.address) for change in peers.lost]
        for link in links:
            if link is not None:
                link.end()
        for peer in peers:
            if peer.has_joined and bus.address < peer.address:
                self._open(bus, peer.address)

    def _open(self, bus: DittoBus, address: DittoAddress) -> None:
        with self._lock:
            if address in self.links or address in self._opening:
                return
            self._opening.add(address)

        def did_open(stream: DittoBusStream | None, error: Any) -> None:
            with self._lock:
                self._opening.discard(address)
            if stream is not None:
                self._begin(stream)

        try:
            bus.open_stream(address, completion=did_open, name="replication")
        except Exception as error:  # gone in this moment: the next update of the peers says so
            did_open(None, error)

    def bus_did_receive_stream_offer(self, bus: DittoBus, offer: DittoBusStreamOffer) -> None:
        if offer.name == "replication" and offer.peer < bus.address:
            offer.accept()
        else:
            offer.reject(1, "replication only, and the lower address opens")

    def bus_did_receive_incoming_stream(
        self, bus: DittoBus, stream: DittoBusStream, peer: DittoAddress
    ) -> None:
        self._begin(stream)

    def _begin(self, stream: DittoBusStream) -> None:
        link = Link(self, stream)
        with self._lock:
            self.links[stream.peer] = link
            self._lock.notify_all()
        link.post("have", self.documents.versions)

    def lost(self, link: Link, peer: DittoAddress) -> None:
        """The stream of that link is closed."""
        with self._lock:
            self.ended.append(link)
            if self.links.get(peer) is link:
                del self.links[peer]
                self._lock.notify_all()


@pytest.fixture
def meet(mesh: dict[str, Any]) -> Iterator[Callable[..., Replica]]:
    """A function that starts a replica, which is closed in the end."""
    replicas: list[Replica] = []

    def start(name: str, documents: Documents | None = None, **arguments: Any) -> Replica:
        def start_bus(replica: Replica) -> DittoBus:
            bus = DittoBus(name, delegate=replica, **{**mesh, **arguments})
            bus.start()
            return bus

        replicas.append(Replica(documents or Documents(name), start_bus))
        return replicas[-1]

    yield start
    for replica in replicas:
        replica.close()


def all_converge(replicas: list[Replica]) -> dict[tuple[str, str], str]:
    """Wait until everybody has every edit, and return the contents, the same for all."""
    wanted: dict[str, int] = {}
    for replica in replicas:
        for site, count in replica.documents.versions.items():
            wanted[site] = max(count, wanted.get(site, 0))
    for replica in replicas:
        replica.documents.wait_until(lambda replica=replica: replica.documents.versions == wanted)
    contents = [replica.documents.contents for replica in replicas]
    assert all(one == contents[0] for one in contents)
    return contents[0]


def edit_all(replicas: list[Replica], count: int, about: str) -> None:
    """Everybody edits the same documents at once."""

    def edit(replica: Replica, number: int) -> None:
        for turn in range(count):
            replica.edit(f"document {turn % 7}", f"field {turn % 3}", f"{about} {number}.{turn}")

    threads = [threading.Thread(target=edit, args=(replica, n)) for n, replica in enumerate(replicas)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("count", [2, 3])
def test_concurrent_edits_converge(meet: Callable[..., Replica], count: int) -> None:
    replicas = [meet(name) for name in ("ann", "ben", "cid")[:count]]
    replicas[0].edit("before", "anybody", "was there")
    for replica in replicas:
        replica.wait_for_links(count - 1)
    edit_all(replicas, 150, "at once")
    contents = all_converge(replicas)
    assert len(contents) == 22
    assert contents["before", "anybody"] == "was there"


def test_who_comes_late_gets_everything(meet: Callable[..., Replica]) -> None:
    ann = meet("ann")
    edit_all([ann], 2000, "early")
    ben = meet("ben")
    ben.wait_for_links(1)
    assert len(all_converge([ann, ben])) == 21


def test_the_others_go_on_when_one_leaves_and_it_catches_up_when_it_is_back(
    meet: Callable[..., Replica],
) -> None:
    ann, ben, cid = replicas = [meet(name) for name in ("ann", "ben", "cid")]
    for replica in replicas:
        replica.wait_for_links(2)
    edit_all(replicas, 50, "together")
    all_converge(replicas)
    cid.close()
    for replica in (ann, ben):
        replica.wait_for_links(1)
        replica.wait_for_losses([LossReason.LEFT])
    edit_all([ann, ben], 50, "without cid")
    cid.documents.edit("document 0", "field 0", "all alone")
    all_converge([ann, ben])
    cid = meet("cid", cid.documents)
    for replica in (ann, ben, cid):
        replica.wait_for_links(2)
    contents = all_converge([ann, ben, cid])
    assert any("without cid" in value for value in contents.values())
    edit_all([ann, ben, cid], 50, "together again")
    all_converge([ann, ben, cid])


def test_connections_that_break_are_not_noticed(proxies: Proxies, meet: Callable[..., Replica]) -> None:
    ann, ben = replicas = [proxies.bus(meet, name) for name in ("ann", "ben")]
    for replica in replicas:
        replica.wait_for_links(1)
    links = [*ann.links.values(), *ben.links.values()]
    for turn in range(5):
        edit_all(replicas, 40, f"turn {turn}")
        proxies.reset()
    all_converge(replicas)
    assert [*ann.links.values(), *ben.links.values()] == links
    assert ann.losses == ben.losses == []


def test_a_cut_that_lasts_ends_the_streams_and_new_ones_repair_it(
    proxies: Proxies, meet: Callable[..., Replica]
) -> None:
    limits = Limits(liveness_s=0.5)
    ann, ben = replicas = [proxies.bus(meet, name, limits=limits) for name in ("ann", "ben")]
    for replica in replicas:
        replica.wait_for_links(1)
    edit_all(replicas, 50, "before the cut")
    proxies.off()
    edit_all(replicas, 50, "within the cut")
    for replica in replicas:
        replica.wait_for_links(0)
    proxies.on()
    for replica in replicas:
        replica.wait_for_links(1)
    contents = all_converge(replicas)
    assert any("within the cut" in value for value in contents.values())
    assert ann.losses
    assert ben.losses
