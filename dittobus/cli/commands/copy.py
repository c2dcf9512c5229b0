"""``dittobus copy``: files to a peer."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from dittobus import BusError, StreamRejected, StreamReset
from dittobus.cli import exits, offers
from dittobus.cli.options import AsJson, BusOptions, Timeout, command_app, with_options
from dittobus.cli.output import label, print_json, print_line, printable, seconds, size
from dittobus.cli.peer import find_peer
from dittobus.cli.progress import Bars
from dittobus.cli.running import beside, run

if TYPE_CHECKING:
    from dittobus.aio import Bus, Offer
    from dittobus.cli.files import Copied

app = command_app()


@app.command()
@with_options(BusOptions)
def copy(
    options: BusOptions,
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE... PEER:", help="What to copy, and to whom.", show_default=False),
    ] = None,
    listen: Annotated[bool, typer.Option("--listen", "-l", help="Take the files that others copy.")] = False,
    to: Annotated[
        Path, typer.Option(metavar="DIRECTORY", help="With --listen: where files go.", show_default=False)
    ] = Path(),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --listen: replace files that are there.")
    ] = False,
    count: Annotated[
        int, typer.Option("--count", "-c", metavar="NUMBER", min=0, help="With --listen: end after so many.")
    ] = 0,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> int:
    """Copy files to a peer, on which 'dittobus copy --listen' takes them.

    Whether they arrived as they were sent is checked by their SHA-256. The other side sees a file under its
    name once it is whole, and refuses one that is there already.
    """
    if listen:
        if what:
            raise exits.Failed("with --listen files come from others; --to says where to", exits.USAGE)
        if not to.is_dir():
            raise exits.Failed(f"{to}: no directory; make it first", exits.USAGE)
        return run(_receive(options, to, overwrite, count, as_json))
    if overwrite or count or to != Path():
        raise exits.Failed("--to, --overwrite and --count go with --listen, on the other side", exits.USAGE)
    paths, wanted = _asked(what or [])
    return run(_send(options, paths, wanted, timeout, as_json))


def _asked(what: list[str]) -> tuple[list[Path], str]:
    if len(what) < 2 or not what[-1].endswith(":") or what[-1] == ":":
        raise exits.Failed("say what to copy and to whom: dittobus copy FILE... PEER:", exits.USAGE)
    paths = [Path(name) for name in what[:-1]]
    for path in paths:
        if not path.is_file():
            raise exits.Failed(f"{path}: {_why_not(path)}", exits.USAGE)
    return paths, what[-1].removesuffix(":")


def _why_not(path: Path) -> str:
    if path.is_dir():
        return "no file; a directory can be packed: tar c DIRECTORY | dittobus cat PEER"
    if path.exists():
        return "no ordinary file; what comes out of a pipe goes to: dittobus cat PEER"
    return "no such file"


async def _send(
    options: BusOptions,
    paths: list[Path],
    wanted: str,
    timeout: float,  # noqa: ASYNC109 - it is told to the bus
    as_json: bool,
) -> int:
    from dittobus.cli.files import reason_of, send_file

    code = exits.OK
    async with options.bus("copy") as bus:
        peer = await find_peer(bus, wanted, timeout)
        for path in paths:
            begun = perf_counter()
            try:
                with Bars() as bars:
                    copied = await send_file(bus, peer, path, timeout, partial(bars.update, path))
            except (StreamRejected, StreamReset) as error:  # one file not taken does not stop the others
                code = exits.complain(f"{path}: {label(peer)} says: {reason_of(error)}", exits.code_of(error))
            except BusError:
                raise
            except (exits.Failed, OSError) as error:  # nor does one that is gone by now, or changes
                code = exits.complain(exits.line_of(error), exits.code_of(error))
            else:
                _print(copied, perf_counter() - begun, f"to {label(peer)}", str(peer.address), as_json)
    return code


async def _receive(options: BusOptions, directory: Path, overwrite: bool, count: int, as_json: bool) -> int:
    async with options.listening() as bus:
        with Bars() as bars:
            taker = _Taker(bus, directory, overwrite, count, as_json, bars)
            await beside(taker.has_ended(), taker.take_all())
    return exits.OK


class _Taker:
    """Takes files, as many at a time as come."""

    def __init__(
        self, bus: Bus, directory: Path, overwrite: bool, count: int, as_json: bool, bars: Bars
    ) -> None:
        self._bus = bus
        self._directory = directory
        self._overwrite = overwrite
        self._count = count
        self._as_json = as_json
        self._bars = bars
        self._taken = 0
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def has_ended(self) -> None:
        """Wait until as many files as wanted have come, or nobody reads any more of them."""
        await self._end

    async def take_all(self) -> None:
        """Take what is offered, until cancelled."""
        taking: set[asyncio.Task[None]] = set()
        try:
            async for offer in offers.other_offers(self._bus):
                task = asyncio.create_task(self._take(offer))
                taking.add(task)
                task.add_done_callback(taking.discard)
        finally:
            for task in taking:
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)

    async def _take(self, offer: Offer) -> None:
        from dittobus.cli.files import STREAM, Refusal, reason_of, receive_file

        if offer.name != STREAM:
            await offer.reject(reason="'dittobus copy' takes files only")
            return
        sender = self._bus.peer(offer.peer)
        name = offer.peer.short if sender is None else label(sender)
        begun = perf_counter()
        try:
            copied = await receive_file(
                offer, self._directory, self._overwrite, partial(self._bars.update, offer)
            )
            _print(copied, perf_counter() - begun, f"from {name}", str(offer.peer), self._as_json)
        except (Refusal, BusError) as error:
            exits.complain(f"a file from {name} was not taken: {reason_of(error)}")
        except Exception as error:  # such as that nobody reads what is printed
            self._finish(error)
        else:
            self._taken += 1
            if self._taken == self._count:
                self._finish(None)
        finally:
            self._bars.end(offer)

    def _finish(self, error: Exception | None) -> None:
        if self._end.done():
            return
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)


def _print(copied: Copied, took_s: float, whose: str, address: str, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "file": copied.name,
                "bytes": copied.bytes,
                "seconds": took_s,
                "sha256": copied.sha256,
                "peer": address,
            }
        )
    else:
        rate = f"{size(copied.bytes)} in {seconds(took_s)}, {size(copied.bytes / max(took_s, 1e-9))}/s"
        print_line(f"{printable(copied.name)} {whose}: {rate}, SHA-256 {copied.sha256}")
