"""Deliberate faults: each breaks one promise, and says which tests have to notice.

The old text must stand in the file exactly once; ``test_table.py`` sees to that whenever the tests run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One fault: in ``path`` each text of ``edits`` becomes the other, and one of ``tests`` must fail."""

    name: str
    path: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]


SIMULATOR = "tests/testing/test_scenario.py"


def _core(
    name: str, module: str, old: str, new: str, *tests: str, simulated: bool = False
) -> tuple[Mutant, ...]:
    """Return a fault in the protocol; unless others are named, the module's own tests catch it.

    ``simulated``: the simulator has to find it, too, knowing nothing of it.
    """
    path = f"brokerless/protocol/{module}.py"
    caught = Mutant(name, path, ((old, new),), tests or (f"tests/protocol/test_{module}.py",))
    if not simulated:
        return (caught,)
    return caught, Mutant(f"{name} (simulator)", path, ((old, new),), (SIMULATOR,))


def _simulated(name: str, module: str, old: str, new: str) -> tuple[Mutant, ...]:
    """Return a fault in the protocol that the simulator finds."""
    return _core(name, module, old, new, SIMULATOR)


NUMBERING = (
    _core(
        "apply a packet that came already",
        "session",
        "            self.drop(DropCause.DUPLICATE)\n            return\n",
        "            self.drop(DropCause.DUPLICATE)\n",
        simulated=True,
    ),
    _core(
        "pass over a gap in the packets",
        "session",
        "if packet.number > self.received + 1:",
        "if packet.number > self.received + 1_000_000:",
    ),
    _core(
        "send nothing again on the next link",
        "session",
        "self._links[link].cursor = self.flight.acknowledged + 1",
        "self._links[link].cursor = self.flight.sent + 1",
        simulated=True,
    ),
    _core(
        "believe acknowledgements of what was never sent",
        "flight",
        "        if number > self.sent:\n",
        "        number = min(number, self.sent)\n        if number > self.sent:\n",
    ),
    _core(
        "keep a link that makes no progress",
        "session",
        "return self.flight.progress_at + STUCK_SHARE * self.liveness.limit_s",
        "return self.flight.progress_at + 1_000 * self.liveness.limit_s",
    ),
    _core(
        "ignore that the last packets went missing",
        "session",
        "if frame.sent > self.received and not self.liveness.is_confirming:",
        "if frame.sent > self.received and self.liveness.is_confirming:",
    ),
)

RECEIPTS = (
    _core(
        "acknowledge a message that has left in part",
        "stream",
        "return None if frame is None else (frame, out.sent_sequence)",
        "return None if frame is None else (frame, out.last_sequence)",
        "tests/protocol/test_session.py",
        simulated=True,
    ),
    _core(
        "tell receipts before acceptance",
        "stream",
        "        if self.state is _OPEN:\n            self._tell_receipts()",
        "        self._tell_receipts()",
    ),
    _core(
        "acknowledge what waits unread after a stall",
        "session",
        "            packet = wire.encode_packet(0, self.received, state.urgent)",
        "            packet = wire.encode_packet(0, self.received + len(self._held), state.urgent)",
        simulated=True,
    ),
    _core(
        "take a message that was never delivered for acknowledged",
        "singles",
        "        for single in self._left:\n            self._finish(single, self._unknown(error))",
        "        for single in self._left:\n            self._finish(single, None)",
    ),
    _core(
        "leave sends pending when the peer is lost",
        "singles",
        "        for single in self._left:\n            self._finish(single, self._unknown(error))\n",
        "",
        simulated=True,
    ),
    _simulated(
        "call a send that has left never sent",
        "singles",
        "self._finish(single, self._unknown(timeout))",
        "self._finish(single, timeout)",
    ),
    _simulated(
        "complete a send twice",
        "singles",
        "        if not single.is_done:\n            single.is_done = True\n",
        "        if True:\n            single.is_done = True\n",
    ),
    _simulated(
        "leave an unreliable send pending",
        "core",
        "            self.emit(SendDone(self._send_id, drop and drop.error))",
        "            str(drop)",
    ),
)

CREDIT = (
    _core(
        "forget to return credit",
        "credit",
        "if 2 * (self.consumed - self._granted_at) >= self.window:",
        "if 2 * (self.consumed - self._granted_at) >= 1_000 * self.window:",
    ),
    _simulated(
        "forget to return credit for single messages",
        "singles",
        "        self._grant(window.consume(cost))",
        "        window.consume(cost)",
    ),
    _core(
        "let a peer overrun its credit",
        "credit",
        "        if arrived > self.limit:",
        "        if arrived > 1_000 * self.limit:",
    ),
    _core(
        "send beyond the credit",
        "outbound",
        "if cost <= credit and packed <= packed_max:",
        "if packed <= packed_max:",
        simulated=True,
    ),
    _core(
        "grant over the budget",
        "budget",
        "if self.reserved + byte_count + keep > self._bytes_max:",
        "if byte_count + keep > self._bytes_max:",
    ),
    _core(
        "keep the memory of a stream that is over",
        "credit",
        "        reserved = self.window - self._initial + self._extra\n",
        "        reserved = self._extra\n",
    ),
    _core(
        "keep what was granted for a message that was given up",
        "singles",
        "        if frame.limit:",
        "        if True:",
    ),
    _core(
        "count grants that were under way when credit was given back",
        "credit",
        "            self._gives_back = limit != 0",
        "            self._gives_back = False",
    ),
    _core(
        "keep nothing free for the largest message",
        "lanes",
        "keep = 0 if self._granting else self.limits.message_bytes_max",
        "keep = 0",
    ),
    _core(
        "take more offers than are wanted",
        "offers",
        "if len(self._waiting) >= self._places or",
        "if",
    ),
)

STREAMS = (
    _core(
        "say for an application that leaves that its streams are complete",
        "stream",
        "if self._sending is not Sending.SENDING or self.state is StreamState.OFFERED:",
        "if not self.is_over:",
        simulated=True,
    ),
    _core(
        "finish before all has left",
        "stream",
        "        if out.queued_cost:\n            sent",
        "        if out.queued_cost and self._sending not in _FINISH_DUE:\n            sent",
        simulated=True,
    ),
    _core(
        "believe a FINISH that comes too early",
        "receiver",
        "if frame.last_sequence != received or (",
        "if (",
    ),
    _core(
        "call an end clean that was not one",
        "stream",
        "complete = self._their_consumed == self._out.last_sequence",
        "complete = True",
    ),
    _core(
        "say consumed of what is only received",
        "receiver",
        "self._host.control(wire.Close(self._stream.id, self.consumed_sequence))",
        "self._host.control(wire.Close(self._stream.id, self.arrivals.received))",
    ),
    _core(
        "tell nobody that there is room again",
        "stream",
        "            if out.sent_sequence > sent:\n                self._tell_ready()",
        "            if out.sent_sequence > sent:\n                self.stats()",
        simulated=True,
    ),
    _core(
        "use a stream id twice",
        "lanes",
        "        self._next_id += 2\n",
        "",
    ),
    _core(
        "let a peer use a stream id twice",
        "lanes",
        "if frame.stream_id < expected or frame.stream_id % 2 != expected % 2:",
        "if frame.stream_id % 2 != expected % 2:",
    ),
    _core(
        "take a run out of order",
        "inbound",
        "if self._partial is not None or frame.first_sequence != self.received + 1:",
        "if self._partial is not None:",
    ),
    _core(
        "join chunks of different messages",
        "inbound",
        "(frame.sequence, frame.total, frame.offset) != (partial.sequence, partial.total, partial.offset)",
        "frame.total != partial.total",
    ),
    _core(
        "take a message above the limit",
        "inbound",
        "        if frame.total > self._host.message_bytes_max:",
        "        if frame.total > 1_000 * self._host.message_bytes_max:",
    ),
    _core(
        "deliver after close",
        "receiver",
        "        if self.state is _DISCARDING:\n            return\n",
        "",
    ),
)

SESSIONS = (
    _core(
        "accept the INFO of an older session",
        "association",
        "elif theirs.boot == known.boot and theirs.epoch < known.epoch:",
        "elif theirs.boot == known.boot and theirs.epoch < 0:",
    ),
    _core(
        "accept an old boot id",
        "peering",
        "return theirs.boot != self.session.their_nonce.boot and link.opened < self._began",
        "return False",
    ),
    _core(
        "wait for a second link that hangs",
        "roster",
        "self._timers.set(address, entry.hangs_at)\n        return [",
        "pass\n        return [",
        "tests/protocol/test_core.py",
    ),
    _core(
        "close at anybody's word that we were superseded",
        "incarnation",
        "hmac.compare_digest(proof, self._prove(order))",
        "len(proof) == 32",
    ),
    _core(
        "resume on one nonce only",
        "association",
        "about_ours = _Ours.SAME if ours_as_they_know == ours else _Ours.OTHER",
        "about_ours = _Ours.SAME",
    ),
    _core(
        "use a session's nonce twice",
        "core",
        "        self._epoch += 1\n",
        "        self._epoch = 1\n",
        "tests/protocol/test_peering.py",
        simulated=True,
    ),
    _core(
        "spare every link of a renewed session",
        "association",
        "    return told is not None\n",
        "    return True\n",
    ),
    _core(
        "forget a session that a peer may have begun",
        "core",
        "        elif now < peering.expected_until:\n",
        "        elif now < 0.0:\n",
    ),
    _core(
        "believe what lay in an older link",
        "peering",
        "return all(other.opened <= link.opened for other in others)",
        "return any(others) or True",
    ),
    _core(
        "deliver what is stale after a stall",
        "session",
        "        elif self.liveness.is_confirming:\n            self._hold(link, packet, size)",
        "        elif self.liveness.limit_s < 0:\n            self._hold(link, packet, size)",
        simulated=True,
    ),
    _core(
        "count every ping as a proof of being heard",
        "liveness",
        "answered = 0 < self._their_token == token - 1",
        "answered = True",
    ),
    _core(
        "take any answer for that to the last ping",
        "liveness",
        "if token != self.ping_token or self._asked_at is None:",
        "if self._asked_at is None:",
    ),
    _core(
        "declare nobody lost",
        "liveness",
        "if now >= self._proven_at + self.limit_s:",
        "if now >= self._proven_at + 1_000 * self.limit_s:",
    ),
    _core(
        "keep the streams of a lost peer",
        "lanes",
        "            stream.session_ended(error)\n",
        "            str(stream)\n",
    ),
)

DATAGRAMS = (
    _core(
        "skip the replay window",
        "datagrams",
        "if not inbound.window.is_fresh(counter):",
        "if not inbound.window.is_fresh(counter + 1_000_000):",
        simulated=True,
    ),
    _core(
        "forget what is far back in the replay window",
        "replay",
        "        if highest - counter >= WINDOW:\n            return False\n",
        "        if highest - counter >= WINDOW:\n            return True\n",
    ),
    _core(
        "use a datagram's nonce twice",
        "datagram",
        "counter = self.counter = self.counter + 1",
        "counter = self.counter = self.counter // 2 * 2 + 1",
    ),
    _core(
        "begin again under a key that was used",
        "datagrams",
        "if index not in self._sealed_under:",
        "if index:",
    ),
    Mutant(
        "leave a datagram's header unsealed",
        "brokerless/protocol/datagram.py",
        (
            (
                "self._seal(_NONCE_PAD + header[_COUNTER_AT:], plain, header)",
                "self._seal(bytes(12), plain, b'')",
            ),
            (
                "self._open(_NONCE_PAD + header[_COUNTER_AT:], sealed[HEADER_BYTES:], header)",
                "self._open(bytes(12), sealed[HEADER_BYTES:], b'')",
            ),
        ),
        ("tests/protocol/test_datagram.py",),
    ),
    _core(
        "let a forger move the replay window",
        "datagrams",
        "        plain = inbound.opener.open(sealed)\n",
        "        inbound.window.add(counter)\n        plain = inbound.opener.open(sealed)\n",
    ),
    _core(
        "let SEQUENCED go backwards",
        "sequencer",
        "if number <= newest.get(key, self.floor):",
        "if number == newest.get(key, self.floor):",
        simulated=True,
    ),
    _core(
        "join fragments of different messages",
        "fragments",
        "elif partial.head != _head(fragment):",
        "elif partial.head[0] != _head(fragment)[0]:",
    ),
    _core(
        "send to whoever copies a peer's datagrams",
        "paths",
        "self.is_trusted = told",
        "self.is_trusted = True",
    ),
)

TRUST = (
    _core(
        "let in who has not proven the secret",
        "handshake",
        "if not hmac.compare_digest(said.proof, self._their_proof):",
        "if not said.proof:",
    ),
    _core(
        "take back one's own proof",
        "handshake",
        "claim = PROOF_LABEL + role.value + prover.public_key + verifier.public_key",
        "claim = PROOF_LABEL + bytes(a ^ b for a, b in zip(prover.public_key, verifier.public_key))",
    ),
    _core(
        "take a proof that was made for another",
        "handshake",
        "claim = PROOF_LABEL + role.value + prover.public_key + verifier.public_key",
        "claim = PROOF_LABEL + role.value + prover.public_key",
    ),
    _core(
        "prove oneself to who has not",
        "handshake",
        "Heard.STRANGER: Handshake._bare_refusal,",
        "Heard.STRANGER: Handshake._our_hello,",
    ),
    Mutant(
        "ignore User-Id",
        "brokerless/transport/listener.py",
        (
            (
                'if link is not None and not frame.more and frame.get("User-Id") == link.user_id:',
                "if link is not None and not frame.more:",
            ),
        ),
        ("tests/transport/test_listener.py", "tests/transport/test_transport.py"),
    ),
    Mutant(
        "let anybody in while no handler asks",
        "brokerless/transport/listener.py",
        (
            (
                "self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)",
                "self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 0)",
            ),
        ),
        (
            "tests/transport/test_listener.py",
            "tests/transport/test_zap.py",
            "tests/transport/test_transport.py",
        ),
    ),
    Mutant(
        "let anybody push while no handler asks",
        "brokerless/transport/push.py",
        (
            (
                "self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)",
                "self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 0)",
            ),
        ),
        ("tests/transport/test_push.py",),
    ),
)

MUTANTS: tuple[Mutant, ...] = tuple(
    mutant
    for group in (*NUMBERING, *RECEIPTS, *CREDIT, *STREAMS, *SESSIONS, *DATAGRAMS, *TRUST)
    for mutant in (group if isinstance(group, tuple) else (group,))
)
