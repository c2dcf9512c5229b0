"""Do two sides mean the same session? Decided by the nonces that INFO carries.

Each side draws a nonce for each session that it has with a peer: (boot, epoch), where ``boot`` is random for
the process and ``epoch`` counts all its sessions, so a side's nonces are ordered as long as it lives, and an
INFO that lingered on a slow link cannot be taken for news. INFO says *mine*, and *yours* as far as I know it.

A session is one pair of nonces. Whoever ends a session cuts its links and draws a new nonce, so each link
carries at most one session at a time, and the last INFO sent on a link is of the present session. One link
may be spared: see ``is_spared``.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Nonce(NamedTuple):
    """One side's half of a session's identity: which process, and which of its sessions."""

    boot: int
    epoch: int


class Verdict(enum.Enum):
    """What an INFO means for the session here."""

    AGREED = "the same session: begin it, or go on with it"
    RENEWED = "the peer has begun another: end ours; on a link that is spared tell our new nonce, judge again"
    AWAIT = "the peer still remembers another session of ours: our INFO will tell it so; wait for its next"
    STALE = "of a session that the peer itself has ended: the link is of no use"


class _Theirs(enum.Enum):
    """The peer's nonce, against the one that our session knows."""

    UNKNOWN = enum.auto()  # our session has none yet
    SAME = enum.auto()
    OLDER = enum.auto()
    OTHER = enum.auto()


class _Ours(enum.Enum):
    """Our nonce as the peer knows it, against our session's."""

    UNKNOWN = enum.auto()
    SAME = enum.auto()
    OTHER = enum.auto()


VERDICTS: dict[tuple[_Theirs, _Ours], Verdict] = {
    (_Theirs.UNKNOWN, _Ours.UNKNOWN): Verdict.AGREED,
    (_Theirs.UNKNOWN, _Ours.SAME): Verdict.AGREED,
    (_Theirs.UNKNOWN, _Ours.OTHER): Verdict.AWAIT,
    # "Unknown" beside the right nonce is an INFO that left before ours came: each link carries one each way.
    (_Theirs.SAME, _Ours.UNKNOWN): Verdict.AGREED,
    (_Theirs.SAME, _Ours.SAME): Verdict.AGREED,
    (_Theirs.SAME, _Ours.OTHER): Verdict.AWAIT,
    (_Theirs.OLDER, _Ours.UNKNOWN): Verdict.STALE,
    (_Theirs.OLDER, _Ours.SAME): Verdict.STALE,
    (_Theirs.OLDER, _Ours.OTHER): Verdict.STALE,
    (_Theirs.OTHER, _Ours.UNKNOWN): Verdict.RENEWED,
    (_Theirs.OTHER, _Ours.SAME): Verdict.RENEWED,
    (_Theirs.OTHER, _Ours.OTHER): Verdict.RENEWED,
}
"""The whole matrix. After RENEWED our side is fresh, so the second judgement is AGREED or AWAIT."""


def judge(ours: Nonce, known: Nonce | None, theirs: Nonce, ours_as_they_know: Nonce | None) -> Verdict:
    """Return what an INFO with those two nonces means for the session (``ours``, ``known``).

    ``known`` is the peer's nonce in our session, None while it has none.
    """
    if known is None:
        about_theirs = _Theirs.UNKNOWN
    elif theirs == known:
        about_theirs = _Theirs.SAME
    elif theirs.boot == known.boot and theirs.epoch < known.epoch:
        about_theirs = _Theirs.OLDER
    else:
        about_theirs = _Theirs.OTHER
    if ours_as_they_know is None:
        about_ours = _Ours.UNKNOWN
    else:
        about_ours = _Ours.SAME if ours_as_they_know == ours else _Ours.OTHER
    return VERDICTS[about_theirs, about_ours]


def is_spared(told: Nonce | None) -> bool:
    """Return whether the link whose INFO was RENEWED may carry the next session.

    ``told`` is the peer's nonce in the last INFO that we sent there. If we knew another one, the peer waits
    for our next INFO. If we knew none, it may have agreed to the session that we end, with packets under way:
    they would be taken for packets of the next session, and both sides could renew in turn for ever.
    """
    return told is not None
