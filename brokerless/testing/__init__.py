"""What applications and this project test with."""

from brokerless.testing.chaos import Chaos

__all__ = ["Chaos"]
