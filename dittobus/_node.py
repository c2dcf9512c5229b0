"""The one place where a face makes its node."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokerless import Event, Node, NodeConfig


on_made: Callable[[Node], None] | None = None
"""Called with every node that a bus of this process makes, before it starts: how tests get at its packets."""


def make_node(config: NodeConfig, on_events: Callable[[Sequence[Event]], None]) -> Node:
    """Return a node that is not started. Imported only now: it brings ZeroMQ and cryptography along."""
    from brokerless import Node

    node = Node(config, on_events)
    if on_made is not None:
        on_made(node)
    return node
