"""This machine: the library, the descriptors, the clock."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import zmq

from brokerless.clock import now as read_clock
from brokerless.doctor.findings import Finding, failed_by, failure, ok, warning
from brokerless.errors import StartError
from brokerless.transport.descriptors import descriptors_max, require_descriptors
from brokerless.transport.dialer import DIAL_DESCRIPTORS
from brokerless.transport.transport import START_DESCRIPTORS, require_curve

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokerless.config import Limits

CLOCK_LOOK_S = 0.02
"""How long the clock is watched: longer than any clock's tick."""

CLOCK_TOLERANCE = 0.5
"""Share by which two clocks may differ over that time; ours must only not stand still, run back or leap."""


def examine_libzmq() -> Finding:
    """Is libzmq new enough, and can it encrypt?"""
    try:
        require_curve()
        zmq.curve_keypair()
    except (StartError, zmq.ZMQError) as error:
        return failed_by("libzmq", error, "install pyzmq from PyPI")
    return ok("libzmq", f"version {zmq.zmq_version()}, with CURVE encryption")


def examine_descriptors(limits: Limits) -> Finding:
    """Are there descriptors for a bus, and for its peers?"""
    name, most = "descriptors", descriptors_max()
    wanted = START_DESCRIPTORS + DIAL_DESCRIPTORS * limits.eager_dials_max
    hint = f"raise the limit to {wanted} or more (ulimit -n {wanted})"
    try:
        require_descriptors(START_DESCRIPTORS)
    except StartError:
        return failure(name, f"fewer than the {START_DESCRIPTORS} that a bus needs are free of {most}", hint)
    if most < wanted:
        return warning(name, f"{most} are too few for {limits.eager_dials_max} peers", hint)
    return ok(name, f"this process may have {most}")


async def examine_clock(read: Callable[[], float] = read_clock) -> Finding:
    """Does the clock that all limits of time are measured by go forward, at the pace of another one?"""
    name, hint = "clock", "suspect the virtual machine or the container: its host keeps its time"
    began, other_began = read(), time.perf_counter()
    await asyncio.sleep(CLOCK_LOOK_S)
    elapsed_s, other_elapsed_s = read() - began, time.perf_counter() - other_began
    if elapsed_s <= 0:
        return failure(name, f"it went from {began:.3f} s by {elapsed_s:.3f} s, not forward", hint)
    if abs(elapsed_s - other_elapsed_s) > CLOCK_TOLERANCE * other_elapsed_s:
        return warning(
            name, f"it went by {elapsed_s:.3f} s while another went by {other_elapsed_s:.3f} s", hint
        )
    return ok(name, "it goes forward")
