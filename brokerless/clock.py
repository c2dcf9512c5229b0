"""The clock of a node."""

from __future__ import annotations

import time

if hasattr(time, "CLOCK_BOOTTIME"):

    def now() -> float:
        """Return monotonic seconds that go on while the host is suspended, so that waking up shows."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    now = time.monotonic
