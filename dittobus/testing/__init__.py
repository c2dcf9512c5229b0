"""For tests of programs that use a bus: a bad network, and a mesh of buses and real processes for each test.

With pytest, the fixtures ``dittobus_bus``, ``dittobus_mesh``, ``dittobus_process`` and ``dittobus_chaos`` are
there once DittoBus is installed. ``docs/testing.md`` is the guide.
"""

from __future__ import annotations

from brokerless.testing import Chaos, Datagram, Direction, Disturbance
from dittobus.testing.kit import BusFactory, Kit, MeshFactory
from dittobus.testing.process import Process

__all__ = [
    "BusFactory",
    "Chaos",
    "Datagram",
    "Direction",
    "Disturbance",
    "Kit",
    "MeshFactory",
    "Process",
]
