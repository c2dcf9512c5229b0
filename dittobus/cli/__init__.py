"""The command ``dittobus``: see, try, measure and use a mesh.

Built on ``dittobus.aio``, with no protocol of its own. Data goes to stdout, everything else to stderr. A
command is a module of ``dittobus.cli.commands``, imported when it is asked for, and imports what it needs
when it runs, so that asking for help takes no time.
"""

from dittobus.cli.app import main

__all__ = ["main"]
