"""That a peer is alive says nothing about its application: a robot sees for itself when to stop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from brokerless import Limits, PeerState, Reliability
from dittobus import DittoBus, DittoBusDelegate, Peers

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless import Message

WAIT_S = 10.0

LIVENESS_S = 2.0

SWITCH_S = 0.25
"""So long it goes on by itself: a few commands may be lost."""


class Robot(DittoBusDelegate):
    """Drives as long as it is told to, and tells of each step."""

    def __init__(self) -> None:
        self.commands = 0
        self.is_still = threading.Event()
        self.is_alone = threading.Event()
        self._told = threading.Event()
        self._over = False
        self._watch = threading.Thread(target=self._look)
        self._watch.start()

    def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
        self.commands += 1
        self.is_still.clear()
        self._told.set()
        bus.send(b"done", message.sender, Reliability.SEQUENCED)

    def bus_did_update_peers(self, bus: DittoBus, peers: Peers) -> None:
        if peers.lost:
            self.is_alone.set()

    def _look(self) -> None:
        while not self._over:
            if self._told.wait(SWITCH_S):
                self._told.clear()
            else:
                self.is_still.set()

    def close(self) -> None:
        self._over = True
        self._watch.join()


class Pilot(DittoBusDelegate):
    """Tells the robot to go on whenever it hears that it has; until it hangs."""

    def __init__(self) -> None:
        self.hangs = threading.Event()
        self.wakes = threading.Event()

    def bus_did_receive_single_message(self, bus: DittoBus, message: Message) -> None:
        if self.hangs.is_set():
            self.wakes.wait(WAIT_S)
        else:
            bus.send(b"go on", message.sender, Reliability.SEQUENCED)


def test_an_application_that_hangs_is_alive_to_the_bus_and_dead_to_the_switch(
    make_bus: Callable[..., DittoBus],
) -> None:
    robot, pilot = Robot(), Pilot()
    limits: dict[str, Any] = {"limits": Limits(liveness_s=LIVENESS_S)}
    field, desk = make_bus("field", delegate=robot, **limits), make_bus("desk", delegate=pilot, **limits)
    try:
        peer = desk.wait_for_peer("field").result(WAIT_S)
        seen = field.wait_for_peer("desk").result(WAIT_S)
        pause, tries = threading.Event(), 0
        while robot.commands < 20:
            desk.send(b"go", peer, Reliability.SEQUENCED)  # again, for it may be lost
            pause.wait(0.01)
            tries += 1
            assert tries < 1_000
        pilot.hangs.set()
        assert robot.is_still.wait(WAIT_S)
        for _ in range(3):  # the bus of the pilot takes and acknowledges all the same
            field.send(b"are you there?", seen).result(WAIT_S)
        assert not robot.is_alone.wait(1.5 * LIVENESS_S), "lost, though only its application hangs"
        field.wait_for_peer(  # in no time, unless the machine has just stood still
            lambda peer: peer.address == seen.address and peer.state is PeerState.ALIVE
        ).result(WAIT_S)
        assert not robot.is_alone.is_set()
    finally:
        pilot.wakes.set()
        robot.close()
