"""What the demo shows: steps, each of which fails when the bus does not keep its promise."""

from __future__ import annotations

import json
import os
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from dittobus import Limits, LossReason, PeerLost, WaitTimeout
from dittobus.demo.far import ANSWER, reply_to
from dittobus.demo.sender import MESSAGE_COST_BYTES, Sender
from dittobus.demo.stage import HOST, Stage
from dittobus.demo.steps import Step, StepFailed, require
from dittobus.demo.waiting import WAIT_S, outcome, take

if TYPE_CHECKING:
    from dittobus import Peer

GREETING = b"hello, far"

NUMBERS = 10_000
NUMBER_BYTES = 1_024
"""Five times what window and send queue hold, so that the sender must wait for the reader."""

TRANSFER_MESSAGES = 4_096
TRANSFER_BYTES = 4_096
CUTS = 3
"""Between two cuts goes more than window and send queue hold: none finds a connection with nothing to do."""

LOSS_GRACE_S = 1.0
"""How much later than the liveness limit a loss may be told on a machine that has other things to do."""


class Scenario(Stage):
    """The steps, and what passes from one to the next."""

    _peer: Peer
    _numbers: Sender
    _transfer: Sender

    def __init__(self) -> None:
        super().__init__(Limits())  # the defaults: the demo shows what everybody gets

    @property
    def steps(self) -> list[Step]:
        """What is to be run, in this order."""
        return [
            Step("start", self._start),
            Step("discovery", self._discovery),
            Step("message", self._message),
            Step("stream", self._stream),
            Step("backpressure", self._backpressure),
            Step("receipts", self._receipts),
            Step("reconnection", self._reconnection),
            Step("close", self._close),
            Step("loss", self._loss),
        ]

    def _start(self) -> str:
        self.start()
        return f"near is process {os.getpid()}, far is process {self.far.pid}; a TCP proxy before each"

    def _discovery(self) -> str:
        try:
            peer = self.bus.wait_for_peer("far", timeout=WAIT_S).result()
        except WaitTimeout:
            raise StepFailed(
                f"no peer found within {WAIT_S:.0f} s; does a firewall keep multicast DNS from {HOST}?"
            ) from None
        require(str(peer.address) == self.far_address, "the peer's address is not that of the second process")
        self.far.hears("joined", address=str(self.bus.address), name="near")
        require(self.proxies.connections > 0, "the peers are connected, but not through the proxies")
        self._peer = peer
        return f"found by multicast DNS on {HOST}; both proved that they know the secret"

    def _message(self) -> str:
        begun = time.perf_counter()
        self.bus.send(GREETING, self._peer, timeout=WAIT_S).result()
        acknowledged_ms = (time.perf_counter() - begun) * 1_000
        self.far.hears("message", sender=str(self.bus.address), text=GREETING.decode())
        answer = take(self.near.messages, "no answer came")
        require(answer.data == ANSWER, f"the answer is {answer.data!r}")
        require(answer.sender == self._peer.address, "the answer is from somebody else")
        return f"{GREETING.decode()!r} acknowledged after {acknowledged_ms:.1f} ms, and answered"

    def _stream(self) -> str:
        self._numbers = self._open("numbers", NUMBERS, NUMBER_BYTES, slow=True)
        return f"opened for {NUMBERS:,} messages; far saw its metadata, and near the reply's"

    def _open(self, name: str, messages: int, message_bytes: int, *, slow: bool) -> Sender:
        metadata = json.dumps({"messages": messages, "slow": slow}).encode()
        stream = self.bus.open_stream(self._peer, name=name, metadata=metadata, timeout=WAIT_S).result()
        sender = Sender(stream, messages, message_bytes)
        self.far.hears("offer", stream=name, metadata=metadata.decode())
        reply = stream.reply_metadata
        require(reply == reply_to(metadata), f"the metadata of the reply is {reply!r}")
        return sender

    def _backpressure(self) -> str:
        sender = self._numbers
        stopped_at = 0

        def note_still() -> None:
            nonlocal stopped_at
            if not stopped_at:
                stopped_at = number - 1
                self.far.say(command="read")

        for number in range(1, NUMBERS + 1):
            sender.send(number, note_still)
        require(stopped_at > 0, f"all {NUMBERS:,} messages were taken while nobody read")
        report = self.far.hears("read", stream="numbers")
        sender.require_complete(report)
        ahead, bound = report["ahead_max"], ahead_bound(self.limits, NUMBER_BYTES)
        require(ahead <= bound, f"near was {ahead:,} messages ahead of the reader; allowed are {bound:,}")
        return f"near stopped at {stopped_at:,} while far paused; at most {ahead:,} ahead (bound {bound:,})"

    def _receipts(self) -> str:
        receipts = self._numbers.receipts
        if not self._numbers.all_received.wait(WAIT_S):
            raise StepFailed(f"receipts stopped at {max(receipts, default=0):,}")
        require_cumulative(receipts, NUMBERS)
        return f"{len(receipts):,}, each for all messages up to its number; the last for {NUMBERS:,}"

    def _reconnection(self) -> str:
        self._transfer = sender = self._open("transfer", TRANSFER_MESSAGES, TRANSFER_BYTES, slow=False)
        connections = self.proxies.connections
        cut_after = {TRANSFER_MESSAGES * (1 + cut) // (1 + CUTS) for cut in range(CUTS)}
        for number in range(1, TRANSFER_MESSAGES + 1):
            sender.send(number)
            if number in cut_after:
                require(self.proxies.cut() > 0, f"there was no connection to cut after message {number:,}")
        sender.require_complete(self.far.hears("read", stream="transfer"))
        remade = self.proxies.connections - connections
        require(remade >= CUTS, f"{CUTS} cuts, but only {remade} new connections")
        require(self.near.lost.empty(), "the peer was reported as lost in between")
        total_mib = TRANSFER_MESSAGES * TRANSFER_BYTES / 2**20
        return f"{total_mib:.0f} MiB cut {CUTS} times (TCP reset): each message once, in order, SHA-256 equal"

    def _close(self) -> str:
        senders = (self._numbers, self._transfer)
        for sender in senders:
            sender.stream.close()
        for sender in senders:
            sender.require_clean_close()
            name = sender.stream.name
            report = self.far.hears("closed", stream=name)
            require(report["error"] is None, f"stream {name!r} closed at far's end with {report['error']}")
            sender.require_count(report["messages"])
        return "both streams closed without an error, at both ends"

    def _loss(self) -> str:
        sender = self._open("last", 1, NUMBER_BYTES, slow=False)
        begun = time.perf_counter()
        self.far.kill()
        limit_s = self.limits.liveness_s
        error = outcome(sender.closed, "the open stream did not end", limit_s + WAIT_S)
        seconds = time.perf_counter() - begun
        require(isinstance(error, PeerLost), f"the open stream ended with {error!r}, not with PeerLost")
        left = take(self.near.lost, "the bus did not report the peer as lost")
        require(left.peer.address == self._peer.address, "somebody else was reported as lost")
        require(left.reason is LossReason.SILENT, f"the peer was reported as lost by {left.reason.value!r}")
        require(
            seconds <= limit_s + LOSS_GRACE_S, f"told after {seconds:.1f} s; the limit is {limit_s:.0f} s"
        )
        return (
            f"far killed (-9): PeerLost on its stream after {seconds:.1f} s (liveness limit {limit_s:.0f} s)"
        )


def ahead_bound(limits: Limits, message_bytes: int) -> int:
    """Return how many messages may lie between a sender and a reader that has not consumed them."""
    cost = message_bytes + MESSAGE_COST_BYTES
    # What has credit, what waits for it, and the one that is being sent.
    return limits.stream_window_bytes // cost + limits.send_queue_bytes_max // cost + 1


def require_cumulative(receipts: list[int], last: int) -> None:
    """Raise ``StepFailed`` unless the receipts rise, from one to the next, up to ``last``."""
    require(all(earlier < later for earlier, later in pairwise(receipts)), "a receipt went back")
    require(receipts[-1:] == [last], f"the last receipt is {receipts[-1:]}, not {last}")
