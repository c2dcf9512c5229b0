"""What applications and this project test with."""

from brokerless.testing.chaos import Chaos
from brokerless.testing.chaos_direction import Datagram, Direction
from brokerless.testing.chaos_fate import Disturbance
from brokerless.testing.trace import FrameLog, describe

__all__ = ["Chaos", "Datagram", "Direction", "Disturbance", "FrameLog", "describe"]
