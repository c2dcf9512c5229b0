"""Other protocols through the bus: TCP, UDP and Unix sockets of one peer, reached at another.

``Exposure`` is the side that has the targets, ``Forward`` the side that listens. Both stand on a bus of
``dittobus.aio`` and its public calls alone; ``docs/guide/tunnel.md`` says how they talk.
"""

from dittobus.tunnel.exposure import Exposure
from dittobus.tunnel.forward import Forward
from dittobus.tunnel.notices import Began, Dropped, Ended, Failed, Notice, Refused, Way
from dittobus.tunnel.opening import Refusal
from dittobus.tunnel.places import Kind, Place, Route

__all__ = [
    "Began",
    "Dropped",
    "Ended",
    "Exposure",
    "Failed",
    "Forward",
    "Kind",
    "Notice",
    "Place",
    "Refusal",
    "Refused",
    "Route",
    "Way",
]
