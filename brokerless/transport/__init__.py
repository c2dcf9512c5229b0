"""Links and datagrams on sockets: the only code of a node that touches ZeroMQ.

``Transport`` binds one ROUTER, dials each peer with a DEALER of its own, and tells a ``LinkSink`` what
happens. A link carries packets (opaque bytes) both ways between two proven CURVE keys until it breaks; it is
never mended, and what was under way when it broke is gone: sessions are the business of the layer above.
Datagrams are carried beside them, by UDP and by PUSH, and what becomes of them is never told.
"""

from __future__ import annotations

from brokerless.transport.binding import fits_ipc
from brokerless.transport.links import LinkSink
from brokerless.transport.transport import Transport

__all__ = ["LinkSink", "Transport", "fits_ipc"]
