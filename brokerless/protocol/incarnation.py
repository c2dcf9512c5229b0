"""Which of the processes with an identity this is, and the proof that a later one has it, too.

Two live processes with one identity take each other's peers away, so the earlier one is to close. It hears
of the later one from a peer that has met both; but to believe any peer would let every member of the mesh
close every node. So each process makes a claim that nobody else can make, for it takes the identity's secret
key; it says it in INFO, and whoever is told that it was superseded is shown the other's claim.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

LABEL = b"DittoBus incarnation"
"""Keeps this use of the identity's secret key apart from every other."""

_ORDER = struct.Struct("!QQ")


class Incarnation:
    """One process that has an identity.

    ``began_us`` puts those of one identity in order: when it started, in microseconds, as its host's clock
    had it then. A clock that is wrong decides which of two live ones closes, and no more.
    """

    __slots__ = ("_order", "_secret", "boot", "claim")

    def __init__(self, secret: bytes, boot: int, began_us: int) -> None:
        self.boot = boot
        """Random, drawn by the process."""
        self._secret = secret
        self._order = _ORDER.pack(began_us, boot)
        self.claim = self._order + self._prove(self._order)

    def is_superseded_by(self, claim: bytes) -> bool:
        """Whether the claim is that of a later process with the same identity."""
        order, proof = claim[: _ORDER.size], claim[_ORDER.size :]
        return order > self._order and hmac.compare_digest(proof, self._prove(order))

    def _prove(self, order: bytes) -> bytes:
        return hmac.digest(self._secret, LABEL + order, hashlib.sha256)
