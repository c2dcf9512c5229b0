"""The datagrams of one session: sealed, numbered, sent on the path that works, joined, and handed on.

Nothing here is sent twice, acknowledged or queued. Keys come by INFO, over the reliable link: each side draws
the one under which it wants to receive. See ``docs/wire.md`` for the layout.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

from brokerless.errors import BusError, ConfigError, MessageTooLarge, NoPath, SendQueueFull, WireError
from brokerless.model import DatagramPath, DropCause, Message, Traffic, UnreliableWaiting
from brokerless.protocol import wire
from brokerless.protocol.credit import MESSAGE_COST_BYTES
from brokerless.protocol.datagram import (
    STAMP_MODULUS,
    Answer,
    Fragment,
    Kind,
    Opener,
    Probe,
    Sealer,
    decode_plain,
    encode_answer,
    encode_probe,
    frame_udp,
)
from brokerless.protocol.datagram_stream import KINDS, DatagramStream
from brokerless.protocol.fragments import Reassembly, split
from brokerless.protocol.measures import Reception
from brokerless.protocol.paths import PUSH, Paths, parse_places
from brokerless.protocol.replay import ReplayWindow
from brokerless.protocol.sequencer import Sequencer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokerless.address import Address
    from brokerless.config import Limits
    from brokerless.model import Event
    from brokerless.protocol.datagram_plane import DatagramPlane
    from brokerless.protocol.paths import Target, UdpPlace
    from brokerless.protocol.stream import Stream

KEY_OVERLAP_S = 10.0
"""How long a key still opens datagrams once the peer uses another: longer than any stays under way."""

KEYS_MAX = 8
"""Keys that we drew and the peer may use: as many INFOs may be under way, or have died with their links."""

BACKLOG_S = 2.0
"""How long after a stall of this process what it finds in its sockets may be from before: a socket holds some
hundred datagrams, which are read within a few turns."""

EARLY_MAX = 64
"""Parts of messages that are kept until the peer's INFO is there, which they may overtake: it may send
as soon as it has ours. That is one message of the largest kind, and a few more."""

EARLY_S = 1.0
"""How long they are worth something: to ask the application whether to admit the peer may take longer."""

NO_PATH_HINT = "give it a port=, and let firewalls pass UDP to that or TCP to the next, or send RELIABLE"

SINGLE = 0
"""Stand-in for a stream's number: a single message."""

RELIABILITIES = {kind: reliability for reliability, kind in KINDS.items()}


class Drop(NamedTuple):
    """A message that was not transmitted, and what to say of it."""

    cause: DropCause
    error: BusError


class DatagramHost(Protocol):
    """What they ask of their session."""

    remote: Address
    limits: Limits
    streams: dict[int, Stream]

    def delivers(self, now: float) -> bool:
        """True when the peer is here, and this process has not stood still since it last spoke with it."""

    def emit(self, event: Event) -> None:
        """Tell the application."""

    def drop(self, cause: DropCause) -> None:
        """Count something dropped."""

    def tell(self, frame: wire.Control) -> None:
        """Send an unnumbered frame, if there is a link."""

    def touch(self) -> None:
        """Look at ``next_deadline`` again."""


class _Inbound:
    """One key that we drew, and what came under it."""

    __slots__ = ("forget_at", "opener", "window")

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self.window = ReplayWindow()
        self.forget_at: float | None = None


class Datagrams:
    """Unreliable messages of one session, both directions.

    Queries: ``path``, ``wants_push_at``, ``is_settled``, ``message_bytes_max``, ``next_deadline``, counters.
    Inputs: ``introduced``, ``joined``, ``receive``, ``probed``, ``expire``, ``session_ended``.
    Commands: ``announce``, ``send``, ``forget``. Outputs: ``take_call``.
    """

    def __init__(self, host: DatagramHost, plane: DatagramPlane) -> None:
        self.plane = plane
        self.remote = host.remote
        self.message_bytes_max = host.limits.datagram_message_bytes_max
        self.pull_places = ""
        """Where the peer takes PUSH, as its INFO tells."""
        self.sent = 0
        self._singles_sent = self._single_bytes_sent = 0
        self._singles_received = self._single_bytes_received = 0
        self.told_path = DatagramPath.NONE
        """The path that was told upward; and where there is a PUSH connection to, or is to be one."""
        self.has_push_at = ""
        self._host = host
        self._port = plane.port
        self._inbound: dict[int, _Inbound] = {}  # by index, in the order in which they were drawn
        self._in_use = 0  # the index that the peer used last
        self._received_before = self._highest_before = 0  # under keys that are forgotten
        self._sealer: Sealer | None = None
        self._sealed_under: set[int] = set()
        self._number = 0
        self._sequencer = Sequencer()
        self._reassembly = Reassembly(
            host.limits.unreliable_queue_bytes_max, host.limits.reassembly_timeout_s
        )
        self._paths = Paths()
        self._deadline: float | None = None  # of the paths, when the host was told last
        self._here = Reception()
        self._there = Reception()  # as the peer tells it
        self._stale_until = -math.inf  # what was sent before is not delivered
        self._early: list[tuple[Fragment, float]] = []  # and when it came

    # Queries

    @property
    def path(self) -> DatagramPath:
        """What serves the peer."""
        return self._paths.path

    def traffic(self) -> Traffic:
        """Return the counters of single messages; what of them waits, waits with those of other peers."""
        return Traffic(
            messages_sent=self._singles_sent,
            bytes_sent=self._single_bytes_sent,
            messages_received=self._singles_received,
            bytes_received=self._single_bytes_received,
        )

    @property
    def wants_push_at(self) -> str:
        """Where there should be a PUSH connection to; nowhere: there should be none."""
        return self.pull_places if self._paths.wants_push else ""

    def take_call(self) -> bool:
        """Whether to tell the peer anew who we are, so that it probes us; said once."""
        wanted, self._paths.wants_call = self._paths.wants_call, False
        return wanted

    @property
    def is_settled(self) -> bool:
        """False when there is something to be done about the path: to tell of it, to see to PUSH, to call."""
        is_told = self.path is self.told_path and self.wants_push_at == self.has_push_at
        return is_told and not self._paths.wants_call

    @property
    def received(self) -> int:
        """Datagrams that came, each counted once."""
        return self._received_before + sum(one.window.received for one in self._inbound.values())

    @property
    def _highest(self) -> int:
        highest = self._highest_before + sum(one.window.highest for one in self._inbound.values())
        return min(highest, wire.U64_MAX)  # counters are the peer's, and may be anything

    @property
    def loss(self) -> float | None:
        """Share of the peer's datagrams that did not come, 0 to 1."""
        return self._here.loss

    @property
    def loss_there(self) -> float | None:
        """Share of ours that did not come there, 0 to 1."""
        return self._there.loss

    @property
    def jitter_s(self) -> float | None:
        """Variation of the transit time to us, in seconds."""
        return self._here.jitter_s

    @property
    def round_trip_s(self) -> float | None:
        """Smoothed round trip over UDP, in seconds."""
        return self._paths.rtt_s

    def next_deadline(self) -> float | None:
        """Return when ``expire`` has something to do, or whoever calls it; long ago: at once."""
        if not self.is_settled:
            return 0.0
        deadlines = [self._paths.next_deadline(), self._reassembly.next_deadline()]
        deadlines += [inbound.forget_at for inbound in self._inbound.values()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # Commands

    def announce(self) -> tuple[int, bytes]:
        """Return a fresh index and key for the peer to seal with; 0 and nothing where there is no port."""
        if self._port is None:
            return 0, b""
        index, key = self._port.draw_key()
        self._inbound[index] = _Inbound(Opener(self._port.make_cipher(key)))
        self.plane.readers[index] = self
        if len(self._inbound) > KEYS_MAX:
            self._forget(next(one for one in self._inbound if one != self._in_use))
        return index, key

    def send(self, kind: Kind, stream_id: int, channel: int, data: bytes) -> Drop | None:
        """Transmit one message; return why it was not. Raises ``MessageTooLarge``, ``ConfigError``."""
        if type(data) is not bytes:
            raise TypeError(f"a message is bytes, not {type(data).__name__}")
        if not 0 <= channel <= wire.U32_MAX:
            raise ConfigError(f"channel: expected 0 to {wire.U32_MAX}, got {channel}")
        if len(data) > self.message_bytes_max:
            text = f"an unreliable message of {len(data)} bytes, at most {self.message_bytes_max}"
            raise MessageTooLarge(text, peer=self.remote)
        if self._port is None or self._sealer is None:
            text, hint = (
                "the peer takes no datagrams, or has not joined yet",
                "wait_for_peer, or send RELIABLE",
            )
            return self._drop(DropCause.NO_PATH, NoPath(text, peer=self.remote, hint=hint))
        now = self._port.now()
        self._paths.sent(now)
        targets = self._paths.targets(now)
        self._tend(now)
        self._number += 1
        for plain in split(kind, stream_id, channel, self._number, _stamp(now), data):
            if not self._transmit(targets, plain):
                break
        else:
            if stream_id == SINGLE:
                self._singles_sent += 1
                self._single_bytes_sent += len(data)
            return None
        if self.path is DatagramPath.NONE:  # where nothing is proven, what takes nothing does not lead there
            text = "neither UDP nor TCP for datagrams reaches the peer"
            return self._drop(DropCause.NO_PATH, NoPath(text, peer=self.remote, hint=NO_PATH_HINT))
        full = SendQueueFull("the socket takes no more now", peer=self.remote)
        return self._drop(DropCause.SEND_QUEUE_FULL, full)

    def expect(self) -> None:
        """Look for a path as for a message, without one: somebody wants to know if there is any."""
        if self._port is not None and self._sealer is not None:
            now = self._port.now()
            self._paths.sent(now)
            self._tend(now)

    def _drop(self, cause: DropCause, error: BusError) -> Drop:
        self._host.drop(cause)
        return Drop(cause, error)

    def _transmit(self, targets: Sequence[Target], plain: bytes) -> bool:
        """Seal once, send to each; True if any took it: the peer drops what comes twice by its counter."""
        assert self._port is not None
        assert self._sealer is not None
        sealed = self._sealer.seal(plain)
        self.sent += 1
        taken = False
        for target in targets:
            if target is PUSH:
                taken |= self._port.send_push(self.remote, sealed)
            else:
                taken |= self._port.send_udp(target, frame_udp(sealed))
        return taken

    # Inputs

    def introduced(self, info: wire.Info, now: float) -> None:
        """The peer told its key and places, as with each INFO. Raises ``WireError`` for what is no place."""
        index = info.datagram_index
        if not index or not info.datagram_key or self._port is None:
            return
        udp_places = parse_places(info.udp_places)
        parse_places(info.pull_places)  # they may be used much later, when nobody can be blamed any more
        self.message_bytes_max = min(
            self._host.limits.datagram_message_bytes_max, info.datagram_message_bytes_max
        )
        if index not in self._sealed_under:  # under one that was used before, the counter would start again
            self._sealed_under.add(index)
            self._sealer = Sealer(index, self._port.make_cipher(info.datagram_key))
        if info.pull_places != self.pull_places:
            self.pull_places = info.pull_places
            self._paths.pull_moved(now)
        self._paths.learned(udp_places, has_pull=bool(info.pull_places), now=now)
        self._paths.established(now)
        self._host.touch()

    def joined(self, now: float) -> None:
        """That the peer is here has been told: deliver what came before."""
        early, self._early = self._early, []
        for fragment, came in early:
            if now - came <= EARLY_S and self._host.delivers(now):
                self._fragment(fragment, now)
            else:
                self._host.drop(DropCause.STALE)

    def receive(self, index: int, counter: int, sealed: bytes, place: UdpPlace | None, now: float) -> None:
        """Take a datagram under one of our indexes; ``place`` None: it came by PUSH."""
        inbound = self._inbound[index]
        if not inbound.window.is_fresh(counter):
            self._host.drop(DropCause.DUPLICATE)
            return
        plain = inbound.opener.open(sealed)
        if plain is None:
            self._host.drop(DropCause.UNAUTHENTICATED)
            return
        is_newest = counter > inbound.window.highest and inbound.forget_at is None
        inbound.window.add(counter)
        if index != self._in_use:
            self._take_into_use(index, now)
        try:
            stamp, item = decode_plain(plain)
        except WireError:
            self._host.drop(DropCause.MALFORMED)
            return
        if self._sealer is None and isinstance(item, Fragment) and not self._host.delivers(now):
            self._keep(item, now)
            return
        if self._is_stale(stamp, now):
            if isinstance(item, Fragment):  # nobody misses a probe
                self._host.drop(DropCause.STALE)
            return
        self._here.arrived(stamp, now)
        if place is not None:
            self._paths.heard(place, is_newest, now)
        if isinstance(item, Fragment):
            self._fragment(item, now)
        elif isinstance(item, Probe):
            self._answer(item, place, now)
        else:
            self._answered(item, now, by_link=False)
        self._tend(now)

    def _take_into_use(self, index: int, now: float) -> None:
        """The peer seals under another key than before: that one goes soon, unless it comes into use again.

        The order in which they were drawn says nothing: INFOs on two links may overtake each other, or die
        with their link. And a late datagram of an old key may seem to be the first under it.
        """
        before = self._inbound.get(self._in_use)
        if before is not None:
            before.forget_at = now + KEY_OVERLAP_S
        self._in_use = index
        self._inbound[index].forget_at = None
        self._host.touch()

    def _is_stale(self, stamp: int, now: float) -> bool:
        """Whether this is not to be believed, as from before a stall of this process.

        The socket may hold more of it than was read before the peer answered. How long each was under way is
        known but for a constant, so it shows which were sent before that.
        """
        if not self._host.delivers(now):
            self._stale_until = now
            self._host.touch()  # the peer is to be asked
            return True
        if now > self._stale_until + BACKLOG_S:
            return False
        return now - self._here.delay_s(stamp, now) < self._stale_until

    def _keep(self, fragment: Fragment, now: float) -> None:
        """It overtook its sender's INFO, and nothing of a peer may be told before it has joined."""
        if len(self._early) < EARLY_MAX:
            self._early.append((fragment, now))
        else:
            self._host.drop(DropCause.STALE)

    def _fragment(self, fragment: Fragment, now: float) -> None:
        stream = self._stream_of(fragment)
        if stream is None and fragment.stream_id:
            self._host.drop(DropCause.STALE)  # its stream is over, or not open yet
            return
        dropped = self._reassembly.dropped
        data = self._reassembly.add(fragment, now)
        self._count_dropped(DropCause.INCOMPLETE, self._reassembly.dropped - dropped)
        if data is not None:
            self._deliver(fragment, stream, data, now)
        else:
            self._host.touch()

    def _stream_of(self, fragment: Fragment) -> DatagramStream | None:
        stream = self._host.streams.get(fragment.stream_id)
        if isinstance(stream, DatagramStream) and stream.kind is fragment.kind:
            return stream
        return None

    def _deliver(self, fragment: Fragment, stream: DatagramStream | None, data: bytes, now: float) -> None:
        lane = fragment.stream_id, fragment.channel
        if fragment.kind is Kind.SEQUENCED and not self._sequencer.is_newer(lane, fragment.number):
            self._host.drop(DropCause.LATE)
            return
        if stream is not None:
            dropped = stream.unread.dropped
            if not stream.arrived(data):
                self._host.drop(DropCause.LATE)
            self._count_dropped(DropCause.RECEIVE_QUEUE_FULL, stream.unread.dropped - dropped)
            return
        self._singles_received += 1
        self._single_bytes_received += len(data)
        reliability = RELIABILITIES[fragment.kind]
        message = Message(self.remote, data, reliability, fragment.channel, now)
        unread = self.plane.unread
        dropped = unread.dropped
        if unread.put(message, len(data) + MESSAGE_COST_BYTES):
            self._host.emit(UnreliableWaiting(None, unread))
        self._count_dropped(DropCause.RECEIVE_QUEUE_FULL, unread.dropped - dropped)

    def _count_dropped(self, cause: DropCause, count: int) -> None:
        for _ in range(count):
            self._host.drop(cause)

    def _answer(self, probe: Probe, place: UdpPlace | None, now: float) -> None:
        """Say that a probe came, on the link, and the way it came: either proves the way here."""
        answer = (probe.token, self.received, self._highest)
        self._here.counted(*answer[1:], now)
        self._host.tell(wire.Probed(*answer))
        if place is not None and self._sealer is not None:
            self._transmit((place,), encode_answer(*answer, _stamp(now)))

    def probed(self, frame: wire.Probed, now: float) -> None:
        """The peer says on the link that a probe of ours came."""
        self._answered(Answer(*frame), now, by_link=True)

    def _answered(self, answer: Answer, now: float, *, by_link: bool) -> None:
        self._paths.answered(answer.token, now, by_link=by_link)
        self._there.counted(answer.received, answer.highest, now)
        self._host.touch()

    def expire(self, now: float) -> None:
        """Act on what time has come for."""
        dropped = self._reassembly.dropped
        self._reassembly.expire(now)
        self._count_dropped(DropCause.INCOMPLETE, self._reassembly.dropped - dropped)
        for index, inbound in list(self._inbound.items()):
            if inbound.forget_at is not None and inbound.forget_at <= now:
                self._forget(index)
        self._paths.expire(now)
        self._tend(now)

    def _tend(self, now: float) -> None:
        """Send the probes that are due, and have the host see to what changed."""
        for target, token in self._paths.take_probes(now):
            self._transmit((target,), encode_probe(token, _stamp(now)))
        deadline = self._paths.next_deadline()
        if deadline != self._deadline or not self.is_settled:
            self._deadline = deadline
            self._host.touch()

    def _forget(self, index: int) -> None:
        inbound = self._inbound.pop(index)
        del self.plane.readers[index]
        self._received_before += inbound.window.received
        self._highest_before += inbound.window.highest

    def forget(self, stream_id: int) -> None:
        """A stream is over: free what is kept for it."""
        self._reassembly.forget(stream_id)
        self._sequencer.forget((stream_id, 0))

    def session_ended(self) -> None:
        """Open nothing any more."""
        for index in list(self._inbound):
            self._forget(index)
        for _ in self._early:
            self._host.drop(DropCause.STALE)
        self._early.clear()
        self._sealer = None


def _stamp(now: float) -> int:
    return int(now * 1e6) % STAMP_MODULUS
