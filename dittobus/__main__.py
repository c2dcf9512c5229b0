"""``python -m dittobus``: the same as the command ``dittobus``."""

from dittobus_command import main

if __name__ == "__main__":
    raise SystemExit(main())
