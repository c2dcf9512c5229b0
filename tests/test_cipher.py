"""The cipher against the example of RFC 8439, and against changes."""

from __future__ import annotations

from brokerless.cipher import ChaChaCipher

# Section 2.8.2
KEY = bytes(range(0x80, 0xA0))
NONCE = bytes.fromhex("070000004041424344454647")
HEADER = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
PLAIN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
SEALED = bytes.fromhex(
    "d31a8d34648e60db7b86afbc53ef7ec2 a4aded51296e08fea9e2b5a736ee62d6 3dbea45e8ca9671282fafb69da92728b"
    "1a71de0a9e060b2905d6a5b67ecd3b36 92ddbd7f2d778b8c9803aee328091b58 fab324e4fad675945585808b4831d7bc"
    "3ff4def08e4b7a9de576d26586cec64b 6116 1ae10b594f09e26a7e902ecbd0600691"
)


def test_the_example_of_the_standard() -> None:
    cipher = ChaChaCipher(KEY)
    assert cipher.seal(NONCE, PLAIN, HEADER) == SEALED
    assert cipher.open(NONCE, SEALED, HEADER) == PLAIN


def test_what_was_not_sealed_so_does_not_open() -> None:
    cipher = ChaChaCipher(KEY)
    assert cipher.open(bytes(12), SEALED, HEADER) is None
    assert cipher.open(NONCE, SEALED, b"") is None
    assert cipher.open(NONCE, SEALED[:-1], HEADER) is None
    assert cipher.open(NONCE, b"", HEADER) is None
    assert ChaChaCipher(bytes(32)).open(NONCE, SEALED, HEADER) is None
