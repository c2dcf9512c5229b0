"""``dittobus version``: which one this is."""

from __future__ import annotations

from dittobus.cli import exits
from dittobus.cli.options import AsJson, command_app
from dittobus.cli.output import print_json, print_line

app = command_app()


@app.command()
def version(as_json: AsJson = False) -> int:
    """Print the version of DittoBus."""
    import importlib.metadata

    try:
        installed = importlib.metadata.version("dittobus")
    except importlib.metadata.PackageNotFoundError:
        return exits.complain("not installed, so it has no version; install it with pip install .")
    if as_json:
        print_json({"version": installed})
    else:
        print_line(installed)
    return exits.OK
