"""The one place where a face makes its node."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokerless import Event, Node, NodeConfig


def make_node(config: NodeConfig, on_events: Callable[[Sequence[Event]], None]) -> Node:
    """Return a node that is not started. Imported only now: it brings ZeroMQ and cryptography along."""
    from brokerless import Node

    return Node(config, on_events)
