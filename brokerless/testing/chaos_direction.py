"""One of the two directions in which things pass through a ``Chaos``: its settings, and what came of them."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar, overload

from brokerless.errors import ConfigError
from brokerless.testing.chaos_fate import Disturbance

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

Place: TypeAlias = tuple[str, int]
"""Where datagrams come from and go to."""

RECORDED_MAX = 20_000
"""Datagrams that a direction remembers, the latest."""

SETTINGS = tuple(field.name for field in dataclasses.fields(Disturbance))


class Datagram(NamedTuple):
    """A datagram that came by. To replay something else in its place: ``datagram._replace(data=…)``.

    Attributes:
        is_upward: Whether it goes up, to the target.
        client: Host and port of the client that sent it, or that it is for.
        data: Its bytes.
        front: Where it came by: 0 before the target, or before "far"; 1 before "near".
    """

    is_upward: bool
    client: Place
    data: bytes
    front: int = 0


class Setting(Generic[T]):
    """A field of the direction's disturbance, as an attribute of the direction."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, direction: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, direction: Direction, owner: type) -> T: ...
    def __get__(self, direction: Direction | None, owner: type) -> Any:
        return self if direction is None else getattr(direction.disturbance, self._name)

    def __set__(self, direction: Direction, value: T) -> None:
        direction.set(**{self._name: value})


class Direction:
    """All that goes up to the target, or down to clients: how it is disturbed, and what came of it.

    Each setting may be assigned at any time, from any thread, and takes effect at once, for what is yet to
    come; ``set`` assigns several together. ``Disturbance`` says what they mean::

        chaos.upstream.latency_s = 0.1
        chaos.downstream.set(loss=0.05, reordering=0.1)

    Of datagrams, ``received + duplicated`` is ``passed + lost + swallowed + failed``, and what is under way.
    """

    latency_s = Setting[float]()
    jitter_s = Setting[float]()
    rate_bytes_s = Setting["float | None"]()
    blackhole = Setting[bool]()
    loss = Setting[float]()
    reordering = Setting[float]()
    held_s_max = Setting[float]()
    duplication = Setting[float]()
    slice_bytes = Setting["int | None"]()
    tcp_loss = Setting[float]()

    def __init__(self, change: Callable[[Callable[[], None]], None], *, is_upward: bool) -> None:
        self._change = change
        self.is_upward = is_upward
        self._disturbance = Disturbance()
        self._free_at = 0.0  # when the last byte is through, at the rate
        self.is_recording = False
        """While set, ``recorded`` gets the datagrams that come, whatever their fate."""
        self.recorded: deque[Datagram] = deque(maxlen=RECORDED_MAX)
        self.tcp_bytes = 0
        """Bytes of connections handed on so far."""
        self.segments_lost = 0
        """Segments that ``tcp_loss`` took, each with its connection."""
        self.received = 0
        """Datagrams that came to the proxy so far."""
        self.passed = 0
        """Handed on, second copies among them."""
        self.passed_bytes = 0
        self.lost = 0
        self.held = 0
        """Held back, to be overtaken."""
        self.duplicated = 0
        """Second copies that were made."""
        self.swallowed = 0
        """Gone into the black hole, or come while the proxy was off."""
        self.failed = 0
        """Refused by the system, or in excess, or under way to a client that was forgotten."""
        self.replayed = 0
        """Sent by ``replay``; in no other counter."""

    @property
    def disturbance(self) -> Disturbance:
        """All settings. May be assigned as a whole: what it does not name is as by default."""
        return self._disturbance

    @disturbance.setter
    def disturbance(self, disturbance: Disturbance) -> None:
        self._change(lambda: self._assign(disturbance))

    def set(self, **settings: Any) -> None:
        """Assign some settings at once, and leave the others as they are."""
        unknown = settings.keys() - set(SETTINGS)
        if unknown:
            raise ConfigError(f"{min(unknown)}: no such setting; there are {', '.join(SETTINGS)}")
        Disturbance(**settings)  # refuses what cannot be, here
        # Only where changes take turns is it known what the others are: threads may set some at once.
        self._change(lambda: self._assign(dataclasses.replace(self._disturbance, **settings)))

    def _assign(self, disturbance: Disturbance) -> None:
        if disturbance.rate_bytes_s != self._disturbance.rate_bytes_s:
            self._free_at = 0.0
        self._disturbance = disturbance

    @property
    def way(self) -> str:
        """``up`` or ``down``, as it goes into the seeds."""
        return "up" if self.is_upward else "down"

    def waits_s(self, now: float) -> float:
        """How long something that came now would wait for what is before it, at the rate."""
        return max(0.0, self._free_at - now)

    def through_at(self, byte_count: int, now: float) -> float:
        """Let so many bytes stand in line; return when the last is through."""
        rate = self._disturbance.rate_bytes_s
        if rate is None:
            return now
        self._free_at = max(now, self._free_at) + byte_count / rate
        return self._free_at

    def __str__(self) -> str:
        counters = {
            "bytes by TCP": self.tcp_bytes,
            "segments lost": self.segments_lost,
            "datagrams": self.received,
            "passed": self.passed,
            "lost": self.lost,
            "held": self.held,
            "doubled": self.duplicated,
            "swallowed": self.swallowed,
            "failed": self.failed,
        }
        changed = {
            name: getattr(self._disturbance, name)
            for name in SETTINGS
            if getattr(self._disturbance, name) != getattr(Disturbance(), name)
        }
        told = ", ".join(f"{count:,} {what}" for what, count in counters.items() if count) or "nothing"
        settings = " ".join(f"{name}={value!r}" for name, value in changed.items()) or "undisturbed"
        return f"{told} ({settings})"
