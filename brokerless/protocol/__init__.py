"""The pure core: bytes, events and deadlines in and out; no sockets, clock or randomness of its own."""
