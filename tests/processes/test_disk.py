"""A disk that is full: where keys and the registry are to be written, and cannot."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes.processes import SOON_S

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.timeout(90),
    pytest.mark.skipif(sys.platform == "win32", reason="this system limits the size of no file"),
]

SCRIPT = """
import asyncio, logging, os, pathlib, resource, sys
from brokerless import *

place, how = pathlib.Path(sys.argv[1]), sys.argv[2]
warnings = []

class Log(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())

def fill():
    if how == "limit":  # nothing may be written to any file
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    else:
        with open(place / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(512))
            except OSError:
                pass

def make_room():
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        (place / "filler").unlink()

def files():
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())

def fails(path, error):
    assert isinstance(error, StartError), error
    assert str(path) in str(error), error
    assert "No space left" in str(error) or "File too large" in str(error), error
    assert [name for name in files() if name != "filler"] == [], files()

async def serves(*nodes):
    await asyncio.gather(*(node.start() for node in nodes))
    while not all(any(peer.state is PeerState.ALIVE for peer in node.peers) for node in nodes):
        await asyncio.sleep(0.001)
    for node in nodes:
        await node.close()

async def main():
    logging.getLogger("dittobus").addHandler(Log())
    common = {"interfaces": ("127.0.0.1",), "directory": place / "bus"}
    fill()
    try:
        Identity.load(place / "identity")
    except StartError as error:
        fails(place / "identity", error)
    else:
        raise AssertionError("an identity on a full disk")
    node = Node(NodeConfig(discovery=(), **common), lambda events: None)  # its mesh's key is in a file
    try:
        await node.start()
    except StartError as error:
        fails(place / "bus", error)
    else:
        raise AssertionError("a key on a full disk")
    common["secret"] = generate_secret()
    host = Node(NodeConfig(discovery=("registry",), **common), lambda events: None)
    await host.start()
    [warning] = warnings
    assert warning.startswith("discovery registry does not work here: cannot create " + str(place)), warning
    assert [name for name in files() if name.endswith(".node")] == []
    guest = Node(NodeConfig(discovery=(), peers=(host.ticket(),), **common), lambda events: None)
    await guest.start()
    while not any(peer.state is PeerState.ALIVE for peer in guest.peers):
        await asyncio.sleep(0.001)
    await guest.close()
    await host.close()
    make_room()
    identity = Identity.load(place / "identity")
    address = identity.address
    identity.release()
    del common["secret"]
    await serves(*(Node(NodeConfig(discovery=("registry",), **common), lambda events: None) for _ in "ab"))
    assert Identity.load(place / "identity").address == address
    print("well")

asyncio.run(main())
"""


def small_disk(place: Path) -> list[str]:
    """A command in whose eyes that directory is a disk of its own, with room for next to nothing."""
    mount = f"mount -t tmpfs -o size=16k,mode=700 none '{place}' && exec \"$@\""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]


def can_have_disks(place: Path) -> bool:
    command = [*small_disk(place), "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, timeout=SOON_S).returncode == 0
    )


@pytest.mark.parametrize("how", ["limit", "disk"])
async def test_a_full_disk_is_named_and_no_half_written_key_is_left(tmp_path: Path, how: str) -> None:
    prefix = []
    if how == "disk":
        if not can_have_disks(tmp_path):
            pytest.skip("needs a mount namespace of its own")
        prefix = small_disk(tmp_path)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-c", SCRIPT, str(tmp_path), how, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(SOON_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, output.decode(), errors.decode()) == (0, "well\n", "")
