"""How fast a file comes by HTTP through ``dittobus tunnel``, beside a stream between two processes.

``python benchmarks/tunnel.py [--megabytes 200] [--json]``; needs curl. See README.md for how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dittobus.tunnel.relay import CHUNK_BYTES_MAX
from pair import InLoop, Pair, machine
from stream_rate import receive_dittobus, send_dittobus

ROUNDS = 5
ROUND_S = 60.0
"""No file takes longer; one that would is stuck."""
START_S = 15.0
WARM_UP_MESSAGES = 200


class Site:
    """An HTTP server, a tunnel to it by the command line, and curl."""

    def __init__(self, directory: Path, megabytes: int) -> None:
        self._processes = contextlib.ExitStack()
        self._megabytes = megabytes
        files, self._bus, secret = directory / "files", directory / "bus", directory / "secret"
        files.mkdir()
        self._bus.mkdir(mode=0o700)
        secret.write_text(f"hex:{secrets.token_hex(32)}\n")
        with (files / "file").open("wb") as file:
            for _ in range(megabytes):
                file.write(secrets.token_bytes(1_000_000))
        self._mesh = ["--mesh=benchmark", f"--secret-file={secret}", f"--directory={self._bus}"]
        self._mesh += ["--interface=127.0.0.1", "--discovery=registry", "--json"]
        serving = ["-u", "-m", "http.server", "--bind=127.0.0.1", f"--directory={files}", "0"]
        port = self._start(*serving).split()[5].decode()  # "Serving HTTP on 127.0.0.1 port …"
        self._command("expose", f"127.0.0.1:{port}", "--name=web")
        listening = self._command("-L", f"0:web:127.0.0.1:{port}")
        self.direct = f"http://127.0.0.1:{port}/file"
        self.tunnel = f"http://{listening['listen']}/file"

    def _command(self, *arguments: str) -> dict[str, Any]:
        """Start a side of the tunnel, and return what it says when it is ready."""
        ready: dict[str, Any] = json.loads(self._start("-m", "dittobus", "tunnel", *arguments, *self._mesh))
        return ready

    def _start(self, *arguments: str) -> bytes:
        """Start Python with these arguments, and return the first line that it prints."""
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen([sys.executable, *arguments], stdout=pipe, stderr=nowhere)
        self._processes.callback(process.wait, START_S)
        self._processes.callback(process.kill)
        assert process.stdout is not None
        self._processes.callback(process.stdout.close)
        return process.stdout.readline()

    def fetch(self, url: str) -> float:
        """Fetch the file, and return how many seconds it took."""
        curl = ["curl", "--silent", "--fail", "--output", "/dev/null", "--write-out", "%{size_download}"]
        began = time.monotonic()
        done = subprocess.run([*curl, url], stdout=subprocess.PIPE, timeout=ROUND_S, check=True)
        took_s = time.monotonic() - began
        assert int(done.stdout) == self._megabytes * 1_000_000
        return took_s

    def close(self) -> None:
        self._processes.close()


def measured(directory: Path, megabytes: int) -> dict[str, list[float]]:
    """Return the rates of the rounds in bytes a second, which took turns."""
    count = megabytes * 1_000_000 // CHUNK_BYTES_MAX
    stream = Pair("stream", CHUNK_BYTES_MAX, InLoop(receive_dittobus), InLoop(send_dittobus))
    rates: dict[str, list[float]] = {"stream": [], "tunnel": [], "direct": []}
    with contextlib.closing(Site(directory, megabytes)) as site:
        try:
            stream.start(directory / "pair", time.monotonic() + ROUNDS * ROUND_S)
            stream.play(WARM_UP_MESSAGES)
            for url in (site.direct, site.tunnel):
                site.fetch(url)
            for _ in range(ROUNDS):
                rates["stream"].append(count * CHUNK_BYTES_MAX / stream.play(count).length_s)
                rates["tunnel"].append(megabytes * 1_000_000 / site.fetch(site.tunnel))
                rates["direct"].append(megabytes * 1_000_000 / site.fetch(site.direct))
        finally:
            stream.stop()
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the file")
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    arguments = parser.parse_args()
    if shutil.which("curl") is None:
        print("curl is not installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="dittobus-") as directory:
        rates = measured(Path(directory), arguments.megabytes)
    medians = {name: statistics.median(rounds) for name, rounds in rates.items()}
    ratio = medians["tunnel"] / medians["stream"]
    if arguments.json:
        results = {name: {"bytes_per_s": round(medians[name]), "rounds": rates[name]} for name in rates}
        print(json.dumps({"machine": machine(), "results": results, "ratio": ratio}, indent=1))
        return 0
    print(*(f"{name} {value}" for name, value in machine().items()), sep=", ")
    print(f"{'':10}{'MB/s':>8}{'lowest':>8}{'highest':>8}{'x stream':>10}")
    for name, rounds in rates.items():
        figures = (medians[name], min(rounds), max(rounds))
        row = "".join(f"{rate / 1e6:8.0f}" for rate in figures)
        print(f"{name:10}{row}{medians[name] / medians['stream']:10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
