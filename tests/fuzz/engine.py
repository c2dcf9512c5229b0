"""One target under atheris, with libFuzzer's own options: ``python -m tests.fuzz.engine NAME [option…]``."""

from __future__ import annotations

import sys
import tracemalloc

import atheris

with atheris.instrument_imports(include=["brokerless"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv[1]]
    tracemalloc.start()  # targets look at what was allocated
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
