"""The one cipher of datagrams, for the core that is handed it."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


class ChaChaCipher:
    """ChaCha20-Poly1305 (RFC 8439) under one key of 32 bytes; a ``brokerless.protocol.datagram.Cipher``."""

    __slots__ = ("_decrypt", "seal")

    def __init__(self, key: bytes) -> None:
        aead = ChaCha20Poly1305(key)
        self.seal = aead.encrypt
        """Bound as it is: one call less on the way of each datagram."""
        self._decrypt = aead.decrypt

    def open(self, nonce: bytes, sealed: bytes, header: bytes, /) -> bytes | None:
        """Return the plain bytes, or None if one bit of all this is not what was sealed."""
        try:
            return self._decrypt(nonce, sealed, header)
        except InvalidTag:
            return None
