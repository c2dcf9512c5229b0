"""What nodes on hosts say to each other, and how it is known to have arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.processes.processes import Process


async def met(*nodes: Process) -> None:
    """Wait until each has joined all others."""
    for node in nodes:
        for other in nodes:
            if other is not node:
                await node.says("joined", peer=other.address)


async def path_becomes(node: Process, other: Process, datagram: str) -> None:
    """Wait until datagrams to the other go that way."""
    await node.until(
        lambda: [said["datagram"] for said in node.heard("path", peer=other.address)][-1:] == [datagram]
    )


async def exchanged(one: Process, other: Process) -> None:
    """Each sends the other a reliable message and, by UDP, an unreliable one; all arrive."""
    for sender, receiver in ((one, other), (other, one)):
        await path_becomes(sender, receiver, "udp")
        sender.do("send", to=receiver.address, data="reliable")
        await receiver.says_next("message", peer=sender.address, data="reliable")
        sender.do("send", to=receiver.address, data="unreliable", reliability="unreliable")
        await receiver.says_next("unreliable", peer=sender.address, data="unreliable")


async def streamed(one: Process, other: Process) -> None:
    """Each opens a stream to the other and pours into it; all arrives, once and in order."""
    for sender, receiver in ((one, other), (other, one)):
        await finished(sender, receiver, await flowing(sender, receiver))


async def flowing(sender: Process, receiver: Process) -> int:
    """A stream into which is poured, as fast as it takes it."""
    sender.do("open", to=receiver.address, name="flow")
    stream: int = (await sender.says_next("offered"))["stream"]
    await sender.says("opened", stream=stream)
    sender.do("flood", stream=stream)
    await receiver.says("progress", stream=stream)
    return stream


async def finished(sender: Process, receiver: Process, stream: int) -> None:
    """End the stream: what was received is what was poured."""
    sender.do("finish", stream=stream)
    poured = await sender.says("poured", stream=stream)
    received = await receiver.says("received", stream=stream)
    assert (received["count"], received["sum"]) == (poured["count"], poured["sum"])
    assert received["count"] > 0


async def heard_again(sender: Process, receiver: Process) -> None:
    """Of a sender that talks, something arrives that it says from now on."""
    sender.do("mark")
    number = (await sender.says_next("mark"))["number"]
    await receiver.until(
        lambda: [
            said for said in receiver.heard("unreliable", peer=sender.address) if int(said["data"]) > number
        ]
    )
