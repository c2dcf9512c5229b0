"""What applications and this project test with."""

from brokerless.testing.chaos import Chaos
from brokerless.testing.chaos_direction import Datagram, Direction
from brokerless.testing.chaos_fate import Disturbance
from brokerless.testing.sim_datagrams import Weather
from brokerless.testing.sim_link import Conditions
from brokerless.testing.sim_node import SimNode
from brokerless.testing.simulation import SimNetwork
from brokerless.testing.trace import FrameLog, describe

__all__ = [
    "Chaos",
    "Conditions",
    "Datagram",
    "Direction",
    "Disturbance",
    "FrameLog",
    "SimNetwork",
    "SimNode",
    "Weather",
    "describe",
]
