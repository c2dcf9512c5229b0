"""Where the command ``dittobus`` begins: outside of the packages that it takes a moment to import.

Whoever presses Ctrl-C in that moment is to see no traceback either.
"""

INTERRUPTED = 130
"""What ``dittobus.cli.exits`` says, too, which may not have been imported yet."""


def main() -> int:
    """Run the command line and return the exit code."""
    try:
        from dittobus.cli import main as run

        return run()
    except KeyboardInterrupt:
        return INTERRUPTED
