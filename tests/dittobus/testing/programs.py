"""What the processes of these tests run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import NoReturn

import dittobus
from dittobus.blocking import Bus


def echo(times: int = 1, *, name: str = "echo") -> None:
    """Send every message back, so many times its length."""
    with Bus(name, **dittobus.environment()) as bus:
        print(f"{name} is up", flush=True)
        for message in bus.messages():
            bus.send(message.data * times, message.sender)


def fail() -> NoReturn:
    """End as a program with a defect does."""
    raise RuntimeError("out of order")


def count() -> None:
    """Write a number every now and then."""
    for number in range(100_000):
        print(number, flush=True)
        time.sleep(0.001)


def hold(fifo: str) -> None:
    """Keep an end of a FIFO open for good: whoever reads the other one hears when this process is gone."""
    with open(fifo, "w"):
        time.sleep(3600)


def leave_a_child(fifo: str) -> None:
    """Have a process of its own that does so."""
    subprocess.run(
        [sys.executable, "-c", f"import time; held = open({fifo!r}, 'w'); time.sleep(3600)"], check=False
    )


def read_stdin() -> None:
    """Stdin is empty."""
    print("read", repr(sys.stdin.read()), os.isatty(0), flush=True)


class Robot:
    """A class with something to call."""

    @staticmethod
    def walk(steps: int) -> None:
        """Say so."""
        print(f"walked {steps} steps")


if __name__ == "__main__":
    print("program", sys.argv[1:], __name__, flush=True)
    sys.exit(3)
