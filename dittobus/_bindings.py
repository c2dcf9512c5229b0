"""Handlers by the name of a stream, the same for every face."""

from __future__ import annotations

from typing import Generic, TypeVar

from brokerless import ConfigError, Limits
from dittobus._arguments import checked_name

LONGEST = Limits()
"""The names that any peer may give to a stream."""

Handler = TypeVar("Handler")


class Bindings(Generic[Handler]):
    """Which handler takes streams of which name. Empty: bindings are not used, and offers go elsewhere."""

    REJECT_CODE = 404
    """Of the rejection of a stream whose name nobody has bound, as HTTP has taught it."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def bind(self, name: str, handler: Handler) -> None:
        """Give streams of that name to ``handler``; a name has one."""
        checked_name(name, LONGEST)
        if not callable(handler):
            raise TypeError(f"handler: expected a callable, got {type(handler).__name__}")
        if name in self._handlers:
            raise ConfigError(f"name: streams named {name!r} have a handler already")
        self._handlers[name] = handler

    def get(self, name: str) -> Handler | None:
        """Return the handler of streams of that name."""
        return self._handlers.get(name)

    def refusal(self, name: str) -> str:
        """Say why a stream of that name is rejected."""
        return f"nothing here takes streams named {name!r}"
