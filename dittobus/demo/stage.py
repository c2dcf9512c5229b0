"""What the demo plays on: a bus here, one in another process, and proxies on every way between them."""

from __future__ import annotations

import os
import queue
import socket
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dittobus import DittoBus, DittoBusDelegate, PortInUse, generate_secret
from dittobus.demo.far_process import FarProcess
from dittobus.demo.proxies import Proxies
from dittobus.demo.steps import StepFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from dittobus import DittoBusMessage, Limits, PeerLeft, Peers

HOST = "127.0.0.1"

TRIES = 3
"""A free port may be taken by somebody else before a bus binds it, but not three times in a row."""

CLOSE_TIMEOUT_S = 1.0
"""How long the bus may drain at the end, when there is nobody left to drain to."""


class Near(DittoBusDelegate):
    """The peer of this process: keeps what it hears."""

    def __init__(self) -> None:
        self.messages: queue.Queue[DittoBusMessage] = queue.Queue()
        self.lost: queue.Queue[PeerLeft] = queue.Queue()

    def bus_did_receive_single_message(self, bus: DittoBus, message: DittoBusMessage) -> None:
        self.messages.put(message)

    def bus_did_update_peers(self, bus: DittoBus, peers: Peers) -> None:
        for left in peers.lost:
            self.lost.put(left)


class Stage:
    """The two peers, in a mesh of their own. Use it as a context manager: nothing outlives it."""

    bus: DittoBus
    far: FarProcess
    far_address: str

    def __init__(self, limits: Limits) -> None:
        self.near = Near()
        self.proxies = Proxies()
        self.limits = limits
        self._mesh = f"demo-{os.getpid()}"
        self._secret = generate_secret()
        self._belongings = ExitStack()
        self._belongings.callback(self.proxies.close)
        self._directory = self._belongings.enter_context(tempfile.TemporaryDirectory(prefix="dittobus-demo-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._belongings.close()

    def start(self) -> None:
        """Start both peers. Each announces a proxy in place of the port on which it listens."""
        self._behind_proxy(self._start_far)
        self._behind_proxy(self._start_near)

    def _behind_proxy(self, start: Callable[[int, str], None]) -> None:
        for _ in range(TRIES):
            port = free_port()
            try:
                return start(port, self.proxies.put_before(HOST, port))
            except PortInUse:
                continue
        raise StepFailed(f"no port could be bound on {HOST} in {TRIES} tries")

    def _start_near(self, port: int, endpoint: str) -> None:
        bus = DittoBus(
            "near",
            mesh=self._mesh,
            secret=self._secret,
            discovery=("zeroconf",),
            interfaces=(HOST,),
            port=port,
            advertise=(endpoint,),
            directory=self._directory,
            limits=self.limits,
            delegate=self.near,
        )
        bus.start()
        self.bus = bus
        self._belongings.callback(bus.close, CLOSE_TIMEOUT_S)

    def _start_far(self, port: int, endpoint: str) -> None:
        far = FarProcess(Path(self._directory))
        self._belongings.callback(far.kill)
        far.say(
            mesh=self._mesh,
            secret=self._secret.hex(),
            host=HOST,
            port=port,
            advertise=endpoint,
            directory=self._directory,
        )
        report = far.hears("start")
        if report["error"] == "PortInUse":
            raise PortInUse(report["text"])
        if report["error"] is not None:
            raise StepFailed(
                f"the second process could not start its bus: {report['error']}: {report['text']}"
            )
        self.far = far
        self.far_address = report["address"]


def free_port() -> int:
    """Return a port of this host on which nobody listens now, nor on the next: a bus takes both."""
    while True:
        with socket.socket() as probe, socket.socket() as probe_of_next:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
            with suppress(OSError, OverflowError):
                probe_of_next.bind((HOST, port + 1))
                return port
