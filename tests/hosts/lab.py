"""Hosts on one link, each a network namespace of its own: what loopback cannot show.

All of it lives in a user namespace, so that no privilege is needed, and nothing that is done or sent in there
reaches this machine's own network. The hosts hang on a bridge, by a pair of virtual interfaces each. When the
process at the input of a namespace's holder goes, the holder ends, and the kernel clears away the rest.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

from tests.processes.processes import Process, Processes

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

NOBODY = "02:00:00:00:00:99"
"""A hardware address that no interface has."""

HOLDER = ("sh", "-c", "echo; exec cat")
"""Says when the namespace is there, and holds it until its input ends."""


def obstacle() -> str:
    """Say why there can be no namespaces here; nothing: there can."""
    for word in ("unshare", "nsenter", "ip"):
        if shutil.which(word) is None:
            return f"no {word} here: install util-linux and iproute2 (Linux only)"
    tried = subprocess.run(
        ("unshare", "--user", "--map-root-user", "--net", "ip", "link", "add", "type", "veth"),
        capture_output=True,
        text=True,
    )
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


class Namespace:
    """A network, which a process that does nothing keeps in being."""

    def __init__(self, holder: asyncio.subprocess.Process) -> None:
        self.holder = holder
        self.prefix = ("nsenter", f"--target={holder.pid}", "--user", "--net", "--preserve-credentials")
        """Words of a command that starts another in there."""

    @classmethod
    async def open(cls, *words: str) -> Self:
        """Make one by a command that ends in ``unshare``."""
        pipe = asyncio.subprocess.PIPE
        holder = await asyncio.create_subprocess_exec(*words, *HOLDER, stdin=pipe, stdout=pipe)
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"\n"
        return cls(holder)

    async def close(self) -> None:
        """Let it go."""
        await self.holder.communicate(b"")

    async def ip(self, *commands: str, family: int | None = None) -> None:
        """Run commands of ``ip`` in there, one after the other; of that family, if they don't tell."""
        pipe = asyncio.subprocess.PIPE
        words = (*self.prefix, "ip", *([f"-{family}"] if family else ()), "-batch", "-")
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
        _, errors = await process.communicate("\n".join(commands).encode())
        assert process.returncode == 0, errors.decode()


class Host(Namespace):
    """One host, with ``eth0`` on the link."""

    name: str
    addresses: tuple[str, ...]

    async def connect(self, name: str, addresses: tuple[str, ...]) -> None:
        """Configure its end."""
        self.name, self.addresses = name, addresses
        await self.ip(
            "link set lo up",
            "link set eth0 addrgenmode none",  # an address that is told of needs no link-local one beside it
            *(f"address add {address}" for address in map(_configured, addresses)),
            "link set eth0 up",
        )

    async def move(self, *addresses: str) -> None:
        """Take away its addresses, and give it others."""
        await self.ip("address flush dev eth0", *(f"address add {_configured(one)}" for one in addresses))
        self.addresses = addresses

    async def mislead(self, other: Host, *families: int) -> None:
        """From now on what it sends to the other (by these families only) goes astray, and nobody says so."""
        await self.ip(
            *(
                f"neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent"
                for address in other.addresses
                if not families or ip_address(address).version in families
            )
        )

    async def lead(self, other: Host) -> None:
        """What it sends to the other arrives again."""
        await self.ip(*(f"neigh delete {one} dev eth0" for one in other.addresses))

    async def send_no_datagrams(self, port: int) -> None:
        """It can no longer send by UDP from that port; all else passes."""
        for family in (4, 6):
            await self.ip(f"rule add ipproto udp sport {port} blackhole", family=family)

    async def take_no_calls(self, port: int) -> None:
        """Whoever dials that TCP port or the next hears nothing, as behind a firewall; all else passes."""
        for family in (4, 6):
            await self.ip(f"rule add ipproto tcp sport {port}-{port + 1} blackhole", family=family)


def _configured(address: str) -> str:
    return f"{address}/64 dev eth0 nodad" if ":" in address else f"{address}/24 dev eth0"


class Lab:
    """The link, its hosts, and the nodes that run on them."""

    def __init__(self, directory: Path, **defaults: Any) -> None:
        self.directory = directory
        self._stack = AsyncExitStack()
        self._defaults = {"interfaces": None, "discovery": ["zeroconf", "registry", "gossip"], **defaults}
        self.switch: Namespace
        self.processes: Processes

    async def __aenter__(self) -> Self:
        self.switch = await Namespace.open("unshare", "--user", "--map-root-user", "--net")
        self._stack.push_async_callback(self.switch.close)
        self.processes = await self._stack.enter_async_context(Processes(self.directory, **self._defaults))
        await self.switch.ip(
            "link add link0 type bridge mcast_snooping 0",
            "link set link0 addrgenmode none",
            "link set link0 up",
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def host(self, name: str, *addresses: str) -> Host:
        """A host with these addresses, on the link."""
        host = await Host.open(*self.switch.prefix, "unshare", "--net")
        self._stack.push_async_callback(host.close)
        await self._connect(host, name, addresses)
        return host

    async def _connect(self, host: Host, name: str, addresses: tuple[str, ...]) -> None:
        await self.switch.ip(
            f"link add {name} type veth peer name eth0 netns {host.holder.pid}",
            f"link set {name} addrgenmode none",
            f"link set {name} master link0",
            f"link set {name} up",
        )
        await host.connect(name, addresses)

    async def hosts(self, *names: str) -> list[Host]:
        """Hosts with an address of either family each."""
        return [
            await self.host(name, f"10.7.0.{number}", f"fd07::{number}")
            for number, name in enumerate(names, 1)
        ]

    async def node(self, host: Host, **options: Any) -> Process:
        """A node on that host, started."""
        process = await self.processes.spawn(*host.prefix, program="tests.hosts.program")
        directory = str(self.directory / host.name)
        await process.begin(self.processes.config(host.name, **{"directory": directory, **options}))
        return process

    async def nodes(self, *hosts: Host, **options: Any) -> list[Process]:
        """A node on each, started at the same time."""
        return await asyncio.gather(*(self.node(host, **options) for host in hosts))

    async def container(self, host: Host, name: str, outside: int, inside: int) -> Host:
        """A host behind that one, which nobody else reaches, but at two ports that are passed on to it."""
        container = await Host.open(*self.switch.prefix, "unshare", "--net")
        self._stack.push_async_callback(container.close)
        await host.ip(
            f"link add inside type veth peer name eth0 netns {container.holder.pid}",
            "address add 172.30.0.1/24 dev inside",
            "link set inside up",
        )
        await container.connect(name, ("172.30.0.2",))
        ports = (f"{outside}:{inside}", f"{outside + 1}:{inside + 1}")
        words = ("-m", "tests.hosts.forwarder", host.addresses[0], "172.30.0.2", *ports)
        pipe = asyncio.subprocess.PIPE
        forwarder = await asyncio.create_subprocess_exec(
            *host.prefix, sys.executable, *words, stdin=pipe, stdout=pipe
        )
        self._stack.push_async_callback(forwarder.communicate, b"")
        assert forwarder.stdout is not None
        assert await forwarder.stdout.readline() == b"ready\n"
        return container

    async def unplug(self, host: Host) -> None:
        """Pull its cable."""
        await self.switch.ip(f"link set {host.name} down")

    async def plug(self, host: Host) -> None:
        """Put it back."""
        await self.switch.ip(f"link set {host.name} up")

    async def replace_interface(self, host: Host) -> None:
        """Give it another interface, with the same addresses."""
        await self.switch.ip(f"link delete {host.name}")
        await self._connect(host, host.name, host.addresses)

    async def filter_multicast(self, *hosts: Host, passes: bool = False) -> None:
        """Let no multicast reach these hosts any more; or let it pass again."""
        flood = "on" if passes else "off"
        await self.switch.ip(
            *(f"link set {host.name} type bridge_slave mcast_flood {flood}" for host in hosts)
        )
